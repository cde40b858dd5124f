"""The data of the report's figures of the models: what they learned and forgot, how, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.config import to_data
from pipeline.workflow.layout import BACKBONE, METRICS, SOURCE
from train.evaluation.intervals import estimate
from train.report.settings import Axis, Bpb, RunResult, settings_of
from train.runs.origin import backbone_record
from train.runs.record import read_metrics
from train.runs.results import Speed

Point = dict[str, Any]  # a row of the data of a figure: names and values
Points = list[Point]


def named(run: RunResult) -> Point:
    return {"model": run.name, "method": run.record.method}


def trade_off_points(axis: Axis, beside: Mapping[str, list[RunResult]], forgetting: str, bpb: Bpb) -> Points:
    """Changes against the backbone on all held-out documents, with their 95% intervals.

    Of each setting the mean over its seeds, and each run where they are several. The backbone, at 0, the source
    that was settled, and the runs `beside` those of the language, by what they are, come first. `family` is the
    same in settings that differ in their rate alone.
    """
    both = [bpb[domain] for domain in (forgetting, axis.learning)]
    origin: Point = {"label": BACKBONE, "method": BACKBONE, "rate": 0.0, "family": "", "seeds": 0, "kind": "mean"}
    points = [origin | {"forgetting": 0.0, "learning": 0.0}]
    if SOURCE in both[0]:
        settled = _place([models[SOURCE] - models[BACKBONE] for models in both])
        points.append(origin | {"label": SOURCE, "family": SOURCE} | settled)
    settings = [(setting, what) for what, own in beside.items() for setting in settings_of(own)]
    for setting, what in [*settings, *((setting, "") for setting in settings_of(axis.runs))]:
        label = setting.label if what in ("", setting.label) else f"{setting.label}, {what}"
        about = {"label": label, "method": setting.method, "rate": setting.rate}
        about |= {"family": f"{setting.family}{what}", "seeds": len(setting.runs)}
        points.append(about | {"kind": "mean"} | _place([setting.change(models) for models in both]))
        if len(setting.runs) > 1:
            for run in setting.runs:
                one = {"kind": "run", "model": run.name, "seed": run.record.options.seed}
                points.append(about | one | _place([models[run.name] - models[BACKBONE] for models in both]))
    return points


def _place(changes: list[np.ndarray]) -> Point:
    """Both changes, and the ends of their intervals."""
    place: Point = {}
    for name, values_1R in zip(("forgetting", "learning"), changes, strict=True):
        known = estimate(values_1R)
        place |= {name: known.value, f"{name}_low": known.low, f"{name}_high": known.high}
    return place


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
    """Inference speed of each run beside that of the backbone, measured in turns with it, on old and new text."""
    return [
        named(run) | {"kind": f"{kind} {text} text", "speed": speed, "backbone": plain, "relative": speed / plain}
        for run, measured in zip(runs, speeds, strict=True)
        for text, on in (("old", measured), ("new", measured.new))
        if on is not None
        for kind, speed in vars(on.speeds["run"]).items()
        for plain in [getattr(on.speeds["backbone"], kind)]
    ]


def evaluation_points(runs: list[RunResult], domain: str) -> Points:
    return [
        named(run) | {"step": line["step"], "tokens": run.tokens_at(line["step"]), "bpb": measures[domain]["bpb"]}
        for run in runs
        for line in run.metrics
        if domain in (measures := line.get("evaluation", {}))
    ]


def loss_points(runs: list[RunResult]) -> Points:
    """The training loss at about a hundred steps of each run."""
    points = []
    for run in runs:
        lines = [line for line in run.metrics if "loss" in line]
        every = max(1, len(lines) // 100)
        points += [
            named(run) | {"step": x["step"], "tokens": run.tokens_at(x["step"]), "loss": x["loss"]}
            for x in lines[::every]
        ]
    return points


def gate_points(runs: list[RunResult]) -> Points:
    return [
        named(run)
        | {"step": line["step"], "tokens": run.tokens_at(line["step"])}
        | {"of": f"{kind} tokens ({', '.join(languages)})", "language": languages[0], "gate": line[f"gate_{kind}"]}
        for run in runs
        if run.record.method == "neutral"
        for line in run.metrics
        for kind, languages in (("old", run.record.languages.old), ("new", [run.record.languages.new]))
        if line.get(f"gate_{kind}") is not None
    ]


def pretraining_points(backbone: str) -> Points:
    """The backbone's own validation curves, a line a domain; empty where it was not trained here."""
    record = backbone_record(backbone)
    if not record or not Path(backbone, METRICS).exists():
        return []
    return [
        {"domain": domain, "step": line["step"], "tokens": line["step"] * record.tokens // record.steps}
        | {"bpb": measure["bpb"]}
        for line in read_metrics(backbone)
        for domain, measure in line.get("evaluation", {}).items()
    ]


def short(points: Points) -> Points:
    """The same rows with six digits of each number: more than is measured, and less to load.

    >>> short([{"model": "lora", "bpb": 1.23456789}])
    [{'model': 'lora', 'bpb': 1.23457}]
    """
    return [
        {key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in point.items()} for point in points
    ]
