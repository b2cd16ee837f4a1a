"""What a run learns from: which labels of --labelled it has."""

from pathlib import Path

from kd_scratch.config import RunConfig, TrainConfig
from kd_scratch.tasks import TASKS
from kd_scratch.training.examples import keep_some_labels
from kd_scratch.training.spec import RunSpec
from tests.commands.test_commands import write_csv


def labelled_ids(tmp_path, seed: int) -> list[str]:
    path = Path(write_csv(tmp_path / "train.csv", 40))
    config = TrainConfig(labelled="25%")
    spec = RunSpec("csv", path, "10%", "", tmp_path, config=config, run=RunConfig(seed=seed))
    task = TASKS["csv"]
    notes = []
    kept = keep_some_labels(spec, task, task.read(path, "", spec.data), notes)
    assert notes == ["--labelled 25%: 10 examples have a label, 30 have none"]
    return [example.id for example in kept]


def test_each_seed_has_labels_of_its_own(tmp_path):
    drawn = {seed: labelled_ids(tmp_path, seed) for seed in (0, 1, 2)}
    assert all(len(ids) == 10 for ids in drawn.values())
    assert len({tuple(ids) for ids in drawn.values()}) == 3
    assert drawn[1] == labelled_ids(tmp_path, 1), "the same ones in every run"
