"""The data of the report's figures of what changed in the models, and of what they cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.common.config import to_data
from pipeline.workflow.layout import Layout
from train.runs.record import Line, RunRecord, read_metrics, read_run
from train.runs.results import Evaluation, Speed, read_evaluation

Point = dict[str, Any]  # a row of the data of a figure: names and values
Points = list[Point]
# Options that do not make another setting: runs that differ in these alone belong together.
SAME_SETTING = (
    "learning_rate",
    "seed",
    "device",
    "threads",
    "evaluate_every",
    "evaluate_rows",
    "checkpoint_every",
)


@dataclass(frozen=True)
class RunResult:
    """All that is known of a run: its record, the lines of its metrics, and its evaluation."""

    name: str
    record: RunRecord
    metrics: list[Line]
    evaluation: Evaluation


def load_result(out: Layout, name: str) -> RunResult:
    """A run of a result folder. Raises StageError where a file is missing or damaged."""
    folder = out.run(name)
    return RunResult(name, read_run(folder), read_metrics(folder), read_evaluation(out.evaluation(name)))


def named(run: RunResult) -> Point:
    return {"model": run.name, "method": run.record.method}


def trade_off_points(runs: list[RunResult], forgetting: str, learning: str) -> Points:
    """Every evaluation during training of every run, all on the same rows; step 0 is the backbone.

    `setting` is the same in runs that differ in rate and seed alone, `label` in those that differ in seed alone:
    the name of the first of them.
    """
    points: Points = []
    labels: dict[tuple[str, float], str] = {}
    for run in runs:
        options = to_data(run.record.options)
        setting = json.dumps({key: options[key] for key in options if key not in SAME_SETTING}, sort_keys=True)
        rate = run.record.options.learning_rate
        about = named(run) | {"rate": rate, "seed": run.record.options.seed, "setting": setting}
        about["label"] = labels.setdefault((setting, rate), run.name)
        evaluated = [line for line in run.metrics if "evaluation" in line]
        for line in evaluated:
            measures = {
                axis: line["evaluation"][domain]["bpb"]
                for axis, domain in (("forgetting", forgetting), ("learning", learning))
            }
            points.append(about | {"step": line["step"], **measures, "final": line is evaluated[-1]})
    settings = list(dict.fromkeys(point["setting"] for point in points))
    for point in points:  # a number says as much, in less room
        point["setting"] = settings.index(point["setting"])
    backbone = {"model": "backbone", "method": "backbone", "label": "backbone", "setting": -1, "final": True}
    return [points[0] | backbone | {"rate": 0}, *points]


def change_points(runs: list[RunResult]) -> Points:
    """How far each extended model is from the backbone, on each domain."""
    names = ("tokens", "kl", "agreement", "bpb")
    return [
        named(run) | {"domain": domain} | {name: getattr(change, name) for name in names}
        for run in runs
        for domain, change in run.evaluation.change.items()
    ]


def layer_points(runs: list[RunResult], part: str) -> Points:
    """What the blocks of each model do, by layer and domain. part: gate, of those that have one, or block."""
    return [
        named(run)
        | {"domain": domain, "row": f"{run.name}: {domain}", "layer": number, part: getattr(layer, part)}
        for run in runs
        if part != "gate" or (run.record.method == "neutral" and run.record.options.gate != "none")
        for domain, change in run.evaluation.change.items()
        for number, layer in enumerate(change.layers)
    ]


def site_points(runs: list[RunResult], domain: str) -> Points:
    """Change in bits per byte on each site of a domain, the site with most documents first."""
    return [
        named(run) | to_data(site)
        for run in runs
        if domain in run.evaluation.change
        for site in run.evaluation.change[domain].sites or []
    ]


def training_points(runs: list[RunResult]) -> Points:
    """Training time, speed and memory of each run."""
    return [
        named(run)
        | {"seconds": run.record.seconds, "tokens_per_second": run.record.tokens / run.record.seconds}
        | {"peak_mib": run.record.peak_memory_mib, "device": run.record.device}
        for run in runs
    ]


def speed_points(runs: list[RunResult], speeds: list[Speed]) -> Points:
    """Inference speed of each run beside that of the backbone, which was measured in turns with it."""
    return [
        named(run) | {"kind": kind, "speed": speed, "backbone": plain, "relative": speed / plain}
        for run, measured in zip(runs, speeds, strict=True)
        for kind, speed in vars(measured.speeds["run"]).items()
        for plain in [getattr(measured.speeds["backbone"], kind)]
    ]


def short(points: Points) -> Points:
    """The same rows with six digits of each number: more than is measured, and less to load.

    >>> short([{"model": "lora", "bpb": 1.23456789}])
    [{'model': 'lora', 'bpb': 1.23457}]
    """
    return [
        {key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in point.items()} for point in points
    ]
