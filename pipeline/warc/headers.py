"""Where records begin, and what their headers say: those of WARC and of ARC.

Header fields are as lenient as `pipeline.warc.fields`; a version may have white space behind it. Sources: WARC 1.1
(ISO 28500), section 4 and annex D.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.warc import arc
from pipeline.warc.fields import Fields, read_fields
from pipeline.warc.window import Window

HEADER_MAX = 2**20
NAMES_COST = 2**6  # a byte of a header counts as so many where its fields are looked at one by one
START = re.compile(rb"WARC/\d\.\d{1,2}[ \t]{0,8}\r?\n")
START_MAX = 32
# Up to the empty line, or to a line that begins another header; the group is there if the header has its end.
# `(?>…)*+`, here and elsewhere, since `(?:…)*+` is wrong up to Python 3.11.4 (docs/findings/libraries.md).
HEADER = re.compile(rb"WARC/\d\.\d{1,2}[ \t]{0,8}\r?\n(?>(?!\r?\n|WARC/\d\.\d)[^\n]*+\n)*+(\r?\n)?")
# The value may be on the next line, as that of any field.
LENGTH = re.compile(rb"\ncontent-length[ \t]*+:(?>[ \t]|\r?\n[ \t])*+([^\r\n]*+)", re.IGNORECASE)
NAME = re.compile(rb"\n([^\s:]++)[ \t]*+:")
DIGEST = re.compile(rb"\nwarc-block-digest[ \t]*+:[ \t]*+([^\r\n]*+)", re.IGNORECASE)
TYPE = re.compile(rb"\nwarc-type[ \t]*+:", re.IGNORECASE)


class Header(NamedTuple):
    """The header of a record, and the length of the block that it states, None where it states none."""

    lines: bytes
    length: int | None


@dataclass(frozen=True)
class Form:
    """How records look.

    `start` finds what may start one behind damage, perhaps with the newline before it, in up to `start_max` bytes.
    `begins` tells whether one starts so many bytes behind the front, and `header` gives that of the record at the
    front. `fields` are those in the lines of a header. `tail` ends a record, and `traces` finds what damage may
    leave of one.
    """

    start: re.Pattern[bytes]
    start_max: int
    begins: Callable[[Window, int], bool]
    header: Callable[[Window], Header | None]
    fields: Callable[[bytes], Fields]
    tail: re.Pattern[bytes]
    traces: re.Pattern[bytes]


def _warc_begins(window: Window, ahead: int) -> bool:
    window.fill(ahead + START_MAX)
    return START.match(window.held, window.front + ahead) is not None


def _warc_header(window: Window) -> Header | None:
    window.fill(START_MAX)
    while True:
        begin = window.front
        match = HEADER.match(window.held, begin, begin + HEADER_MAX)
        if match is None:
            return None
        if match[1] is not None:
            lines = match[0]
            if lines.count(b"WARC/") > 1:
                window.spend(NAMES_COST * len(lines))
                if not _is_one(lines):
                    return None
            return Header(lines, _length(lines))
        have = len(window.held) - begin
        if window.held.find(b"\n", match.end()) >= 0 or have >= HEADER_MAX or window.has_ended:
            window.spend(match.end() - begin)
            return None
        window.fill(min(2 * have, HEADER_MAX))


def _length(lines: bytes) -> int | None:
    values = LENGTH.findall(lines)
    if len(values) > 1 and len({value.strip() for value in values}) == 1:
        del values[1:]
    if len(values) != 1 or len(value := values[0].strip()) > 19 or not value.isdigit():
        return None
    return int(value) if int(value) < 2**63 else None


def _is_one(header: bytes) -> bool:
    """Whether it is one header: not the beginning of one, and behind it, on the same line, another."""
    start = START.search(header, 1)
    if start is None:
        return True
    first, second = header[: start.start()], header[start.start() :]
    names = ({name.lower() for name in NAME.findall(part)} for part in (first, second))
    return b":" in first[first.rfind(b"\n") :] and not set.intersection(*names)


def fits_digest(header: bytes, block: bytes) -> bool:
    """Whether a block has the digest that its WARC header states, as SHA-1, if it states one (WARC 1.1, 5.8)."""
    stated = DIGEST.search(header)
    if stated is None:
        return True
    digest = hashlib.sha1(block, usedforsecurity=False).digest()
    return stated[1].strip().lower() in (
        b"sha1:" + base64.b32encode(digest).lower(),
        b"sha1:" + digest.hex().encode(),
    )


def _arc_line(window: Window, ahead: int) -> tuple[arc.Line, int] | None:
    """The header line so many bytes behind the front, and its size."""
    size = ahead + 2**9
    while True:
        is_more = window.fill(size)
        begin = window.front + ahead
        if not arc.SCHEME.match(window.held, begin):
            return None
        end = window.held.find(b"\n", begin, begin + arc.LINE_MAX) + 1
        if end:
            line = arc.read_line(window.held[begin:end])
            return (line, end - begin) if line else None
        if not is_more or size >= arc.LINE_MAX:
            return None
        size = 2 * size


def _arc_header(window: Window) -> Header | None:
    found = _arc_line(window, 0)
    return Header(window.held[window.front : window.front + found[1]], found[0].length) if found else None


WARC = Form(START, START_MAX, _warc_begins, _warc_header, read_fields, re.compile(rb"\r?\n\r?\n"), TYPE)
ARC = Form(
    arc.START,
    arc.LINE_MAX,
    lambda window, ahead: _arc_line(window, ahead) is not None,
    _arc_header,
    arc.read_fields,
    re.compile(rb"\r?\n"),
    re.compile(rb"(?!)"),
)
