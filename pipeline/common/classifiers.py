"""Text for fastText's classifiers, which read a line of words and of control words."""

from __future__ import annotations

import re

# Words end at one of these characters. `__label__` begins a label, in training and in prediction, and `</s>` ends
# the line (fastText's Dictionary::readWord and getLine).
_CONTROL_WORD = re.compile(r"(?<![^ \n\r\t\v\f\0])(?=__label__|</s>(?![^ \n\r\t\v\f\0]))")


def fasttext_line(text: str) -> str:
    r"""A text as one line, without the newline at its end, in which every word is a word and not a control word.

    A label or an end of line in the text gets a backslash before it; every other text keeps its words.

    >>> print(fasttext_line("so good\n__label__good </s> a__label__"))
    so good \__label__good \</s> a__label__
    """
    line = text.replace("\n", " ")
    return _CONTROL_WORD.sub(r"\\", line) if "__label__" in line or "</s>" in line else line
