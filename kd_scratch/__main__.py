"""The command line: python -m kd_scratch COMMAND [flags]. Each command's code lives in its own file."""

import argparse
import sys

from kd_scratch import benchmark, compare, evaluate, predict, quantize, train
from kd_scratch.files import UserError
from kd_scratch.state import STATE

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "quantize": quantize,
    "compare": compare,
    "benchmark": benchmark,
}


def make_parser() -> argparse.ArgumentParser:
    """One subparser per command, its flags added by the command's own file."""
    parser = argparse.ArgumentParser(prog="python -m kd_scratch", description="Knowledge distillation of BERT models.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=module.__doc__.split("\n")[0].split(" `")[0], allow_abbrev=False)
        module.add_arguments(subparser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 for a user's mistake (one line on stderr), 130 when interrupted."""
    arguments = make_parser().parse_args(argv)
    try:
        COMMANDS[arguments.command].command(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumable = arguments.command == "train" and (arguments.output / STATE).is_file()
        resume = "; the same command with --resume goes on after the last finished epoch" if resumable else ""
        print(f"interrupted{resume}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
