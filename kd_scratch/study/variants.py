"""What a study compares: ways to train the same student, for as many steps, that differ in what is learned from."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kd_scratch.checkpoints.checkpoint import load_config
from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256
from kd_scratch.config import SIZES, ModelConfig, TrainConfig
from kd_scratch.distillation.hidden_losses import check_layer_map, make_hidden_losses, parse_losses
from kd_scratch.distillation.layer_map import parse_layer_map
from kd_scratch.evaluation.significance import margin
from kd_scratch.study.spec import Flags, StudySpec, changed_flags, train_flags
from kd_scratch.tasks import TASKS
from kd_scratch.training.epochs import plan_epochs
from kd_scratch.training.examples import encode_training_data, read_training_data
from kd_scratch.training.setup import with_layer_map
from kd_scratch.training.spec import RunSpec
from kd_scratch.training.word_proposals import WordProposer

BASELINE = "baseline"
SOFT = "soft targets"
COMBINED = "combined"
OF_EACH_RUN = ("--output", "--seed", "--vocab-size")  # or the same for all: the vocabulary is always the teacher's


@dataclass(frozen=True)
class Variant:
    """A way to train the student: its name, and the flags of `train` that it has beside those of all variants."""

    name: str
    flags: Flags = field(default_factory=dict)

    @property
    def losses(self) -> str:
        """The hidden-state losses, as --losses takes them; "" for none."""
        return "".join(self.flags.get("--losses", []))

    def folder(self, output: Path, seed: int) -> Path:
        """Where its run with a seed lies.

        What is combined is part of the name: with more seeds, or other weights, it is something else. So is a learning
        rate that is not the study's.
        """
        name = f"{COMBINED}-{self.losses}" if self.name == COMBINED else "-".join(self.name.split())
        if rate := self.flags.get("--learning-rate"):
            name += f"-lr={rate[0]}"
        return output / "runs" / f"{folder_name(name)}-{seed}"


Runs = Sequence[tuple[Variant, int]]  # variants, each with a seed
RateScores = dict[str, dict[float, float]]  # by variant and learning rate: the dev score with the first seed


def side_by_side(runs: Runs) -> list[tuple[Variant, int]]:
    """The order in which runs are begun: one with a teacher, whose answers it keeps for the others, those of the
    baseline meanwhile, then all others."""
    own = [run for run in runs if run[0].name == BASELINE]
    taught = [run for run in runs if run[0].name != BASELINE]
    return [*taught[:1], *own, *taught[1:]]


def folder_name(text: str) -> str:
    """The name of a folder for a text, and for no other one: "combined-hidden=1,cosine=2" -> combined-hidden=1+cosine=2

    A hash stands in for what is too long, or not possible in names of files.
    """
    if re.fullmatch(r"[\w=.,-]{1,100}", text, re.ASCII):
        return text.replace(",", "+")
    readable = re.sub(r"[^\w=.-]+", "-", text, flags=re.ASCII)
    return f"{readable[:60]}-{sha256(text)[:12]}"


# --- the variants ---


def common_run(spec: StudySpec) -> RunSpec:
    """What all variants have in common: the study's run without its teacher, and without what only that can use."""
    config = replace(spec.run.config, losses="", layer_map="", labelled="", augment=0, cloze=0)
    config = replace(config, teacher_mean=TrainConfig.teacher_mean)
    return replace(spec.run, teachers=(), unlabelled=None, augment_model=None, config=config)


def study_flags(run: RunSpec) -> Flags:
    """The flags of a run but for those that differ between the runs of a study whatever the variant."""
    return {flag: values for flag, values in train_flags(run).items() if flag not in OF_EACH_RUN}


def first_variants(spec: StudySpec) -> list[Variant]:
    """Baseline, soft targets alone and with each of the losses; UserError where a loss or layer map is not possible."""
    common, config = common_run(spec), spec.run.config
    losses = possible_losses(spec)
    variants = [
        Variant(BASELINE, changed_flags(common, baseline_run(spec))),
        Variant(SOFT, changed_flags(common, soft_run(spec))),
    ]
    for name, weight in losses.items():
        run = replace(spec.run, config=replace(config, losses=f"{name}={weight:.12g}"))
        variants.append(Variant(name, changed_flags(common, run)))
    return variants


def baseline_run(spec: StudySpec) -> RunSpec:
    """The same student without a teacher.

    Where there is text that only a teacher can use, the baseline makes as many optimizer steps without it: its epochs
    are shorter, and more. (All variants look at dev at the same steps: see `complete` in preparation.py.)
    """
    run, config, common = spec.run, spec.run.config, common_run(spec)
    if not spec.has_unlabelled_text:
        return common
    data = read_training_data(run, TASKS[run.task], WordProposer)
    steps = config.steps
    if not steps:
        inputs = encode_training_data(run, data)
        steps = plan_epochs(run, data, inputs).steps_before(config.epochs)
    return replace(common, config=replace(common.config, labelled=config.labelled, steps=steps))


def soft_run(spec: StudySpec) -> RunSpec:
    """Soft targets alone."""
    return replace(spec.run, config=replace(spec.run.config, losses="", layer_map=""))


def possible_losses(spec: StudySpec, say: Say = say) -> dict[str, float]:
    """The losses to try, each with its weight. UserError where one is not possible, unless it may be left out, which
    is said."""
    if not spec.run.config.losses:
        return {}
    student, teacher = shapes(spec.run)
    config = with_layer_map(spec.run, student.depth, teacher.depth).config
    check_layer_map(parse_layer_map(config.layer_map), student.depth, teacher.depth)  # never left out
    possible = {}
    for name, weight in parse_losses(config.losses).items():
        try:
            make_hidden_losses(replace(config, losses=name), student, teacher)
        except UserError as error:
            if not spec.skip_impossible:
                raise
            say(f"note: left out: {error}")
            continue
        possible[name] = weight
    return possible


def shapes(run: RunSpec) -> tuple[ModelConfig, ModelConfig]:
    """Of the student, and of the (first) teacher."""
    student = SIZES.get(run.model) or load_config(run.model)
    depth = len(run.init_layers) or student.depth
    return replace(student, depth=depth), load_config(run.teachers[0])


def at_rate(variant: Variant, rate: float, usual: float) -> Variant:
    """The variant with a learning rate; usual: that of the study, which all have that have no other one."""
    flags = {flag: values for flag, values in variant.flags.items() if flag != "--learning-rate"}
    return replace(variant, flags=flags | ({"--learning-rate": [str(rate)]} if rate != usual else {}))


def at_all_rates(variant: Variant, spec: StudySpec) -> list[Variant]:
    """The variant at each of --learning-rates; without them, as it is."""
    usual = spec.run.config.learning_rate
    return [at_rate(variant, rate, usual) for rate in spec.learning_rates or [usual]]


def best_rates(dev: RateScores) -> dict[str, float]:
    """The learning rate of each variant, by name: the best on dev, of equally good ones the smallest."""
    return {name: min(scores, key=lambda rate: (-scores[rate], rate)) for name, scores in dev.items()}


def combination(tried: Sequence[Variant], dev: dict[str, Sequence[float]]) -> Variant | None:
    """All hidden-state losses that alone raised the dev score above that of soft targets, by more than chance in
    training may have; None for less than 2.  dev: by variant, the score of each seed.
    """
    good = [variant for variant in tried if variant.losses and is_above(dev[variant.name], dev[SOFT])]
    if len(good) < 2:
        return None
    losses = ",".join(variant.losses for variant in good)
    return Variant(COMBINED, good[0].flags | {"--losses": [losses]})


def is_above(scores: Sequence[float], reference: Sequence[float]) -> bool:
    """Whether scores are higher, seed by seed, by more than the margin of their mean; never with a single seed."""
    gains = [score - other for score, other in zip(scores, reference, strict=True)]
    chance = margin(gains)
    return chance is not None and sum(gains) / len(gains) > chance


def grid_variants(spec: StudySpec) -> dict[tuple[float, float], Variant]:
    """Soft targets alone at each temperature and alpha of --grid; the study's own are among its other runs.

    UserError where one is not possible.
    """
    soft, common = soft_run(spec), common_run(spec)
    variants = {}
    for temperature, alpha in itertools.product(spec.grid.temperatures, spec.grid.alphas):
        try:
            config = replace(soft.config, temperature=temperature, alpha=alpha)
        except UserError as error:
            raise UserError(f"--grid: {error}") from None
        if alpha == 0 and spec.has_unlabelled_text:
            raise UserError("--grid: with an alpha of 0 nothing is learned from text without labels; leave it out")
        name = SOFT if config == soft.config else f"T={temperature:.12g} alpha={alpha:.12g}"
        flags = changed_flags(common, replace(soft, config=config))
        variants[temperature, alpha] = Variant(name, flags)
    return variants
