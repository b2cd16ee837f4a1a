"""tasks/entity_spans.py: entities by their characters, as annotation tools write them, become words and tags."""

import json
import time

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.conll_file import read_conll
from kd_scratch.tasks.entity_spans import EntityReader

TEXT = "Ada's trip to New York, U.S."
FOUND = [("Ada", "B-PER"), ("'s", "O"), ("trip", "O"), ("to", "O"), ("New", "B-LOC"), ("York", "I-LOC"), (",", "O"),
         ("U.S.", "B-LOC")]  # fmt: skip
READ = EntityReader().read
PAIRS = [[24, 28, "LOC"], [14, 22, "LOC"], [0, 3, "PER"]]  # in any order


def objects(start="start", end="end", label="label", form=str):
    return [{start: a, end: b, label: form(name), "id": 7} for a, b, name in PAIRS]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(folder, *rows, say=print, **settings):
    """The words with their tags of each line."""
    path = folder / "a.jsonl"
    path.write_text(lines(*rows))
    return [[*zip(e.words, e.tags, strict=True)] for e in read_conll(path, "", DataConfig(**settings), say=say)]


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "text": TEXT, "label": PAIRS},
        {"text": TEXT, "labels": PAIRS},
        {"text": TEXT, "entities": PAIRS, "meta": {}},
        {"text": TEXT, "spans": objects(), "tokens": [{"text": "Ada's", "start": 0, "end": 5, "id": 0}],
         "answer": "accept"},
        {"text": TEXT, "entities": objects("start_offset", "end_offset"), "relations": []},
        {"text": TEXT, "label": objects(label="labels", form=lambda name: [name]), "annotator": 1},
        {"id": 1, "data": TEXT, "label": PAIRS},
        {"text": TEXT, "ents": objects(), "tokens": [{"id": 0, "start": 0, "end": 3}]},
        {"text": TEXT, "tokens": TEXT.split(), "spans": objects()},  # words without tags
        {"text": TEXT, "tokens": TEXT.split(), "label": PAIRS},
        {"text": TEXT, "label": [], "entities": PAIRS},
        {"text": TEXT, "label": [[*each, "note"] for each in PAIRS]},
    ],
    ids=["doccano", "doccano, several", "entities", "Prodigy", "doccano, relations", "Label Studio", "doccano, old",
         "spaCy", "words beside", "words beside labels", "one list of two", "four parts"],
)  # fmt: skip
def test_what_tools_write_is_read(tmp_path, row):
    assert read(tmp_path, row, {"text": "nothing", "label": []}, {"text": "seen", "annotator": 1}) == [
        FOUND, [("nothing", "O")], [("seen", "O")]]  # fmt: skip


def test_other_names_for_text_and_entities(tmp_path):
    settings = dict(text_column="body", label_column="marked")
    assert read(tmp_path, {"body": TEXT, "marked": PAIRS, "label": [[0, 1, "X"]]}, **settings) == [FOUND]


def test_words_with_tags_count_where_both_are_there(tmp_path):
    row = {"text": "a b", "tokens": ["a", "b"], "tags": ["O", "B-X"], "spans": []}
    assert read(tmp_path, row) == [[("a", "O"), ("b", "B-X")]]


def test_an_entity_within_a_word_cuts_it_and_blanks_at_its_ends_do_not_count():
    reader = EntityReader()
    words, tags = reader.read("a Franco-German one", [[2, 8, "MISC"], [9, 16, " MISC "]], "x.jsonl: line 4")
    assert reader.notes("x") == ["x: words that an entity begins or ends within, cut there: 1, the first in line 4"]
    assert words == ["a", "Franco", "-", "German", "one"] and tags == ["O", "B-MISC", "O", "B-MISC", "O"]
    assert READ(" New York ", [[0, 10, "LOC"]], "x") == (["New", "York"], ["B-LOC", "I-LOC"])
    assert READ("東京都", [[0, 2, "LOC"]], "x") == (["東", "京", "都"], ["B-LOC", "I-LOC", "O"])
    assert READ("ab", [[0, 1, "X"], [1, 2, "X"]], "x") == (["a", "b"], ["B-X", "B-X"])


def test_what_a_person_did_not_accept_is_left_out_and_counted(tmp_path):
    said, row = [], {"text": "a", "spans": []}
    rows = [row | {"answer": answer} for answer in ("accept", "reject", "ignore")]
    one = {"text": TEXT, "spans": [*objects(), {"start": 4, "end": 9, "label": "X", "answer": "reject"}]}
    found = read(tmp_path, *rows, row | {"_is_binary": True}, one, {"tokens": ["b"], "tags": ["O"], "answer": "reject"},
                 say=said.append)  # fmt: skip
    assert found == [[("a", "O")], FOUND, [("b", "O")]], "which says nothing of the tags of words"
    for note in ("answer is reject or ignore, left out: 2",
                 "_is_binary is true: they judge one entity only, left out: 1",
                 "entities that somebody rejected, left out: 1, the first in line 5"):  # fmt: skip
        assert any(note in line for line in said), note


def test_offsets_of_javascript_are_known_by_what_the_entity_is_spelled_like(tmp_path):
    said, text = [], "\U0001f600 Ada came"
    for start, end in ((3, 6), (2, 5)):
        row = {"text": text, "label": [{"start": start, "end": end, "text": "Ada", "labels": ["PER"]}]}
        assert read(tmp_path, row, say=said.append) == [[("\U0001f600", "O"), ("Ada", "B-PER"), ("came", "O")]]
    assert sum("entities count UTF-16 units, turned into characters: 1" in line for line in said) == 1
    with pytest.raises(UserError, match="line 1: an entity is not where its start and end are; correct"):
        read(tmp_path, row | {"label": [{"start": 4, "end": 7, "text": "Ada", "label": "PER"}]})
    spaced = {"text": "New\nYork", "label": [{"start": 0, "end": 8, "text": "New\\nYork", "label": "LOC"}]}
    assert read(tmp_path, spaced) == [[("New", "B-LOC"), ("York", "I-LOC")]]


def test_two_lists_of_entities_are_refused_and_one_is_chosen(tmp_path):
    row = {"text": TEXT, "label": PAIRS[:1], "spans": PAIRS}
    with pytest.raises(UserError, match="line 1: has entities under label and spans; leave one of them out, or"):
        read(tmp_path, row)
    assert read(tmp_path, row, label_column="spans") == [FOUND]


def test_an_entity_that_is_given_twice_counts_once(tmp_path):
    said = []
    assert read(tmp_path, {"text": TEXT, "label": [*PAIRS, PAIRS[0]]}, say=said.append) == [FOUND]
    assert any("entities given twice: 1, the first in line 1" in line for line in said)


@pytest.mark.parametrize(
    ("entities", "message"),
    [
        ([[0, 3, "PER"], [2, 5, "X"]], "the entities 'Ada' and \"a's\" overlap, and a word has one tag; leave out one"),
        ([[0, 3, "PER"], [0, 3, "LOC"]], "overlap"),
        ([[0, 3]], r"entity \[0, 3\] must be \[start, end, NAME\] or an object of start, end and label"),
        ([[0, 3, ""]], "must be"),
        ([[0, 3.0, "X"]], "must be"),
        ([[False, True, "X"]], "must be"),
        ([{"start": 0, "label": "X"}], "must be"),
        ([{"start": 0, "end": 3, "labels": ["X", "Y"]}], "must be"),
        ([[0, 29, "X"]], "must lie within the text's 28 characters; correct it"),
        ([[-3, 3, "X"]], "must lie within"),
        ([[3, 3, "X"]], "must lie within"),
        ([[5, 6, "X"]], "has no character but blanks; correct it, or leave it out"),
    ],
)
def test_what_is_no_entity_is_refused_with_its_line(tmp_path, entities, message):
    with pytest.raises(UserError, match=f"a.jsonl: line 1: .*{message}"):
        read(tmp_path, {"text": TEXT, "label": entities})


def test_a_text_that_nobody_has_looked_at_is_no_text_without_entities(tmp_path):
    with pytest.raises(UserError, match="line 1: has a text without a list of entities under label or .*; write"):
        read(tmp_path, {"text": TEXT})
    words = tuple(word for word, _ in FOUND)
    for first in ([{"text": "Ada"}], [], [*words]):
        rows = [{"text": TEXT, "tokens": first, "spans": []}, {"text": "a b", "tokens": [{}]}, {"text": "c"}]
        (tmp_path / "b.jsonl").write_text(lines(*rows))
        found = TASKS["conll"].read_unlabelled(tmp_path / "b.jsonl", DataConfig(), print, "--unlabelled")
        assert [example.words for example in found] == [words, ("a", "b"), ("c",)]


def test_many_entities_take_moments():
    text, start = "ab " * 60_000, time.process_time()
    words, tags = READ(text, [[3 * i, 3 * i + 1, "X"] for i in range(60_000)], "x")
    assert len(words) == len(tags) == 120_000 and tags.count("B-X") == 60_000
    wide = "x" + " " * 200_000 + "y"
    with pytest.raises(UserError, match="overlap"):
        READ(wide, [[i, len(wide), "X"] for i in range(10_000)], "x")
    assert time.process_time() - start < 5
