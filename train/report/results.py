"""The results of a workflow as plain rows: what the report's tables and charts, and results.md, show."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.markdown import table_row
from pipeline.workflow.layout import METRICS, Layout
from train.report.points import Point, Points, RunResult, named
from train.runs.record import RunRecord, read_metrics
from train.runs.results import Evaluation, TaskScore, TaskScores

# What the plots and data of the paper's targets may add to the page, before a third more as base64.
PAPER_BYTES = 1_500_000


@dataclass
class ModelResult:
    """A row of the table of results: bits per byte by domain, and the change against the backbone.

    nats: per token. best: the domains on which no other extended model is better. The backbone has no record.
    """

    name: str
    bpb: dict[str, float]
    change: dict[str, float]
    nats: dict[str, float]
    record: RunRecord | None
    best: set[str] = field(default_factory=set)


def results_table(base: Evaluation, runs: list[RunResult], forgetting: str, learning: str) -> list[ModelResult]:
    """A row a model, the backbone first."""
    rows = []
    models = [("backbone", base, None), *((run.name, run.evaluation, run.record) for run in runs)]
    for name, evaluation, record in models:
        bpb = {domain: measure.bpb for domain, measure in evaluation.domains.items()}
        change = {domain: value - base.domains[domain].bpb for domain, value in bpb.items()}
        nats = {domain: measure.nats_per_token for domain, measure in evaluation.domains.items()}
        rows.append(ModelResult(name, bpb, change, nats, record))
    for domain in (forgetting, learning):
        min(rows[1:], key=lambda row: row.bpb[domain]).best.add(domain)
    return rows


def flat_table(table: list[ModelResult]) -> Points:
    """The results as plain rows, for CSV."""
    names = ("method", "extra_parameters", "true_fraction", "alpha", "tokens", "seconds", "peak_memory_mib")
    rows = []
    for row in table:
        flat: Point = {"model": row.name}
        for domain, bpb in row.bpb.items():
            flat |= {f"{domain} bpb": bpb, f"{domain} change": row.change[domain]}
            flat[f"{domain} nats per token"] = row.nats[domain]
        if row.record:
            flat |= {name: getattr(row.record, name) for name in names}
            flat |= {name: getattr(row.record.options, name) for name in ("learning_rate", "seed")}
        rows.append(flat)
    return rows


def signed(value: float) -> str:
    """A change with its sign; what rounds to nothing is +0.000.

    >>> signed(0.0125), signed(-0.0001)
    ('+0.013', '+0.000')
    """
    return f"{round(value, 3) + 0.0:+.3f}"


def markdown_table(table: list[ModelResult]) -> str:
    """The results as a Markdown table: bits per byte, and the change against the backbone in brackets."""
    domains = list(table[0].bpb)
    lines = [
        table_row(["model", *domains, "rate", "trained weights", "training, s", "peak MiB"]),
        "|---|" + "---:|" * (len(domains) + 4),
    ]
    for row in table:
        changes = {domain: f" ({signed(change)})" if row.record else "" for domain, change in row.change.items()}
        cells = [f"{row.bpb[domain]:.3f}{changes[domain]}" for domain in domains]
        if record := row.record:
            cells += [f"{record.options.learning_rate:g}", f"{record.trained_weights:,}"]
            cells += [f"{record.seconds:.0f}", f"{record.peak_memory_mib:,}"]
        else:
            cells += [""] * 4
        lines.append(table_row([row.name, *cells]))
    return "\n".join(lines) + "\n"


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
    """`scores`: by model, of the backbone and of the runs."""
    tasks = list(dict.fromkeys(task for model in scores.values() for task in model.tasks))
    return TasksTable(
        tasks=tasks,
        scores={name: [model.tasks.get(task) for task in tasks] for name, model in scores.items()},
        methods={"backbone": None} | {run.name: run.record.method for run in runs},
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


def summary(table: list[ModelResult], forgetting: str, learning: str) -> str:
    """The result in two sentences: the first neutral run against the first of each other method."""
    by_method = {row.record.method: row for row in reversed(table) if row.record}
    neutral = by_method.get("neutral")
    if not neutral:
        return ""
    text = (
        f"Neutral residues change {forgetting} by {signed(neutral.change[forgetting])} bits per byte "
        f"and {learning} by {signed(neutral.change[learning])}."
    )
    for method in ("finetune", "adapter"):
        other = by_method.get(method)
        if other and other.change[learning] < 0:
            share = neutral.change[learning] / other.change[learning]
            text += (
                f" They keep {share:.0%} of what {method} learns"
                f" ({method}: {signed(other.change[forgetting])} and {signed(other.change[learning])})."
            )
    return text


def evaluation_points(runs: list[RunResult], domain: str) -> Points:
    return [
        named(run) | {"step": line["step"], "bpb": line["evaluation"][domain]["bpb"]}
        for run in runs
        for line in run.metrics
        if "evaluation" in line
    ]


def loss_points(runs: list[RunResult]) -> Points:
    """The training loss at about a hundred steps of each run."""
    points = []
    for run in runs:
        lines = [line for line in run.metrics if "loss" in line]
        every = max(1, len(lines) // 100)
        points += [named(run) | {"step": x["step"], "loss": x["loss"]} for x in lines[::every]]
    return points


def gate_points(runs: list[RunResult]) -> Points:
    return [
        named(run) | {"step": line["step"], "tokens": f"{kind} tokens", "gate": line[f"gate_{kind}"]}
        for run in runs
        if run.record.method == "neutral"
        for line in run.metrics
        for kind in ("old", "new")
        if line.get(f"gate_{kind}") is not None
    ]


def pretraining_points(backbone: str) -> Points:
    """The backbone's own validation curves, a line a domain; empty where it was not pretrained here."""
    if not Path(backbone, METRICS).exists():
        return []
    return [
        {"domain": domain, "step": line["step"], "bpb": measure["bpb"]}
        for line in read_metrics(backbone)
        for domain, measure in line.get("evaluation", {}).items()
    ]


def funnel_points(ledgers: list[dict[str, Any]]) -> Points:
    """Shares of what each stage kept and dropped: pages for extract, paragraphs for the others."""
    points = []
    for ledger in ledgers:
        unit = "paragraphs" if ledger["in"]["paragraphs"] else "documents"
        outcomes = {"kept": ledger["kept"], **ledger["dropped"], **ledger["failed"]}
        for order, (outcome, counts) in enumerate(outcomes.items()):
            if ledger["in"][unit]:
                points.append(
                    {
                        "stage": ledger["stage"],
                        "outcome": outcome.replace("_", " "),
                        "order": order,
                        "amount": counts[unit],
                        "unit": unit,
                        "share": counts[unit] / ledger["in"][unit],
                    }
                )
    return points


def language_points(corpus: dict[str, Any]) -> Points:
    """The 20 languages with most documents among the pages, and whether the corpus has them."""
    documents = {code: counts["documents"] for code, counts in corpus["ledgers"][0]["languages"].items()}
    most = sorted(documents, key=lambda code: (-documents[code], code))[:20]
    return [
        {
            "language": code,
            "documents": documents[code],
            "wanted": "kept" if code in corpus["languages"] else "not wanted",
        }
        for code in most
    ]


def quality_points(reports: list[dict[str, Any]]) -> Points:
    """The curve of each trained classifier, and its threshold among them; a ready-made one has no curve."""
    return [
        {"language": report["language"], "chosen": point is report["chosen"], **point}
        for report in reports
        for point in (*report["curve"], report["chosen"])
        if point["recall"]
    ]


def generations(base: Evaluation, runs: list[RunResult]) -> dict[str, list[tuple[str, str]]]:
    """By prompt, what each model wrote behind it."""
    texts = defaultdict(list)
    for name, evaluation in [("backbone", base), *((run.name, run.evaluation) for run in runs)]:
        for text in evaluation.generations:
            texts[text.prompt].append((name, text.continuation))
    return dict(texts)
