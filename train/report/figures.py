"""The report's figures: what each shows, drawn and in words, and the rows behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from train.report import charts, corpus_charts, points, results
from train.report.points import Points, RunResult
from train.runs.results import Speed


@dataclass(frozen=True)
class Figure:
    """A chart, the rows that it shows, and what it shows in words, for those who cannot see it."""

    chart: Any
    points: Points
    words: str


Draft = tuple[Callable[[Points], Any], Points, str]


def model_figures(
    runs: list[RunResult], backbone: str, forgetting: str, learning: str, speeds: list[Speed]
) -> dict[str, Figure]:
    """The figures of the model wing, by their place in the template; those without data are left out."""
    old, new = f"{forgetting}, bits per byte", f"{learning}, bits per byte"
    trade_off = points.trade_off_points(runs, forgetting, learning)
    drafts: dict[str, Draft] = {
        "trade_off": (
            lambda rows: charts.trade_off(rows, forgetting, learning),
            trade_off,
            f"Learning of {learning} against forgetting of {forgetting}, for each run during its training",
        ),
        "learning": (
            lambda rows: charts.curves(rows, "bpb", new),
            results.evaluation_points(runs, learning),
            f"{new}, over the steps of training",
        ),
        "forgetting": (
            lambda rows: charts.curves(rows, "bpb", old),
            results.evaluation_points(runs, forgetting),
            f"{old}, over the steps of training",
        ),
        "loss": (
            lambda rows: charts.curves(rows, "loss", "training loss, nats per token"),
            results.loss_points(runs),
            "Training loss over the steps",
        ),
        "gates": (charts.gates, results.gate_points(runs), "Mean gate on old and new tokens over the steps"),
        "pretraining": (
            charts.pretraining,
            results.pretraining_points(backbone),
            "Bits per byte of the backbone over the steps of its pretraining",
        ),
        "divergence": (
            lambda rows: charts.by_domain(rows, "kl", "KL(backbone || model), nats per token", ".4f", True),
            points.change_points(runs),
            "KL divergence of each model's next-token distribution from the backbone's, by domain",
        ),
        "agreement": (
            lambda rows: charts.by_domain(
                rows, "agreement", "share with the same most probable token", ".1%", False
            ),
            points.change_points(runs),
            "Share of tokens with the same most probable value as the backbone's, by domain",
        ),
        "gate_layers": (
            lambda rows: charts.heat(rows, "gate", "mean |g|", ".2f"),
            points.layer_points(runs, "gate"),
            "Mean absolute gate of each layer on each domain",
        ),
        "block_layers": (
            lambda rows: charts.heat(rows, "block", "|g A| / |FFN|", ".2f"),
            points.layer_points(runs, "block"),
            "Mean absolute output of the blocks over that of the FFN, of each layer on each domain",
        ),
        "forgetting_sites": (
            charts.sites,
            points.site_points(runs, forgetting),
            f"Change in bits per byte of {forgetting} on each of its sites, for each model",
        ),
        "learning_sites": (
            charts.sites,
            points.site_points(runs, learning),
            f"Change in bits per byte of {learning} on each of its sites, for each model",
        ),
        "training_time": (
            charts.training_time,
            points.training_points(runs),
            "Training time of each run, seconds",
        ),
        "inference_speed": (
            charts.inference_speed,
            points.speed_points(runs, speeds) if speeds else [],
            "Tokens a second of scoring and of writing, over the backbone's",
        ),
    }
    return _drawn(drafts)


def corpus_figures(corpus: dict[str, Any], quality: list[dict[str, Any]], times: Points) -> dict[str, Figure]:
    """The figures of the corpus wing and of what ran; those without data are left out."""
    stages = [ledger["stage"] for ledger in corpus["ledgers"]]
    drafts: dict[str, Draft] = {
        "funnel": (
            lambda rows: corpus_charts.funnel(rows, stages),
            results.funnel_points(corpus["ledgers"]),
            "Share of pages and paragraphs that each stage kept, and dropped for each reason",
        ),
        "languages": (corpus_charts.languages, results.language_points(corpus), "Pages found in each language"),
        "precision_recall": (
            corpus_charts.precision_recall,
            results.quality_points(quality),
            "Precision against recall of the quality classifiers on held-out text",
        ),
        "durations": (corpus_charts.durations, times, "Seconds of each stage, summed over its jobs"),
    }
    return _drawn(drafts)


def _drawn(drafts: dict[str, Draft]) -> dict[str, Figure]:
    figures = {}
    for name, (draw, rows, words) in drafts.items():
        if rows:
            shown = points.short(rows)
            figures[name] = Figure(draw(shown), shown, words)
    return figures
