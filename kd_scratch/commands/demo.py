"""Teacher and students side by side, on a page in your browser. `python -m kd_scratch demo`"""

import argparse

from kd_scratch.commands.flags import add_flags, data_config, named_directory, start_device
from kd_scratch.common.console import hush, table
from kd_scratch.common.signals import Interruption
from kd_scratch.config import DataConfig, KernelConfig, RunConfig
from kd_scratch.demo.server import ADDRESS, listen, serve
from kd_scratch.demo.site import make_site, open_groups


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `demo`."""
    parser.add_argument(
        "--models",
        required=True,
        nargs="+",
        type=named_directory,
        metavar="NAME=DIR",
        help="models of any tasks; those with the same head and labels are shown side by side",
    )
    parser.add_argument("--port", type=int, default=8321, metavar="N", help="0: any that is free (default 8321)")
    add_flags(parser, DataConfig, only=("overlap", "question_length", "answer_length"))
    add_flags(parser, RunConfig, only=("device", "threads"))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> None:
    """`demo`: serve the page until Ctrl-C."""
    device = start_device(arguments)
    with listen(arguments.port) as listener:
        groups = open_groups(arguments.models, device)
        site = make_site(groups, data_config(arguments))
        rows = [
            (group.id, name, entry.megabytes, entry.loaded.model.config.depth, len(group.labels) or None)
            for group in groups.values()
            for name, entry in group.models.items()
        ]
        hush()  # no progress bars for what takes longer
        with Interruption() as interruption:
            print(f"open http://{ADDRESS}:{listener.getsockname()[1]}/ in your browser; Ctrl-C ends it")
            print(table(("task", "model", "MB", "layers", "labels"), rows), flush=True)
            serve(site, listener, interruption)
    print("stopped")
