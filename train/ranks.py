"""A training in several processes of one machine, its ranks: `gpus` of the options.

The ranks meet in a file of a folder that only this user may read, and send each other gradients through the
loopback interface. torchrun would listen on all interfaces, and reads pickles there; it is for several machines.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from operator import itemgetter
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

from tqdm import tqdm

from pipeline.common.cli import start_logging
from pipeline.common.errors import StageError
from train.runs.options import Training

# The environment's name for the file in which they meet.
MEETING = "RANKS_MEET_IN"
# Once one has failed, the others may end by themselves, and the first of them write its last checkpoint.
GRACE_SECONDS = 30.0

TrainingStage = TypeVar("TrainingStage", bound=Callable[..., None])


def on_gpus(stage: TrainingStage) -> TrainingStage:
    """A training stage that runs in `options.gpus` processes, unless torchrun started several already."""

    @functools.wraps(stage)
    def run(options: Training, *arguments: Any, **named: Any) -> None:
        if options.gpus == 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            stage(options, *arguments, **named)
        else:
            check_gpus(options)
            run_ranks(options.gpus, run, options, *arguments, **named)

    return cast(TrainingStage, run)


def check_gpus(options: Training) -> None:
    """Raises StageError where there are fewer GPUs than `gpus`. Processes on the CPU must be asked for."""
    if options.device == "cpu":
        return
    import torch

    found = torch.cuda.device_count()
    if found < options.gpus:
        raise StageError(
            f"gpus: {options.gpus} were asked for, but torch finds {found}; set gpus to {max(1, found)}, or "
            "device to cpu for as many processes on the CPU"
        )


def run_ranks(count: int, function: Callable[..., None], *arguments: Any, **named: Any) -> None:
    """Call `function` in `count` new processes, and wait for them; the first that fails ends all, as our end does.

    The function and its arguments must be picklable. Raises the StageError or OSError of the rank that failed
    first, and RuntimeError with the traceback of any other exception.
    """
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()  # in the order in which they came
    ranks: list[Any] = []
    with TemporaryDirectory() as folder:
        try:
            for rank in range(count):
                place = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{count}"}
                place[MEETING] = f"{folder}/meeting"
                process = context.Process(target=_run, args=(place, failures, function, arguments, named))
                process.start()
                ranks.append(process)
            running = ranks
            while running:
                connection.wait([rank.sentinel for rank in running])
                status = [rank.exitcode for rank in ranks]  # asked once: it may change at any time
                if any(status):
                    failure = _failure(status, failures)
                    late = time.monotonic() + GRACE_SECONDS
                    for rank in ranks:
                        rank.join(max(0.0, late - time.monotonic()))
                    raise failure
                running = [rank for rank, ended in zip(ranks, status, strict=True) if ended is None]
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()


def _run(
    place: dict[str, str], failures: Any, function: Callable[..., None], arguments: Any, named: dict[str, Any]
) -> None:
    """One rank. It tells its failure before its connections close, so that the others' come after it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent has it too, and ends us
    os.environ.update(place)
    for interface in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(interface, "lo")
    tqdm.set_lock(threading.RLock())  # its own is of all processes, and would be left behind by one that is killed
    start_logging()
    if place["RANK"] != "0":  # one says what all would say
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        logging.disable(logging.WARNING)
    try:
        function(*arguments, **named)
    except (StageError, OSError) as error:
        failures.put(error)
        os._exit(1)
    except BaseException:
        failures.put(RuntimeError(f"in process {place['RANK']}:\n{traceback.format_exc()}"))
        os._exit(1)


def _end_with_parent() -> None:
    """However it ends: a rank that waits for others in compiled code would not notice a signal."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - for mypy
    parent.join()
    os._exit(1)


def _failure(statuses: list[int | None], failures: Any) -> Exception:
    """What went wrong first. One that was killed tells nothing, and the others that they lost it."""
    number, status = min(((number, status) for number, status in enumerate(statuses) if status), key=itemgetter(1))
    if status > 0 and not failures.empty():
        return failures.get()
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return StageError(
        f"gpus: process {number} died ({how}); if memory ran out, lower micro_batch_rows or gpus. Started again "
        "the training goes on from its last checkpoint"
    )
