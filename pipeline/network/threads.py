"""Many requests at once: a function over items in as many threads as a client has connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from pipeline.common.progress import progress
from pipeline.network.client import Client

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    client: Client, function: Callable[[Item], Result], items: Sequence[Item], title: str, unit: str
) -> list[Result]:
    """`[function(item) for item in items]` in threads, one a connection; the first error stops the others."""
    with ThreadPoolExecutor(client.connections) as pool, progress(len(items), title, unit) as bar:

        def advance(_: Future[Result]) -> None:
            bar.update()

        futures = [pool.submit(function, item) for item in items]
        for future in futures:
            future.add_done_callback(advance)
        try:
            for future in as_completed(futures):  # so that no error waits for those that still try
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            client.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def stream_in_threads(
    client: Client, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """`map(function, items)` in threads, one a connection; the first error stops the others.

    At most twice as many results as connections are computed ahead of the one that is taken.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(client.connections) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * client.connections:
                    yield _first(pending)
            while pending:
                yield _first(pending)
        except BaseException:
            client.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _first(pending: deque[Future[Result]]) -> Result:
    """The first result, which is taken away, when it is there. Raises the error of any that fails before it is."""
    for future in as_completed(pending):
        future.result()
        if future is pending[0]:
            break
    return pending.popleft().result()
