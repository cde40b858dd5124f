"""Responses of a web archive, where damage costs only the records that it hits."""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.warc import resync
from pipeline.warc.content import Response, read_content
from pipeline.warc.unpacking import UnpacksTooFar, allowance

# Records in which no document is: most are told by this, faster than by all their fields.
NO_DOCUMENT = re.compile(rb"\nWARC-Type: (?:request|warcinfo|(metadata))\r\n")
# A byte of a header that is longer counts as so many, for the time that a million fields take.
LONG_HEADER, LONG_HEADER_COST = 2**13, 2**5
OF_ANOTHER_RECORD = b"\nContent-Type: application/warc-fields\r\n"


@dataclass(frozen=True)
class Damage:
    """A part of the file that could not be read: its offset and length in bytes of the file.

    `records` is the estimated number of records lost in it. Where a compressed frame holds several records,
    damage inside it starts where the frame starts, and is as long as the unpacked bytes that are lost.
    """

    offset: int
    length: int
    reason: str
    records: int = 1


def responses(path: str | Path, start: int = 0) -> Iterator[Response | Damage]:
    """Every response and conversion record of an archive in order, and every damage between them.

    From the record at the offset `start` on, as a `Response` has it.

    WARC files, plain or with gzip, zstd or lz4, and ARC files, plain or with gzip, are recognised by their
    content. What is behind the point where a file has unpacked too far (`pipeline.warc.unpacking`) is damage.
    Raises OSError if the file cannot be opened at all.
    """
    with Path(path).open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size == 0:
            yield Damage(0, 0, "empty_file")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            spend = allowance(size)
            for item in resync.records(data, str(path), spend, start):
                if isinstance(item, resync.Lost):
                    yield _damage(item, size)
                    continue
                none = NO_DOCUMENT.search(item.header)
                if none and (none[1] is None or OF_ANOTHER_RECORD in item.header) and _has_one_type(item.header):
                    continue
                try:
                    if len(item.header) > LONG_HEADER:
                        spend(LONG_HEADER_COST * len(item.header))
                    fields = item.form.fields(item.header)
                    response = read_content(fields, item.block, item.length, item.begin, spend)
                except UnpacksTooFar:
                    yield Damage(item.begin, size - item.begin, resync.TOO_FAR)
                    return
                if response is not None:
                    yield response


def _has_one_type(header: bytes) -> bool:
    return header.lower().count(b"\nwarc-type") == 1


def _damage(lost: resync.Lost, size: int) -> Damage:
    if lost.reason:
        reason = lost.reason
    elif not lost.records:
        reason = "no_archive" if lost.end - lost.begin >= size else "garbage"
    else:
        reason = "truncated_file" if lost.end == size else "damaged_record"
    return Damage(lost.begin, lost.end - lost.begin, reason, max(1, lost.records))
