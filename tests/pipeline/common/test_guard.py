"""What a reader does in a process of its own: answers, fails, crashes, and takes too much of something."""

import ctypes
import os
import sys
from pathlib import Path

import pytest

from pipeline.common.errors import StageError
from pipeline.common.guard import guarded


def answers(number: str, word: str) -> dict[str, int]:
    print("noise")
    return {word: int(number)}


def crashes() -> None:
    ctypes.string_at(0)


def fills_memory() -> int:
    return len(bytearray(2**40))


def has_no_end() -> None:
    while True:
        pass


def leaves() -> None:
    os._exit(3)


def where() -> list[str]:
    return [str(Path.cwd()), *sys.path]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def run(name: str, *arguments: str):
    return guarded(f"test_guard:{name}", *arguments, seconds=1, memory=2**28)


def test_the_answer_comes_back() -> None:
    assert run("answers", "3", "one word") == {"one word": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashes", r"its reader crashed \(SIGSEGV\)"),
        ("leaves", r"its reader crashed \(status 3\)"),
        ("fills_memory", "it takes more than 256 MiB to read"),
        ("has_no_end", "its reader was not done after 1 s of processor time"),
        ("answers", "missing 2 required positional arguments"),
    ],
)
def test_what_goes_wrong_is_one_line(name: str, message: str) -> None:
    with pytest.raises(StageError, match=message) as error:
        run(name)
    assert "\n" not in str(error.value)


def test_nothing_is_imported_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    folder, *path = run("where")
    assert folder == str(tmp_path) and not {"", ".", folder}.intersection(path)
