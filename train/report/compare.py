"""Two runs side by side, or two whole workflows: which options differ, and by how much what came out.

Everything is read from what the stages left in the folders; what one side lacks stays empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from pipeline.common.markdown import code, escaped
from pipeline.workflow.freed import stamped_options
from pipeline.workflow.layout import Layout
from train.data.rows import open_rows
from train.evaluation.intervals import estimate, paired
from train.report.report import stage_times
from train.report.words import NOISE, ends, is_noise
from train.runs.origin import backbone_record
from train.runs.record import SettlingRecord, is_run, read_metrics, read_run
from train.runs.results import Measure, read_evaluation, read_speed, read_task_scores


@dataclass
class Side:
    """What a folder says: options by name, and numbers by group (a model, the corpus) and name.

    scored: of those in bits per byte all that was measured, for the interval of a difference.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    scored: dict[str, dict[str, Measure]] = field(default_factory=dict)


def compare(a: str, b: str) -> None:
    """Print the difference as Markdown. Raises StageError where the folders are no two of a kind."""
    print(difference(a, b))


def difference(a: str, b: str) -> str:
    one, other = read_side(Path(a)), read_side(Path(b))
    if one.kind != other.kind:
        raise StageError(f"{a} is {one.kind}, and {b} is {other.kind}; give two of a kind")
    parts = [f"A: {code(a)}, B: {code(b)}\n", "## Options that differ\n"]
    changed = [
        (name, one.options.get(name), other.options.get(name))
        for name in dict.fromkeys([*one.options, *other.options])
        if one.options.get(name) != other.options.get(name)
    ]
    cells = [[name, *(_text(value) for value in values)] for name, *values in changed]
    parts.append(_table(["option", "A", "B"], cells) if cells else "None.\n")
    for group in dict.fromkeys([*one.measures, *other.measures]):
        left, right = one.measures.get(group, {}), other.measures.get(group, {})
        rows = []
        for name in dict.fromkeys([*left, *right]):
            scored = [side.scored.get(group, {}).get(name) for side in (one, other)]
            rows.append([name, *_sides(left.get(name), right.get(name), _interval(*scored))])
        parts += [f"## {escaped(group)}\n", _table(["measure", "A", "B", "B - A"], rows)]
    return "\n".join(parts)


# What a folder says -------------------------------------------------------------------------------


def read_side(folder: Path) -> Side:
    """The options and measures in a folder. Raises StageError where it is neither a run's nor a workflow's."""
    if is_run(folder):
        side = Side("a run's folder")
        side.options = _run_options(folder)
        out = Layout(folder.parent.parent)
        side.measures["run"] = _model_measures(out, folder.name) | _run_measures(folder)
        side.scored["run"] = _scored(out, folder.name)
        return side
    out = Layout(folder)
    if not any(out.files(path) for path in (out.run("*"), out.evaluation("*"), out.stats)):
        what = "is not there" if not folder.exists() else "has no run.json, and no runs, evaluate or corpus"
        raise StageError(f"{folder}: {what}; give the folder of a run, or the output folder of a workflow")
    side = Side("the output folder of a workflow")
    side.options = dict(_workflow_options(out))
    if (path := Path(out.stats)).exists():
        side.measures["corpus"] = _corpus_measures(read_json(path, "run `card` again"))
    runs = {path.parent.name: path.parent for path in out.files(out.run_record("*"))}
    for model in ["backbone", *runs]:
        own = _run_measures(runs[model]) if model in runs else {}
        side.measures[model], side.scored[model] = _model_measures(out, model) | own, _scored(out, model)
    times = stage_times(out)
    side.measures["time of each stage, seconds"] = {time["stage"]: time["seconds"] for time in times}
    side.measures = {group: measures for group, measures in side.measures.items() if measures}
    return side


def _run_options(folder: Path) -> dict[str, Any]:
    """A run's options and what it ran with; of its base the name alone, since the folder is another."""
    run = read_run(folder)
    options = to_data(run.options) | {"languages": to_data(run.languages)}
    if run.options.base:
        options["base"] = Path(run.options.base).name
    options |= {"device": run.device, "compute": run.compute, "ranks": run.ranks}
    return options | {f"version of {name}": version for name, version in run.versions.items()}


def _run_measures(folder: Path) -> dict[str, float]:
    """What training wrote down: size, time, memory, and the last loss, gates and evaluation."""
    run = read_run(folder)
    measures: dict[str, float] = {
        "trained weights": run.trained_weights,
        "training, s": run.seconds,
        "training, tokens/s": run.tokens / run.seconds,
        "training, peak MiB": run.peak_memory_mib,
    }
    for line in read_metrics(folder):
        names = {"loss": "training loss", "gate_old": "gate on old tokens", "gate_new": "gate on new tokens"}
        measures |= {name: line[key] for key, name in names.items() if line.get(key) is not None}
        for domain, measure in line.get("evaluation", {}).items():
            measures[f"{domain}, bits per byte in training"] = measure["bpb"]
    return measures


def _scored(out: Layout, model: str) -> dict[str, Measure]:
    """What was measured of a model in bits per byte, by the name of the measure."""
    path = Path(out.evaluation(model))
    domains = read_evaluation(path).domains if path.exists() else {}
    return {f"{domain}, bits per byte": measure for domain, measure in domains.items()}


def _model_measures(out: Layout, model: str) -> dict[str, float]:
    """What was measured of a model in a workflow's folder: bits per byte, changes, tasks and speed."""
    measures = {name: measure.bpb for name, measure in _scored(out, model).items()}
    if (path := Path(out.evaluation(model))).exists():
        for domain, change in read_evaluation(path).change.items():
            measures |= {f"{domain}, KL to backbone": change.kl, f"{domain}, agreement": change.agreement}
            if layers := change.layers:
                gate = sum(layer.gate for layer in layers) / len(layers)
                measures[f"{domain}, mean gate"] = gate
    if (path := Path(out.task_scores(model))).exists():
        for task, score in read_task_scores(path).tasks.items():
            measures[f"{task}, accuracy ({score.metric})"] = score.accuracy[score.metric]
    if (path := Path(out.speed(model))).exists():
        speed = read_speed(path)
        for text, on in (("", speed), (" new text", speed.new)):
            if on is not None:
                own = on.speeds.get("run", on.speeds["backbone"])
                measures |= {f"{kind}{text}, tokens/s": rate for kind, rate in vars(own).items()}
    return measures


def _corpus_measures(stats: dict[str, Any]) -> dict[str, float]:
    """Documents that each stage kept, and documents and bytes of each language and split."""
    measures: dict[str, float] = {
        f"{ledger['stage']}, documents kept": ledger["kept"]["documents"] for ledger in stats["ledgers"]
    }
    for language, splits in stats["languages"].items():
        for split, counts in splits.items():
            measures |= {f"{language} {split}, {name}": counts[name] for name in ("documents", "bytes")}
    return measures


def _workflow_options(out: Layout) -> Iterator[tuple[str, Any]]:
    """The options of every stage that wrote them down, as `stage.key`."""
    for stage, options in stamped_options(out).items():
        yield from ((f"{stage}.{key}", value) for key, value in options.items())
    for path in out.files(out.rows("*", "validation")):
        about = open_rows(str(path)).metadata
        yield from ((f"tokens.{path.parent.name}.{name}", about[name]) for name in ("row_tokens", "vocabulary"))
    if training := backbone_record(out.backbone):
        stage = "settle" if isinstance(training, SettlingRecord) else "pretrain"
        yield from ((f"{stage}.{key}", value) for key, value in to_data(training.options).items())
    for path in out.files(out.run_record("*")):
        yield from ((f"{path.parent.name}.{key}", value) for key, value in _run_options(path.parent).items())


# In words -----------------------------------------------------------------------------------------


def _interval(a: Measure | None, b: Measure | None) -> str:
    """The 95% interval of the difference, where both were scored on the same documents."""
    if a is None or b is None:
        return ""
    both = paired({"a": a, "b": b})
    difference = estimate(both["b"] - both["a"])
    return f", 95%: {ends(difference)}{f', {NOISE}' * is_noise(difference)}" if ends(difference) else ""


def _sides(a: float | None, b: float | None, interval: str = "") -> list[str]:
    if a is None or b is None:
        return ["" if x is None else _number(x) for x in (a, b)] + [""]
    if a == b:
        return [_number(a), _number(b), "0"]
    share = f" ({(b - a) / abs(a):+.1%})" if a else ""
    return [_number(a), _number(b), ("+" if b > a else "-") + _number(abs(b - a)) + share + interval]


def _number(x: float) -> str:
    if x == int(x):
        return f"{int(x):,}"
    return f"{x:,.1f}" if abs(x) >= 100 else f"{x:.4f}" if abs(x) >= 0.01 else f"{x:.2e}"


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns are aligned for a terminal too."""
    safe = [[" ".join(escaped(cell).split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *safe, strict=True)]

    def line(cells: list[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join([first.strip().ljust(widths[0]), *others]) + " |"

    first, *others = ("-" * width for width in widths)
    rule = f"|-{first}-|" + "".join(f"-{dashes}:|" for dashes in others)
    return "\n".join([line(heads), rule, *map(line, safe)]) + "\n"
