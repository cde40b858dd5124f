"""The error of a stage, and other errors in one line."""

from __future__ import annotations


class StageError(RuntimeError):
    """A stage cannot go on; the message says what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
