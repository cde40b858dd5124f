"""How far a file from elsewhere may unpack, so that a small one costs seconds and not hours.

A byte of the web's text unpacks to about 5, seldom to 50; one of a bomb to 1,000 with gzip and 30,000 with zstd,
and each of these again with the encoding of an HTTP body.
"""

from __future__ import annotations

from collections.abc import Callable

UNPACKED_PER_BYTE, UNPACKED_MIN = 100, 2**30  # for each byte of the file, and at least

# Takes the number of bytes that were unpacked.
Spend = Callable[[int], None]


class UnpacksTooFar(Exception):
    """The rest of the file is not read. It is no OSError, since no other part of the file can be read instead."""


def allowance(size: int) -> Spend:
    """A function that counts the bytes unpacked of a file of `size` bytes, and raises UnpacksTooFar.

    >>> spend = allowance(1000)
    >>> spend(2**30)
    >>> spend(100_001)
    Traceback (most recent call last):
    pipeline.warc.unpacking.UnpacksTooFar
    """
    left = UNPACKED_MIN + UNPACKED_PER_BYTE * size

    def spend(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise UnpacksTooFar

    return spend


def unlimited(count: int) -> None:
    """An allowance without an end."""
