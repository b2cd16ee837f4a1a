"""The generated samples: right formats, the promised counts, the same bytes for the same seed, no leaks into test."""

import csv
import importlib.util
import io
import json
import re
from collections import Counter
from itertools import groupby
from pathlib import Path
from random import Random

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.tasks.conll_metric import entities
from kd_scratch.tasks.question_answering import read_squad
from kd_scratch.tasks.token_classification import read_conll

SCRIPT = Path(__file__).parents[2] / "data_scripts" / "make_sample.py"
SPLITS = ("train", "dev", "test")


def load_script():
    spec = importlib.util.spec_from_file_location("make_sample", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_sample = load_script()


@pytest.fixture(scope="module")
def agnews(tmp_path_factory):
    """Split -> rows (class, title, description) of a sample with 1,200 training rows."""
    folder = tmp_path_factory.mktemp("agnews")
    make_sample.make_agnews(folder, rows=1200, seed=3)
    texts = {split: (folder / "ag_news_csv" / f"{split}.csv").read_text() for split in SPLITS}
    return {split: list(csv.reader(io.StringIO(text, newline=""), strict=True)) for split, text in texts.items()}


@pytest.fixture(scope="module")
def clinc(tmp_path_factory):
    """The JSON of a sample with 600 training rows."""
    folder = tmp_path_factory.mktemp("clinc")
    make_sample.make_clinc(folder, rows=600, seed=3)
    return json.loads((folder / "clinc150" / "data_full.json").read_text())


def words(row) -> list[str]:
    return re.findall(r"\w+", " ".join(row[1:]).lower())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", make_sample.MAKERS)
def test_same_seed_gives_same_bytes_and_another_seed_other_texts(name, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1), ("d", -1)):
        make_sample.MAKERS[name](tmp_path / folder, rows=200, seed=seed)
    a, b, c, d = (contents(tmp_path / folder) for folder in "abcd")
    assert a == b
    data = [file for file in a if not file.endswith("classes.txt")]
    assert data
    assert all(len({a[file], c[file], d[file]}) == 3 for file in data)


def test_command_line_and_function_write_the_same(tmp_path, capsys):
    assert make_sample.main(["agnews", "--output", str(tmp_path / "a"), "--rows", "120", "--seed", "5"]) == 0
    assert "train.csv: 120 rows" in capsys.readouterr().out
    make_sample.make_agnews(tmp_path / "b", rows=120, seed=5)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {f"ag_news_csv/{file}" for file in
                                             ("train.csv", "dev.csv", "test.csv", "classes.txt")}  # fmt: skip


def test_agnews_has_the_promised_rows_of_every_class(agnews):
    per_class = {split: Counter(row[0] for row in rows) for split, rows in agnews.items()}
    assert per_class == {split: dict.fromkeys("1234", n) for split, n in (("train", 300), ("dev", 30), ("test", 100))}
    assert all(len(row) == 3 for rows in agnews.values() for row in rows)


def test_agnews_files_are_written_as_the_real_ones_are(tmp_path):
    make_sample.make_agnews(tmp_path, rows=400, seed=0)
    folder = tmp_path / "ag_news_csv"
    assert (folder / "classes.txt").read_bytes() == b"World\nSports\nBusiness\nSci/Tech\n"
    raw = (folder / "train.csv").read_bytes()
    assert b"\r" not in raw and raw.endswith(b'"\n')
    lines = raw.decode().splitlines()
    assert len(lines) == 400  # a newline inside a text is a backslash, so rows are lines
    quoted = r'"(?:[^"]|"")*"'
    assert all(re.fullmatch(f'"[1-4]",{quoted},{quoted}', line) for line in lines)
    assert b'""' in raw.replace(b',"",', b"")  # doubled quotes inside a text, not only empty titles


def test_agnews_has_bare_backslashes_markup_and_empty_titles(agnews):
    rows = [row for split in SPLITS for row in agnews[split]]
    descriptions = [row[2] for row in rows]
    assert 0.04 < sum("\\" in text for text in descriptions) / len(rows) < 0.12
    assert any(re.search(r"\w\\\w", text) for text in descriptions)
    for leftover in (" #39;s", " quot;", "&lt;b&gt;", " #36;"):
        assert any(leftover in text for text in descriptions), leftover
    assert 0 < sum(row[1] == "" for row in rows) < 0.05 * len(rows)


def test_agnews_rows_are_sentences_of_plausible_length_without_open_slots(agnews):
    rows = [row for split in SPLITS for row in agnews[split]]
    lengths = [len(words(row)) for row in rows]
    assert 18 < sum(lengths) / len(lengths) < 28 and max(lengths) < 60
    assert not any("{" in field or "}" in field or "|" in field for row in rows for field in row)


def test_test_rows_are_neither_copies_nor_near_copies_of_training_rows(agnews):
    train = [frozenset(words(row)) for row in agnews["train"]]
    test = [frozenset(words(row)) for row in agnews["test"]]
    assert not set(train) & set(test)
    some = test[:150]
    near = sum(any(len(a & b) > 0.75 * len(a | b) for b in train) for a in some)
    assert near < 0.01 * len(some)


@pytest.mark.parametrize("name", ["agnews", "clinc"])
def test_label_noise_is_in_the_training_split_alone(name, tmp_path, monkeypatch):
    noisy_splits = []
    monkeypatch.setattr(make_sample, "shuffle_some_labels", lambda labels, rng: noisy_splits.append(labels) or labels)
    make_sample.MAKERS[name](tmp_path, rows=200)
    assert [len(labels) for labels in noisy_splits] == [200]


def test_label_noise_moves_a_few_labels_and_keeps_the_class_counts():
    labels = ["a", "b", "c", "d"] * 500
    noisy = make_sample.shuffle_some_labels(labels, Random(0))
    assert Counter(noisy) == Counter(labels)
    assert 0.005 < sum(a != b for a, b in zip(noisy, labels, strict=True)) / len(labels) < 0.02


def test_clinc_has_the_real_keys_and_every_intent_in_every_split(clinc):
    assert set(clinc) == {"train", "val", "test", "oos_train", "oos_val", "oos_test"}
    intents = {intent for _, intent in clinc["train"]}
    assert 20 <= len(intents) <= 30 and "oos" not in intents
    for split, each in (("train", 30), ("val", 6), ("test", 9)):
        assert Counter(intent for _, intent in clinc[split]) == dict.fromkeys(intents, each)
    for split, count in (("oos_train", 30), ("oos_val", 30), ("oos_test", 60)):
        assert [intent for _, intent in clinc[split]] == ["oos"] * count


def test_clinc_texts_are_plain_requests_and_none_occurs_twice(clinc):
    texts = [text for rows in clinc.values() for text, _ in rows]
    assert len(set(texts)) == len(texts)
    assert all(re.fullmatch(r"[a-z0-9' ]+", text) and text == " ".join(text.split()) for text in texts)


@pytest.fixture(scope="module")
def squad(tmp_path_factory):
    """Split -> examples of a sample with 400 training questions."""
    folder = tmp_path_factory.mktemp("squad")
    make_sample.make_squad(folder, rows=400, seed=3)
    return {split: read_squad(folder / "squad" / f"{split}.json", "", DataConfig()) for split in SPLITS}


def test_squad_has_the_promised_questions_with_answers_in_place_and_none_occurs_twice(squad):
    assert {split: len(examples) for split, examples in squad.items()} == {"train": 400, "dev": 40, "test": 133}
    everything = [example for examples in squad.values() for example in examples]
    assert not any(example.moved or example.start is None or example.may_be_unanswerable for example in everything)
    assert len({example.id for example in everything}) == len(everything)
    contexts = [
        context for examples in squad.values() for context, _ in groupby(example.context for example in examples)
    ]
    assert len(set(contexts)) == len(contexts)
    assert not any(mark in e.context + e.question + e.answers[0] for e in everything for mark in "{}[]|;")


def test_squad_answers_stand_in_a_sentence_about_the_thing_asked_for_but_for_noise_in_train(squad):
    kinds = "|".join(make_sample.parse(make_sample.PASSAGE_WORDS)["kind"])
    right = {}
    for split, examples in squad.items():
        sentences = [e.context[: e.start].split(". ")[-1] + e.context[e.start :].split(". ")[0] for e in examples]
        things = [re.search(rf"the \w+ ({kinds})\b", example.question)[0] for example in examples]
        right[split] = [thing.lower() in sentence.lower() for thing, sentence in zip(things, sentences, strict=True)]
    assert all(right["dev"]) and all(right["test"])
    assert 0.95 < sum(right["train"]) / len(right["train"]) < 1


@pytest.fixture(scope="module")
def conll(tmp_path_factory):
    """Split -> sentences of a sample with 800 for training."""
    folder = tmp_path_factory.mktemp("conll")
    make_sample.make_conll(folder, rows=800, seed=3)
    splits = ("train", "valid", "test")
    return {split: read_conll(folder / "conll2003" / f"{split}.txt", "", DataConfig()) for split in splits}


def test_conll_has_the_promised_sentences_in_documents_and_no_document_occurs_twice(conll):
    assert {split: len(examples) for split, examples in conll.items()} == {"train": 800, "valid": 80, "test": 266}
    documents = [
        " ".join(word for example in group for word in example.words)
        for examples in conll.values()
        for _, group in groupby(examples, key=lambda example: example.document)
    ]
    assert len(set(documents)) == len(documents) and 150 < len(documents) < 300
    everything = [example for examples in conll.values() for example in examples]
    assert {example.scheme for example in everything} == {"IOB2"}
    assert {tag[2:] for example in everything for tag in example.tags} == {"", *make_sample.ENTITY_TYPES}
    assert not any(mark in word for example in everything for word in example.words for mark in "{}[]|_")


def test_conll_names_are_told_apart_by_context_only(conll):
    types = {}
    for example in conll["test"]:  # which has no wrong types
        for kind, start, end in entities(example.tags):
            types.setdefault(example.words[start:end], set()).add(kind)
    assert sum({"LOC", "ORG"} <= kinds for kinds in types.values()) > 20
    assert any("PER" in kinds for name, kinds in types.items() if name[-1].endswith(("via", "gate", "burg", "wick")))


def test_conll_types_are_wrong_in_train_only(tmp_path, monkeypatch):
    files = {}
    for wrong in (0, 1):
        monkeypatch.setattr(make_sample, "MISLABELLED", wrong)
        monkeypatch.setattr(make_sample, "story", lambda rules, rng: [f"[PER Ada{rng.random()}] flew ."])
        make_sample.make_conll(tmp_path / str(wrong), rows=60)
        for split in ("train", "valid", "test"):
            files[split, wrong] = (tmp_path / str(wrong) / "conll2003" / f"{split}.txt").read_text()
    assert all("B-PER" in files[split, wrong] for split in ("valid", "test") for wrong in (0, 1))
    assert "B-PER" in files["train", 0] and "B-PER" not in files["train", 1]


def test_tagging_a_sentence_with_brackets():
    rng = Random(0)
    words = make_sample.tagged("[PER Ada Berg] flew to [LOC Torvia] .", rng, wrong=0)
    assert words == [("Ada", "B-PER"), ("Berg", "I-PER"), ("flew", "O"), ("to", "O"), ("Torvia", "B-LOC"), (".", "O")]
    wrong = dict(make_sample.tagged("[PER Ada Berg] flew to [LOC Torvia] .", rng, wrong=1))
    assert wrong["Ada"] != "B-PER" and wrong["Ada"][2:] == wrong["Berg"][2:] and wrong["Torvia"] != "B-LOC"


@pytest.mark.parametrize("name", make_sample.MAKERS)
@pytest.mark.parametrize("rows", [-1, 0, 39])
def test_too_few_rows_are_a_users_error_and_leave_nothing_behind(name, rows, tmp_path, capsys):
    with pytest.raises(UserError, match=f"--rows {rows}: too few"):
        make_sample.MAKERS[name](tmp_path / "new", rows=rows)
    assert make_sample.main([name, "--output", str(tmp_path / "new"), "--rows", str(rows)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --rows {rows}: too few")
    assert not (tmp_path / "new").exists()


def test_more_rows_than_the_grammar_has_are_a_users_error(tmp_path, monkeypatch):
    monkeypatch.setattr(make_sample, "request", lambda rules, intent, rng: f"{intent} {rng.randrange(6)}")
    with pytest.raises(UserError, match="no more new sentences"):
        make_sample.make_clinc(tmp_path, rows=200)


@pytest.mark.parametrize(
    "arguments", [["conll2012", "--output", "x"], ["agnews"], ["agnews", "--output", "x", "--rows", "many"]]
)
def test_arguments_it_does_not_know_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        make_sample.main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "text",
    [make_sample.NEWS, make_sample.INTENTS + make_sample.REQUEST_WORDS, make_sample.PASSAGE_WORDS, make_sample.STORY],
    ids=["news", "requests", "passages", "stories"],
)
def test_every_slot_of_a_grammar_has_a_rule_of_its_own(text):
    rules = make_sample.parse(text)
    assert len(rules) == sum(bool(line) and line[0] != " " for line in text.splitlines())  # no symbol is given twice
    used = [choice for choices in rules.values() for choice in choices]
    if text == make_sample.PASSAGE_WORDS:
        used += [choices for fact in make_sample.FACTS.values() for choices in fact]
    given = {"p1", "p2", "t1", "t2"} if text == make_sample.STORY else set()  # a story's cast
    assert {slot for choice in used for slot in re.findall(r"\{(.+?)\}", choice)} <= set(rules) | given
