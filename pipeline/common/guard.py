"""A function in a process of its own, with bounds: what others wrote may use them up, and costs only itself."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError

ROOT = Path(__file__).resolve().parents[2]
RESULT_BYTES, PROBLEM_CHARS = 2**28, 2000
OUT_OF_MEMORY = 77  # exit status


class BeyondBounds(StageError):
    """A guarded function that needed more processor time or memory than it may have."""


def guarded(function: str, *arguments: Any, seconds: int, memory: int) -> Any:
    """What 'module:function' returns, in a process that may use so many seconds of processor time and bytes of
    address space. Arguments and result are JSON.

    Raises StageError where the function does, with its words, or where the process crashes; BeyondBounds.
    """
    command = [sys.executable, "-m", "pipeline.common.guard", function, str(seconds), str(memory)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Each thread of OpenBLAS or Arrow takes address space, and by default there are as many as cores.
    settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | settings,
    ) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for mypy
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it died before it read them
            process.stdin.write(json.dumps(arguments).encode())
        answer = process.stdout.read(RESULT_BYTES + 1)
        if len(answer) > RESULT_BYTES:
            process.kill()
            raise BeyondBounds(f"gives more than {RESULT_BYTES // 2**20} MiB")
    if process.returncode == -signal.SIGXCPU:
        raise BeyondBounds(f"takes more than {seconds} s of processor time")
    if process.returncode == OUT_OF_MEMORY:
        raise BeyondBounds(f"takes more than {memory / 2**30:g} GB of memory")
    try:
        done = json.loads(answer)
    except ValueError:
        raise StageError(f"{function} ended with status {process.returncode}; its messages are above") from None
    if "problem" in done:
        raise StageError(done["problem"])
    return done["value"]


def main(function: str, seconds: str, memory: str) -> int:
    """The process: arguments on the standard input, the result on the standard output; returns its exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # what the function prints is no result
        module, name = function.split(":")
        try:
            try:
                done = {"value": getattr(importlib.import_module(module), name)(*json.load(sys.stdin.buffer))}
            except StageError as error:
                done = {"problem": str(error)[:PROBLEM_CHARS]}
            output.write(json.dumps(done).encode())
        except MemoryError:
            return OUT_OF_MEMORY
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
