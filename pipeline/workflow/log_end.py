"""What the end of a job's log says: how far the job is, and why it failed.

Only the end is read, and what is in it is made printable: names and texts of others may be there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.progress import Progress, parse
from pipeline.common.shown import printable

END_BYTES = 2**13  # of a running job, read again and again
FAILED_BYTES = 2**17  # of one that failed
SHOWN_LINES = 10  # of it
LIBRARY_BAR = re.compile(r"\d%\||\d(it|[kMG]?B)? \[\d{2,4}:\d\d")  # of tqdm, in a library
TIME = re.compile(r"\d\d:\d\d:\d\d ")
STAGE_ERROR = re.compile(r"(python -m )?(pipeline|train) [\w-]+: \S")  # as pipeline/common/cli.py prints it
RAISED = re.compile(r"[A-Za-z_][\w.]*(: .*)?")  # the last line of a traceback


@dataclass(frozen=True)
class State:
    """How far a job is: the last progress in its log, and what it has said since, or without one."""

    progress: Progress | None = None
    text: str = ""


def read_state(path: str | Path) -> State:
    """Of a running job. An OSError says that the log cannot be read, as long as there is none."""
    progress, text = None, ""
    for line in read_lines(path, END_BYTES):
        if found := parse(line):
            progress, text = found, ""
        elif not LIBRARY_BAR.search(line):
            text = TIME.sub("", line, count=1).strip()
    return State(progress, text)


def read_failure(path: str | Path) -> list[str]:
    """Of a job that failed: its own message, and behind it the last other lines of the log, without progress.

    Empty where the log has nothing.
    """
    lines = [x for x in read_lines(path, FAILED_BYTES) if not parse(x) and not LIBRARY_BAR.search(x)]
    starts = [number for number, line in enumerate(lines) if STAGE_ERROR.match(line)]
    traced = any(line.startswith("Traceback (most recent") for line in lines)
    if not starts and traced:
        starts = [number for number, line in enumerate(lines) if RAISED.fullmatch(line)]
    first = starts[-1] if starts else len(lines) - 1
    message = lines[max(0, first) :]
    return [*message[:SHOWN_LINES], *lines[max(0, first - SHOWN_LINES) : max(0, first)]]


def read_lines(path: str | Path, most: int) -> list[str]:
    """The last whole lines of a file within `most` bytes, printable, without empty ones.

    A carriage return begins a line too: bars of libraries.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - most))
        data = file.read(most)
    lines = data.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    if size > most:
        lines = lines[1:]
    return [printable(line.rstrip()) for line in lines if line.strip()]
