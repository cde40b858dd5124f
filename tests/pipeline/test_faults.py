"""A full disk and a read-only folder: the message says what happened, no part of a file stays, a rerun works."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.__main__ import STAGES, main
from pipeline.common import files, locks


def stages(folder: Path, warc: Path, language_id: str) -> dict[str, tuple[list[str], list[str]]]:
    """A chain of stages: for each its arguments, and the files that it makes in `folder`."""
    from pipeline.crawl.origins import unique_name

    at = {name: str(folder / name) for name in ("pages.json", "l.json", "h.arrow", "index.arrow", "d.arrow",
                                                "out/h.arrow", "out", "corpus", "s.json",
                                                "e.rows", "d.rows", "s.rows", "n.json")}  # fmt: skip
    pages = unique_name(warc.name, str(warc))
    ledger = ["--ledger", at["l.json"]]
    return {
        "extract": (["--warcs", str(warc), "--language-id", language_id, "--output", at["pages.json"], *ledger,
                     "--decisions", at["e.rows"]],
                    [*(f"warcs/{pages}.{kind}" for kind in ("decisions", "arrow", "ledger.json")), "e.rows",
                     "pages.json"]),
        "count-languages": (["--ledgers", at["l.json"], "--languages", "fr", "--needed", "fr", "--output",
                             at["n.json"]], ["n.json"]),
        "dedup-hash": (["--pages", at["pages.json"], "--output", at["h.arrow"]], ["h.arrow"]),
        "dedup-reduce": (["--hashes", at["h.arrow"], "--output", at["out"], "--index", at["index.arrow"]],
                         ["out/h.arrow", "index.arrow"]),
        "dedup-apply": (["--pages", at["pages.json"], "--duplicates", at["out/h.arrow"], "--output",
                         at["d.arrow"], *ledger, "--decisions", at["d.rows"], "--min-chars", "1"],
                        ["d.arrow", "d.rows"]),
        "shards": (["--documents", at["d.arrow"], "--languages", "fr", "--name", "00000", "--output",
                    at["corpus"], "--ledger", at["s.json"], "--decisions", at["s.rows"]],
                   ["corpus/fr/train-00000.arrow", "s.rows", "s.json"]),
    }  # fmt: skip


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def full_disk_at(path: Path, monkeypatch) -> None:
    """From now on what is written for `path` meets a full disk."""

    @contextlib.contextmanager
    def own_folder(wanted):
        with locks.own_folder(wanted) as folder:
            if Path(wanted) == path:
                (folder / path.name).symlink_to("/dev/full")  # whose every write says that the disk is full
            yield folder

    monkeypatch.setattr(files, "own_folder", own_folder)


def test_a_full_disk_leaves_no_part_and_a_rerun_gives_the_same_bytes(
    tmp_path, make_warc, language_id, capsys, monkeypatch
):
    warc = make_warc(count=10)
    for name in ("whole", "full"):
        (tmp_path / name).mkdir()
    for stage, (arguments, _) in stages(tmp_path / "whole", warc, language_id).items():
        assert main("pipeline", "", STAGES, [stage, *arguments]) == 0
    full = tmp_path / "full"
    for stage, (arguments, made) in stages(full, warc, language_id).items():
        for name in made:
            before = everything(full)
            full_disk_at(full / name, monkeypatch)
            capsys.readouterr()
            assert main("pipeline", "", STAGES, [stage, *arguments]) == 1
            message = capsys.readouterr().err.splitlines()[-1]
            assert message == f"pipeline {stage}: No space left on device; make room and run again: {full / name}"
            assert before.items() <= everything(full).items()
            assert not (full / name).exists()
            assert not list(full.rglob("*.part"))
            monkeypatch.undo()
        assert main("pipeline", "", STAGES, [stage, *arguments]) == 0
    assert everything(full) == everything(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path, make_warc, language_id):
    warc = make_warc(count=2)
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    arguments, _ = stages(folder, warc, language_id)["extract"]
    # Root keeps its name and loses its right to write where the owner may not.
    powerless = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    command = [*powerless, sys.executable, "-m", "pipeline", "extract", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"pipeline extract: Permission denied: {folder / 'warcs'}"
    assert not list(folder.iterdir())
