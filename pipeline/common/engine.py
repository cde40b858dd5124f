"""One engine for work over many items: dask.distributed, on this machine or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.config import option
from pipeline.common.errors import StageError
from pipeline.common.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_SECONDS = 60  # until a scheduler that does not answer counts as lost


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where the batch stages run."""

    workers: int = option(2, "processes of a job on this machine; never more than --cores", low=1)
    scheduler: str | None = option(None, "address of a dask scheduler, such as tcp://host:8786")


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    scheduler: str | None,
    title: str,
    unit: str,
) -> list[Result]:
    """`[function(item) for item in items]`, computed by several processes; results are in the order of the items.

    Without the address of a scheduler this starts a local cluster of `workers` processes, or runs a simple loop
    where one worker or one item needs no cluster. This process is the first worker, and works while the others
    start. The result must not depend on which process computes it, so that the bytes written are always the same.
    Arguments that are the same for all items go into `function` by functools.partial.

    Raises StageError where workers die or the scheduler is lost, and the first error of `function`.
    """
    if scheduler is None and min(workers, len(items)) <= 1:
        results = []
        with progress(len(items), title, unit) as bar:
            for item in items:
                results.append(function(item))
                bar.update()
        return results

    import logging

    import dask
    from distributed import Client, KilledWorker, LocalCluster, Nanny, as_completed

    # Workers must end with this process, and need no spill folders, dashboard or profiler.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    settings: dict[str, Any] = {
        "logging.distributed": "error",
        "distributed.worker.daemon": False,
        "distributed.dashboard.link": "",
        "distributed.worker.profile.enabled": False,
        "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    }
    with dask.config.set(settings):
        if scheduler:
            client = _connect(scheduler)
        else:
            cluster = LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                processes=False,
                protocol="tcp://",
                dashboard_address=None,
                memory_limit=0,
                silence_logs=logging.ERROR,
            )
            cluster.new_spec["cls"] = Nanny  # the others are processes of their own
            cluster.scale(min(workers, len(items)))
            client = Client(cluster)
        with client, progress(len(items), title, unit) as bar:
            here = str(Path.cwd())
            futures = [client.submit(_run_here, here, function, item, pure=False) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()  # the first error ends the stage
                    bar.update()
                results = [future.result() for future in futures]
            except KilledWorker as error:
                raise StageError(
                    f"{title}: {error.allowed_failures + 1} workers in a row died of the same {unit}, most likely "
                    "for want of memory; give a worker more of it, or run fewer on a machine"
                ) from None
            except CancelledError:
                raise StageError(
                    f"{title}: the connection to the dask scheduler {scheduler or ''} was lost; run again when it "
                    "is back: what is finished stays"
                ) from None
        if not scheduler:
            cluster.close()
    return results


def _connect(scheduler: str) -> Any:
    """A client of the scheduler. Raises StageError where that does not answer."""
    from distributed import Client

    try:
        return Client(scheduler)
    except (OSError, ValueError) as error:  # a wrong address is a ValueError
        raise StageError(
            f"engine.scheduler: no dask scheduler answers at {scheduler} ({error}); start one (`dask scheduler`), "
            "or leave engine.scheduler out to run on this machine"
        ) from None


def _run_here(folder: str, function: Callable[[Item], Result], item: Item) -> Result:
    """`function(item)` in `folder`, where the workflow runs: its paths are relative to it."""
    os.chdir(folder)
    return function(item)
