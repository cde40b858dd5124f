"""The charset of a page's bytes, and their text in it.

Source: WHATWG Encoding and HTML standards.
"""

from __future__ import annotations

import codecs
import functools
import re

BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# A page in UTF-16 that does not declare it still begins with a tag.
UTF16_TAGS = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
META_BYTES = 1024  # how far browsers look (HTML standard, "prescan a byte stream")
COMMENT = re.compile(rb"<!--.*?(?:-->|$)", re.DOTALL)
META = re.compile(  # possessive, so that no page of spaces costs their number squared
    rb"""<meta[^>]{0,200}charset\s*+=\s*+["']?+\s*+([\w.:-]{1,40})"""
    rb"""|^\s*+<\?xml[^>]{0,200}encoding\s*+=\s*+["']([\w.:-]{1,40})""",
    re.IGNORECASE,
)
FALLBACK = "cp1252"  # of browsers, for western languages
# On the web these labels mean a superset (Encoding standard); in Python they are codecs of their own.
SUPERSETS = {
    "ascii": "cp1252",
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
}
UNDECODABLE_SHARE = 0.05


def charset_of(body: bytes, declared: str | None) -> tuple[str, str]:
    """(Python codec, who decided) as a browser would: BOM, HTTP header, <meta>, then detection.

    An unknown label counts as none. Source: WHATWG Encoding and HTML standards.

    >>> charset_of(b'<meta charset="iso-8859-1">', None)
    ('cp1252', 'meta')
    >>> charset_of(b'<meta charset="iso-8859-1">', "utf-8")
    ('utf-8', 'http')
    """
    for bom, name in BOMS:
        if body.startswith(bom):
            return name, "bom"
    if declared and (codec := _codec(declared)):
        return codec, "http"
    match = META.search(COMMENT.sub(b"", body[:META_BYTES]))
    if match and (codec := _codec((match[1] or match[2]).decode("ascii", "replace"))):
        # If the <meta> could be read as bytes, the page is not UTF-16 (HTML standard).
        return ("utf-8" if codec.startswith("utf-16") else codec), "meta"
    return _detect(body), "detected"


def text_charset(body: bytes, declared: str | None) -> str:
    """Python's codec for plain text of an archive: UTF-8, as in WET files, where nothing is declared.

    >>> text_charset(b"caf\\xe9", "iso-8859-1"), text_charset(b"caf\\xe9", None)
    ('cp1252', 'utf-8')
    """
    return charset_of(body, declared)[0] if declared else "utf-8"


def charset_column(codec: str, decided_by: str) -> str:
    """What the column `charset` of pages and shards holds; `read_charset_column` takes it apart again.

    >>> charset_column("cp1252", "meta")
    'cp1252 (meta)'
    """
    return f"{codec} ({decided_by})"


def read_charset_column(charset: str) -> tuple[str, str]:
    """(Python codec, who decided) of what `charset_column` wrote; "" for who, where the page was plain text.

    >>> read_charset_column("cp1252 (meta)")
    ('cp1252', 'meta')
    >>> read_charset_column("utf-8")
    ('utf-8', '')
    """
    codec, _, decided_by = charset.partition(" ")
    return codec, decided_by.strip("()")


def _detect(body: bytes) -> str:
    from resiliparse.parse.encoding import detect_encoding

    if body[:2] in UTF16_TAGS:
        return UTF16_TAGS[body[:2]]
    if b"\x1b$B" in body or b"\x1b$@" in body:  # all bytes are ASCII, so that it is valid UTF-8 too
        return "iso2022_jp"
    try:
        body.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        # html5_compatible=True would give UTF-8 for every encoding that the HTML standard does not know.
        label = detect_encoding(body, html5_compatible=False) or ""
        return _codec(label) or _python_codec(label) or FALLBACK


@functools.lru_cache(256)
def _codec(label: str) -> str | None:
    """The name of Python's codec for a label of the web, or None for an unknown one."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    return _python_codec(map_encoding_to_html5(label, fallback_utf8=False) or "")


def _python_codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):  # ValueError: a NUL in the label
        return None
    return SUPERSETS.get(name, name)


def decode(body: bytes, codec: str) -> str | None:
    """The text of a page, with U+FFFD for each bad byte; None where so many are bad that the charset is wrong.

    >>> decode(b"caf\\xe9", "cp1252"), decode(b"\\xe9\\xe8", "utf-8")
    ('café', None)
    """
    text = body.decode(codec, errors="replace")
    if text.count("\ufffd") > UNDECODABLE_SHARE * len(text):
        return None
    return text
