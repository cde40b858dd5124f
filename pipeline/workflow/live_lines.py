"""The live lines of a terminal: a bar with rate and time left for each running job, and a line for the whole."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.common.progress import Progress, clock
from pipeline.workflow.log_end import State

MOST_ROWS = 8  # of running jobs
MOST_TITLE = 44  # columns
LEAST_TITLE = 18
LEAST_NOTE = 10
BAR = 14


@dataclass(frozen=True)
class Row:
    """A running job. seconds: since it began. age: seconds since its log said so."""

    title: str
    seconds: float
    state: State
    age: float = 0.0


def left(row: Row) -> float | None:
    """Seconds that a job has left, as far as its log says."""
    progress = row.state.progress
    return None if progress is None or progress.left is None else max(0.0, progress.left - row.age)


def live_lines(rows: Sequence[Row], whole: str, width: int, height: int, blocks: bool = True) -> list[str]:
    """The lines, each of at most `width` columns, and at most half as many as the terminal is high.

    blocks: whether the terminal has characters such as U+2588.
    """
    shown = rows[: max(1, min(MOST_ROWS, height // 2 - 2))]
    title = min(MOST_TITLE, max((columns(row.title) for row in shown), default=0))
    lines = [_line(row, title, width, blocks) for row in shown]
    if len(rows) > len(shown):
        lines.append(f"and {len(rows) - len(shown)} more")
    return [cut(line, width) for line in [*lines, whole]]


def _line(row: Row, title: int, width: int, blocks: bool) -> str:
    progress, more = row.state.progress, row.state.text
    if progress is None or (more and (_at_end(progress) or not progress.rate)):
        return f"{_padded(row.title, title, width // 2)}  {clock(row.seconds)}  {more or 'starting'}"
    remaining = left(row)
    time = clock(row.seconds) if remaining is None else f"{clock(remaining)} left"
    amount = f"{progress.done} {progress.unit}" if progress.total is None else f"{_share(progress):4.0%}"
    pace = _pace(progress)
    bar = f"{_bar(progress, blocks)} " if progress.total else ""
    # What is least missed goes first where a terminal is narrow.
    forms = (f"{bar}{amount}  {pace:14}  {time}", f"{bar}{amount}  {time}", f"{amount}  {time}")
    rest = next((form for form in forms if title + 2 + columns(form) <= width), forms[-1])
    line = f"{_padded(row.title, title, max(LEAST_TITLE, width - columns(rest) - 2))}  {rest}"
    note, room = more or progress.note, width - columns(line) - 2
    return f"{line}  {cut(note, room)}" if note and room >= LEAST_NOTE else line


def _at_end(progress: Progress) -> bool:
    return progress.total is not None and progress.done >= progress.total


def _share(progress: Progress) -> float:
    return min(1.0, progress.done / progress.total) if progress.total else 1.0


def _pace(progress: Progress) -> str:
    """1.5 steps/s: the unit in the rate."""
    number, _, per = progress.rate.partition("/")
    return f"{number} {progress.unit}/{per}" if per else ""


def _bar(progress: Progress, blocks: bool) -> str:
    """
    >>> _bar(Progress("extract", "WARCs", 1, 4), blocks=False)
    '###-----------'
    """
    full = int(BAR * _share(progress))
    return "█" * full + "░" * (BAR - full) if blocks else "#" * full + "-" * (BAR - full)


def _padded(text: str, width: int, most: int) -> str:
    text = cut(text, min(width, most))
    return text + " " * (min(width, most) - columns(text))


# Columns ------------------------------------------------------------------------------------------


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: two for most of Chinese, none for accents of their own."""
    return sum(_width(char) for char in text)


def cut(text: str, width: int) -> str:
    """The text, or its beginning with an ellipsis in the last of `width` columns.

    >>> cut("Extract the text", 10), cut("Extract", 10)
    ('Extract...', 'Extract')
    """
    if columns(text) <= width:
        return text
    dots = "..."[: max(0, width)]
    return "".join(_first(text, width - len(dots))).rstrip() + dots


def _first(text: str, width: int) -> Iterator[str]:
    for char in text:
        width -= _width(char)
        if width < 0:
            return
        yield char


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
