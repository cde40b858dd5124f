"""The error of a stage, and other errors in one line."""

from __future__ import annotations

from pipeline.common.shown import without_secrets


class StageError(RuntimeError):
    """A stage cannot continue. The message says what is wrong, where, and what to do, and has no secrets."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


def one_line(error: BaseException) -> str:
    """The message of an error as one line of at most 300 characters; its type, where it has no message.

    >>> one_line(OSError("no route\\n to host"))
    'no route to host'
    >>> one_line(TimeoutError())
    'TimeoutError'
    """
    return " ".join((str(error) or type(error).__name__).split())[:300]
