"""Labels of points that are as crowded as real ones cover nothing, on narrow charts too."""

import numpy as np
import pytest

from train.report.labels import CHARACTER, FAR, LINE, POINT, WIDTHS, places

NAMES = ["backbone", "finetune", "lora", "adapter", "neutral", "neutral-relu", "neutral-sigmoid", "neutral-p0"]


def boxes(names, points, found, number):
    """Left, top, right, bottom of each label at a width, in pixels of a chart that is 380 high."""
    for name, (x, y), own in zip(names, points, found, strict=True):
        left, middle = x * WIDTHS[number] + own[number]["dx"], y * 380 + own[number]["dy"]
        yield left, middle - LINE / 2, left + CHARACTER * len(name), middle + LINE / 2


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("number", range(len(WIDTHS)))
def test_no_label_covers_another_or_a_point_or_leaves_the_chart(seed, number):
    """Of eight points half are within a few pixels of each other."""
    random = np.random.default_rng(seed)
    points = [
        (0.1, 0.1),
        *random.uniform(0.1, 0.9, (3, 2)),
        *(random.uniform(0.2, 0.8, 2) + random.normal(0, 0.02, (4, 2))),
    ]
    bars = [(x - 0.05, y, x + 0.05, y) for x, y in points]
    labels = list(boxes(NAMES, points, places(NAMES, points, bars, 380), number))
    marks = [(x * WIDTHS[number], y * 380) for x, y in points]
    solid = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in marks]
    for i, label in enumerate(labels):
        assert all(apart(label, other) for other in [*solid, *labels[:i]])
        assert label[0] >= 0 and label[2] <= WIDTHS[number] and label[1] >= 0 and label[3] <= 380


def test_a_lone_label_is_beside_its_point_and_a_far_one_has_a_line_that_ends_at_it():
    ((alone, *_),) = places(["neutral"], [(0.5, 0.5)], [], 380)
    assert (alone["dx"], abs(alone["dy"]), alone["line_dx"], alone["line_dy"]) == (10, 10, 0, 0)
    crowd = [(0.5, 0.5)] * 12
    lines = [own[0] for own in places(["a" * 20] * 12, crowd, [], 380)]
    far = [own for own in lines if own["line_dx"] or own["line_dy"]]
    assert far and len(far) < 12
    for own in far:
        assert own["dx"] <= own["line_dx"] <= own["dx"] + CHARACTER * 20 and own["line_dy"] == own["dy"]
        assert max(abs(own["line_dx"]), abs(own["line_dy"])) >= FAR
