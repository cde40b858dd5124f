"""Frames of a compressed archive: gzip members, zstd frames and lz4 frames, each unpacked by itself.

Archives of different kinds may stand one behind the other, since any two archives make one. Sources: RFC 1952;
RFC 8878; the LZ4 frame format 1.6; for dictionaries, the IIPC's WARC-Zstandard draft.
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Callable, Iterator
from typing import Any

from zlib_ng import zlib_ng

from pipeline.warc.unpacking import Spend

CHUNK = 2**18  # bytes to unpack at a time
FIRST_CHUNK, LAST_CHUNK = 2**12, 2**16  # bytes of a gzip member to read at a time
LAST_READ = 2**6  # bytes to unpack at a time where damage is near
NEVER = 2**63
ZlibError: type[Exception] = zlib_ng.error  # type: ignore[assignment]  # the stub has an instance
DICTIONARY_MAX = 2**22  # bytes; those in use have 100 kB to 1 MB, and it is loaded for each frame
DICTIONARY_SHARE = 2**5  # one byte in so many of it counts as unpacked, each time
# Bytes that a frame, and a block of zstd or lz4, count as, which may have 8 and 3.
FRAME_COST, BLOCK_COST = 2**9, 2**9

GZIP, ZSTD, LZ4, DICTIONARY = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x5d\x2a\x4d\x18"
SUFFIXES = (".gz", ".zst", ".lz4")
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
FRAME = re.compile(rb"\x1f\x8b\x08[\x00-\x1f]|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|[\x50-\x5f]\x2a\x4d\x18")


class FrameError(OSError):
    """There is no frame, or a damaged one. `end` is the offset up to which it was read."""

    def __init__(self, reason: str, end: int) -> None:
        super().__init__(reason)
        self.end = end


# The pieces of a frame, each with the offset where the frame ends if it is the last one and the frame is sound,
# else 0. After `careful` bytes damage is near: the pieces are short, since the call that meets it gives none.
Pieces = Iterator[tuple[bytes, int]]


def _gzip_pieces(data: mmap.mmap, start: int, careful: int) -> Pieces:
    """The gzip member at `start`. Raises FrameError where it is damaged."""
    inflater = zlib_ng.decompressobj(31)
    place, chunk, given, size = start, FIRST_CHUNK, 0, CHUNK
    while True:
        packed = inflater.unconsumed_tail
        if not packed:
            packed = data[place : place + chunk]
            place += len(packed)
            chunk = LAST_CHUNK
        if given >= careful:
            size = LAST_READ
        try:
            piece = inflater.decompress(packed, size)
        except ZlibError as error:
            raise FrameError(str(error), place - len(packed)) from error
        if inflater.eof:
            yield piece, place - len(inflater.unused_data)
            return
        if piece:
            given += len(piece)
            yield piece, 0
        elif not packed:
            raise FrameError("a gzip member ends early", place)


def _native_pieces(data: mmap.mmap, start: int, end: int, reader: Callable[[Any], Any], careful: int) -> Pieces:
    """The zstd or lz4 frame from `start` to `end`, read by FastWARC. Raises FrameError where it is damaged."""
    given = 0
    try:
        frame = reader(Part(data, start, end))
        while piece := bytes(frame.read(CHUNK if given < careful else LAST_READ)):
            given += len(piece)
            yield piece, 0
    except OSError as error:
        raise FrameError(str(error), end) from error
    yield b"", end


class Part(io.RawIOBase):
    """Part of a file that looks like a whole file to its reader."""

    def __init__(self, data: mmap.mmap, start: int, end: int) -> None:
        self.data, self.start, self.end, self.place = data, start, end, start

    def read(self, size: int = -1) -> bytes:
        stop = self.end if size < 0 else min(self.place + size, self.end)
        piece = self.data[self.place : stop]
        self.place += len(piece)
        return piece

    def tell(self) -> int:
        return self.place - self.start

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: self.start, 1: self.place, 2: self.end}[whence]
        self.place = min(max(self.start, base + offset), self.end)
        return self.tell()


def _little_endian(data: Any, start: int, size: int) -> int:
    """A little-endian number. Raises FrameError behind the end of the file."""
    if start + size > len(data):
        raise FrameError("the file ends early", start)
    return int.from_bytes(data[start : start + size], "little")


def _zstd_end(data: mmap.mmap, start: int, spend: Spend) -> int:
    """Where the zstd frame at `start` ends (RFC 8878, 3.1.1). Raises FrameError where there is none."""
    descriptor = _little_endian(data, start + 4, 1)
    single_segment = descriptor >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    place = start + 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size
    last = 0
    while not last:
        spend(BLOCK_COST)
        block = _little_endian(data, place, 3)
        last, kind = block & 1, block >> 1 & 3
        if kind == 3:
            raise FrameError("a zstd block of the reserved kind", place)
        place += 3 + (1 if kind == 1 else block >> 3)
    place += 4 * (descriptor >> 2 & 1)
    if place > len(data):
        raise FrameError("a zstd frame ends early", place)
    return place


def _lz4_end(data: mmap.mmap, start: int, spend: Spend) -> int:
    """Where the lz4 frame at `start` ends. Raises FrameError where there is none."""
    flags = _little_endian(data, start + 4, 1)
    if flags >> 6 != 1:
        raise FrameError("an lz4 frame of an unknown version", start)
    place = start + 7 + 8 * (flags >> 3 & 1) + 4 * (flags & 1)
    while block := _little_endian(data, place, 4):
        spend(BLOCK_COST)
        place += 4 + (block & 0x7FFFFFFF) + 4 * (flags >> 4 & 1)
    place += 4 + 4 * (flags >> 2 & 1)
    if place > len(data):
        raise FrameError("an lz4 frame ends early", place)
    return place


class Frames:
    """All frames of a file one behind the other (a `Source`).

    `place` is the offset of the frame that is read, or of what is behind the last one. `begin` is the offset of
    the frame that the last piece is of, `given` what its pieces have, `is_checked` tells that it is sound, and
    `is_damaged` that it is not.
    """

    def __init__(self, data: mmap.mmap, spend: Spend) -> None:
        self.data, self.spend = data, spend
        self.place = self.begin = self.given = 0
        self.is_checked = self.is_damaged = False
        self.dictionary: bytes | None = b""

    def pieces(self, place: int) -> Iterator[bytes]:
        """The bytes of the frames from an offset on, up to where none begins.

        Raises FrameError at a damaged frame, behind its bytes up to the damage, and UnpacksTooFar as `spend` does.
        """
        self.place, self.is_damaged = place, False
        while FRAME.match(self.data, self.place):
            self.begin, self.given, self.is_checked = self.place, 0, False
            self.spend(FRAME_COST)
            frame = self._frame(self.begin, NEVER)
            try:
                for piece, end in frame:
                    self.given += len(piece)
                    self.is_checked = end > 0
                    if end:
                        self.place = end
                    if piece:
                        yield piece
            except FrameError:
                self.is_damaged = True
                if last := self._up_to_damage():
                    yield last
                raise

    def _up_to_damage(self) -> bytes:
        """What is left of a damaged frame before the damage: the call that failed gave nothing."""
        last, given = [], 0
        try:
            for piece, _ in self._frame(self.begin, self.given):
                if given >= self.given:
                    last.append(piece)
                given += len(piece)
        except FrameError:
            pass
        self.given = given
        return b"".join(last)

    def _frame(self, start: int, careful: int) -> Pieces:
        """The frame at `start`. Raises FrameError where it is none."""
        data = self.data
        if data[start : start + 3] == GZIP:
            return _gzip_pieces(data, start, careful)
        if SKIPPABLE.match(data, start):
            end = start + 8 + _little_endian(data, start + 4, 4)
            if end > len(data):
                raise FrameError("a skippable frame ends early", start)
            if data[start : start + 4] == DICTIONARY:
                self.dictionary = _dictionary(data, start + 8, end)
            return iter([(b"", end)])
        from fastwarc.stream_io import Lz4Reader, ZstdReader

        if data[start : start + 4] == LZ4:
            return _native_pieces(data, start, _lz4_end(data, start, self.spend), Lz4Reader, careful)
        words = self.dictionary or None
        self.spend(len(words or b"") // DICTIONARY_SHARE)  # each frame loads it anew
        end = _zstd_end(data, start, self.spend)
        return _native_pieces(data, start, end, lambda part: ZstdReader(part, dictionary=words), careful)


def _dictionary(data: mmap.mmap, start: int, end: int) -> bytes | None:
    """The dictionary in the skippable frame of a .warc.zst, packed or not.

    None where it is damaged or longer than DICTIONARY_MAX: then the frames that need it cannot be read.
    """
    from fastwarc.stream_io import ZstdReader

    words = data[start : min(end, start + DICTIONARY_MAX + 1)]
    try:
        if words.startswith(ZSTD):
            words = ZstdReader(io.BytesIO(words)).read(DICTIONARY_MAX + 1)
    except OSError:
        return None
    return words if len(words) <= DICTIONARY_MAX else None


class PlainFile:
    """The bytes of a file where it has no frames (a `Source`); `frames` reads those that may follow."""

    begin, is_checked, is_damaged = None, True, False

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def pieces(self, place: int) -> Iterator[bytes]:
        """The bytes from an offset on."""
        data = self.frames.data
        for start in range(place, len(data), CHUNK):
            yield data[start : start + CHUNK]
