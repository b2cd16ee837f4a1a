"""The house rules: who may import whom, what may not be called, and that the README tells the truth."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kd_scratch.__main__ import COMMANDS, make_parser
from tests.conftest import ROOT

#: The chapters in reading order. A chapter imports only from chapters before it.
CHAPTERS = [
    "common", "config", "nn", "data", "checkpoints", "tasks", "pages", "evaluation", "distillation", "training", "demo",
    "trace", "study", "commands", "__main__",
]  # fmt: skip
PACKAGE = ROOT / "kd_scratch"
SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((ROOT / "data_scripts").glob("*.py"))
DEPENDENCIES = {"torch", "numpy", "tokenizers", "tqdm"}
README = (ROOT / "README.md").read_text()


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
    for path in PACKAGE.rglob("*.py"):
        assert path.name == "int8.py" or not re.search(r"torch\.ao|quantize_dynamic", path.read_text()), path


def test_files_and_functions_stay_short():
    for path in SOURCES:
        text = path.read_text()
        assert text.count("\n") <= 390, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 75, f"{path}:{node.lineno} {node.name}"


def test_everything_public_has_a_docstring():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}:{node.lineno} {node.name}"


# --- the README ---


def shell_lines() -> list[str]:
    """The commands in the README's shell blocks, continuation lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def test_readme_has_commands():
    assert {"make quickstart", "make test"} <= set(shell_lines())


@pytest.mark.parametrize("line", [line for line in shell_lines() if line.startswith("make")])
def test_make_commands_of_the_readme_exist(line):
    done = subprocess.run(["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [line for line in shell_lines() if "-m kd_scratch" in line])
def test_kd_scratch_commands_of_the_readme_parse(line):
    arguments = [word.strip("'\"") for word in re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line.split("-m kd_scratch")[1])]
    assert make_parser().parse_args(arguments).command in COMMANDS


def test_other_commands_of_the_readme_are_known_scripts():
    for line in shell_lines():
        if line.startswith("make") or "-m kd_scratch" in line:
            continue
        words = line.split()
        script = next((word for word in words if word.endswith(".py")), None)
        assert words[0] in ("git", "cd", "export") or (script and (ROOT / script).is_file()), line


def test_paths_in_the_readme_exist():
    for path in re.findall(r"`((?:kd_scratch|tests|data_scripts|\.ci)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


def test_code_examples_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_pictures_of_the_readme_show_the_figures_below_them():
    text = " ".join(README.split("Three kinds of task")[0].split())
    for path in re.findall(r"!\[[^]]*\]\(([\w/.-]+)\)", README):
        picture = (ROOT / path).read_text()
        shown = re.findall(r"<title>(\w+): ([\d.]+), ([\d.]+) %</title>", picture)
        assert [name for name, _, _ in shown] == ["teacher", "baseline", "distilled", "int8"]
        for _, cost, score in shown:
            assert f"{score}%" in text and f"{cost} {'ms' if 'speed' in path else 'MB'}" in text, (path, cost, score)


def test_each_example_of_a_change_takes_less_than_20_lines():
    blocks = re.findall(r"```python\n(.*?)```", README.split("## Changing things")[1], re.S)
    assert len(blocks) == 3 and all(len(block.strip().split("\n")) < 20 for block in blocks)
