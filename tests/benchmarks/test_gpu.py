"""The program for a GPU: its steps, its lines and its page. `.ci/run` rehearses all of it on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.gpu import steps, suite, table
from benchmarks.gpu.__main__ import run_all
from benchmarks.gpu.program import before_real, real_steps, rehearsed
from benchmarks.gpu.steps import Skipped, Step, keep_printed


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "steps.jsonl").read_text().splitlines()]


def test_a_step_that_fails_or_takes_too_long_is_a_line_and_no_end(tmp_path: Path, monkeypatch) -> None:
    started = tmp_path / "started"

    def hang(job: dict) -> None:
        with subprocess.Popen(["sleep", "60"]) as process:
            started.write_text(str(process.pid))

    def lack(job: dict) -> None:
        raise Skipped("no pytest here")

    def find(job: dict) -> dict:
        print("what it says", flush=True)
        return {"ok": job["fine"], "seconds": job["seconds"]}

    functions = {
        "fail": lambda job: 1 / 0,
        "die": lambda job: os._exit(3),
        "hang": hang,
        "lack": lack,
        "find": find,
    }
    for name, function in functions.items():
        monkeypatch.setattr(steps, name, function, raising=False)
    program = [Step(name, f"steps:{name}", 0, 0.5, {"fine": True}) for name in functions]
    program += [Step("wrong", "steps:find", 0, 1, {"fine": False}), Step("long", "steps:find", 1e9, 1e9)]
    failed = run_all(program, 1, tmp_path, tmp_path / "work")
    assert failed == ["fail", "die", "hang", "wrong", "long"]
    fail, die, hung, lacks, found, _, long = lines_of(tmp_path)
    assert "ZeroDivisionError" in fail["failed"] and fail["card"] == "cpu"
    assert die["failed"] == "no result; its process ended with 3"
    assert hung["failed"] == "killed after 0.5 s"
    assert lacks["skipped"] == "no pytest here"
    assert found["found"] == {"ok": True, "seconds": 0.5} and found["job"] == {"fine": True}
    assert "needed" in long["skipped"]
    assert "what it says" in (tmp_path / "log.txt").read_text()
    assert is_gone(int(started.read_text()))  # what a killed step has started is killed with it


def test_neighbours_run_at_the_same_time_and_others_wait_for_them(tmp_path: Path, monkeypatch) -> None:
    def meet(job: dict) -> dict:
        (tmp_path / job["name"]).touch()
        while not (tmp_path / job["other"]).exists():
            time.sleep(0.01)
        return {"ok": True}

    monkeypatch.setattr(steps, "meet", meet, raising=False)
    pairs = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    both = [
        Step(name, "steps:meet", 0, 5, {"name": name, "other": other}, beside="ab" if name in "ab" else "cd")
        for name, other in pairs
    ]
    assert run_all(both, 1, tmp_path, tmp_path / "work", 2) == []
    lines = lines_of(tmp_path)
    assert sorted(line["step"] for line in lines[:2]) == ["a", "b"]
    assert [line["beside"] for line in lines] == [1] * 4
    for path in "abcd":
        (tmp_path / path).unlink()
    alone = [Step(name, "steps:meet", 0, 0.2, {"name": name, "other": other}) for name, other in pairs[:1]]
    assert run_all(alone, 1, tmp_path / "alone", tmp_path / "work", 2) == ["a"]


def is_gone(process: int) -> bool:
    for _ in range(100):
        state = Path(f"/proc/{process}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return True
        time.sleep(0.01)
    return False


def test_what_is_printed_is_kept_to_a_bound(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(steps, "LOGGED", 100)
    monkeypatch.setattr(steps, "LOG_BYTES", 500)
    for number in range(20):
        (tmp_path / "printed").write_text("x" * 1000 + f"end {number}")
        keep_printed(f"step {number}", tmp_path / "printed", tmp_path / "log.txt")
    log = (tmp_path / "log.txt").read_text()
    assert len(log) <= 500
    assert log.endswith("end 19") and "end 18" in log


def test_the_program_is_in_order_of_value_and_a_rehearsal_leaves_nothing_out() -> None:
    real = real_steps("cuda", ["neutral", "lora"], True, {"neutral": "neutral"}, True, "real", "work", 20e6)
    program = before_real("cuda") + real
    names = [step.name for step in program]
    assert names[:4] == ["machine", "checks", "loss", "products"]
    assert names[names.index("tests") :][:3] == ["tests", "tasks", "real source"]
    assert names[-8:-4] == ["real settle", "real rates neutral", "real neutral", "real lora"]
    assert names[-4:] == ["asked backbone", "asked neutral", "asked lora", "tasks, real"]
    assert sum(step.estimate_s for step in real) < 10 * 60
    toys = list(map(rehearsed, before_real("cpu")))
    assert [step.name for step in toys] == names[: len(toys)]
    assert all(step.job["toy"] and step.job.get("sizes", "tiny") == "tiny" for step in toys)


def test_the_counts_of_pytest() -> None:
    out = (
        "....F\nFAILED tests/models/test_a.py::test_b - AssertionError: 1 failed in 3 s\n"
        "ERROR tests/models/test_c.py\n1 failed, 4 passed, 2 skipped, 1 error in 12.34s (0:00:12)\n"
    )
    found = suite.counts(out)
    assert found["counts"] == {"failed": 1, "passed": 4, "skipped": 2, "error": 1}
    assert [line.split()[1] for line in found["failed"]] == [
        "tests/models/test_a.py::test_b",
        "tests/models/test_c.py",
    ]


# The page --------------------------------------------------------------------------------------------


def test_the_page_of_the_measured_gpu_is_made_of_its_lines(tmp_path: Path) -> None:
    table.main([str(ROOT / "docs/benchmarks/gpu.jsonl"), "--output", str(tmp_path / "gpu")])
    assert (tmp_path / "gpu.md").read_text() == (ROOT / "docs/benchmarks/gpu.md").read_text()


def test_targets_stand_beside_what_was_measured_and_old_names_stay_what_they_were(tmp_path: Path) -> None:
    program = {step.name: step for step in before_real("cuda")}

    def line(name: str, **found: float) -> str:
        return json.dumps(
            {"step": name, "job": program[name].job, "found": found, "card": "NVIDIA H100", "seconds": 9}
        )

    lines = [
        line("speed 135M peer", tokens_per_s=200e3, peak_mib=20000),
        line("speed 135M neutral", tokens_per_s=250e3, peak_mib=10000, mfu=0.3),  # replaced by the next
        line("speed 135M neutral", tokens_per_s=300e3, peak_mib=10000, mfu=0.36),
    ]
    old = {"step": "speed 135M neutral", "job": {"method": "neutral", "device": "cuda", "toy": False}}
    lines.append(json.dumps(old | {"found": {"tokens_per_s": 123456}}))
    (tmp_path / "steps.jsonl").write_text("\n".join(lines))
    table.write([tmp_path / "steps.jsonl"], tmp_path / "gpu.md")
    rows = [line for line in (tmp_path / "gpu.md").read_text().splitlines() if line.startswith("| 135M neutral |")]
    measured, before = ([cell.strip() for cell in row.split("|")] for row in rows)
    # 0.35 x 989e12 FLOP/s over 6 a trained weight and 4 a frozen one in products, and attention.
    target = float(measured[3].replace(",", ""))
    assert target == pytest.approx(0.35 * 989e12 / 1.193e9, rel=0.01)
    assert measured[2:3] + measured[4:8] == ["NVIDIA H100", "300,000", "1.50", "0.50", "36.0%"]
    assert before[3:5] == ["flash", "123,456"]
    assert "| 1B neutral |  | 57," in (tmp_path / "gpu.md").read_text()
    assert (tmp_path / "gpu.md").read_text().count("not yet measured") > 20
