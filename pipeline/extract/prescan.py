"""The charset that an HTML page declares in its own head.

Source: HTML standard, "prescan a byte stream to determine its encoding" and "extracting a character encoding from
a meta element". Only two kinds of <meta> declare a charset, and no other may speak of one.
"""

from __future__ import annotations

import re

# Browsers look at 1,024 bytes and then read on; of the pages that declare one, one in ten does so behind them.
PRESCAN_BYTES = 2**14
# All possessive or without a choice, so that each byte is read a bounded number of times.
TOKEN = re.compile(rb"<(?:!--|meta[\s/])", re.IGNORECASE)
COMMENT_END = re.compile(rb"-?-->|(?<=<!--)>|(?<=<!--)->")
ATTRIBUTE = re.compile(
    rb"""[\s/]*+(?:(>)|([^\s/>][^\s/>=]*+)(?>\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)?))?+)"""
)
CONTENT = re.compile(rb"""charset\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s;"'][^\s;]*+))""", re.IGNORECASE)
XML = re.compile(rb"""\s*+<\?xml\s[^>]{0,200}?\bencoding\s*+=\s*+["']([\w.:-]{1,40})""")


def declared_charset(body: bytes) -> str | None:
    """The label of the first <meta> that declares a charset, or of the XML declaration.

    >>> declared_charset(b'<meta name=description content="charset=koi8-r"><meta charset="utf-8">')
    'utf-8'
    >>> declared_charset(b"<META content='text/html; charset=big5' HTTP-EQUIV=Content-Type>")
    'big5'
    """
    head = body[:PRESCAN_BYTES]
    place = 0
    while match := TOKEN.search(head, place):
        if match[0] == b"<!--":
            end = COMMENT_END.search(head, match.end())
            place = end.end() if end else len(head)
            continue
        inside = _in_a_tag(head, place, match.start())
        attributes, place = _attributes(head, match.end() - 1)
        if not inside and (label := _label(attributes)):
            return label
    match = XML.match(head)
    return match[1].decode() if match else None


def _in_a_tag(head: bytes, start: int, end: int) -> bool:
    """Whether the last tag that begins between two places is not closed; a ">" in quotes closes none."""
    begin = head.rfind(b"<", start, end)
    if begin < 0:
        return False
    close = head.find(b">", begin, end)
    # Behind the tag, an apostrophe may stand in a text.
    return close < 0 or (_in_quotes(head, begin, close) and _in_quotes(head, begin, end))


def _in_quotes(head: bytes, start: int, end: int) -> bool:
    quotes = head.count(b'"', start, end) or head.count(b"'", start, end)
    return quotes % 2 == 1


def _attributes(head: bytes, place: int) -> tuple[dict[bytes, bytes], int]:
    """The attributes of a tag, the first of each name in lower case, and where the tag ends."""
    found: dict[bytes, bytes] = {}
    while match := ATTRIBUTE.match(head, place):
        place = match.end()
        if match[1]:
            break
        found.setdefault(match[2].lower(), match[3] or match[4] or match[5] or b"")
    return found, place


def _label(attributes: dict[bytes, bytes]) -> str | None:
    """What a <meta> with these attributes declares."""
    label = attributes.get(b"charset")
    if label is None and attributes.get(b"http-equiv", b"").strip().lower() == b"content-type":
        match = CONTENT.search(attributes.get(b"content", b""))
        label = match and (match[1] or match[2] or match[3])
    return label.decode("ascii", "replace") if label else None
