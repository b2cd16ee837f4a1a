"""The notebook that is made of the README: it runs from its first cell to its last, with nothing but this project."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from data_scripts.make_notebook import ROOT, cells, main
from kd_scratch.common.errors import UserError


def test_its_cells_are_the_readmes(tmp_path, capsys):
    path = tmp_path / "new" / "it.ipynb"
    assert main(["--output", str(path), "--repository", "https://example.org/it.git"]) == 0
    made = json.loads(path.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in made if cell["cell_type"] == "code"]
    assert capsys.readouterr().out == f"{len(made)} cells, {len(code)} of them code: {path}\n"
    readme = (ROOT / "README.md").read_text()
    setup, quickstart, program = code
    assert 'REPOSITORY = "https://example.org/it.git"' in setup and quickstart.startswith("!{MAKE} quickstart\n")
    assert f"```python\n{program}\n```" in readme
    for cell in made:
        text = "".join(cell["source"])
        assert cell["cell_type"] == "code" or "](" not in text, "no link or picture of a file that is not there"
        assert cell["cell_type"] == "code" or set(re.findall(r"\w+", text)) <= set(re.findall(r"\w+", readme))


def test_a_readme_without_one_of_its_sections_is_refused():
    with pytest.raises(UserError, match="has no section 'The loss'; name the one that took its place in SECTIONS"):
        cells((ROOT / "README.md").read_text().replace("## The loss", "## Loss"))


@pytest.mark.slow
def test_it_runs_to_its_end(tmp_path, monkeypatch):
    """In a folder of its own below the project, as a reader would start it. `make` only prints what it would do: the
    quickstart itself is what .ci/run runs, in its short form."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("MAKEFLAGS", "n")
    path = tmp_path / "it.ipynb"
    main(["--output", str(path)])
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "tests")}})
    before = os.getcwd()
    client.execute()
    assert os.getcwd() == before
    outputs = ["".join(part.get("text", "") for part in cell.get("outputs", [])) for cell in notebook.cells]
    command = rf"^{Path(sys.executable).parent}/python -m kd_scratch compare --task agnews .*int8="
    assert any(re.search(command, text, re.M | re.S) for text in outputs), "with this Python"
    assert any(text.split()[::2] == ["teacher", "baseline", "distilled"] for text in outputs)
