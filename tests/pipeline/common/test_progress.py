import re
import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import progress as module
from pipeline.common.progress import Progress, clock, line, parse, progress, shown_rate

WORDS = st.from_regex(r"[a-z][\w é中.-]{0,20}[a-z]", fullmatch=True)
PROGRESS = st.builds(
    Progress,
    title=WORDS,
    unit=WORDS.filter(lambda unit: not unit.endswith(" so far")),
    done=st.integers(0, 10**9),
    total=st.none() | st.integers(0, 10**9),
    rate=st.just("") | st.floats(1e-9, 1e9).map(shown_rate),
    left=st.none() | st.integers(0, 10**6),
    note=st.just("") | WORDS,
)


@given(PROGRESS)
def test_a_line_of_a_log_is_read_again_as_what_it_says(shown):
    assert parse(f"12:34:56 {line(shown)}") == shown


@given(st.integers(0, 10**6))
def test_a_clock_counts_minutes_and_hours(seconds):
    parts = [int(part) for part in clock(seconds).split(":")]
    assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == seconds
    assert all(part < 60 for part in parts[1:])


def test_other_lines_of_a_log_are_no_progress():
    for text in (
        "12:00:00 debian-faq-fr: 388 records",
        "train extend: the loss is no number",
        "12:00:00 step 4: 3 of 5",
        f"12:00:00 {'x' * 400}: 1 of 2 files (50%)",
        "",
    ):
        assert parse(text) is None


def test_a_log_gets_ever_fewer_lines_and_the_last_number(monkeypatch, capsys):
    """One step a second for ten minutes."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    assert not sys.stderr.isatty()
    with progress(700, "extend", "steps", done=100) as bar:
        for step in range(600):
            now[0] += 1
            bar.set_postfix_str(f"loss {step}")
            bar.update()
    text = capsys.readouterr().err
    said = [parse(one) for one in text.splitlines()]
    done = [one.done - 100 for one in said]
    assert done[:5] == [0, 1, 3, 7, 15]
    assert {b - a for a, b in pairwise(done[4:])} == {15}
    assert said[-1] == Progress("extend", "steps", 700, 700, "1.00/s", 0, "loss 599")
    assert said[7].left == 600 - done[7] and "\r" not in text


def test_an_error_leaves_the_number_reached_in_the_log(capsys):
    try:
        with progress(None, "tokenize", "documents") as bar:
            bar.update(3)
            raise ValueError
    except ValueError:
        last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d tokenize: 3 documents so far(, [\d.]+/s)?", last)


def test_a_bar_inside_another_is_a_part_of_its_work(capsys):
    with progress(2, "extend", "steps") as bar:
        with progress(9, "measuring", "rows") as part:
            part.update(9)
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert [parse(line) and parse(line).done for line in lines] == [0, None, None, 1]
    assert lines[2][9:].startswith("  measuring: 9 of 9 rows (100%)")


def test_a_pause_does_not_count_in_the_rate(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress(4, "extend", "steps") as bar:
        now[0] += 1000
        bar.unpause()
        now[0] += 2
        bar.update()
    assert parse(capsys.readouterr().err.splitlines()[1]) == Progress("extend", "steps", 1, 4, "30.0/min", 6)
