"""The table of `python -m benchmarks.training`, of lines that its measurements left."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.steps import Step, function_of
from benchmarks.training import LOADER, LOADER_PEER, PEER, TRAINING, rate, table


def line(contender: str, step: str = TRAINING, **result: Any) -> dict[str, Any]:
    return {"step": step, "job": {"contender": contender}, **result}


def trained(contender: str, tokens_per_s: float, peak_mib: int, **more: float) -> dict[str, Any]:
    return line(contender, found={"tokens_per_s": tokens_per_s, "peak_mib": peak_mib, **more})


def test_what_fails_is_a_row_with_its_reason_and_costs_no_other() -> None:
    rows = table(
        [
            line(LOADER_PEER, LOADER, failed="ModuleNotFoundError: No module named 'datasets'"),
            line("batches", LOADER, found={"rows_per_s": 5000.0}),
            trained(PEER, 80.0, 100),
            trained("neutral", 100.0, 60, measuring_share=0.1),
            trained(f"{PEER}, compiled", 100.0, 200),
            line(f"{PEER}, compiled", skipped="9 s left"),
            trained(PEER, 60.0, 120),
            trained("neutral", 160.0, 40, measuring_share=0.25),
            line("lora", skipped="9 s left,\n30 s needed"),
        ]
    )
    by_name = {row["contender"]: row for row in rows}
    assert "'datasets'" in by_name[LOADER_PEER]["or why not"] and by_name[LOADER_PEER]["speed"] is None
    assert (by_name["batches"]["speed"], by_name["batches"]["times"]) == (5000.0, None)
    # Against the faster peer; the steps that measure are in the speed: medians of 90 and 120, of 60 and 40 MiB.
    neutral = by_name["neutral"]
    assert (neutral["speed"], neutral["times"], neutral["memory over peer's"]) == (105.0, 1.05, 0.25)
    assert (by_name[PEER]["speed"], by_name[PEER]["times"], by_name[PEER]["or why not"]) == (70.0, 0.7, "")
    assert by_name["lora"]["or why not"] == "9 s left, 30 s needed"
    assert by_name[f"{PEER}, compiled"]["or why not"] == ""
    assert len({tuple(row) for row in rows}) == 1  # the columns of one table


def test_a_measurement_outside_of_the_program_for_a_gpu_has_a_name_with_a_dot() -> None:
    assert function_of(Step("", "benchmarks.training:rate", 0, 0)) is rate
