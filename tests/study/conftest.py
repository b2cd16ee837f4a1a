"""What the tests of studies share."""

import os
import subprocess
import sys

import pytest

from kd_scratch.study import runner
from tests.forking import Fork


@pytest.fixture(scope="module", autouse=True)
def runs_are_forks():
    """The `train` processes of a study are forks of the test process, but for the first one."""
    real, begun = subprocess.Popen, []

    def start(argv, *more, **options):
        if list(argv[:4]) != [sys.executable, "-m", "kd_scratch", "train"]:
            return real(argv, *more, **options)
        assert options["stderr"] == subprocess.STDOUT and options["start_new_session"]
        begun.append(argv)
        if len(begun) == 1:  # in the precision that forks have, see tests/conftest.py
            return real([*argv, *([] if "--amp" in argv else ["--amp", "off"])], *more, **options)
        return Fork(argv[3:], os.setsid, stdout=options["stdout"], stderr=options["stdout"])

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(subprocess, "Popen", start)
        monkeypatch.setattr(runner, "WAIT", 0.02)
        yield
