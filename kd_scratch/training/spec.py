"""A training run, described: one record of all that decides it."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json
from kd_scratch.config import SIZES, DataConfig, RunConfig, TrainConfig
from kd_scratch.tasks import TASKS

CACHE = Path("runs/cache")  # where tokenized texts and teachers' logits are kept, unless another folder is given


def layer_count(auto: str, depth: int) -> int:
    """How many of a model's layers are to be chosen: "auto:2" -> 2, "auto" -> half. UserError where it has no more."""
    count = int(auto.partition(":")[2] or depth // 2) if re.fullmatch(r"auto(:\d{1,3})?", auto) else 0
    if not 0 < count < depth:
        raise UserError(f"--init-layers {auto}: --model has {depth} layers; give fewer, as in auto:1, or leave it out")
    return count


def in_config(directory: Path, key: str) -> int:
    """A number in the config.json of the model in a folder; 0 where there is none."""
    try:
        found = read_json(directory / "config.json")[key]
    except (UserError, LookupError, TypeError):
        return 0  # what is wrong with it is told where the model is opened
    return found if type(found) is int else 0


def positions(model: str) -> int | None:
    """How many positions a size or the model in a folder has; None where there is none that tells."""
    if model in SIZES:
        return SIZES[model].max_positions
    found = in_config(Path(model), "max_position_embeddings")
    return found if found > 2 else None


@dataclass(frozen=True)
class RunSpec:
    """What is read, what is trained and how, and where it goes. Every field is a flag of `train`.

    Example: RunSpec(task="csv", train=Path("train.csv"), dev="10%", model="tiny-student", output=Path("runs/student"))
    is a fine-tuning; with teachers=("runs/teacher",) it is a distillation.
    """

    task: str
    train: Path
    dev: str  # a file, or a part of --train that is held out, such as "10%"
    model: str  # a model directory, or a size with random weights
    output: Path
    teachers: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()  # files that hold what teachers answer, instead of those
    unlabelled: Path | None = None
    augment_model: str | None = None  # a directory whose head for masked words proposes words for --augment
    fold: str = ""  # "2/5": learn without the second of five parts of --train
    init_layers: tuple[int, ...] | str = ()  # or "auto:2": the two that do best on dev, see layer_choice.py
    tokenizer: str | None = None
    vocab_size: int | None = None  # learn so many pieces, instead of taking the teacher's tokenizer
    norm_first: bool = False
    cache: Path = CACHE
    config: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @classmethod
    def of(cls, task: str, **settings) -> "RunSpec":
        """A run from settings by name, also those of TrainConfig, DataConfig and RunConfig, with the task's defaults.

        max_length, where it is not given: as many positions as model and teachers have, if that is less than usual.
        Raises UserError for a name that is none of them.
        """
        if "max_length" not in settings:
            usual = TASKS[task].train_config().max_length
            models = (settings.get("model", ""), *settings.get("teachers", ()))
            settings["max_length"] = min(usual, *(positions(model) or usual for model in models))
            if settings["max_length"] < usual:
                say(f"note: --max-length is {settings['max_length']}: a model has no more positions")
        groups = {"config": TASKS[task].train_config, "data": DataConfig, "run": RunConfig}
        if whole := groups.keys() & settings:
            raise UserError(f"{', '.join(sorted(whole))}: give the single settings by their names")
        for (group, make), config in zip(groups.items(), (TrainConfig, DataConfig, RunConfig), strict=True):
            settings[group] = make(**{f.name: settings.pop(f.name) for f in fields(config) if f.name in settings})
        unknown = settings.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise UserError(f"{', '.join(sorted(unknown))}: there is no such setting; `train --help` lists them")
        return cls(task=task, **settings)

    @property
    def is_taught(self) -> bool:
        """Whether there are soft targets: a teacher's, or those of answers files."""
        return bool(self.teachers or self.answers)

    @property
    def chooses_layers(self) -> bool:
        """Whether the layers of the student are to be chosen by measurement."""
        return isinstance(self.init_layers, str)

    @property
    def holds_out_dev(self) -> bool:
        """Whether dev is a part of the training file instead of a file of its own."""
        return self.dev.endswith("%") and not Path(self.dev).exists()
