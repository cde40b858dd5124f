"""One attack in a process and an empty folder of its own, with bounds of time and memory, and what came of it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
AREAS = ("archives", "corpus", "files", "models", "network", "recipes", "workflow")
SECONDS, MEMORY = 120, 10 * 2**30
# What an attack returns: whether it was held, and in a few words what happened.
Outcome = tuple[bool, str]
Attack = Callable[[Path], Outcome]


# This package from here, and the attacked code from PYTHONPATH.
_MODULE = """
import runpy, sys
root, module = sys.argv[1:3]
sys.path.insert(0, root)
import benchmarks.attacks
del sys.path[0], sys.argv[1:3]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS` for a module of this folder, wherever the attacked code lies."""
    return [sys.executable, "-c", _MODULE, str(ROOT), module, *arguments]


def environment(checkout: Path) -> dict[str, str]:
    """Of a process that attacks the code in `checkout`; models of the hub are not asked for."""
    return os.environ | {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}


def attacks() -> Iterator[tuple[str, str, str]]:
    """(area, name, what it does) of every attack: the public functions of the modules of this folder."""
    for area in AREAS:
        module = importlib.import_module(f"benchmarks.attacks.{area}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                yield area, name, (function.__doc__ or "").strip().splitlines()[0]


def run(area: str, name: str, checkout: Path = ROOT) -> dict[str, Any]:
    """{held, outcome, seconds, peak_mb} of an attack on the code in `checkout`."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with subprocess.Popen(
            command("benchmarks.attacks.run", area, name),
            cwd=folder,
            env=environment(checkout) | {"HOME": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                answer, errors = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                answer, errors = "", f"not done after {SECONDS} s"
            finally:
                with contextlib.suppress(ProcessLookupError):  # and what it started
                    os.killpg(process.pid, signal.SIGKILL)
    seconds = time.perf_counter() - begin
    # On the last line, behind what the attacked code itself prints.
    try:
        return json.loads(answer.splitlines()[-1]) | {"seconds": seconds}
    except (IndexError, ValueError):
        last = (errors.strip() or f"ended with status {process.returncode}").splitlines()[-1][:100]
        return {"held": False, "outcome": last, "peak_mb": None, "seconds": seconds}


def stage(wing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m WING ARGUMENTS` of the attacked code, run to its end."""
    return subprocess.run([sys.executable, "-m", wing, *arguments], capture_output=True, text=True, check=False)


def _attack(area: str, name: str) -> dict[str, Any]:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    module = importlib.import_module(f"benchmarks.attacks.{area}")
    try:
        held, outcome = getattr(module, name)(Path.cwd())
    except Exception as error:
        held, outcome = False, f"{type(error).__name__}: {error}"[:100]
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"held": held, "outcome": outcome, "peak_mb": max(usage.ru_maxrss for usage in usages) // 1024}


if __name__ == "__main__":
    print("\n" + json.dumps(_attack(*sys.argv[1:])), flush=True)
