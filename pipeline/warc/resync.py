"""Records of a damaged archive: reading goes on at the next place where a record really starts.

An archive is a chain of frames (gzip members, zstd or lz4 frames) with a record in each, or with many, or it is
plain. Each frame is unpacked by itself, so damage is known exactly, and costs only the frame that it hits.
Source: WARC 1.1 (ISO 28500), section 4 and annex D; for ARC, the Internet Archive's file format, versions 1 and 2.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.warc.encodings import BODY_MAX
from pipeline.warc.frames import CHUNK, GZIP, SUFFIXES, Part, dictionary, magic_of, open_frame

HEADER_MAX = 2**15  # FastWARC's own limit
AFTER = 2**12  # bytes behind a record that are looked at
LOST_MAX = 2**28  # a frame that unpacks to more unreadable bytes than this is given up
# What may be unpacked in vain for each byte of the file, and at least; after that, nothing is read twice.
WORK_PER_BYTE, WORK_MIN = 64, 2**25
NEWLINES = re.compile(rb"[\r\n]++")


@dataclass(frozen=True)
class Lost:
    """A stretch that holds no readable record, and the number of records that seem to start in it."""

    begin: int
    end: int
    records: int


@dataclass(frozen=True)
class Form:
    """How records look: what may start one, its whole header, its length, and what ends it.

    A WARC header holds no line that could start a record, so that looking for headers in a file full of false
    starts takes time proportional to its size.
    """

    start: re.Pattern[bytes]
    header: re.Pattern[bytes]
    length: re.Pattern[bytes]
    tail: bytes
    reach: int  # no start is longer


WARC = Form(
    start=re.compile(rb"WARC/[01]\.\d\d?\r?\n"),
    header=re.compile(
        rb"WARC/[01]\.\d\d?+\r?\n(?:(?!\r?\n)[^\n]*+(?<!WARC/[01]\.\d)(?<!WARC/[01]\.\d\r)\n)++\r?\n"
    ),
    length=re.compile(rb"\n[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll][Ee][Nn][Gg][Tt][Hh][ \t]*:[ \t]*([^\r\n]*)"),
    tail=b"\r\n\r\n",
    reach=16,
)
# URL, IP address, 14 digits of time, type, sometimes more fields, length. After damage, a URL is looked for at the
# start of a line, or anywhere if it holds no other, so that no byte is looked at for more than two of them.
_SCHEME, _TIME = rb"(?:https?|ftp|dns|filedesc):", rb" [0-9A-Fa-f.:]{2,45} \d{14} "
ARC = Form(
    start=re.compile(
        rb"(?:(?<=\n)%b\S{1,2000}+|%b(?:(?!%b)\S){1,2000}+)%b" % (_SCHEME, _SCHEME, _SCHEME, _TIME),
    ),
    header=re.compile(rb"%b\S{1,2000}+%b(?:[^\n ]{1,128} ){0,8}[^\n ]{1,128}\n" % (_SCHEME, _TIME)),
    length=re.compile(rb" ([^\s]+)\n"),
    tail=b"\n",
    reach=2**12,
)


class _Window:
    """The unpacked bytes from `base` on, of which only those that are looked at are held."""

    def __init__(self, read: Callable[[], bytes], base: int) -> None:
        self.read, self.base, self.held, self.ended = read, base, bytearray(), False
        self.error: OSError | None = None

    def fill(self, size: int) -> None:
        """Hold `size` bytes, or all there are; `error` is what ended them early."""
        while len(self.held) < size and not self.ended:
            try:
                piece = self.read()
            except OSError as error:
                self.error, piece = error, b""
            self.held += piece
            self.ended = not piece

    def is_empty(self) -> bool:
        return self.ended and not self.held

    def drop(self, size: int) -> None:
        del self.held[:size]
        self.base += size


def _header(window: _Window, form: Form) -> tuple[int, int] | None:
    """Lengths of the header at the front and of the block behind it, -1 if that is no number; or None."""
    window.fill(HEADER_MAX)
    header = form.header.match(window.held, 0, HEADER_MAX)
    if header is None:
        return None
    lengths = {value.strip() for value in form.length.findall(header[0])}
    value = lengths.pop() if len(lengths) == 1 else b""
    return header.end(), int(value) if value.isdigit() and len(value) < 16 else -1


def _is_whole(window: _Window, form: Form, end: int) -> bool:
    """Whether the record at the front ends at `end`: the end, another record or what ends a record follows."""
    window.fill(end + AFTER)
    if len(window.held) < end:
        return False
    after = bytes(window.held[end : end + AFTER])
    rest = after.lstrip(b"\r\n")
    if form.start.match(after, len(after) - len(rest)):
        return True
    return window.error is None and (after.startswith(form.tail) or not rest)


def _split(window: _Window, form: Form, lost_max: int | None) -> Iterator[tuple[int, bytes] | Lost]:
    """Every whole record with its place, and what is lost between them. Raises OSError as reading does.

    A record longer than BODY_MAX is not held whole: it is sound if the next record starts where it should.
    """
    lost: int | None = None
    found, giant_end, giant = 0, 0, b""
    while True:
        if lost is None:
            _skip_newlines(window)
        window.fill(1)
        lengths = _header(window, form) if window.held else None
        end = sum(lengths) if lengths and lengths[1] >= 0 else 0
        whole = 0 < end <= BODY_MAX + HEADER_MAX and _is_whole(window, form, end)
        if window.error and not whole:
            raise window.error
        if lost is not None and (whole or not window.held):
            if giant and 0 <= window.base - giant_end <= len(form.tail):
                yield lost, giant
            else:
                yield Lost(lost, window.base, found)
            lost, found, giant = None, 0, b""
        if not window.held:
            return
        if whole:
            yield window.base, bytes(window.held[:end])
            window.drop(end)
            continue
        if lost is None:
            lost = window.base
            if end > BODY_MAX:
                window.fill(BODY_MAX + 2 * HEADER_MAX)
                giant, giant_end = bytes(window.held[: BODY_MAX + 2 * HEADER_MAX]), lost + end
        found += form.start.match(window.held) is not None
        _seek_start(window, form)
        if lost_max is not None and window.base - lost > lost_max:
            raise OSError("a frame unpacks to too many unreadable bytes")


def _skip_newlines(window: _Window) -> None:
    window.fill(1)
    while newlines := NEWLINES.match(window.held):
        window.drop(newlines.end())
        window.fill(1)


def _seek_start(window: _Window, form: Form) -> None:
    """Drop at least one byte, and all up to what may start a record, or most of what is held."""
    window.fill(CHUNK)
    start = form.start.search(window.held, 1)
    window.drop(start.start() if start else max(1, len(window.held) - (0 if window.ended else form.reach)))


# Records in a file --------------------------------------------------------------------------------


def layout(data: mmap.mmap, path: str) -> tuple[bytes, Form]:
    """What each frame begins with, b"" in a plain file, and the form of the records.

    By the content; by the name where damage hides what the content is.
    """
    magic = magic_of(data)
    if not magic and not WARC.start.match(data) and not ARC.header.match(data, 0, HEADER_MAX):
        magic = next((magic for suffix, magic in SUFFIXES.items() if path.endswith(suffix)), b"")
    head = data[:HEADER_MAX]
    if magic == GZIP:
        window = _Window(open_frame(data, 0, magic, None).read, 0)
        window.fill(HEADER_MAX)
        head = bytes(window.held)
    named_arc = path.endswith((".arc", ".arc.gz")) and not WARC.start.match(head)
    return magic, ARC if named_arc or ARC.start.match(head) else WARC


def records(data: mmap.mmap, magic: bytes, form: Form, start: int) -> Iterator[tuple[int, bytes] | Lost]:
    """Every whole record from an offset of the file on, with its offset, and what is lost between them.

    The offset is that of the frame, where a frame holds several records; what is lost in such a frame is told in
    unpacked bytes.
    """
    if not magic:
        part = Part(data, start, len(data))
        yield from _split(_Window(lambda: part.read(CHUNK), start), form, None)
        return
    words = dictionary(data, magic)
    work, lost, found = 0, None, 0  # `lost`: where the stretch of frames that cannot be read begins
    while start < len(data):
        window, frame, begun = _Window(bytes, 0), None, False
        try:
            frame = open_frame(data, start, magic, words)
            window.read = frame.read
            for item in _split(window, form, LOST_MAX):
                if isinstance(item, Lost) and not begun and window.is_empty():
                    lost = start if lost is None else lost
                    found += item.records
                    break
                if lost is not None:
                    yield Lost(lost, start, found)
                    lost, found = None, 0
                begun = True
                if isinstance(item, Lost):
                    yield Lost(start, start + item.end - item.begin, item.records)
                else:
                    yield start, item[1]
            start = frame.end
        except OSError as error:
            found += (lost is None and data[start : start + 3] == magic[:3]) or form.start.match(
                window.held
            ) is not None
            lost = start if lost is None else lost
            reached = min(frame.end if frame else getattr(error, "end", start), len(data))
            work += reached - start + window.base + len(window.held)
            again = work < WORK_PER_BYTE * len(data) + WORK_MIN
            start = data.find(magic, start + 1 if again else max(reached, start + 1))
            start = start if start >= 0 else len(data)
    if lost is not None:
        yield Lost(lost, len(data), found)
