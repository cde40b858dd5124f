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
        position, whole = start, False  # the last record begun, and whether it was read to its end
        try:
            for position, record in _records(path, start):
                whole = False
                response = _response(record, position)
                whole = True
                if isinstance(response, str):
                    yield Damage(position, 0, response)
                elif response is not None:
                    yield response
            return
        except OSError:
            # A whole record is not damaged: what follows it is.
            begin = _member_end(path, position) if whole else position
            following = _next_member(path, begin if whole else begin + 1)
            if following != begin:
                yield Damage(begin, (following or size) - begin, "damaged_record")
            start = following


def _records(path: str | Path, start: int) -> Iterator[tuple[int, Any]]:
    """Records from a file offset on, each with its own offset."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    def iterate(source: Any) -> Any:
        return ArchiveIterator(
            source, record_types=WarcRecordType.response, parse_http=True, auto_decode="all", fsspec_args=False
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


def _response(record: Any, offset: int) -> Response | str | None:
    """The response, the reason why it is damaged, or None where the record is no HTTP response.

    Raises OSError where the file itself is damaged.
    """
    if record.http_headers is None:
        return None
    expected = record.content_length
    body = record.reader.read(ENCODED_MAX)
    encoded = any(record.http_headers.get(name) for name in ("Content-Encoding", "Transfer-Encoding"))
    if not encoded and len(body) < min(expected, ENCODED_MAX):
        return "truncated_record"
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


def _member_end(path: str | Path, start: int) -> int:
    """Where the sound gzip member that begins at `start` ends."""
    inflater = zlib.decompressobj(wbits=31)
    with Path(path).open("rb") as file:
        file.seek(start)
        while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(2**16)):
            inflater.decompress(chunk, 2**20)
        return file.tell() - len(inflater.unused_data)


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
