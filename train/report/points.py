"""The data of the report's figures of what changed in the models, and of what they cost."""

from __future__ import annotations

import json
from typing import Any

Points = list[dict[str, Any]]
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


def named(run: dict[str, Any]) -> dict[str, Any]:
    return {"model": run["name"], "method": run["run"]["method"]}


def trade_off_points(runs: list[dict[str, Any]], forgetting: str, learning: str) -> Points:
    """Every evaluation during training of every run, all on the same rows; step 0 is the backbone.

    `setting` is the same in runs that differ in rate and seed alone, `label` in those that differ in seed alone:
    the name of the first of them.
    """
    points: Points = []
    labels: dict[tuple[str, float], str] = {}
    for run in runs:
        options = run["run"]["options"]
        setting = json.dumps({key: options[key] for key in options if key not in SAME_SETTING}, sort_keys=True)
        rate = options["learning_rate"]
        about = named(run) | {"rate": rate, "seed": options["seed"], "setting": setting}
        about["label"] = labels.setdefault((setting, rate), run["name"])
        evaluated = [line for line in run["metrics"] if "evaluation" in line]
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


def change_points(runs: list[dict[str, Any]]) -> Points:
    """How far each extended model is from the backbone, on each domain."""
    names = ("tokens", "kl", "agreement", "bpb")
    return [
        named(run) | {"domain": domain} | {name: change[name] for name in names}
        for run in runs
        for domain, change in run["evaluation"]["change"].items()
    ]


def layer_points(runs: list[dict[str, Any]], part: str) -> Points:
    """What the blocks of each model do, by layer and domain. part: gate, of those that have one, or block."""
    return [
        named(run) | {"domain": domain, "row": f"{run['name']}: {domain}", "layer": number, part: layer[part]}
        for run in runs
        if part != "gate" or (run["run"]["method"] == "neutral" and run["run"]["options"]["gate"] != "none")
        for domain, change in run["evaluation"]["change"].items()
        for number, layer in enumerate(change["layers"])
    ]


def site_points(runs: list[dict[str, Any]], domain: str) -> Points:
    """Change in bits per byte on each site of a domain, the site with most documents first."""
    return [
        named(run) | site for run in runs for site in run["evaluation"]["change"].get(domain, {}).get("sites", [])
    ]


def training_points(runs: list[dict[str, Any]]) -> Points:
    """Training time, speed and memory of each run."""
    return [
        named(run)
        | {"seconds": run["run"]["seconds"], "tokens_per_second": run["run"]["tokens"] / run["run"]["seconds"]}
        | {"peak_mib": run["run"]["peak_memory_mib"], "device": run["run"]["device"]}
        for run in runs
    ]


def speed_points(runs: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> Points:
    """Inference speed of each run beside that of the backbone, which was measured in turns with it."""
    return [
        named(run)
        | {"kind": kind, "speed": speed, "backbone": measured["speeds"]["backbone"][kind]}
        | {"relative": speed / measured["speeds"]["backbone"][kind]}
        for run, measured in zip(runs, speeds, strict=True)
        for kind, speed in measured["speeds"]["run"].items()
    ]


def short(points: Points) -> Points:
    """The same rows with six digits of each number, which is more than is measured and less to load."""
    return [
        {key: float(f"{x:.6g}") if isinstance(x, float) else x for key, x in point.items()} for point in points
    ]
