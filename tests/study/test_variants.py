"""What a study compares: runs as flags of `train`, and a folder of its own for each of them."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from kd_scratch.__main__ import make_parser
from kd_scratch.commands.evidence import make_spec as study_spec
from kd_scratch.commands.train import make_spec
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES
from kd_scratch.study.runner import study_argv
from kd_scratch.study.spec import Grid, StudySpec, argv_of, changed_flags, check_study, parse_flags, train_flags
from kd_scratch.study.variants import BASELINE, COMBINED, SOFT, Variant, combination, common_run, side_by_side, soft_run
from kd_scratch.tasks import TASKS
from kd_scratch.training.spec import RunSpec

#: A value of each field that is not its default.
OTHER = {
    "task": "clinc",
    "train": Path("my texts.json"),
    "dev": "10%",
    "model": "scratch-small",
    "output": Path("runs/a b"),
    "teachers": ("first", "second one"),
    "answers": ("a.jsonl", "b c.jsonl"),
    "unlabelled": Path("news.txt"),
    "augment_model": "runs/words",
    "fold": "2/5",
    "init_layers": (0, 2, 11),
    "tokenizer": "runs/tokenizer",
    "vocab_size": 123,
    "norm_first": True,
    "cache": Path("elsewhere"),
    "batch_size": 40,
    "accumulation": 4,
    "losses": "hidden,relations=0.5",
    "layer_map": "0:0,1:2",
    "teacher_mean": "probabilities",
    "labelled": "10%",
    "amp": "bf16",
    "attention_dropout": 0.25,
    "encoding": "cp1251",
    "header": "yes",
    "limit": "50%",
    "text_column": "a column's name",
    "question_column": "q",
    "context_column": "c",
    "answers_column": "a",
    "tag_names": "O,B-X",
    "label_column": "",
    "label_separator": "|",
    "device": "cpu",
}
PLAIN = RunSpec("clinc", Path("train.json"), "dev.json", "model", Path("out"), config=TASKS["clinc"].train_config())


def other_value(f):
    """A value of a field that is not its default."""
    if f.name in OTHER:
        return OTHER[f.name]
    return {bool: lambda: True, int: lambda: f.default + 7, float: lambda: f.default / 3 + 1e-7}[f.type]()


def with_other(names: set[str]) -> RunSpec:
    """PLAIN, in which these fields have another value, wherever they are."""
    configs = {}
    for part in ("config", "data", "run"):
        config = getattr(PLAIN, part)
        configs[part] = replace(config, **{f.name: other_value(f) for f in fields(config) if f.name in names})
    return replace(PLAIN, **{f.name: other_value(f) for f in fields(PLAIN) if f.name in names}, **configs)


def parsed(run: RunSpec) -> RunSpec:
    """What `train` makes of the run's flags."""
    return make_spec(make_parser().parse_args(["train", *argv_of(train_flags(run))]))


FIELDS = [f.name for part in (RunSpec, TrainConfig, DataConfig, RunConfig) for f in fields(part)]
FIELDS = [name for name in FIELDS if not is_dataclass(getattr(PLAIN, name, None))]


@pytest.mark.parametrize("name", FIELDS)
def test_train_makes_the_same_run_of_its_flags(name):
    needed = {"losses"} if name == "layer_map" else set()
    run = with_other({name, *needed})
    assert (run != PLAIN or name == "task") and parsed(run) == run


def test_train_makes_the_same_run_of_all_flags_together_and_of_none():
    run = with_other(set(FIELDS) - {"documents"})  # which does not go with limit
    assert parsed(run) == run and parsed(PLAIN) == PLAIN
    assert list(train_flags(PLAIN)) == ["--task", "--train", "--dev", "--model", "--output", "--max-length"]


def test_a_value_that_is_a_tasks_default_and_not_that_of_others_needs_no_flag():
    assert "--alpha" not in train_flags(PLAIN) and PLAIN.config.alpha != TrainConfig().alpha
    usual = replace(PLAIN, config=TrainConfig())
    assert train_flags(usual)["--alpha"] == ["0.5"] and parsed(usual) == usual


@pytest.mark.parametrize("shorter", ["model", "teacher"])
def test_all_runs_of_a_study_have_the_length_of_the_shortest_model(tmp_path, shorter):
    for name in ("model", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"max_position_embeddings": {40 if name == shorter else 64}}}')
    argv = "evidence --task squad --train a --dev b --data c --output d --model".split()
    argv += [str(tmp_path / "model"), "--teacher", str(tmp_path / "teacher")]
    spec = study_spec(make_parser().parse_args(argv))
    assert [parsed(run(spec)).config.max_length for run in (common_run, soft_run)] == [40, 40]
    spec = study_spec(make_parser().parse_args([*argv, "--max-length", "384"]))
    assert [parsed(run(spec)).config.max_length for run in (common_run, soft_run)] == [384, 384]


def test_flags_and_their_words():
    flags = {"--epochs": ["3"], "--documents": [], "--losses": [""], "--teacher": ["a", "b"]}
    words = ["--epochs", "3", "--documents", "--losses", "", "--teacher", "a", "b"]
    assert argv_of(flags) == words and parse_flags(words) == flags


SPEC = StudySpec(
    run=replace(PLAIN, teachers=("t",), config=replace(PLAIN.config, losses="hidden", layer_map="1:2")),
    test=Path("test.json"),
)


def test_soft_targets_have_the_teacher_and_nothing_of_the_losses():
    assert changed_flags(common_run(SPEC), soft_run(SPEC)) == {"--teacher": ["t"]}
    assert changed_flags(common_run(SPEC), SPEC.run).keys() == {"--teacher", "--losses", "--layer-map"}


def test_losses_that_beat_soft_targets_on_dev_are_combined(tmp_path):
    flags = {"--teacher": ["t"], "--layer-map": ["1:2"]}
    tried = [Variant(BASELINE), Variant(SOFT, {"--teacher": ["t"]})]
    tried += [Variant(name, flags | {"--losses": [f"{name}=1"]}) for name in ("hidden", "cosine", "patient")]
    dev = {BASELINE: [0.99, 0.98], SOFT: [0.5, 0.4], "hidden": [0.51, 0.41], "cosine": [0.5, 0.6],
           "patient": [0.52, 0.421]}  # fmt: skip
    found = combination(tried, dev)
    assert found.flags == flags | {"--losses": ["hidden=1,patient=1"]}
    assert combination(tried, dev | {"patient": [0.4, 0.3]}) is None, "one alone is there already"
    other = combination(tried, dev | {"cosine": [0.6, 0.51]})
    assert combination(tried, {name: scores[:1] for name, scores in dev.items()}) is None, "one seed shows no chance"
    assert found.folder(tmp_path, 0).name == "combined-hidden=1+patient=1-0" != other.folder(tmp_path, 0).name


def combined(losses: str) -> Variant:
    return Variant(COMBINED, {"--losses": [losses]})


def test_each_combination_has_a_folder_of_its_own():
    """Whatever a loss is called, with whatever weight: names with "_" were cut off there once, and weights left out."""
    texts = ["hid_a=1,hid_b=1", "hid_a=1,hid_c=1", "hid_b=1,hid_a=1", "hid=1,a=1,hid=1", "hid_a=1,hid_b=0.5",
             "hid_a=1,hid_b=1e-05", "hid a=1,hid b=1", "hid-a=1,hid-b=1", "hid/a=1,hid/b=1", "hid,a=1,hid,b=1",
             "hid+a=1,hid+b=1", "hid=1+a=1,hid_b=1",
             *(",".join(f"{name}{i}=1" for name in HIDDEN_LOSSES) for i in range(100, 120)),
             *(",".join(f"{'long' * 20}{i}=1" for i in range(n)) for n in range(2, 6))]  # fmt: skip
    names = [combined(losses).folder(Path("study"), 3).name for losses in texts]
    assert len(set(names)) == len(texts)
    assert names[0] == "combined-hid_a=1+hid_b=1-3", "readable where that is possible"
    for losses, name in zip(texts, names, strict=True):
        folder = combined(losses).folder(Path("study"), 3)
        assert folder.parent == Path("study/runs") and len(name) < 130 and name.isprintable() and " " not in name
        assert name != combined(losses).folder(Path("study"), 4).name


def test_plain_variants_have_the_folders_that_they_always_had():
    for name, folder in (
        (BASELINE, "baseline-5"),
        (SOFT, "soft-targets-5"),
        ("hidden", "hidden-5"),
        ("T=4 alpha=0.5", "T=4-alpha=0.5-5"),
        ("T=1e-05 alpha=1", "T=1e-05-alpha=1-5"),
    ):
        variant = Variant(name, {"--losses": ["hidden=2"]} if name == "hidden" else {})
        assert variant.folder(Path("study"), 5) == Path("study/runs") / folder


def test_of_runs_side_by_side_one_asks_the_teacher_and_the_others_wait_for_its_answers():
    baseline, soft, relations = (Variant(name) for name in (BASELINE, SOFT, "relations"))
    runs = [(variant, seed) for variant in (baseline, soft, relations) for seed in (0, 1)]
    found = [(variant.name, seed) for variant, seed in side_by_side(runs)]
    assert found == [(SOFT, 0), (BASELINE, 0), (BASELINE, 1), (SOFT, 1), ("relations", 0), ("relations", 1)]
    assert side_by_side(runs[:2]) == runs[:2] and side_by_side(runs[2:]) == runs[2:] and side_by_side([]) == []


def test_a_study_that_cannot_be_made_is_refused():
    for change, message in (
        ({"jobs": 0}, "--jobs 0: must lie between 1 and 64"),
        ({"seeds": (1, 1)}, "--seeds 1,1: is not a list of different seeds"),
        ({"seeds": ()}, "is not a list of different seeds"),
        ({"run": PLAIN}, "--teacher: a study needs a teacher"),
        ({"run": replace(SPEC.run, output=Path(__file__))}, "test_variants.py: is a file; give the name of a folder"),
    ):
        with pytest.raises(UserError, match=message):
            check_study(replace(SPEC, **change))
    check_study(replace(SPEC, jobs=64, seeds=(3, 1), grid=Grid((1.0,), (0.5,))))


def test_a_study_is_never_put_into_a_model_that_it_reads(tmp_path):
    for name in ("teacher", "start"):
        (tmp_path / name).mkdir()
    run = replace(SPEC.run, teachers=(str(tmp_path / "teacher"),), model=str(tmp_path / "start"))
    for place in ("teacher", "start", "teacher/study"):
        with pytest.raises(UserError, match="is the model .* itself, or a part of it; choose another folder"):
            check_study(replace(SPEC, run=replace(run, output=tmp_path / place)))
    check_study(replace(SPEC, run=replace(run, output=tmp_path / "study")))


def test_the_command_of_a_study_names_the_split_that_it_was_tested_on():
    assert "--split" not in study_argv(SPEC, [])
    argv = study_argv(replace(SPEC, split="val"), [])
    assert argv[argv.index("--split") + 1] == "val"
