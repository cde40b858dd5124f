"""The charset of a page's bytes, and their text in it.

Source: WHATWG Encoding and HTML standards; where servers and pages are wrong about themselves, the bytes decide.
"""

from __future__ import annotations

import codecs
import functools
import math
import re
from collections.abc import Iterator

from pipeline.extract.alphabets import rightness
from pipeline.extract.prescan import declared_charset

UTF32_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
BOMS = ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# A page in UTF-16 that does not declare it still begins with a tag.
UTF16_TAGS = (
    (re.compile(rb"(?:[\t\n\r ]\0){0,99}<\0[!-~]\0"), "utf-16-le"),
    (re.compile(rb"(?:\0[\t\n\r ]){0,99}\0<\0[!-~]"), "utf-16-be"),
)
# Charsets of seven bits, by the escape that stands before the first character beyond ASCII.
ESCAPES = ((b"\x1b$)C", "iso2022_kr"), (b"\x1b$B", "iso2022_jp"), (b"\x1b$@", "iso2022_jp"))
SEVEN_BITS = ("iso2022", "hz")
WIDE = ("utf-16", "utf-32")
HIGH = re.compile(rb"[\x80-\xff]")
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
# Labels of the standard that resiliparse does not know, and those for which a browser, for fear of scripts in
# them, shows nothing; here they are only text.
OTHER_LABELS = {
    "cp949": "cp949",
    "csiso2022kr": "iso2022_kr",
    "hz-gb-2312": "hz",
    "iso-2022-kr": "iso2022_kr",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-mac-ukrainian": "mac-cyrillic",
    "x-user-defined": "cp1252",
}
SAMPLE_BYTES = 50_000  # that tell whether a charset is right, from the first byte beyond ASCII
MARGIN, DOUBT = 0.02, 2  # a later candidate is better by the margin, and by two characters than what is declared
UNDECODABLE_SHARE = 0.05
# Zero bytes in a text: so few are a slip, and so many, at every second place alone, are of UTF-16.
STRAY_ZEROS, WIDE_ZEROS = 0.002, 0.02


def charset_of(body: bytes, declared: str | None) -> tuple[str, str]:
    """(Python codec, who decided: `bom`, `http`, `meta` or `detected`) of a page; `declared` is what HTTP says.

    Bytes that are valid UTF-8 are UTF-8. Of others, what HTTP says, what the page says, and what is detected are
    tried in this order, and the first is taken in which the text is right, or else most nearly right: in a wrong
    charset it has bad bytes, or letters that no language has together. An unknown label counts as none.

    >>> charset_of("<p>où</p>".encode(), "iso-8859-1")
    ('utf-8', 'detected')
    >>> charset_of("<meta charset=windows-1250><p>Książka życia".encode("cp1250"), "iso-8859-1")
    ('cp1250', 'meta')
    """
    for bom, name in BOMS:
        if body.startswith(bom):
            return name, "bom"
    for tag, name in UTF16_TAGS:
        if tag.match(body):
            return name, "detected"
    if body.startswith(codecs.BOM_UTF8) and is_utf8(body):
        return "utf-8", "bom"
    said = _claimed(declared, body)
    if not body.isascii() and is_utf8(body):
        return "utf-8", "http" if said == "utf-8" else "detected"
    own = _claimed(declared_charset(body), body)
    claims = [(codec, who) for codec, who in ((said, "http"), (own, "meta")) if codec]
    if body.isascii():
        escape = next(((codec, "detected") for escape, codec in ESCAPES if escape in body), None)
        sevens = (claim for claim in claims if claim[0].startswith(SEVEN_BITS))
        return next(sevens, None) or escape or next(iter(claims), ("utf-8", "detected"))
    # Any bytes are Latin-1, and many servers say so of every page: it counts after what the page itself says.
    claims = sorted((claim for claim in claims if claim[0] != "utf-8"), key=(FALLBACK, "http").__eq__)
    return _best(body, claims)


def is_utf8(body: bytes) -> bool:
    """Whether bytes are UTF-8: all of them, or nearly all sequences beyond ASCII. The end may be cut.

    In other charsets, at most four of ten such bytes happen to be part of a valid sequence.
    """
    try:
        text, used = codecs.utf_8_decode(body, "strict", False)
        return used == len(body) or not text.isascii()
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    good = len(text) - len(text.encode("ascii", "ignore")) - bad
    return good > 2 * bad


def _best(body: bytes, claims: list[tuple[str, str]]) -> tuple[str, str]:
    """The first of the claims, then of what is detected, in which the text is right, or the most nearly right."""
    first = HIGH.search(body)
    start = first.start() & ~1 if first else 0  # even, for UTF-16
    sample = body[start : start + SAMPLE_BYTES]
    best, most = (FALLBACK, "detected"), -math.inf
    for codec, who in _candidates(sample, claims):
        share, letters = rightness(sample.decode(codec, "replace"))
        doubt = 0 if best[1] == "detected" else DOUBT / (letters + 1)
        if share > most + MARGIN + doubt:
            best, most = (codec, who), share
        if most + MARGIN >= 1:
            break
    return best


def _candidates(sample: bytes, claims: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    yield from claims
    yield _detect(sample), "detected"
    yield FALLBACK, "detected"


def text_charset(body: bytes, declared: str | None) -> str:
    """Python's codec for plain text of an archive: UTF-8, as in WET files, where nothing is declared.

    >>> text_charset(b"caf\\xe9", "iso-8859-1"), text_charset(b"caf\\xe9", None)
    ('cp1252', 'utf-8')
    """
    return charset_of(body, declared)[0] if declared else "utf-8"


def file_charset(body: bytes) -> tuple[str, str] | None:
    """The same as `charset_of` of a file of plain text, or of a piece of it; None: zero bytes say that it is none.

    >>> file_charset("où".encode()), file_charset("le café noir".encode("utf-16-be")), file_charset(bytes(9))
    (('utf-8', 'detected'), ('utf-16-be', 'detected'), None)
    """
    if body.startswith(UTF32_BOMS):
        return "utf-32", "bom"
    if b"\0" not in body or body.startswith(tuple(bom for bom, _ in BOMS)):
        return charset_of(body, None)
    even, odd = body[::2].count(0), body[1::2].count(0)
    if even + odd <= STRAY_ZEROS * len(body):
        return charset_of(body.replace(b"\0", b""), None)
    if even + odd >= WIDE_ZEROS * len(body) and not (even and odd):
        return ("utf-16-le" if odd else "utf-16-be"), "detected"
    return None


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


def _detect(sample: bytes) -> str:
    """The charset of the web that bytes beyond ASCII are most probably in."""
    from resiliparse.parse.encoding import detect_encoding

    # Charsets of DOS, for which it takes languages that it does not know, have no label on the web.
    codec = _codec(detect_encoding(sample, html5_compatible=False) or "") or FALLBACK
    return "koi8-u" if codec == "koi8-r" else codec  # a superset of its letters


def _claimed(label: str | None, body: bytes) -> str | None:
    """The codec of a label. A page without a zero byte is not UTF-16, as the HTML standard has it for a <meta>."""
    codec = _codec(label) if label else None
    return "utf-8" if codec and codec.startswith("utf-16") and b"\0" not in body[:100] else codec


@functools.lru_cache(256)
def _codec(label: str) -> str | None:
    """The name of Python's codec for a label of the web, or None for an unknown one."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    known = OTHER_LABELS.get(label.strip("\t\n\f\r ").lower())
    return known or _python_codec(map_encoding_to_html5(label, fallback_utf8=False) or "")


def _python_codec(label: str) -> str | None:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):  # ValueError: a NUL in the label
        return None
    return SUPERSETS.get(name, name)


def keeps_ascii(codec: str) -> bool:
    """Whether ASCII characters are their own bytes in a codec, and these bytes nothing else, but for the halves of
    characters: so that UTF-8 can be told from it line by line.

    >>> keeps_ascii("shift_jis"), keeps_ascii("iso2022_jp"), keeps_ascii("utf-16-le")
    (True, False, False)
    """
    return not codec.startswith((*SEVEN_BITS, *WIDE))


def decode(body: bytes, codec: str) -> str:
    """The text of a page, with U+FFFD for each bad byte.

    >>> decode(b"caf\\xe9", "cp1252"), decode(b"caf\\xe9s", "ascii")
    ('café', 'caf�s')
    """
    return body.decode(codec, errors="japanese" if codec in ("euc_jp", "iso2022_jp") else "replace")


def decodable_lines(text: str) -> str:
    """A text without its lines of which a third or more could not be decoded: another charset inside the page.

    >>> decodable_lines("A caf\\ufffd by the river.\\n\\ufffd\\ufffd\\ufffd a")
    'A caf� by the river.'
    """
    if "\ufffd" not in text:
        return text
    lines = (line for line in text.split("\n") if 3 * line.count("\ufffd") < max(1, len(line)))
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def is_undecodable(text: str) -> bool:
    """Whether so much of a text could not be decoded that the charset is wrong.

    >>> is_undecodable("caf\\ufffd"), is_undecodable("Two of the three caf\\ufffds were full.")
    (True, False)
    """
    return text.count("\ufffd") > UNDECODABLE_SHARE * len(text)


def _japanese(error: UnicodeError) -> tuple[str, int]:
    """What stands for two bytes that Python does not know in EUC-JP and ISO-2022-JP, and where to go on.

    Circled numbers, units and the like are there on the web as they are in Shift_JIS (Encoding standard, jis0208).
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    pair = error.object[error.start : error.start + 2]
    row, cell = (byte | 0x80 for byte in pair.ljust(2, b"\0"))  # ISO-2022-JP has them without the eighth bit
    if max(pair) >= 0x80 > min(pair) or not (0xA1 <= row <= 0xFE and 0xA1 <= cell <= 0xFE):
        return "\ufffd", error.end
    lead = (row - 0xA1) // 2 + (0x81 if row < 0xDF else 0xC1)
    trail = cell - 0x61 + (cell >= 0xE0) if row % 2 else cell - 2  # two rows in one of Shift_JIS
    text = bytes((lead, trail)).decode("cp932", "replace")
    return (text, error.start + 2) if "\ufffd" not in text else ("\ufffd", error.end)


codecs.register_error("japanese", _japanese)
