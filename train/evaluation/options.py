"""Options of what is measured."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.common.config import option
from train.tasks.options import Tasks


@dataclass(frozen=True, kw_only=True)
class Evaluate(Tasks):
    """What is measured, on held-out documents and with questions."""

    forgetting: str = option("en", "domain that measures forgetting; best from other sites than the replay's")
    learning: str = option("fr", "domain that measures learning")
    others: list[str] = option([], "further domains to measure")
    control: str | None = option(
        None,
        "a run with old_rate: 1, which trains on the replay alone; the report then gives changes against it too",
    )
    prompts: list[str] = option([], "beginnings to continue, for the report")
    generated_tokens: int = option(40, "length of a continuation", unit="tokens", low=1)
