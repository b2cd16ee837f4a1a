"""The command line: python -m kd_scratch COMMAND [flags]. Each command's code lives in its own file."""

import argparse
import errno
import json
import os
import sys
from contextlib import redirect_stdout
from typing import NoReturn

from kd_scratch.commands import (
    answers,
    benchmark,
    calibrate,
    cascade,
    compare,
    convert,
    demo,
    evaluate,
    evidence,
    export,
    predict,
    prune,
    quantize,
    report,
    trace,
    train,
)
from kd_scratch.common import console, distributed
from kd_scratch.common.errors import DiskError, UserError
from kd_scratch.common.files import check_utf8
from kd_scratch.common.signals import Stopped
from kd_scratch.config import flag_name
from kd_scratch.training.resume import unfinished

STDOUT_FAILS = (errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EFBIG, errno.EIO)  # when it is closed, or full
COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "answers": answers,
    "prune": prune,
    "quantize": quantize,
    "calibrate": calibrate,
    "cascade": cascade,
    "convert": convert,
    "export": export,
    "compare": compare,
    "evidence": evidence,
    "benchmark": benchmark,
    "report": report,
    "trace": trace,
    "demo": demo,
}


class Parser(argparse.ArgumentParser):
    """A parser of flags that answers a wrong one with one line, without the list of all others."""

    def error(self, message: str) -> NoReturn:
        """Exit status 2."""
        complain(str(UserError(f"{message}; {self.prog} --help shows what there is")))
        raise SystemExit(2)


def make_parser() -> argparse.ArgumentParser:
    """One subparser per command, its flags added by the command's own file."""
    parser = Parser(prog="python -m kd_scratch", description="Knowledge distillation of BERT models.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        about = module.__doc__.split("\n")[0].rsplit(" `python -m", 1)[0]
        subparser = subparsers.add_parser(name, help=about, allow_abbrev=False)
        module.add_arguments(subparser)
        subparser.set_defaults(parser=subparser)
        subparser.add_argument("--quiet", action="store_true", help="print the result only: no progress, no notes")
        if module is not demo:
            subparser.add_argument("--json", action="store_true", help="print the result as JSON, and nothing else")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a user's mistake (one line on stderr), 128 + a signal's number."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # None: closed
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal or file that knows fewer characters than we print
            stream.reconfigure(errors="backslashreplace")
    arguments, unknown = make_parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        for name, value in vars(arguments).items():
            for part in value if isinstance(value, list) else [value]:
                for text in part if isinstance(part, tuple) else [part]:  # NAME=DIR
                    check_utf8(str(text), flag_name(name))
        run(arguments)
        sys.stdout.flush()
    except UserError as error:
        complain(f"{error}{how_to_resume(arguments) if isinstance(error, DiskError) else ''}")
        return 2
    except Stopped as stopped:
        print(f"stopped, nothing is lost{how_to_resume(arguments)}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"interrupted{how_to_resume(arguments)}", file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "allocate" in str(error) or "out of memory" in str(error):
            cure = "smaller inputs, --accumulation, --gradient-checkpointing or a smaller --batch-size may help"
            complain(f"not enough memory: {cure}{how_to_resume(arguments)}")
            return 2
        if not distributed.is_lost_connection(error):
            raise
        lost = f"process {distributed.rank()} has lost the others: one has died, or cannot be reached"
        complain(f"{lost}{how_to_resume(arguments)}")
        os._exit(1)  # what is left of the connection would wait for the others for ever
    except OSError as error:  # files report theirs; a name means one that we could not even look at
        if error.filename is None and error.errno not in STDOUT_FAILS:
            raise
        what = UserError(f"{error.filename or 'the output'}: {error.strerror}")  # printable
        complain(f"{what}{how_to_resume(arguments)}")
        return 2
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # closed, or full; Python would complain once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    distributed.destroy_process_group()
    return 0


def run(arguments: argparse.Namespace) -> None:
    """The command, as loud as was asked for."""
    as_json = getattr(arguments, "json", False)
    console.hush(arguments.quiet or as_json)
    command = COMMANDS[arguments.command].command
    if not as_json:
        command(arguments)
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        result = command(arguments)
    if distributed.rank() == 0:
        print(json.dumps(result, indent=2))  # in ASCII: stdout may be any encoding


def complain(why: str) -> None:
    """One line about what the user can mend."""
    print(f"{console.coloured('error:', console.RED, sys.stderr)} {why}", file=sys.stderr)


def how_to_resume(arguments: argparse.Namespace) -> str:
    """How an interrupted command goes on, where it can."""
    if arguments.command == "evidence" or str(getattr(arguments, "file", None) or "-") != "-":
        return "; the same command goes on where it stopped"
    try:
        if arguments.command != "train" or not unfinished(arguments.output):
            return ""
    except OSError:  # a folder that one cannot even look into
        return ""
    return f"; {arguments.output} is intact: the same command with --resume goes on from where it was saved last"


if __name__ == "__main__":
    status = main()
    if distributed.was_initialized():
        # Threads that exchanged tensors may still hold some, and abort a Python that is torn down.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
    sys.exit(status)
