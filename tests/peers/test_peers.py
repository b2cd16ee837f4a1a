"""The benchmarks: what of them needs no other library, in its smallest form. tests/parity runs them whole."""

import json

import pytest
import torch

from data_scripts import make_sample
from kd_scratch.checkpoints.checkpoint import fingerprint, load_model, save_model, take_layers
from kd_scratch.config import DataConfig
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.tasks import TASKS
from tests.conftest import TEXTS, tiny_model
from tests.peers import distillation, featurizing, growth, inference, memory


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A tiny classifier of news, and beside it, in data/, news."""
    folder = tmp_path_factory.mktemp("peers")
    make_sample.make_agnews(folder / "data", rows=300)
    tokenizer = train_tokenizer(TEXTS, vocab_size=120)
    labels = TASKS["agnews"].label_list([])
    save_model(tiny_model(labels=labels, vocab_size=tokenizer.vocab_size, max_positions=128), folder / "teacher")
    tokenizer.save(folder / "teacher", distillation.LENGTH)
    return folder / "teacher"


def test_our_side_of_a_whole_distillation_trains_the_chosen_layers(teacher, tmp_path):
    task = TASKS["agnews"]
    data = teacher.parent / "data" / distillation.FILES["agnews"]
    examples = list(task.read(data, "", DataConfig()))[:40]
    common = task, examples, task.label_list(examples), teacher, tmp_path / "ours", 0, [0, 2]
    (tmp_path / "ours").mkdir()
    seconds, tokens, student = distillation.ours(*common)
    lengths = task.featurize(examples, distillation.load_tokenizer(teacher), common[2], 128, DataConfig()).lengths
    assert seconds > 0 and tokens == 3 * lengths.sum() and student.config.depth == 2
    assert fingerprint(student) != fingerprint(take_layers(load_model(teacher), [0, 2]))
    assert len(list((tmp_path / "ours" / "cache").glob("teacher-logits-*"))) == 1
    score = distillation.score_on(task, student, examples, common[2], teacher, tmp_path)
    assert 0 <= score <= 1


@pytest.mark.parametrize("way", memory.OURS)
def test_our_ways_of_saving_memory_run(teacher, way):
    seconds, megabytes = memory.run(way, teacher, teacher.parent / "data" / memory.FILES["agnews"], [0, 2])
    assert seconds > 0 and megabytes > 50


def test_generated_questions_are_read_and_cut_into_windows(teacher, tmp_path, capsys):
    featurizing.generated(12, tmp_path / "large.json")
    assert len(json.loads((tmp_path / "large.json").read_text())["data"][0]["paragraphs"]) >= 3
    featurizing.main(["--model", str(teacher), "--measure", str(tmp_path / "large.json")])
    assert capsys.readouterr().out.startswith("12 questions, ")


def test_our_sides_of_a_forward_pass_agree_and_are_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "PAUSE", 0)
    inference.make_models(tmp_path, "tiny-teacher", "tiny-student")
    with torch.no_grad():
        calls = inference.our_sides(inference.our_models(tmp_path))
        inference.check(calls)
        times = inference.timed(calls, (1, 8), 2)
    assert {name: values.shape for name, values in times.items()} == dict.fromkeys(calls, (2 * inference.TIMED,))


def test_growth_has_a_row_for_each_number_of_examples(capsys):
    growth.main(["--rows", "40", "--threads", "1"])
    assert "MB anonymous" in (out := capsys.readouterr().out) and out.strip().split("\n")[-1]
