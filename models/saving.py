"""Writing weights and tokenizers: an error of the disk is the system's, whichever library wrote."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

# How the libraries in Rust, safetensors and tokenizers, quote the system's number in errors of their own.
NUMBER = re.compile(r"os error (\d+)|Os \{ code: (\d+)")


@contextlib.contextmanager
def saving(folder: str | Path) -> Iterator[None]:
    """For what writes into `folder`: raises OSError where the disk is full or the like.

    In the end all users may read the weights, which safetensors writes for their owner alone.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = NUMBER.search(str(error))
        if found is None:
            raise
        number = int(found[1] or found[2])
        raise OSError(number, os.strerror(number), str(folder)) from error
    for path in Path(folder).glob("*.safetensors"):
        path.chmod(0o644)
