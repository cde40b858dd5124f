"""What Snakemake would do to texts that others wrote, and how they get past it as they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

Value = TypeVar("Value")

# Snakemake and its executors write paths, and the words of `--config`, into the scripts of a cluster's jobs, some
# inside quotes of either kind, and as Python would show them: what is not printable as its number.
UNSAFE_IN_SCRIPTS = re.compile(r"""['"`$\\]""")


def exactly(value: Value) -> Callable[[object], Value]:
    """For `params:`, a value as it is: in a text or list that is not from a function, {braces} are wildcards.

    >>> exactly(["--urls=[0-9]{4}"])("wildcards")
    ['--urls=[0-9]{4}']
    """
    return lambda wildcards: value


def unsafe_in_scripts(words: Iterable[object]) -> str | None:
    """What is wrong with the first path, or word of `--config`, that a script of a cluster's job cannot have.

    >>> unsafe_in_scripts(["results/a b", "$(here)/x"]).split(";")[0]
    "'$(here)/x': no quotes, `, $, backslash or invisible characters on a cluster, whose scripts would run them"
    >>> bool(unsafe_in_scripts(["a\N{NO-BREAK SPACE}b"]))
    True
    """
    wrong = (word for word in map(str, words) if UNSAFE_IN_SCRIPTS.search(word) or not word.isprintable())
    why = "no quotes, `, $, backslash or invisible characters on a cluster, whose scripts would run them"
    cure = "rename it, or write the words of --config into the file"
    return next((f"{word!r}: {why}; {cure}" for word in wrong), None)
