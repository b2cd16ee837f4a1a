"""A hash of what modules of this package compute: a cached result is made anew when the code behind it has changed."""

import ast
import functools
from pathlib import Path

from kd_scratch.common.files import sha256

PACKAGE = Path(__file__).parents[1]


@functools.cache
def source_hash(*modules: str, versions: tuple[str, ...] = ()) -> str:
    """SHA-256 of the syntax trees of some modules and of all modules of this package that they import, however deep.

    Docstrings and comments do not count, neither does how the code is laid out, nor which Python reads it.
    modules: names below the package, such as "nn.model". versions: of other libraries whose results may differ.
    Raises ValueError where there is no such module.
    """
    pending = list(modules)
    trees: dict[str, ast.AST] = {}
    while pending:
        name = pending.pop()
        if name not in trees:
            path = source_file(name)
            trees[name], imported = dumped_tree(path, path.read_bytes())
            pending += imported
    return sha256(*versions, *(part for name in sorted(trees) for part in (name, trees[name])))


@functools.cache
def dumped_tree(path: Path, source: bytes) -> tuple[str, frozenset[str]]:
    """A module's syntax tree as text, and the modules that it imports. Kept: a command needs several hashes."""
    tree = without_docstrings(ast.parse(source))
    return as_text(tree), frozenset(imported_modules(tree))


def as_text(node) -> str:
    """A syntax tree as text, without empty fields: those differ between versions of Python, and so does ast.dump."""
    if isinstance(node, ast.AST):
        parts = [f"{name}={as_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(parts)})"
    if isinstance(node, list):
        return f"[{', '.join(map(as_text, node))}]"
    return repr(node)


def source_file(module: str) -> Path:
    """The file of a module ("nn.model") or chapter ("nn"). Raises ValueError where there is none."""
    place = PACKAGE.joinpath(*module.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    raise ValueError(f"kd_scratch.{module}: there is no such module")


def imported_modules(tree: ast.AST) -> set[str]:
    """The names below the package of the modules that a tree imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kd_scratch":
            package = node.module.partition(".")[2]
            names = [f"{package}.{alias.name}".lstrip(".") for alias in node.names]
            submodules = [name for name in names if is_module(name)]
            found.update(submodules)
            if len(submodules) < len(names):  # something else than a module is taken from it
                found.add(package)
        elif isinstance(node, ast.Import):
            names = [alias.name.partition(".") for alias in node.names]
            found.update(rest for package, _, rest in names if package == "kd_scratch" and rest)
    return found - {""}


def is_module(name: str) -> bool:
    """Whether there is a module or chapter of that name."""
    try:
        return source_file(name).is_file()
    except ValueError:
        return False


def without_docstrings(tree: ast.AST) -> ast.AST:
    """The same tree, changed: an ellipsis takes the place of each docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body[0] = ast.Expr(ast.Constant(...))
    return tree
