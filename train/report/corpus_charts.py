"""The charts of the report's corpus wing, and of what ran."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import altair as alt

from train.report.charts import WIDTH, ChartData, clock, in_steps
from train.report.colours import OUTCOMES

SCORE_TICKS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


def funnel(points: ChartData, stages: Sequence[str]) -> Any:
    """What each stage kept and dropped.

    Points: stage, outcome (kept or a reason), kind (kept, dropped, failed), order, share, amount, unit.
    """
    bars = alt.Chart(alt.Data(values=points)).mark_bar(cornerRadius=2)
    chart = bars.encode(
        y=alt.Y("stage:N", title=None, sort=list(stages)),
        x=alt.X(
            "share:Q",
            title="share of what came in",
            axis=alt.Axis(format="%", tickCount=5),
            scale=alt.Scale(domain=[0, 1]),
            stack="zero",
        ),
        color=_by_outcome("kind", points),
        order=alt.Order("order:Q"),
        tooltip=[
            "stage:N",
            "outcome:N",
            alt.Tooltip("amount:Q", format=","),
            "unit:N",
            alt.Tooltip("share:Q", format=".1%"),
        ],
    )
    return in_steps(chart, 34, points, "stage")


def _by_outcome(name: str, points: ChartData) -> Any:
    """Colour by what became of the documents."""
    kinds = [kind for kind in OUTCOMES if any(point[name] == kind for point in points)]
    scale = alt.Scale(domain=kinds, range=[OUTCOMES[kind] for kind in kinds])
    return alt.Color(f"{name}:N", title=None, scale=scale, legend=alt.Legend())


def languages(points: ChartData) -> Any:
    """Documents found in each language, wanted or not. Points: language, documents, outcome (kept or dropped)."""
    base = alt.Chart(alt.Data(values=points)).encode(
        y=alt.Y("language:N", title=None, sort="-x"),
        x=alt.X("documents:Q", title="pages", axis=alt.Axis(tickCount=5)),
        tooltip=["language:N", alt.Tooltip("documents:Q", format=",")],
    )
    bars = base.mark_bar(cornerRadius=2).encode(color=_by_outcome("outcome", points))
    return in_steps(bars, 22, points, "language")


def quality_scores(points: ChartData) -> Any:
    """Scores of a language's held-out documents: random ones as bars, good ones as a line.

    Points: low and high (ends of a bin, log-odds), random and good (shares of their documents), outcome (what
    becomes of them: kept or dropped), which changes at the threshold.
    """
    kept = [point["low"] for point in points if point["outcome"] == "kept"]
    threshold = kept[0] if kept else points[-1]["high"]
    label = "format(1 / (1 + exp(-datum.value)), '.3~p')"
    ticks = [log(p / (1 - p)) for p in SCORE_TICKS]
    axis = alt.Axis(values=ticks, labelExpr=label, labelOverlap="greedy", labelSeparation=6, grid=False)
    scale = alt.Scale(domain=[points[0]["low"], points[-1]["high"]], nice=False)
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("low:Q", title="score: how probably it is good", scale=scale, axis=axis),
        tooltip=[alt.Tooltip(f"{name}:Q", format=".1%") for name in ("random", "good")],
    )
    bars = base.mark_bar().encode(
        x2="high:Q",
        y=alt.Y("random:Q", title="share of documents", axis=alt.Axis(format="%", tickCount=4)),
        y2=alt.datum(0),
        color=_by_outcome("outcome", points),
    )
    good = base.mark_line(interpolate="step-after", strokeWidth=2).encode(y="good:Q")
    cut = alt.Chart(alt.Data(values=[{"at": threshold}])).mark_rule(strokeDash=[3, 3], strokeWidth=2)
    return alt.layer(bars, good, cut.encode(x="at:Q")).properties(width=WIDTH, height=200)


def durations(points: ChartData) -> Any:
    """Wall time of each stage, summed over its jobs. Points: stage, seconds, memory."""
    seconds, unit = clock(points)
    bars = alt.Chart(alt.Data(values=points)).mark_bar(cornerRadius=2)
    chart = bars.transform_calculate(time=f"datum.seconds / {seconds}").encode(
        y=alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        x=alt.X("time:Q", title=f"{unit}, summed over jobs", axis=alt.Axis(tickCount=6)),
        tooltip=[
            "stage:N",
            "jobs:Q",
            alt.Tooltip("seconds:Q", format=".1f"),
            alt.Tooltip("memory:Q", format=",.0f", title="peak MiB"),
        ],
    )
    return in_steps(chart, 20, points, "stage")
