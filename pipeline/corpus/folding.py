"""What is equal beside equal text: lines without case, punctuation and the values of their digits, as in CCNet."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np

FIRST_MARK = 0x300  # code point; texts of lower ones alone are in NFC


def fold(text: str) -> bytes:
    """Each line in UTF-8 (NFC) in one case, each digit a 0, and without punctuation, as in CCNet (section 3.2).

    Letters, the marks on them and other numbers stay; control and format characters, such as soft hyphens, are
    nothing; all else becomes one space, and nothing at the ends of a line.

    >>> fold("  Page 3 of 10:\\nLes Œu\\xadvres (1873)").decode()
    'page 0 of 00\\nles œuvres 0000'
    """
    if "\u0130" in text:  # İ, the only composed letter whose small one is not composed
        text = text.replace("\u0130", "I\u0307")
    codes = _folds().take(np.frombuffer(text.encode("utf-32-le"), np.uint32), mode="clip")
    if not codes.all():
        codes = codes[codes != 0]
    spaces = codes == ord(" ")
    # Of several spaces the first stays; behind a newline and at the start none does.
    spaces[1:] &= codes[:-1] <= ord(" ")
    folded = codes[~spaces].tobytes().decode("utf-32-le")
    if codes.max(initial=0) >= FIRST_MARK:
        folded = unicodedata.normalize("NFC", folded)
    return folded.encode().replace(b" \n", b"\n").rstrip(b" ")


@functools.cache
def _folds() -> np.ndarray:
    """For each code point what it becomes, as uint32[0x110000]: 0 is nothing; newline stays."""
    folds = np.full(0x110000, ord(" "), np.uint32)
    for code in range(len(folds)):
        char = chr(code)
        category = unicodedata.category(char)
        if category == "Nd":
            folds[code] = ord("0")
        elif category[0] in "LMN":
            folds[code] = ord(_small(char)) if category[0] != "M" else code
        elif category == "Cf" or (category == "Cc" and not char.isspace()):
            folds[code] = 0
    folds[ord("\n")] = ord("\n")
    return folds


def _small(char: str) -> str:
    """The character in the case that `str.casefold` gives, or else `str.lower`, where that is one character."""
    return next((small for small in (char.casefold(), char.lower()) if len(small) == 1), char)
