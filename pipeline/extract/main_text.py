"""HTML to its main text, and what makes clean lines of any text."""

from __future__ import annotations

import re

from pipeline.common.normal_form import normal_form
from pipeline.extract.markup import FILLER, PREFORMATTED, mend, remove_hints

# resiliparse's selectors of what no reader of the text sees: pictures, and readings of ruby, which stand above it.
SKIPPED = ["img", "area", "svg", "rt", "rp"]
# Of a page with less text than this, or less than this share of its source, the text without hints is tried. It
# is taken where its lines of at least so many characters, which menus have not, are so many times as much.
LITTLE_TEXT, LITTLE_SHARE, LONG_LINE, MUCH_MORE = 200, 0.02, 50, 4
# What is no text: controls but tab and newline, from binary data and hostile pages; noncharacters; soft hyphens,
# word joiners and byte order marks, which hide a word from filters, dedup and tokenizers. A zero width space is
# text where scripts have no other between words: Thai, Lao, Burmese and Khmer.
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u2060\ufdd0\ufdd2-\ufdef\ufeff\ufffe\uffff]")
ZERO_WIDTH_SPACE = re.compile("(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b")
LINE_END = re.compile("\r\n?|[\u2028\u2029]")
# Characters of which nothing is to be taken off, and which normalisation never changes.
ORDINARY = re.compile(
    "[\t\n -~\xa0-\xac\xae-\u02ff\u0388-\u03ff\u0400-\u0482\u0621-\u064a\u0671-\u06d5\u1e00-\u1ef9"
    "\u200c-\u2027\u202f-\u205e\u20a0-\u20bf\u2190-\u2328\u232b-\u2adb\u3001-\u3029\u3041-\u3096\u30a1-\u30ff"
    "\u4e00-\u9fff\uac00-\ud7a3\ufdd1\uff01-\uff5e]*+"
)


def main_text(html: str) -> str:
    """The main text of a page by resiliparse: a paragraph a line, an empty line between blocks.

    >>> main_text("<h1>One</h1><p>two<br>three</p>")
    'One\\n\\ntwo\\nthree'
    """
    html = mend(html)
    text = _extract(html)
    if len(text) < max(LITTLE_TEXT, LITTLE_SHARE * len(html)):
        more = _extract(remove_hints(html), noscript=True)
        if sum(len(line) for line in more.split("\n") if len(line) >= LONG_LINE) > MUCH_MORE * len(text):
            text = more
    return clean_text(text.replace(FILLER, ""))


def _extract(html: str, noscript: bool = False) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(html, main_content=True, noscript=noscript, skip_elements=SKIPPED)


def plain_text(body: bytes, codec: str = "utf-8") -> str:
    """The text of a body that is text already, as in WET files.

    >>> plain_text(b"  One \\r\\n\\n\\n\\ttwo\\x00")
    'One\\n\\ntwo'
    """
    return clean_text(body.decode(codec, "replace"))


def clean_text(text: str) -> str:
    """A text in NFC and without NO_TEXT; its lines without white space at their ends, no empty ones but one
    between others.

    Of lines with PREFORMATTED the white space behind it stays.

    >>> clean_text("  one\\x00 \\n\\n\\n two\\tthree ")
    'one\\n\\ntwo\\tthree'
    """
    if not ORDINARY.fullmatch(text):
        text = normal_form(NO_TEXT.sub("", ZERO_WIDTH_SPACE.sub("", LINE_END.sub("\n", text))))
    strip = _strip_preformatted if PREFORMATTED in text else str.strip
    lines = [strip(line) for line in text.split("\n")]
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before).rstrip(
        "\n"
    )


def _strip_preformatted(line: str) -> str:
    before, _, code = line.partition(PREFORMATTED)
    before = before.strip()
    code = code.replace(PREFORMATTED, "").rstrip()
    return f"{before} {code}".rstrip() if before else code
