"""The plots of the paper's tables and figures, as Vega-Lite specifications, and their files."""

from __future__ import annotations

from typing import Any

import altair as alt

from pipeline.common.files import atomic, write_text
from train.report import charts
from train.report.colours import METHODS, THEMES


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
        plain = alt.Chart(alt.Data(values=own)).encode(
            x=alt.X(
                "forgetting:Q", title=f"{forgetting if source == 'ours' else 'EN'} (right: forgets)", scale=near
            ),
            y=alt.Y("learning:Q", title=f"{learning if source == 'ours' else 'FR'} (down: learns)", scale=near),
        )
        base = plain.encode(color=colour)
        # In black: in the colours of marks text would be too pale to read.
        texts = plain.transform_filter("datum.kind == 'mean'").encode(text="label:N")
        means = base.transform_filter("datum.kind == 'mean'")
        lines = [means.mark_line(strokeWidth=1).encode(order="order:Q")] if joined else []
        marks = [
            *lines,
            base.mark_point(size=22, filled=True, opacity=1).transform_filter("datum.kind == 'run'"),
            means.mark_point(size=90, filled=True, opacity=1).encode(shape=shape),
            texts.mark_text(align="left", dx=7, dy=-5, fontSize=9),
        ]
        panels.append(alt.layer(*marks).properties(width=420, height=360, title=f"{source}, bits per byte"))
    return alt.hconcat(*panels, background=THEMES["light"]["ground"])


def spectra(points: charts.ChartData) -> Any:
    """Figure 3 of the paper: singular values over the largest, a panel a layer.

    Points: label, method, layer, share (of the values that are greater), value.
    """
    colours = {point["label"]: METHODS[point["method"]][0] for point in points}
    lines = alt.Chart(alt.Data(values=points)).mark_line(strokeWidth=2)
    return (
        lines.encode(
            x=alt.X("share:Q", title="rank, over the number of values"),
            y=alt.Y("value:Q", title="singular value over the greatest"),
            **charts.dashed("label", colours),
        )
        .properties(width=220, height=160)
        .facet(facet=alt.Facet("layer:O", title="layer"), columns=4)
        .properties(background=THEMES["light"]["ground"])
    )


def write_chart(chart: Any, output: str) -> None:
    """`output`.svg and `output`.png of an Altair chart."""
    import vl_convert

    specification = chart.to_dict()
    write_text(f"{output}.svg", vl_convert.vegalite_to_svg(specification))
    with atomic(f"{output}.png") as part:
        part.write_bytes(vl_convert.vegalite_to_png(specification, scale=2))
