"""Options of publication."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.common.config import option


@dataclass(frozen=True, kw_only=True)
class Publish:
    """What is published of a corpus."""

    recipe: bool = option(False, "the places and paragraphs of each document in the archives instead of its text")
    license: str = option("other", "licence, as the hub names them, of all but the text, which keeps its own")
