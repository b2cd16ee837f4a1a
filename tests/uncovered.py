"""The lines of kd_scratch that the unit tests don't run, and why not.

    make test COVER=1

Another one, that is not in this list, is an error; so is a line of the list that is no longer in the code.
"""

import sys
from pathlib import Path

import coverage

PACKAGE = Path(__file__).parents[1] / "kd_scratch"

#: why not -> file -> lines, without their indentation
REASONS: dict[str, dict[str, list[str]]] = {}


def main() -> int:
    """Compare with what coverage has measured; exit status 1 where the list is not right."""
    data = coverage.Coverage()
    data.load()
    listed = {(file, line) for files in REASONS.values() for file, lines in files.items() for line in lines}
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file, lines = str(path.relative_to(PACKAGE)), path.read_text().split("\n")
        _, _, _, missing, _ = data.analysis2(str(path))
        faults += [
            f"{file}:{number}: no test runs it: {lines[number - 1].strip()}"
            for number in missing
            if (file, lines[number - 1].strip()) not in listed
        ]
        stripped = {line.strip() for line in lines}
        faults += [f"{file}: is not there: {line}" for name, line in listed if name == file and line not in stripped]
    print("\n".join(faults) or f"{len(listed)} lines that no test runs here, each for a reason (tests/uncovered.py)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
