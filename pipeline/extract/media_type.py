"""Whether a document is HTML or plain text, by what is said of it and by its first bytes.

Source: WHATWG MIME Sniffing standard, sections 5 to 7, but for what costs pages: a tag may end with any white
space, a comment with any byte, and a byte order mark may stand before it. XML is a page where its root is `html`,
as browsers show it.
"""

from __future__ import annotations

import re

HEAD = 1445  # bytes that count (section 5.2)
UNKNOWN = ("", "*/*", "unknown/unknown", "application/unknown")
HTML = ("text/html", "application/xhtml+xml")
XML = re.compile(r"(?:text|application)/xml|.*\+xml")
# The signatures of section 6 that hold a byte which no text has, or nearly so, and some of archives.
BINARY = (
    b"%PDF-", b"%!PS-Adobe-", b"\x89PNG", b"GIF87a", b"GIF89a", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b\x08",
    b"RIFF", b"\0\0\0", b"\0\0\1\0", b"\0\0\2\0", b"OggS\0", b"MThd\0", b"\x1a\x45\xdf\xa3", b"wOFF", b"wOF2",
    b"\0\1\0\0", b"Rar!\x1a\x07", b"7z\xbc\xaf", b"\xfd7zXZ", b"\x1f\x9d",
)  # fmt: skip
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_START = rb"(?>\xef\xbb\xbf)?+\s*+"
_TAGS = rb"!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|meta"
TAG = re.compile(rb"%b<(?:!--|(?:%b)[\s>])" % (_START, _TAGS), re.IGNORECASE)
XML_START = re.compile(rb"%b<\?xml" % _START, re.IGNORECASE)
XHTML = re.compile(
    rb"%b(?><\?(?>(?!\?>).)*+\?>\s*+|<!--(?>(?!-->).)*+-->\s*+|<!doctype[^>[]*+>\s*+)*+<(?>\w++:)?+html[\s>]"
    % _START,
    re.IGNORECASE | re.DOTALL,
)


def is_html(content_type: str, body: bytes) -> bool:
    """Whether a document is HTML, by its declared type or else its first bytes; never if these are binary.

    >>> is_html("", b"<!DOCTYPE html><title>t</title>"), is_html("text/html", b"%PDF-1.7")
    (True, False)
    """
    if body.startswith(BINARY):
        return False
    if content_type in HTML:
        return True
    if content_type in UNKNOWN:
        head = body[:HEAD]
        return TAG.match(head) is not None or (XML_START.match(head) and XHTML.match(head)) is not None
    return XML.fullmatch(content_type) is not None and XHTML.match(body[:HEAD]) is not None


def is_plain_text(content_type: str, body: bytes) -> bool:
    """Whether a document that is not HTML is plain text, by its declared type or else its first bytes.

    >>> is_plain_text("", b"Well."), is_plain_text("", b"\\x89PNG"), is_plain_text("application/json", b"{}")
    (True, False, False)
    """
    if content_type in UNKNOWN:
        return not body.startswith(BINARY) and CONTROL.search(body, 0, HEAD) is None
    return content_type == "text/plain"
