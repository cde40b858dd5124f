"""The plots of the paper's tables and figures, as Vega-Lite specifications, and their files."""

from __future__ import annotations

from typing import Any

import altair as alt

from pipeline.common.files import atomic, write_text
from train.report import charts


def trade_off(points: charts.ChartData, forgetting: str, learning: str, joined: bool) -> Any:
    """A table of the paper as a plot: learning against forgetting, ours and the paper's side by side.

    Points: source, label, method, order (of the row), kind (a row's mean, or a single run of it), forgetting,
    learning. `joined`: the means of a method are joined in the order of the rows.
    """
    colour, shape = charts.by_method(points)
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


def spectra(points: charts.ChartData) -> Any:
    """Figure 3 of the paper: singular values over the largest, a panel a layer.

    Points: label, layer, share (of the values that are greater), value.
    """
    labels = list(dict.fromkeys(point["label"] for point in points))
    colours = alt.Scale(domain=labels, range=list(charts.COLOURS[: len(labels)]))
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


def write_chart(chart: Any, output: str) -> None:
    """`output`.svg and `output`.png of an Altair chart."""
    import vl_convert

    specification = chart.to_dict()
    write_text(f"{output}.svg", vl_convert.vegalite_to_svg(specification))
    with atomic(f"{output}.png") as part:
        part.write_bytes(vl_convert.vegalite_to_png(specification, scale=2))
