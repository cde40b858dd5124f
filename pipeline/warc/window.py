"""The unpacked bytes of an archive in their order, of which only those that are looked at are held."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from pipeline.warc.frames import FrameError
from pipeline.warc.unpacking import Spend

FRAMES_MAX = 2**20  # that are held at a time
BLANK = re.compile(rb"(?>[\r\n\t ]|\xef\xbb\xbf)++")  # between records; also a byte order mark
BLANK_COST = 2**4  # for each byte of it, so that no file is nothing else


class Source(Protocol):
    """What bytes are read from: a chain of compressed frames, or a plain file.

    `begin` is the offset in the file of the frame that was read last, None where there are no frames. `is_checked`
    means that all of that frame was read, and is sound; `is_damaged`, that it is not.
    """

    @property
    def begin(self) -> int | None: ...

    @property
    def is_checked(self) -> bool: ...

    @property
    def is_damaged(self) -> bool: ...

    def pieces(self, place: int) -> Iterator[bytes]:
        """The bytes from an offset of the file on. Raises OSError where the file is damaged."""
        ...


class Window:
    """The bytes `held` from `front` on.

    `place` is the offset of the front in a plain file, else it counts the bytes. `error` is what ended them, if
    damage did. Up to the place `checked`, frames are sound, and from `damaged` on they are not. `begin` is the
    offset of the record, or of the loss, that is looked at, None between them.
    """

    def __init__(self, source: Source, place: int, spend: Spend) -> None:
        """What is in the file from the offset `place` on."""
        self.source, self.spend, self.place = source, spend, place
        self.pieces = source.pieces(place)
        self.held, self.front, self.checked = b"", 0, 0
        self.damaged = math.inf
        self.has_ended = False
        self.error: FrameError | None = None
        self.begin: int | None = None
        self.frames: deque[tuple[int, int]] = deque()  # where each frame begins, as place and as offset

    def fill(self, size: int) -> bool:
        """Hold `size` bytes, or all there are: whether so many are held. Raises UnpacksTooFar."""
        have = len(self.held) - self.front
        if have >= size or self.has_ended:
            return have >= size
        pieces = [self.held[self.front :]] if have else []
        enough = max(size, have + have // 4)  # so that what is held is not copied for every few bytes
        while have < enough and not self.has_ended:
            piece = self._next_piece(self.place + have)
            pieces.append(piece)
            have += len(piece)
        self.held = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.front = 0
        return have >= size

    def _next_piece(self, place: int) -> bytes:
        """The next piece of the source, b"" at the end."""
        try:
            piece = next(self.pieces, b"")
        except FrameError as error:
            self.end_at(error)
            piece = b""
        begin = self.source.begin
        if not piece and self.error:
            if self.frames and self.frames[-1][1] != begin:
                self.checked = place
        elif not piece:
            self.has_ended, self.checked = True, place
        elif begin is not None and not (self.frames and self.frames[-1][1] == begin):
            self.checked = place  # what was before is all of its frame
            self.frames.append((place, begin))
            if len(self.frames) > FRAMES_MAX:
                self.end_at(FrameError("a record in too many frames", begin))
        self.spend(len(piece))
        if self.source.is_damaged:
            self.damaged = min(self.damaged, place)
        if self.source.is_checked:
            self.checked = place + len(piece)
        return piece

    def end_at(self, error: FrameError) -> None:
        """Read no further."""
        self.has_ended, self.error = True, error

    def is_empty(self) -> bool:
        return not self.fill(1)

    def is_between_frames(self) -> bool:
        """Whether all of a frame was dropped, and nothing of the next one is held."""
        return self.place == self.checked and bool(self.frames)

    def drop(self, size: int) -> None:
        self.front += size
        self.place += size

    def skip_blank(self) -> bool:
        """Drop what is blank; whether anything is behind it before the next frame."""
        while True:
            if self.front == len(self.held) and (self.is_between_frames() or not self.fill(1)):
                return False
            blank = BLANK.match(self.held, self.front)
            if blank is None:
                return True
            size = blank.end() - self.front
            self.spend(BLANK_COST * size)
            self.drop(size)

    def offset(self) -> int:
        """The offset in the file of the front, or of the frame that it is in."""
        if self.source.begin is None:
            return self.place
        frames = self.frames
        while len(frames) > 1 and frames[1][0] <= self.place:
            frames.popleft()
        return frames[0][1] if self.front < len(self.held) else self.source.begin
