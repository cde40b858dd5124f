"""The results of a workflow as plain rows: what the report's tables and charts, and results.md, show."""

from __future__ import annotations

import base64
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from pipeline.workflow.layout import BACKBONE, SOURCE, Layout
from train.evaluation.intervals import Estimate, estimate, paired_kl
from train.report.points import Point, Points
from train.report.settings import Axis, Bpb, RunResult, Setting, settings_of
from train.report.summary import Comparison
from train.report.words import is_noise
from train.runs.results import Evaluation

# What the plots and data of the paper's targets may add to the page, before a third more as base64.
PAPER_BYTES = 1_500_000


BEST, AS_GOOD = "best", "as good"


@dataclass
class ModelResult:
    """A row of the table of results: bits per byte by domain, and the change against the backbone.

    nats: per token. marks: by domain, BEST of the language's runs, or AS_GOOD, no worse beyond the noise. kl and
    agreement: by domain, how far its predictions are from the backbone's. control: the change against the control.
    The backbone and its source have no run.
    """

    name: str
    bpb: dict[str, float]
    change: dict[str, Estimate]
    nats: dict[str, float]
    run: RunResult | None = None
    marks: dict[str, str] = field(default_factory=dict)
    kl: dict[str, Estimate] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
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
        kl={domain: estimate(paired_kl({name: change})[name]) for domain, change in evaluation.change.items()},
        agreement={domain: change.agreement for domain, change in evaluation.change.items()},
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
            if kl := row.kl.get(domain):
                flat |= {f"{domain} kl": kl.value, f"{domain} kl low": kl.low, f"{domain} kl high": kl.high}
                flat |= {f"{domain} agreement": row.agreement[domain]}
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
            if (kl := each.kl_share) and domain == next(iter(each.differences)):
                row |= {"kl share": kl.value, "kl share low": kl.low, "kl share high": kl.high}
            if (part := each.control_share) and domain == next(iter(each.differences)):
                row |= {
                    "control share": part.value,
                    "control share low": part.low,
                    "control share high": part.high,
                }
            rows.append(row)
    return rows


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
