"""epochs.py: which inputs an epoch has, and how many steps it makes; copies that are fresh in every epoch."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import fingerprint, load_model, save_model
from kd_scratch.config import DataConfig, TrainConfig
from kd_scratch.data.batches import epoch_batches
from kd_scratch.study.spec import StudySpec
from kd_scratch.study.variants import baseline_run
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.augment import Altered
from kd_scratch.tasks.token_classification import Example as Sentence
from kd_scratch.training import bookkeeping, loop
from kd_scratch.training.epochs import EVERY, EpochPlan, as_range, epoch_of_inputs, plan_epochs
from kd_scratch.training.examples import TrainingData, encode_training_data, read_training_data
from kd_scratch.training.loop import train_model
from kd_scratch.training.spec import RunSpec
from tests.commands.test_commands import FAST, write_csv
from tests.conftest import tiny_model
from tests.training.test_loop import assert_same_state, change_output, kill_at_saving, make_run

OF_INPUT = np.array([EVERY] * 10 + [0] * 3 + [1] * 11 + [2] * 7)  # 13, 21 and 17 inputs: 4, 6 and 5 batches of 4
LENGTHS = np.random.default_rng(0).integers(3, 30, len(OF_INPUT))


def test_an_epoch_has_what_is_for_all_and_its_own_copies_each_once_and_the_copies_come_round():
    plan = EpochPlan(LENGTHS, 4, 7, OF_INPUT)
    assert plan.inputs.tolist() == [13, 21, 17] and plan.steps.tolist() == [4, 6, 5]
    for epoch in range(8):
        seen = np.concatenate(plan.batches(epoch))
        wanted = np.flatnonzero((OF_INPUT == EVERY) | (OF_INPUT == epoch % 3))
        assert np.array_equal(np.sort(seen), wanted) and len(plan.batches(epoch)) == plan.steps[epoch % 3]
    orders = [np.concatenate(plan.batches(epoch)).tolist() for epoch in (0, 3)]
    assert orders[0] != orders[1], "the same inputs in another order"


def test_steps_and_epochs_are_found_from_each_other():
    plan = EpochPlan(LENGTHS, 4, 7, OF_INPUT)
    of_step = [epoch for epoch in range(7) for _ in plan.batches(epoch)]
    assert [plan.epoch_of(step) for step in range(len(of_step))] == of_step
    assert [plan.steps_before(epoch) for epoch in range(7)] == [of_step.index(epoch) for epoch in range(7)]


def test_without_copies_all_epochs_are_alike():
    plan = EpochPlan(LENGTHS, 4, 7, np.full(31, EVERY))
    assert plan.inputs.tolist() == [31] and plan.steps_before(5) == 40 and plan.epoch_of(39) == 4
    for mine, usual in zip(plan.batches(4), epoch_batches(LENGTHS, 4, 7, 4), strict=True):
        assert np.array_equal(mine, usual)


def test_names_tell_the_epoch_and_what_only_looks_like_a_copy_is_none():
    names = ["q", "q~7", "r~1", "q~1", "q~7~1", "r~1~1", "q~2", "q~7~2", "r~1~2", "q~3", "q~7~3", "r~1~3"]
    assert epoch_of_inputs(names, "q", 1).tolist() == [EVERY] * 3 + [0] * 3 + [1] * 3 + [2] * 3
    assert epoch_of_inputs(["a", "b", "a~1", "b~1", "a~2", "b~2"], "a", 2).tolist() == [EVERY] * 2 + [0] * 4
    assert as_range(np.array([3, 1, 2])) == "1 to 3" and as_range(np.array([1875])) == "1,875"


@pytest.mark.parametrize("documents", [False, True])
def test_windows_over_documents_belong_to_the_epoch_of_their_sentences(tokenizer, documents):
    words = "the quick brown fox jumps over the lazy dog".split()
    sentences = [Sentence(f"s:{i}", tuple(words[: 2 + i % 7]), ("O",) * (2 + i % 7), f"d{i // 8}") for i in range(24)]
    conll, epochs = TASKS["conll"], 3
    both = [*sentences, *Altered(sentences, 2 * epochs, conll, tokenizer)]
    inputs = conll.featurize(both, tokenizer, ("O",), 16, DataConfig(documents=documents, overlap=4))
    own = len(conll.featurize(sentences, tokenizer, ("O",), 16, DataConfig(documents=documents, overlap=4)))
    config = TrainConfig(augment=2, epochs=epochs, batch_size=4)
    spec = RunSpec("conll", "", "10%", "", "", config=config)
    plan = plan_epochs(spec, TrainingData(conll, sentences, [], ("O",), tokenizer, {}, []), inputs)
    assert (plan.of_input[:own] == EVERY).all() and (np.diff(plan.of_input[own:]) >= 0).all()
    assert sum(plan.inputs) == len(inputs) + 2 * own and max(plan.of_input) == epochs - 1
    for epoch in range(epochs):
        names = {inputs.ids[i].split("~")[1] for i in np.flatnonzero(plan.of_input == epoch)}
        assert names == {str(2 * epoch + 1), str(2 * epoch + 2)}


@pytest.mark.parametrize("looks, saves, steps", [*((n % 3, n, 0) for n in range(1, 9)), (0, 9, 14), (5, 9, 14)])
def test_a_killed_run_with_copies_of_each_epoch_ends_bit_equal(tmp_path, tokenizer, monkeypatch, looks, saves, steps):
    """Epochs of 2, 3 and 2 steps; --steps 14 goes round twice. Killed at each saving: at the start, after each step."""
    of_input = np.array([EVERY] * 10 + [0] * 3 + [1] * 7 + [2] * 4)

    def new_run(**changed):
        settings = dict(epochs=3, steps=steps, looks=looks, accumulation=2, warmup_steps=3)
        run = replace(make_run(tmp_path, tokenizer, dropout=0.1, teacher=True, **settings), **changed)
        run.plan = EpochPlan(run.train_inputs.lengths, 8, run.spec.run.seed, of_input)
        return run

    monkeypatch.setattr(bookkeeping, "SAVE_EVERY", -1)
    whole, part = new_run(), new_run()
    expected = train_model(whole)
    assert expected.step == (steps or 7)
    if not looks and not steps:
        assert [epoch["steps"] for epoch in expected.history] == [2, 3, 2]

    kill_at_saving(monkeypatch, part, saves)
    again = new_run(resume=True)
    again = change_output(again, part.spec.output)
    again.plan = whole.plan
    done = train_model(again)
    assert fingerprint(again.model) == fingerprint(whole.model)
    assert [(h["loss"], h["dev"]) for h in done.history] == [(h["loss"], h["dev"]) for h in expected.history]
    assert_same_state(whole, again)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Data, a teacher, and the flags of a distillation."""
    folder = tmp_path_factory.mktemp("epochs")
    data = ["--task", "csv", "--train", write_csv(folder / "train.csv", 30)]
    data += ["--dev", write_csv(folder / "dev.csv", 12, 1), *FAST, "--cache", str(folder / "cache")]
    argv = ["train", *data, "--model", "tiny-student", "--vocab-size", "80", "--output", str(folder / "teacher")]
    assert main(argv) == 0
    teacher = str(folder / "teacher")
    return folder, ["train", *data, "--model", teacher, "--teacher", teacher]


def record(folder) -> dict:
    return json.loads((folder / "training.json").read_text())


def test_copies_of_all_epochs_are_tokenized_and_taught_once_for_all_seeds(files, capsys):
    folder, argv = files
    argv = [*argv, "--augment", "2"]
    assert main([*argv, "--output", str(folder / "first")]) == 0
    said = capsys.readouterr().out
    assert "csv: 30 training examples, 12 to choose" in said
    assert ": 150 inputs (" in said and "of which an epoch has 90, 12 dev, 2 epochs of 12 steps" in said
    assert "teacher's logits for 150 inputs: computed once" in said
    assert record(folder / "first")["step"] == 24
    before = sorted((folder / "cache").iterdir())
    assert main([*argv, "--seed", "1", "--output", str(folder / "second")]) == 0
    said = capsys.readouterr().out
    assert "teacher's logits for 150 inputs: read from" in said and sorted((folder / "cache").iterdir()) == before
    assert main([*argv, "--losses", "hidden", "--alpha", "0.5", "--steps", "30", "--output", str(folder / "live")]) == 0
    assert "30 steps, 12 in an epoch" in capsys.readouterr().out
    assert [epoch["steps"] for epoch in record(folder / "live")["history"]] == [12, 12, 6]


def test_the_name_of_the_training_file_is_part_of_what_is_kept(files):
    """Ids begin with it: with those of a file of another name, the copies of an epoch would not be found."""
    folder, argv = files
    other = folder / "renamed.csv"
    other.write_bytes((folder / "train.csv").read_bytes())
    for name in ("train", "renamed"):
        named = [str(other) if word == str(folder / "train.csv") and name == "renamed" else word for word in argv]
        assert main([*named, "--augment", "2", "--output", str(folder / f"of-{name}")]) == 0
        assert record(folder / f"of-{name}")["step"] == 24


@pytest.mark.parametrize("looks", [0, 1, 3])
def test_other_words_are_masked_in_every_epoch_however_often_dev_is_looked_at(looks, tmp_path, monkeypatch):
    text, epochs = tmp_path / "text.txt", []
    text.write_text("the quick fox jumps over a lazy dog\n" * 12)
    sampler = loop.MaskedLMSampler
    monkeypatch.setattr(loop, "MaskedLMSampler", lambda seed, epoch: epochs.append(epoch) or sampler(seed, epoch))
    argv = ["train", "--task", "mlm", "--train", text, "--dev", text, "--model", "tiny-student", "--vocab-size", 60]
    more = ["--batch-size", 4, "--epochs", 2, "--max-length", 16, "--looks", looks, "--output", tmp_path / "run"]
    assert main(list(map(str, [*argv, *more, "--cache", tmp_path]))) == 0
    assert epochs == 6 * [0] + 6 * [1]


def test_the_baseline_of_a_study_makes_exactly_as_many_steps(files):
    folder, argv = files
    config = TrainConfig(augment=1, epochs=3, batch_size=7, max_length=24, looks=2)
    teacher = str(folder / "teacher")
    csv, dev = folder / "train.csv", str(folder / "dev.csv")
    spec = RunSpec("csv", csv, dev, teacher, folder / "x", (teacher,), cache=folder / "cache", config=config)
    assert baseline_run(StudySpec(spec, csv)).config.steps == 3 * 9
    data = read_training_data(spec, TASKS["csv"])
    assert plan_epochs(spec, data, encode_training_data(spec, data)).inputs.tolist() == [60] * 3


def test_another_augment_model_makes_other_features_and_is_another_run(files, capsys, monkeypatch):
    folder, argv = files
    teacher = load_model(folder / "teacher")
    words = folder / "words"
    for seed in (1, 2):
        save_model(tiny_model("mlm", vocab_size=teacher.config.vocab_size, seed=seed), words)
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (words / name).write_bytes((folder / "teacher" / name).read_bytes())
        before = len(list((folder / "cache").glob("features-*")))
        more = ["--augment", "1", "--augment-model", str(words), "--output", str(folder / f"words-{seed}")]
        assert main([*argv, *more]) == 0
        said = capsys.readouterr().out
        assert "words are proposed for 60 copies, 2 of each text" in said
        assert len(list((folder / "cache").glob("features-*"))) == before + 1
    (words / "README.md").write_text("which is no part of the model")
    assert main([*argv, *more[:-1], str(folder / "words-again"), "--seed", "3"]) == 0
    assert "words are proposed" not in capsys.readouterr().out, "they are in the cache"
    monkeypatch.setattr("torch.__version__", "another")
    assert main([*argv, *more[:-1], str(folder / "words-elsewhere")]) == 0
    assert "words are proposed" in capsys.readouterr().out, "another version may propose others"
    hashes = [record(folder / f"words-{seed}")["augment model"] for seed in (1, 2)]
    assert len(set(hashes)) == 2
    assert main([*argv, *more[2:-1], str(folder / "x")]) == 2
    assert "--augment-model is about --augment; give --augment 1 (say)" in capsys.readouterr().err
    assert main([*argv, *more[:3], str(folder / "nothing"), "--output", str(folder / "x")]) == 2
    assert "nothing: no such model directory" in capsys.readouterr().err
    assert main([*argv, *more[:3], str(folder / "teacher"), "--output", str(folder / "x")]) == 2
    assert "has a sequence head, it needs one for masked words" in capsys.readouterr().err
