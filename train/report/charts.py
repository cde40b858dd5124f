"""The report's charts, as Vega-Lite specifications: small data in, one chart out.

A method has the same colour and shape everywhere, a domain the colour of its language (train/report/colours.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from train.report.colours import AMOUNTS, BLACK_FROM, METHODS, THEMES
from train.report.labels import WIDTHS

WIDTH: Any = "container"
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [12, 4])
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
SIGNED = "datum.value ? format(datum.value, '+.3~f') : '0'"
# Characters of a name beside a row before it goes on in a second line, so that narrow charts have room for marks.
LINE_CHARS = 28

ChartData = list[dict[str, Any]]


def in_steps(chart: Any, step: int, points: ChartData, name: str) -> Any:
    """A chart as wide as its place on the page, with `step` pixels for each value of `name`."""
    return chart.properties(width=WIDTH, height=step * len({point[name] for point in points}))


def by_method(points: ChartData) -> tuple[Any, Any]:
    """Colour and shape by method, of those methods that occur."""
    methods = [name for name in METHODS if any(point["method"] == name for point in points)]
    return looks("method", {name: METHODS[name] for name in methods})


def looks(name: str, of: Mapping[str, tuple[str, str]]) -> tuple[Any, Any]:
    """Colour and shape by the values of `name`: of each its own, with one legend.

    The page gives a legend as many columns as the chart has room for (report.js); Vega would cut the others.
    """
    colours, shapes = (list(own) for own in zip(*of.values(), strict=True))
    legend = alt.Legend(labelLimit=300)
    return (
        alt.Color(f"{name}:N", title=None, legend=legend, scale=alt.Scale(domain=list(of), range=colours)),
        alt.Shape(f"{name}:N", title=None, legend=legend, scale=alt.Scale(domain=list(of), range=shapes)),
    )


def rows_axis(name: str, grid: bool = True) -> Any:
    """A row for each value of `name`; what is long goes on in a second line, best behind a space, else a dot."""
    head = f"substring(datum.label, 0, {LINE_CHARS})"
    end = f"(lastindexof({head}, ' ') + 1 || lastindexof({head}, '.') + 1 || {LINE_CHARS})"
    lines = f"[substring(datum.label, 0, {end}), substring(datum.label, {end})]"
    label = f"length(datum.label) > {LINE_CHARS} ? {lines} : datum.label"
    return alt.Y(f"{name}:N", title=None, sort=None, axis=alt.Axis(labelLimit=200, grid=grid, labelExpr=label))


def clock(points: ChartData) -> tuple[int, str]:
    """The unit for the `seconds` of all points: how many seconds it has, and its name."""
    most = max(point["seconds"] for point in points)
    return (1, "seconds") if most < 180 else (60, "minutes") if most < 3 * 3600 else (3600, "hours")


def method_pick(legend: bool = False) -> Any:
    """The selection of one method, by a click on a mark or the legend; the page keeps all charts' the same."""
    if legend:
        return alt.selection_point(name="pick", fields=["method"], bind="legend")
    return alt.selection_point(name="pick", fields=["method"])


def picked(pick: Any) -> Any:
    """Opacity: what is not of the picked method fades."""
    return alt.condition(pick, alt.value(1), alt.value(0.12))


def curves(points: ChartData, value: str, title: str, dots: bool = True) -> Any:
    """One measure over the tokens of training, a line a run. Points: model, method, step, tokens and the value.

    A run has the colour of its method; a second run of a method is dashed. dots: whether each point has one.
    """
    colours = {point["model"]: METHODS[point["method"]][0] for point in points}
    pick = method_pick()
    chart = _lines(points, value, title, ["model:N"], dots).encode(
        **dashed("model", colours), opacity=picked(pick)
    )
    return chart.add_params(pick).properties(width=WIDTH, height=220)


def dashed(name: str, colours: Mapping[str, str]) -> dict[str, Any]:
    """The encoding of lines by the values of `name`: of several of a colour all but the first are dashed."""
    values, own = list(colours), list(colours.values())
    legend = alt.Legend(symbolType="stroke", symbolSize=200, labelLimit=300)
    dashes = [DASHES[own[:i].count(colour) % len(DASHES)] for i, colour in enumerate(own)]
    return {
        "color": alt.Color(f"{name}:N", title=None, legend=legend, scale=alt.Scale(domain=values, range=own)),
        "strokeDash": alt.StrokeDash(
            f"{name}:N", title=None, legend=legend, scale=alt.Scale(domain=values, range=dashes)
        ),
    }


def pretraining(points: ChartData, colours: Mapping[str, str]) -> Any:
    """The backbone's own curves, a line a domain. Points: domain, step, tokens, bpb. colours: of the domains.

    A second domain of a language is dashed.
    """
    own = {point["domain"]: colours[point["domain"]] for point in points}
    lines = _lines(points, "bpb", "bits per byte", ["domain:N"])
    return lines.encode(**dashed("domain", own)).properties(width=WIDTH, height=220)


def _lines(points: ChartData, value: str, title: str, names: list[str], dots: bool = True) -> Any:
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(point={"size": 20} if dots else False, strokeWidth=2)
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


def gates(points: ChartData, colours: Mapping[str, str]) -> Any:
    """Mean gate on old and new tokens over those of training.

    Points: model, method, step, tokens, of, language, gate. colours: of the languages.
    """
    of = {point["of"]: colours[point["language"]] for point in points}
    pick = method_pick()
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line(strokeWidth=2)
        .encode(
            x=_over_tokens(),
            y=alt.Y("gate:Q", title="mean gate"),
            **dashed("of", of),
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


def by_domain(points: ChartData, value: str, title: str, form: str, zero: bool, colours: Mapping[str, str]) -> Any:
    """One measure of each model, a point a domain. Points: model, method, domain, tokens and the value.

    zero: whether the axis begins there. colours: of the domains, whose shapes differ.
    """
    dots = _dots(points, value, title, ("domain", colours), form, ["domain:N", "tokens:Q"], zero)
    return in_steps(dots, 28, points, "model")


def heat(points: ChartData, value: str, title: str, form: str) -> Any:
    """What blocks do, layer by layer, a line for each model and domain. Points: row, method, layer, the value."""
    base = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0, labelOverlap="parity")),
        y=rows_axis("row", grid=False),
        tooltip=["model:N", "domain:N", "layer:O", alt.Tooltip(f"{value}:Q", format=form)],
    )
    top = max(point[value] for point in points)
    scale = alt.Scale(range=list(AMOUNTS), domain=[0, top or 1], interpolate="rgb")
    cells = base.mark_rect().encode(
        color=alt.Color(f"{value}:Q", title=title, scale=scale, legend=alt.Legend(tickCount=3))
    )
    chart = cells
    if max(point["layer"] for point in points) < 12:  # where the numbers fit
        ink = alt.condition(f"datum.{value} > {BLACK_FROM * top}", alt.value("#000"), alt.value("#fff"))
        chart = alt.layer(
            cells, base.mark_text(fontSize=11).encode(text=alt.Text(f"{value}:Q", format=form), color=ink)
        )
    return in_steps(chart, 28, points, "row")


def sites(points: ChartData) -> Any:
    """Change in bits per byte on each site, a point a model. Points: model, method, site, tokens, bpb."""
    colour, shape = by_method(points)
    pick = method_pick(legend=True)
    dots = alt.Chart(alt.Data(values=points)).mark_point(size=70, filled=True)
    dots = dots.encode(
        y=rows_axis("site"),
        x=alt.X("bpb:Q", title="change, bits per byte", axis=alt.Axis(labelExpr=SIGNED, tickCount=5)),
        color=colour,
        shape=shape,
        opacity=picked(pick),
        tooltip=["model:N", "site:N", "tokens:Q", alt.Tooltip("bpb:Q", format="+.4f")],
    )
    return in_steps(alt.layer(_rule(0), dots.add_params(pick)), 28, points, "site")


def training_time(points: ChartData) -> Any:
    """Time of training of each run. Points: model, method, seconds, tokens_per_second, peak_mib."""
    colour, _ = by_method(points)
    pick = method_pick()
    seconds, unit = clock(points)
    bars = alt.Chart(alt.Data(values=points)).mark_bar(cornerRadius=2)
    tips = [alt.Tooltip(f"{name}:Q", format=",.0f") for name in ("seconds", "tokens_per_second", "peak_mib")]
    chart = bars.transform_calculate(time=f"datum.seconds / {seconds}").encode(
        y=rows_axis("model", grid=False),
        x=alt.X("time:Q", title=f"training, {unit}", axis=alt.Axis(tickCount=5)),
        color=colour.legend(None),
        opacity=picked(pick),
        tooltip=["model:N", *tips],
    )
    return in_steps(chart.add_params(pick), 28, points, "model")


def inference_speed(points: ChartData, colours: Mapping[str, str]) -> Any:
    """Speed over the backbone's, measured in turns. Points: model, method, kind, speed, backbone, relative.

    colours: of the kinds, by the language of their text.
    """
    tips = ["kind:N", alt.Tooltip("speed:Q", format=",.0f")]
    dots = _dots(points, "relative", "speed over the backbone's", ("kind", colours), ".2f", tips, False)
    return in_steps(alt.layer(_rule(1), dots), 28, points, "model")


def _dots(
    points: ChartData,
    value: str,
    title: str,
    of: tuple[str, Mapping[str, str]],
    form: str,
    tips: list[Any],
    zero: bool,
) -> Any:
    """A row a model, and in it a point for each value of a name; `of`: the name, and the colours of its values."""
    name, colours = of
    values = list(dict.fromkeys(point[name] for point in points))
    shaped = {value: (colours[value], SHAPES[i % len(SHAPES)]) for i, value in enumerate(values)}
    colour, shape = looks(name, shaped)
    pick = method_pick()
    dots = alt.Chart(alt.Data(values=points)).mark_point(size=90, filled=True)
    chart = dots.encode(
        y=rows_axis("model"),
        x=alt.X(
            f"{value}:Q",
            title=title,
            scale=alt.Scale(zero=zero, nice=zero, padding=0 if zero else 12),
            axis=alt.Axis(tickCount=5),
        ),
        color=colour,
        shape=shape,
        opacity=picked(pick),
        tooltip=["model:N", *tips, alt.Tooltip(f"{value}:Q", format=form)],
    )
    return chart.add_params(pick)


def _rule(place: float) -> Any:
    return alt.Chart(alt.Data(values=[{"at": place}])).mark_rule(strokeDash=[3, 3]).encode(x="at:Q")


def for_print(chart: Any) -> dict[str, Any]:
    """A chart's specification at a fixed width on white, for a picture that is read on a small screen too."""
    printed = chart.properties(width=WIDTHS[1], background=THEMES["light"]["ground"], padding=12)
    printed = printed.configure_axis(
        labelFontSize=14, titleFontSize=14, titleFontWeight="normal", gridColor=THEMES["light"]["line"]
    )
    printed = printed.configure_legend(orient="top", labelFontSize=14, symbolSize=110)
    specification: dict[str, Any] = printed.configure_view(stroke=None).to_dict()
    return specification
