"""The usual record of today's crawls, in the usual place: a gzip member that has nothing else.

Nearly all records are such ones. They are read here at once, about twice as fast as by what `pipeline.warc.resync`
does for any record, and only where no doubt is: the header is as the standard has it, the block is as long as it
says, the mark of its end stands at the end of the member, and the checksum of the member is right.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Generator
from typing import NamedTuple

from zlib_ng import zlib_ng

from pipeline.warc.frames import GZIP, ZlibError
from pipeline.warc.headers import HEADER_MAX, WARC, Form
from pipeline.warc.unpacking import Spend, UnpacksTooFar

# What takes time and unpacks to little counts as bytes too: as fewer than true records may unpack to.
RECORD_COST = 2**13
FIRST_CHUNK, SECOND_CHUNK = 2**12, 2**17  # bytes to read of a member
UNPACKED_MAX = 2**20  # bytes that each of them may unpack to
TAIL = b"\r\n\r\n"
_OTHER_LINE = rb"(?!\r\n|WARC/|[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll])[^\n]*+\n"
HEADER = re.compile(
    rb"WARC/1\.[01]\r\n(?>%b)*+Content-Length: (\d{1,9})\r\n(?>%b)*+\r\n" % (_OTHER_LINE, _OTHER_LINE)
)


class Record(NamedTuple):
    """A whole record: `block` is its block, or the beginning of a very long one, and `length` how long it is.

    `begin` is the offset of the record, or of the frame that it begins in.
    """

    begin: int
    form: Form
    header: bytes
    block: bytes
    length: int

    @property
    def size(self) -> int:
        """Bytes of the record, without the mark of its end."""
        return len(self.header) + self.length


def usual_record(data: bytes, place: int, begin: int) -> Record | None:
    """The record at a place of unpacked bytes, if it is a usual one and its tail is there."""
    match = HEADER.match(data, place, place + HEADER_MAX)
    if match is None:
        return None
    header, length, start = match[0], int(match[1]), match.end()
    if not data.startswith(TAIL, start + length) or header.count(b"WARC/") > 1:
        return None
    return Record(begin, WARC, header, data[start : start + length], length)


def usual_members(data: mmap.mmap, place: int, spend: Spend) -> Generator[Record, None, int]:
    """The records of the gzip members from an offset on, up to one that is no usual one; returns its offset."""
    while data[place : place + 3] == GZIP:
        inflater = zlib_ng.decompressobj(31)
        end = place + FIRST_CHUNK
        try:
            block = inflater.decompress(data[place:end], UNPACKED_MAX)
            if not inflater.eof:
                packed = inflater.unconsumed_tail + data[end : end + SECOND_CHUNK]
                end += SECOND_CHUNK
                block += inflater.decompress(packed, UNPACKED_MAX)
        except ZlibError:
            break
        record = usual_record(block, 0, place) if inflater.eof else None
        if record is None or record.size + len(TAIL) != len(block):
            break
        try:
            spend(RECORD_COST + len(block))
        except UnpacksTooFar:
            break
        yield record
        place = min(end, len(data)) - len(inflater.unused_data)
    return place
