"""Every piece of advice in the sources: the texts that tell a user what to do, as templates with {} for what varies."""

import ast
import re
from collections.abc import Iterator

from tests.conftest import ROOT

#: Words with which advice begins, at the start of a clause. A new one belongs here, or nobody notices that it works.
VERBS = (
    "add allow ask change check choose close combine continue consider convert copy correct create cut decrease delete "
    "distil download edit enlarge evaluate extract fetch fill fine-tune fix give go increase insert install keep "
    "leave load look lower make mend merge move open pass pick prepare put quantize raise rebuild reduce remove "
    "rename repair replace run save say see select send set shorten shrink split start stop switch take train trim try "
    "turn unpack unset update upgrade use wait write"
).split()
CLAUSE = re.compile(rf"(?:^|[;:?(] ?|\bor )(?:{'|'.join(VERBS)})\b", re.I)
#: Advice that is no order: what would help, said otherwise.
HINTS = re.compile(
    r"same command|goes on (?:anyway|from|where)|may help|works with any|would re|are needed:|needs? (?:a|--|{})"
)
#: Calls whose texts are no messages.
QUIET = ("add_argument", "add_argument_group", "add_parser", "setting", "ArgumentParser", "check_page")


def template(node: ast.expr) -> str:
    """The text of a string expression, with {} for each value in it; "" where it is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def strings(node: ast.AST) -> Iterator[ast.expr]:
    """The string expressions in a syntax tree, outermost only, without docstrings and the texts of --help."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            name = child.func.attr if isinstance(child.func, ast.Attribute) else getattr(child.func, "id", "")
            if name in QUIET:
                continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring
        if isinstance(child, ast.JoinedStr) or (isinstance(child, ast.Constant) and isinstance(child.value, str)):
            yield child
        else:
            yield from strings(child)


def is_advice(text: str) -> bool:
    """Whether a text tells what to do."""
    return bool(CLAUSE.search(text) or HINTS.search(text))


def advice() -> dict[str, str]:
    """Every text in the sources that holds advice, and where it stands."""
    found = {}
    paths = [*(ROOT / "kd_scratch").rglob("*.py"), *(ROOT / "data_scripts").glob("*.py")]
    for path in sorted([*paths, ROOT / "tests" / "exercises" / "workshop.py"]):
        for node in strings(ast.parse(path.read_text())):
            text = template(node)
            if " " in text.strip() and "\n" not in text and is_advice(text):
                found[text] = f"{path.relative_to(ROOT)}:{node.lineno}"
    return found
