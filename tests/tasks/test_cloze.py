"""Questions without answers: made of contexts (--cloze), or read from a file of them (--unlabelled)."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from data_scripts import make_sample
from kd_scratch.__main__ import main
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, TrainConfig
from kd_scratch.data.batches import UNLABELLED
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.study.spec import StudySpec
from kd_scratch.study.variants import common_run
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.cloze import MOST_WORDS, add_questions, make_questions, sentences
from kd_scratch.tasks.question_answering import Example
from kd_scratch.training.cross_fitting import unseen_by
from kd_scratch.training.examples import encode_training_data, read_training_data
from kd_scratch.training.preflight import cache_bytes, draw_sample
from kd_scratch.training.run import train
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import RunSpec

SQUAD = TASKS["squad"]
CONTEXT = (
    "The shop keeps your address for 90 days. If you agree, the shop may send you new offers by mail. "
    "The bridge was built by Anna Lindh in 1932 because the old ferry had sunk."
)
LONG_TEXT = "the of a may we cookie in Paris 12 days London and, because. by using to improve our"


# --- the rules ---


@pytest.mark.parametrize(
    "context, question",
    [
        ("We keep your data for 90 days.", "We keep your data for how long?"),
        ("We keep your data for 90 days.", "We keep what for 90 days?"),
        ("If you agree, the shop may send you offers.", "When the shop may send you offers?"),
        ("We keep your name until you leave the shop.", "We keep your name when?"),
        ("The old ferry was sold because nobody used it.", "The old ferry was sold why?"),
        ("You can leave the list by clicking the link below.", "You can leave the list how?"),
        ("We may share your address with other companies.", "We may share your address with what?"),
        ("The lock was made by Anna Lindh in 1932.", "The lock was made by Anna Lindh when?"),
        ("The lock was made by Anna Lindh in 1932.", "The lock was made by who in 1932?"),
        ("The shop was opened on 3 May 2019 in the old town.", "The shop was opened when in the old town?"),
        ("Marie Curie won the Nobel Prize.", "What won the Nobel Prize?"),
        ("There are 1,200 registered users in the list.", "There are how many registered users in the list?"),
        ("The ticket costs $5 for everybody here.", "The ticket costs how much for everybody here?"),
        ("They called it “the great flood” in the old town.", "They called it “what” in the old town?"),
        ("What do we collect? Names and addresses of people.", "What do we collect?"),
        ("Der Turm in der Stadt wurde 1889 gebaut.", "Der Turm in der Stadt wurde when gebaut?"),
    ],
)
def test_a_span_becomes_a_question_word(context, question):
    made = make_questions(context, 20)
    assert question in made, made


def test_questions_are_distinct_as_many_as_wanted_and_the_same_in_every_run():
    made = make_questions(CONTEXT, 6)
    assert len({text.lower() for text in made}) == 6 and made == make_questions(CONTEXT, 6)
    assert made[:3] == make_questions(CONTEXT, 3), "more questions are more of the same"
    assert make_questions(CONTEXT + " ", 6) != made or make_questions(CONTEXT.replace("90", "80"), 6) != made


def test_all_parts_of_a_context_are_asked_about():
    context = " ".join(f"The shop number {name} sells {name} to the people of this town." for name in "abcdefgh")
    made = make_questions(context, 8)
    assert all(any(re.search(rf"\b{name}\b", text) for text in made) for name in "abcdefgh"), made


@pytest.mark.parametrize(
    "context, wrong",
    [
        ("You agree to send the shop letters of recommendation.", "send the shop what of"),
        ("You agree that the shops send the names to us.", "that what the names"),
        ("Cookies help us to find your friends.", "What us to find"),
        ("We collect names for our friends.", "We what"),
        ("The law in Section 1798.83 names the rights of all.", "Section when"),
    ],
)
def test_a_verb_or_half_a_noun_or_number_is_no_answer(context, wrong):
    made = make_questions(context, 20)
    assert made and not any(wrong in text for text in made), made


def test_sentences_end_where_a_person_would_end_them():
    text = "Our Rules\nMr. Smith of Acme Inc. paid $5.50.\n- first point,\nwhich goes on\n2. second point 我们。他们。"
    assert sentences(text) == [
        "Our Rules",
        "Mr. Smith of Acme Inc. paid $5.50.",
        "first point, which goes on",
        "2. second point 我们。",
        "他们。",
    ]
    assert max(map(len, sentences("word " * 1000))) <= 600


@pytest.mark.parametrize(
    "context",
    ["", "fox", " \n ", "... !!! --- ???", "。。。", "a" * 5000, "two words", '""', "\ud800\ud800 \ud800"],
)
def test_what_gives_nothing_to_ask_for_gives_no_question(context):
    assert make_questions(context, 4) == []


@pytest.mark.parametrize(
    "context",
    [
        "تأسست الشركة في عام 1998 في مدينة القاهرة. نحن نجمع المعلومات الشخصية لتحسين خدماتنا.",
        "我们使用Cookie来改进您的体验。您可以在浏览器设置中禁用它们，但某些功能可能无法使用。",
        "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย มีประชากรประมาณ 8 ล้านคน",
        "ताज महल आगरा में स्थित है। इसे शाहजहाँ ने 1653 में बनवाया था।",
        "so we went to the market and bought three apples and then my brother said that the train was late",
        "half of a character, \ud800, stands in this old text for all readers",
    ],
)
def test_any_language_has_what_in_place_of_the_span(context):
    made = make_questions(context, 2)
    assert len(made) == 2 and all(re.search(r"(?i)what|when|how many|who", text) for text in made)
    kept = [re.split(r"(?i)\s*\b(?:what|when|how many|who)\b\s*", text.rstrip("?"))[-1] for text in made]
    assert all(part in context for part in kept)


def test_questions_are_not_too_long():
    rng = np.random.default_rng(0)
    for _ in range(50):
        context = " ".join(rng.choice(LONG_TEXT.split(), 300))
        assert all(len(text.split()) <= 2 * MOST_WORDS for text in make_questions(context, 20))
        assert all(len(text.split()) <= 16 for text in make_questions(context, 20, longest=12))


@pytest.mark.parametrize(
    "text",
    ["9.9,", "in Foo ", "U.S. ", "if a ", '"a', "word ", "我们", "กำ", " ", "\n ", "- * ", "(", "aaaaa", ". ", "5 "],
)
def test_a_hundred_thousand_words_take_moments(text):
    start = time.process_time()
    make_questions(text * 100_000, 4)
    assert time.process_time() - start < 2


# --- contexts -> examples ---


def test_a_context_is_asked_about_once_and_a_text_without_question_is_only_that():
    own = [Example(f"q{i}", "who?", CONTEXT, ("Anna Lindh",), CONTEXT.index("Anna")) for i in range(2)]
    texts = [Example("a.txt:1", "", "short", labelled=False), Example("a.txt:2", "", CONTEXT, labelled=False)]
    words = train_tokenizer([CONTEXT.lower()] * 9, vocab_size=1000)
    examples, [note] = add_questions([*own, *texts], 3, 64, words)
    assert list(examples[:2]) == own and [e.id for e in examples[2:]] == ["q0~c1", "q0~c2", "q0~c3"]
    assert all(not e.labelled and not e.answers and e.start is None and e.context == CONTEXT for e in examples[2:])
    assert note == (
        "--cloze 3: 3 questions made of 2 contexts: learned from the teacher alone; contexts that gave fewer than 3: 1"
    )
    assert add_questions(own, 3, 64, words)[1] == [
        "--cloze 3: 3 questions made of 1 contexts: learned from the teacher alone"
    ]


def test_what_is_too_long_in_pieces_is_not_asked(tokenizer):
    """A question of a few words is one of many pieces where these are addresses: no room would be left beside it."""
    own = [Example("q0", "who?", CONTEXT, ("Anna Lindh",), CONTEXT.index("Anna"))]
    context = "We send it to www.an-address-of-many-pieces.example.org/and/more for you. " * 2 + "\ud800"
    texts = [Example("a.txt:1", "", context, labelled=False)]
    made = {n: list(add_questions([*own, *texts], 6, n, tokenizer)[0][1:]) for n in (45, 200)}
    lengths = {n: [len(e.ids) - 2 for e in tokenizer.encode([q.question for q in made[n]])] for n in made}
    assert lengths[45] and max(lengths[45]) <= 45 < max(lengths[200])


# --- files without answers ---

FLAT = {"question": "how long?", "context": CONTEXT}
NESTED = {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [{"id": 7, "question": "how long?"}]}]}]}


@pytest.mark.parametrize(
    "name, text, questions",
    [
        ("a.json", json.dumps(NESTED), ["how long?"]),
        ("a.json", json.dumps(NESTED, indent=2), ["how long?"]),
        ("a.txt", json.dumps(NESTED), ["how long?"]),
        ("a.jsonl", f"{json.dumps(FLAT)}\n" * 2, ["how long?"] * 2),
        ("a.jsonl", json.dumps(FLAT), ["how long?"]),
        ("a.json", json.dumps([FLAT]), ["how long?"]),
        ("a.json", json.dumps([FLAT | {"answers": 3, "is_impossible": "?"}]), ["how long?"]),
        ("a.txt", f"{CONTEXT}\n\n{CONTEXT}\n", ["", ""]),
        ("a.txt", "[1] not JSON\n{see below}\n", ["", ""]),
        ("a.jsonl", json.dumps({"context": CONTEXT}) + "\n", [""]),
        ("a.jsonl", json.dumps({"text": CONTEXT, "data": "x y"}) + "\n", [""]),
        ("a.csv", f'id,context\n1,"{CONTEXT}"\n', [""]),
        ("a.tsv", "only one column of text\n", [""]),
    ],
)
def test_questions_without_answers_and_contexts_are_told_apart(tmp_path, name, text, questions):
    path = tmp_path / name
    path.write_text(text)
    examples = list(SQUAD.read_unlabelled(path, DataConfig(), lambda line: None, "--unlabelled"))
    assert [example.question for example in examples] == questions
    assert all(e.id.startswith(name) and not e.labelled and not e.answers for e in examples)
    assert len({example.id for example in examples}) == len(examples)


def test_a_bad_file_of_questions_is_refused_with_its_place(tmp_path):
    (tmp_path / "a.json").write_text('{"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}')
    with pytest.raises(UserError, match=r"data\[0\].paragraphs\[0\].context must be a string"):
        SQUAD.read_unlabelled(tmp_path / "a.json", DataConfig(), print, "")


# --- a run ---


@pytest.fixture(scope="module")
def files(
    tmp_path_factory,
):
    """A folder with sample questions, a text file of contexts and one of questions; and what its runs share."""
    folder = tmp_path_factory.mktemp("cloze")
    make_sample.make_squad(folder, rows=40)
    contexts = [CONTEXT, "short"]
    (folder / "more.txt").write_text("\n".join(contexts))
    (folder / "more.json").write_text(json.dumps(NESTED))
    squad = folder / "squad"
    common = dict(train=squad / "train.json", dev=str(squad / "dev.json"), cache=folder / "cache")
    config = dict(epochs=1, batch_size=8, learning_rate=1e-3, max_length=60)
    return folder, common, config


@pytest.fixture(scope="module")
def teachers(files):
    """Two cross-fitted teachers."""
    folder, common, config = files
    paths = []
    for number in (1, 2):
        vocabulary = dict(tokenizer=paths[0]) if paths else dict(vocab_size=300)
        spec = RunSpec("squad", output=folder / f"teacher-{number}", fold=f"{number}/2", model="tiny-student",
                       **vocabulary, config=TrainConfig(**config), **common)  # fmt: skip
        train(set_up(spec))
        paths.append(str(folder / f"teacher-{number}"))
    return tuple(paths)


def student(files, teachers, **more):
    folder, common, config = files
    settings = {name: more.pop(name) for name in ("cloze", "labelled", "max_length") if name in more}
    return RunSpec("squad", output=folder / "student", model=teachers[0], teachers=teachers,
                   config=TrainConfig(**(config | settings)), **(common | more))  # fmt: skip


def test_made_questions_leave_half_of_the_input_to_the_context(files, teachers):
    """The questions of the file fit; those must, which nobody can shorten."""
    spec = student(files, teachers, unlabelled=files[0] / "more.txt", cloze=3, max_length=32)
    data = read_training_data(spec, SQUAD)
    assert len(encode_training_data(spec, data)) and len(data.examples) > len(data.own)


def test_a_student_learns_from_questions_that_nobody_has_answered(files, teachers, capsys):
    """Windows, --labelled, --limit and a whole run: every input of theirs has soft targets and no label."""
    folder = files[0]
    spec = student(files, teachers, unlabelled=folder / "more.txt", cloze=2, labelled="50%", max_length=40)
    data = read_training_data(spec, SQUAD)
    inputs = encode_training_data(spec, data)
    made = np.array(["~c" in name for name in inputs.ids])
    assert made.sum() > len([e for e in data.examples if "~c" in e.id]), "some contexts take several windows"
    assert (np.array(inputs.labels)[made] == UNLABELLED).all()
    contexts = len({e.context for e in data.own})
    assert f"2 texts of {folder / 'more.txt'} have no label: learned from the teacher alone" in data.notes
    [note] = [note for note in data.notes if note.startswith("--cloze 2: ")]
    assert f"of {contexts + 2} contexts" in note and "contexts that gave fewer than 2: 2" in note
    argv = ["train", "--task", "squad", "--train", str(spec.train), "--dev", spec.dev, "--model", teachers[0],
            "--teacher", *teachers, "--unlabelled", str(folder / "more.txt"), "--cloze", "2", "--limit", "12",
            "--epochs", "1", "--max-length", "60", "--threads", "1", "--cache", str(folder / "cache"),
            "--output", str(folder / "run")]  # fmt: skip
    assert main(argv) == 0
    assert "--cloze 2: " in capsys.readouterr().out
    record = json.loads((folder / "run" / "training.json").read_text())
    assert record["settings"]["cloze"] == 2


def test_the_teacher_that_has_not_seen_a_context_answers_what_is_asked_about_it(files, teachers, tmp_path):
    """Wherever the question is from; contexts that none has seen are answered by all."""
    first = read_training_data(student(files, teachers), SQUAD).examples[0]
    folder = files[0]
    qas = [{"id": first.id, "question": "is it?"}]
    other = [{"id": first.id + "x", "question": "is it?"}]
    paragraphs = [{"context": first.context, "qas": qas}, {"context": CONTEXT, "qas": other}]
    (folder / "asked.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    spec = student(files, teachers, unlabelled=folder / "asked.json", cloze=2)
    run = set_up(spec)
    inputs = encode_training_data(spec, run.data)
    counted = unseen_by(run.spec, run.data, inputs)
    by_context = {e.id: e.context for e in run.data.examples}
    of_context = {e.context: counted[:, list(inputs.ids).index(e.id)].tolist() for e in run.data.own}
    assert all(sum(column) == 1 for column in of_context.values()) and len({*map(tuple, of_context.values())}) == 2
    for name, column in zip(inputs.ids, counted.T.tolist(), strict=True):
        assert column == of_context.get(by_context[name], [True, True]), name
    assert f"asked.json:{first.id}" in by_context and f"asked.json:{first.id}x~c1" in by_context
    fold = read_training_data(student(files, teachers, fold="1/2", cloze=1), SQUAD)
    left_out = {e.context for e in run.data.own} - {e.context for e in fold.own}
    assert left_out and not left_out & {e.context for e in fold.examples}, "nothing is asked about the fold left out"


def test_inputs_of_other_numbers_of_questions_are_other_files(files, teachers):
    numbers = {}
    for cloze in (0, 1, 2):
        spec = student(files, teachers, cloze=cloze)
        numbers[cloze] = len(encode_training_data(spec, read_training_data(spec, SQUAD)))
    assert len(set(numbers.values())) == 3


def test_the_sample_that_disk_is_estimated_by_is_of_all_kinds_of_questions(files, teachers, monkeypatch):
    monkeypatch.setattr("kd_scratch.training.preflight.SAMPLE", 30)
    run = set_up(student(files, teachers, cloze=20))
    sample = draw_sample(run, run.data.examples, "--train")
    share = np.mean([example.labelled for example in run.data.examples])
    assert 0 < np.mean([example.labelled for example in sample.examples]) < 3 * share
    assert cache_bytes(run, sample) > 0


def test_questions_without_answers_may_stand_in_a_table(files, teachers, tmp_path):
    """With their contexts; a row that lacks one of both is left out."""
    table = tmp_path / "more.csv"
    table.write_text('id,Context,question\n1,"two days, no more",how long?\n2,two days,\n3,,who?\n4,one day,when?\n')
    data = read_training_data(student(files, teachers, unlabelled=table), SQUAD)
    found = [(example.question, example.context) for example in data.examples if not example.labelled]
    assert found == [("how long?", "two days, no more"), ("when?", "one day")]


@pytest.mark.parametrize("at", [0, 1])
def test_contexts_without_a_question_are_left_out_wherever_they_stand(files, teachers, tmp_path, at):
    paragraphs = [{"context": "two days", "qas": [{"question": "how long?", "id": "1"}]}]
    paragraphs.insert(at, {"context": "one day", "qas": []})
    (tmp_path / "more.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    data = read_training_data(student(files, teachers, unlabelled=tmp_path / "more.json"), SQUAD)
    assert [example.question for example in data.examples if not example.labelled] == ["how long?"]
    assert f"{tmp_path / 'more.json'}: contexts without a question, left out: 1" in data.notes


def test_what_does_not_go_together_is_refused(files, teachers):
    folder = files[0]
    with pytest.raises(UserError, match="holds contexts without questions; add --cloze 4"):
        read_training_data(student(files, teachers, unlabelled=folder / "more.txt"), SQUAD)
    (folder / "bare.json").write_text('{"data": [{"paragraphs": [{"context": "two days", "qas": []}]}]}')
    with pytest.raises(UserError, match="holds contexts without questions; add --cloze 4"):
        read_training_data(student(files, teachers, unlabelled=folder / "bare.json"), SQUAD)
    (folder / "none.json").write_text('{"data": [{"paragraphs": []}]}')
    for cloze, cure in ((0, "give a file that has some"), (2, "give a .txt with each context on a line")):
        with pytest.raises(UserError, match=f"none.json: holds no question; {cure}"):
            read_training_data(student(files, teachers, unlabelled=folder / "none.json", cloze=cloze), SQUAD)
    data = read_training_data(student(files, teachers, unlabelled=folder / "more.json"), SQUAD)
    assert data.examples[-1].question == "how long?"
    with pytest.raises(UserError, match="--cloze must be 0 or more"):
        TrainConfig(cloze=-1)


def test_a_study_gives_its_baseline_no_such_questions(files, teachers):
    spec = StudySpec(student(files, teachers, cloze=2), files[0] / "squad" / "test.json")
    assert spec.has_unlabelled_text and common_run(spec).config.cloze == 0
    assert not StudySpec(student(files, teachers), Path("x")).has_unlabelled_text
