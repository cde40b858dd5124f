"""Options of the report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.common.config import option


@dataclass(frozen=True, kw_only=True)
class Report:
    """The page that shows it all."""

    title: str = option("A language added, the others kept", "title of the page")
