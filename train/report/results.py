"""The results of a workflow as plain rows: what the report's tables and charts, and results.md, show."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from pipeline.common.markdown import escaped, table_row
from pipeline.workflow.layout import BACKBONE, SOURCE, Layout
from train.evaluation.intervals import Estimate, estimate
from train.report.points import Point, Points
from train.report.settings import Axis, Bpb, RunResult, Setting, settings_of
from train.report.summary import Comparison
from train.report.words import NOISE, amount, ends, is_noise, share, signed, with_ends
from train.runs.results import Evaluation, TaskScore, TaskScores

# What the plots and data of the paper's targets may add to the page, before a third more as base64.
PAPER_BYTES = 1_500_000


BEST, AS_GOOD = "best", "as good"


@dataclass
class ModelResult:
    """A row of the table of results: bits per byte by domain, and the change against the backbone.

    nats: per token. marks: by domain, BEST of the language's runs, or AS_GOOD, no worse beyond the noise. control:
    the change against the control. The backbone and its source have no run.
    """

    name: str
    bpb: dict[str, float]
    change: dict[str, Estimate]
    nats: dict[str, float]
    run: RunResult | None = None
    marks: dict[str, str] = field(default_factory=dict)
    control: dict[str, Estimate] = field(default_factory=dict)


def results_table(
    base: Evaluation,
    runs: list[RunResult],
    axes: list[Axis],
    forgetting: str,
    bpb: Bpb,
    source: Evaluation | None = None,
    control: str | None = None,
) -> list[ModelResult]:
    """A row a model, the backbone first, or the source that was settled."""
    rows = [_row(SOURCE, source, bpb)] if source else []
    rows += [_row(BACKBONE, base, bpb), *(_row(run.name, run.evaluation, bpb, run) for run in runs)]
    for row in rows:
        if control and row.run and row.name != control:
            row.control = {domain: estimate(models[row.name] - models[control]) for domain, models in bpb.items()}
    by_name = {row.name: row for row in rows}
    for axis in axes:
        for domain in (forgetting, axis.learning):
            for name, mark in _marks([run.name for run in axis.runs], bpb[domain]).items():
                by_name[name].marks[domain] = mark
    return rows


def _row(name: str, evaluation: Evaluation, bpb: Bpb, run: RunResult | None = None) -> ModelResult:
    return ModelResult(
        name,
        {domain: evaluation.domains[domain].bpb for domain in bpb},
        {domain: estimate(models[name] - models[BACKBONE]) for domain, models in bpb.items()},
        {domain: evaluation.domains[domain].nats_per_token for domain in bpb},
        run,
    )


def _marks(names: list[str], models: dict[str, np.ndarray]) -> dict[str, str]:
    """Of several runs the best on a domain, and those whose difference from it is within the noise."""
    best = min(names, key=lambda name: float(models[name][0]))
    marks = {name: AS_GOOD for name in names if is_noise(estimate(models[name] - models[best]))}
    return marks | {best: BEST} if len(names) > 1 else {}


@dataclass(frozen=True)
class Spread:
    """Changes of a setting of several seeds by domain: of their mean, and of the least and the greatest seed."""

    setting: Setting
    mean: dict[str, Estimate]
    seeds: dict[str, tuple[float, float]]


def spreads(axes: list[Axis], bpb: Bpb) -> list[Spread]:
    """Of the settings with several seeds."""
    found = []
    for setting in (setting for axis in axes for setting in settings_of(axis.runs) if len(setting.runs) > 1):
        mean, seeds = {}, {}
        for domain, models in bpb.items():
            mean[domain] = estimate(setting.change(models))
            changes = [float(models[run.name][0] - models[BACKBONE][0]) for run in setting.runs]
            seeds[domain] = min(changes), max(changes)
        found.append(Spread(setting, mean, seeds))
    return found


def flat_table(table: list[ModelResult]) -> Points:
    """The results as plain rows, for CSV."""
    names = ("method", "extra_parameters", "true_fraction", "alpha", "tokens", "seconds", "peak_memory_mib")
    rows = []
    for row in table:
        flat: Point = {"model": row.name}
        for domain, bpb in row.bpb.items():
            change = row.change[domain]
            flat |= {f"{domain} bpb": bpb, f"{domain} change": change.value}
            flat |= {f"{domain} change low": change.low, f"{domain} change high": change.high}
            flat |= {f"{domain} nats per token": row.nats[domain], f"{domain} mark": row.marks.get(domain, "")}
            if against := row.control.get(domain):
                flat |= {f"{domain} against control": against.value}
                flat |= {
                    f"{domain} against control low": against.low,
                    f"{domain} against control high": against.high,
                }
        if row.run:
            flat |= {name: getattr(row.run.record, name) for name in names}
            flat |= {"added_share": row.run.added_share, "base": row.run.base}
            flat |= {name: getattr(row.run.record.options, name) for name in ("learning_rate", "seed")}
        rows.append(flat)
    return rows


def flat_comparisons(compared: list[Comparison]) -> Points:
    """Neutral residues against the others as plain rows, for CSV."""
    rows = []
    for each in compared:
        for domain, difference in each.differences.items():
            row: Point = {"against": each.other.label, "method": each.other.method, "domain": domain}
            row |= {"difference": difference.value, "low": difference.low, "high": difference.high}
            if share := each.shares.get(domain):
                row |= {"share": share.value, "share low": share.low, "share high": share.high}
            rows.append(row)
    return rows


# results.md ---------------------------------------------------------------------------------------


def markdown_results(
    sentences: list[str], table: list[ModelResult], compared: list[list[Comparison]], seeds: list[Spread]
) -> str:
    """`results.md`: the table, neutral residues against the others by language, seeds, and all in sentences."""
    parts = [markdown_table(table)]
    parts += [markdown_control(table)] if any(row.control for row in table) else []
    parts += map(markdown_comparisons, compared)
    parts += [markdown_spreads(seeds)] if seeds else []
    return "\n".join([*parts, *(f"{escaped(sentence)}\n" for sentence in sentences)])


def markdown_table(table: list[ModelResult]) -> str:
    """The results as a Markdown table: bits per byte, and the change against the backbone in brackets."""
    domains = list(table[0].bpb)
    heads = ["model", *domains, "rate", "trained weights", "added", "training, s", "peak MiB"]
    lines = [_head(heads)]
    for row in table:
        cells = [_cell(row, domain) for domain in domains]
        if row.run:
            record, added = row.run.record, f"{row.run.record.true_fraction:.1%}"
            added += f", {row.run.added_share:.1%} in all" if row.run.bases else ""
            cells += [f"{record.options.learning_rate:g}", f"{record.trained_weights:,}", added]
            cells += [f"{record.seconds:.0f}", f"{record.peak_memory_mib:,}"]
        lines.append(table_row([row.name, *cells, *[""] * (len(heads) - 1 - len(cells))]))
    return "\n".join(lines) + "\n"


def _cell(row: ModelResult, domain: str) -> str:
    if not row.run:
        return f"{row.bpb[domain]:.3f}"
    change = row.change[domain]
    words = [words for words in (amount(change), ends(change)) if words]
    words += [NOISE] if is_noise(change) else []
    words += [row.marks[domain]] if domain in row.marks else []
    return f"{row.bpb[domain]:.3f} ({', '.join(words)})"


def markdown_control(table: list[ModelResult]) -> str:
    """The changes against the control, in bits per byte."""
    rows = [row for row in table if row.control]
    lines = [_head(["against the control", *rows[0].control])]
    lines += [table_row([row.name, *map(with_ends, row.control.values())]) for row in rows]
    return "\n".join(lines) + "\n"


def markdown_comparisons(compared: list[Comparison]) -> str:
    """Neutral residues less each other setting in bits per byte, and their share of its change."""
    domains = list(compared[0].differences)
    columns = [f"{domain}{what}" for domain in domains for what in ("", ", share")]
    lines = [_head(["difference", *columns])]
    for each in compared:
        cells = []
        for domain in domains:
            of = each.shares.get(domain)
            cells += [with_ends(each.differences[domain]), share(of) if of else ""]
        lines.append(table_row([f"neutral against {each.other.label}", *cells]))
    return "\n".join(lines) + "\n"


def markdown_spreads(seeds: list[Spread]) -> str:
    """Changes of the mean over the seeds, and of the least and the greatest."""
    domains = list(seeds[0].mean)
    lines = [_head(["mean over seeds", "seeds", *domains])]
    for each in seeds:
        both = {domain: " to ".join(map(signed, each.seeds[domain])) for domain in domains}
        cells = [f"{with_ends(each.mean[domain])}; seeds {both[domain]}" for domain in domains]
        lines.append(table_row([each.setting.label, len(each.setting.runs), *cells]))
    return "\n".join(lines) + "\n"


def _head(columns: list[str]) -> str:
    return f"{table_row(columns)}\n|---|" + "---:|" * (len(columns) - 1)


@dataclass(frozen=True)
class TasksTable:
    """Accuracies on multiple-choice tasks: by model the score of each task, or None where it was not asked.

    methods: of the models, None for the backbone. flat: all accuracies as plain rows. skipped: why a task was
    left out.
    """

    tasks: list[str]
    scores: dict[str, list[TaskScore | None]]
    methods: dict[str, str | None]
    flat: Points
    skipped: dict[str, str]


def tasks_table(scores: dict[str, TaskScores], runs: list[RunResult]) -> TasksTable:
    """`scores`: by model, of the backbone, of its source if it was settled, and of the runs."""
    tasks = list(dict.fromkeys(task for model in scores.values() for task in model.tasks))
    return TasksTable(
        tasks=tasks,
        scores={name: [model.tasks.get(task) for task in tasks] for name, model in scores.items()},
        methods={SOURCE: None, BACKBONE: None} | {run.name: run.record.method for run in runs},
        flat=[
            {"model": name, "task": task, "count": score.count, "metric": metric, "accuracy": accuracy}
            | {"stderr": score.stderr[metric], "headline": metric == score.metric}
            for name, model in scores.items()
            for task, score in model.tasks.items()
            for metric, accuracy in score.accuracy.items()
        ],
        skipped={task: why for model in scores.values() for task, why in model.skipped.items()},
    )


def paper_tables(out: Layout) -> list[dict[str, str]]:
    """The paper's tables and figures, if their targets were made: `title`, `html` of the Markdown, and
    as `data:` URIs `image` and `csv`.

    Files are left out beyond PAPER_BYTES in all, so that the page stays small.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    entries, room = [], PAPER_BYTES
    for path in out.files(f"{out.paper('*')}.md"):
        title, _, text = path.read_text(encoding="utf-8").partition("\n")
        entry = {"name": path.stem, "title": title.lstrip("# "), "html": markdown.render(text)}
        for name, suffix, kind in (("image", ".png", "image/png"), ("csv", ".csv", "text/csv")):
            file = path.with_suffix(suffix)
            if file.exists() and file.stat().st_size <= room:
                room -= file.stat().st_size
                entry[name] = f"data:{kind};base64," + base64.b64encode(file.read_bytes()).decode()
        entries.append(entry)
    return entries


def generations(
    base: Evaluation, runs: list[RunResult], source: Evaluation | None = None
) -> dict[str, list[tuple[str, str]]]:
    """By prompt, what each model wrote behind it."""
    texts = defaultdict(list)
    settled = [(SOURCE, source)] if source else []
    for name, evaluation in [*settled, (BACKBONE, base), *((run.name, run.evaluation) for run in runs)]:
        for text in evaluation.generations:
            texts[text.prompt].append((name, text.continuation))
    return dict(texts)
