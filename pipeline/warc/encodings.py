"""HTTP bodies without their encodings (RFC 9110, 8.4, and RFC 9112, 6 and 7).

FastWARC's `auto_decode` returns a gzip body that was cut short without an error, refuses chunk extensions, and
raises in the middle of a file where a body is not encoded as stated. So bodies are read raw and decoded here.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator

from pipeline.warc.unpacking import Spend, unlimited

BODY_MAX = 64 * 2**20  # no body is read further than this, nor unpacked, all its encodings together
ENCODINGS_MAX = 5  # of one body; servers apply one or two
PIECE = 2**20
FEED, FIRST_FEED = 2**16, 2**9
PIECE_COST = 2**10  # a piece, such as a chunk of one byte, counts as so many bytes more
GZIP_MEMBERS_MAX, CHUNKS_MAX = 10_000, 1_000_000  # of one body, so that a hostile one costs seconds
CHUNK_HEADER = re.compile(rb"\s*+([0-9A-Fa-f]++)[ \t]*+(?:;[^\n]*+)?\r?\n")
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # in no text but UTF-16


class _NotEncoded(OSError):
    """The body does not begin as its stated encoding does."""


class _Cut(OSError):
    """The body ends before its encoding does."""


def undo(body: bytes, encodings: Iterable[str], spend: Spend = unlimited) -> tuple[bytes, str]:
    """The body without its encodings, named in the order in which they were applied, and a problem or "".

    The problem is `body_too_long` (cut where all layers together have BODY_MAX bytes), `truncated_body` (it ends
    early), `undecodable_encoding` or `too_many_encodings`; the body is then what could be read. A body that is not
    encoded although it is declared so is returned as it is, since crawlers often store it decoded; so is one with
    an unknown encoding, as browsers do.

    >>> undo(b"4\\r\\nwell\\r\\n0\\r\\n\\r\\n", ["chunked"])
    (b'well', '')
    >>> undo(b"not packed", ["gzip"])
    (b'not packed', '')
    """
    names = [name.partition(";")[0].strip().lower() for value in encodings for name in value.split(",")]
    names = [name for name in names if name in DECODERS]
    if len(names) > ENCODINGS_MAX:
        return body, "too_many_encodings"
    size = 0
    for name in reversed(names):
        if not body:
            break
        pieces, problem = [], ""
        try:
            for piece in DECODERS[name](body):
                spend(PIECE_COST + len(piece))
                pieces.append(piece)
                size += len(piece)
                if size > BODY_MAX:
                    problem = "body_too_long"
                    break
        except _NotEncoded:
            continue
        except OSError as error:
            if name != "chunked" and _is_text(body):
                continue
            problem = "truncated_body" if isinstance(error, _Cut) else "undecodable_encoding"
        body = b"".join(pieces)[:BODY_MAX]
        if problem:
            return body, problem
    return body, ""


def _is_text(body: bytes) -> bool:
    return body.startswith((b"\xff\xfe", b"\xfe\xff")) or not CONTROL.search(body, 0, 1024)


def _gzip(body: bytes) -> Iterator[bytes]:
    """Gzip or zlib, by their headers."""
    if not _inflates(body, 47):
        raise _NotEncoded
    yield from _inflate(body, 47)


def _deflate(body: bytes) -> Iterator[bytes]:
    """Zlib, as the standard demands, or deflate without a header, as some servers send."""
    yield from _inflate(body, 47 if _inflates(body, 47) else -15)


def _inflates(body: bytes, wbits: int) -> bool:
    try:
        zlib.decompressobj(wbits).decompress(body[:64], 1)
    except zlib.error:
        return False
    return True


def _inflate(body: bytes, wbits: int) -> Iterator[bytes]:
    """All gzip members; what follows the last one is ignored, as browsers do."""
    place = 0
    for _ in range(GZIP_MEMBERS_MAX):
        inflater = zlib.decompressobj(wbits)
        feed = FIRST_FEED
        while not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = body[place : place + feed]
                place += len(packed)
                feed = min(2 * feed, FEED)
            try:
                piece = inflater.decompress(packed, PIECE)
            except zlib.error as error:
                raise OSError(str(error)) from error
            if not packed and not piece:
                raise _Cut("deflated data end early")
            yield piece
        place -= len(inflater.unused_data)
        if not body.startswith(b"\x1f\x8b", place):
            return
    raise OSError("too many gzip members")


def _native(reader_name: str) -> Callable[[bytes], Iterator[bytes]]:
    def read(body: bytes) -> Iterator[bytes]:
        from fastwarc import stream_io

        reader = getattr(stream_io, reader_name)(io.BytesIO(body))
        while piece := reader.read(PIECE):
            yield piece

    return read


def _compress(body: bytes) -> Iterator[bytes]:
    """LZW of Unix, which no browser reads any more."""
    raise OSError("compress is not undone") if body.startswith(b"\x1f\x9d") else _NotEncoded


def _chunked(body: bytes) -> Iterator[bytes]:
    if not CHUNK_HEADER.match(body):
        raise _NotEncoded
    place = 0
    for _ in range(CHUNKS_MAX):
        header = CHUNK_HEADER.match(body, place)
        if header is None:
            raise _Cut("the last chunk is missing") if place >= len(body) else OSError("no chunk follows a chunk")
        size = int(header[1], 16)
        if size == 0:
            return
        yield body[header.end() : header.end() + size]
        place = header.end() + size
        if place > len(body):
            raise _Cut("a chunk ends early")
        place += 2 if body.startswith(b"\r\n", place) else body.startswith(b"\n", place)
    raise OSError("too many chunks")


DECODERS: dict[str, Callable[[bytes], Iterator[bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _native("BrotliReader"),
    "zstd": _native("ZstdReader"),
    "compress": _compress,
    "x-compress": _compress,
    "chunked": _chunked,
}
