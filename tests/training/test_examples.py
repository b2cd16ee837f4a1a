"""What a run learns from: which labels of --labelled it has, and which vocabulary."""

import json
from pathlib import Path

import pytest

from kd_scratch import save_model
from kd_scratch.config import RunConfig, TrainConfig
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.tasks import TASKS
from kd_scratch.training.examples import encode_training_data, read_training_data
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import RunSpec
from tests.commands.test_commands import write_csv
from tests.conftest import tiny_model


def labelled_ids(tmp_path, seed: int) -> list[str]:
    path = Path(write_csv(tmp_path / "train.csv", 40))
    config, run = TrainConfig(labelled="25%"), RunConfig(seed=seed)
    spec = RunSpec("csv", path, str(path), "tiny-student", tmp_path, vocab_size=80, config=config, run=run)
    data = read_training_data(spec, TASKS["csv"])
    assert "--labelled 25%: 10 examples have a label, 30 have none" in data.notes
    return [example.id for example in data.examples]


def test_each_seed_has_labels_of_its_own(tmp_path):
    drawn = {seed: labelled_ids(tmp_path, seed) for seed in (0, 1, 2)}
    assert all(len(ids) == 10 for ids in drawn.values())
    assert len({tuple(ids) for ids in drawn.values()}) == 3
    assert drawn[1] == labelled_ids(tmp_path, 1), "the same ones in every run"


@pytest.mark.parametrize("shape, of_teacher, of_student", [
    ({}, True, True), ({}, False, False), (dict(model_type="distilbert", token_types=0), False, True),
])  # fmt: skip
def test_a_baseline_of_a_size_has_the_token_types_that_a_distilled_student_has(tmp_path, shape, of_teacher, of_student):
    """Those of its teacher, whose tokenizer it has, where that one tells types apart."""
    path, teacher = tmp_path / "train.csv", tmp_path / "teacher"
    path.write_text("label,text,more\nno,the fox,a dog\nyes,a dog,the fox\n" * 4)
    tokenizer = train_tokenizer([path.read_text()], vocab_size=90)
    tokenizer.has_token_types = of_teacher
    save_model(
        tiny_model(labels=("no", "yes"), vocab_size=tokenizer.vocab_size, pairs=True, **shape), teacher, tokenizer
    )
    common = dict(dev=str(path), model="tiny-student", output=tmp_path / "out", tokenizer=str(teacher), max_length=24)
    common |= dict(text_column="text,more", cache=tmp_path / "cache", device="cpu", threads=1)
    for teachers in ((), (str(teacher),)):
        run = set_up(RunSpec.of("csv", train=path, teachers=teachers, **common))
        assert run.identity["token types"] == of_student, teachers
    (tmp_path / "alone").mkdir()
    tokenizer.save(tmp_path / "alone", max_length=24)
    common["tokenizer"] = str(tmp_path / "alone")
    assert set_up(RunSpec.of("csv", train=path, **common)).identity["token types"], "no model says otherwise"


def test_a_vocabulary_that_is_asked_for_is_learned_beside_a_teacher_too(tmp_path):
    path, teacher = Path(write_csv(tmp_path / "train.csv", 40)), tmp_path / "teacher"
    save_model(
        tiny_model(labels=("no", "yes"), vocab_size=90), teacher, train_tokenizer([path.read_text()], vocab_size=90)
    )
    common = dict(teachers=(str(teacher),), config=TrainConfig(), run=RunConfig())
    sizes = {}
    for asked in (None, 60):
        spec = RunSpec("csv", path, str(path), "tiny-student", tmp_path, vocab_size=asked, **common)
        sizes[asked] = read_training_data(spec, TASKS["csv"]).tokenizer
    assert sizes[None].fingerprint == load_tokenizer(teacher).fingerprint
    assert sizes[60].vocab_size <= 60 < sizes[None].vocab_size


def test_dev_holds_whole_articles_where_there_are_at_least_ten(tmp_path):
    """Else paragraphs of one stand on both sides, and the best epoch is the one that knows them best."""

    def split(titles, count=6):
        answers, path = [{"text": "fox", "answer_start": 4}], tmp_path / "train.json"
        shared = {"question": "where", "answers": answers}
        contexts = [f"the fox {i // 2} jumps" for i in range(6 * len(titles) - 6 + count)]
        titles_of = [titles[min(i // 6, len(titles) - 1)] for i in range(len(contexts))]
        rows = [
            shared | dict(id=i, context=context, title=title)
            for i, (context, title) in enumerate(zip(contexts, titles_of, strict=True))
        ]
        path.write_text(json.dumps(rows))
        spec = RunSpec("squad", path, "20%", "tiny-student", tmp_path / "out", vocab_size=60, cache=tmp_path / "cache")
        data = read_training_data(spec, TASKS["squad"])
        assert len(encode_training_data(spec, data)) == len(data.own), "and trains on the others"
        return data, *({example.article for example in part} for part in (data.dev_examples, data.own))

    data, dev, train = split("abcdefghij")
    assert not dev & train and len(dev) == 2 and data.hashes["dev drawn by"] == "article"
    assert "--dev 20%: 12 questions about 2 of 10 articles" in data.notes
    data, dev, train = split("abcdefghij", count=60)
    assert len(dev) == 3 and "j" in train, "an article of more than is wanted does not come in"
    data, dev, train = split("abcdefghij", count=600)
    assert dev & train, "the others are too few"
    data, dev, train = split(["a"] * 10)
    assert dev == train == {"a"}
    data, dev, train = split([""] * 10)
    assert "dev drawn by" not in data.hashes and len(data.dev_examples) == 12, "a fifth of the contexts"
    data, dev, train = split("abcdefghi")
    assert dev & train and "dev drawn by" not in data.hashes
    assert not {e.context for e in data.dev_examples} & {e.context for e in data.own}, "whole contexts"
