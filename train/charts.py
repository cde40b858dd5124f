"""The report's charts, as Vega-Lite specifications: small data in, one chart out.

A method has the same colour and shape everywhere; the colours are Okabe and Ito's, which people
with any colour vision tell apart on light and dark ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

METHODS = {
    "backbone": ("#8a8a8a", "diamond"),
    "finetune": ("#D55E00", "square"),
    "lora": ("#E69F00", "triangle-down"),
    "adapter": ("#0072B2", "triangle-up"),
    "neutral": ("#009E73", "circle"),
}
GREY = "#8a8a8a"
COLOURS = (
    *("#009E73", "#E69F00", "#D55E00", "#0072B2", "#CC79A7", "#56B4E9", "#F0E442", GREY),
    *("#5D4A9C", "#7A5C3E", "#B3367A", "#2F6F4F"),  # beyond the eight of Okabe and Ito
)
WIDTH: Any = "container"

Rows = list[dict[str, Any]]


def _by_method(points: Rows) -> tuple[Any, Any]:
    """Colour and shape by method, of those methods that occur."""
    found = [name for name in METHODS if any(point["method"] == name for point in points)]
    colours, shapes = zip(*(METHODS[name] for name in found), strict=True)
    return (
        alt.Color("method:N", title=None, scale=alt.Scale(domain=found, range=list(colours))),
        alt.Shape("method:N", title=None, scale=alt.Scale(domain=found, range=list(shapes))),
    )


def trade_off(points: Rows, forgetting: str, learning: str) -> Any:
    """Figure 1 of the paper: learning against forgetting, each run's way through its training.

    Points: model, method, rate, step, forgetting, learning (both in bits per byte), final (whether it is the
    run's end). Ends of one method at several rates are joined by a line.
    """
    colour, shape = _by_method(points)
    pick = alt.selection_point(fields=["method"], bind="legend")
    number, near = ".4f", alt.Scale(zero=False, padding=45)
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("forgetting:Q", title=f"{forgetting}, bits per byte (right: forgets)", scale=near),
        y=alt.Y("learning:Q", title=f"{learning}, bits per byte (down: learns)", scale=near),
        color=colour,
        opacity=alt.condition(pick, alt.value(1), alt.value(0.12)),
        tooltip=["model:N", "rate:Q", "step:Q", alt.Tooltip("forgetting:Q", format=number),
                 alt.Tooltip("learning:Q", format=number)],
    )  # fmt: skip
    way = base.mark_line(strokeWidth=1.2, strokeDash=[4, 3]).encode(detail="model:N", order="step:Q")
    steps = base.mark_point(size=16, filled=True).transform_filter("!datum.final")
    rates = base.mark_line(strokeWidth=2.5).encode(order="rate:Q").transform_filter("datum.final")
    ends = base.mark_point(size=160, filled=True).encode(shape=shape).transform_filter("datum.final")
    names = base.mark_text(align="left", dx=10, dy=-6, fontSize=12).encode(text="model:N")
    names = names.transform_filter("datum.final")
    return alt.layer(way, steps, rates, ends, names).add_params(pick).properties(width=WIDTH, height=380)


def paper_trade_off(points: Rows, forgetting: str, learning: str, joined: bool) -> Any:
    """A table of the paper as a plot: learning against forgetting, ours and the paper's side by side.

    Points: source, label, method, order (of the row), kind (a row's mean, or a single run of it), forgetting,
    learning. `joined`: the means of a method are joined in the order of the rows.
    """
    colour, shape = _by_method(points)
    panels = []
    for source in dict.fromkeys(point["source"] for point in points):
        own = [point for point in points if point["source"] == source]
        near = alt.Scale(zero=False, padding=30)
        base = alt.Chart(alt.Data(values=own)).encode(
            x=alt.X(
                "forgetting:Q", title=f"{forgetting if source == 'ours' else 'EN'} (right: forgets)", scale=near
            ),
            y=alt.Y("learning:Q", title=f"{learning if source == 'ours' else 'FR'} (down: learns)", scale=near),
            color=colour,
        )
        means = base.transform_filter("datum.kind == 'mean'")
        lines = [means.mark_line(strokeWidth=1.5, opacity=0.5).encode(order="order:Q")] if joined else []
        marks = [
            *lines,
            base.mark_point(size=22, filled=True, opacity=0.6).transform_filter("datum.kind == 'run'"),
            means.mark_point(size=90, filled=True, opacity=1).encode(shape=shape),
            means.mark_text(align="left", dx=7, dy=-5, fontSize=9).encode(text="label:N"),
        ]
        panels.append(alt.layer(*marks).properties(width=420, height=360, title=f"{source}, bits per byte"))
    return alt.hconcat(*panels, background="white")


def spectra(points: Rows) -> Any:
    """Figure 3 of the paper: singular values over the largest, a panel a layer.

    Points: label, layer, share (of the values that are greater), value.
    """
    labels = list(dict.fromkeys(point["label"] for point in points))
    colours = alt.Scale(domain=labels, range=list(COLOURS[: len(labels)]))
    lines = alt.Chart(alt.Data(values=points)).mark_line(strokeWidth=2)
    return (
        lines.encode(
            x=alt.X("share:Q", title="rank, over the number of values"),
            y=alt.Y("value:Q", title="singular value over the greatest"),
            color=alt.Color("label:N", title=None, scale=colours),
        )
        .properties(width=220, height=160)
        .facet(facet=alt.Facet("layer:O", title="layer"), columns=4)
        .properties(background="white")
    )


def curves(points: Rows, value: str, title: str) -> Any:
    """One measure over the steps of training, a line a run. Points: model, method, step and the value."""
    colour, _ = _by_method(points)
    pick = alt.selection_point(fields=["method"], bind="legend")
    chart = _lines(points, value, title, ["model:N"]).encode(
        color=colour, detail="model:N", opacity=alt.condition(pick, alt.value(1), alt.value(0.12))
    )
    return chart.add_params(pick).properties(width=WIDTH, height=220)


def pretraining(points: Rows) -> Any:
    """The backbone's own curves, a line a domain. Points: domain, step, bpb."""
    colour = alt.Color("domain:N", title=None, scale=alt.Scale(range=list(COLOURS)))
    lines = _lines(points, "bpb", "bits per byte", ["domain:N"]).encode(color=colour)
    return lines.properties(width=WIDTH, height=220)


def _lines(points: Rows, value: str, title: str, names: list[str]) -> Any:
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point={"size": 20}, strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y(f"{value}:Q", title=title, scale=alt.Scale(zero=False)),
            tooltip=[*names, "step:Q", alt.Tooltip(f"{value}:Q", format=".4f")],
        )
    )


def gates(points: Rows) -> Any:
    """Mean gate on old and new tokens over the steps. Points: model, step, tokens, gate."""
    kinds = alt.Scale(domain=["new tokens", "old tokens"], range=[COLOURS[0], GREY])
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("gate:Q", title="mean gate"),
            color=alt.Color("tokens:N", title=None, scale=kinds),
            detail="model:N",
            tooltip=["model:N", "tokens:N", "step:Q", alt.Tooltip("gate:Q", format=".3f")],
        )
        .properties(width=WIDTH, height=220)
    )


def funnel(points: Rows, stages: Sequence[str]) -> alt.Chart:
    """What each stage kept and dropped. Points: stage, outcome, share, documents, kept."""
    return (
        alt.Chart(alt.Data(values=points))
        .mark_bar(cornerRadius=2)
        .encode(
            y=alt.Y("stage:N", title=None, sort=list(stages)),
            x=alt.X("share:Q", title="share of what came in", axis=alt.Axis(format="%"), stack="zero"),
            color=alt.Color(
                "outcome:N",
                title=None,
                sort=None,
                legend=alt.Legend(orient="bottom", columns=2, labelLimit=260),
                scale=alt.Scale(
                    domain=list(dict.fromkeys(p["outcome"] for p in points)),
                    range=list(COLOURS),
                ),
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
        .properties(width=WIDTH, height={"step": 34})
    )


def languages(points: Rows) -> Any:
    """Documents found in each language, wanted or not. Points: language, documents, wanted."""
    base = alt.Chart(alt.Data(values=points)).encode(
        y=alt.Y("language:N", title=None, sort="-x"),
        x=alt.X("documents:Q", title="pages"),
        tooltip=["language:N", alt.Tooltip("documents:Q", format=",")],
    )
    wanted = alt.Scale(domain=["kept", "not wanted"], range=[COLOURS[0], GREY])
    bars = base.mark_bar(cornerRadius=2).encode(color=alt.Color("wanted:N", title=None, scale=wanted))
    return bars.properties(width=WIDTH, height={"step": 22})


def precision_recall(points: Rows) -> Any:
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


def durations(points: Rows) -> alt.Chart:
    """Wall time of each stage, summed over its jobs. Points: stage, seconds, memory."""
    return (
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
        .properties(width=WIDTH, height={"step": 20})
    )


def for_print(chart: Any) -> dict[str, Any]:
    """A chart's specification at a fixed width on white, for a picture."""
    specification: dict[str, Any] = chart.properties(width=620, background="white").to_dict()
    return specification
