"""The program for a GPU, rehearsed on the CPU at toy size; what a GPU shows is in docs/benchmarks/gpu.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from device import DEVICE

from benchmarks.gpu import table


def rehearse(output: Path, *names: str) -> dict[str, dict]:
    how = ["--rehearse"] if DEVICE.type == "cpu" else []
    command = [sys.executable, "-m", "benchmarks.gpu", *how, "--output", str(output), "--only", *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    lines = map(json.loads, (output / "steps.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}


@pytest.mark.slow
def test_every_check_passes(tmp_path: Path) -> None:
    steps = rehearse(tmp_path, "machine", "checks")
    checks = steps["checks"]["found"]["checks"]
    assert len(checks) > 12
    assert not {name: check for name, check in checks.items() if not check["ok"]}
    assert steps["machine"]["found"]["product_tflops"] > 0


@pytest.mark.slow
def test_a_step_that_fails_or_takes_too_long_is_a_line_and_no_end(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from benchmarks.gpu import __main__ as gpu, speed\n"
        "speed.machine = lambda job: 1 / 0\n"
        "speed.loss = lambda job: time.sleep(60)\n"
        "steps = [('fails', 'speed:machine', 1, 60), ('hangs', 'speed:loss', 1, 2)]\n"
        "steps += [('long', 'speed:loss', 1e9, 1e9)]\n"
        "gpu.chosen = lambda arguments: [gpu.Step(*step) for step in steps]\n"
        "sys.argv[1:] = ['--output', sys.argv[1]]\n"
        "gpu.main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True, env=environment)
    lines = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert "ZeroDivisionError" in lines[0]["failed"]
    assert lines[1]["failed"] == "killed after 2 s"
    assert "needed" in lines[2]["skipped"]


def test_the_page_of_the_measured_gpu_is_made_of_its_lines(tmp_path: Path) -> None:
    table.main([str(ROOT / "docs/benchmarks/gpu.jsonl"), "--output", str(tmp_path / "gpu")])
    assert (tmp_path / "gpu.md").read_text() == (ROOT / "docs/benchmarks/gpu.md").read_text()
