"""Whether a page is HTML, by what its server says and by its first bytes.

Source: WHATWG MIME Sniffing standard.
"""

from __future__ import annotations

import re

SNIFF = re.compile(
    rb"\s*(?:<!--|<!doctype html|<(?:html|head|body|title|h1|div|p|table|script|meta)\b)", re.IGNORECASE
)
# Beginnings of binary files, which some servers send as text/html (MIME Sniffing standard, section 6).
BINARY = (b"%PDF-", b"\x89PNG", b"GIF8", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b\x08", b"RIFF", b"\0\0\0")


def is_html(content_type: str, body: bytes) -> bool:
    """Whether a page is HTML, by its declared type or else its first bytes; never if these are binary.

    >>> is_html("", b"<!DOCTYPE html><title>t</title>"), is_html("text/html", b"%PDF-1.7")
    (True, False)
    """
    if body.startswith(BINARY):
        return False
    if content_type:
        return content_type in ("text/html", "application/xhtml+xml")
    return SNIFF.match(body[:512]) is not None
