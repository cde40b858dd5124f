"""Frames of a compressed archive: gzip members, zstd frames and lz4 frames, each unpacked by itself.

Sources: RFC 1952; RFC 8878; the LZ4 frame format 1.6; for dictionaries, the IIPC's WARC-Zstandard draft.
"""

from __future__ import annotations

import io
import mmap
import re
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from pipeline.warc.unpacking import Spend

CHUNK, FIRST_CHUNK = 2**18, 2**12
FIRST_READ = 2**6  # bytes to unpack first: a damaged frame gives at least these
DICTIONARY_MAX = 2**22  # bytes; those in use have 100 kB to 1 MB, and it is loaded for each frame
BLOCK_COST = 2**9  # bytes that a block of zstd or lz4 counts as, which may have 3

GZIP, ZSTD, LZ4 = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
SUFFIXES = {".gz": GZIP, ".zst": ZSTD, ".lz4": LZ4}
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


def magic_of(data: mmap.mmap) -> bytes:
    """The bytes that each frame of the file begins with; b"" if the file does not begin with a frame."""
    start = 0
    while SKIPPABLE.match(data, start) and start + 8 <= len(data):
        start += 8 + _little_endian(data, start + 4, 4)
    head = data[start : start + 4]
    return next((magic for magic in (GZIP, ZSTD, LZ4) if head.startswith(magic)), b"")


class FrameError(OSError):
    """There is no frame, or a damaged one. `end` is the offset up to which it was read."""

    def __init__(self, reason: str, end: int) -> None:
        super().__init__(reason)
        self.end = end


class Frame(Protocol):
    """One compressed frame. `end` is the offset where it ends; of gzip, once all of it is read."""

    end: int

    def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises OSError where the frame is damaged or ends early."""


class _GzipFrame:
    """The gzip member at `start`."""

    def __init__(self, data: mmap.mmap, start: int) -> None:
        self.data, self.end, self.chunk, self.size = data, start, FIRST_CHUNK, FIRST_READ
        self.inflater = zlib.decompressobj(wbits=31)

    def read(self) -> bytes:
        while not self.inflater.eof:
            packed = self.inflater.unconsumed_tail
            if not packed:
                packed = self.data[self.end : self.end + self.chunk]
                self.end += len(packed)
                self.chunk = min(2 * self.chunk, CHUNK)
            try:
                unpacked = self.inflater.decompress(packed, self.size)
            except zlib.error as error:
                raise OSError(str(error)) from error
            if self.inflater.eof:
                self.end -= len(self.inflater.unused_data)
            if unpacked:
                self.size = CHUNK
                return unpacked
            if not packed:
                raise OSError("a gzip member ends early")
        return b""


class _NativeFrame:
    """The zstd or lz4 frame at `start`, whose end is found without unpacking it; read by FastWARC."""

    def __init__(self, data: mmap.mmap, start: int, end: int, reader: Callable[[Any], Any] | None) -> None:
        self.end = end
        self.reader = reader(Part(data, start, end)) if reader else None

    def read(self) -> bytes:
        return bytes(self.reader.read(CHUNK)) if self.reader else b""


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


def open_frame(data: mmap.mmap, start: int, magic: bytes, words: bytes, spend: Spend) -> Frame:
    """The frame at `start`; `words`: the dictionary of zstd, or b"". Raises FrameError where none starts there.

    Raises UnpacksTooFar as `spend` does, which counts the blocks that are looked at to find the end.
    """
    from fastwarc.stream_io import Lz4Reader, ZstdReader

    if magic == GZIP:
        return _GzipFrame(data, start)
    if SKIPPABLE.match(data, start):
        end = start + 8 + _little_endian(data, start + 4, 4)
        if end > len(data):
            raise FrameError("a skippable frame ends early", start)
        return _NativeFrame(data, start, end, None)
    if data[start : start + 4] != magic:
        raise FrameError("no frame starts here", start)
    if magic == LZ4:
        return _NativeFrame(data, start, _lz4_end(data, start, spend), Lz4Reader)
    end = _zstd_end(data, start, spend)
    return _NativeFrame(data, start, end, lambda part: ZstdReader(part, dictionary=words or None))


def dictionary(data: mmap.mmap, magic: bytes) -> bytes | None:
    """The dictionary in the leading skippable frame of a .warc.zst, packed or not; b"" where there is none.

    None where it is damaged or longer than DICTIONARY_MAX: then the frames that need it cannot be read.
    """
    from fastwarc.stream_io import ZstdReader

    if magic != ZSTD or data[:4] != b"\x5d\x2a\x4d\x18":
        return b""
    try:
        words = data[8 : 8 + min(_little_endian(data, 4, 4), DICTIONARY_MAX + 1)]
        if words.startswith(ZSTD):
            words = ZstdReader(io.BytesIO(words)).read(DICTIONARY_MAX + 1)
    except OSError:
        return None
    return words if len(words) <= DICTIONARY_MAX else None
