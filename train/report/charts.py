"""The report's charts, as Vega-Lite specifications: small data in, one chart out.

A method has the same colour and shape everywhere; the colours are Okabe and Ito's, which people
with any colour vision tell apart on light and dark ground.
"""

from __future__ import annotations

from typing import Any

import altair as alt

from train.report.labels import CHARACTER, WIDTHS

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
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [12, 4])

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


def curves(points: ChartData, value: str, title: str) -> Any:
    """One measure over the tokens of training, a line a run. Points: model, method, step, tokens and the value.

    A run has the colour of its method; a second run of a method is dashed.
    """
    method_of = {point["model"]: point["method"] for point in points}
    runs = list(method_of)
    before = [
        [method_of[other] for other in runs[:number]].count(method_of[run]) for number, run in enumerate(runs)
    ]
    colours = [METHOD_LOOKS[method_of[run]][0] for run in runs]
    dashes = [DASHES[count % len(DASHES)] for count in before]
    pick = method_pick()
    columns = max(1, int(WIDTHS[0] // (CHARACTER * max(map(len, runs)) + 20)))
    legend = alt.Legend(columns=columns, symbolType="stroke", symbolSize=200)
    chart = _lines(points, value, title, ["model:N"]).encode(
        color=alt.Color("model:N", title=None, legend=legend, scale=alt.Scale(domain=runs, range=colours)),
        strokeDash=alt.StrokeDash(
            "model:N", title=None, legend=legend, scale=alt.Scale(domain=runs, range=dashes)
        ),
        opacity=picked(pick),
    )
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
    words = "datum.value ? format(datum.value, '~s') : '0'"
    axis = alt.Axis(labelExpr=words, tickCount=5, labelOverlap="greedy", labelSeparation=6)
    return alt.X("tokens:Q", title="tokens of training", scale=alt.Scale(nice=False), axis=axis)


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
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap="parity")),
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
    """A chart's specification at a fixed width on white, for a picture that is read on a small screen too."""
    printed = chart.properties(width=WIDTHS[1], background="white", padding=12)
    printed = printed.configure_axis(
        labelFontSize=14, titleFontSize=14, titleFontWeight="normal", gridColor="#e4e7ea"
    )
    printed = printed.configure_legend(orient="top", labelFontSize=14, symbolSize=110)
    specification: dict[str, Any] = printed.configure_view(stroke=None).to_dict()
    return specification
