"""fastText's classifiers, of languages and of quality: models from elsewhere, and texts that are but words."""

from __future__ import annotations

import hashlib
import mmap
import re
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError
from pipeline.common.guard import guarded

# sha256 of fastText's own models for language identification, compressed and whole.
KNOWN = {
    "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",  # lid.176.ftz
    "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",  # lid.176.bin
}
_LID_176 = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv "
    "cy da de diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht "
    "hu hy ia id ie ilo io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg "
    "mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb "
    "ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug "
    "uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh"
)
LID_176 = frozenset(_LID_176.split())  # the labels of these two
MAGIC = struct.pack("<i", 793712314)  # of a model's file
LABEL = "__label__"
# Before the words of a model's file: its arguments, and how many words and labels there are.
_ARGUMENTS, _COUNTS = struct.Struct("<14id"), struct.Struct("<iiiqq")
BEHIND_ENTRY = 10  # bytes of a dictionary behind a word: its end, a count, and whether it is a label
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


def load_fasttext(path: str) -> Any:
    """The model in a file. One that is not KNOWN is first read, and asked once, in a process of its own.

    fastText believes the sizes that a file gives: a damaged one takes all memory, or is read without end. Raises
    StageError for such a file.
    """
    import fasttext

    with open(path, "rb") as file:  # noqa: PTH123
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest not in KNOWN:
        size = Path(path).stat().st_size
        try:
            # fastText itself takes 120 MB for its table of words.
            guarded("pipeline.common.classifiers:ask", path, seconds=20 + size // 2**23, memory=2**30 + 2 * size)
        except StageError as error:
            raise StageError(f"{path}: no fastText model, or a damaged one ({error}); fetch it again") from None
    return fasttext.load_model(path)


def ask(path: str) -> int:
    """Load the model and let it predict once; returns how many labels it gives. Raises ValueError."""
    import fasttext

    with open(path, "rb") as file:  # noqa: PTH123
        if file.read(4) == MAGIC:  # else fastText says that it is no model
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
                _check_tables(body)
    model = fasttext.load_model(path)
    return len(model.f.predict("one line, une ligne, одна строка, 一行\n", 5, 0.0, "strict"))


def read_labels(path: str) -> list[str]:
    """The labels of the model in a file, which stand behind its words, without loading it.

    Raises StageError where the file is not laid out as a model.
    """
    found = []
    with open(path, "rb") as file:  # noqa: PTH123
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
                size, words, *_ = _COUNTS.unpack_from(body, _ARGUMENTS.size)
                entries = _entries(body, _ARGUMENTS.size + _COUNTS.size, size)
                found = [
                    body[begin:end].decode().removeprefix(LABEL) for begin, end in islice(entries, words, None)
                ]
        except (struct.error, ValueError):  # also of an empty file, and of a label that is no UTF-8
            found = []
    if not found:
        raise StageError(f"{path}: no fastText model, or a damaged one; fetch it again")
    return found


def _entries(body: mmap.mmap, place: int, size: int) -> Iterator[tuple[int, int]]:
    """Where each of `size` words and labels of a dictionary begins and ends. Raises ValueError."""
    for _ in range(size):
        end = body.find(b"\0", place)
        if not 0 <= end <= len(body) - BEHIND_ENTRY:
            raise ValueError("its tables have other sizes than its words")
        yield place, end
        place = end + BEHIND_ENTRY


def _check_tables(body: mmap.mmap) -> None:
    """Raises ValueError where a model's tables do not have the rows and columns that its words lead to.

    fastText looks there without a check, and crashes at the first such word, perhaps after hours. The layout is
    that of its own save(): arguments, dictionary, and a table of the input and one of the labels, packed or not.
    """
    place = 0

    def take(form: str) -> tuple[Any, ...]:
        nonlocal place
        place += struct.calcsize(f"<{form}")
        check(place <= len(body))
        return struct.unpack_from(f"<{form}", body, place - struct.calcsize(f"<{form}"))

    def quantizer(width: int) -> int:
        """The bytes of a row of this width in codes; behind what says so are its 256 values a column."""
        nonlocal place
        columns, parts, part, last = take("4i")
        place += 4 * 256 * width
        check(columns == width and parts > 0 and 0 < last <= part and (parts - 1) * part + last == width)
        return int(parts)

    def table(packed: bool) -> int:
        """The rows of a table."""
        nonlocal place
        if not packed:
            rows, columns = take("qq")
            place += 4 * rows * columns
        else:
            normed, rows, columns, size = take("?qqi")
            place += size
            check(size == rows * quantizer(dim))
            if normed:
                place += rows
                quantizer(1)
        check(columns == dim and rows >= 0)
        return int(rows)

    def check(right: bool) -> None:
        if not right:
            raise ValueError("its tables have other sizes than its words")

    _, _, dim, *_, bucket, _, _, _, _ = take("14id")
    size, words, labels, _, pruned = take("iiiqq")
    check(size == words + labels and min(words, labels, bucket) >= 0)
    for number, (_, end) in enumerate(_entries(body, place, size)):
        place = end + BEHIND_ENTRY
        check(body[place - 1] == (number >= words))
    kept = take(f"{2 * pruned}i")[1::2] if pruned > 0 else (-1,)
    check(pruned <= 0 or min(kept) >= 0)
    (packed,) = take("?")
    check(table(packed) >= words + (bucket if pruned < 0 else max(kept) + 1))
    (packed_labels,) = take("?")
    check(table(packed and packed_labels) >= labels)
    check(place <= len(body))
