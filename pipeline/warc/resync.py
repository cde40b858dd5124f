"""Records of an archive, whatever its form: reading continues behind damage where a whole record starts.

An archive is plain, or a chain of frames (gzip members, zstd or lz4 frames); a frame may hold many records and a
record may lie in many frames. Three steps, from the inside out: `_read_window` splits bytes in which no damage is
seen into whole records and what is lost between them, `_parts` does so for all such stretches of a file, and
`records` makes one loss of what is lost between two records.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pipeline.warc.content import BLOCK_MAX
from pipeline.warc.frames import CHUNK, DICTIONARY, FRAME, SUFFIXES, FrameError, Frames, PlainFile
from pipeline.warc.headers import ARC, HEADER_MAX, WARC, Form, Header, fits_digest
from pipeline.warc.unpacking import Spend, UnpacksTooFar
from pipeline.warc.usual import RECORD_COST, TAIL, Record, usual_members, usual_record
from pipeline.warc.window import BLANK, Window

HELD_MAX = BLOCK_MAX + HEADER_MAX  # a longer record is not held whole
AFTER = 2**10  # bytes behind a record in which the next one must begin
LOST_MAX = 2**28  # unreadable bytes in one stretch, unpacked, after which it counts as damaged
# Bytes that may be unpacked for nothing: for each byte of the file, and at least. After that, none is read twice.
WORK_PER_BYTE, WORK_MIN = 64, 2**25
# What takes time and unpacks to little counts as bytes too: as fewer than true records may unpack to.
FALSE_START_COST, FALSE_FRAME_COST = 2**11, 2**13
PASSED_COST = 2**2  # a lost byte counts as so many more, for the time to look through it
TOO_FAR = "unpacks_too_far"  # the reason why the rest of a file is lost


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
class _Part:
    """What is lost in a stretch: so many bytes of it, from the offset `begin` on, with so many records.

    `is_frame`: it is a damaged frame.
    """

    begin: int
    size: int
    records: int
    is_frame: bool = False


def records(data: mmap.mmap, path: str, spend: Spend, start: int = 0) -> Iterator[Record | Lost]:
    """Every whole record of a file from the offset `start` of one on, and what is lost between them.

    Where the next record begins in the same frame as a loss, the loss has a length in unpacked bytes. Where
    `spend` raises UnpacksTooFar the rest is lost.
    """
    lost: list[_Part] = []
    for item in _parts(data, path, spend, start):
        if isinstance(item, _Part):
            lost.append(item)
            continue
        if lost:
            yield _loss(lost, item.begin, len(data))
            lost = []
        yield item
    if lost:
        yield _loss(lost, len(data), len(data))


def _loss(parts: list[_Part], end: int, size: int) -> Lost:
    begin = parts[0].begin
    end = end if end > begin else min(begin + sum(part.size for part in parts), size)
    # A damaged frame behind sound ones may go on with the record that they end in.
    pairs = pairwise([parts[0], *parts])
    records = sum(part.records for before, part in pairs if before.is_frame or not part.is_frame)
    return Lost(begin, end, max(records, int(parts[0].is_frame)))


def _parts(data: mmap.mmap, path: str, spend: Spend, start: int) -> Iterator[Record | Lost | _Part]:
    """What is in each stretch of the file in which no damage is seen, and what is between them."""
    frames = Frames(data, spend)
    plain = PlainFile(frames)
    form = ARC if path.endswith((".arc", ".arc.gz")) else WARC
    place, inside, wasted = start, 0, 0
    if start and data[: len(DICTIONARY)] == DICTIONARY:
        with contextlib.suppress(FrameError):
            next(frames.pieces(0), None)
    while (place := (yield from usual_members(data, place, spend))) < len(data):
        is_frame = FRAME.match(data, place) is not None
        window = Window(frames if is_frame else plain, place, spend)
        try:
            if place == 0 and ARC.begins(window, 0):
                form = ARC
            if not (is_frame or _is_boundary(window) or (place == 0 and not path.endswith(SUFFIXES))):
                begin, place = place, _next_frame(data, place)
                yield _Part(begin, place - begin, 0)
                continue
            for item in _read_window(window, form):
                form = item.form if isinstance(item, Record) else form
                yield item
            place = frames.place if is_frame else window.place
            if window.error:
                yield _Part(place, 0, int(frames.given == 0 and place >= inside), is_frame=True)
                window.spend(FALSE_FRAME_COST)
                reached = min(max(place + 1, window.error.end), len(data))
                inside = max(inside, reached)
                wasted += reached - place + frames.given
                # True frames may lie inside a false one: they are looked for there, while that is little work.
                look_inside = wasted < WORK_PER_BYTE * len(data) + WORK_MIN
                place = _next_frame(data, place + 1 if look_inside else reached)
        except UnpacksTooFar:
            yield Lost(window.offset() if window.begin is None else window.begin, len(data), 1, TOO_FAR)
            return


def _next_frame(data: mmap.mmap, place: int) -> int:
    frame = FRAME.search(data, place)
    return frame.start() if frame else len(data)


def _is_boundary(window: Window) -> bool:
    """Whether a record begins at the front, or nothing does."""
    return not window.skip_blank() or _begins(window, 0)


def _begins(window: Window, ahead: int) -> bool:
    """Whether a record begins so many bytes behind the front."""
    return WARC.begins(window, ahead) or ARC.begins(window, ahead)


def _read_window(window: Window, form: Form) -> Iterator[Record | _Part]:
    """Every whole record, and what is lost between them.

    Ends where the bytes do, and where frames follow plain records.
    """
    while window.skip_blank():
        window.begin = window.offset()
        record = usual_record(window.held, window.front, window.begin)
        if record is None or window.place + record.size + len(TAIL) > window.checked:
            header = form.header(window)
            if header is None and _is_frame(window, 0):
                break
            record = _whole(window, form, header) or _whole_other(window, form)
            if record is None:
                item = _skip_to_whole(window, form, header)
                window.begin = None
                yield item
                continue
        window.spend(RECORD_COST)
        window.drop(record.size)
        form = record.form
        window.begin = None
        yield record


def _is_frame(window: Window, ahead: int) -> bool:
    """Whether a plain file goes on there with frames, and these with a record."""
    if not isinstance(window.source, PlainFile):
        return False
    window.fill(ahead + 4)
    if FRAME.match(window.held, window.front + ahead) is None:
        return False
    unpacked = Window(window.source.frames, window.place + ahead, window.spend)
    return unpacked.skip_blank() and _begins(unpacked, 0)


def _whole(window: Window, form: Form, header: Header | None) -> Record | None:
    """The record at the front, if it is whole and no longer than may be held."""
    if header is None or header.length is None or header.length > HELD_MAX:
        return None
    size = len(header.lines)
    if not _ends_at(window, form, size + header.length):
        return None
    block = window.held[window.front + size : window.front + size + min(header.length, BLOCK_MAX)]
    if window.place + size + header.length > window.damaged and not fits_digest(header.lines, block):
        return None
    return Record(window.offset(), form, header.lines, block, header.length)


def _whole_other(window: Window, form: Form) -> Record | None:
    """The same for a record of the other form: archives of both may be one file."""
    other = WARC if form is ARC else ARC
    return _whole(window, other, other.header(window))


def _ends_at(window: Window, form: Form, end: int) -> bool:
    """Whether the record at the front ends there.

    Behind it is its mark of the end, or nothing more, in a sound frame, or else another record.
    """
    for after in (0, AFTER):
        if not window.fill(end + after) and len(window.held) - window.front < end:
            return False
        tail = form.tail.match(window.held, window.front + end)
        if tail and window.place + tail.end() - window.front <= window.checked:
            return True
    blank = BLANK.match(window.held, window.front + end)
    after = blank.end() - window.front if blank else end
    if window.place + end <= window.checked <= window.place + after or (tail and not window.error):
        return True
    return _begins(window, after) or _is_frame(window, after)


def _skip_to_whole(window: Window, form: Form, header: Header | None) -> Record | _Part:
    """Drop all up to the next record that may be whole, or to the end, and return what that was.

    It is lost, unless it is a single record that is too long to be held: that one is undamaged if another record
    begins where it ends.
    """
    begin, place, starts, traces = window.offset(), window.place, 0, 0
    giant = header if _is_giant(header) else None
    lines, length = giant or (b"", 0)
    end = place + len(lines) + (length or 0)
    kept = bytearray()
    window.spend(RECORD_COST)
    while True:
        window.spend(FALSE_START_COST)
        starts += form.begins(window, 0)
        passed = _pass_by(window, form, end - window.place)
        if giant is None:
            window.spend(PASSED_COST * len(passed))
            traces += len(form.traces.findall(passed))
        if giant and window.place <= end:
            kept += passed[: len(lines) + BLOCK_MAX - len(kept)]
            if window.place == end and _ends_at(window, form, 0):
                return Record(begin, form, lines, bytes(kept[len(lines) :]), length or 0)
        if window.source.begin is not None and window.place - end > LOST_MAX:
            window.end_at(FrameError("unpacks to too many unreadable bytes", begin))
            window.drop(len(window.held) - window.front)
        if window.is_empty() or _is_frame(window, 0) or _may_be_whole(window, form):
            return _Part(begin, window.place - place, max(starts, traces))


def _is_giant(header: Header | None) -> bool:
    return header is not None and header.length is not None and header.length > HELD_MAX


def _pass_by(window: Window, form: Form, most: int) -> bytes:
    """Drop at least one byte, and all up to what may start a record, or most of what is held; returns that.

    No more than `most` bytes, if that is above 0.
    """
    window.fill(CHUNK)
    have = len(window.held) - window.front
    matches = form.start.finditer(window.held, window.front)
    places = (match.start() + match[0].startswith(b"\n") - window.front for match in matches)
    rest = max(1, have - (0 if window.has_ended else form.start_max))
    size = next((place for place in places if place > 0), rest)
    if most > 0:
        size = min(size, most)
    elif isinstance(window.source, PlainFile):
        matches = FRAME.finditer(window.held, window.front + 1, window.front + size)
        frames = (match.start() - window.front for match in matches)
        size = next((place for place in frames if _is_frame(window, place)), size)
    passed = window.held[window.front : window.front + size]
    window.drop(size)
    return passed


def _may_be_whole(window: Window, form: Form) -> bool:
    """Whether a record is at the front that is whole, or too long to be held."""
    header = form.header(window)
    if header is None or header.length is None:
        return False
    return _is_giant(header) or _ends_at(window, form, len(header.lines) + header.length)
