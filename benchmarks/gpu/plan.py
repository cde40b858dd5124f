"""What a real run on a GPU is made of: `real.json`, which `pack` writes of a config, and what the GPU changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import bad_name, option
from train.runs.options import Extend, Settle, ancestors, new_domain
from train.runs.record import read_result
from train.trainer.mixture import old_rate

PLAN = "real.json"
STEP_TOKENS = 32_768
SETTLE_TOKENS = 5e6
TRIED_TOKENS = 2e6  # of each learning rate that is tried, these times the run's own
FACTORS = (0.5, 1.0, 2.0)
EVALUATIONS = 12  # points of a curve
METHODS = ("neutral", "finetune", "adapter", "lora")  # by what a GPU is wanted for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The runs of a config, in the order in which they are trained, and what they are measured with."""

    extend: Extend = option(doc="domains and runs, as in the config")
    settle: Settle | None = option(None, "the training before all runs; null: none")
    held_out: list[str] = option(doc="the domains to measure, forgetting first, learning second")
    tune: str | None = option(None, "the domain that chooses among the learning rates; null: none are tried")
    prompts: list[str] = option([], "beginnings to continue")
    asks: bool = option(False, "whether the questions of tasks are beside it")
    files: dict[str, str] = option({}, "sha256 of each file beside it, so that other inputs are another plan")

    def problems(self) -> Iterator[tuple[str, str]]:
        for domain in (*self.trained, *self.measured):
            if problem := bad_name(domain):
                yield domain, problem

    @property
    def trained(self) -> list[str]:
        """The domains whose training rows are read, each once."""
        settled = [self.settle.domain] if self.settle else []
        news = [new_domain(self.extend, name) for name in self.extend.runs]
        return list(dict.fromkeys([*settled, self.extend.old, *news]))

    @property
    def measured(self) -> list[str]:
        """The domains whose held-out rows are read."""
        return [*self.held_out, *([self.tune] if self.tune else [])]

    @property
    def tried(self) -> dict[str, str]:
        """By method, the run whose learning rates are tried: the first from the backbone that learns."""
        found: dict[str, str] = {}
        for name, run in self.extend.runs.items() if self.tune else ():
            if run.base is None and old_rate(run) < 1:
                found.setdefault(run.method, name)
        return found


def read_plan(folder: str | Path) -> Plan:
    """Raises StageError where the folder is not one that `pack` filled."""
    return read_result(Plan, Path(folder, PLAN), "give a folder that `python -m benchmarks.gpu unpack` made")


def by_value(extend: Extend) -> Extend:
    """The same runs: bases first, then one of each of METHODS, then a second of each, as in the config."""
    runs, earlier = extend.runs, list(extend.runs)

    def place(name: str) -> tuple[int, int, int]:
        method = runs[name].method
        alike = [other for other in earlier[: earlier.index(name)] if runs[other].method == method]
        return len(ancestors(extend, name)), len(alike), METHODS.index(method)

    return dataclasses.replace(extend, runs={name: runs[name] for name in sorted(runs, key=place)})


def changes(
    tokens: float, row_tokens: int, device: str, step_tokens: int = STEP_TOKENS, evaluations: int = EVALUATIONS
) -> dict[str, Any]:
    """The options that a GPU gives a run, whatever the config has: its length in tokens, in large steps.

    Checkpoints come four times, for they cost time; half a step's rows at once leave room for other runs beside.
    """
    rows = max(1, step_tokens // row_tokens)
    steps = max(1, round(tokens / (rows * row_tokens)))
    return {
        "steps": steps,
        "batch_rows": rows,
        "micro_batch_rows": max(1, rows // 2),
        "evaluate_every": -(-steps // evaluations),
        "evaluate_rows": 64,
        "checkpoint_every": -(-steps // 4),
        "compile": device == "cuda",
        "device": device,
        "shard": False,
        "gpus": 1,
    }
