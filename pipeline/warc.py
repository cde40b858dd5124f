"""Responses of a WARC file, with damage costing only the records it hits.

FastWARC ends a file at the first damaged gzip member, and says nothing about a file that was cut short. Here
a damaged record is reported and reading goes on at the next gzip member that holds a WARC record.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GZIP_MEMBER = b"\x1f\x8b\x08"
CHUNK, INFLATED_CHUNK = 2**16, 2**20
ENCODED_MAX = 64 * 2**20  # a body is never read further than this, whatever its encoding unpacks to


@dataclass(frozen=True)
class Response:
    """One HTTP response. `offset` is where its record starts in the (compressed) file."""

    url: str
    date: str
    offset: int
    record_id: str
    digest: str
    status: int
    content_type: str
    charset: str | None
    body: bytes


@dataclass(frozen=True)
class Damage:
    """A stretch of the file that could not be read: its offset and its length, in bytes of the file."""

    offset: int
    length: int
    reason: str


def responses(path: str | Path) -> Iterator[Response | Damage]:
    """Every response record of a WARC file in order, and every damage between them.

    Raises OSError if the file cannot be opened at all.
    """
    size = Path(path).stat().st_size
    start: int | None = 0
    while start is not None and start < size:
        begin, unread, failed = start, False, False  # `begin`: where the last record begun begins
        try:
            for begin, record in _records(path, start):
                unread = True
                response = _response(record, begin)
                unread = False
                if response is not None:
                    yield response
        except OSError:
            failed = True
        broken = _chain_end(path, begin)
        if broken == size and not failed:
            return
        lost: int | None = None
        if unread:  # a record whose content could not be read, in a sound member or not
            lost = begin
        elif broken < size:
            lost = broken
        elif begin == start:  # a sound member that is no WARC record
            lost = start
        start = _next_member(path, (begin if lost is None else lost) + 1)
        if lost is not None:
            reason = "damaged_record" if start is not None else "truncated_file"
            yield Damage(lost, (start or size) - lost, reason)


def _records(path: str | Path, start: int) -> Iterator[tuple[int, Any]]:
    """Records from a file offset on, each with its own offset."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    def iterate(source: Any) -> Any:
        return ArchiveIterator(
            source,
            record_types=WarcRecordType.response,
            parse_http=True,
            auto_decode="all",
            fsspec_args=False,
        )

    if start == 0:
        # A plain path is read and decompressed natively, much faster than a Python file object.
        yield from ((record.stream_pos, record) for record in iterate(str(path)))
        return
    with Path(path).open("rb") as file:
        file.seek(start)
        tail = _Tail(file, start)
        yield from ((tail.offset(record.stream_pos), record) for record in iterate(tail))


class _Tail:
    """A file from an offset on, that looks like a whole file to its reader."""

    def __init__(self, file: Any, start: int) -> None:
        self.file, self.start = file, start

    def offset(self, position: int) -> int:
        return self.start + position

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def tell(self) -> int:
        return self.file.tell() - self.start

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset + (self.start if whence == 0 else 0), whence) - self.start


def _response(record: Any, offset: int) -> Response | None:
    """The response, or None where the record is no HTTP response.

    Raises OSError where its content cannot be read or is shorter than it should be.
    """
    if record.http_headers is None:
        return None
    expected = record.content_length
    body = record.reader.read(ENCODED_MAX)
    encoded = any(record.http_headers.get(name) for name in ("Content-Encoding", "Transfer-Encoding"))
    if not encoded and len(body) < min(expected, ENCODED_MAX):
        raise OSError(f"record of {expected} bytes ends after {len(body)}")
    return Response(
        url=record.headers.get("WARC-Target-URI") or "",
        date=record.headers.get("WARC-Date") or "",
        offset=offset,
        record_id=record.record_id or "",
        digest=record.headers.get("WARC-Payload-Digest") or "",
        status=record.http_headers.status_code or 0,
        content_type=(record.http_content_type or "").lower(),
        charset=record.http_charset,
        body=body,
    )


# Gzip members -------------------------------------------------------------------------------------


def _chain_end(path: str | Path, start: int) -> int:
    """Where the chain of sound gzip members from `start` on ends: the file's size, if nothing is broken.

    It tells where damage begins, and that a file was cut, of which FastWARC says nothing. Only the tail behind
    the last response is walked, so this costs little. A file that is not gzip is one sound chain.
    """
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:2] != GZIP_MEMBER[:2] and not str(path).endswith(".gz"):
            return len(data)
        while start < len(data) and (end := _member_end(data, start)) is not None:
            start = end
        return start


def _member_end(data: mmap.mmap, start: int) -> int | None:
    """Where the gzip member that begins at `start` ends, or None if it is broken."""
    inflater, place = zlib.decompressobj(wbits=31), start
    try:
        while not inflater.eof:
            chunk = inflater.unconsumed_tail or data[place : place + CHUNK]
            if not chunk:
                return None
            if not inflater.unconsumed_tail:
                place += len(chunk)
            inflater.decompress(chunk, INFLATED_CHUNK)
    except zlib.error:
        return None
    return place - len(inflater.unused_data)


def _next_member(path: str | Path, start: int) -> int | None:
    """Offset of the next gzip member that begins a WARC record, or None."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = data.find(GZIP_MEMBER, start)
        while found >= 0:
            try:
                if zlib.decompressobj(wbits=31).decompress(data[found : found + 4096], 16).startswith(b"WARC/"):
                    return found
            except zlib.error:
                pass
            found = data.find(GZIP_MEMBER, found + 1)
    return None
