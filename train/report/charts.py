"""The report's charts, as Vega-Lite specifications: small data in, one chart out.

A method has the same colour and shape everywhere; the colours are Okabe and Ito's, which people
with any colour vision tell apart on light and dark ground.
"""

from __future__ import annotations

from typing import Any

import altair as alt

METHOD_LOOKS = {
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
KINDS = ("#CC79A7", "#56B4E9", "#5D4A9C", "#7A5C3E", "#B3367A", "#2F6F4F")  # those that no method has
WIDTH: Any = "container"

ChartData = list[dict[str, Any]]


def in_steps(chart: Any, step: int, points: ChartData, name: str) -> Any:
    """A chart as wide as its place on the page, with `step` pixels for each value of `name`."""
    return chart.properties(width=WIDTH, height=step * len({point[name] for point in points}))


def by_method(points: ChartData) -> tuple[Any, Any]:
    """Colour and shape by method, of those methods that occur."""
    methods = [name for name in METHOD_LOOKS if any(point["method"] == name for point in points)]
    colours, shapes = zip(*(METHOD_LOOKS[name] for name in methods), strict=True)
    return (
        alt.Color("method:N", title=None, scale=alt.Scale(domain=methods, range=list(colours))),
        alt.Shape("method:N", title=None, scale=alt.Scale(domain=methods, range=list(shapes))),
    )


def method_pick(legend: bool = False) -> Any:
    """The selection of one method, by a click on a mark or the legend; the page keeps all charts' the same."""
    if legend:
        return alt.selection_point(name="pick", fields=["method"], bind="legend")
    return alt.selection_point(name="pick", fields=["method"])


def picked(pick: Any) -> Any:
    """Opacity: what is not of the picked method fades."""
    return alt.condition(pick, alt.value(1), alt.value(0.12))


def trade_off(points: ChartData, forgetting: str, learning: str) -> Any:
    """Figure 1 of the paper: learning against forgetting, both as changes against the backbone.

    Points: train/report/points.py, trade_off_points(). Large points are the means of a setting over its seeds,
    with their 95% intervals; several rates of a setting are joined by a line. Small points are single runs.
    """
    colour, shape = by_method(points)
    pick = method_pick(legend=True)
    near = alt.Scale(zero=False, nice=False, padding=50)
    x_title = [f"{forgetting}, change in bits per byte", "(right: forgets)"]
    y_title = [f"{learning}, change in bits per byte", "(down: learns)"]
    fields = ("forgetting", "forgetting_low", "forgetting_high", "learning", "learning_low", "learning_high")
    numbers = [alt.Tooltip(f"{name}:Q", format="+.4f") for name in fields]
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("forgetting:Q", title=x_title, scale=near),
        y=alt.Y("learning:Q", title=y_title, scale=near),
        color=colour,
        opacity=picked(pick),
    )
    means = base.transform_filter("datum.kind == 'mean'")
    known = means.transform_filter("isValid(datum.forgetting_low)")
    across = known.encode(x=alt.X("forgetting_low:Q", title=x_title, scale=near), x2="forgetting_high:Q")
    along = known.encode(y=alt.Y("learning_low:Q", title=y_title, scale=near), y2="learning_high:Q")
    seeds = base.transform_filter("datum.kind == 'run'").mark_point(size=22, filled=True)
    return (
        alt.layer(
            means.mark_line(strokeWidth=2.5).encode(order="rate:Q", detail="family:N"),
            across.mark_rule(strokeWidth=1.6),
            along.mark_rule(strokeWidth=1.6),
            seeds.encode(tooltip=["model:N", "rate:Q", "seed:N", *numbers]),
            means.mark_point(size=110, filled=True).encode(
                shape=shape, tooltip=["label:N", "rate:Q", "seeds:Q", *numbers]
            ),
            means.mark_text(align="left", dx=10, dy=-8, fontSize=12).encode(text="label:N"),
        )
        .add_params(pick)
        .properties(width=WIDTH, height=380)
    )


def curves(points: ChartData, value: str, title: str) -> Any:
    """One measure over the tokens of training, a line a run. Points: model, method, step, tokens and the value."""
    colour, _ = by_method(points)
    pick = method_pick(legend=True)
    chart = _lines(points, value, title, ["model:N"]).encode(color=colour, detail="model:N", opacity=picked(pick))
    return chart.add_params(pick).properties(width=WIDTH, height=220)


def pretraining(points: ChartData) -> Any:
    """The backbone's own curves, a line a domain. Points: domain, step, tokens, bpb."""
    colour = alt.Color("domain:N", title=None, scale=alt.Scale(range=list(COLOURS)))
    lines = _lines(points, "bpb", "bits per byte", ["domain:N"]).encode(color=colour)
    return lines.properties(width=WIDTH, height=220)


def _lines(points: ChartData, value: str, title: str, names: list[str]) -> Any:
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point={"size": 20}, strokeWidth=2)
        .encode(
            x=_over_tokens(),
            y=alt.Y(f"{value}:Q", title=title, scale=alt.Scale(zero=False)),
            tooltip=[
                *names,
                "step:Q",
                alt.Tooltip("tokens:Q", format=","),
                alt.Tooltip(f"{value}:Q", format=".4f"),
            ],
        )
    )


def _over_tokens() -> Any:
    return alt.X("tokens:Q", title="tokens of training", axis=alt.Axis(format="~s", tickCount=6))


def gates(points: ChartData) -> Any:
    """Mean gate on old and new tokens over those of training. Points: model, method, step, tokens, of, gate."""
    kinds = alt.Scale(domain=["new tokens", "old tokens"], range=[COLOURS[0], GREY])
    pick = method_pick()
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=2)
        .encode(
            x=_over_tokens(),
            y=alt.Y("gate:Q", title="mean gate"),
            color=alt.Color("of:N", title=None, scale=kinds),
            detail="model:N",
            opacity=picked(pick),
            tooltip=[
                "model:N",
                "of:N",
                "step:Q",
                alt.Tooltip("tokens:Q", format=","),
                alt.Tooltip("gate:Q", format=".3f"),
            ],
        )
        .add_params(pick)
        .properties(width=WIDTH, height=220)
    )


def by_domain(points: ChartData, value: str, title: str, form: str, zero: bool) -> Any:
    """One measure of each model, a point a domain. Points: model, method, domain, tokens and the value.

    zero: whether the axis begins there.
    """
    colour, shape = _kinds(points, "domain")
    dots = _dots(points, value, title, colour, form, ["domain:N", "tokens:Q"], zero)
    return in_steps(dots.encode(shape=shape), 24, points, "model")


def heat(points: ChartData, value: str, title: str, form: str) -> Any:
    """What blocks do, layer by layer, a line for each model and domain. Points: row, method, layer, the value."""
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("row:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        tooltip=["model:N", "domain:N", "layer:O", alt.Tooltip(f"{value}:Q", format=form)],
    )
    top = max(point[value] for point in points)
    scale = alt.Scale(scheme="viridis", domain=[0, top or 1])
    cells = base.mark_rect().encode(
        color=alt.Color(f"{value}:Q", title=title, scale=scale, legend=alt.Legend(tickCount=3))
    )
    chart = cells
    if max(point["layer"] for point in points) < 12:  # where the numbers fit
        ink = alt.condition(f"datum.{value} > {0.6 * top}", alt.value("#000"), alt.value("#fff"))
        chart = alt.layer(
            cells, base.mark_text(fontSize=11).encode(text=alt.Text(f"{value}:Q", format=form), color=ink)
        )
    return in_steps(chart, 22, points, "row")


def sites(points: ChartData) -> Any:
    """Change in bits per byte on each site, a point a model. Points: model, method, site, tokens, bpb."""
    colour, shape = by_method(points)
    pick = method_pick(legend=True)
    dots = alt.Chart(alt.Data(values=points)).mark_point(size=70, filled=True)
    dots = dots.encode(
        y=alt.Y("site:N", title=None, sort=None, axis=alt.Axis(labelLimit=240, grid=True)),
        x=alt.X("bpb:Q", title="change, bits per byte", axis=alt.Axis(format="+.3~f", tickCount=6)),
        color=colour,
        shape=shape,
        opacity=picked(pick),
        tooltip=["model:N", "site:N", "tokens:Q", alt.Tooltip("bpb:Q", format="+.4f")],
    )
    return in_steps(alt.layer(_rule(0), dots.add_params(pick)), 24, points, "site")


def training_time(points: ChartData) -> Any:
    """Seconds of training of each run. Points: model, method, seconds, tokens_per_second, peak_mib."""
    colour, _ = by_method(points)
    pick = method_pick()
    bars = alt.Chart(alt.Data(values=points)).mark_bar(cornerRadius=2)
    tips = [alt.Tooltip(f"{name}:Q", format=",.0f") for name in ("seconds", "tokens_per_second", "peak_mib")]
    chart = bars.encode(
        y=alt.Y("model:N", title=None, sort=None, axis=alt.Axis(labelLimit=220)),
        x=alt.X("seconds:Q", title="training, seconds", axis=alt.Axis(tickCount=6)),
        color=colour.legend(None),
        opacity=picked(pick),
        tooltip=["model:N", *tips],
    )
    return in_steps(chart.add_params(pick), 24, points, "model")


def inference_speed(points: ChartData) -> Any:
    """Speed over the backbone's, measured in turns. Points: model, method, kind, speed, backbone, relative."""
    colour, shape = _kinds(points, "kind")
    title = "tokens a second, over the backbone's"
    dots = _dots(
        points, "relative", title, colour, ".2f", ["kind:N", alt.Tooltip("speed:Q", format=",.0f")], False
    )
    return in_steps(alt.layer(_rule(1), dots.encode(shape=shape)), 24, points, "model")


def _kinds(points: ChartData, name: str) -> tuple[Any, Any]:
    """Colour and shape by the values of `name`, which is not the method."""
    domain = list(dict.fromkeys(point[name] for point in points))
    shapes = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
    colours = [KINDS[i % len(KINDS)] for i in range(len(domain))]
    return (
        alt.Color(f"{name}:N", title=None, scale=alt.Scale(domain=domain, range=colours)),
        alt.Shape(
            f"{name}:N",
            title=None,
            scale=alt.Scale(domain=domain, range=[shapes[i % len(shapes)] for i in range(len(domain))]),
        ),
    )


def _dots(points: ChartData, value: str, title: str, colour: Any, form: str, tips: list[Any], zero: bool) -> Any:
    pick = method_pick()
    dots = alt.Chart(alt.Data(values=points)).mark_point(size=90, filled=True)
    chart = dots.encode(
        y=alt.Y("model:N", title=None, sort=None, axis=alt.Axis(labelLimit=220, grid=True)),
        x=alt.X(
            f"{value}:Q",
            title=title,
            scale=alt.Scale(zero=zero, nice=zero, padding=0 if zero else 12),
            axis=alt.Axis(tickCount=6),
        ),
        color=colour,
        opacity=picked(pick),
        tooltip=["model:N", *tips, alt.Tooltip(f"{value}:Q", format=form)],
    )
    return chart.add_params(pick)


def _rule(place: float) -> Any:
    return alt.Chart(alt.Data(values=[{"at": place}])).mark_rule(color=GREY, strokeDash=[3, 3]).encode(x="at:Q")


def for_print(chart: Any) -> dict[str, Any]:
    """A chart's specification at a fixed width on white, for a picture."""
    specification: dict[str, Any] = chart.properties(width=620, background="white").to_dict()
    return specification
