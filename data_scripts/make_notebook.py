"""Write the README's path as a notebook for Jupyter or a hosted service: its text, its quickstart, its programs.

    python data_scripts/make_notebook.py --output runs/kd_scratch.ipynb
    python data_scripts/make_notebook.py --output kd.ipynb --repository ADDRESS     # cloned where it is not there

Nothing is written twice: a paragraph of README.md is a cell of text, a block of Python a cell of code, and so are the
commands of RUN. It takes about three minutes on two cores, and needs no network where the four dependencies are there.
Prints how many cells there are: 8, of which 3 are code.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from kd_scratch.common.errors import UserError  # noqa: E402
from kd_scratch.common.files import make_folder, write_json  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = ("kd_scratch", "An afternoon's reading", "Distillation in one screen", "The loss")
RUN = ("make quickstart",)  # of the commands in blocks of sh; they run offline, in minutes
SETUP = """# Finds the project, or clones it, and what it needs.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = "{repository}"  # its address, where it is not on this machine
here = [Path.cwd(), *Path.cwd().parents, Path("kd_scratch-project")]
root = next((folder for folder in here if (folder / "kd_scratch" / "config.py").is_file()), None)
if root is None:
    assert REPOSITORY, "write the address of the project into REPOSITORY, or start in its folder"
    root = Path("kd_scratch-project")
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, root], check=True)
os.chdir(root)
sys.path.insert(0, str(Path.cwd()))
needed = [name for name in ("torch", "numpy", "tokenizers", "tqdm") if importlib.util.find_spec(name) is None]
if needed:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needed], check=True)
os.environ["PYTHONPATH"] = str(Path.cwd())
MAKE = f"make --assume-old=.venv/run BIN={{Path(sys.executable).parent}}"  # with this Python, no virtual environment"""


def sections(readme: str) -> list[tuple[str, str]]:
    """The README's parts by heading."""
    parts = re.split(r"^##? (.*)\n", readme, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def cell(kind: str, text: str, number: int) -> dict:
    """One cell as the format wants it (nbformat 4.5)."""
    lines = text.strip("\n").splitlines(keepends=True)
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines, **code}


def cells(readme: str, repository: str = "") -> list[dict]:
    """The cells of a README. UserError where it lacks a section that the notebook is made of."""
    found = dict(sections(readme))
    lacking = [name for name in SECTIONS if name not in found]
    if lacking:
        raise UserError(f"README.md: has no section {lacking[0]!r}; name the one that took its place in SECTIONS")
    made = [("code", SETUP.format(repository=repository))]
    for name in SECTIONS:
        title = f"{'#' if name == SECTIONS[0] else '##'} {name}\n"
        text = re.sub(r"!\[[^]]*\]\([^)]*\)\n*", "", found[name])  # pictures are not there before it is cloned
        text = re.sub(r"(?<!!)\[([^]]+)\]\((?!https)[^)]+\)", r"\1", text)
        for part in re.split(r"(^```\w+\n.*?^```$)", title + text, flags=re.M | re.S):
            language, _, block = part.removeprefix("```").removesuffix("```").partition("\n")
            if part.startswith("```python"):
                made.append(("code", block))
            elif part.startswith("```sh"):
                for command in (line.split(" #")[0].strip() for line in block.split("\n")):
                    if command in RUN:
                        made.append(("code", f"!{{MAKE}}{command.removeprefix('make')}\nassert _exit_code == 0"))
            elif part.strip():
                made.append(("markdown", part))
    return [cell(kind, text, i) for i, (kind, text) in enumerate(made)]


def make_notebook(output: Path, repository: str = "") -> list[dict]:
    """Write the notebook; its cells."""
    made = cells((ROOT / "README.md").read_text(encoding="utf-8"), repository)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    make_folder(output.parent)
    write_json(output, {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the script; the exit status is 2, with one line on stderr, for what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--repository", default="", help="what `git clone` is given where the project is not there")
    given = parser.parse_args(arguments)
    try:
        made = make_notebook(given.output, given.repository)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    code = sum(cell["cell_type"] == "code" for cell in made)
    print(f"{len(made)} cells, {code} of them code: {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
