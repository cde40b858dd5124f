"""The project's own tests of models and training, on the device."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu.steps import Skipped

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ("pytest", "pytest-xdist", "hypothesis")
TESTS, REHEARSED = ("tests/models", "tests/train"), ("tests/models/test_positions.py",)
TO_END_S = 20  # that pytest has, when its time is over, to say what it has found
PROCESSES = 8
NAMED = 60  # tests that failed


def suite(job: dict[str, Any]) -> dict[str, Any]:
    """How many tests passed, failed and so on; those that failed, with the reason; whether all were run.

    Raises Skipped on a machine without pytest.
    """
    if importlib.util.find_spec("pytest") is None or importlib.util.find_spec("hypothesis") is None:
        raise Skipped(
            f"no pytest or no hypothesis here; bring the wheels of {', '.join(WHEELS)}, with what they need"
        )
    several = importlib.util.find_spec("xdist") is not None and not job["toy"]
    processes = ["-n", str(min(PROCESSES, os.cpu_count() or 1)), "--dist", "loadfile"] if several else []
    # Nothing can be fetched there; the cache of pytest would be written beside the code.
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-rfE", "-m", "not network"]
    command += ["-p", "no:cacheprovider", "--tb=short", *processes, *(REHEARSED if job["toy"] else TESTS)]
    environment = os.environ | {"TEST_DEVICE": job["device"], "COLUMNS": "300", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            out, _ = process.communicate(timeout=max(1, job["seconds"] - TO_END_S))
            whole = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate()
            whole = False
    print(out, flush=True)
    found = counts(out)
    return {"ok": whole and process.returncode == 0, "whole": whole, **found}


def counts(out: str) -> dict[str, Any]:
    """What pytest's last lines say."""
    lines = out.splitlines()
    last = next((line for line in reversed(lines) if re.search(r"\d+ \w+.* in [\d.]+s", line)), "")
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return {
        "counts": {what: int(number) for number, what in re.findall(r"(\d+) ([a-z]+)", last.split(" in ")[0])},
        "failed": failed[:NAMED],
    }
