"""A step that is killed leaves nothing half written to those behind it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir

from benchmarks import report
from benchmarks.gpu.steps import Step, finish, first_to_end, start


def compile_code(job: dict[str, Any]) -> list[str]:
    """What was compiled before this step; then another file, whose writing may never end."""
    folder = Path(cache_dir())
    folder.mkdir(exist_ok=True)
    before = sorted(path.name for path in folder.iterdir())
    (folder / job["file"]).write_text("half of")
    if job["ends"] == "killed":
        time.sleep(60)
    if job["ends"] == "dies":
        os._exit(3)
    return before


@pytest.mark.parametrize("ends, why", [("killed", "killed after 1 s"), ("dies", "its process ended with 3")])
def test_code_that_was_being_compiled_is_compiled_anew(
    ends: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "measure", compile_code)
    lines = []
    for number, how in enumerate(("well", "well", ends, "well")):
        step = Step(f"{number}", "benchmarks.report:measure", 0, 0, {"file": f"{number}.so", "ends": how})
        started = start(step, 1 if how == "killed" else 60, tmp_path / "work")
        lines.append(finish(first_to_end([started]), tmp_path))
    assert [line.get("found") for line in lines] == [[], ["0.so"], None, []]
    assert why in lines[2]["failed"]
