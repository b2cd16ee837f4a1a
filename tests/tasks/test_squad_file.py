"""SQuAD files as they come: each variant is read as what it means, and counted, or refused with its place."""

import hashlib
import json
from dataclasses import replace

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.rows import FileRows
from kd_scratch.tasks.squad_file import Example, locate, read_squad, trainable

CONTEXT = "The old bridge is 90 metres long. It stands in Torvia."
ROW = {"id": "q", "question": "How long?", "context": CONTEXT, "answers": {"text": ["90 metres"], "answer_start": [18]}}
EMOJI = "😀😀 Été: " + CONTEXT + " 9 again"
AT = EMOJI.index("90")


def question(**change) -> dict:
    """An entry of "qas"; None: without that key."""
    official = {"id": "q", "question": "How long?", "answers": [{"text": "90 metres", "answer_start": 18}]}
    return {key: value for key, value in (official | change).items() if value is not ...}


def answers(text="90 metres", **more) -> list[dict]:
    return [{"text": text, **more}]


def file(*questions, context=CONTEXT) -> dict:
    return {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def read(tmp_path, content, **data) -> tuple[list[Example], list[str]]:
    """The examples, without the titles of their articles, and what is said, without the path."""
    path = tmp_path / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    notes = []
    examples = read_squad(path, "", DataConfig(**data), say=notes.append)
    if isinstance(examples, list):
        examples = [replace(each, article="") for each in examples]
    return examples, [note.removeprefix(f"{path}: ") for note in notes]


ONE = question()
PLACE = "data[0].paragraphs[0].qas[0]"
OFFICIAL = Example("q", "How long?", CONTEXT, ("90 metres",), 18)
MOVED = Example("q", "How long?", CONTEXT, ("90 metres",), 18, moved=True)
#: Files that mean the same as the official one, in what example they differ from it, and what is said.
SAME = {
    "official": (file(ONE), {}, []),
    "no title": ({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [ONE]}]}]}, {}, []),
    "a list of articles": (file(ONE)["data"], {}, []),
    "a list of paragraphs": ([{"context": CONTEXT, "qas": [ONE]}], {}, []),
    "paragraphs under data": ({"data": [{"context": CONTEXT, "qas": [ONE]}]}, {}, []),
    "a list of questions": ([ROW], {}, []),
    "questions under data": ({"data": [ROW]}, {}, []),
    "a single question": (ROW, {}, []),
    "an integer id": (file(question(id=7)), {"id": "7"}, []),
    "no id": (file(question(id=...)), {"id": PLACE}, ["questions without an id, so named by their place: 1"]),
    "null for an id": (file(question(id=None)), {"id": PLACE}, ["questions without an id, so named by their place: 1"]),
    "start -1": (file(question(answers=answers(answer_start=-1))), {"moved": True}, []),
    "start null": (file(question(answers=answers(answer_start=None))), {"moved": True}, []),
    "no start": (file(question(answers=answers())), {"moved": True}, []),
    "start a string": (file(question(answers=answers(answer_start=" 18"))), {}, []),
    "start 18.0": (file(question(answers=answers(answer_start=18.0))), {}, []),
    "lists in an object": (file(question(answers=ROW["answers"])), {}, []),
    "lists without starts": (file(question(answers={"text": ["90 metres"]})), {"moved": True}, []),
    "one object": (file(question(answers=answers(answer_start=18)[0])), {}, []),
    "strings": (file(question(answers=["90 metres"])), {"moved": True}, []),
    "an object printed by Python": (file(question(answers=str(ROW["answers"]))), {}, []),
    "a list printed by Python": (file(question(answers="[{'i': 1, 'text': '90 metres', 'answer_start': 18}]")), {}, []),
    "texts printed by Python": (file(question(answers="['90 metres']")), {"moved": True}, []),
    "an object as JSON in a string": (file(question(answers=json.dumps(answers(answer_start=18)[0]))), {}, []),
    "starts of MRQA": (file(question(answers=["90 metres"], detected_answers=[
        {"text": "90 metres", "char_spans": [[18, 26]], "token_spans": [[4, 5]]}])), {}, []),
    "a list of starts beside strings": (file(question(answers=["90 metres"], answer_start=[18])), {}, []),
    "a list of starts beside a string": (file(question(answers="90 metres", answer_start=[18, 25])), {}, []),
    "a start beside several strings": (file(question(answers=["90 metres", "It"], answer_start=[18])),
                                       {"answers": ("90 metres", "It")}, []),
    "a start beside strings": (file(question(answers=["90 metres"], answer_start=18)), {}, []),
    "starts of the hub's MRQA": (file(question(answers=["90 metres"], detected_answers={
        "text": ["90 metres"], "char_spans": [{"start": [18], "end": [26]}]})), {}, []),
    "another spelling in MRQA": (file(question(answers=["90 METRES"], detected_answers=[
        {"text": "90 Metres", "char_spans": [[18, 26]]}])), {"answers": ("90 metres", "90 METRES")},
        ["questions whose answers their context spells otherwise: detected_answers tell how: 1"]),
    "one string": (file(question(answers="90 metres")), {"moved": True}, []),
    "blanks around": (file(question(answers=answers(" 90 metres\n", answer_start=18))), {},
                      ["answers with blanks around them, taken as the context writes them: 1"]),
    "HTML": (file(question(answers=answers("90&#32;metres", answer_start=18))), {},
             ["answers with HTML's escapes, taken as the context writes them: 1"]),
    "called impossible": (file(question(is_impossible=True)), {"may_be_unanswerable": True},
                          ["questions that is_impossible calls unanswerable, but with answers, which hold: 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_files_that_mean_the_same_are_read_the_same(tmp_path, name):
    content, differs, said = SAME[name]
    assert read(tmp_path, content) == ([Example(**(vars(OFFICIAL) | differs))], said)


def test_a_question_knows_the_title_of_its_article(tmp_path):
    path, paragraphs = tmp_path / "squad.json", [{"context": CONTEXT, "qas": [ONE]}]
    for content, title in (
        ({"data": [{"title": "Bridges", "paragraphs": paragraphs}]}, "Bridges"),
        ({"data": [{"title": "Bridges", "paragraphs": [paragraphs[0] | {"title": " "}]}]}, "Bridges"),
        ([ROW | {"title": "Bridges"}], "Bridges"),
        ({"data": [{"title": 7, "paragraphs": paragraphs}]}, ""),
        ([ROW], ""),
    ):
        path.write_text(json.dumps(content))
        [example] = read_squad(path, "", DataConfig(), say=lambda note: None)
        assert example.article == title
    path.write_text("".join(json.dumps(ROW | {"id": title, "title": title}) + "\n" for title in "ab"))
    assert [example.article for example in read_squad(path, "", DataConfig(), say=lambda note: None)] == ["a", "b"]


#: How a file may say that a question has no answer -> the entry, and what is said but for their number.
NONE = {
    "an empty list": (question(id="n", answers=[]), []),
    "empty lists in an object": (question(id="n", answers={"text": [], "answer_start": []}), []),
    "null": (question(id="n", answers=None), ["questions whose answers are null, taken for none: 1"]),
    "an empty text": (question(id="n", answers=answers("", answer_start=-1)),
                      ["answers of nothing but blanks, taken for none: 1"]),
    "null for a text": (question(id="n", answers=answers(None)), ["answers of nothing but blanks, taken for none: 1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_no_answer_makes_a_file_one_of_version_2_and_that_is_said(tmp_path, name):
    entry, said = NONE[name]
    examples, notes = read(tmp_path, file(ONE, entry))
    assert [e.answers for e in examples] == [("90 metres",), ()] and all(e.may_be_unanswerable for e in examples)
    assert notes == [*said, "1 of 2 questions have no answer: rules of version 2.0"]
    assert len(trainable(examples)[0]) == 2


@pytest.mark.parametrize("value", [True, "true", "True", 1, "1"])
def test_what_is_called_impossible_needs_no_answers_whatever_the_spelling(tmp_path, value):
    entry = question(answers=..., is_impossible=value, plausible_answers=answers(answer_start=18))
    [example], said = read(tmp_path, file(entry))
    assert example.answers == () and example.may_be_unanswerable and not said


def test_an_id_that_another_question_has_is_made_unique_by_its_place(tmp_path):
    examples, said = read(tmp_path, file(ONE, ONE, question(question="?"), question(id="r")))
    assert [e.id for e in examples] == ["q", f"q ({PLACE[:-2]}1])", f"q ({PLACE[:-2]}2])", "r"]
    assert said == ["ids that an earlier question has, so their place is added: 2"]


@pytest.mark.parametrize(
    "unit, start", [("UTF-16 units", len(EMOJI[:AT].encode("utf-16-le")) // 2), ("bytes", len(EMOJI[:AT].encode()))]
)
def test_starts_that_count_something_else_are_found_out(tmp_path, unit, start):
    entries = [
        question(answers=answers("9", answer_start=start)),
        question(id="r", answers=answers("9", answer_start=AT)),
    ]
    examples, said = read(tmp_path, file(*entries, context=EMOJI))  # "9" stands at two places
    assert [e.start for e in examples] == [AT, AT]
    assert said == [f"answer_starts that count {unit}, turned into characters: 1"]


def test_an_answer_is_spelled_as_its_context_spells_it():
    decomposed, composed = "E\u0301te\u0301 ends", "Été ends"
    assert locate(decomposed, "Été", 0)[:2] == ("E\u0301te\u0301", 0)
    assert locate(composed, "E\u0301te\u0301", None)[:2] == ("Été", 0)
    assert locate("A & B ends", "A &amp; B", 3)[:2] == ("A & B", 0)
    assert locate("the END", "end", 4) == ("end", None, None), "case is not guessed"
    assert locate("a b a", " a ", None) == (" a ", None, None), "at two places it is not guessed"
    assert locate("fox, and fox", " fox", 0)[:2] == ("fox", 0), "any spelling at answer_start before any other place"
    assert locate("a  b", "  ", 1) == ("  ", 1, None), "what stands exactly there is never changed"


def test_json_lines_stay_in_their_file_and_know_what_the_whole_file_is(tmp_path):
    rows = [ROW, ROW | {"answers": {"text": [], "answer_start": []}}, ROW | {"id": 3}]
    content = "\n".join(map(json.dumps, rows)) + "\n\n"
    examples, said = read(tmp_path, content)
    assert isinstance(examples, FileRows) and [e.id for e in examples] == ["q", "q (line 2)", "3"]
    assert [e.id for e in examples] == ["q", "q (line 2)", "3"], "asked for again, an id is the same"
    assert all(e.may_be_unanswerable for e in examples) and examples[1].answers == ()
    assert said == ["ids that an earlier question has, so their place is added: 1",
                    "1 of 3 questions have no answer: rules of version 2.0"]  # fmt: skip
    kept, notes = trainable(examples)
    assert kept is examples and not notes


def test_the_names_of_fields_are_chosen_by_flags(tmp_path):
    row = {"q": "How long?", "text": CONTEXT, "gold": "90 metres"}
    with pytest.raises(
        UserError,
        match="line 1: question must be a string; there is only q, text, gold; choose its "
        "names with --question-column, --context-column and, where answers are read, --answers-column",
    ):
        read(tmp_path, f"{json.dumps(row)}\n" * 2)
    with pytest.raises(UserError, match="data must be a list; there is only q, text, gold; choose its names with"):
        read(tmp_path, json.dumps(row))
    chosen = dict(question_column="q", context_column="text", answers_column="gold")
    examples, _ = read(tmp_path, f"{json.dumps(row)}\n" * 2, **chosen)
    assert [(e.id, e.question, e.answers, e.start) for e in examples] == [
        (f"line {i}", "How long?", ("90 metres",), 18) for i in (1, 2)
    ]


#: Files that cannot be read -> their line.
REFUSED = {
    "a number": ("7", "it must be an object or a list"),
    "an object of nothing known": ({"rows": []}, "data must be a list; there is only rows"),
    "no context": ([ONE], "[0].context must be a string; there is only id, question, answers"),
    "no question": (file(question(question=...)), f"{PLACE}.question must be a string; there is only id, answers"),
    "a question of a number": (file(question(question=7)), f"{PLACE}.question must be a string"),
    "no answers": (file(question(answers=...)), f"{PLACE}.answers must be a list, an empty one where there is no"),
    "answers a number": (file(question(answers=7)), f"{PLACE}.answers must be a list"),
    "texts as numpy prints them": (
        file(question(answers="['90 metres' 'the bank']")),
        f"{PLACE}.answers is an object as a program prints it; write it as JSON",
    ),
    "no object that Python could make": (
        file(question(answers="{'text': {[]: 1}}")),
        f"{PLACE}.answers is an object as a program prints it; write it as JSON",
    ),
    "answers as numpy prints them": (
        file(question(answers="{'text': array(['a'], dtype=object), 'answer_start': array([3])}")),
        f"{PLACE}.answers is an object as a program prints it; write it as JSON, as in {{\"text\": [\"a\"]",
    ),
    "an answer a number": (file(question(answers=[7])), f"{PLACE}.answers[0] must be an object"),
    "an answer without text": (
        file(question(answers=[{"answer_start": 1}])),
        f"{PLACE}.answers[0].text must be a string",
    ),
    "unequal lists": (file(question(answers={"text": ["a"], "answer_start": []})),
                      f"{PLACE}.answers.answer_start must be a list of 1, one for each text"),
    "a start too many beside strings": (file(question(answers=["a", "b"], answer_start=[1, 2, 3])),
                                        f"{PLACE}.answer_start must be a list of 2, one for each of answers"),
    "a start that is true": (file(question(answers=answers(answer_start=True))), "answer_start must be a whole number"),
    "a start of 1.5": (file(question(answers=answers(answer_start=1.5))), "answer_start must be a whole number"),
    "a start of words": (file(question(answers=answers(answer_start="x"))), "answer_start must be a whole number"),
    "an id that is a list": (file(question(id=["q"])), f"{PLACE}.id must be a string or a number"),
    "a context of null": (file(ONE, context=None), "paragraphs[0].context must be a string"),
    "a bad line": (f"{json.dumps(ROW)}\n{{}}\n", "line 2: question must be a string; there is only an empty object"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place(tmp_path, name):
    content, message = REFUSED[name]
    with pytest.raises(UserError) as refusal:
        read(tmp_path, content)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


SENTENCES = "In 2012 nobody paid. There were no fees in 12 rooms, and 1889 or 1889."


@pytest.mark.parametrize(
    ("answer", "start", "place"),
    [
        ("12", None, 43),  # not in 2012
        ("no", None, 32),  # not in nobody
        ("fee", None, 35),  # as the beginning of a word, since it never stands alone
        ("ees", None, None),
        ("01", None, None),
        ("1889", 60, 57),  # of two the one that is near
        ("1889", 40, None),
    ],
)
def test_an_answer_without_a_right_start_is_a_whole_word_or_the_nearest(answer, start, place):
    assert locate(SENTENCES, answer, start) == (answer, place, None if place is None else "moved")


@pytest.mark.parametrize(("context", "answer"), [("그는 서울에서 산다.", "서울"), ("我们住在北京城市。", "北京")])
def test_answers_in_scripts_with_other_words_are_found(context, answer):
    assert locate(context, answer, None)[1] == context.index(answer)


def test_an_answer_as_a_text_begins_at_the_start_beside_it(tmp_path):
    rows = [
        {"id": str(i), "context": "fox and fox", "question": "?", "answer": "fox", "answer_start": i} for i in (0, 8)
    ]
    examples, said = read(tmp_path, "\n".join(map(json.dumps, rows)), answers_column="answer")
    assert [(e.start, e.moved) for e in examples] == [(0, False), (8, False)] and not said


def test_files_of_mrqa_are_read_and_the_first_answer_that_is_there_is_learned(tmp_path):
    """A header line, contexts with lists of questions, answers without places, the first of them spelled otherwise."""
    lines = [{"header": {"dataset": "SQuAD"}}]
    for who, answers in (("who?", ["Gustave Eiffel", "Eiffel"]), ("when?", ["1889"])):
        lines.append({"context": "Eiffel, 1889", "qas": [{"qid": who, "question": who, "answers": answers}]})
    examples, said = read(tmp_path, "\n".join(map(json.dumps, lines)))
    assert [(e.id, e.answers, e.start) for e in examples] == [
        ("who?", ("Eiffel", "Gustave Eiffel"), 0), ("when?", ("1889",), 8)
    ]  # fmt: skip
    assert said == ["questions whose first answer has no clear place: another one is learned: 1"]


@pytest.mark.parametrize("spans", [[[30, 31]], [[-5, -1]], [["0", "2"]], [], "x", [[0, 9**9]]])
def test_places_of_mrqa_that_hold_another_text_are_none(tmp_path, spans):
    detected = [{"text": "Eiffel", "char_spans": spans}]
    row = {"context": "A tower, 1889", "question": "?", "answers": ["EIFFEL"], "detected_answers": detected}
    examples, said = read(tmp_path, [row])
    assert (examples[0].answers, examples[0].start, said[1:]) == (("EIFFEL",), None, [])


def test_each_of_several_answers_begins_at_the_start_beside_it(tmp_path):
    row = {"id": "1", "context": "a cat and a cat", "question": "?", "answers": ["dog", "cat"], "answer_start": [0, 12]}
    examples, _ = read(tmp_path, [row])
    assert (examples[0].answers, examples[0].start, examples[0].moved) == (("cat", "dog"), 12, False)


def test_a_header_of_mrqa_may_stand_above_one_context_and_a_list_of_starts_is_no_start(tmp_path):
    row = {"context": "Eiffel, 1889", "qas": [{"id": None, "qid": "7", "question": "?", "answers": "1889"}]}
    row["qas"][0]["answer_start"] = [3]
    examples, _ = read(tmp_path, '{"header": {}}\n' + json.dumps(row) + "\n")
    assert [(e.id, e.start, e.moved) for e in examples] == [("7", 8, True)]


def test_a_context_that_looks_like_a_table_is_none(tmp_path):
    content = {"question": "?", "context": 'One, , "may ask a, question, in its, context, here.', "answers": ["One"]}
    examples, _ = read(tmp_path, json.dumps([content]))
    assert examples[0].start == 0


def test_contexts_without_questions_are_texts_where_no_answer_is_read(tmp_path):
    path = tmp_path / "x.json"
    paragraphs = [{"context": "a"}, {"context": "b", "qas": []}, {"context": "c", "qas": [{"question": "?"}]}]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    examples = read_squad(path, "", DataConfig(), say=lambda line: None, labelled=False)
    assert [(e.question, e.context) for e in examples] == [("", "a"), ("", "b"), ("?", "c")]
    with pytest.raises(UserError, match=r"paragraphs\[0\].question must be a string"):
        read_squad(path, "", DataConfig())


def test_a_table_is_refused_with_a_way_to_make_json_lines(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("question,context,answer\nwho?,a b,a\n")
    with pytest.raises(UserError, match="x.csv: is a table; write a JSON object for each row"):
        read_squad(path, "", DataConfig())


def test_a_file_none_of_whose_answers_is_found_is_refused_before_training(tmp_path):
    examples, _ = read(tmp_path, file(question(answers=["cat"]), question(id="r", answers=["dog"])))
    with pytest.raises(UserError, match="q: none of the 2 answers has a clear place in its context"):
        trainable(examples)


@pytest.mark.parametrize(
    "name, count, digest",
    [("dev", 3809, "9d1065311d781e4b1a59c4b044ea22ef"), ("test", 4152, "9ba93d0e8fb3cd7bcd1d301950c694649f")],
)
def test_a_real_file_is_read_as_it_always_was(real_data, name, count, digest):
    said = []
    examples = read_squad(real_data(f"policyqa/{name}.json"), "", DataConfig(), say=said.append)
    assert len({example.article for example in examples}) == 20
    content = "\n".join(repr(example).replace(f", article={example.article!r}", "") for example in examples).encode()
    assert len(examples) == count and hashlib.sha256(content).hexdigest().startswith(digest) and not said
