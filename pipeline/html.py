"""HTML bytes to paragraphs of text: which charset, which text."""

from __future__ import annotations

import codecs
import re

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
META = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
FALLBACK = "cp1252"  # of browsers, for western languages
META_BYTES = 1024  # how far browsers look (HTML standard, "prescan a byte stream")
# Text has no control characters but tab and newline; these come from binary junk and hostile pages.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
SNIFF = re.compile(
    rb"\s*(?:<!--|<!doctype html|<(?:html|head|body|title|h1|div|p|table|script|meta)\b)", re.IGNORECASE
)
UNDECODABLE_SHARE = 0.05


def is_html(content_type: str, body: bytes) -> bool:
    """By the declared type, or by the first bytes where none is declared."""
    if content_type:
        return content_type in ("text/html", "application/xhtml+xml")
    return SNIFF.match(body[:512]) is not None


def charset_of(body: bytes, declared: str | None) -> tuple[str, str]:
    """(Python codec, who decided) as a browser would: BOM, HTTP header, <meta>, then detection.

    Unknown labels fall through to the next. Source: WHATWG Encoding and HTML standards.
    """
    from resiliparse.parse.encoding import detect_encoding

    for bom, name in BOMS:
        if body.startswith(bom):
            return name, "bom"
    if declared and (codec := _codec(declared)):
        return codec, "http"
    match = META.search(body[:META_BYTES])
    if match and (codec := _codec(match[1].decode("ascii", "replace"))):
        # A <meta> that could be read is no UTF-16, whatever it says (HTML standard).
        return ("utf-8" if codec.startswith("utf-16") else codec), "meta"
    try:
        body.decode("utf-8")
        return "utf-8", "detected"
    except UnicodeDecodeError:
        return _codec(detect_encoding(body) or "") or FALLBACK, "detected"


def _codec(label: str) -> str | None:
    """The name of Python's codec for a label of the web, or None for an unknown one."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        return codecs.lookup(map_encoding_to_html5(label, fallback_utf8=False) or "").name
    except LookupError:
        return None


def decode(body: bytes, codec: str) -> str | None:
    """The text, with U+FFFD for the odd bad byte; None where so much is bad that the charset is wrong."""
    text = body.decode(codec, errors="replace")
    if text.count("\ufffd") > UNDECODABLE_SHARE * len(text):
        return None
    return text


def paragraphs(html: str) -> list[str]:
    """The main text of a page, a paragraph for each non-empty line of resiliparse's extraction."""
    from resiliparse.extract.html2text import extract_plain_text

    text = extract_plain_text(html, main_content=True)
    lines = (CONTROLS.sub("", line.strip()) for line in text.split("\n"))
    return [line for line in lines if line]
