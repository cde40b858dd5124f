"""Records of a damaged archive: reading continues at the next place where a whole record starts.

An archive is plain, or a chain of frames (gzip members, zstd or lz4 frames) with one record or many in each. Each
frame is unpacked by itself, so that damage costs only the frame that it hits. Three steps, from the inside out:
`_read_records` splits unpacked bytes into whole records and what is lost between them, `_frames` does so for each
frame, and `_join_unreadable` makes one loss of neighbouring frames that cannot be read. Source: WARC 1.1 (ISO
28500), section 4 and annex D; for ARC, the Internet Archive's file format, versions 1 and 2.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.warc.encodings import BODY_MAX
from pipeline.warc.frames import CHUNK, GZIP, SUFFIXES, Part, magic_of, open_frame
from pipeline.warc.unpacking import Spend, UnpacksTooFar, unlimited

HEADER_MAX = 2**15  # FastWARC's own limit
AFTER = 2**12  # bytes behind a record in which the next one must begin
LOST_MAX = 2**28  # unreadable bytes in one frame, unpacked, after which it counts as damaged
# Bytes that may be unpacked for nothing: for each byte of the file, and at least. After that, none is read twice.
WORK_PER_BYTE, WORK_MIN = 64, 2**25
# What takes time and unpacks to little counts as bytes too: as fewer than true records may unpack to.
RECORD_COST, FALSE_START_COST, NEWLINE_COST, DICTIONARY_SHARE = 2**13, 2**10, 2**4, 2**5
TOO_FAR = "unpacks_too_far"  # the reason why the rest of a file is lost
NEWLINES = re.compile(rb"[\r\n]++")


@dataclass(frozen=True)
class Record:
    """The bytes of a whole record, and where it starts: the record itself, or the frame that it is in."""

    begin: int
    data: bytes


@dataclass(frozen=True)
class Lost:
    """A part without a readable record, and the number of records that seem to start in it.

    `reason` is "" where damage is it.
    """

    begin: int
    end: int
    records: int
    reason: str = ""


@dataclass(frozen=True)
class _UnreadableFrame:
    """A frame that cannot be read, or not to its end; it counts as lost up to the next frame that can.

    `records` seem to start in what could be unpacked of it; `has_magic`: it begins as frames do.
    """

    begin: int
    records: int
    has_magic: bool = False


@dataclass(frozen=True)
class Form:
    """How records look: what may start one, its whole header, its length, and what ends it.

    A WARC header has no line that could start a record, so that the time to look for headers in a file full of
    false starts is proportional to its size.
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
# start of a line, or anywhere if it holds no other, so that no byte is read for more than two of them.
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

    def __init__(self, read: Callable[[], bytes], base: int, spend: Spend) -> None:
        self.read, self.base, self.held, self.ended, self.spend = read, base, bytearray(), False, spend
        self.error: OSError | None = None

    def fill(self, size: int) -> None:
        """Hold `size` bytes, or all there are; `error` is what ended them early. Raises UnpacksTooFar."""
        while len(self.held) < size and not self.ended:
            try:
                piece = self.read()
            except OSError as error:
                self.error, piece = error, b""
            self.spend(len(piece))
            self.held += piece
            self.ended = not piece

    def is_empty(self) -> bool:
        return self.ended and not self.held

    def drop(self, size: int) -> None:
        del self.held[:size]
        self.base += size


def _stated_length(window: _Window, form: Form) -> int:
    """Length of the record at the front, header and block, as its header says; 0 where no header says one."""
    window.fill(HEADER_MAX)
    header = form.header.match(window.held, 0, HEADER_MAX)
    if header is None:
        return 0
    values = {value.strip() for value in form.length.findall(header[0])}
    value = values.pop() if len(values) == 1 else b""
    return header.end() + int(value) if value.isdigit() and len(value) < 16 else 0


def _whole_length(window: _Window, form: Form) -> int:
    """Length of the record at the front, if it is whole and not longer than is held; else 0.

    Raises OSError where reading ended early and nothing whole is at the front.
    """
    length = _stated_length(window, form)
    if 0 < length <= BODY_MAX + HEADER_MAX and _ends_at(window, form, length):
        return length
    if window.error:
        raise window.error
    return 0


def _ends_at(window: _Window, form: Form, end: int) -> bool:
    """Whether the record at the front ends at `end`: nothing follows, or a record, or the end mark of one."""
    window.fill(end + AFTER)
    if len(window.held) < end:
        return False
    after = bytes(window.held[end : end + AFTER])
    rest = after.lstrip(b"\r\n")
    if form.start.match(after, len(after) - len(rest)):
        return True
    return window.error is None and (after.startswith(form.tail) or not rest)


def _read_records(window: _Window, form: Form, lost_max: int | None) -> Iterator[Record | Lost]:
    """Every whole record, and what is lost between them. Raises OSError as reading does."""
    while True:
        _skip_newlines(window)
        length = _whole_length(window, form)
        if not window.held:
            return
        if length:
            window.spend(RECORD_COST)
            yield Record(window.base, bytes(window.held[:length]))
            window.drop(length)
        else:
            yield _skip_to_whole(window, form, lost_max)


def _skip_to_whole(window: _Window, form: Form, lost_max: int | None) -> Lost | Record:
    """Drop all up to the next whole record, or to the end, and return what that was.

    It is lost, unless it is a single record longer than BODY_MAX. Such a record is not held whole; it counts as
    undamaged if the next record starts where its length says. Raises OSError as reading does, and after more than
    `lost_max` bytes behind its end.
    """
    begin, records = window.base, 0
    stated_end = begin + _stated_length(window, form)
    giant = bytearray()
    giant_max = BODY_MAX + 2 * HEADER_MAX if stated_end - begin > BODY_MAX else 0
    at_whole = False
    while window.held and not at_whole:
        window.spend(FALSE_START_COST)
        records += form.start.match(window.held) is not None
        passed = _seek_start(window, form)
        giant += passed[: giant_max - len(giant)]
        if lost_max is not None and window.base - stated_end > lost_max:
            raise OSError("a frame unpacks to too many unreadable bytes")
        at_whole = _whole_length(window, form) > 0
    if giant and 0 <= window.base - stated_end <= len(form.tail):
        return Record(begin, bytes(giant))
    return Lost(begin, window.base, records)


def _skip_newlines(window: _Window) -> None:
    window.fill(1)
    while newlines := NEWLINES.match(window.held):
        window.spend(NEWLINE_COST * newlines.end())
        window.drop(newlines.end())
        window.fill(1)


def _seek_start(window: _Window, form: Form) -> bytearray:
    """Drop at least one byte, and all up to what may start a record, or most of what is held; returns that."""
    window.fill(CHUNK)
    start = form.start.search(window.held, 1)
    size = start.start() if start else max(1, len(window.held) - (0 if window.ended else form.reach))
    passed = window.held[:size]
    window.drop(size)
    return passed


# Records in a file --------------------------------------------------------------------------------


def layout(data: mmap.mmap, path: str) -> tuple[bytes, Form]:
    """The magic of the frames, b"" in a plain file, and the form of the records.

    By the content, and by the name where damage hides the content.
    """
    magic = magic_of(data)
    if not magic and not WARC.start.match(data) and not ARC.header.match(data, 0, HEADER_MAX):
        magic = next((magic for suffix, magic in SUFFIXES.items() if path.endswith(suffix)), b"")
    head = data[:HEADER_MAX]
    if magic == GZIP:
        window = _Window(open_frame(data, 0, magic, b"", unlimited).read, 0, unlimited)
        window.fill(HEADER_MAX)
        head = bytes(window.held)
    named_arc = path.endswith((".arc", ".arc.gz")) and not WARC.start.match(head)
    return magic, ARC if named_arc or ARC.start.match(head) else WARC


def records(
    data: mmap.mmap, magic: bytes, words: bytes, form: Form, start: int, spend: Spend
) -> Iterator[Record | Lost]:
    """Every whole record from offset `start` of the file on, and what is lost between them.

    Where a frame holds several records, each has the offset of the frame. What is lost inside such a frame has
    that offset too, and a length in unpacked bytes. Where `spend` raises UnpacksTooFar the rest is lost.
    """
    if magic:
        yield from _join_unreadable(_frames(data, magic, words, form, start, spend), len(data))
        return
    part = Part(data, start, len(data))
    window = _Window(lambda: part.read(CHUNK), start, spend)
    try:
        yield from _read_records(window, form, None)
    except UnpacksTooFar:
        yield Lost(window.base, len(data), 1, TOO_FAR)


def _join_unreadable(items: Iterable[Record | Lost | _UnreadableFrame], end: int) -> Iterator[Record | Lost]:
    """The items with neighbouring unreadable frames as one loss, up to the next item or to `end`."""
    begin, count = None, 0
    for item in items:
        if isinstance(item, _UnreadableFrame):
            # Behind damage, most places with a magic are no frames: only the first counts as a record for it.
            count += item.records or (begin is None and item.has_magic)
            begin = item.begin if begin is None else begin
            continue
        if begin is not None:
            yield Lost(begin, item.begin, count)
            begin, count = None, 0
        yield item
    if begin is not None:
        yield Lost(begin, end, count)


def _frames(
    data: mmap.mmap, magic: bytes, words: bytes, form: Form, start: int, spend: Spend
) -> Iterator[Record | Lost | _UnreadableFrame]:
    """What is in each frame, from an offset of the file on; behind a damaged one, from the next magic on."""
    wasted = 0  # bytes unpacked or read for nothing
    while start < len(data):
        window, frame = _Window(bytes, 0, spend), None
        try:
            spend(len(words) // DICTIONARY_SHARE)  # each frame loads it anew
            frame = open_frame(data, start, magic, words, spend)
            window.read = frame.read
            yield from _in_frame(window, form, start)
            start = frame.end
        except UnpacksTooFar:
            yield Lost(start, len(data), 1, TOO_FAR)
            return
        except OSError as error:
            has_magic = data[start : start + 3] == magic[:3]
            yield _UnreadableFrame(start, int(form.start.match(window.held) is not None), has_magic)
            reached = min(frame.end if frame else getattr(error, "end", start), len(data))
            wasted += reached - start + window.base + len(window.held)
            # True frames may lie inside a false one: they are looked for there, while that is not too much work.
            look_inside = wasted < WORK_PER_BYTE * len(data) + WORK_MIN
            start = data.find(magic, start + 1 if look_inside else max(reached, start + 1))
            start = start if start >= 0 else len(data)


def _in_frame(window: _Window, form: Form, begin: int) -> Iterator[Record | Lost | _UnreadableFrame]:
    """What is in the frame that begins at `begin`. Raises OSError where the frame is damaged."""
    is_first = True
    for item in _read_records(window, form, LOST_MAX):
        if isinstance(item, Record):
            yield Record(begin, item.data)
        elif is_first and window.is_empty():
            yield _UnreadableFrame(begin, item.records)
        else:
            yield Lost(begin, begin + item.end - item.begin, item.records)
        is_first = False
