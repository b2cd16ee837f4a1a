"""A plugin of pytest: a reader's copy of a file in the place of the original, and where its numbers go wrong.

Three variables of the environment say what: KD_STANDIN (module, a colon, the copy), KD_FUNCTIONS (names in it) and
KD_REPORT, the file that gets what was found, as JSON, whenever something is. Nothing of kd_scratch may be imported
before the copy stands there, so this file imports none of it.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import signal
import sys
import traceback
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

MODULE, _, COPY = os.environ.get("KD_STANDIN", "").partition(":")
FUNCTIONS = os.environ.get("KD_FUNCTIONS", "").split(",")
SECONDS = int(os.environ.get("KD_SECONDS", "30"))  # that a test may take
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}
found: dict = {"passed": 0, "running": "", "failed": None}
#: Empty while nobody looks. Else what is known of a test that is run once more: None for nothing yet, False within a
#: call that is compared, or the first mismatch.
watching: list = []


def write_report() -> None:
    """What is known by now; a run that hangs is killed, and leaves this."""
    Path(os.environ["KD_REPORT"]).write_text(json.dumps(found))


# --- the copy in the original's place ---


class Loader(importlib.machinery.SourceFileLoader):
    """Loads the copy, and has its functions watched from the first import on."""

    def exec_module(self, module) -> None:
        """Run the copy. Whatever goes wrong in it ends the tests, with the line of the copy."""
        try:
            super().exec_module(module)
        except BaseException as error:
            found["failed"] = {"import": True, **of_error(error)}
            write_report()
            raise
        for name in FUNCTIONS:
            *path, last = name.split(".")
            owner = functools.reduce(getattr, path, module)
            setattr(owner, last, watched(name, getattr(owner, last)))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the copy where the original is asked for."""

    def find_spec(self, name: str, path=None, target=None):
        """The copy's place, None for all other modules."""
        return importlib.util.spec_from_file_location(name, COPY, loader=Loader(name, COPY)) if name == MODULE else None


if MODULE:
    assert MODULE not in sys.modules, "the original is there already"
    sys.meta_path.insert(0, Finder())


@functools.cache
def original(name: str):
    """The function as it is in the original file, which is loaded under a name of its own."""
    origin = Path(__file__).parents[2] / (MODULE.replace(".", "/") + ".py")
    alias = MODULE + "__original"
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, origin)
        sys.modules[alias] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[alias])
    return functools.reduce(getattr, name.split("."), sys.modules[alias])


# --- the first wrong number ---


def watched(name: str, function):
    """The same function; while a test that failed is run once more, its results are compared with the original's."""

    @functools.wraps(function)
    def call(*arguments, **options):
        if not watching or watching[0] is not None:
            return function(*arguments, **options)
        given = inspect.signature(function).bind(*arguments, **options).arguments
        seed = torch.get_rng_state()
        before = {key: detached(value) for key, value in given.items()}
        watching[0] = False  # calls within this call are its own business
        got = outcome(function, *arguments, **options)
        after = torch.get_rng_state()
        torch.set_rng_state(seed)
        with torch.no_grad():
            expected = outcome(original(name), **before)
        torch.set_rng_state(after)
        wrong = difference(detached(expected), detached(got), "result")
        if wrong is not None:
            shown = ", ".join(f"{key} {shape(value)}" for key, value in given.items() if key != "self")
            wrong = {"call": f"{with_settings(name, given.get('self'))}({shown})", **wrong}
        watching[0] = wrong
        if isinstance(got, BaseException):
            raise got
        return got

    return call


def with_settings(name: str, owner) -> str:
    """A method's name with what its object was made with: InputEmbeddings(training=True, scale=4.0).forward"""
    settings = {} if owner is None else vars(owner) | getattr(owner, "_modules", {})
    simple = {k: v for k, v in settings.items() if k[0] != "_" and (v is None or isinstance(v, bool | int | float))}
    listed = ", ".join(f"{key}={value!r}" for key, value in simple.items())
    return name.replace(".", f"({listed}).", 1) if simple else name


def outcome(function, *arguments, **options):
    """What a function returns, or the error that it raises."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        return error


def detached(value):
    """A copy of tensors and arrays, also within tuples and lists, that nobody changes."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (tuple, list):
        return type(value)(map(detached, value))
    return value


def shape(value) -> str:
    """What a value is, in short: "2,5,8 float64" for a tensor."""
    if isinstance(value, torch.Tensor | np.ndarray):
        size = ",".join(map(str, value.shape)) or "scalar"
        return f"{size} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, BaseException):
        text = f"{type(value).__name__}: {value}"
        return text if len(text) <= 60 else text[:60] + "…"
    if type(value) in (tuple, list) and len(value) <= 4 and any(isinstance(x, torch.Tensor) for x in value):
        return f"({', '.join(map(shape, value))})"
    text = repr(value)
    return text if len(text) < 120 else f"{text[:100]} … ({type(value).__name__})"


def kind(array) -> str:
    """bool, int or float: what the numbers of a tensor or an array are."""
    return next((name for name in ("bool", "float") if name in str(array.dtype)), "int")


def difference(expected, got, place: str) -> dict | None:
    """Where two results differ first: place, both with their shapes, and for arrays the first wrong number."""
    wrong = {"place": place, "expected": shape(expected), "got": shape(got)}
    if isinstance(expected, torch.Tensor | np.ndarray):
        if type(got) is not type(expected) or got.shape != expected.shape or kind(got) != kind(expected):
            return wrong
        a, b = (
            torch.as_tensor(x).float() if str(x.dtype).endswith("bool") else torch.as_tensor(x) for x in (expected, got)
        )
        near = TOLERANCE.get(a.dtype, 0.0)
        b = b.to(a.dtype)  # float32 for float64, say: a test that minds it says so itself
        at = (~torch.isclose(b, a, rtol=near, atol=near, equal_nan=True)).nonzero()
        if len(at):
            first = at[0].tolist()
            wrong |= {"at": first, "expected": f"{shape(expected)}: {a[tuple(first)].item():.9g}"}
            wrong["got"] = f"{shape(got)}: {b[tuple(first)].item():.9g}"
            return wrong | {"count": len(at), "size": a.numel()}
        return None
    if isinstance(expected, BaseException) or isinstance(got, BaseException):
        return None if type(expected).__name__ == type(got).__name__ else wrong
    if isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            return wrong
        pairs = [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(expected, got, strict=True))]
    elif isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        pairs = [(value, got[key], f"{place}[{key!r}]") for key, value in expected.items()]
    elif is_dataclass(expected) and is_dataclass(got):
        names = [field.name for field in fields(expected)]
        pairs = [(getattr(expected, name), getattr(got, name, None), f"{place}.{name}") for name in names]
    elif isinstance(expected, float) and isinstance(got, float | int):
        return None if np.isclose(expected, got, rtol=1e-9, equal_nan=True) else wrong
    else:
        return None if type(expected) is type(got) and expected == got or callable(expected) else wrong
    return next(filter(None, (difference(*pair) for pair in pairs)), None)


# --- what pytest tells ---


def of_error(error: BaseException) -> dict:
    """An error in one line, and the line of the copy that it went through last."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == COPY]
    text = " ".join(str(error).split())
    return {"type": type(error).__name__, "text": text[:300], "line": lines[-1] if lines else None}


def ring(number, frame) -> None:
    """A test takes too long: most likely a loop does not end."""
    raise TimeoutError(f"it has not ended after {SECONDS} seconds")


def pytest_sessionstart() -> None:
    """Reading the files of tests, which may call the copy, has so many seconds."""
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """Each test has as many."""
    found["running"] = item.nodeid
    write_report()
    signal.alarm(SECONDS)
    try:
        return (yield)
    finally:
        signal.alarm(0)


def pytest_exception_interact(node, call, report) -> None:
    """A file of tests that calls the copy while it is read, and fails at that."""
    if isinstance(report, pytest.CollectReport) and found["failed"] is None:
        error = call.excinfo.value
        found["failed"] = {"test": node.nodeid, "import": False, **of_error(error.__cause__ or error), "number": None}
        write_report()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that failed is run once more, to see where the numbers begin to differ."""
    report = yield
    if report.failed and found["failed"] is None:
        error = call.excinfo.value
        found["failed"] = {"test": item.nodeid, "import": False, **of_error(error), "number": None}
        if call.when == "call" and not isinstance(error, TimeoutError | NotImplementedError):
            watching[:] = [None]
            with contextlib.suppress(BaseException):  # pytest's own are no Exceptions
                item.runtest()
            found["failed"]["number"] = watching[0] or None
            watching.clear()
    elif report.when == "call" and report.passed:
        found["passed"] += 1
    write_report()
    return report
