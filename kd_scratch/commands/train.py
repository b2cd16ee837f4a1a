"""Fine-tune a model, or distil a teacher into it, and report. `python -m kd_scratch train`

Teacher, baseline (no --teacher) and distilled student (--teacher DIR) go through the same loop.
With the same --seed and tokenizer (of a size: --tokenizer) the two students also get the same initial weights;
equal steps are up to --steps (`evidence` sees to both).
"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_flags, given, layer_list
from kd_scratch.common.console import duration, say, show, table
from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, DataConfig, RunConfig, TrainConfig
from kd_scratch.distillation.hidden_losses import list_losses
from kd_scratch.tasks import TASKS, train_defaults
from kd_scratch.training.preflight import preflight
from kd_scratch.training.run import train
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import CACHE, RunSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `train`."""
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--train", required=True, type=Path, metavar="FILE", help="training data")
    parser.add_argument(
        "--dev",
        required=True,
        metavar="FILE",
        help="data that the best epoch is chosen on; "
        "a percentage such as 10%% holds out that part of --train instead, drawn at random (squad: whole "
        "articles, of fewer than ten whole contexts; conll: whole documents; else equal texts together)",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_SIZE",
        help=f"what to train: a model directory, or a size with random weights: {', '.join(SIZES)}",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the trained model goes")
    add_teacher_arguments(parser)
    layers = "only these layers of --model, or with auto:2 those two that do best on dev in short runs (auto: half)"
    parser.add_argument("--init-layers", type=layer_list, default=(), metavar="0,2,4", help=layers)
    parser.add_argument("--tokenizer", metavar="DIR", help="with a size: take the tokenizer from this model directory")
    parser.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="with a size: learn so many word pieces from the training data (default: those of the teacher, else 4000)",
    )
    parser.add_argument(
        "--norm-first", action="store_true", help="with a scratch size: norm before each sublayer instead of after it"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=CACHE,
        help="where tokenized texts and teachers' logits are kept (default runs/cache); may be deleted at any time",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run in --output; where there is none yet, begin it",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --resume: go on although settings, data or versions are not those that the run began with",
    )
    parser.add_argument(
        "--check", action="store_true", help="look at data, models and machine, print what was found, and stop there"
    )
    add_flags(parser, TrainConfig, task_defaults=train_defaults(), details={"losses": list_losses()})
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig)


def add_teacher_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that say who teaches, and what."""
    parser.add_argument(
        "--teacher",
        nargs="+",
        metavar="DIR",
        help="distil from this model; without it the model is fine-tuned. Of several, the soft targets are made of the "
        "mean of their logits (or see --teacher-mean; trained with --fold, each speaks only of texts that it has not "
        "seen), and --losses compares with the first",
    )
    parser.add_argument(
        "--answers",
        nargs="+",
        metavar="FILE",
        help="distil from what a teacher of any kind has answered, as JSON lines (`answers` writes such a file of a "
        "model); of several files, the mean of their probabilities counts",
    )
    parser.add_argument(
        "--unlabelled",
        type=Path,
        metavar="FILE",
        help="distillation: text to learn from beside --train, one a line, or a table (.csv, .tsv) or JSON lines, "
        "whose column of texts is found; it has no labels, only the teacher. squad: contexts, about which --cloze "
        "asks, or a file of questions, whose answers are not looked at",
    )
    parser.add_argument(
        "--augment-model",
        metavar="DIR",
        help="with --augment: a fifth of the words in the copies become others that this model finds likely in their "
        "place; it has a head for masked words (of --task mlm, or of BERT's pre-training) and the same tokenizer",
    )
    parser.add_argument(
        "--fold",
        default="",
        metavar="1/5",
        help="learn without the first of five parts of --train; such a teacher teaches that part (see --teacher)",
    )


def make_spec(arguments: argparse.Namespace) -> RunSpec:
    """The run that the flags describe."""
    names = ("train", "dev", "model", "output", "unlabelled", "augment_model", "fold", "tokenizer", "vocab_size")
    names += ("norm_first", "cache", "init_layers")
    settings = {name: getattr(arguments, name) for name in names}
    for config in (TrainConfig, DataConfig, RunConfig):
        settings |= given(arguments, config)
    settings |= {"teachers": tuple(arguments.teacher or ()), "answers": tuple(arguments.answers or ())}
    return RunSpec.of(arguments.task, **settings)


def command(arguments: argparse.Namespace) -> dict | None:
    """`train`: set up, look over, train, print. None in all ranks but the first."""
    if arguments.force and not arguments.resume:
        raise UserError("--force is about --resume; give both")
    run = set_up(make_spec(arguments), arguments.resume)
    found = preflight(run)
    (show if arguments.check else say)(table(("before work starts", "found"), found, left=True))
    if arguments.check:
        for note in run.data.notes:
            say(f"note: {note}")
        return dict(found)
    record = train(run, arguments.force)
    if record:
        show_record(record, arguments.output)
    return record


def show_record(record: dict, output: Path) -> None:
    """Print the epochs, where the time went, and what was kept."""
    history = record["history"]
    names = list(history[0]["dev"])
    rows = [(str(h["epoch"]), h["loss"], *h["dev"].values(), round(h["tokens_per_second"])) for h in history]
    unit = "look" if record["settings"]["looks"] else "epoch"
    show(table((unit, "train loss", *(f"dev {name}" for name in names), "tokens/s"), rows))
    seconds = record["seconds"]
    phases = record["seconds by phase"].items()
    rows = [(phase, f"{taken:,.1f}", f"{taken / seconds:.0%}") for phase, taken in phases]
    show("\n" + table(("where the time went", "seconds", "share"), rows))
    threshold = history[record["best_epoch"] - 1].get("threshold")  # of several labels
    which = f", which gives labels from {threshold:.4f} on" if threshold is not None else ""
    show(f"kept {unit} {record['best_epoch']} in {output} ({duration(seconds)}){which}")
