"""Training runs of one task on one page. `python -m kd_scratch report`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import by_name, named_directory
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, write_text
from kd_scratch.pages.records import RECORD, read_record
from kd_scratch.pages.report import runs_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `report`."""
    parser.add_argument(
        "--runs", required=True, nargs="+", type=named_directory, metavar="NAME=DIR", help="training runs of one task"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.html", help="write the page there")


def command(arguments: argparse.Namespace) -> dict:
    """`report`: one page about several training runs. (`train` makes one about its own, `compare` about a test.)"""
    records = read_runs(by_name(arguments.runs, "--runs"))
    check_target(arguments.output, *(directory for _, directory in arguments.runs))
    write_text(arguments.output, runs_page(", ".join(records), records))
    task = next(iter(records.values()))["task"]
    say(f"{len(records)} runs of {task}: {arguments.output}")
    return {"output": str(arguments.output), "runs": records}


def read_runs(directories: dict[str, str]) -> dict[str, dict]:
    """The records of runs by name. UserError where one has none, or where they are of different tasks."""
    records = {}
    for name, directory in directories.items():
        record = read_record(directory)
        if record is None:
            raise UserError(f"{directory}: holds no {RECORD}; give the --output of a `train` that has come to its end")
        records[name] = record
    tasks = {record["task"] for record in records.values()}
    if len(tasks) > 1:
        names = ", ".join(sorted(tasks))
        raise UserError(f"--runs: these are of different tasks ({names}); one page is about one task")
    return records
