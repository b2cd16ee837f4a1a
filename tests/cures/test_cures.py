"""Every cure that an error prints, followed to its end: after doing what the line says, the command succeeds."""

import re
from argparse import ArgumentParser
from contextlib import ExitStack

import pytest

from kd_scratch.__main__ import COMMANDS
from tests.conftest import ROOT
from tests.cures import (
    rows_answers,
    rows_conll,
    rows_data,
    rows_download,
    rows_folders,
    rows_formats,
    rows_models,
    rows_multi_label,
    rows_pages,
    rows_pairs,
    rows_predict,
    rows_runs,
    rows_settings,
    rows_study,
)
from tests.cures.advice import advice, is_advice
from tests.cures.exceptions import EXCEPTIONS, NO_ADVICE
from tests.cures.world import Base, World, call

TABLES = (
    rows_answers,
    rows_conll,
    rows_data,
    rows_formats,
    rows_settings,
    rows_runs,
    rows_models,
    rows_predict,
    rows_folders,
    rows_pages,
    rows_pairs,
    rows_multi_label,
    rows_study,
    rows_download,
)
ROWS = [row for table in TABLES for row in table.ROWS]


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """What no row changes."""
    return Base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def until_the_end():
    """What a row has opened is closed after it."""
    with ExitStack() as stack:
        yield stack


def as_printed(template: str) -> str:
    """A pattern for what a text of the sources becomes when it is printed."""
    return ".*".join(map(re.escape, template.split("{}")))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", row.message)[:70].strip("-"))
def test_the_cure_works(row, base, tmp_path, monkeypatch, until_the_end, capsys):
    world = World(base, tmp_path, monkeypatch, until_the_end)
    command = row.start(world)
    capsys.readouterr()
    status, message = call(command)
    printed = capsys.readouterr()
    lines = printed.out if row.note else message + printed.err.replace("\r", "\n")
    found = re.search(f".*{as_printed(row.message)}.*", " ".join(lines.split()) if row.note else lines)
    assert (status == 0) == row.note and found, lines
    assert row.note or (status == 2 and found[0] == lines.split("\n")[-2]), "one line, the last"
    command = row.follow(world, command, found[0]) or command
    status, message = call(command)
    printed = capsys.readouterr()
    assert status == 0, f"{found[0]}\nwas followed: {command}\n{message}{printed.err}"
    assert not (row.note and re.search(as_printed(row.message), " ".join(printed.out.split())))


# --- nothing is forgotten ---


def test_every_advice_in_the_sources_has_a_row_or_a_reason():
    """A new one gets a row in a table of this folder (or stands in EXCEPTIONS with the test that follows it)."""
    known = [*EXCEPTIONS, *NO_ADVICE]
    forgotten = [
        f"{place}: {text!r}"
        for text, place in advice().items()
        if text not in known and not any(row.message in text for row in ROWS)
    ]
    assert not forgotten, "nobody has tried this advice:\n" + "\n".join(forgotten)


def test_every_row_and_every_exception_is_about_advice_that_the_sources_hold():
    found = advice()
    gone = [row.message for row in ROWS if not any(row.message in text for text in found)]
    gone += [text for text in (*EXCEPTIONS, *NO_ADVICE) if text not in found]
    assert not gone
    assert not [row.message for row in ROWS if not is_advice(row.message)], "a row's message holds the advice itself"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\S+::\w+", " ".join(EXCEPTIONS.values())))))
def test_a_test_that_an_exception_names_is_there(name):
    path, _, function = name.partition("::")
    assert f"def {function}(" in (ROOT / "tests" / path).read_text()


def test_flags_commands_and_targets_that_advice_names_are_there():
    flag = r"(?<![\w-])--[a-z][a-z0-9-]*"
    known = {"--rows"}  # of data_scripts/make_sample.py
    for module in COMMANDS.values():
        parser = ArgumentParser()
        module.add_arguments(parser)
        known.update(re.findall(flag, parser.format_help()))
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for text, place in advice().items():
        assert set(re.findall(flag, text)) <= known, (place, text)
        assert set(re.findall(r"`(?!make )(\w+)", text)) <= set(COMMANDS), (place, text)
        assert set(re.findall(r"`make ([\w-]+)", text)) <= set(targets), (place, text)
