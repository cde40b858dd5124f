"""One engine for work over many items: dask.distributed, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pipeline.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    scheduler: str | None,
    title: str,
    unit: str,
) -> list[Result]:
    """`[function(item) for item in items]`, spread over processes; results keep the order of the items.

    Without a scheduler's address this starts a local cluster of `workers` processes, or just loops where
    one worker or one item needs no cluster. This process is the first worker, which works while the others
    start. The work must not depend on who does it, so that the bytes written are the same either way.
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
    from distributed import Client, LocalCluster, Nanny, as_completed

    # Workers must not outlive us, write no spill folders beside the user's files, open no dashboard, nor profile.
    logging.getLogger("distributed").setLevel(logging.ERROR)
    settings: dict[str, Any] = {
        "logging.distributed": "error",
        "distributed.worker.daemon": False,
        "distributed.dashboard.link": "",
        "distributed.worker.profile.enabled": False,
        "distributed.comm.timeouts.connect": "60s",
    }
    with dask.config.set(settings):
        if scheduler:
            client = Client(scheduler)
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
            futures = [client.submit(function, item, pure=False) for item in items]
            for future in as_completed(futures):
                future.result()  # the first error ends the stage
                bar.update()
            results = [future.result() for future in futures]
        if not scheduler:
            cluster.close()
    return results
