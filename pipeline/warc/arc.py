"""Header lines of ARC, the format before WARC, as the fields of a WARC record.

A line has a URL, an IP address, a date, a media type and a length; in version 2 a status, a checksum, a redirect,
an offset and a file stand before the length. Writers put spaces into URLs and media types, leave empty what they
do not know, and write dates of 12 to 17 digits: the date tells what the rest is. Source: the Internet Archive's
ARC file format, versions 1 and 2.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline.warc.fields import Fields

LINE_MAX = 2**17
# What ends in http is a URL behind something that damage has put before it.
_SCHEME = rb"(?![A-Za-z0-9+.-]{1,31}https?:/)[A-Za-z][A-Za-z0-9+.-]{1,31}:"
_DATE = rb"(?:\d{14}|\d{12}|\d{17})"
_IP = rb"(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:.]{0,39}:[0-9A-Fa-f:.]{1,39}|-|)"
SCHEME, DATE, IP = re.compile(_SCHEME), re.compile(_DATE), re.compile(_IP)
# Behind damage, a line is looked for as such, with the newline before it, or where damage has cut what is before
# it, from the last of these schemes on. Since each way begins with a letter of its own the search is fast.
_KNOWN = rb"(?:https?|ftp|dns|filedesc):"
_BEHIND_URL = rb" (?:[^ \n]{0,255}+ %b|%b \d{0,32}+) " % (_DATE, _IP)
_CUT = rb":(?>(?!%b)[^ \n]){1,2000}+%b" % (_KNOWN, _BEHIND_URL)
START = re.compile(
    rb"\n(?=%b[^\n]{1,65536}%b)|https?%b|ftp%b|dns%b|filedesc%b" % (_SCHEME, _BEHIND_URL, _CUT, _CUT, _CUT, _CUT)
)


class Line(NamedTuple):
    """What a header line says; `media_type` is empty where it says none."""

    url: bytes
    date: bytes
    media_type: bytes
    length: int


def read_line(line: bytes) -> Line | None:
    """The parts of a header line; None where it is none.

    >>> read_line(b"http://a.example/?q=a b 192.0.2.1 20080430204825 text/html 517\\n")
    Line(url=b'http://a.example/?q=a b', date=b'20080430204825', media_type=b'text/html', length=517)
    >>> read_line(b"mailto:a@a.example - 200804302048  0\\r\\n").date
    b'200804302048'
    """
    *words, length = line.rstrip(b"\r\n\t ").split(b" ")
    if not (SCHEME.match(line) and length.isdigit() and len(length) < 19):
        return None
    dates = [place for place, word in enumerate(words) if place and DATE.fullmatch(word)]
    if not dates and (len(words) in (3, 4, 9) or (len(words) > 4 and IP.fullmatch(words[1]))):
        dates = [2]
    if not dates:
        return None
    date = dates[-1]
    url, media_type = b" ".join(words[: max(1, date - 1)]), words[date + 1 :]
    if b" " in url and not url.startswith(b"http") and b"http" in url:  # the same
        return None
    if len(media_type) > 5:  # version 2
        media_type = media_type[:-5]
    return Line(url, words[date], b" ".join(media_type), int(length))


def read_fields(header: bytes) -> Fields:
    """The fields that a WARC record of the same content would have. `header` is a header line."""
    line = read_line(header)
    if line is None:
        return Fields({})
    kind = b"warcinfo" if line.url.startswith(b"filedesc:") else b"response"
    fields = {b"warc-type": kind, b"warc-target-uri": line.url, b"warc-date": _iso(line.date).encode()}
    if line.media_type not in (b"", b"-", b"no-type"):
        fields[b"content-type"] = line.media_type
    return Fields({name: [value] for name, value in fields.items()})


def _iso(date: bytes) -> str:
    """A date in ISO 8601 from 12, 14 or 17 digits, to the minute, second or millisecond; "" from any other.

    >>> _iso(b"20080430204825"), _iso(b"200804302048"), _iso(b"20080430204825123"), _iso(b"2008")
    ('2008-04-30T20:48:25Z', '2008-04-30T20:48Z', '2008-04-30T20:48:25.123Z', '')
    """
    if not DATE.fullmatch(date):
        return ""
    text = date.decode()
    day, time = f"{text[:4]}-{text[4:6]}-{text[6:8]}", f"{text[8:10]}:{text[10:12]}"
    seconds, thousandths = text[12:14], text[14:]
    return f"{day}T{time}{seconds and ':' + seconds}{thousandths and '.' + thousandths}Z"
