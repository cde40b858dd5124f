"""HTML to paragraphs of text, and what makes clean lines of any text."""

from __future__ import annotations

import re

# Text has no control characters but tab and newline; others come from binary data and hostile pages.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")


def paragraphs(html: str) -> list[str]:
    """The main text of a page by resiliparse, a paragraph for each line that is not empty."""
    from resiliparse.extract.html2text import extract_plain_text

    return clean_lines(extract_plain_text(html, main_content=True))


def plain_text(body: bytes, codec: str = "utf-8") -> str:
    """The text of a body that is text already, as in WET files: its clean lines.

    >>> plain_text(b"  One \\r\\n\\n\\ttwo\\x00")
    'One\\ntwo'
    """
    return "\n".join(clean_lines(body.decode(codec, "replace")))


def clean_lines(text: str) -> list[str]:
    """The lines of a text that are not empty, without control characters and without white space at their ends.

    >>> clean_lines("  one\\x00 \\n\\n two\\tthree ")
    ['one', 'two\\tthree']
    """
    lines = (line.strip() for line in CONTROLS.sub("", text).split("\n"))
    return [line for line in lines if line]
