"""Cross-fitted teachers: who is trained on what, and whose soft targets count for which text."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kd_scratch.__main__ import main
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.data.rows import Concat
from kd_scratch.distillation.teacher import teacher_logits
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.base import drawn_by_text
from kd_scratch.tasks.folds import Fold, fold_numbers, outside_fold, parse_fold
from kd_scratch.tasks.question_answering import Example as Question
from kd_scratch.tasks.text_files import read_csv
from kd_scratch.tasks.token_classification import Example as Sentence
from kd_scratch.training import cross_fitting
from kd_scratch.training.cross_fitting import teacher_folds, unseen_by
from kd_scratch.training.examples import TrainingData, draw, encode_training_data
from kd_scratch.training.resume import changes
from kd_scratch.training.run import train
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import RunSpec
from kd_scratch.training.teacher_outputs import add_teacher_outputs
from tests.commands.test_commands import write_csv

FAST = dict(epochs=1, batch_size=16, learning_rate=1e-3, max_length=24)


def test_folds_are_parts_from_1_on():
    assert parse_fold("") is None and parse_fold("2/5") == Fold(1, 5)
    for wrong in ("0/5", "6/5", "1/1", "2", "a/b", "1/5/2", "٢/5"):
        with pytest.raises(UserError, match="must be a part such as 1/5"):
            parse_fold(wrong)


def test_sentences_of_a_document_are_in_one_fold_and_each_in_exactly_one():
    sentences = [Sentence(str(i), ("x",), ("O",), document=f"d{i // 4}") for i in range(200)]
    numbers = fold_numbers(TASKS["conll"], sentences, 4)
    assert all(len(set(numbers[i : i + 4])) == 1 for i in range(0, 200, 4)) and set(numbers) == {0, 1, 2, 3}
    kept = [set(outside_fold(TASKS["conll"], sentences, Fold(i, 4)).tolist()) for i in range(4)]
    assert all(sum(i not in part for part in kept) == 1 for i in range(200))
    with pytest.raises(UserError, match="leaves no examples"):
        outside_fold(TASKS["conll"], sentences[:4], Fold(int(numbers[0]), 4))


@pytest.fixture
def sentences(tmp_path):
    """Each of ten sentences four times; a function makes a file of them, whole or each a document of its own."""

    def read(documents: bool):
        lines = [f"Ada B-PER\nsings O\n{i // 4} O\n" for i in range(40)]
        path = tmp_path / "train.txt"
        path.write_text("\n".join(f"-DOCSTART- O\n\n{line}" if documents else line for line in lines))
        return TASKS["conll"].read(path, "", DataConfig())

    return read


def test_equal_sentences_without_documents_are_on_one_side_of_every_split(sentences):
    task, own = TASKS["conll"], sentences(documents=False)
    numbers = fold_numbers(task, own, 3).reshape(10, 4)
    assert (numbers == numbers[:, :1]).all() and set(numbers.flat) == {0, 1, 2}
    drawn = draw(task, own, "20%", "--dev").reshape(10, 4)
    assert (drawn == drawn[:, :1]).all() and drawn.sum() == 8, "so many sentences, not so many different ones"
    assert drawn_by_text(task, own) is True and drawn_by_text(task, sentences(documents=True)) is None


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Three teachers, each trained without a third of the texts, and the flags of a student of theirs."""
    folder = tmp_path_factory.mktemp("cross")
    files = dict(train=Path(write_csv(folder / "train.csv", 48)), dev=write_csv(folder / "dev.csv", 20, seed=1))
    common = dict(files, model="tiny-student", cache=folder / "cache", config=TrainConfig(**FAST))
    paths = []
    for number in (1, 2, 3):
        output = folder / f"teacher-{number}"
        vocabulary = dict(tokenizer=paths[0]) if paths else dict(vocab_size=80)
        spec = RunSpec("csv", output=output, fold=f"{number}/3", **vocabulary, **common)
        assert train(set_up(spec))["fold"] == f"{number}/3"
        paths.append(str(output))
    return folder, common | dict(teachers=tuple(paths))


def prepared(spec):
    """A run with its teachers' outputs, and the folds of its texts."""
    run = set_up(spec)
    run.train_inputs = encode_training_data(spec, run.data)
    each = list(run.teachers)
    counted = unseen_by(run.spec, run.data, run.train_inputs)
    add_teacher_outputs(run)
    return run, each, counted


def test_each_text_has_the_logits_of_the_teacher_that_has_not_seen_it(teachers, capsys):
    folder, common = teachers
    (folder / "more.txt").write_text("a ship of the moon\nanother probe\n")
    spec = RunSpec("csv", output=folder / "student", unlabelled=folder / "more.txt", **common)
    run, each, counted = prepared(spec)
    assert "2 inputs were seen by none" in capsys.readouterr().out
    assert counted.shape == (3, 50) and (counted[:, :48].sum(axis=0) == 1).all() and counted[:, 48:].all()
    labels, hashes = run.model.config.labels, (run.data.tokenizer.fingerprint, run.train_inputs)
    alone = [teacher_logits(teacher, labels, *hashes, folder / "cache", run.device) for teacher in each]
    for i in range(48):
        (unseen,) = np.flatnonzero(counted[:, i])
        assert np.array_equal(run.teacher_logits[i], alone[unseen][i])
    np.testing.assert_allclose(run.teacher_logits[48:], np.mean(alone, axis=0)[48:], rtol=1e-5)


def test_teachers_that_were_calibrated_are_cross_fitted_all_the_same(teachers, tmp_path, monkeypatch):
    monkeypatch.setattr("kd_scratch.evaluation.calibrate.fit_temperature", lambda predictions: 2.0)
    _, common = teachers
    made = []
    for path in map(Path, common["teachers"]):
        new = tmp_path / path.name
        argv = ["calibrate", "--task", "csv", "--model", str(path), "--dev", str(common["dev"]), "--output", str(new)]
        assert main(argv) == 0 and not (new / "training.json").exists()
        made.append(str(new))
    spec = RunSpec("csv", output=tmp_path / "student", **(common | dict(teachers=tuple(made))))
    folds, records = teacher_folds(spec)
    assert [str(fold) for fold in folds] == [str(Fold(i, 3)) for i in range(3)] and records[0]["task"] == "csv"
    (Path(made[0]) / "calibration.json").write_text("[]")
    with pytest.raises(UserError, match="not trained with the same number of folds"):
        teacher_folds(spec)


def test_the_mean_of_probabilities_is_of_the_runs_temperature_and_of_those_that_count(teachers):
    folder, common = teachers
    (folder / "more.txt").write_text("a ship of the moon\nanother probe\n")
    config = TrainConfig(**FAST, teacher_mean="probabilities", temperature=3.0)
    spec = RunSpec("csv", output=folder / "s", unlabelled=folder / "more.txt", **(common | dict(config=config)))
    run, each, counted = prepared(spec)
    labels, hashes = run.model.config.labels, (run.data.tokenizer.fingerprint, run.train_inputs)
    alone = [teacher_logits(teacher, labels, *hashes, folder / "cache", run.device) for teacher in each]
    powers = np.exp(np.stack(alone, dtype=np.float64) / 3)  # K,N,C
    mean = np.mean(powers / powers.sum(axis=2, keepdims=True), axis=0, where=counted[:, :, None])
    np.testing.assert_allclose(run.teacher_logits, 3 * np.log(mean), rtol=1e-5)


def test_altered_copies_belong_to_their_texts(teachers):
    folder, common = teachers
    config = TrainConfig(**FAST, augment=2)
    run, _, counted = prepared(RunSpec("csv", output=folder / "student", **(common | dict(config=config))))
    assert counted.shape == (3, 3 * 48) and np.array_equal(counted, np.tile(counted[:, :48], 3))


def folds_of(monkeypatch, count, record):
    """As if there were so many cross-fitted teachers with this record."""
    found = [Fold(i, count) for i in range(count)], [{"data settings": {}} | record] * count
    monkeypatch.setattr(cross_fitting, "teacher_folds", lambda spec: found)


def test_a_name_that_looks_like_that_of_a_copy_is_still_its_own(monkeypatch):
    """Questions have ids of their own: q~3 is one beside q, and q~3~1 its copy."""
    squad = TASKS["squad"]
    own = [Question(name, "?", context) for name, context in (("q", "a"), ("q~3", "d"), ("r", "b"), ("s", "e"))]
    numbers = fold_numbers(squad, own, 2).tolist()
    assert set(numbers[:2]) == {0, 1}, "the first two are of different folds"
    folds_of(monkeypatch, 2, {"train": "x", "task": "squad"})
    data = TrainingData(squad, own, [], (), None, {"train": "x"}, [], own=own)
    spec = RunSpec("squad", Path("x"), "10%", "", Path("y"), teachers=("a", "b"))
    counted = unseen_by(spec, data, SimpleNamespace(ids=["q", "q~3", "r", "q~1", "q~3~1", "s~2", "other"]))
    of_input = [numbers[i] for i in (0, 1, 2, 0, 1, 3)]
    assert counted[:, :6].argmax(axis=0).tolist() == of_input and (counted[:, :6].sum(axis=0) == 1).all()
    assert counted[:, 6].all()


def test_text_of_the_training_file_that_stands_in_another_is_unseen_by_one_teacher_only(teachers, tmp_path):
    """As where the texts with labels were drawn from those without."""
    folder, common = teachers
    texts = [example.text for example in read_csv(folder / "train.csv", "", DataConfig())]
    (tmp_path / "all.txt").write_text("\n".join([*texts, "a ship of the moon"]) + "\n")
    spec = RunSpec("csv", output=tmp_path / "student", unlabelled=tmp_path / "all.txt", **common)
    run, _, counted = prepared(spec)
    of_text = dict(zip(texts, counted.T.tolist(), strict=False))
    assert counted.shape == (3, 97) and counted[:, 96].all()
    assert [column.tolist() for column in counted[:, 48:96].T] == [of_text[text] for text in texts]
    (tmp_path / "x").mkdir()
    same_name = tmp_path / "x" / "train.csv"
    same_name.write_text("text\na ship\n")
    with pytest.raises(UserError, match="has the name of --train, by which texts are told apart; rename it"):
        prepared(replace(spec, unlabelled=same_name))
    renamed = same_name.rename(tmp_path / "x" / "more.csv")
    assert prepared(replace(spec, unlabelled=renamed))[2][:, 48:].all()


@pytest.mark.parametrize("documents", [True, False])
def test_a_sentence_of_the_training_file_is_found_in_another_by_its_words(sentences, tmp_path, monkeypatch, documents):
    task, own = TASKS["conll"], sentences(documents)[::4]
    (tmp_path / "more.txt").write_text("".join(f"Ada sings {i}\n" for i in range(11)))
    more = task.read_unlabelled(tmp_path / "more.txt", DataConfig(), print, "--unlabelled")
    drawn = drawn_by_text(task, own)
    folds_of(monkeypatch, 3, {"train": "x", "task": "conll", "drawn by text": drawn})
    data = TrainingData(task, Concat(own, more), [], (), None, {"train": "x"}, [], own=own)
    spec = RunSpec("conll", Path("train.txt"), "10%", "", Path("y"), teachers=("a", "b", "c"))
    counted = unseen_by(spec, data, SimpleNamespace(ids=[example.id for example in data.examples]))
    assert (counted[:, :10].sum(axis=0) == 1).all() and counted[:, 20].all()
    assert np.array_equal(counted[:, 10:20], counted[:, :10])


def test_a_sentence_in_documents_of_several_folds_is_known_to_every_teacher(sentences, monkeypatch):
    task, own = TASKS["conll"], sentences(documents=True)
    more = [replace(example, id=f"more.txt:{i}") for i, example in enumerate(own[::4])]
    folds_of(monkeypatch, 3, {"train": "x", "task": "conll"})
    data = TrainingData(task, Concat(own, more), [], (), None, {"train": "x"}, [], own=own)
    spec = RunSpec("conll", Path("train.txt"), "10%", "", Path("y"), teachers=("a", "b", "c"))
    counted = unseen_by(spec, data, SimpleNamespace(ids=[example.id for example in data.examples]))
    folds = counted[:, :40].argmax(axis=0).reshape(10, 4)  # of the four documents that each sentence stands in
    alone = (folds == folds[:, :1]).all(axis=1)
    assert (counted[:, :40].sum(axis=0) == 1).all() and not alone.all()
    assert counted[:, 40:].sum(axis=0).tolist() == np.where(alone, 1, 3).tolist()


def test_documents_are_told_apart_by_the_name_that_the_teachers_knew(monkeypatch):
    sentences = [Sentence(str(i), ("x",), ("O",), document=f"train.txt:{i}") for i in range(4)]
    folds_of(monkeypatch, 2, {"train": "x", "task": "conll", "sources": {"train": "train.txt"}})
    data = TrainingData(TASKS["conll"], sentences, [], (), None, {"train": "x"}, [], own=sentences)
    spec = RunSpec("conll", Path("x/train.txt"), "10%", "", Path("y"), teachers=("a", "b"))
    inputs = SimpleNamespace(ids=list("0123"))
    assert (unseen_by(spec, data, inputs).sum(axis=0) == 1).all()
    with pytest.raises(UserError, match="--teacher a: knew x/eng.train as train.txt; rename it so"):
        unseen_by(replace(spec, train=Path("x/eng.train")), data, inputs)


def test_texts_whose_labels_no_teacher_had_are_unseen_by_all(teachers, tmp_path):
    """Teachers and student with the same tenth of the labels; with other labels only the fold counts."""
    folder, common = teachers
    config = TrainConfig(**FAST, labelled="25%")
    paths = []
    for number in (1, 2):
        more = dict(config=config, teachers=(), tokenizer=common["teachers"][0], fold=f"{number}/2")
        paths.append(str(tmp_path / f"teacher-{number}"))
        train(set_up(RunSpec("csv", output=Path(paths[-1]), **(common | more))))
    student = common | dict(config=config, teachers=tuple(paths))
    run, _, counted = prepared(RunSpec("csv", output=tmp_path / "student", **student))
    assert counted.shape == (2, 48) and counted.all(axis=0).tolist() == (~run.data.has_label).tolist()
    assert run.data.has_label.sum() == 12 and run.identity["teacher folds"] == "1/2 2/2 of these labels"
    _, _, counted = prepared(RunSpec("csv", output=tmp_path / "student", **student, run=RunConfig(seed=1)))
    assert (counted.sum(axis=0) == 1).all(), "another seed has other labels"
    _, _, counted = prepared(RunSpec("csv", output=tmp_path / "student", **(student | dict(dev="10%"))))
    assert (counted.sum(axis=0) == 1).all(), "and what another dev leaves"
    limited = student | dict(data=DataConfig(limit="90%"))
    _, _, counted = prepared(RunSpec("csv", output=tmp_path / "student", **limited))
    assert (counted.sum(axis=0) == 1).all(), "and another limit"
    for path in paths:
        record = json.loads((Path(path) / "training.json").read_text())
        (Path(path) / "training.json").write_text(json.dumps(record | {"dev drawn by": "article"}))
    _, _, counted = prepared(RunSpec("csv", output=tmp_path / "student", **student))
    assert (counted.sum(axis=0) == 1).all(), "and where dev was drawn otherwise"


def test_what_decides_whose_soft_targets_count_is_part_of_a_run(teachers, tmp_path):
    """It stands in the teachers' records, beside weights that stay the same."""
    folder, common = teachers
    copies = [shutil.copytree(path, tmp_path / Path(path).name) for path in common["teachers"]]
    spec = RunSpec("csv", output=tmp_path / "student", **(common | dict(teachers=tuple(map(str, copies)))))
    before = set_up(spec).identity
    assert before["teacher folds"] == "1/3 2/3 3/3"
    for path, fold in zip(copies, ("2/3", "1/3", "3/3"), strict=True):
        record = json.loads((path / "training.json").read_text())
        (path / "training.json").write_text(json.dumps(record | {"fold": fold}))
    assert changes(before, set_up(spec).identity) == ["teacher folds was 1/3 2/3 3/3, is 2/3 1/3 3/3"]


def test_teachers_that_do_not_belong_together_are_refused(teachers, tmp_path):
    folder, common = teachers
    one, two, three = common["teachers"]
    whole = train(set_up(RunSpec("csv", output=tmp_path / "whole", **(common | dict(teachers=(), tokenizer=one)))))
    assert whole["fold"] is None
    alone = str(tmp_path / "whole")
    spec = {
        paths: RunSpec("csv", output=tmp_path / "x", **(common | dict(teachers=paths)))
        for paths in ((one, two), (one, two, three, alone), (alone,))
    }
    with pytest.raises(UserError, match="no teacher was trained with --fold 3/3; train it, and give it too"):
        teacher_folds(spec[one, two])
    with pytest.raises(UserError, match="not trained with the same number of folds"):
        teacher_folds(spec[one, two, three, alone])
    assert teacher_folds(spec[(alone,)]) is None
    idle = TrainConfig(**FAST, alpha=0, losses="hidden")
    run = set_up(RunSpec("csv", output=tmp_path / "x", **(common | dict(teachers=(one,), config=idle))))
    assert run.identity["teacher folds"] is None, "without soft targets no fold counts"
    other = common | dict(train=Path(write_csv(tmp_path / "other.csv", 30, seed=5)))
    with pytest.raises(UserError, match="was trained on a fold of another file"):
        prepared(RunSpec("csv", output=tmp_path / "y", **other))
    older = tmp_path / "older"  # of a version whose folds were drawn by number
    shutil.copytree(one, older)
    record = json.loads((older / "training.json").read_text())
    assert record.pop("drawn by text") is True
    (older / "training.json").write_text(json.dumps(record))
    spec = RunSpec("csv", output=tmp_path / "z", **(common | dict(teachers=(str(older), two, three))))
    with pytest.raises(UserError, match="older: was trained on a fold of another file"):
        prepared(spec)
    record = json.loads(Path(two, "training.json").read_text())
    settings = record["data settings"]
    for flag, changed in {
        "task 'agnews'": {"task": "agnews"},
        "text-column 'title'": {"data settings": settings | {"text_column": "title"}},
        "": {
            "data settings": settings
            | {"limit": "10", "label_threshold": 0.5, "encoding": "utf-8", "of": "a later version"}
            | {"label_separator": ",", "tag_names": "O,B-A", "oos": True, "context_column": "body"}  # of other tasks
        },
    }.items():
        (older / "training.json").write_text(json.dumps(record | {"fold": "1/3"} | changed))
        refusal = pytest.raises(UserError, match=f"older: read .*train.csv with --{flag}; give the same")
        with refusal if flag else nullcontext():
            prepared(spec)


def test_a_model_that_has_learned_what_a_fold_leaves_out_does_not_begin_it(teachers, tmp_path):
    """Its teacher is remarked: what it says of other texts is not quite without them."""
    _, common = teachers
    one, *others = common["teachers"]
    alone = common | dict(model=one, teachers=())
    for wrong in ("2/3", "1/4"):
        with pytest.raises(UserError, match=f"--model {one}: has learned the texts that --fold {wrong} leaves out"):
            set_up(RunSpec("csv", output=tmp_path / "x", fold=wrong, **alone))
    set_up(RunSpec("csv", output=tmp_path / "x", fold="1/3", **alone))
    set_up(RunSpec("csv", output=tmp_path / "x", fold="2/3", **(alone | dict(train=Path(common["dev"])))))
    notes = set_up(RunSpec("csv", output=tmp_path / "x", fold="1/3", **common)).data.notes
    assert [note.split()[1][:-1] for note in notes if "has learned the texts that --fold 1/3" in note] == others
