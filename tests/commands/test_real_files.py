"""Two steps of a tiny teacher and of its student on each real file, whole: what a small made file does not show."""

import json
from dataclasses import replace

import pytest

from kd_scratch.__main__ import main
from kd_scratch.config import SIZES

STEPS = ["--steps", "2", "--looks", "1", "--max-length", "128", "--device", "cpu", "--threads", "1"]
FILES = [  # task, training file, dev, text without labels, other flags of the student
    ("squad", "policyqa/dev.json", "10%", None, ["--cloze", "1"]),
    ("agnews", "ag_news_csv/train.csv", "10%", "ag_news_csv/more.tsv", []),
    ("clinc", "clinc150/data_full.json", "clinc150/data_full.json", "intents_unlabelled.txt", ["--labelled", "10%"]),
    ("conll", "conll2003/valid.txt", "10%", "conll2003/test.txt", ["--losses", "relations"]),
    ("csv", "glue/MRPC/train.tsv", "glue/MRPC/dev.tsv", None, ["--augment", "1", "--epochs", "1"]),
]  # fmt: skip


@pytest.mark.parametrize("task, train, dev, text, flags", FILES, ids=[file[0] for file in FILES])
def test_a_student_learns_from_a_real_file(task, train, dev, text, flags, tmp_path, real_data, monkeypatch):
    tiny = replace(SIZES["tiny-student"], width=16, heads=2, feed_forward=16)
    monkeypatch.setitem(SIZES, "tiny-student", tiny)
    dev = dev if dev.endswith("%") else real_data(dev)
    data = ["--task", task, "--train", real_data(train), "--dev", dev, *STEPS, "--cache", tmp_path / "cache"]
    run(*data, "--model", "tiny-student", "--vocab-size", 2000, "--output", tmp_path / "teacher")
    taught = ["--teacher", tmp_path / "teacher", *flags, *(["--unlabelled", real_data(text)] if text else [])]
    run(*data, "--model", tmp_path / "teacher", "--output", tmp_path / "student", *taught)
    record = json.loads((tmp_path / "student" / "training.json").read_text())
    assert [look["steps"] for look in record["history"]] == [2]


def run(*argv):
    assert main(["train", *map(str, argv)]) == 0
