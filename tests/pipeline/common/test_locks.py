"""Two writers of one file, and writers that were killed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.common.files import atomic, atomic_folder, link_or_copy
from pipeline.common.locks import LOCK, clear, locked, own_folder, resumed_folder

KILLED = """
import os, signal, sys
from pipeline.common.{module} import {function}
with {function}(sys.argv[1]) as part:
    ({written}).write_text("left by a killed run, and longer than what comes")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path, module: str, function: str, written: str) -> None:
    code = KILLED.format(module=module, function=function, written=written)
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -9


@pytest.mark.parametrize("first_to_end", ["outer", "inner"])
def test_each_of_two_writers_of_a_file_writes_its_own_bytes(tmp_path, first_to_end):
    path = tmp_path / "a"
    outer = atomic(path)
    part = outer.__enter__()
    part.write_text("outer")
    with atomic(path) as other:
        other.write_text("inner")
        if first_to_end == "outer":
            outer.__exit__(None, None, None)
            assert path.read_text() == "outer"
    assert path.read_text() == "inner"
    if first_to_end == "inner":
        outer.__exit__(None, None, None)
        assert path.read_text() == "outer"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_of_a_folder_leave_one_whole_folder_and_no_part(tmp_path):
    path, ended = tmp_path / "a", []
    barrier = threading.Barrier(4)

    def write(number: int) -> None:
        with atomic_folder(path) as folder:
            barrier.wait()
            for name in range(5):
                (folder / str(name)).write_text(str(number))
        ended.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    texts = {file.read_text() for file in path.iterdir()}
    assert (len(texts), len(list(path.iterdir()))) == (1, 5)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_gone_after_the_next_one(tmp_path):
    for function, module, written in (("atomic", "files", "part"), ("atomic_folder", "files", "part / 'x'")):
        for _ in range(2):
            killed_while_writing(tmp_path / "a", module, function, written)
        assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
        with atomic(tmp_path / "a") as part:
            assert not part.exists()
            part.write_text("new")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_text() == "new"
        (tmp_path / "a").unlink()


@pytest.mark.parametrize("planted", ["a.part", "a.part/a", "a.part/.lock"])
def test_a_planted_symbolic_link_is_not_written_through(tmp_path, planted):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / planted
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    try:
        with atomic(tmp_path / "folder/a") as part:
            part.write_text("new")
        assert (tmp_path / "folder/a").read_text() == "new"
    except OSError as error:
        assert planted.endswith(".lock"), error
    assert victim.read_text() == "precious"


def test_what_lies_at_the_name_of_a_part_and_is_no_folder_stays(tmp_path):
    (tmp_path / "a.part").write_text("somebody's")
    with atomic(tmp_path / "a") as part:
        part.write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "a.part": "somebody's"}


def test_files_and_folders_have_the_modes_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as part:
            part.write_text("x")
        with atomic_folder(tmp_path / "b") as folder:
            (folder / "c").write_text("x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "b", "b/c")]
    assert modes == [0o640, 0o750, 0o640]


def test_a_resumed_folder_keeps_what_was_there_and_the_next_one_waits(tmp_path):
    killed_while_writing(tmp_path / "a", "locks", "resumed_folder", "part / 'kept'")
    order = []

    def second() -> None:
        with resumed_folder(tmp_path / "a") as folder:
            order.append(("second", sorted(path.name for path in folder.iterdir())))

    with resumed_folder(tmp_path / "a") as folder:
        order.append(("first", sorted(path.name for path in folder.iterdir())))
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        folder.rename(tmp_path / "a")
    thread.join()
    assert order == [("first", ["kept"]), ("second", [])]
    with pytest.raises(RuntimeError), resumed_folder(tmp_path / "a") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert (tmp_path / "a.part/a/half").exists()


def test_a_lock_that_was_deleted_while_one_waited_for_it_holds_nobody_up(tmp_path):
    inside, most = [], 0

    def work() -> None:
        nonlocal most
        for _ in range(50):
            with locked(tmp_path / "lock"):
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()
                (tmp_path / "lock").unlink()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_is_no_symbolic_link_and_empties_no_file(tmp_path):
    (tmp_path / "kept").write_text("kept")
    with locked(tmp_path / "kept"):
        pass
    assert (tmp_path / "kept").read_text() == "kept"
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / "link"):
        pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file; remove it"), locked(tmp_path / "pipe"):
        pass


def test_a_link_or_copy_takes_the_place_of_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "new").write_text("new")
    for number in range(2):
        (tmp_path / "a").write_text("old")
        link_or_copy(tmp_path / "new", tmp_path / "a")
        assert (tmp_path / "a").read_text() == "new"
        assert (tmp_path / "a").stat().st_nlink == 2 - number

        def no_link(*_):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", no_link)
        (tmp_path / "a").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_writers_left_that_were_killed_together_goes_and_what_is_written_stays(tmp_path):
    for name in ("a.part", "a.1.part", "a.3.part"):
        (tmp_path / name / "a").mkdir(parents=True)
    with own_folder(tmp_path / "a"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.3.part", "a.part"]
        with own_folder(tmp_path / "a") as second, own_folder(tmp_path / "a") as third:
            assert [second.name, third.name] == ["a.1.part", "a.2.part"]
            (third / "x").touch()
            with own_folder(tmp_path / "a") as fourth:
                assert (fourth.name, list(fourth.iterdir())) == ("a.3.part", [fourth / LOCK])
            assert (third / "x").exists()
    assert not list(tmp_path.iterdir())


def test_writers_in_one_place_have_a_folder_each(tmp_path):
    with own_folder(tmp_path / "a") as first, own_folder(tmp_path / "a") as second:
        assert [first.name, second.name] == ["a.part", "a.1.part"]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_cleared_and_what_one_is_writing_stays(tmp_path):
    path = tmp_path / "a"
    clear(path)
    killed_while_writing(path, "files", "atomic", "part")
    assert list(tmp_path.iterdir())
    clear(path)
    assert not list(tmp_path.iterdir())
    with atomic(path) as part:
        part.write_text("whole")
        clear(path)
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]
