"""The report's figures: what each shows, drawn and in words, and the rows behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.corpus.order import UNFILTERED
from train.report import charts, corpus_charts, corpus_points, points, trade_off
from train.report.colours import text_colours
from train.report.points import Points
from train.report.settings import Axis, Bpb, RunResult
from train.report.words import signed
from train.runs.results import Speed


@dataclass(frozen=True)
class Figure:
    """A chart, the rows that it shows, and what it shows in words, for those who cannot see it."""

    chart: Any
    points: Points
    words: str


Draft = tuple[Callable[[Points], Any], Points, str]


def model_figures(
    runs: list[RunResult],
    backbone: str,
    axes: list[Axis],
    forgetting: str,
    bpb: Bpb,
    speeds: list[Speed],
    language_of: Mapping[str, str],
    control: str | None = None,
) -> dict[str, Figure]:
    """The figures of the model wing, by their place in the template; those without data are left out.

    language_of: the languages of domains; a domain that has none there has a colour of its own.
    """
    pretrained = points.pretraining_points(backbone)
    domains = dict.fromkeys([*bpb, *(point["domain"] for point in pretrained)])
    told = (language for run in runs for language in [*run.record.languages.old, run.record.languages.new])
    colours = text_colours(told, {domain: language_of.get(domain, domain) for domain in domains})
    drafts: dict[str, Draft] = {}
    for number, axis in enumerate(axes, 1):
        of_language = _language_figures(axis, runs, forgetting, bpb, control)
        drafts |= {name if number == 1 else f"{name}_{number}": draft for name, draft in of_language.items()}
    drafts |= {
        curve_name(domain, bpb): _curve(
            domain, next((axis.runs for axis in axes if axis.learning == domain), runs)
        )
        for domain in bpb
    }
    drafts |= {
        "loss": (
            lambda rows: charts.curves(rows, "loss", "training loss, nats per token", dots=False),
            points.loss_points(runs),
            "Training loss over the tokens of training",
        ),
        "gates": (
            lambda rows: charts.gates(rows, colours.languages),
            points.gate_points(runs),
            "Mean gate on old and new tokens, over those of training",
        ),
        "pretraining": (
            lambda rows: charts.pretraining(rows, colours.domains),
            pretrained,
            "Bits per byte of the backbone over the tokens of its own training",
        ),
        "divergence": (
            lambda rows: charts.by_domain(rows, "kl", "KL divergence, nats a token", ".4f", True, colours.domains),
            points.change_points(runs),
            "KL divergence of each model's next-token distribution from the backbone's, by domain",
        ),
        "agreement": (
            lambda rows: charts.by_domain(
                rows, "agreement", "share of the same tokens", ".1%", False, colours.domains
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
        "training_time": (
            charts.training_time,
            points.training_points(runs),
            "Training time of each run",
        ),
        "inference_speed": (
            lambda rows: charts.inference_speed(
                rows,
                {
                    point["kind"]: colours.domains[forgetting if "old" in point["kind"] else axes[0].learning]
                    for point in rows
                },
            ),
            points.speed_points(runs, speeds) if len(speeds) == len(runs) else [],
            "Tokens a second of scoring and of writing old and new text, over the backbone's",
        ),
    }
    return _drawn(drafts)


def curve_name(domain: str, domains: Iterable[str]) -> str:
    """The name of a domain's curves, which may have no more than word characters.

    >>> curve_name("en-held", ["fr", "en-held"])
    'curve_2'
    """
    return f"curve_{list(domains).index(domain) + 1}"


def _curve(domain: str, runs: list[RunResult]) -> Draft:
    title = f"{domain}, bits per byte"
    return (
        lambda rows: charts.curves(rows, "bpb", title),
        points.evaluation_points(runs, domain),
        f"{title}, over the tokens of training",
    )


def _language_figures(
    axis: Axis, runs: list[RunResult], forgetting: str, bpb: Bpb, control: str | None
) -> dict[str, Draft]:
    """The figures of a language, by their place in the template; those of a second one have a number too."""
    learning = axis.learning
    bases = [run for run in runs if run.name in {own.base for own in axis.runs} and run not in axis.runs]
    beside = {"base": bases, "control": [run for run in runs if run.name == control]}
    changes = points.trade_off_points(axis, beside, forgetting, bpb)
    ends = [
        f"{point['label']} {signed(point['forgetting'])} and {signed(point['learning'])}"
        for point in changes
        if point["kind"] == "mean"
    ]
    return {
        "trade_off": (
            lambda rows: trade_off.trade_off(rows, forgetting, learning),
            changes,
            f"Changes of {forgetting} and of {learning} against the backbone, bits per byte: {'; '.join(ends)}",
        ),
        "learning_sites": (
            charts.sites,
            points.site_points(axis.runs, learning),
            f"Change in bits per byte of {learning} on each of its sites, for each model",
        ),
    }


def corpus_figures(corpus: dict[str, Any], quality: list[dict[str, Any]], times: Points) -> dict[str, Figure]:
    """The figures of the corpus wing and of what ran; those without data are left out."""
    ledgers = [ledger for ledger in corpus["ledgers"] if ledger["stage"] != UNFILTERED]
    stages = [ledger["stage"] for ledger in ledgers]
    drafts: dict[str, Draft] = {
        "funnel": (
            lambda rows: corpus_charts.funnel(rows, stages),
            corpus_points.funnel_points(ledgers),
            "Share of pages and paragraphs that each stage kept, and dropped for each reason",
        ),
        "languages": (
            corpus_charts.languages,
            corpus_points.language_points(corpus),
            "Pages found in each language",
        ),
        "durations": (corpus_charts.durations, times, "Time of each stage, summed over its jobs"),
    }
    for number, report in enumerate(quality, 1):
        drafts[f"quality_{number}"] = (
            corpus_charts.quality_scores,
            corpus_points.score_points(report),
            f"Scores of random and of good held-out documents of {report['language']}, and the threshold",
        )
    return _drawn(drafts)


def _drawn(drafts: dict[str, Draft]) -> dict[str, Figure]:
    figures = {}
    for name, (draw, rows, words) in drafts.items():
        if rows:
            shown = points.short(rows)
            figures[name] = Figure(draw(shown), shown, words)
    return figures
