"""Every word that a rule gives to the shell is quoted, whatever it is, and none is taken for a flag."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

import pytest
from conftest import ROOT

from pipeline.common.cli import list_argument

FILES = [ROOT / "Snakefile", *(path for wing in ("pipeline", "train") for path in (ROOT / wing).rglob("*.smk"))]
# Params that are lists of words, each a flag with its value.
WORDS = ("params.options", "params.others", "params.columns")
# What may stand before a value, so that it is no flag: a flag, the name of a list, a redirection, printf's format.
BEFORE = re.compile(r"(--[a-z-]+=@?|> |printf '%s\\0' )$")


def commands() -> Iterator[tuple[str, str]]:
    """(file and line, what Snakemake formats) of each `shell:`."""
    for path in FILES:
        source = path.read_text("utf-8")
        for block in re.finditer(r"^( *)shell:\n((?:\1 +.*\n|\n)+)", source, re.M):
            line = source[: block.start()].count("\n") + 1
            yield f"{path.name}:{line}", eval(f"({block[2]})", {"list_argument": list_argument})  # noqa: S307


@pytest.mark.parametrize(("where", "command"), commands())
def test_every_value_in_a_command_is_quoted_and_no_flag(where, command):
    before = ""
    for text, field, quoting, conversion in string.Formatter().parse(command):
        before += text
        if field is None:
            continue
        assert (quoting, conversion) == ("q", None), f"{{{field}}} is not quoted"
        assert field in WORDS or BEFORE.search(before), f"{{{field}}} may be taken for a flag"
        assert (before.count("'") % 2, before.count('"') % 2) == (0, 0), f"{{{field}}} stands inside quotes"
        before += "x"


def test_no_rule_calls_the_shell_otherwise():
    sources = "".join(path.read_text("utf-8") for path in FILES)
    assert sources.count("shell:") == len(list(commands())) > 20
    assert not re.search(r"shell\(|shell=|os\.system|^ *(run|script|notebook|wrapper):", sources, re.M)


def test_no_rule_tries_again_what_cannot_get_better():
    """Who fetches tries again what a network can mend (pipeline/network/client.py, pip, npm, the hub's client)."""
    assert not any(re.search(r"^ *retries:", path.read_text("utf-8"), re.M) for path in FILES)
