"""The paper's tables and figures written out: CSV, Markdown and a plot, with the paper's numbers beside ours."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import numpy as np

from pipeline.common.config import read_yaml
from pipeline.common.errors import StageError
from pipeline.common.files import write_text
from pipeline.common.markdown import table_row
from pipeline.workflow.layout import BACKBONE
from train.evaluation.intervals import Estimate, estimate, paired
from train.paper.claims import verdicts
from train.paper.grid import Grid, Target
from train.report.points import Points
from train.report.tasks import mean_accuracy
from train.report.words import with_ends
from train.runs.record import RunRecord, read_run
from train.runs.results import Measure, TaskScores, read_evaluation, read_task_scores

T = TypeVar("T")
AXES = ("forgetting", "learning")
# By language, the mean accuracy over its tasks in percent, and its standard error; None where none was asked.
Accuracies = dict[str, tuple[float, float] | None]


@dataclass(frozen=True)
class Result:
    """Of the backbone or a run: what was measured of forgetting and learning (by AXES), and accuracies."""

    measures: dict[str, Measure]
    tasks: Accuracies

    @property
    def forgetting(self) -> float:
        """Bits per byte."""
        return self.measures["forgetting"].bpb

    @property
    def learning(self) -> float:
        """Bits per byte."""
        return self.measures["learning"].bpb


@dataclass(frozen=True)
class RunResult(Result):
    """Of a run: its name and its record too."""

    name: str
    record: RunRecord


# By row, a run for each seed.
Results = dict[str, list[RunResult]]

ABOUT_BPB = (
    "Bits per byte of held-out text; `change` is of the mean, against the backbone, with a 95% interval over "
    "documents, not over seeds."
)
ABOUT = "Trained weights and seconds of training are means. Where the paper has numbers, they come last."
TASKS_ABOUT = " Of tasks, the mean accuracy over those in the language, in percent, ± its standard error."


def write_table(
    grid: str,
    target: str,
    runs: list[str],
    evaluations: list[str],
    base: str,
    forgetting: str,
    learning: str,
    tasks: str | None,
    languages: list[str],
    output: str,
) -> None:
    """Write `output`.md, .csv, .svg and .png of a table or a figure of bits per byte.

    runs are the folders of the target's rows, row after row and for each row one a seed; evaluations are
    theirs, `base` is the backbone's. tasks: folder of {model}.json of multiple choice, whose mean accuracies
    in these languages are shown too. Raises StageError where the number of runs does not fit the rows.
    """
    from train.paper import plots

    def result(name: str, evaluation: str) -> Result:
        scores = read_task_scores(f"{tasks}/{name}.json") if tasks else None
        return Result(measures(evaluation, forgetting, learning), accuracies(scores, languages))

    def run_result(folder: str, evaluation: str) -> RunResult:
        name = Path(folder).name
        return RunResult(**vars(result(name, evaluation)), name=name, record=read_run(folder))

    chosen = read_yaml(Grid, grid).targets[target]
    pairs = by_row(chosen, list(zip(runs, evaluations, strict=True)))
    results = {key: [run_result(*pair) for pair in group] for key, group in pairs.items()}
    backbone = result(BACKBONE, base)
    values = {
        key: {axis: [getattr(result, axis) for result in seeds] for axis in AXES} for key, seeds in results.items()
    }
    text = heading(chosen, target, len(next(iter(results.values()))))
    text += f"{ABOUT_BPB} {ABOUT}"
    text += TASKS_ABOUT * bool(tasks) + "\n\n"
    text += markdown(chosen, results, backbone, (forgetting, learning)) + "\n"
    text += verdicts(chosen.claims, values, {key: row.method for key, row in chosen.rows.items()})
    write_text(f"{output}.md", text)
    write_text(f"{output}.csv", csv_text(chosen, results, backbone))
    points = plot_points(chosen, results, backbone)
    plots.write_chart(plots.trade_off(points, forgetting, learning, chosen.joined), output)


def by_row(target: Target, items: list[T]) -> dict[str, list[T]]:
    """Items in the order of the rows, as many a row as there are seeds. Raises StageError if they do not fit."""
    seeds, left = divmod(len(items), len(target.rows))
    if left or not seeds:
        raise StageError(f"{len(items)} runs for {len(target.rows)} rows; give each row the same number")
    return {key: items[i * seeds : (i + 1) * seeds] for i, key in enumerate(target.rows)}


def measures(path: str, forgetting: str, learning: str) -> dict[str, Measure]:
    """By AXES, what was measured on both domains. Raises StageError where one was not."""
    domains = read_evaluation(path).domains
    for domain in (forgetting, learning):
        if domain not in domains:
            raise StageError(f"{path}: {domain} was not measured; add it to evaluate.others")
    return dict(zip(AXES, (domains[forgetting], domains[learning]), strict=True))


def changes(axis: str, results: Results, backbone: Result) -> dict[str, Estimate]:
    """By row, the change of its mean over the seeds against the backbone."""
    models = {result.name: result.measures[axis] for seeds in results.values() for result in seeds}
    bpb = paired({BACKBONE: backbone.measures[axis]} | models)
    means = {key: np.mean([bpb[result.name] for result in seeds], axis=0) for key, seeds in results.items()}
    return {key: estimate(mean_1R - bpb[BACKBONE]) for key, mean_1R in means.items()}


def accuracies(scores: TaskScores | None, languages: list[str]) -> Accuracies:
    """By language, the mean of the headline accuracies of its tasks and its standard error, in percent."""
    means = {language: mean_accuracy(scores, language) for language in languages} if scores else {}
    return {
        language: (100 * mean[0], math.nan if mean[1] is None else 100 * mean[1]) if mean else None
        for language, mean in means.items()
    }


# The table ----------------------------------------------------------------------------------------


def heading(target: Target, name: str, seeds: int) -> str:
    """Title, the target's own note, and over how many seeds it goes."""
    notes = [target.note] if target.note else []
    spread = "each row's mean, and in brackets its least and its greatest" if seeds > 1 else "no spread"
    return "\n\n".join([f"# {name}: {target.title}", *notes, f"Seeds: {seeds}; {spread}."]) + "\n\n"


def markdown(target: Target, results: Results, backbone: Result, domains: tuple[str, str]) -> str:
    """A line a row, the backbone's first."""
    columns = [cell for domain in domains for cell in (domain, "change")]
    columns += [f"{language} tasks" for language in backbone.tasks]
    columns += ["trained weights", "training, s", *(f"paper: {name}" for name in target.columns)]
    lines = ["| " + table_row(columns), "|---|" + "---:|" * len(columns)]
    own = [cell for axis in AXES for cell in (f"{getattr(backbone, axis):.3f}", "")]
    lines.append(table_row(["backbone", *own, *_tasks([backbone]), "", "", *_paper(target, target.backbone)]))
    against = {axis: changes(axis, results, backbone) for axis in AXES}
    for key, row in target.rows.items():
        cells = []
        for axis in AXES:
            values = [getattr(result, axis) for result in results[key]]
            cells += [spread(values), with_ends(against[axis][key])]
        cells += _tasks(results[key])
        records = [result.record for result in results[key]]
        cells.append(f"{fmean(record.trained_weights for record in records):,.0f}")
        cells.append(f"{fmean(record.seconds for record in records):,.0f}")
        lines.append(table_row([row.label, *cells, *_paper(target, row.paper)]))
    return "\n".join(lines) + "\n"


def _paper(target: Target, numbers: list[float]) -> list[str]:
    return [f"{x:g}" if x >= 2 else f"{x:.3f}" for x in numbers] or [""] * len(target.columns)


def spread(values: list[float], digits: int = 3) -> str:
    """The mean, and of several values the least and the greatest.

    >>> spread([1.0, 2.0], 1)
    '1.5 (1.0 to 2.0)'
    """
    mean, *ends = (f"{x:.{digits}f}" for x in (fmean(values), min(values), max(values)))
    return f"{mean} ({' to '.join(ends)})" if len(values) > 1 else mean


def _tasks(results: Sequence[Result]) -> list[str]:
    """By language, accuracies over the seeds; the questions are the same for all, so the error is one run's."""
    cells = []
    for language in results[0].tasks:
        pairs = [pair for result in results if (pair := result.tasks[language])]
        means, errors = zip(*pairs, strict=True) if pairs else ((), ())
        cells.append(f"{spread(list(means), 1)} ± {fmean(errors):.1f}" if pairs else "none")
    return cells


def csv_text(target: Target, results: Results, backbone: Result) -> str:
    """A line a run; what the paper has for its row stands beside it."""
    rows: Points = [
        {"row": BACKBONE, "forgetting": backbone.forgetting, "learning": backbone.learning}
        | _task_columns(backbone.tasks)
        | _named(target.columns, target.backbone)
    ]
    for key, row in target.rows.items():
        for result in results[key]:
            record, options = result.record, result.record.options
            rows.append(
                {"row": key, "label": row.label, "method": row.method, "run": result.name, "seed": options.seed}
                | {"forgetting": result.forgetting, "learning": result.learning}
                | {name: getattr(options, name) for name in ("learning_rate", "old_rate", "fraction")}
                | {"gate": options.gate, "init": options.init, "alpha": record.alpha}
                | {"extra_parameters": record.extra_parameters, "seconds": record.seconds}
                | _task_columns(result.tasks)
                | _named(target.columns, row.paper)
            )
    return csv_lines(rows)


def _named(columns: list[str], numbers: list[float]) -> dict[str, float]:
    return {f"paper {name}": number for name, number in zip(columns, numbers, strict=False)}


def _task_columns(tasks: Accuracies) -> dict[str, float]:
    """Accuracies and their standard errors by the names of their columns in the CSV."""
    columns: dict[str, float] = {}
    for language, pair in tasks.items():
        if pair:
            columns[f"{language} tasks"], columns[f"{language} tasks stderr"] = pair
    return columns


def csv_lines(rows: Points) -> str:
    """Rows as CSV under the union of their keys, in order of appearance."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def plot_points(target: Target, results: Results, backbone: Result) -> Points:
    """Every run, the mean of every row, and the paper's points where it has them in bits per byte."""
    ours = {"source": "ours", "label": "backbone", "method": "backbone", "order": 0, "kind": "mean"}
    paper = target.columns[:2] == ["EN", "FR"]
    # Far above rows that lie close together, it would hide what sets them apart.
    points = [ours | {axis: getattr(backbone, axis) for axis in AXES}] if target.joined else []
    if paper and target.joined:
        points.append(ours | {"source": "the paper"} | dict(zip(AXES, target.backbone, strict=False)))
    texts = plot_labels(target)
    for order, (key, row) in enumerate(target.rows.items()):
        point = ours | {"label": texts[key], "method": row.method, "order": order}
        means = {axis: fmean(getattr(result, axis) for result in results[key]) for axis in AXES}
        points.append(point | means)
        if len(results[key]) > 1:
            points += [
                point | {"kind": "run"} | {axis: getattr(result, axis) for axis in AXES} for result in results[key]
            ]
        if paper and row.paper:
            points.append(point | {"source": "the paper"} | dict(zip(AXES, row.paper, strict=False)))
    return points


def plot_labels(target: Target) -> dict[str, str]:
    """The rows' labels without the name of a method that all its rows begin with: the colour says it."""
    labels = {}
    for key, row in target.rows.items():
        first, _, rest = row.label.partition(", ")
        own = [other.label for other in target.rows.values() if other.method == row.method]
        labels[key] = rest if rest and all(label.startswith(f"{first}, ") for label in own) else row.label
    return labels
