"""Steps of the program in processes of their own: their lines, whatever becomes of them, and what they printed."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PRINTED = 6000  # characters of a failure that are kept
LOGGED = 2**17  # bytes of what a step printed, its last
LOG_BYTES = 15 * 2**20  # of all steps together, the last too: a file that comes back has 16 MiB at most


class Skipped(Exception):
    """Of a step's function: the machine lacks what the step needs."""


@dataclass(frozen=True)
class Step:
    """`run` is 'module:function'; it takes `job` and returns what is found, as JSON data.

    The module is one of benchmarks.gpu, or any by its name with a dot.
    The function also finds in its job how many `seconds` it may take. Neighbours with the same `beside` may run at
    the same time.
    """

    name: str
    run: str
    estimate_s: float
    cap_s: float
    job: dict[str, Any] = field(default_factory=dict)
    beside: str = ""


@dataclass(frozen=True, eq=False)
class Running:
    """A step in its process; `reader` is ready when its line is there, or when there will be none."""

    step: Step
    cap_s: float
    started: float
    child: Any
    reader: Connection
    printed: Path
    compiled: Path


def start(step: Step, cap_s: float, work: Path) -> Running:
    """Start a step, whose end first_to_end() waits for.

    Forked, since importing torch and transformers anew takes ten seconds; the parent never touches the GPU.
    """
    work.mkdir(parents=True, exist_ok=True)
    printed, compiled = work / f"{step.name.replace(' ', '-')}.txt", work / "compiled"
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(step, cap_s, printed, compiled, writer))
    started = time.monotonic()
    child.start()
    writer.close()
    return Running(step, cap_s, started, child, reader, printed, compiled)


def first_to_end(running: list[Running]) -> Running:
    """Wait for the first of them that ends, or that has taken as long as it may."""
    left = [max(0.0, one.started + one.cap_s - time.monotonic()) for one in running]
    ready = wait([one.reader for one in running], min(left))
    overdue = running[left.index(min(left))]
    return next((one for one in running if one.reader in ready), overdue)


def finish(one: Running, output: Path) -> dict[str, Any]:
    """What the step found, or why it did not; its process ends. What it printed is added to output/log.txt."""
    line, why = None, f"killed after {one.cap_s:.3g} s"
    try:
        if one.reader.poll(0):  # true at the end of the file too, which is there when the process is not
            line = one.reader.recv()
    except EOFError:
        one.child.join()
        why = f"no result; its process ended with {one.child.exitcode}"
    finally:
        one.reader.close()
        # With all that it started: it is the first of its group.
        for kill in (lambda: os.killpg(one.child.pid or 0, signal.SIGKILL), one.child.kill):
            with contextlib.suppress(ProcessLookupError):
                kill()
        one.child.join()
        if line is None:  # in the middle of a file, perhaps, that a later step would load as compiled code
            shutil.rmtree(one.compiled, ignore_errors=True)
        keep_printed(one.step.name, one.printed, output / "log.txt")
    return {**(line or {"failed": why}), "seconds": round(time.monotonic() - one.started, 1)}


def _run(step: Step, cap_s: float, printed: Path, compiled: Path, writer: Connection) -> None:
    """In the process of the step."""
    os.setsid()
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiled.resolve())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout = sys.stderr = file = printed.open("w", encoding="utf-8", buffering=1)
    for stream in (1, 2):  # for what is no Python, and for the processes that it starts
        os.dup2(file.fileno(), stream)
    line: dict[str, Any]
    try:
        if step.job.get("toy"):  # what is so small takes several threads longer than one
            import torch

            torch.set_num_threads(1)
        line = {"found": function_of(step)(step.job | {"seconds": cap_s}), "card": card(step.job)}
    except Skipped as why:
        line = {"skipped": str(why)}
    except Exception as error:  # out of memory is a row of the table, not an end
        traceback.print_exc()
        line = {"failed": f"{type(error).__name__}: {error}"[:PRINTED], "card": card(step.job)}
    writer.send(line)


def function_of(step: Step) -> Callable[[dict[str, Any]], dict[str, Any]]:
    module, name = step.run.split(":")
    return getattr(importlib.import_module(module if "." in module else f"benchmarks.gpu.{module}"), name)


def card(job: dict[str, Any]) -> str:
    """The name of the GPU that the job ran on, or `cpu`."""
    import torch

    return torch.cuda.get_device_name() if job.get("device") == "cuda" and torch.cuda.is_available() else "cpu"


def keep_printed(name: str, printed: Path, log: Path) -> None:
    """Add the end of what a step printed to the log of all, and drop the beginning of that if it is too long."""
    before = log.read_bytes() if log.exists() else b""
    text = printed.read_bytes()[-LOGGED:] if printed.exists() else b""
    log.write_bytes((before + f"\n===== {name}\n".encode() + text)[-LOG_BYTES:])
