"""`make exercise`, `make check` and `make solution`: python -m tests.exercises {exercise,check,solution} [NAME]."""

import argparse
import sys

from kd_scratch.common.errors import UserError
from tests.exercises.workshop import begin, check, find_exercise, listing, solution


def main(argv: list[str] | None = None) -> int:
    """Exit status 0; 1 where a check fails; 2, with one line, for what the reader can mend."""
    parser = argparse.ArgumentParser(prog="tests.exercises", description=__doc__)
    parser.add_argument("command", choices=("exercise", "check", "solution"))
    parser.add_argument("name", nargs="?", help="one of those that `exercise` lists")
    parser.add_argument("--again", action="store_true", help="begin anew; what was written is kept beside it")
    given = parser.parse_args(argv)
    try:
        if given.name is None:
            if given.command != "exercise":
                raise UserError("NAME: is missing; make exercise lists the exercises, choose one of them")
            print(listing())
            print("\nmake exercise NAME=attention begins one")
            return 0
        exercise = find_exercise(given.name)
        if given.command == "check":
            passed, text = check(exercise)
            print(text)
            return 0 if passed else 1
        print(begin(exercise, again=given.again) if given.command == "exercise" else solution(exercise))
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
