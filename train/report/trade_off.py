"""Figure 1 of the paper, the chart of learning against forgetting, whose points have labels beside them."""

from __future__ import annotations

from typing import Any

import altair as alt

from train.report.charts import WIDTH, ChartData, by_method, method_pick, picked
from train.report.labels import chosen, places

HEIGHT = 380


def trade_off(points: ChartData, forgetting: str, learning: str) -> Any:
    """Learning against forgetting, both as changes against the backbone.

    Points: train/report/points.py, trade_off_points(). Large points are the means of a setting over its seeds,
    with their 95% intervals; several rates of a setting are joined by a line. Small points are single runs.
    """
    colour, shape = by_method(points)
    pick = method_pick(legend=True)
    x_domain, y_domain = (_wide_enough(points, name) for name in ("forgetting", "learning"))
    x_title = [f"{forgetting}, change in bits per byte", "(right: forgets)"]
    y_title = [f"{learning}, change in bits per byte", "(down: learns)"]
    fields = ("forgetting", "forgetting_low", "forgetting_high", "learning", "learning_low", "learning_high")
    numbers = [alt.Tooltip(f"{name}:Q", format="+.4f") for name in fields]

    def x(name: str) -> Any:
        axis = alt.Axis(tickCount=6)
        return alt.X(f"{name}:Q", title=x_title, scale=alt.Scale(domain=x_domain, nice=False), axis=axis)

    def y(name: str) -> Any:
        axis = alt.Axis(tickCount=6)
        return alt.Y(f"{name}:Q", title=y_title, scale=alt.Scale(domain=y_domain, nice=False), axis=axis)

    # Without the colours of marks, in which text would be too pale to read.
    plain = alt.Chart(alt.Data(values=_with_places(points, x_domain, y_domain))).encode(
        x=x("forgetting"), y=y("learning"), opacity=picked(pick)
    )
    base = plain.encode(color=colour)
    means = base.transform_filter("datum.kind == 'mean'")
    known = means.transform_filter("isValid(datum.forgetting_low)")
    across = known.encode(x=x("forgetting_low"), x2="forgetting_high:Q")
    along = known.encode(y=y("learning_low"), y2="learning_high:Q")
    seeds = base.transform_filter("datum.kind == 'run'").mark_point(size=22, filled=True)
    offsets = {name: alt.expr(chosen(name)) for name in ("dx", "dy", "line_dx", "line_dy")}
    lines = means.mark_rule(strokeWidth=0.8, x2Offset=offsets["line_dx"], y2Offset=offsets["line_dy"])
    return (
        alt.layer(
            means.mark_line(strokeWidth=2.5).encode(order="rate:Q", detail="family:N"),
            across.mark_rule(strokeWidth=1.6),
            along.mark_rule(strokeWidth=1.6),
            lines.encode(x2="forgetting:Q", y2="learning:Q"),
            seeds.encode(tooltip=["model:N", "rate:Q", "seed:N", *numbers]),
            means.mark_point(size=110, filled=True).encode(
                shape=shape, tooltip=["label:N", "rate:Q", "seeds:Q", *numbers]
            ),
            plain.transform_filter("datum.kind == 'mean'")
            .mark_text(align="left", baseline="middle", dx=offsets["dx"], dy=offsets["dy"], fontSize=12)
            .encode(text="label:N"),
        )
        .add_params(pick)
        .properties(width=WIDTH, height=HEIGHT)
    )


def _wide_enough(points: ChartData, name: str) -> list[float]:
    """Both ends of an axis that has room for all values, their intervals, and labels beyond them."""
    keys = (name, f"{name}_low", f"{name}_high")
    values = [point[key] for point in points for key in keys if point.get(key) is not None]
    room = 0.12 * (max(values) - min(values)) or 1.0
    return [min(values) - room, max(values) + room]


def _with_places(points: ChartData, x_domain: list[float], y_domain: list[float]) -> ChartData:
    """The points; the means have the places of their labels."""

    def at(point: dict[str, Any], x_end: str = "", y_end: str = "") -> tuple[float, float]:
        x, y = point[f"forgetting{x_end}"], point[f"learning{y_end}"]
        return (x - x_domain[0]) / (x_domain[1] - x_domain[0]), (y_domain[1] - y) / (y_domain[1] - y_domain[0])

    means = [point for point in points if point["kind"] == "mean"]
    bars = []
    for mean in (mean for mean in means if mean.get("forgetting_low") is not None):
        bars.append((*at(mean, x_end="_low"), *at(mean, x_end="_high")))
        bars.append((*at(mean, y_end="_high"), *at(mean, y_end="_low")))
    found = places([mean["label"] for mean in means], [at(mean) for mean in means], bars, HEIGHT)
    placed = [mean | {"places": own} for mean, own in zip(means, found, strict=True)]
    return [*placed, *(point for point in points if point["kind"] != "mean")]
