"""Progress on long work: a bar with rate and time left on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

LOG_SECONDS = 15.0


def progress(total: int | None, title: str, unit: str, done: int = 0, quiet: bool = False) -> Any:
    """A tqdm bar, to use as a context manager and `update(n)`; where there is no terminal it prints lines.

    `total` and `done` are numbers of `unit` ("files", say); `quiet` shows nothing.
    """
    from tqdm import tqdm

    if quiet:
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(total=total, desc=title, unit=f" {unit}", initial=done, dynamic_ncols=True, smoothing=0.1)
    return tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        initial=done,
        mininterval=LOG_SECONDS,
        maxinterval=LOG_SECONDS,
        ascii=True,
        bar_format="{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}, {rate_fmt}] {postfix}\n",
    )
