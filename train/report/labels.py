"""Where the labels of points go, so that they cover neither each other nor the points: Vega-Lite places none.

A chart is as wide as its place on the page, so there are places for several widths; an expression chooses one.
"""

from __future__ import annotations

from collections.abc import Sequence

CHARACTER, LINE, POINT = 6.6, 14, 7  # pixels: width and height of text of size 12, half a point
WIDTHS = (250, 420, 820)  # of charts for which there are places; one in between takes those of the next narrower
FAR = 24  # from here on a line leads from the point to its label

Box = tuple[float, float, float, float]  # left, top, right, bottom
Place = dict[
    str, float
]  # dx, dy: from the point to the middle of the label's left end; line_dx, line_dy: of the line


def places(
    texts: Sequence[str], points: Sequence[tuple[float, float]], bars: Sequence[Box], height: float
) -> list[list[Place]]:
    """For each label its place at each of WIDTHS.

    points: their places, as shares of the chart from the left and from the top. bars: what had better not be
    covered, likewise.
    """
    by_width = [_at_width(texts, points, bars, width, height) for width in WIDTHS]
    return [list(own) for own in zip(*by_width, strict=True)]


def chosen(name: str) -> str:
    """The expression of a number of a place, of the field `places`, at the width of the chart."""
    return f"datum.places[width < {WIDTHS[1]} ? 0 : width < {WIDTHS[2]} ? 1 : 2].{name}"


def _at_width(
    texts: Sequence[str], points: Sequence[tuple[float, float]], bars: Sequence[Box], width: float, height: float
) -> list[Place]:
    """One label after the other goes where it covers least, and of such places to the nearest."""
    ground = 0.0, 0.0, width, height
    thin = [(a * width - 1, b * height - 1, c * width + 1, d * height + 1) for a, b, c, d in bars]
    at = [(x * width, y * height) for x, y in points]
    solid: list[Box] = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in at]
    found = []
    for text, (x, y) in zip(texts, at, strict=True):
        size = CHARACTER * len(text)
        tried = []
        for number, (away, dx, dy) in enumerate(_around(size)):
            box = (x + dx, y + dy - LINE / 2, x + dx + size, y + dy + LINE / 2)
            covered = 100 * sum(_common(box, other) for other in solid) + sum(_common(box, bar) for bar in thin)
            tried.append((100 * (size * LINE - _common(box, ground)) + covered + away, number, away, dx, dy, box))
        _, _, away, dx, dy, box = min(tried)
        solid.append(box)
        to_x, to_y = (min(max(0.0, dx), dx + size), dy) if away >= FAR else (0.0, 0.0)
        found.append({"dx": dx, "dy": dy, "line_dx": to_x, "line_dy": to_y})
    return found


def _around(size: float) -> list[tuple[float, float, float]]:
    """Places for a label of that width: how far from the point, dx and dy; near before far, right before left."""
    return [
        (away, dx, dy)
        for away in (10.0, 16.0, 24.0, 34.0, 46.0, 60.0, 76.0)
        for dx in (away, -size / 4, -size / 2, -size * 3 / 4, -away - size)
        for dy in (-away, away, 0.0)
        if dy or not -size < dx < 0
    ]


def _common(one: Box, other: Box) -> float:
    """The area that two boxes have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
