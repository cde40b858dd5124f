"""Full disks, quotas and limits of a file's size: one line names the path and the cure, no part is left, and when
there is room the same weights come out."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from helpers import language, write_rows, write_tokenizer
from safetensors import SafetensorError
from safetensors.torch import save_file

from models.saving import saving
from pipeline.common.cli import main
from train.__main__ import STAGES
from train.data.tokens import tokenizer_digest
from train.trainer import checkpoint

TINY = ["--hidden-size=16", "--layers=2", "--heads=2", "--ffn-size=24"]
QUICK = [*["--learning-rate=1e-2", "--steps=12", "--batch-rows=8", "--micro-batch-rows=8", "--evaluate-rows=8"],
         *["--threads=1", "--device=cpu", "--checkpoint-every=5"]]  # fmt: skip


def write_inputs(folder: Path) -> None:
    same = {"tokenizer_sha256": tokenizer_digest(write_tokenizer(folder / "tokenizer"))}
    write_rows(folder / "old.arrow", language(1, 40), **same)
    write_rows(folder / "new.arrow", language(5, 40), **same)


def stages(inputs: Path, folder: Path) -> dict[str, list[str]]:
    """The stages that write weights, in order, with their arguments; each writes to the folder of its name."""
    old, new = f"{inputs / 'old.arrow'}", f"{inputs / 'new.arrow'}"
    held = f"--validation=en={old}"
    words = {
        "pretrain": [*TINY, *QUICK, f"--rows={old}", held, f"--tokenizer={inputs / 'tokenizer'}"],
        "extend": [*QUICK, f"--backbone={folder / 'pretrain'}", f"--old-rows={old}", f"--new-rows={new}", held],
        "save": [f"--run={folder / 'extend'}"],
        "export": [f"--run={folder / 'extend'}"],
    }
    return {name: [name, *arguments, f"--output={folder / name}"] for name, arguments in words.items()}


def weights(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, and in `results` what the stages make of them where there is room."""
    folder = tmp_path_factory.mktemp("room")
    write_inputs(folder)
    for words in stages(folder, folder / "results").values():
        assert main("train", "", STAGES, words) == 0
    return folder


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Inside it the system lets no file of this process grow longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("stage", ["pretrain", "extend", "save", "export"])
def test_a_limit_of_the_system_leaves_no_part_and_a_rerun_gives_the_same_weights(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    results = shutil.copytree(whole / "results", tmp_path / "results")
    shutil.rmtree(results / stage)
    words = stages(whole, results)[stage]
    failures = {f"{stage}.checkpoints/step-000005.safetensors": []} if stage in ("pretrain", "extend") else {}
    for place, more in (failures | {stage: ["--checkpoint-every=99"] if failures else []}).items():
        with largest_file(max(map(len, weights(whole / "results" / stage).values())) - 1):
            assert main("train", "", STAGES, [*words, *more]) == 1
        cure = "File too large; raise the limit of a file's size (ulimit -f) and run again"
        assert capsys.readouterr().err.splitlines()[-1] == f"train {stage}: {cure}: {results / place}"
        assert not [*results.rglob("*.part"), *results.rglob(".tmp*")] and not (results / stage).exists()
    assert main("train", "", STAGES, words) == 0
    assert weights(results) == weights(whole / "results")


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "I/O error: No space left on device (os error 28)"),
        (errno.EDQUOT, 'IoError(Os { code: 122, kind: FilesystemQuotaExceeded, message: "…" })'),  # older ones
    ],
)
def test_a_full_disk_costs_a_training_what_followed_its_last_checkpoint(
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    said: str,
) -> None:
    def save_until_full(tensors: Any, path: Path, metadata: Any) -> None:
        if path.name.startswith("step-000010"):
            path.with_name(".tmpPart").write_bytes(b"half")
            raise SafetensorError(f"Error while serializing: {said}")
        save_file(tensors, path, metadata)

    results = tmp_path / "results"
    shutil.copytree(whole / "results" / "pretrain", results / "pretrain")
    words = stages(whole, results)["extend"]
    monkeypatch.setattr(checkpoint, "save_file", save_until_full)
    assert main("train", "", STAGES, words) == 1
    place = results / "extend.checkpoints" / "step-000010.safetensors"
    message = f"train extend: {os.strerror(number)}; make room and run again: {place}"
    assert capsys.readouterr().err.splitlines()[-1] == message
    assert [path.name for path in place.parent.glob("*step*")] == ["step-000005.safetensors"]
    monkeypatch.undo()
    assert main("train", "", STAGES, words) == 0
    assert "extend extend: 5 of 12 steps" in capsys.readouterr().err
    assert weights(results / "extend") == weights(whole / "results" / "extend")


def test_other_errors_of_the_library_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="header too large"), saving(tmp_path):
        raise SafetensorError("header too large")
    with pytest.raises(OSError, match="No such file") as caught, saving(tmp_path):
        save_file({}, tmp_path / "none" / "x.safetensors")
    assert caught.value.errno == errno.ENOENT and caught.value.filename == str(tmp_path)


# Trains on a disk of 8 KiB that grows until there is room.
DRIVER = """
import subprocess, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_full_disk import STAGES, main, stages
inputs, disk = map(Path, sys.argv[1:3])
words = [*stages(inputs, inputs / "results")["extend"], f"--output={disk / 'run'}"]
size, failures = 8, 0
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], check=True)
while main("train", "", STAGES, words):
    failures += 1
    assert not [*disk.rglob("*.part"), *disk.rglob(".tmp*"), *disk.glob("run")]
    size += 12
    subprocess.run(["mount", "-o", f"remount,size={size}k", disk], check=True)
made, right = (folder / "weights.safetensors" for folder in (disk / "run", inputs / "results" / "extend"))
assert made.read_bytes() == right.read_bytes()
print(failures)
"""
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode != 0,
    reason="needs a system that lets a process mount a small disk of its own",
)
def test_a_disk_that_is_full_at_any_byte(whole: Path, tmp_path: Path) -> None:
    arguments = map(str, (whole, tmp_path, Path(__file__).parent, *sys.path))
    command = [*OWN_MOUNTS, sys.executable, "-c", DRIVER, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    failed = [line for line in done.stderr.splitlines() if line.startswith("train extend: ")]
    assert len(failed) == int(done.stdout) > 3
    message = "train extend: No space left on device; make room and run again"
    assert all(line.startswith(f"{message}: {tmp_path}/run") for line in failed), failed
    assert "Traceback" not in done.stderr
