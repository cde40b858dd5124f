"""A function in a process of its own, with bounds: what others wrote may use them up, and costs only itself.

Native readers believe what a file says of its sizes. The kernel ends the process when it has used up its processor
time, and refuses it memory beyond its share.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from pipeline.common.cli import start_logging
from pipeline.common.errors import StageError, one_line

ROOT = Path(__file__).resolve().parents[2]
RESULT_BYTES, PROBLEM_CHARS = 2**28, 2000
OUT_OF_MEMORY = 77  # exit status
WAITS = 20  # it may take this many times its processor time, on a busy machine


class BeyondBounds(StageError):
    """A guarded function that needed more processor time or memory than it may have."""


def guarded(function: str, *arguments: Any, seconds: int, memory: int) -> Any:
    """What 'module:function' returns, in a process of its own. Arguments and result are JSON.

    seconds: of processor time. memory: bytes of address space. Both are beyond what the module's imports take.
    Raises StageError, in one line, where the function raises or the process crashes; BeyondBounds.
    """
    # -P: the working folder, which may be anybody's, is no place to import from.
    command = [sys.executable, "-P", "-m", "pipeline.common.guard", function, str(seconds), str(memory)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Each thread of OpenBLAS or Arrow takes address space, and by default there are as many as cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101 - for mypy
        late = threading.Timer(WAITS * seconds, process.kill)
        late.start()
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it died before it read them
            process.stdin.write(json.dumps(arguments).encode())
        answer = process.stdout.read(RESULT_BYTES + 1)
        late.cancel()
        if len(answer) > RESULT_BYTES:
            process.kill()
            raise BeyondBounds(f"gives more than {RESULT_BYTES // 2**20} MiB")
    if process.returncode == -signal.SIGXCPU:
        raise BeyondBounds(f"takes more than {seconds} s of processor time")
    if process.returncode == -signal.SIGKILL:
        raise BeyondBounds(f"was killed, for want of memory or because it took more than {WAITS * seconds} s")
    if process.returncode == OUT_OF_MEMORY:
        raise BeyondBounds(f"takes more than {memory / 2**30:g} GB of memory")
    try:
        done = json.loads(answer)
    except ValueError:
        ended = signal.Signals(-process.returncode).name if process.returncode < 0 else process.returncode
        raise StageError(f"{function} crashed ({ended})") from None
    if "problem" in done:
        raise StageError(done["problem"])
    return done["value"]


def main(function: str, seconds: str, memory: str) -> int:
    """The process: arguments on the standard input, the result on the standard output; returns its exit status."""
    start_logging()
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # what the function prints is no result
        module, name = function.split(":")
        call = getattr(importlib.import_module(module), name)
        bound(int(seconds), int(memory))
        try:
            try:
                done = {"value": call(*json.load(sys.stdin.buffer))}
            except MemoryError:
                raise
            except StageError as error:
                done = {"problem": str(error)[:PROBLEM_CHARS]}
            except BaseException as error:  # a panic of native code is no Exception
                done = {"problem": f"{type(error).__name__}: {one_line(error)}"}
            output.write(json.dumps(done).encode())
        except MemoryError:
            return OUT_OF_MEMORY
    return 0


def bound(seconds: int, memory: int) -> None:
    """Bound this process to so many seconds of processor time and bytes of memory beyond those it has taken.

    At the end of its time SIGXCPU ends it; what would take more memory raises MemoryError.
    """
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    seconds += math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # at the second the kernel does not say why
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def leave(status: int) -> NoReturn:
    """End this process at once: threads of native code that ran out of memory abort when they are taken down."""
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
