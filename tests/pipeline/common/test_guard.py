import time

import pytest

from pipeline.common.errors import StageError
from pipeline.common.guard import BeyondBounds, guarded

CODE = """
import os, re, sys
from pipeline.common.errors import StageError

def same(*values):
    print("on the standard output")
    return values

def fails(): raise StageError("no such thing; take another")
def breaks(): raise KeyError("x")
def crashes(): os.abort()
def ends(): os._exit(0)
def spins(): re.search("(a+)+b", "a" * 60)
def fills(): return len([bytes(2**20) for _ in range(2**20)])
def pours(): return "x" * 2_000_000
def folder(): return os.getcwd()
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "functions.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(name, *arguments, seconds=20, memory=2**30):
        return guarded(f"functions:{name}", *arguments, seconds=seconds, memory=memory)

    return call


def test_arguments_and_results_are_json(call, tmp_path):
    values = [1, "é\ud800", None, {"a": [True, 0.5]}]
    assert call("same", *values) == values
    assert call("folder") == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("fails", StageError, "^no such thing; take another$"),
        ("breaks", StageError, "^functions:breaks ended with status 1"),
        ("crashes", StageError, "^functions:crashes ended with status -6"),
        ("ends", StageError, "^functions:ends ended with status 0"),
        ("spins", BeyondBounds, "^takes more than 1 s of processor time$"),
        ("fills", BeyondBounds, "^takes more than 1 GB of memory$"),
        ("pours", BeyondBounds, "^gives more than 1 MiB$"),
    ],
)
def test_what_goes_wrong_there_is_an_error_here(name, kind, problem, call, monkeypatch):
    monkeypatch.setattr("pipeline.common.guard.RESULT_BYTES", 2**20)
    begin = time.monotonic()
    with pytest.raises(kind, match=problem):
        call(name, seconds=1 if name == "spins" else 20)
    assert time.monotonic() - begin < 15
