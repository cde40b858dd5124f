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

from benchmarks.gpu import parts, table


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


def test_what_is_packed_is_unpacked_and_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 1000)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/a").write_bytes(os.urandom(5000))
    parts.main(["pack", "--output", str(tmp_path / "parts"), str(tmp_path / "rows")])
    pieces = sorted(map(str, (tmp_path / "parts").iterdir()))
    assert len(pieces) >= 6
    parts.main(["unpack", "--output", str(tmp_path / "out"), *reversed(pieces)])
    assert (tmp_path / "out/rows/a").read_bytes() == (tmp_path / "rows/a").read_bytes()
    with pytest.raises(SystemExit, match="part-01 is missing"):
        parts.main(["unpack", "--output", str(tmp_path / "out"), *[p for p in pieces if "part-01" not in p]])
    Path(pieces[0]).write_bytes(b"x")
    with pytest.raises(SystemExit, match="part-00 is damaged"):
        parts.main(["unpack", "--output", str(tmp_path / "out"), *pieces])


def test_the_page_of_the_measured_gpu_is_made_of_its_lines(tmp_path: Path) -> None:
    table.main([str(ROOT / "docs/benchmarks/gpu.jsonl"), "--output", str(tmp_path / "gpu")])
    assert (tmp_path / "gpu.md").read_text() == (ROOT / "docs/benchmarks/gpu.md").read_text()
