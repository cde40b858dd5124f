"""A function on a file from elsewhere, in a process of its own: what crashes or has no end there ends only that.

Native readers believe what a file says of its sizes. The kernel ends the process when it has used up its processor
time, refuses it memory beyond its share, and an answer or one line of what went wrong comes back.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError, one_line

ROOT = Path(__file__).parents[2]
WAITS = 20  # it may take this many times its processor time, on a busy machine


def guarded(function: str, *arguments: str, seconds: int, memory: int) -> Any:
    """What `function`, 'module:function', returns of the arguments, as JSON data, from a process of its own.

    seconds: of processor time. memory: bytes, beyond those that the module's own imports take. Raises StageError,
    in one line, for an error of the function, a crash, and a limit that is reached.
    """
    request = json.dumps([function, arguments, seconds, memory])
    # One thread: those of numeric libraries, one a core, would count as its memory.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | threads | {"PYTHONPATH": path}
    # -P: the working folder, which may be anybody's, is no place to import from.
    command = [sys.executable, "-P", "-m", "pipeline.common.guard", request]
    try:
        done = subprocess.run(
            command, env=environment, timeout=WAITS * seconds, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StageError(f"its reader was not done after {WAITS * seconds} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise StageError(f"its reader was not done after {seconds} s of processor time")
    try:
        said = json.loads(done.stdout)
    except ValueError:
        ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"status {done.returncode}"
        raise StageError(f"its reader crashed ({ended})") from None
    if "error" in said:
        raise StageError(said["error"])
    return said["value"]


def answer(function: str, arguments: list[str], seconds: int, memory: int) -> dict[str, Any]:
    """{value} of the function under the limits, or {error}: why there is none."""
    module, name = function.split(":")
    call = getattr(importlib.import_module(module), name)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # at the second the kernel does not say why
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        return {"value": call(*arguments)}
    except MemoryError:
        return {"error": f"it takes more than {memory >> 20} MiB to read"}
    except BaseException as error:  # a panic of native code is no Exception
        return {"error": one_line(error)}


def main() -> None:
    """The command line of the process: one request as JSON. Only the answer goes to the standard output."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        json.dump(answer(*json.loads(sys.argv[1])), out)


if __name__ == "__main__":
    main()
