"""source_hash.py: what computes is hashed, found by following imports; docstrings, comments and layout are not."""

import ast

import pytest

from kd_scratch.common import source_hash as module
from kd_scratch.common.source_hash import imported_modules, source_hash


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of ours: a function that writes its files. Hashes are computed anew after each call."""
    monkeypatch.setattr(module, "PACKAGE", tmp_path)

    def write(**sources: str) -> None:
        for name, source in sources.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        source_hash.cache_clear()

    yield write
    source_hash.cache_clear()


def test_docstrings_comments_and_layout_do_not_count(package):
    package(loss='"""Old words."""\n\ndef loss(x):\n    """Old words."""\n    return x + 1  # why\n')
    before = source_hash("loss")
    package(loss='"""New words."""\n\n\ndef loss(x):\n    """New words, and more."""\n\n    return (x + 1)\n')
    assert source_hash("loss") == before
    package(loss='"""New words."""\n\n\ndef loss(x):\n    return x + 1\n')
    assert source_hash("loss") != before, "one that has no docstring at all is another tree"
    package(loss='"""Old words."""\n\ndef loss(x):\n    """Old words."""\n    return x + 2\n')
    assert source_hash("loss") != before


def test_a_change_deep_down_counts_and_one_beside_does_not(package):
    package(
        top="from kd_scratch.nn import layers\nfrom kd_scratch import middle\n",
        middle="def late():\n    from kd_scratch.deep import f\n    return f\n",
        nn__layers="x = 1\n",
        deep="def f():\n    return 1\n",
        page="style = 1\n",
    )
    before = source_hash("top")
    package(page="style = 2\n")
    assert source_hash("top") == before
    package(deep="def f():\n    return 2\n")
    assert source_hash("top") != before
    package(deep="def f():\n    return 1\n", nn__layers="x = 2\n")
    assert source_hash("top") != before


def test_modules_that_import_each_other_end(package):
    package(a="from kd_scratch import b\n", b="import kd_scratch.a\n")
    assert len(source_hash("a")) == 64 and source_hash("a") != source_hash("a", versions=("2.6",))


def test_a_module_that_is_not_there_raises_instead_of_hashing_nothing(package):
    package(a="x = 1\n")
    with pytest.raises(ValueError, match="kd_scratch.b: there is no such module"):
        source_hash("a", "b")


def test_a_name_taken_from_a_chapter_is_no_module():
    tree = ast.parse(
        "from kd_scratch.tasks import TASKS, spans\nimport numpy\nfrom kd_scratch.nn.layers import dropout"
    )
    assert imported_modules(tree) == {"tasks", "tasks.spans", "nn.layers"}


@pytest.mark.parametrize(
    "roots, found, beside",
    [
        (["distillation.teacher"], ["nn.layers", "data.batches"], ["tasks.classification", "pages.html"]),
        (["tasks", "tasks.feature_cache"], ["data.tokenizer", "tasks.spans"], ["nn.layers", "training.loop"]),
        (["study.results"], ["evaluation.significance", "nn.fast", "tasks.conll_metric"], ["training.loop"]),
        (["training.examples"], ["tasks.augment", "data.masking"], ["nn.layers", "distillation.hidden_losses"]),
        (["training.loop", "training.setup"], ["training.optimizer", "nn.layers"], ["pages.html", "pages.report"]),
    ],
)  # fmt: skip
def test_what_each_cached_result_depends_on(roots, found, beside):
    names, pending = set(), list(roots)
    while pending:
        name = pending.pop()
        if name not in names:
            names.add(name)
            pending += imported_modules(ast.parse(module.source_file(name).read_bytes()))
    assert names >= {*roots, *found} and not names & set(beside)
