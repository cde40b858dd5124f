"""Responses of a web archive, where damage costs only the records that it hits.

An undamaged file is read by FastWARC alone. FastWARC ends a file at the first damage, and does not report a file
that was cut short, so a record counts as undamaged only when the next one begins behind it. From the first record
for which that is not so, the file is read frame by frame (`pipeline.warc.resync`).
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.warc import resync
from pipeline.warc.content import BLOCK_MAX, Response, read_content
from pipeline.warc.encodings import BODY_MAX
from pipeline.warc.fields import Fields
from pipeline.warc.frames import GZIP, Part, dictionary
from pipeline.warc.unpacking import Spend, UnpacksTooFar, allowance

# Of a compressed file: bytes that are read at a time, and at most from the end of a record to the next one; and
# how much FastWARC unpacks before it gives a record. It fills a buffer of 128 kB, which may unpack from as many.
PIECE, BETWEEN, AHEAD = 2**14, 2**17 + 2**15, 2**16


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


def responses(path: str | Path) -> Iterator[Response | Damage]:
    """Every response and conversion record of an archive in order, and every damage between them.

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
            magic, form = resync.layout(data, str(path))
            words = dictionary(data, magic)
            start = 0
            # FastWARC 2.0.1 has wrong offsets in lz4, and panics; it unpacks a zstd frame of any size at once.
            if form is resync.WARC and magic in (b"", GZIP):
                start = yield from _sound_responses(path, data, magic, spend)
            for item in resync.records(data, magic, words or b"", form, start, spend):
                if isinstance(item, resync.Lost):
                    yield _damage(item, size)
                    continue
                try:
                    response = _parse(item.data, item.begin, form, spend)
                except UnpacksTooFar:
                    yield Damage(item.begin, size - item.begin, resync.TOO_FAR)
                    return
                except OSError:
                    yield Damage(item.begin, len(item.data), "damaged_record")
                    continue
                if response is not None:
                    yield response


def _damage(lost: resync.Lost, size: int) -> Damage:
    if lost.reason:
        reason = lost.reason
    elif not lost.records:
        reason = "no_archive" if lost.end - lost.begin >= size else "garbage"
    else:
        reason = "truncated_file" if lost.end == size else "damaged_record"
    return Damage(lost.begin, lost.end - lost.begin, reason, max(1, lost.records))


class _Compressed(Part):
    """A file as FastWARC unpacks it. Between two records it looks for the next one, newline by newline: `left` is
    how many bytes it may read for that."""

    left = BETWEEN

    def read(self, size: int = -1) -> bytes:
        piece = super().read(min(size, PIECE))
        self.left -= len(piece)
        if self.left < 0:
            raise OSError("no record follows")
        return piece


def _sound_responses(
    path: str | Path, data: mmap.mmap, magic: bytes, spend: Spend
) -> Generator[Response, None, int]:
    """The responses of all records behind which another record begins, as fast as FastWARC reads.

    Returns the offset of the first record that is not one of them: the last one at the latest. So reading on from
    there finds what FastWARC does not report about the end of a file. The file is plain or gzip.
    """
    from fastwarc.stream_io import GzipReader

    start, place, held = -1, 0, None
    source = _Compressed(data, 0, len(data))
    try:
        # A plain path is read natively, much faster than a Python file object.
        reader: Any = GzipReader(source) if magic else None
        for record in _iterate(reader or str(path)):
            begin = reader.frame_start_position() if reader else record.stream_pos
            if begin <= start or not data[begin : begin + 5].startswith(magic or b"WARC/"):
                break  # several records in a frame
            if record.content_length == 0 and record.headers.get("Content-Length") != "0":
                break  # FastWARC gives this for a length that it cannot read
            if record.content_length > BODY_MAX:
                break  # FastWARC would unpack all of it
            if held is not None:
                yield held
            start, held = begin, None
            ahead = min(record.content_length, AHEAD)
            gap = max(0, reader.tell() - place - ahead) if reader else 0
            spend(resync.RECORD_COST + resync.NEWLINE_COST * gap + record.content_length)  # which may be a lie
            source.left = len(data)
            block = record.reader.read(min(record.content_length, BLOCK_MAX))
            held = read_content(_fields(record), block, record.content_length, begin, spend)
            record.reader.read(record.content_length)
            source.left, place = BETWEEN, reader.tell() if reader else 0
    except (OSError, UnpacksTooFar):
        pass
    except BaseException as error:  # a panic of Rust code is no Exception
        if type(error).__name__ != "PanicException":
            raise
    return max(start, 0)


def _iterate(source: Any) -> Any:
    from fastwarc.warc import ArchiveIterator

    return ArchiveIterator(source, parse_http=False, max_header_len=resync.HEADER_MAX, fsspec_args=False)


def _parse(record: bytes, offset: int, form: resync.Form, spend: Spend) -> Response | None:
    """The response in the bytes of one record. Raises OSError where they are no record."""
    if form is resync.ARC:
        record = _arc_to_warc(record)
    for parsed in _iterate(io.BytesIO(record)):
        block = parsed.reader.read(min(parsed.content_length, BLOCK_MAX))
        return read_content(_fields(parsed), block, parsed.content_length, offset, spend)
    raise OSError("not a WARC record")


def _fields(record: Any) -> Fields:
    values: dict[bytes, list[bytes]] = {}
    for name, value in record.headers.astuples():
        values.setdefault(name.lower().encode(), []).append(value.encode())
    return Fields(values)


def _arc_to_warc(record: bytes) -> bytes:
    """The same record as WARC. Source: the Internet Archive's ARC file format, versions 1 and 2."""
    line, _, block = record.partition(b"\n")
    url, _, date, media_type = line.split(b" ")[:4]
    http = url.startswith((b"http:", b"https:"))
    fields = {
        b"WARC-Type": b"warcinfo" if url.startswith(b"filedesc:") else b"response",
        b"WARC-Target-URI": url,
        b"WARC-Date": re.sub(rb"(....)(..)(..)(..)(..)(..)", rb"\1-\2-\3T\4:\5:\6Z", date),
        b"Content-Type": b"application/http; msgtype=response" if http else media_type,
        b"Content-Length": b"%d" % len(block),
    }
    header = b"".join(b"%s: %s\r\n" % field for field in fields.items())
    return b"WARC/1.0\r\n" + header + b"\r\n" + block + b"\r\n\r\n"
