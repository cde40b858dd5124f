"""What Snakemake would do to texts that others wrote, and how they get past it as they are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

Value = TypeVar("Value")

# Snakemake and its executors write paths into the scripts of a cluster's jobs, some inside quotes of either kind.
UNSAFE_IN_SCRIPTS = re.compile(r"""['"`$\\]""")


def exactly(value: Value) -> Callable[[object], Value]:
    """For `params:`, a value as it is: in a text or list that is not from a function, {braces} are wildcards.

    >>> exactly(["--urls=[0-9]{4}"])("wildcards")
    ['--urls=[0-9]{4}']
    """
    return lambda wildcards: value


def unsafe_in_scripts(paths: Iterable[object]) -> str | None:
    """What is wrong with the first path that a script of a cluster's job cannot have, or None.

    >>> unsafe_in_scripts(["results/a b", "$(here)/x"])
    "'$(here)/x': no quotes, `, $ or backslash in a path on a cluster, whose scripts would run it; rename it"
    """
    wrong = (str(path) for path in paths if UNSAFE_IN_SCRIPTS.search(str(path)))
    cure = "no quotes, `, $ or backslash in a path on a cluster, whose scripts would run it; rename it"
    return next((f"{path!r}: {cure}" for path in wrong), None)
