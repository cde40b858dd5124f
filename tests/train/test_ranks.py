"""Starting the ranks of a training, and how they end. Most functions here run in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.common.errors import StageError
from train import ranks
from train.ranks import check_gpus, on_gpus, run_ranks
from train.runs.options import Training


def wait_for(happens) -> None:
    late = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < late
        time.sleep(0.02)


def ends(folder: str, how: str) -> None:
    """Rank 1 ends so; rank 0 waits for ever."""
    (Path(folder) / os.environ["RANK"]).write_text(str(os.getpid()))
    wait_for(lambda: len(list(Path(folder).iterdir())) == 2)
    if os.environ["RANK"] == "1" and how != "never":
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"stage": StageError("rows: none; make some"), "disk": OSError(28, "full", "f")}.get(
            how, KeyError(how)
        )
    time.sleep(600)


def is_gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("stage", StageError, "^rows: none; make some$"),
        ("disk", OSError, "full: 'f'"),
        ("bug", RuntimeError, r"in process 1:\nTraceback[^$]*KeyError: 'bug'"),
        ("killed", StageError, r"gpus: process 1 died \(SIGKILL\)"),
    ],
)
def test_the_first_rank_that_fails_ends_all_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kind: type, message: str
) -> None:
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 0.1)
    with pytest.raises(kind, match=message):
        run_ranks(2, ends, str(tmp_path), how)
    assert all(is_gone(int(path.read_text())) for path in tmp_path.iterdir())


def test_ranks_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = f"import test_ranks as here; here.run_ranks(2, here.ends, {str(tmp_path)!r}, 'never')"
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | paths) as parent:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        parent.kill()
    for path in tmp_path.iterdir():
        wait_for(lambda path=path: is_gone(int(path.read_text())))


@on_gpus
def stage(options: Training, output: str) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    values = [os.environ.get(name) for name in names]
    Path(f"{output}-{values[0]}").write_text(repr(values))


def test_a_stage_runs_in_as_many_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth1")
    stage(Training(learning_rate=1e-3, gpus=2, device="cpu"), output=str(tmp_path / "a"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"a-{rank}": repr([str(rank), str(rank), "2", "lo", "eth1"]) for rank in range(2)
    }
    # One needs no other, and those that torchrun started are as many already.
    stage(Training(learning_rate=1e-3), output=str(tmp_path / "b"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    stage(Training(learning_rate=1e-3, gpus=2, device="cpu"), output=str(tmp_path / "c"))
    assert {path.name for path in tmp_path.glob("[bc]*")} == {"b-None", "c-3"}


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_there_are_as_many_gpus(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    options = Training(learning_rate=1e-3, gpus=4, device=device)
    for found in (0, 2):
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=found: found)
        with pytest.raises(StageError, match=f"gpus: 4.*finds {found}; set gpus to {max(1, found)}, or device"):
            check_gpus(options)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_gpus(options)


def test_rows_of_a_step_are_shared_equally() -> None:
    assert not list(Training(learning_rate=1e-3, gpus=4, batch_rows=8).problems())
    assert [key for key, _ in Training(learning_rate=1e-3, gpus=4, batch_rows=6).problems()] == ["batch_rows"]
