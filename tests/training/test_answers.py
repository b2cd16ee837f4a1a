"""answers.py and distillation/answer_file.py: a teacher's answers, written to a file, teach as the teacher does."""

import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_scripts import make_sample
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import fingerprint, load_model, save_model
from kd_scratch.common.console import hush
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.data.batches import collate
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.distillation.losses import distillation_loss, partly_taught_loss
from kd_scratch.distillation.teacher import gather
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.training import answers as training_answers
from kd_scratch.training import bookkeeping
from kd_scratch.training.examples import encode_training_data
from kd_scratch.training.run import more_notes
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import RunSpec
from kd_scratch.training.teacher_outputs import add_teacher_outputs
from tests.commands.test_commands import write_csv
from tests.conftest import tiny_model, units

CPU = torch.device("cpu")
LABELS = ("space", "sport", "trade")
TAGS = ("O", *(f"{letter}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for letter in "BI"))
USUAL = ["--device", "cpu", "--threads", "1", "--quiet"]


def save_teacher(folder: Path, name: str, head: str, texts, seed: int, labels=LABELS) -> str:
    """A random teacher and its tokenizer, which is the same for all of a folder."""
    tokenizer = train_tokenizer(texts, vocab_size=150)
    save_model(tiny_model(head, labels, seed=seed, vocab_size=tokenizer.vocab_size, max_positions=64), folder / name)
    tokenizer.save(folder / name, max_length=48)
    return str(folder / name)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with data of the three kinds, and two random teachers for each."""
    folder = tmp_path_factory.mktemp("answers")
    write_csv(folder / "train.csv", 30)
    write_csv(folder / "dev.csv", 9, seed=1)
    (folder / "more.txt").write_text("a moon of the team\nprofit and shares\n")
    make_sample.make_conll(folder, rows=40)
    make_sample.make_squad(folder, rows=40)
    texts = [path.read_text() for path in (folder / "train.csv", folder / "conll2003" / "train.txt")]
    texts.append((folder / "squad" / "train.json").read_text())
    for seed in (1, 2):
        save_teacher(folder, f"csv-{seed}", "sequence", texts, seed, labels=LABELS[::-1])  # in another order
        save_teacher(folder, f"conll-{seed}", "token", texts, seed, labels=TAGS)
        save_teacher(folder, f"squad-{seed}", "span", texts, seed)
    return folder


@pytest.fixture(autouse=True)
def loud():
    """Whatever a command of another test, or of this one, has been told."""
    hush(False)
    yield
    hush(False)


FILES = {
    "csv": ("train.csv", "dev.csv"),
    "conll": ("conll2003/train.txt", "conll2003/valid.txt"),
    "squad": ("squad/train.json", "squad/train.json"),
}


def spec_of(world, tmp_path, task="csv", answers=(), teachers=(), temperature=2.0, **more) -> RunSpec:
    """A run whose student begins as the first teacher of the task."""
    train, dev = FILES[task]
    settings = dict(epochs=1, batch_size=8, learning_rate=1e-3, max_length=48, temperature=temperature)
    config = TrainConfig(**settings | more.pop("config", {}))
    data = more.pop("data", DataConfig(overlap=8))
    more |= {"teachers": tuple(map(str, teachers)), "answers": tuple(map(str, answers)), "cache": tmp_path / "cache"}
    files = world / train, str(world / dev), str(world / f"{task}-1"), tmp_path / "out"
    return RunSpec(task, *files, config=config, data=data, run=RunConfig(device="cpu"), **more)


def prepared(spec: RunSpec):
    """A run with its soft targets."""
    run = set_up(spec)
    run.train_inputs = encode_training_data(spec, run.data, run.data.notes.append)
    add_teacher_outputs(run)
    return run


def answer(world, model, output, *more, task="csv", data=None) -> Path:
    """A file of answers, made on the command line."""
    argv = ["answers", "--task", task, "--data", world / (data or FILES[task][0]), "--model", world / model]
    argv += ["--output", output, "--max-length", 48, "--overlap", 8, *USUAL, *more]
    assert main(list(map(str, argv))) == 0
    hush(False)
    return output


def losses_of(run, alpha: float = 0.7) -> np.ndarray:
    """The loss of a random student on each of the first inputs, by the soft targets of a run."""
    found = []
    for i in range(min(20, len(run.train_inputs))):
        batch = collate(run.train_inputs, np.array([i]), CPU)
        teacher = gather(run.teacher_logits, run.train_inputs, batch)
        student = torch.randn(teacher.shape, generator=torch.Generator().manual_seed(i))
        (z, y), (t, _) = units(run.task.head, student, batch), units(run.task.head, teacher, batch)
        loss = partly_taught_loss if run.partly_taught else distillation_loss
        found.append(float(loss(z, t, y, run.spec.config.temperature, alpha)) / max(1, len(y)))
    return np.array(found)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.0])
@pytest.mark.parametrize("task, data", [
    ("csv", DataConfig()),
    ("conll", DataConfig(overlap=8)),
    ("conll", DataConfig(overlap=8, documents=True)),
])  # fmt: skip
def test_a_file_of_a_teachers_answers_gives_the_losses_of_the_teacher(world, tmp_path, task, data, temperature):
    extra = ["--documents"] * data.documents
    file = answer(world, f"{task}-1", tmp_path / "a.jsonl", *extra, task=task)
    live = prepared(spec_of(world, tmp_path, task, teachers=[world / f"{task}-1"], temperature=temperature, data=data))
    read = prepared(spec_of(world, tmp_path, task, answers=[file], temperature=temperature, data=data))
    assert not read.partly_taught
    # The loss has T² in it, and with it float32's rounding.
    np.testing.assert_allclose(losses_of(read), losses_of(live), rtol=1e-6, atol=1e-6 * temperature)


@pytest.mark.parametrize("task", ["csv", "conll"])
def test_several_files_are_the_mean_of_their_probabilities_as_of_live_teachers(world, tmp_path, task):
    files = [answer(world, f"{task}-{i}", tmp_path / f"{i}.jsonl", task=task) for i in (1, 2)]
    both = dict(teachers=[world / f"{task}-{i}" for i in (1, 2)], config=dict(teacher_mean="probabilities"))
    live = prepared(spec_of(world, tmp_path, task, **both))
    read = prepared(spec_of(world, tmp_path, task, answers=files))
    np.testing.assert_allclose(losses_of(read), losses_of(live), rtol=1e-6, atol=1e-6)


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict]:
    return list(map(json.loads, path.read_text().splitlines()))


def test_answers_for_one_label_are_not_read_from_the_cache_for_several(world, tmp_path, monkeypatch):
    """The same texts, labels and file, but logits of a softmax there and of sigmoids here."""
    run = prepared(spec_of(world, tmp_path, answers=[answer(world, "csv-1", tmp_path / "a.jsonl")]))
    keys = []
    monkeypatch.setattr(training_answers, "load_or_compute", lambda what, key, *more: keys.append(key))
    for labels in (run.train_inputs.labels, np.eye(len(LABELS))[run.train_inputs.labels]):
        run.train_inputs = replace(run.train_inputs, labels=labels)
        training_answers.cached_logits(run, *run.answers)
    assert keys[0] != keys[1]


def test_each_file_counts_for_the_texts_that_it_answers(world, tmp_path):
    """Of two files the second has every other line, in another order, and without ids."""
    first, second = (read_lines(answer(world, f"csv-{i}", tmp_path / f"{i}.jsonl")) for i in (1, 2))
    texts = {row["hash"]: row["probabilities"] for row in second[1::2]}  # some texts are there twice
    half = [{"hash": digits, "probabilities": p} for digits, p in reversed(texts.items())]
    files = [write_lines(tmp_path / "a", first), write_lines(tmp_path / "b", half)]
    run = prepared(spec_of(world, tmp_path, answers=files, temperature=1.0))
    p = torch.from_numpy(np.array(run.teacher_logits)).softmax(-1).numpy()
    for i, row in enumerate(first):
        each = [row["probabilities"], *([texts[row["hash"]]] if row["hash"] in texts else [])]
        expected = np.mean([[one[label] for label in LABELS] for one in each], axis=0)
        np.testing.assert_allclose(p[i], expected, rtol=1e-5)
    assert 10 < sum(row["hash"] in texts for row in first) < 30


def test_a_label_without_answer_teaches_alone_and_a_text_without_both_is_refused(world, tmp_path, capsys):
    rows = read_lines(answer(world, "csv-1", tmp_path / "a.jsonl"))
    few = write_lines(tmp_path / "few", rows[:10])
    known = {row["hash"] for row in rows[:10]}
    run = prepared(spec_of(world, tmp_path, answers=[few]))
    assert run.partly_taught and "inputs have none, they learn from their labels" in capsys.readouterr().out
    whole = prepared(spec_of(world, tmp_path, answers=[tmp_path / "a.jsonl"]))
    mixed, taught, labels = losses_of(run), losses_of(whole), losses_of(run, alpha=0.0)
    for i in range(20):
        np.testing.assert_allclose(mixed[i], taught[i] if rows[i]["hash"] in known else labels[i], rtol=1e-6)
    message = r"have neither label nor answer, the first is train.csv:\d+; write answers for these"
    with pytest.raises(UserError, match=message):
        prepared(spec_of(world, tmp_path, answers=[few], config=dict(labelled="3")))


def test_texts_without_labels_are_answered_by_a_file_of_their_own(world, tmp_path):
    more = world / "more.txt"
    files = [answer(world, "csv-1", tmp_path / "a.jsonl")]
    spec = spec_of(world, tmp_path, answers=files, unlabelled=more)
    with pytest.raises(UserError, match="2 of 32 inputs have neither label nor answer, the first is more.txt:1"):
        prepared(spec)
    files.append(answer(world, "csv-1", tmp_path / "b.jsonl", "--unlabelled", data="more.txt"))
    read = prepared(replace(spec, answers=tuple(map(str, files))))
    live = prepared(spec_of(world, tmp_path, teachers=[world / "csv-1"], unlabelled=more))
    np.testing.assert_allclose(read.teacher_logits - read.teacher_logits.max(1, keepdims=True),
                               live.teacher_logits - live.teacher_logits.max(1, keepdims=True), atol=1e-5)  # fmt: skip


def test_an_answer_to_a_held_out_text_is_not_taken_for_one_of_a_file_of_the_same_name(world, tmp_path):
    """Ids are NAME:LINE, and both files are called train.csv."""
    (tmp_path / "other").mkdir()
    more = tmp_path / "other" / "train.csv"
    more.write_text("text\n" + "".join(f"a ship of moon {i}\n" for i in range(30)))
    files = [answer(world, "csv-1", tmp_path / "a.jsonl")]
    files.append(answer(world, "csv-1", tmp_path / "b.jsonl", "--unlabelled", data=more))
    run = prepared(replace(spec_of(world, tmp_path, answers=files, unlabelled=more), dev="25%"))
    assert len(run.teacher_logits) == len(run.data.examples) and not np.isnan(run.teacher_logits).any()


def test_questions_without_answers_and_tags_too(world, tmp_path):
    squad = world / FILES["squad"][0]
    texts = tmp_path / "more.txt"
    texts.write_text("Ada Berg flew to Torvia .\nNobody did .\n")
    for task, more in (("squad", squad), ("conll", texts)):
        files = [answer(world, f"{task}-1", tmp_path / f"{task}-{i}.jsonl", *extra, task=task, data=data)
                 for i, (data, extra) in enumerate([(None, []), (more, ["--unlabelled"])])]  # fmt: skip
        run = prepared(spec_of(world, tmp_path, task, answers=files, unlabelled=more))
        assert not run.partly_taught and len(run.train_inputs) > 40


def test_lines_about_other_texts_are_refused_or_counted(world, tmp_path, capsys):
    rows = read_lines(answer(world, "csv-1", tmp_path / "a.jsonl"))
    moved = [row | {"hash": f"{i:016x}"} if i == 4 else row for i, row in enumerate(rows)]
    file = write_lines(tmp_path / "moved", moved)
    with pytest.raises(UserError) as refused:
        prepared(spec_of(world, tmp_path, answers=[file]))
    message = "is about another text than train.csv:6 is now; write the answers anew, or delete the line"
    assert str(refused.value) == f"{file}: line 5: {message}"
    file = answer(world, "csv-1", tmp_path / "d.jsonl", data="dev.csv")
    with pytest.raises(UserError, match="no text of --train, where ids are such as train.csv:2; write the answers"):
        prepared(spec_of(world, tmp_path, answers=[write_lines(tmp_path / "e", read_lines(file)[:3])]))
    write_lines(tmp_path / "more", [*rows, {"text": "nobody has written this", "label": "sport"}])
    prepared(spec_of(world, tmp_path, answers=[tmp_path / "more"]))
    assert ": 1 of 31 lines are about texts that are not learned" in capsys.readouterr().out


def test_a_sentence_of_another_number_of_words_is_refused(world, tmp_path):
    rows = read_lines(answer(world, "conll-1", tmp_path / "a.jsonl", task="conll"))
    rows[2]["words"].pop()
    with pytest.raises(UserError, match=r"line 3: has \d+ words, train.txt:\d+ has \d+; give one object a word"):
        prepared(spec_of(world, tmp_path, "conll", answers=[write_lines(tmp_path / "b", rows)]))


# --- spans ---

CONTEXT = "Ada sold the mill in May . The mill stands in Torvia , and May is cold there ."


def spans_run(tmp_path, world, spans, rest=0.0, answers=(), max_length=48):
    """A run over one question, whose answers are these spans."""
    qa = {"id": "q", "question": "when ?", "answers": [{"text": t, "answer_start": CONTEXT.index(t)} for t in answers]}
    paragraph = {"context": CONTEXT, "qas": [qa | {"is_impossible": not answers}]}
    (tmp_path / "q.json").write_text(json.dumps({"version": "v2.0", "data": [{"paragraphs": [paragraph]}]}))
    file = write_lines(tmp_path / "s.jsonl", [{"id": "q", "spans": spans, "rest": rest}])
    spec = spec_of(world, tmp_path, "squad", answers=[file], temperature=1.0, config=dict(max_length=max_length))
    return prepared(replace(spec, train=tmp_path / "q.json", dev=str(tmp_path / "q.json")))


def start_end_mass(run) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """p of starts and ends in each window, S,2, and its labels."""
    inputs, found = run.train_inputs, []
    for start, end in zip(inputs.starts[:-1], inputs.starts[1:], strict=True):
        p = np.exp(run.teacher_logits[start:end].astype(np.float64)) * inputs.allowed[start:end, None]
        np.testing.assert_allclose(p.sum(axis=0), 1, rtol=1e-5)
        found.append(p)
    return found, list(map(tuple, inputs.labels))


@pytest.mark.parametrize("max_length", [64, 24])
@pytest.mark.parametrize("text", ["Torvia", "stands in Torvia", "Ada", ""])
def test_a_sure_span_is_where_the_label_is_in_every_window(world, tmp_path, text, max_length):
    spans = [{"text": text, "probability": 1}]
    run = spans_run(tmp_path, world, spans, answers=[text] if text else [], max_length=max_length)
    found, labels = start_end_mass(run)
    assert (len(found) > 1) == (max_length == 24)
    for p, (first, last) in zip(found, labels, strict=True):
        assert p[first, 0] == p[last, 1] == 1


def test_a_text_that_stands_twice_shares_its_mass_unless_its_start_is_given(world, tmp_path):
    spans = [{"text": "May", "probability": 0.8}, {"text": "", "probability": 0.2}]
    (p,), (label,) = start_end_mass(spans_run(tmp_path, world, spans, answers=["May"], max_length=64))
    assert p[label[0], 0] == pytest.approx(0.4) and p[0, 0] == pytest.approx(0.2) and (p[:, 0] > 0).sum() == 3
    spans[0]["start"] = CONTEXT.rindex("May")
    (p,), (label,) = start_end_mass(spans_run(tmp_path, world, spans, answers=["May"], max_length=64))
    assert p[label[0], 0] == 0 and sorted(p[:, 1])[-2:] == pytest.approx([0.2, 0.8])


def test_the_rest_is_spread_evenly_over_all_positions(world, tmp_path):
    (p,), (label,) = start_end_mass(spans_run(
        tmp_path, world, [{"text": "Torvia", "probability": 0.7}], rest=0.3, answers=["Torvia"], max_length=64
    ))  # fmt: skip
    count = (p[:, 0] > 0).sum()
    assert p[label[0], 0] == pytest.approx(0.7 + 0.3 / count) and sorted(p[:, 1])[-2] == pytest.approx(0.3 / count)


@pytest.mark.parametrize("span", [{"text": "June"}, {"text": "May", "start": 3}, {"text": "May", "start": 10**9}])
def test_a_span_that_does_not_stand_in_the_context_is_refused(world, tmp_path, span):
    with pytest.raises(UserError, match="s.jsonl: line 1: '(June|May)' does not stand (there )?in the context of q"):
        spans_run(tmp_path, world, [span | {"probability": 1}])


def test_all_spans_of_one_window_have_the_starts_and_ends_of_the_model(world, tmp_path):
    """Of the joint distribution over all spans and "no answer", that is; a live teacher's are independent."""
    run = spans_run(tmp_path, world, [{"text": "", "probability": 1}], max_length=64)
    logits = compute_logits(load_model(world / "squad-1"), run.train_inputs, CPU).astype(np.float64)
    at = np.flatnonzero(run.train_inputs.allowed)
    scores = np.triu(logits[at, 0][:, None] + logits[at, 1])
    scores[0, 1:], scores[np.tril_indices(len(at), -1)] = -np.inf, -np.inf  # [CLS] alone is "no answer"
    p = np.exp(scores) / np.exp(scores).sum()
    more = ["--top", 5000, "--answer-length", 64, "--max-length", 64]
    file = answer(world, "squad-1", tmp_path / "a.jsonl", *more, task="squad", data=tmp_path / "q.json")
    run = prepared(replace(run.spec, answers=(str(file),)))
    (found,), _ = start_end_mass(run)
    np.testing.assert_allclose(found[at], np.stack([p.sum(axis=1), p.sum(axis=0)], axis=1), rtol=1e-4)


# --- the run ---


def test_the_second_time_they_are_read_from_the_cache_and_changed_answers_are_not(world, tmp_path, capsys, monkeypatch):
    file = answer(world, "csv-1", tmp_path / "a.jsonl")
    first = prepared(spec_of(world, tmp_path, answers=[file]))
    with monkeypatch.context() as patch:
        patch.setattr("kd_scratch.training.answers.fill_logits", lambda *more: pytest.fail("made again"))
        second = prepared(spec_of(world, tmp_path, answers=[file]))
    assert np.array_equal(first.teacher_logits, second.teacher_logits)
    rows = read_lines(file)
    write_lines(file, [row | {"probabilities": {"space": 1}, "rest": 0} for row in rows])
    third = prepared(spec_of(world, tmp_path, answers=[file]))
    assert not np.array_equal(first.teacher_logits, third.teacher_logits)
    assert third.identity["teacher"] != first.identity["teacher"]


def test_answers_that_change_while_they_are_read_are_refused(world, tmp_path, monkeypatch):
    spec = spec_of(world, tmp_path, answers=[answer(world, "csv-1", tmp_path / "a.jsonl")])
    run = set_up(spec)
    run.train_inputs = encode_training_data(spec, run.data, run.data.notes.append)
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text() + "\n")
    with pytest.raises(UserError, match="a.jsonl: has been changed while it was read; start again"):
        add_teacher_outputs(run)


def train_argv(world, tmp_path, name, *more) -> list[str]:
    argv = ["train", "--task", "csv", "--train", world / "train.csv", "--dev", world / "dev.csv", "--model",
            world / "csv-1", "--output", tmp_path / name, "--cache", tmp_path / "cache", "--batch-size", 8,
            "--learning-rate", "1e-3", "--max-length", 24, *USUAL, *more]  # fmt: skip
    return list(map(str, argv))


def test_a_resumed_run_ends_equal_and_other_answers_are_not_resumed(world, tmp_path, capsys, monkeypatch):
    file = answer(world, "csv-1", tmp_path / "a.jsonl")
    argv = ["--answers", file, "--epochs", 3]
    assert main(train_argv(world, tmp_path, "whole", *argv)) == 0
    real = bookkeeping.save_state

    def interrupted(*arguments):
        real(*arguments)
        if arguments[4].epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(bookkeeping, "save_state", interrupted)
    assert main(train_argv(world, tmp_path, "parts", *argv)) == 130
    monkeypatch.undo()
    text = file.read_text()
    write_lines(file, read_lines(file)[::-1])
    capsys.readouterr()
    assert main(train_argv(world, tmp_path, "parts", *argv, "--resume")) == 2
    assert "teacher" in capsys.readouterr().err
    file.write_text(text)
    assert main(train_argv(world, tmp_path, "parts", *argv, "--resume")) == 0
    assert fingerprint(load_model(tmp_path / "parts")) == fingerprint(load_model(tmp_path / "whole"))


def test_layers_are_chosen_by_answers_too(world, tmp_path):
    file = answer(world, "csv-2", tmp_path / "a.jsonl")
    argv = ["--answers", file, "--init-layers", "auto:1", "--layer-steps", 2, "--steps", 3]
    assert main(train_argv(world, tmp_path, "chosen", *argv)) == 0
    record = json.loads((tmp_path / "chosen" / "training.json").read_text())
    assert record["layer choice"] and record["teacher"] == sha256_of_file(file)


REFUSED = {
    "--losses hidden": "--losses needs a teacher that can be asked",
    "--augment 1": "--augment needs a teacher that can be asked",
    "--fold 1/2": "--fold needs a teacher that can be asked",
    "--teacher x": "--answers takes the place of --teacher; leave one of them out",
    "--alpha 0 --labelled 3": "with an --alpha of 0 nothing is learned from the other texts",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_needs_a_live_teacher_is_refused(world, tmp_path, capsys, flags):
    argv = train_argv(world, tmp_path, "no", "--answers", tmp_path / "a.jsonl", *flags.split())
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert REFUSED[flags] in err and err.count("\n") == 1


def test_more_that_cannot_be(world, tmp_path, capsys):
    spec = spec_of(world, tmp_path, answers=["a", "a"])
    for changed, message in (
        (spec, "--answers: a file is given twice; leave one out"),
        (replace(spec, answers=("",)), "--answers is empty"),
        (replace(spec, answers=("none.jsonl",)), "none.jsonl: no such file"),
        (replace(spec, task="mlm", answers=("a",)), "--answers: other words are masked in every epoch"),
        (replace(spec_of(world, tmp_path, "squad", answers=["a"], config=dict(cloze=1))), "--cloze needs a teacher"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            set_up(changed)


def test_the_command_and_the_table_before_work_tell_what_there_is(world, tmp_path, capsys):
    argv = ["answers", "--task", "csv", "--data", world / "train.csv", "--model", world / "csv-1", "--device", "cpu"]
    argv = [*map(str, argv), "--threads", "1", "--output"]
    assert main([*argv, str(tmp_path / "a.jsonl"), "--top", "2"]) == 0
    first, size, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"answers of {world}/csv-1 (0.0M) to 30 examples of {world}/train.csv, cpu")
    assert size == f"about 0.0 MB for {tmp_path}/a.jsonl" and last.startswith("30 answers, 0.0 MB: ")
    rows = read_lines(tmp_path / "a.jsonl")
    assert all(len(row["probabilities"]) == 2 and 0 < row["rest"] < 0.34 for row in rows)
    assert main([*argv, str(tmp_path / "b.jsonl"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["examples"] == 30 and record["bytes"] == (tmp_path / "b.jsonl").stat().st_size
    for more, message in ((["--top", "-1"], "--top -1: must be 0 or more"), (["--split", "val"], "no splits")):
        assert main([*argv, str(tmp_path / "c.jsonl"), *more]) == 2
        assert message in capsys.readouterr().err
    assert main([*argv, str(world / "train.csv")]) == 2 and "would overwrite" in capsys.readouterr().err
    spec = ["--answers", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--check"]
    assert main([word for word in train_argv(world, tmp_path, "t", *spec) if word != "--quiet"]) == 0
    assert "mean of 2 files' probabilities" in " ".join(capsys.readouterr().out.split())


def write_by_character_n_grams(train: Path, output: Path) -> None:
    """Answers of a teacher of another family: a linear classifier over hashed groups of 2 to 4 characters."""
    rows = [line.rsplit(",", 1) for line in train.read_text().splitlines()[1:]]
    bags = [torch.tensor([zlib.crc32(text[i : i + n].encode()) % 997 for n in (2, 3, 4) for i in range(len(text) - n)])
            for _, text in rows]  # fmt: skip
    torch.manual_seed(0)
    model = torch.nn.EmbeddingBag(997, 3, mode="mean")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    gold = torch.tensor([LABELS.index(label) for label, _ in rows])
    offsets = torch.tensor([0, *map(len, bags[:-1])]).cumsum(0)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(model(torch.cat(bags), offsets), gold)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    p = model(torch.cat(bags), offsets).softmax(-1).tolist()
    write_lines(output, [{"text": text.strip('"'), "probabilities": dict(zip(LABELS, row, strict=True))}
                         for (_, text), row in zip(rows, p, strict=True)])  # fmt: skip


def test_a_student_learns_from_a_teacher_of_another_family(tmp_path, world):
    write_csv(tmp_path / "train.csv", 150, seed=5)
    write_csv(tmp_path / "dev.csv", 60, seed=6)
    write_by_character_n_grams(tmp_path / "train.csv", tmp_path / "grams.jsonl")
    scores = {}
    for name, more in (("alone", []), ("taught", ["--answers", tmp_path / "grams.jsonl"])):
        argv = train_argv(world, tmp_path, name, "--labelled", 6, "--steps", 120, "--looks", 1, "--alpha", 0.9, *more)
        for flag in ("train", "dev"):
            argv[argv.index(f"--{flag}") + 1] = str(tmp_path / f"{flag}.csv")
        assert main(argv) == 0
        scores[name] = json.loads((tmp_path / name / "training.json").read_text())["best_score"]
    assert scores["taught"] > scores["alone"] + 0.15, scores


# --- a live teacher with another tokenizer ---


def save_with_other_pieces(world, folder: Path, task: str) -> Path:
    """The random teacher of a task once more, with fewer pieces."""
    texts = [(world / "train.csv").read_text(), (world / "conll2003" / "train.txt").read_text()]
    tokenizer = train_tokenizer(texts, vocab_size=100)
    head, labels = {"csv": ("sequence", LABELS), "conll": ("token", TAGS)}[task]
    save_model(tiny_model(head, labels, seed=7, vocab_size=tokenizer.vocab_size, max_positions=64), folder)
    tokenizer.save(folder, max_length=48)
    return folder


def test_a_classifier_with_other_pieces_teaches_live_as_its_answers_do(world, tmp_path, capsys):
    teacher = save_with_other_pieces(world, tmp_path / "other", "csv")
    live = prepared(spec_of(world, tmp_path, teachers=[teacher, world / "csv-1"], config=dict(augment=1)))
    assert f"--teacher {teacher}: reads the texts with a tokenizer of its own" in capsys.readouterr().out
    assert len(live.teacher_logits) == 60, "copies too"
    alone = prepared(spec_of(world, tmp_path, teachers=[teacher]))
    read = prepared(spec_of(world, tmp_path, answers=[answer(world, teacher, tmp_path / "a.jsonl")]))
    np.testing.assert_allclose(losses_of(alone), losses_of(read), rtol=1e-6, atol=1e-6)
    same = prepared(spec_of(world, tmp_path, teachers=[world / "csv-1"]))
    assert same.identity["teacher tokenizer"] != alone.identity["teacher tokenizer"]
    np.testing.assert_allclose(live.teacher_logits[:30], (alone.teacher_logits + same.teacher_logits) / 2, atol=1e-6)


def test_several_files_have_a_mean_and_one_has_none(world, tmp_path):
    files = [answer(world, world / "csv-1", tmp_path / f"{name}.jsonl") for name in "ab"]
    for answers in (files, files[:1]):
        run = set_up(spec_of(world, tmp_path, answers=answers, config=dict(teacher_mean="probabilities")))
        notes = more_notes(run, True, 100)
        assert any("there is no mean" in note for note in notes) == (len(answers) == 1)


@pytest.mark.parametrize("task, more", [("conll", {}), ("csv", dict(config=dict(losses="hidden")))])
def test_where_tokens_are_compared_they_must_be_the_same(world, tmp_path, task, more):
    teacher = save_with_other_pieces(world, tmp_path / "other", task)
    with pytest.raises(UserError, match="its tokenizer differs from the student's") as refused:
        set_up(spec_of(world, tmp_path, task, teachers=[teacher], **more))
    cure = f"or give its answers (`answers --model {teacher}`) to --answers"
    assert str(refused.value).endswith(cure) == (task == "conll")
