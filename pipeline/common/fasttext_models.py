"""fastText models from elsewhere: language identification, and ready-made quality classifiers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipeline.common.errors import StageError
from pipeline.common.guard import guarded

# sha256 of fastText's own models for language identification, compressed and whole.
KNOWN = {
    "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83",  # lid.176.ftz
    "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",  # lid.176.bin
}


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
            limits = {"seconds": 20 + size // 2**23, "memory": 2**30 + 2 * size}
            guarded("pipeline.common.fasttext_models:ask", path, **limits)
        except StageError as error:
            raise StageError(f"{path}: no fastText model, or a damaged one ({error}); fetch it again") from None
    return fasttext.load_model(path)


def ask(path: str) -> int:
    """Load the model and let it predict once; returns how many labels it gives."""
    import fasttext

    model = fasttext.load_model(path)
    return len(model.f.predict("one line, une ligne, одна строка, 一行\n", 5, 0.0, "strict"))
