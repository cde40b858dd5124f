"""One architecture in a process of its own: what crashes or does not end costs only its row of the table."""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.architectures.checks import COLUMNS, try_architecture

SECONDS = 300


def in_a_process(model_type: str) -> dict[str, str]:
    """try_architecture() in a process of its own; one that crashes or does not end fails."""
    context = multiprocessing.get_context("forkserver")
    # All have the same imports, which take longer than the models.
    context.set_forkserver_preload([try_architecture.__module__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_try, args=(model_type, sender))
    process.start()
    sender.close()
    row = dict.fromkeys(COLUMNS, "") | {"architecture": model_type, "outcome": "fails later"}
    try:
        if receiver.poll(SECONDS):
            row = receiver.recv()
            process.join(SECONDS)
            return row
        return row | {"said": f"takes more than {SECONDS} s"}
    except EOFError:
        process.join()
        return row | {"said": f"crashed ({process.exitcode})"}
    finally:
        process.kill()
        process.join()


def _try(model_type: str, sender: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os.chdir(folder)
        logging.disable(logging.ERROR)
        torch.set_num_threads(1)
        sender.send(try_architecture(model_type, Path(folder)))
