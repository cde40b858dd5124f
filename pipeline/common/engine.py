"""One engine for work over many items: processes on this machine, or a dask cluster."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from ipaddress import ip_address
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.common.cli import start_logging
from pipeline.common.config import MOST_THREADS, option
from pipeline.common.errors import StageError
from pipeline.common.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_SECONDS = 60  # until a scheduler that does not answer counts as lost
DEATHS = 3  # of workers on this machine, after which the work begins again with what is left


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where the batch stages run."""

    workers: int = option(
        2, "processes of a job on this machine; never more than --cores", low=1, high=MOST_THREADS
    )
    scheduler: str | None = option(
        None,
        "address of a dask scheduler, such as tls://host:8786; through tcp:// whoever reaches it runs code as you",
    )


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    scheduler: str | None,
    title: str,
    unit: str,
) -> list[Result]:
    """`[function(item) for item in items]`, computed by several processes; results are in the order of the items.

    On this machine one worker or one item needs no other process; several workers are children of this process,
    which they talk to through pipes that nobody else can open. With the address of a scheduler the work goes to a
    dask cluster. The result must not depend on which process computes it, so that the bytes written are always the
    same. Arguments that are the same for all items go into `function` by functools.partial.

    Raises StageError where workers die or the scheduler is lost, and the first error of `function`.
    """
    workers = min(workers, len(items))
    with progress(len(items), title, unit) as bar:
        if scheduler:
            return _on_cluster(function, items, scheduler, title, unit, bar.update)
        if workers > 1:
            return _in_processes(function, items, workers, title, bar.update)
        results = []
        for item in items:
            results.append(function(item))
            bar.update()
        return results


# On this machine ----------------------------------------------------------------------------------


def _in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    title: str,
    finished: Callable[[], object],
) -> list[Result]:
    """By child processes. Where one dies, the others end too, and all begin again with what is left."""
    results: dict[int, Result] = {}
    for _ in range(1 + DEATHS):
        left = [number for number in range(len(items)) if number not in results]
        # Not forked: a fork has the locks of the threads of Arrow and others, but not these threads.
        with ProcessPoolExecutor(min(workers, len(left)), get_context("spawn"), _start_worker) as pool:
            futures: dict[Future[Result], int] = {}
            try:
                for number in left:
                    futures[pool.submit(function, items[number])] = number
                for future in as_completed(futures):
                    results[futures[future]] = future.result()  # the first error ends the stage
                    finished()
            except BrokenProcessPool:
                pass
            except BaseException:
                for child in active_children():  # not when each has come to the end of its item
                    child.kill()
                raise
        for future, number in futures.items():
            if number not in results and not future.cancelled() and not future.exception():
                results[number] = future.result()
                finished()
        if len(results) == len(items):
            return [results[number] for number in range(len(items))]
    raise StageError(
        f"{title}: workers died {1 + DEATHS} times, most likely for want of memory; give the job more of it, or "
        "fewer workers"
    )


def _start_worker() -> None:
    """Let a worker end with its parent, however that ends, and leave Ctrl-C to it."""
    start_logging()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := parent_process():
        Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


# On a cluster -------------------------------------------------------------------------------------


def _on_cluster(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    scheduler: str,
    title: str,
    unit: str,
    finished: Callable[[], object],
) -> list[Result]:
    import dask
    from distributed import KilledWorker
    from distributed import as_completed as completed

    logging.getLogger("distributed").setLevel(logging.ERROR)
    settings = {"logging.distributed": "error", "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}
    if warning := open_to_others(scheduler):
        logging.warning(warning)
    with dask.config.set(settings), _connect(scheduler) as client:
        here = str(Path.cwd())
        futures = [client.submit(_run_here, here, function, item, pure=False) for item in items]
        try:
            for future in completed(futures):
                future.result()  # the first error ends the stage
                finished()
            return [future.result() for future in futures]
        except KilledWorker as error:
            raise StageError(
                f"{title}: {error.allowed_failures + 1} workers in a row died of the same {unit}, most likely "
                "for want of memory; give a worker more of it, or run fewer on a machine"
            ) from None
        except CancelledError:
            raise StageError(
                f"{title}: the connection to the dask scheduler {scheduler} was lost; run again when it is back: "
                "what is finished stays"
            ) from None


def open_to_others(scheduler: str | None) -> str | None:
    """A warning where there is a scheduler, other machines may reach it, and it does not ask who they are.

    >>> open_to_others("tls://10.0.0.1:8786"), open_to_others("tcp://localhost:8786")
    (None, None)
    """
    if not scheduler:
        return None
    parts = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
    if parts.scheme in ("tls", "wss") or _is_loopback(parts.hostname or ""):
        return None
    return (
        f"engine.scheduler: whoever reaches {scheduler} runs code as you; use tls:// with keys (docs/guide.md, A "
        "dask cluster)"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _connect(scheduler: str) -> Any:
    """A client of the scheduler. Raises StageError where that does not answer."""
    from distributed import Client

    try:
        return Client(scheduler)
    # A wrong address is a ValueError, TLS without keys a TypeError.
    except (OSError, ValueError, TypeError) as error:
        raise StageError(
            f"engine.scheduler: no dask scheduler answers at {scheduler} ({error}); start one (`dask scheduler`), "
            "or leave engine.scheduler out to run on this machine"
        ) from None


def _run_here(folder: str, function: Callable[[Item], Result], item: Item) -> Result:
    """`function(item)` in `folder`, where the workflow runs: its paths are relative to it."""
    os.chdir(folder)
    return function(item)
