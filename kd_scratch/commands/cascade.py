"""The student where it is sure, else the teacher: what that costs and keeps. `python -m kd_scratch cascade`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_flags, data_config, start_device
from kd_scratch.common.console import say, show
from kd_scratch.common.device import device_and_threads
from kd_scratch.common.files import check_target, write_text
from kd_scratch.config import DataConfig, KernelConfig, RunConfig
from kd_scratch.evaluation.cascade import KEEP, cascade, page_of, record_of, text_of
from kd_scratch.evaluation.evaluate import about_machine, load_for_inference, notes_of_training, read_evaluation_set
from kd_scratch.tasks import TASKS, deciding_tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `cascade`."""
    parser.add_argument("--task", required=True, choices=deciding_tasks())
    parser.add_argument("--student", required=True, metavar="DIR", help="answers first; float or int8")
    parser.add_argument("--teacher", required=True, metavar="DIR", help="answers where the student is not sure")
    dev_help = "the file that the threshold is chosen on (clinc: its split val)"
    parser.add_argument("--dev", required=True, type=Path, metavar="FILE", help=dev_help)
    test_help = "the file that the cascade is tested on (clinc: its split test)"
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help=test_help)
    keep_help = "share of the teacher's score on dev that is to be kept (default %(default)s)"
    parser.add_argument("--keep", type=float, default=KEEP, metavar="X", help=keep_help)
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="write the curve there, as a page")
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("device", "threads"))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`cascade`: choose on dev, test; a table of score and cost."""
    task, data = TASKS[arguments.task], data_config(arguments)
    device = start_device(arguments, arguments.student, arguments.teacher)
    student, teacher = (
        load_for_inference(path, task, device=device) for path in (arguments.student, arguments.teacher)
    )
    dev_set = read_evaluation_set(task, arguments.dev, task.dev_split, data)
    test_set = read_evaluation_set(task, arguments.data, "", data)
    if arguments.output:
        check_target(arguments.output, arguments.dev, arguments.data, arguments.student, arguments.teacher)
    about = (
        f"{student.describe()} before {teacher.describe()}: threshold chosen on {dev_set.describe()}; tested on "
        f"{test_set.describe()}, {device_and_threads(device)}"
    )
    say(about)
    notes = notes_of_training((arguments.student, arguments.teacher), dev_set, test_set)
    found = cascade(student, teacher, dev_set, test_set, arguments.keep, device)
    if arguments.output:
        write_text(arguments.output, page_of(found, [about, *notes]))
        say(f"page: {arguments.output}")
    show(text_of(found))
    record = test_set.record() | {"student": arguments.student, "teacher": arguments.teacher, "keep": arguments.keep}
    record |= {"machine": about_machine(device, [student.model, teacher.model]), "notes": notes}
    return record | record_of(found, dev_set)
