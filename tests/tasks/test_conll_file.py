"""CoNLL files as they come: each variant is read as what it means and told with its count, or refused with its line."""

import hashlib
import json
import re
import time
from contextlib import suppress

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.rows import FileRows
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.conll_columns import INVISIBLE
from kd_scratch.tasks.conll_file import Example, read_conll
from kd_scratch.training.examples import draw

SMALL = "EU NNP B-ORG\nrejects VBZ O\nGerman JJ B-MISC\n\nPeter NNP B-PER\nBlackburn NNP I-PER\n"
WORDS = [("EU", "rejects", "German"), ("Peter", "Blackburn")]
TAGS = [("B-ORG", "O", "B-MISC"), ("B-PER", "I-PER")]
TABS = SMALL.replace(" ", "\t")
TWO = re.sub(r" [A-Z]+ ", " ", SMALL)  # word and tag
COMMAS = TWO.replace(" ", ",")
SPREADSHEET = (
    "Sentence #,Word,POS,Tag\nSentence: 1,EU,NNP,B-ORG\n,rejects,VBZ,O\n,German,JJ,B-MISC\n"
    "Sentence: 2,Peter,NNP,B-PER\n,Blackburn,NNP,I-PER\n"
)


def numbered(text: str, start: int = 1, restart: bool = True, separator: str = " ") -> str:
    """The lines with an index column in front."""
    lines, number = [], start
    for line in text.rstrip("\n").split("\n"):
        lines.append(f"{number}{separator}{line}" if line else "")
        number = number + 1 if line else start if restart else number
    return "\n".join(lines) + "\n"


def ids(text: str, form: str, separator: str = " ") -> str:
    """The lines with ids in front: of the sentence, of the word in it, and where it begins and ends in the file."""
    sentences, place = [], 0
    for i, sentence in enumerate(text.rstrip("\n").split("\n\n"), 1):
        rows = []
        for j, line in enumerate(sentence.split("\n"), 1):
            end = place + len(re.split("[ \t]", line)[0])
            rows.append(form.format(i, j, place, end) + separator + line)
            place = end + 1
        sentences.append("\n".join(rows))
    return "\n\n".join(sentences) + "\n"


def behind(text: str, more: str) -> str:
    """The lines with more columns behind them."""
    return re.sub(r"(?m)(?<=.)$", more, text)


def read(tmp_path, content: str | bytes, **data) -> tuple[list[Example], list[str]]:
    """The examples, and what is said, without the path."""
    path = tmp_path / "x.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes = []
    examples = read_conll(path, "", DataConfig(**data), say=notes.append)
    return examples, [note.removeprefix(f"{path}: ") for note in notes]


COMMENTS = ["comments left out: 2"]
APART = "is one document; each of its sentences is drawn by itself"
INDEX = ["column 1 counts the words, column 2 has them, column 4 the tags"]
OFFSETS = ["columns 1 to 2 count the words, column 3 has them, column 5 the tags"]
UNSEEN = ["invisible characters alone on a line, taken for a blank one: 1"]
MARK = ["byte-order marks in front of a word, left out: 1"]
#: Files of the same two sentences, and what is said.
SAME = {
    "four columns": (behind(SMALL.replace(" ", " x "), ""), []),
    "a byte-order mark at the end": (SMALL + "\n\ufeff", UNSEEN),
    "a zero-width space between": (SMALL.replace("\n\n", "\n\u200b\n"), UNSEEN),
    "a no-break space between": (SMALL.replace("\n\n", "\n \u00a0\n"), UNSEEN),
    "a form feed between": (SMALL.replace("\n\n", "\n\f\n"), UNSEEN),
    "an old end of file": (SMALL + "\x1a", UNSEEN),
    "a mark in the middle": (SMALL.replace("Peter", "\ufeffPeter"), MARK),
    "two marks at the start": ("\ufeff\ufeff" + SMALL, MARK),
    "a no-break space behind a tag": (SMALL.replace("I-PER", "I-PER\u00a0"), [
        "invisible characters behind a tag, left out: 1"]),
    "tabs at the ends": (behind(TABS, "\t"), []),
    "blanks at the ends": (behind(SMALL, " \t "), []),
    "CR": (SMALL.replace("\n", "\r"), []),
    "CR CR LF": (SMALL.replace("\n", "\r\r\n"), []),
    "UTF-16": (SMALL.encode("utf-16"), ["read as UTF-16"]),
    "comments": ("# text = EU B-ORG\n" + SMALL.replace("\n\n", "\n\n# sent_id = 2\n"), COMMENTS),
    "comments that look like words": ("# EU O\n" + TABS.replace("\n\n", "\n\n# id\tdomain=en\n"), COMMENTS),
    "an index": (numbered(SMALL), INDEX),
    "an index in tabs": (numbered(TABS, separator="\t"), INDEX),
    "an index over the file": (numbered(SMALL, 0, restart=False), INDEX),
    "an index in documents": ("-DOCSTART- O\n\n" + numbered(SMALL), [*INDEX, APART]),
    "an index and comments": ("# 1\tx\n# 2 x\n" + numbered(TABS, separator="\t"), [*INDEX, *COMMENTS]),
    "a comment within a sentence": (SMALL.replace("German", "# annotator: not sure\nGerman"), ["comments left out: 1"]),
    "a comment of two words": (TWO.replace("German", "# annotator\nGerman"), ["comments left out: 1"]),
    "ids of sentence and word": (ids(SMALL, "{}.{}"), INDEX),
    "ids with letters": (ids(TABS, "s{}-t{}", "\t"), INDEX),
    "ids and offsets": (ids(TABS, "{}-{}\t{}-{}", "\t"), OFFSETS),
    "ids and a heading of one word": ("#Text=EU\n" + ids(TABS, "{}-{}", "\t"), [*INDEX, "comments left out: 1"]),
    "ids, sentence and place": (ids(TABS, "d1\t{}\t{}", "\t"), [
        "columns 1 to 3 count the words, column 4 has them, column 6 the tags"]),
    "quotes around all cells": (re.sub(r"[^\t\n]+", r'"\g<0>"', TABS), ["quotes enclose cells, as in CSV"]),
    "commas": (COMMAS, ["columns are parted by commas"]),
    "semicolons": (TWO.replace(" ", ";"), ["columns are parted by semicolons"]),
    "a header": ("word pos tag\n" + SMALL, ["line 1 is a header; words are in 'word', tags in 'tag'"]),
    "a header in another order": (
        "Tag\tToken\n" + re.sub(r"(?m)^(\S+) (\S+)$", r"\2\t\1", TWO),
        ["line 1 is a header; words are in 'Token', tags in 'Tag'"]),
    "a spreadsheet": (SPREADSHEET, ["columns are parted by commas; line 1 is a header; words are in 'Word', tags in "
                                    "'Tag'; a new 'Sentence #' begins a sentence"]),
    "tags in small letters": (re.sub("[BI]-|O$", lambda m: m[0].lower(), SMALL, flags=re.M), [
        "tags written otherwise, as in b-ORG for B-ORG: 5"]),
    "tags with underscores": (SMALL.replace("-", "_"), ["tags written otherwise, as in B_ORG for B-ORG: 4"]),
    "letters behind types": (re.sub(r"([BI])-(\w+)", r"\2-\1", SMALL), [
        "tags written otherwise, as in ORG-B for B-ORG: 4"]),
    "letters behind types, a header and commas": (
        "w,ne\n" + re.sub(r"([BI])-(\w+)", r"\2_\1", COMMAS),
        ["columns are parted by commas; line 1 is a header; words are in 'w', tags in 'ne'",
         "tags written otherwise, as in ORG_B for B-ORG: 4"]),
    "IOBES": (SMALL.replace("B-ORG", "S-ORG").replace("B-MISC", "S-MISC").replace("I-PER", "E-PER"), []),
    "BILOU": (SMALL.replace("B-ORG", "U-ORG").replace("B-MISC", "U-MISC").replace("I-PER", "L-PER"), []),
    "IOB1": (SMALL.replace("B-", "I-"), []),
    "types alone": (SMALL.replace("B-", "").replace("I-", "") + "\n. . O\n. . O\n", [
        "tags are types without B- and I-; neighbours of one type are one entity"]),
    "JSON lines": ("".join(json.dumps({"id": 1, "tokens": w, "ner_tags": t}) + "\n"
                           for w, t in zip(WORDS, TAGS, strict=True)), []),
    "JSON lines with letters behind types": (
        '{"tokens": ["EU", "rejects", "German"], "tags": ["ORG-B", "O", "MISC-B"]}\n'
        '{"tokens": ["Peter", "Blackburn"], "tags": ["PER-B", "PER-I"]}\n',
        ["tags written otherwise, as in ORG-B for B-ORG: 4"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_files_that_mean_the_same_are_read_the_same(tmp_path, name):
    content, said = SAME[name]
    examples, notes = read(tmp_path, content)
    assert [example.words for example in examples[:2]] == WORDS
    assert [example.tags for example in examples[:2]] == TAGS
    assert notes == said


@pytest.mark.parametrize("b", ["B", ""])
def test_sentences_may_be_numbered_anew_in_each_document(tmp_path, b):
    text = f"doc,sentence_id,word,tag\nA,1,Ada,B-PER\n,,flew,O\nB,1,Ada,B-PER\n{b},2,she,O\n"
    examples, said = read(tmp_path, text)
    assert [example.words for example in examples] == [("Ada", "flew"), ("Ada",), ("she",)]
    assert "a new 'doc' or 'sentence_id' begins a sentence" in said[0]
    of_a, *of_b = [example.document for example in examples]
    assert len(set(of_b)) == 1 and of_a not in of_b, "a new one begins a document, too"


def test_a_printed_list_may_be_a_word(tmp_path):
    examples, _ = read(tmp_path, "split B-Func\nof O\n['a','b'] B-Value\n")
    assert examples[0].words == ("split", "of", "['a','b']")


def test_a_number_sign_may_be_a_word_at_any_place(tmp_path):
    examples, said = read(tmp_path, "# O\n1 O\n\n# O\n# O\n\n#tag B-X\n")
    assert [e.words for e in examples] == [("#", "1"), ("#", "#"), ("#tag",)] and not said
    with pytest.raises(UserError, match="line 3: has 3 columns, the lines before it 2"):
        read(tmp_path, "a O\n\nb x O\n# c d e O\n")
    with pytest.raises(UserError, match="line 2: a comment within a sentence"):
        read(tmp_path, "a O\n# no a comment\n# O\n")  # within a sentence, where a word begins with #
    with pytest.raises(UserError, match="line 3: has no tag"):
        read(tmp_path, "a O\n\n#tag\n")


def test_words_that_are_numbers_are_no_index(tmp_path):
    for words in (["1", "3"], ["2", "1"], ["1", "x"], ["1", "2", "2"]):
        [example], said = read(tmp_path, "".join(f"{word} CD O\n" for word in words))
        assert list(example.words) == words and not said
    [example], said = read(tmp_path, "1 O\n2 O\n")  # two columns: there is no other word
    assert example.words == ("1", "2") and not said


def test_hashtags_with_a_bare_type_are_words(tmp_path):
    [first, second], said = read(tmp_path, "#Rome LOC\nis O\na O\n\nin O\nRome LOC\nto O\n#Rome LOC\nis O\n")
    assert (first.words[0], second.words[3]) == ("#Rome", "#Rome") and len(said) == 1


@pytest.mark.parametrize("line", ["-DOCSTART- -X- -X- O", "-DOCSTART-", "-DOCSTART-\t_\t_", "- DOCSTART - O",
                                  "DOCSTART O", "-docstart- O", "--DOCSTART-- x", "0 -DOCSTART- O", "# newdoc id = 3",
                                  "#begin document (a); part 0", "###MEDLINE:95369245"])  # fmt: skip
def test_a_document_may_begin_in_many_spellings(tmp_path, line):
    examples, said = read(tmp_path, f"{line}\n\n{SMALL}\n{line}\n\nA x O\n")
    assert [(e.words[0], e.document) for e in examples] == [("EU", "x.txt:1"), ("Peter", "x.txt:1"), ("A", "x.txt:10")]
    official = "-DOCSTART-" in re.split("[ \t]", line)
    assert said == [] if official else len(said) == 1 and said[0].endswith(": 2")


def test_of_a_file_with_a_single_document_sentences_are_drawn(tmp_path):
    """As annotation tools export it. With --documents its sentences see each other, and stay together."""
    one = f"-DOCSTART- -X- O\n\n{SMALL}"
    examples, said = read(tmp_path, one)
    assert [e.document for e in examples] == [e.id for e in examples] and len(said) == 1
    assert draw(TASKS["conll"], examples, "50%", "--dev").sum() == 1
    whole, said = read(tmp_path, one, documents=True)
    assert [e.document for e in whole] == ["x.txt:1"] * 2 and said == []


def test_quotes_and_commas_are_words_in_a_file_of_commas(tmp_path):
    examples, _ = read(tmp_path, COMMAS + '",",O\n"""",O\n"New York",B-LOC\n')
    assert examples[1].words == ("Peter", "Blackburn", ",", '"', "New York")
    examples, _ = read(tmp_path, COMMAS + '",O\n')  # written without quoting
    assert examples[1].words == ("Peter", "Blackburn", '"')


def test_quotes_doubled_by_a_csv_writer_are_one_word(tmp_path):
    for separator in "\t ":
        written = f'""""{separator}O\n5"{separator}O\n'
        for content, words in ((written.replace('5"', '"5"""'), ('"', '5"')), (written, ('""""', '5"'))):
            examples, said = read(tmp_path, TWO.replace(" ", separator) + content)
            assert examples[1].words == ("Peter", "Blackburn", *words)
            assert said == (["quotes enclose cells, as in CSV"] if words[0] == '"' else [])


GERMEVAL = "#\thttp://example.org [2009-10-17]\n" + behind(numbered(TWO.replace(" ", "\t"), separator="\t"), "\tO")


def test_columns_are_chosen_by_number_or_by_name(tmp_path):
    inner, said = read(tmp_path, GERMEVAL)
    assert [e.words for e in inner] == WORDS and {tag for e in inner for tag in e.tags} == {"O"}
    nested = "tags are those of column 4; column 3 has some too"
    assert said == [*INDEX, nested, "comments left out: 1"], "which column was taken is said"
    outer, said = read(tmp_path, GERMEVAL, label_column="3")
    assert said[0] == "column 1 counts the words, column 2 has them, column 3 the tags"
    assert [e.words for e in outer] == WORDS and [e.tags for e in outer] == TAGS
    with pytest.raises(
        UserError, match="line 2: word and tag are both column 2; choose another one with --text-column"
    ):
        read(tmp_path, GERMEVAL, label_column="2")
    uner = behind(numbered(TWO.replace(" ", "\t"), separator="\t"), "\t-\t-")
    with pytest.raises(UserError, match="line 1: tag '-' is not O.*as in --label-column 3"):
        read(tmp_path, uner)
    assert [e.tags for e in read(tmp_path, uner, label_column="3")[0]] == TAGS
    for flags in ({}, {"label_column": "2"}, {"label_column": "ne"}, {"text_column": "Word_Form"}, {"header": "yes"}):
        unusual = "Word_Form,ne\n" + TWO.replace(" ", ",")
        found, said = read(tmp_path, unusual, **flags)
        assert [(e.words, e.tags) for e in found] == list(zip(WORDS, TAGS, strict=True)), flags
        assert "line 1 is a header; words are in 'Word_Form', tags in 'ne'" in said[0]
    commas = "However O RB\n, O ,\nEU B-ORG NNP\nsaid O VBD\n"
    assert read(tmp_path, commas, label_column="2")[0][0].words == ("However", ",", "EU", "said")
    with pytest.raises(UserError, match="line 1: tag 'Org' is not O"):
        read(tmp_path, "EU Org\nsaid O\nPeter B-PER\n", header="no")
    for bare in ("EU person\n" + "x O\n" * 4, re.sub("[BI]-", "", TWO).replace("ORG", "person", 1) + "x O\n" * 4):
        assert read(tmp_path, bare)[0][0].words[0] == "EU", "a type is no name of a column"
    named = "a b c\n" + SMALL
    assert [e.words for e in read(tmp_path, named, text_column="a", label_column="c")[0]] == WORDS
    assert read(tmp_path, numbered(SMALL), text_column="1")[0][0].words == ("1", "2", "3")
    with pytest.raises(UserError, match="line 1: has 3 columns; --label-column 4: choose one from 1 to 3"):
        read(tmp_path, SMALL, label_column="4")
    with pytest.raises(UserError, match="line 1: --label-column 'ner': no header has that name; choose"):
        read(tmp_path, SMALL, label_column="ner")


def test_json_lines_stay_in_their_file_whatever_the_scheme(tmp_path):
    rows = [{"words": ["New", "York", "is"], "tags": ["b-LOC", "e-LOC", "O"]}, {"words": [], "tags": []},
            {"words": ["Paris"], "tags": ["S-LOC"]}]  # fmt: skip
    examples, said = read(tmp_path, "\n".join(map(json.dumps, rows)))
    assert isinstance(examples, FileRows) and list(examples) == [
        Example("x.txt:1", ("New", "York", "is"), ("B-LOC", "I-LOC", "O"), "x.txt:1", "IOBES"),
        Example("x.txt:3", ("Paris",), ("B-LOC",), "x.txt:3", "IOBES"),
    ]
    assert said == ["sentences without words, left out: 1", "tags written otherwise, as in b-LOC for B-LOC: 2"]


def test_tags_that_are_numbers_are_named_by_a_flag(tmp_path):
    content = '{"w": ["Ada", "slept"], "t": [1, 0]}\n'
    chosen = dict(text_column="w", label_column="t")
    with pytest.raises(UserError, match="line 1: tag 1: tags are numbers; name them in the order of their numbers"):
        read(tmp_path, content, **chosen)
    with pytest.raises(UserError, match="line 1: tag 1: --tag-names has 1"):
        read(tmp_path, content, tag_names="O", **chosen)
    for same in (content, content.replace("[1, 0]", '["1", "0"]'), "Ada\t1\nslept\t0\n"):
        for names in ("O,B-PER,I-PER", "O, B-PER, I-PER"):
            [example], _ = read(tmp_path, same, tag_names=names, **(chosen if same[0] == "{" else {}))
            assert example.tags == ("B-PER", "O")
    [example], _ = read(tmp_path, "Ada\t2\nslept\t0\n", tag_names="O,,B-PER,")
    assert example.tags == ("B-PER", "O")
    with pytest.raises(UserError, match="line 1: tag 3: --tag-names has 2"):
        read(tmp_path, "Ada\t3\n", tag_names="O,B-PER")
    [example], _ = read(tmp_path, "Ada\t0000000001\n", tag_names="O,B-PER")
    assert example.tags == ("B-PER",)
    with pytest.raises(UserError, match="line 1: tag 1000000000001: --tag-names has 2"):
        read(tmp_path, "Ada\t1000000000001\n", tag_names="O,B-PER")


#: Files that cannot be read -> their line.
def test_tags_of_letters_alone_are_those_of_one_type(tmp_path):
    path, notes = tmp_path / "x.tsv", []
    path.write_text("IL-2\tB\ngene\tI\nis\tO\n\n#tag\tB\n")
    examples = read_conll(path, "", DataConfig(), notes.append)
    assert [example.words for example in examples] == [("IL-2", "gene", "is"), ("#tag",)]
    assert [example.tags for example in examples] == [("B-ENTITY", "I-ENTITY", "O"), ("B-ENTITY",)]
    assert notes == [f"{path}: tags written otherwise, as in B for B-ENTITY: 3"]


def test_a_list_of_words_counts_before_a_text_and_one_of_tags_before_a_label(tmp_path):
    row = {"text": "EU rejects", "tokens": ["EU", "rejects"], "label": "news", "ner_tags": ["B-ORG", "O"]}
    found, _ = read(tmp_path, json.dumps(row) + "\n")
    assert (found[0].words, found[0].tags) == (("EU", "rejects"), ("B-ORG", "O"))


UNTAGGED = {  # file -> the words of its sentences, and whether they share a document
    "columns.txt": (f"-DOCSTART- -X- O\n\n{SMALL}", WORDS, True),
    "of train's columns.txt": (SMALL, WORDS, False),
    "words.jsonl": ("".join(json.dumps({"tokens": words, "text": "no"}) + "\n" for words in WORDS), WORDS, False),
    "texts.txt": ("EU rejects it.\nPeter is here\n", [("EU", "rejects", "it", "."), ("Peter", "is", "here")], False),
    "texts.csv": ("label,text\n1,EU rejects\n", [("EU", "rejects")], False),
}


@pytest.mark.parametrize("name", UNTAGGED)
def test_sentences_without_tags_are_read_of_any_file_of_sentences(tmp_path, name):
    content, words, together = UNTAGGED[name]
    (tmp_path / name).write_text(content)
    data = DataConfig(label_column="gold" if "train" in name else "label")
    found = list(TASKS["conll"].read_unlabelled(tmp_path / name, data, print, "--unlabelled"))
    assert [example.words for example in found] == [tuple(each) for each in words]
    assert all(tag is None for example in found for tag in example.tags)
    assert (len({example.document for example in found}) == 1) == (together or len(found) == 1)


def test_a_line_without_words_among_such_with_lists_is_refused_with_its_number(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"]}\n{"tags": ["O"]}\n')
    with pytest.raises(UserError, match="line 2: words must be a list under tokens or words"):
        TASKS["conll"].read_unlabelled(tmp_path / "a.jsonl", DataConfig(), print, "--unlabelled")


REFUSED = {
    "a word alone": (SMALL.replace("rejects VBZ O", "rejects"), "line 2: has no tag"),
    "a column less": (SMALL.replace("rejects VBZ O", "rejects O"), "line 2: has 2 columns, the lines before it 3"),
    "parts of speech": (TWO.replace("B-ORG", "NNP").replace("O\n", "VBZ\n"), "line 1: tag 'NNP' is not O, nor B-"),
    "types among tags": (SMALL.replace("B-MISC", "MISC"), "line 3: tag 'MISC' is not O, nor B-"),
    "an underscore for O": (SMALL.replace(" O", " _"), "line 2: tag '_' is not O"),
    "a tag without type": ("a O\nb B-\n", "line 2: tag 'B-' is not O"),
    "no word": (TABS.replace("EU", ""), "line 1: has no word in its first column"),
    "no word in another column": (SPREADSHEET.replace("rejects", ""), "line 3: has no word in column 2"),
    "a line end within": ("a O\rb O\nc O\n", "line 1: holds a carriage return"),
    "a JSON array that was cut": ('[\n{"tokens": ["a"], "tags": ["O"]},\n{', "line 3: the array does not end; was"),
    "lists as numpy prints them": ("id,tokens,ner_tags\n0,['EU' 'rejects'],[3 0]\n", "line 2: holds a whole sentence"),
    "lists in lines": ("id,tokens,ner_tags\n0,\"['EU' 'it'\n 'Peter']\",\"[3 0\n 1]\"\n", "line 2: holds a whole sen"),
    "lists as Python prints them": (
        """id,tokens,ner_tags\n0,"['EU', 'it']","['B-ORG', 'O']"\n""", "line 2: holds a whole sentence in a cell"),
    "sentences in cells": ("text\ttags\nEU rejects it\tB-ORG O O\n", "line 2: holds a whole sentence in a cell; write"),
    "JSON without words": ('{"text": "a b", "tags": ["O"]}\n', "line 1: words must be a list under tokens or words"),
    "JSON without tags": ('{"tokens": ["a"]}\n', "line 1: tags must be a list under ner_tags or tags"),
    "JSON with a word less": ('{"tokens": ["a"], "tags": ["O", "O"]}\n', "line 1: has 1 words and 2 tags"),
    "JSON with a number for a word": ('{"tokens": [1], "tags": ["O"]}\n', "line 1: word '1' must be a string"),
    "JSON with an empty word": ('{"tokens": ["a", ""], "tags": ["O", "O"]}\n', "line 1: word 2 is blank; delete it"),
    "JSON with a blank word": ('{"tokens": [" "], "tags": ["O"]}\n', "line 1: word 1 is blank; delete it and its tag"),
    "JSON with null for a tag": ('{"tokens": ["a"], "tags": [null]}\n', "line 1: tag 'None' must be a string or"),
    "JSON with an odd tag": ('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"], "tags": ["?"]}\n', "line 2: tag '?'"),
    "JSON that ends": ('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"]', "line 2: not JSON"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0 O\n", "line 1: "),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(UserError) as refusal:
        read(tmp_path, content)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_what_counts_as_invisible_can_really_not_be_seen():
    assert all(not character.isprintable() or character == " " for character in INVISIBLE)
    assert {"\ufeff", "\u200b", "\u00a0", "\f", "\t", "\x1a"} <= set(INVISIBLE)


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("train", 14041, "7754237f012dc91845a154f7c7cb679d"),
        ("valid", 3250, "01a28953387f88744409374ab4a0b5cc"),
        ("test", 3453, "4fff1f0622bc6b10af8d8394dab9af32"),
    ],
)
def test_a_real_file_is_read_as_it_always_was(real_data, name, count, digest):
    said = []
    examples = read_conll(real_data(f"conll2003/{name}.txt"), "", DataConfig(), say=said.append)
    content = "\n".join(map(repr, examples)).encode()
    assert len(examples) == count and hashlib.sha256(content).hexdigest().startswith(digest) and not said


def test_where_all_columns_count_the_first_has_the_words(tmp_path):
    """Numbers can be words, as in a table of results; preflight asks."""
    examples, _ = read(tmp_path, "1 1 O\n2 2 O\n\n1 1 O\n2 2 O\n")
    assert [example.words for example in examples] == [("1", "2")] * 2


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("1\tEU\tB-ORG\tO\n2\tsagt\tO\tO\n", "tags are those of column 4; column 3 has some too"),
        ("EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n", ""),  # chunks are no entities
        ("EU O B-ORG\nrejects O O\n", ""),  # a column of O alone says nothing
        ("EU B-ORG x B-ORG\nrejects no x O\n", ""),
    ],
)
def test_a_second_column_of_tags_is_told(tmp_path, text, others):
    _, said = read(tmp_path, text)
    assert [line for line in said if "some too" in line] == ([others] if others else [])


PLACEHOLDERS = {
    "MultiCoNER's test file": "# id 1 domain=en\nEU _ _ _\nrejects _ _ _\n\n# id 2 domain=en\nPeter _ _ _\n",
    "two columns": "EU -\nrejects -\n\nPeter -\n",
    "CoNLL-U without tags": "# id 1\n1\tEU\t_\tX\t_\n2-3\tdel\t_\t_\t_\n2\trejects\t_\tX\tA=b\n\n1\tPeter\t_\tX\t_\n",
    "parts of speech": "EU\tNNP\nrejects\tVBZ\n\nPeter\tNNP\n",
    "blanks in cells": "# x\n1\tEU\t10 000\tX\tA\n2\trejects\t_\tX\tA\n\n1\tPeter\t_\tX\tB=a b\n",
    "parts of speech behind a blank": "EU NNP\nrejects VBZ\n\nPeter NNP\n",
}  # fmt: skip


@pytest.mark.parametrize("name", PLACEHOLDERS)
def test_columns_without_tags_are_words_beside_train(tmp_path, name):
    (tmp_path / "x.txt").write_text(PLACEHOLDERS[name])
    notes = []
    found = TASKS["conll"].read_unlabelled(tmp_path / "x.txt", DataConfig(), notes.append, "--unlabelled")
    assert [example.words for example in found] == [("EU", "rejects"), ("Peter",)]
    holds_tags = name not in ("MultiCoNER's test file", "two columns")  # but for what stands for none
    assert any("no tags; each line is a word" in note for note in notes) == holds_tags


@pytest.mark.parametrize(
    "text",
    [
        "EU rejects\tit now\nPeter\tgoes\n\nA\tb\n",
        "EU\tnow\nPeter\tgoes\n",
        "EU now\nPeter goes\n",
        "EU rejects it\nPeter goes\n\nA b\n",
        "EU rejects\n\nPeter goes\n",
        "1\tEU rejects\tx\n\n2\tPeter goes\ty\n",
        "id\ttext here\n17\tAnna lives\n\n18\tBob too\n",
        "Qui est Jean ?\nComment ?\n",
        "Comment ça va -",
    ],
)
def test_texts_with_tabs_are_texts_beside_train(tmp_path, text):
    (tmp_path / "x.txt").write_text(text)
    found = TASKS["conll"].read_unlabelled(tmp_path / "x.txt", DataConfig(), print, "--unlabelled")
    assert len(found) == sum(map(bool, text.split("\n")))


def test_brackets_and_blanks_may_be_words(tmp_path):
    examples, _ = read(tmp_path, "[sic]\tO\n[\tO\n['\tO\n10 000\tO\n['x'\tO\n")
    assert examples[0].words == ("[sic]", "[", "['", "10 000", "['x'")


def test_tokens_of_several_words_are_left_out(tmp_path):
    """Of CoNLL-U: 2-3 is written as the words 2 and 3 below it, 1.1 is not in the text."""
    examples, said = read(tmp_path, "1\tVi\tO\n2-3\tal\tO\n2\ta\tO\n3\tRey\tB-PER\n\n1\tVi\tO\n1.1\t_\tO\n2\tb\tO\n")
    assert [example.words for example in examples] == [("Vi", "a", "Rey"), ("Vi", "b")]
    assert any("tokens of several words, or of none (2-3, 2.1), left out: 2" in line for line in said)
    chosen, _ = read(tmp_path, "1\tVi\tO\n2-3\tal\tO\n2\ta\tO\n", text_column="2")
    assert [example.words for example in chosen] == [("Vi", "a")]
    parts, said = read(tmp_path, "1-1\tVi\tO\n1-2\tal\tO\n\n2-1\tVi\tO\n2-2\tb\tO\n")
    assert [example.words for example in parts] == [("Vi", "al"), ("Vi", "b")]


def test_spreadsheets_put_quotes_around_cells_with_commas_too(tmp_path):
    lines = 'Ada\tB-PER\n","\tO\n"1,000"\tO\n""""\tO\n'
    (tmp_path / "a.txt").write_text(lines)
    said = []
    assert read_conll(tmp_path / "a.txt", "", DataConfig(), say=said.append)[0].words == ("Ada", ",", "1,000", '"')
    assert "quotes enclose cells, as in CSV" in said[0]
    (tmp_path / "a.txt").write_text(lines + ",\tO\n")  # a comma needs none
    assert read_conll(tmp_path / "a.txt", "", DataConfig(), say=said.append)[0].words[1] == '","'
    (tmp_path / "a.txt").write_text('He O\nsaid O\n"yes," O\n')  # a text that was cut at its blanks
    assert read_conll(tmp_path / "a.txt", "", DataConfig(), say=said.append)[0].words[2] == '"yes,"'


def test_a_first_tag_of_many_letters_takes_moments(tmp_path):
    (tmp_path / "a.txt").write_text("word\t" + "a" * 100_000 + "!\n" + "Ada\tB-PER\nis\tO\n\n" * 9)
    start = time.process_time()
    with suppress(UserError):
        read_conll(tmp_path / "a.txt", "", DataConfig())
    assert time.process_time() - start < 2
