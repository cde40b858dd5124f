"""The charts of the report's corpus wing, and of what ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from train.report.charts import COLOURS, GREY, WIDTH, ChartData, in_steps


def funnel(points: ChartData, stages: Sequence[str]) -> Any:
    """What each stage kept and dropped. Points: stage, outcome, share, documents, kept."""
    reasons = list(dict.fromkeys(point["outcome"] for point in points if point["outcome"] != "kept"))
    colours = [COLOURS[1:][i % len(COLOURS[1:])] for i in range(len(reasons))]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_bar(cornerRadius=2)
        .encode(
            y=alt.Y("stage:N", title=None, sort=list(stages)),
            x=alt.X(
                "share:Q",
                title="share of what came in",
                axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1]),
                stack="zero",
            ),
            color=alt.Color(
                "outcome:N",
                title=None,
                sort=None,
                legend=alt.Legend(orient="bottom", columns=2, labelLimit=260),
                scale=alt.Scale(domain=["kept", *reasons], range=[COLOURS[0], *colours]),
            ),
            order=alt.Order("order:Q"),
            tooltip=[
                "stage:N",
                "outcome:N",
                alt.Tooltip("amount:Q", format=","),
                "unit:N",
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    return in_steps(chart, 34, points, "stage")


def languages(points: ChartData) -> Any:
    """Documents found in each language, wanted or not. Points: language, documents, wanted."""
    base = alt.Chart(alt.Data(values=points)).encode(
        y=alt.Y("language:N", title=None, sort="-x"),
        x=alt.X("documents:Q", title="pages"),
        tooltip=["language:N", alt.Tooltip("documents:Q", format=",")],
    )
    wanted = alt.Scale(domain=["kept", "not wanted"], range=[COLOURS[0], GREY])
    bars = base.mark_bar(cornerRadius=2).encode(color=alt.Color("wanted:N", title=None, scale=wanted))
    return in_steps(bars, 22, points, "language")


def precision_recall(points: ChartData) -> Any:
    """The quality classifiers on held-out text, a large point at the threshold.

    Points: language, precision, recall, kept, threshold, chosen (whether it is the threshold of the corpus).
    """
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("recall:Q", title="recall of good text", scale=alt.Scale(zero=False)),
        y=alt.Y("precision:Q", title="precision", scale=alt.Scale(zero=False)),
        color=alt.Color("language:N", title=None, scale=alt.Scale(range=list(COLOURS))),
        tooltip=[
            "language:N",
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("threshold", "precision", "recall", "kept")),
        ],
    )
    line = base.mark_line(point={"size": 16}, strokeWidth=2).encode(order="threshold:Q")
    chosen = base.mark_point(size=160, filled=True, shape="diamond").transform_filter("datum.chosen")
    return alt.layer(line, chosen).properties(width=WIDTH, height=240)


def durations(points: ChartData) -> Any:
    """Wall time of each stage, summed over its jobs. Points: stage, seconds, memory."""
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_bar(cornerRadius=2, color=COLOURS[3])
        .encode(
            y=alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
            x=alt.X("seconds:Q", title="seconds, summed over jobs"),
            tooltip=[
                "stage:N",
                "jobs:Q",
                alt.Tooltip("seconds:Q", format=".1f"),
                alt.Tooltip("memory:Q", format=",.0f", title="peak MiB"),
            ],
        )
    )
    return in_steps(chart, 20, points, "stage")
