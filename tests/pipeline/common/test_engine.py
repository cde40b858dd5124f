"""Work in processes of this machine, and in a real dask cluster: what becomes of it when one is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chores import (
    killed,
    killed_once,
    open_sockets,
    slowly,
    too_much_memory,
    too_much_memory_once,
    where,
    wrong_or_for_ever,
)
from conftest import ROOT

from pipeline.common import engine
from pipeline.common.engine import map_items, open_to_others
from pipeline.common.errors import StageError
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract

# On this machine ----------------------------------------------------------------------------------


def test_two_workers_give_the_results_in_order_and_open_nothing_that_others_could_connect_to(tmp_path):
    def listening() -> set[str]:
        return set(itertools.chain(*map_items(open_sockets, items, 2, None, "chores", "items")))

    items = [(str(tmp_path), i) for i in range(2)]
    with socket.create_server(("127.0.0.1", 0)) as server:  # of this process, so that the test can fail
        assert f"{server.getsockname()[1]:04X}" in str(listening())
    for mark in tmp_path.iterdir():
        mark.unlink()
    assert listening() == set()


def test_a_worker_that_is_killed_is_replaced_and_four_of_them_are_an_error(tmp_path):
    items = [(str(tmp_path), i) for i in range(4)]
    assert map_items(killed_once, items, 2, None, "chores", "items") == [0, 1, 2, 3]
    assert (tmp_path / "killed").exists()
    with pytest.raises(StageError, match=r"^chores: workers died 4 times, most likely for want of memory; give"):
        map_items(killed, items, 2, None, "chores", "items")


def test_the_first_error_ends_the_work_at_once(tmp_path):
    with pytest.raises(StageError, match="item 0 is wrong"):  # though the others go on for ever
        map_items(wrong_or_for_ever, [(str(tmp_path), i) for i in range(4)], 2, None, "chores", "items")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_however_that_ends(tmp_path, by):
    # A shell's background jobs, and what they start, ignore SIGINT unless they say otherwise.
    call = f"""import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from chores import for_ever
from pipeline.common.engine import map_items
map_items(for_ever, [({str(tmp_path)!r}, i) for i in range(2)], 2, None, "chores", "items")"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests/pipeline")])
    parent = subprocess.Popen([sys.executable, "-c", call], env=os.environ | {"PYTHONPATH": path},
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while len(workers := [int(mark.name) for mark in tmp_path.iterdir()]) < 2 and parent.poll() is None:
        time.sleep(0.05)
    begin = time.monotonic()
    parent.send_signal(by)
    errors = parent.communicate()[1]
    assert parent.returncode == -by
    assert errors.count("Traceback") <= 1
    while any(alive(worker) for worker in workers):
        assert time.monotonic() - begin < 60, "still there"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_scheduler_that_others_may_reach_is_warned_of():
    assert "whoever reaches tcp://10.0.0.1:8786 runs code as you" in (open_to_others("tcp://10.0.0.1:8786") or "")
    for address in ("10.0.0.1:8786", "tcp://[::]:1", "tcp://node1:8786", "tcp://0.0.0.0:1", "ws://node1:1"):
        assert open_to_others(address), address
    for address in ("tcp://127.0.0.1:8786", "localhost:8786", "tcp://[::1]:8786", "tls://node1:8786"):
        assert open_to_others(address) is None, address


# On a cluster -------------------------------------------------------------------------------------

# A worker's memory limit is checked often, and a second death of the same item is enough.
SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "50ms",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
}


class Cluster:
    """The processes of a cluster in `folder`, which is not where the work is."""

    def __init__(self, folder: Path, protocol: str = "tcp", **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.protocol, self.address = protocol, f"{protocol}://127.0.0.1:{self.port}"
        self.folder, self.environment = folder, environment
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests/pipeline"), str(ROOT / "tests")])
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:]],
                                       cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                                       env={**os.environ, **SETTINGS, "PYTHONPATH": path, **self.environment}
                                       )  # fmt: skip
        self.processes.append(process)
        return process

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        process = self.start("dask_scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard",
                             "--protocol", self.protocol)  # fmt: skip
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                break
            time.sleep(0.05)
        return process

    def start_worker(self, threads: int = 1) -> subprocess.Popen[bytes]:
        return self.start("dask_worker", self.address, "--nthreads", str(threads), "--memory-limit", "500MB",
                          "--no-dashboard")  # fmt: skip

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """With all its children, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    for process in cluster.processes:
        cluster.kill(process)


def run(function, folder: Path, cluster: Cluster, count: int = 6) -> list:
    items = [(str(folder), i) for i in range(count)]
    return map_items(function, items, 1, cluster.address, "chores", "items")


def when(condition, then) -> threading.Thread:
    """Does `then` as soon as the condition holds."""

    def wait() -> None:
        while not condition():
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_and_one_with_two_threads_give_the_same_bytes(
    cluster, tmp_path, make_warc, language_id, monkeypatch
):
    for i in range(8):
        make_warc(f"{i}.warc.gz", count=40, first=30 * i)
    monkeypatch.chdir(tmp_path)  # the paths are relative to it
    warcs = [f"{i}.warc.gz" for i in range(8)]
    options = Extract(languages=["fr"], min_chars=1)
    victim, _ = cluster.start_worker(), cluster.start_worker(threads=2)
    pages = tmp_path / "far/warcs"
    killing = when(lambda: list(pages.glob("*.arrow")), lambda: cluster.kill(victim))
    for folder, scheduler in (("near", None), ("far", cluster.address)):
        extract(options, warcs, language_id, f"{folder}/pages.json", f"{folder}/ledger.json", 1, scheduler)
    killing.join(10)
    near = {p.relative_to("near"): p.read_bytes() for p in Path("near").rglob("*.*")}
    far = {p.relative_to("far"): p.read_bytes() for p in Path("far").rglob("*.*")}
    assert len(near) == 8 * 3 + 2  # pages, ledger and decisions of each, and what names or sums them
    assert far == near


@pytest.mark.long
@pytest.mark.slow
def test_a_worker_without_memory_left_is_replaced_and_two_of_them_are_an_error(cluster, tmp_path):
    for _ in range(2):
        cluster.start_worker()
    assert set(run(where, tmp_path, cluster)) == {str(Path.cwd())}
    assert run(too_much_memory_once, tmp_path, cluster) == list(range(6))
    with pytest.raises(
        StageError, match="chores: 2 workers in a row died of the same items, most likely for want of"
    ):
        run(too_much_memory, tmp_path, cluster, count=1)


@pytest.mark.slow
def test_a_lost_scheduler_is_a_clear_error_and_with_a_new_one_the_work_goes_on(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 3)
    cluster.start_worker()
    when(lambda: (tmp_path / "0").exists(), lambda: cluster.kill(cluster.scheduler))
    with pytest.raises(
        StageError, match=f"connection to the dask scheduler {cluster.address} was lost; run again"
    ):
        run(slowly, tmp_path, cluster, count=40)
    with pytest.raises(StageError, match=f"no dask scheduler answers at {cluster.address}"):
        run(slowly, tmp_path, cluster)
    with pytest.raises(StageError, match="no dask scheduler answers at nonsense"):
        map_items(slowly, [1], 1, "nonsense://x", "chores", "items")
    cluster.start_scheduler()
    cluster.start_worker()
    monkeypatch.setattr(engine, "CONNECT_SECONDS", 60)
    assert run(slowly, tmp_path, cluster, count=2) == [0, 1]


@pytest.mark.slow
def test_a_cluster_with_the_keys_of_the_guide_works_for_none_without_them(tmp_path):
    section = (ROOT / "docs/guide.md").read_text("utf-8").partition("### A dask cluster")[2]
    key = re.search(r"openssl req .*", section)
    config = re.search(r"```yaml\n(.*?)```", section, re.DOTALL)
    subprocess.run(key[0].split(), cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "tls.yaml").write_text(config[1].replace("/home/me/.config/dask", str(tmp_path)))
    keys = {"DASK_CONFIG": str(tmp_path / "tls.yaml")}
    cluster = Cluster(tmp_path, "tls", **keys)
    try:
        cluster.start_worker()
        assert "[2, 3]" in asked(cluster.address, **keys)
        for address in (cluster.address, cluster.address.replace("tls", "tcp")):
            assert f"no dask scheduler answers at {address}" in asked(address)
    finally:
        for process in cluster.processes:
            cluster.kill(process)


def asked(address: str, **environment: str) -> str:
    """What a process prints that lets the cluster count, or its error."""
    call = f"""import operator
from pipeline.common import engine
engine.CONNECT_SECONDS = 3 if {not environment} else 60
print(engine.map_items(operator.index, [2, 3], 1, {address!r}, "chores", "items"))"""
    done = subprocess.run([sys.executable, "-c", call], env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                          capture_output=True, text=True, check=False)  # fmt: skip
    return done.stdout + done.stderr
