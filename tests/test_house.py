"""The house rules: who may import whom, what may not be called, how long things may be, and what they are called."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.mutants import FAULTS

#: The chapters in reading order. A chapter imports only from chapters before it.
CHAPTERS = [
    "common", "config", "nn", "data", "checkpoints", "tasks", "pages", "evaluation", "distillation", "training", "demo",
    "trace", "study", "commands", "__main__",
]  # fmt: skip
PACKAGE = ROOT / "kd_scratch"
SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "data_scripts").glob("*.py"))
DEPENDENCIES = {"torch", "numpy", "tokenizers", "tqdm"}


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def chapter_of(path: Path) -> str:
    """kd_scratch/tasks/base.py -> tasks"""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_chapter_is_in_the_list():
    assert {chapter_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(CHAPTERS)


def test_a_chapter_imports_only_from_chapters_before_it():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        here = chapter_of(path)
        for name in imports(path):
            package, _, rest = name.partition(".")
            chapter = rest.split(".")[0]
            if package == "kd_scratch" and chapter in CHAPTERS and chapter != here and here != "__init__":
                if CHAPTERS.index(chapter) > CHAPTERS.index(here):
                    wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_run_time_dependencies_are_exactly_four():
    allowed = DEPENDENCIES | {"kd_scratch", "data_scripts"} | sys.stdlib_module_names
    for path in SOURCES:
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path
    declared = re.search(r"^dependencies = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert set(re.findall(r'"(\w+)', declared)) == DEPENDENCIES


def test_no_pickle_no_eval_no_extraction_anywhere():
    names = {"eval", "exec", "compile", "__import__", "torch.load", "torch.save", "np.load", "os.system", "os.popen"}
    methods = {"extractall", "extract", "unpack_archive", "allow_pickle", "loads_pickle", "import_module"}
    modules = {"pickle", "shelve", "marshal", "dill", "joblib", "zipfile", "tarfile", "importlib", "code"}
    for path in SOURCES:
        imported = imports(path)
        assert not {name.split(".")[0] for name in imported} & modules and not imported & names, path
        for node in ast.walk(ast.parse(path.read_text())):  # named anywhere, called or not
            if isinstance(node, ast.Name | ast.Attribute):
                named = ast.unparse(node)
                assert named not in names and named.split(".")[-1] not in methods, f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell")), path


def test_library_modules_for_whole_transformers_appear_only_in_tests():
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"nn\.(MultiheadAttention|Transformer)", path.read_text()), path


def test_one_file_alone_uses_torchs_quantization():
    """And nobody torch.ao, which is deprecated."""
    for path in PACKAGE.rglob("*.py"):
        allowed = r"torch\.ao" if path.name == "kernels.py" else r"torch\.ao|ops\.quantized|_quantized_tensor"
        assert not re.search(allowed, path.read_text()), path


def test_files_and_functions_stay_short():
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 380, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 68, f"{path}:{node.lineno} {node.name}"


def test_everything_public_has_a_docstring():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


def test_lines_over_110_characters_are_rare():
    lines = [line for path in SOURCES for line in path.read_text().split("\n")]
    assert sum(len(line) > 110 for line in lines) < 0.065 * len(lines)


def test_only_commands_know_of_flags():
    for path in PACKAGE.rglob("*.py"):
        if chapter_of(path) not in ("commands", "__main__"):
            assert "argparse" not in {name.split(".")[0] for name in imports(path)}, path


def test_names_are_those_of_the_field():
    """No `its` that is the teacher's in one place and the student's in another."""
    odd = {"its", "mine", "theirs", "told", "said", "says"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "name", None)
            if isinstance(name, str):
                assert name not in odd and not name.startswith(("its_", "said_", "told_")), (
                    f"{path}:{node.lineno} {name}"
                )


def test_every_chapter_has_a_readme():
    for chapter in CHAPTERS:
        if (PACKAGE / chapter).is_dir():
            assert (PACKAGE / chapter / "README.md").is_file(), chapter


# --- the tests ---

HELPERS = [path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith(("test_", "conftest"))]


@pytest.mark.parametrize("path", HELPERS, ids=lambda path: path.stem)
def test_every_module_beside_the_tests_can_be_imported(path):
    """Also those that no test imports, such as benchmarks and planted faults."""
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_each_folder_of_tests_is_a_chapter_or_is_run_apart():
    folders = {path.name for path in (ROOT / "tests").glob("*/") if any(path.glob("*.py"))}
    assert folders <= {*CHAPTERS, "data_scripts", "parity", "browser", "peers", "cures", "exercises"}


def test_every_planted_fault_finds_its_line_and_its_test():
    for what, file, old, new, test in FAULTS:
        assert (PACKAGE / file).read_text().count(old) == 1, f"{what}: {file} does not hold {old!r} exactly once"
        assert old != new, what
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), f"{what}: there is no test {test}"
