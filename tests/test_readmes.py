"""What the READMEs say is true: their commands parse, their paths exist, their examples run, their pictures agree."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kd_scratch.__main__ import COMMANDS, make_parser
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
PAGES = sorted(path for folder in ("", "kd_scratch/*", "tests/*") for path in ROOT.glob(f"{folder}/*.md".lstrip("/")))
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)


def shell_lines(page: str) -> list[str]:
    """The commands in a page's shell blocks, continuation lines joined."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ").split("\n")
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


LINES = [(page, line) for page in NAMES for line in shell_lines(page)]
EXAMPLES = [(page, i) for page in NAMES for i in range(len(blocks(page, "python")))]


def test_the_readme_is_short_and_begins_with_two_commands():
    assert README.count("\n") <= 230
    assert {"make quickstart", "make test"} <= set(shell_lines("README.md"))
    assert len(NAMES) > 13


@pytest.mark.parametrize("line", sorted({line for _, line in LINES if line.startswith("make")}))
def test_make_commands_exist(line):
    done = subprocess.run(["make", "--dry-run", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["baseline", "distill", "evidence"])
def test_a_student_is_made_of_layers_or_of_a_whole_model_or_of_a_size(target):
    for layers, words in (("0,2", ["--init-layers", "0,2"]), ("", [])):
        command = ["make", "--dry-run", target, "MODEL=tiny-student", f"LAYERS={layers}"]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (line,) = [line for line in made.replace("\\\n", " ").split("\n") if "-m kd_scratch" in line]
        argv = shlex.split(line.split("-m kd_scratch")[1])
        assert [word for word in argv if word in ("--init-layers", "0,2")] == words
        assert make_parser().parse_args(argv).model == "tiny-student"


def test_cross_fitted_teachers_go_on_where_they_were_stopped(tmp_path):
    """A finished one stays, a stopped one is resumed; TRAIN stands in for `train`."""
    (tmp_path / "clinc" / "teacher-1-of-3").mkdir(parents=True)
    (tmp_path / "clinc" / "teacher-1-of-3" / "training.json").write_text("{}")
    argv = ["make", "--silent", "--old-file=.venv/run", "teachers", f"RUNS={tmp_path}", "FOLDS=3", "MODEL=x"]
    done = subprocess.run([*argv, "TRAIN=echo train"], cwd=ROOT, capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first == f"{tmp_path}/clinc/teacher-1-of-3: is finished, and stays as it is"
    assert [re.findall(r"--fold (\S+) --output (\S+) --resume", line) for line in others] == [
        [(f"{i}/3", f"{tmp_path}/clinc/teacher-{i}-of-3")] for i in (2, 3)
    ]
    failed = subprocess.run([*argv, "TRAIN=echo train; false"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert failed.returncode and failed.stdout.count("train") == 1


@pytest.mark.parametrize("given", ["RUNS=my runs", "RUNS=runs ", "RUNS=", "TASK=agnews /", "TASK="])
def test_a_name_of_two_words_or_none_is_refused_before_anything_is_deleted(given):
    """`quickstart` begins with rm -rf RUNS/quickstart/TASK."""
    name = given.partition("=")[0]
    done = subprocess.run(["make", "--dry-run", "quickstart", given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and f'{name}="' in done.stderr


def test_the_demo_names_each_model_by_its_run(tmp_path):
    """A quickstart and a real run of one task have models of the same labels, which need names of their own."""
    models = ["clinc/distilled-0", "clinc/teacher", "quickstart/clinc/distilled", "quickstart/clinc/teacher"]
    for model in models:
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "config.json").touch()
    argv = ["make", "--dry-run", "demo", f"RUNS={tmp_path}"]
    last = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert sorted(last.split("--models ")[1].split()) == [f"{model}={tmp_path}/{model}" for model in models]


def test_commands_parse():
    for page, line in LINES:
        if "-m kd_scratch" in line:
            words = re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line.split("-m kd_scratch")[1])
            arguments = make_parser().parse_args([word.strip("'\"") for word in words])
            assert arguments.command in COMMANDS, (page, line)


def test_other_commands_are_known_scripts():
    for page, line in LINES:
        if not line.startswith("make") and "-m kd_scratch" not in line:
            words = line.split()
            script = next((word for word in words if word.endswith(".py")), None)
            assert words[0] in ("git", "cd", "export") or (script and (ROOT / script).is_file()), (page, line)


def test_paths_exist():
    for page in PAGES:
        for path in re.findall(r"`((?:kd_scratch|tests|data_scripts|\.ci)/[\w./-]*)`", page.read_text()):
            assert (ROOT / path).exists(), (page, path)
        for path in re.findall(r"\]\(([\w./-]+)\)", page.read_text()):
            assert (page.parent / path).exists(), (page, path)


def test_files_in_the_tables_of_a_chapter_exist():
    """A row of a chapter's table begins with its files: | `loop.py` | …"""
    for page in PAGES:
        for row in re.findall(r"^\| (`[^|]*`) \|", page.read_text(), re.M):
            for name in re.findall(r"`(\w+\.(?:py|html))`", row):
                assert (page.parent / name).exists(), (page, name)


def test_every_row_of_a_table_has_as_many_cells_as_its_header():
    """A bare | parts a cell, in code too: it is written \\|."""
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            counts = {row: len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
            assert len(set(counts.values())) == 1, (page, counts)


def test_every_file_of_a_chapter_is_in_its_readme():
    """By its path or its name; a command by its own."""
    for path in (ROOT / "kd_scratch").glob("*/*.py"):
        known = re.search(rf"`([\w/]+/)?{path.stem}(\.py)?`", (path.parent / "README.md").read_text())
        assert known or path.stem == "__init__", path


@pytest.mark.parametrize(("page", "i"), EXAMPLES)
def test_examples_run(page, i, tmp_path, monkeypatch):
    from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES
    from kd_scratch.tasks import TASKS

    monkeypatch.chdir(tmp_path)
    before = [set(HIDDEN_LOSSES), set(TASKS)]  # an example may add to them
    try:
        exec(compile(blocks(page, "python")[i], page, "exec"), {"__name__": "example"})
    finally:
        for table, names in zip((HIDDEN_LOSSES, TASKS), before, strict=True):
            for name in set(table) - names:
                del table[name]


def test_the_program_of_the_readme_is_one_screen():
    [program, _] = blocks("README.md", "python")
    assert program.strip().count("\n") < 60


def test_the_picture_shows_the_figures_below_it():
    text = README.split("## An afternoon")[0]
    [path] = re.findall(r"!\[[^]]*\]\(([\w/.-]+)\)", README)
    picture = (ROOT / path).read_text()
    shown = re.findall(r"<title>(\w+): ([\d.]+)</title>", picture) + re.findall(r">(teacher) ([\d.]+)<", picture)
    assert [name for name, _ in shown] == ["baseline", "distilled", "teacher"]
    for name, score in shown:
        assert score in text, (name, score)


def test_every_chapter_is_in_the_tree():
    tree = README.split("## The tree")[1].split("\n## ")[0]
    for chapter in sorted(Path(path).name for path in (ROOT / "kd_scratch").glob("*/")):
        assert chapter.startswith("__") or f"      {chapter}/ " in tree, chapter
