"""One example followed through every stage, number by number: a tour of the code. `python -m kd_scratch trace`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_data_flags, add_flags, data_config, given, start_device
from kd_scratch.common.console import say, show
from kd_scratch.common.errors import printable
from kd_scratch.common.files import check_target, write_text
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.distillation.hidden_losses import list_losses
from kd_scratch.tasks import deciding_tasks, train_defaults
from kd_scratch.trace.trace import LOSS, as_html, as_record, as_text, fill, loss_settings, trace
from kd_scratch.trace.trail import TraceSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `trace`."""
    add_data_flags(parser, deciding_tasks(), required=False)
    parser.add_argument("--model", required=True, metavar="DIR", help="the student")
    parser.add_argument("--teacher", required=True, metavar="DIR")
    parser.add_argument("--example", metavar="ID", help="its id, or its number from 1 (default: the first)")
    parser.add_argument("--text", metavar="TEXT", help="instead of a file: your own text")
    parser.add_argument("--text-pair", metavar="TEXT", help="with models of pairs: the second text, beside --text")
    parser.add_argument(
        "--question", metavar="TEXT", help="squad, instead of a file: your own question about --context"
    )
    parser.add_argument("--context", metavar="TEXT", help="squad: the text that holds the answer")
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="write it there as a page, with pictures")
    details = dict.fromkeys(LOSS, "; not given: what the student was distilled with, else the default")
    details["losses"] = list_losses() + details["losses"]
    add_flags(parser, TrainConfig, only=LOSS, task_defaults=train_defaults(), details=details)
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("seed", "threads"))


def make_spec(arguments: argparse.Namespace) -> TraceSpec:
    """What the flags ask to trace."""
    chosen = {name: value for name, value in given(arguments, TrainConfig).items() if name in LOSS}
    names = ("task", "model", "teacher", "split", "example", "text", "text_pair", "question", "context", "max_length")
    return TraceSpec(
        **{name: getattr(arguments, name) for name in names},
        file=arguments.data,
        config=loss_settings(arguments.model, arguments.task, **chosen),
        data=data_config(arguments),
    )


def command(arguments: argparse.Namespace) -> dict:
    """`trace`: the stages of one example, printed and as a page."""
    start_device(arguments, device="cpu")
    spec = make_spec(arguments)
    if arguments.output:
        check_target(arguments.output, *filter(None, (arguments.data, arguments.model, arguments.teacher)))
    traced = trace(spec)
    say(fill(f"{traced.title} {traced.lead}"))
    show(as_text(traced.stages))
    if arguments.output:
        write_text(arguments.output, as_html(traced))
        say(f"\nas a page, with pictures of the attention: {printable(str(arguments.output))}")
    return as_record(traced)
