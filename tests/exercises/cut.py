"""Function bodies taken out of a source text, by its syntax tree, and what a reader has written in their place."""

import ast
import re
from collections.abc import Sequence

STUB = "NotImplementedError"


def find(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    """The function of this name in a file, "Class.method" for a method; None where there is none."""
    nodes: list = [tree]
    for part in name.split("."):
        kinds = ast.FunctionDef | ast.ClassDef
        nodes = [child for node in nodes for child in node.body if isinstance(child, kinds) and child.name == part]
    return next((node for node in nodes if isinstance(node, ast.FunctionDef)), None)


def body_lines(node: ast.FunctionDef) -> tuple[int, int]:
    """(first, last) line of a function's body behind its docstring, with the comments there; from 1."""
    first = node.body[0].end_lineno + 1 if ast.get_docstring(node) is not None else node.body[0].lineno
    return first, node.end_lineno


def shape_trail(lines: Sequence[str]) -> list[str]:
    """The comments on some lines that say which shape becomes which: "B,S,D -> B,S,H,W"."""
    return [found[1] for line in lines if (found := re.search(r"  # (.*->.*)$", line))]


def cut(text: str, names: Sequence[str]) -> str:
    """The same source with an error in place of the bodies; signature, docstring and the trail of shapes stay."""
    tree = ast.parse(text)
    lines = text.split("\n")
    for node, name in sorted(((find(tree, name), name) for name in names), key=lambda pair: -pair[0].lineno):
        first, last = body_lines(node)
        indent = " " * (node.col_offset + 4)
        stub = [f"# {shapes}" for shapes in shape_trail(lines[first - 1 : last])]
        lines[first - 1 : last] = [
            indent + line for line in [*stub, f'raise {STUB}("{name}: its body is yours to write")']
        ]
    return "\n".join(lines)


def is_written(node: ast.FunctionDef) -> bool:
    """Whether a function has a body, and not only the error that stands for one."""
    body = node.body[ast.get_docstring(node) is not None :]
    return not (len(body) == 1 and isinstance(body[0], ast.Raise) and STUB in ast.unparse(body[0]))


def changed_outside(text: str, original: str, names: Sequence[str]) -> str:
    """The first line of the original, without the bodies, that a copy has otherwise; "" where there is none.

    What a reader has added (imports, functions of their own) is no change.
    """
    parts = []
    for source in (text, original):
        tree = ast.parse(source)
        for node in filter(None, (find(tree, name) for name in names)):
            node.body = node.body[:1]
        parts.append([(ast.unparse(node), node.lineno) for node in tree.body])
    known = {part for part, _ in parts[0]}
    line = next((line for part, line in parts[1] if part not in known), None)
    return original.split("\n")[line - 1].strip() if line else ""
