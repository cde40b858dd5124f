"""What a function does in a process of its own: answers, fails, crashes, and takes too much of something."""

import pytest

from pipeline.common.errors import StageError
from pipeline.common.guard import BeyondBounds, guarded

CODE = """
import atexit, logging, os, re, sys
from pipeline.common.errors import StageError

class Panic(BaseException): pass

def same(*values):
    print("on the standard output")
    logging.warning("\x1b[2J")
    return values

def fails(): raise StageError("no such thing; take another")
def breaks(): raise KeyError("x")
def panics(): raise Panic("in native\\ncode")
def crashes(): os.abort()
def ends(): os._exit(0)
def spins(): re.search("(a+)+b", "a" * 60)
def fills(): return len([bytes(2**20) for _ in range(2**20)])
def takes(): return len(bytearray(2**40))
def aborts_late(size): return atexit.register(os.abort) and len(bytearray(size))
def pours(): return "x" * 2_000_000
def where(): return [os.getcwd(), *sys.path]
"""


@pytest.fixture
def call(tmp_path, monkeypatch):
    (tmp_path / "functions.py").write_text(CODE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def call(name, *arguments, seconds=20, memory=2**28):
        return guarded(f"functions:{name}", *arguments, seconds=seconds, memory=memory)

    return call


def test_arguments_and_results_are_json(call, capfd):
    values = [1, "é\ud800", None, {"a": [True, 0.5]}]
    assert call("same", *values) == values
    assert r"\x1b[2J" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "kind", "problem"),
    [
        ("fails", StageError, "^no such thing; take another$"),
        ("breaks", StageError, "^KeyError: 'x'$"),
        ("panics", StageError, "^Panic: in native code$"),
        ("crashes", StageError, r"^functions:crashes crashed \(SIGABRT\)$"),
        ("ends", StageError, r"^functions:ends crashed \(0\)$"),
        ("spins", BeyondBounds, "^takes more than 1 s of processor time$"),
        ("fills", BeyondBounds, "^takes more than 0.25 GB of memory$"),
        ("takes", BeyondBounds, "^takes more than 0.25 GB of memory$"),
        ("pours", BeyondBounds, "^gives more than 1 MiB$"),
    ],
)
def test_what_goes_wrong_there_is_an_error_of_one_line_here(name, kind, problem, call, monkeypatch):
    monkeypatch.setattr("pipeline.common.guard.RESULT_BYTES", 2**20)
    with pytest.raises(kind, match=problem) as error:
        call(name, seconds=1 if name == "spins" else 20)
    assert "\n" not in str(error.value)


def test_what_goes_wrong_when_it_is_over_changes_nothing(call):
    """Threads of Arrow, one of which did not start for want of memory, at times abort the process at its end."""
    assert call("aborts_late", 10) == 10
    with pytest.raises(BeyondBounds, match=r"^takes more than 0.25 GB of memory$"):
        call("aborts_late", 2**40)


def test_nothing_is_imported_from_the_working_folder(call, tmp_path, monkeypatch):
    folder = tmp_path / "anybody's"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "json.py").write_text("raise SystemExit('imported')")
    here, *path = call("where")
    assert here == str(folder) and not {"", ".", here}.intersection(path)
