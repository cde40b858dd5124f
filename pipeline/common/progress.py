"""Progress on long work: a bar with rate and time left on a terminal, a plain line now and then in a log.

The lines of a log are read again by whoever watches the logs of a run: `parse` is the inverse of `line`.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

LOG_SECONDS = 15.0  # between two lines; the first ones come sooner
RECENT = 5  # lines back to which the rate is measured
LINE_CHARS = 300  # no line that `parse` knows is longer
LINE = re.compile(
    r"\d\d:\d\d:\d\d (?P<title>\S.*?): (?P<done>\d+)"
    r"(?: of (?P<total>\d+) (?P<unit>[^,]+?)(?: \(\d+%\))?| (?P<some>[^,]+) so far)"
    r"(?:, (?P<rate>\d[\d.]*/(?:s|min|h)))?(?:, (?P<left>\d+:\d\d(?::\d\d)?) left)?(?:, (?P<note>.+))?"
)


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is. total, rate (in units a second) and left (seconds): None where not known."""

    title: str
    unit: str
    done: int
    total: int | None
    rate: str = ""
    left: int | None = None
    note: str = ""


def progress(total: int | None, title: str, unit: str, done: int = 0, quiet: bool = False) -> Any:
    """A tqdm bar, to use as a context manager and `update(n)`; where there is no terminal it prints lines.

    `total` and `done` are numbers of `unit` ("files", say); `quiet` shows nothing.
    """
    if not quiet and not sys.stderr.isatty():
        return LogBar(total, title, unit, done)
    from tqdm import tqdm

    if quiet:
        return tqdm(disable=True)
    return tqdm(total=total, desc=title, unit=f" {unit}", initial=done, dynamic_ncols=True, smoothing=0.1)


def counted(batches: Iterable[Any], title: str, unit: str = "documents") -> Iterator[Any]:
    """The batches of Arrow one by one, with the progress of their rows; how many there are is not known."""
    with progress(None, title, unit) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.num_rows)


class LogBar:
    """What is used of a tqdm bar, for a log: a line at the start and the end, and between them ever fewer.

    Lines of a bar inside another are indented: they say how far a part of the work is.
    """

    opened = 0

    def __init__(self, total: int | None, title: str, unit: str, done: int) -> None:
        self.total, self.title, self.unit, self.done, self.note = total, title, unit, done, ""
        self.indent = "  " * LogBar.opened
        self.written: deque[tuple[float, int]] = deque(maxlen=RECENT)
        self.wait = 1.0
        self.write()

    def __enter__(self) -> LogBar:
        LogBar.opened += 1
        return self

    def __exit__(self, *error: object) -> None:
        LogBar.opened -= 1
        if self.done != self.written[-1][1]:
            self.write()

    def set_postfix_str(self, note: str, refresh: bool = False) -> None:
        self.note = note

    def unpause(self) -> None:
        """Measure the rate from now on: what was done until now is no part of the work that is counted."""
        self.written = deque([(time.monotonic(), self.done)], RECENT)

    def update(self, count: int = 1) -> None:
        self.done += count
        if time.monotonic() >= self.written[-1][0] + self.wait:
            self.write()
            self.wait = min(2 * self.wait, LOG_SECONDS)

    def write(self) -> None:
        now = time.monotonic()
        since, before = self.written[0] if self.written else (now, self.done)
        self.written.append((now, self.done))
        rate = (self.done - before) / (now - since) if self.done > before else None
        left = round((self.total - self.done) / rate) if rate and self.total is not None else None
        shown = Progress(self.title, self.unit, self.done, self.total, shown_rate(rate), left, self.note)
        print(time.strftime("%H:%M:%S"), self.indent + line(shown), file=sys.stderr, flush=True)


def line(progress: Progress) -> str:
    """How a log says it, behind the time of day.

    >>> line(Progress("extract", "WARCs", 3, 10, "1.5/s", 125, "loss 2.1"))
    'extract: 3 of 10 WARCs (30%), 1.5/s, 2:05 left, loss 2.1'
    """
    total, amount = progress.total, f"{progress.title}: {progress.done}"
    if total is None:
        parts = [f"{amount} {progress.unit} so far"]
    else:
        parts = [f"{amount} of {total} {progress.unit}{f' ({100 * progress.done // total}%)' if total else ''}"]
    if progress.rate:
        parts.append(progress.rate)
    if progress.left is not None:
        parts.append(f"{clock(progress.left)} left")
    return ", ".join([*parts, *([progress.note] if progress.note else [])])


def parse(text: str) -> Progress | None:
    """The progress that a line of a log says, or None where it says another thing, or that of a part.

    >>> parse("12:00:01 extract: 3 of 10 WARCs (30%), 1.5/s, 2:05 left").left
    125
    """
    if len(text) > LINE_CHARS or not (match := LINE.fullmatch(text)):
        return None
    total, left = match["total"], match["left"]
    return Progress(
        title=match["title"],
        unit=match["unit"] or match["some"],
        done=int(match["done"]),
        total=int(total) if total else None,
        rate=match["rate"] or "",
        left=sum(60**power * int(part) for power, part in enumerate(reversed(left.split(":")))) if left else None,
        note=match["note"] or "",
    )


def shown_rate(rate: float | None) -> str:
    """Units a second in two or three digits; slow ones a minute or an hour.

    >>> [shown_rate(rate) for rate in (1234.5, 2.345, 0.05, 1e-4)]
    ['1234/s', '2.35/s', '3.00/min', '0.36/h']
    """
    if rate is None:
        return ""
    seconds, name = next((unit for unit in ((1, "s"), (60, "min")) if rate * unit[0] >= 1), (3600, "h"))
    number = rate * seconds
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}/{name}"


def clock(seconds: float) -> str:
    """
    >>> clock(65), clock(3700)
    ('1:05', '1:01:40')
    """
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"
