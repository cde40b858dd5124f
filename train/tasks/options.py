"""Options of multiple choice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.config import MOST_GB, MOST_SECONDS, MOST_THREADS, ConfigError, bad_path, option
from pipeline.common.language_codes import iso_code
from train.runs.options import ABOUT_THRESHOLD

# The options that decide nothing of what is measured.
BOUNDS = ("tasks_seconds", "tasks_gb")


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Multiple choice."""

    tasks: list[str] = option([], "multiple-choice tasks: names in configs/tasks, or paths of such YAML files")
    tasks_languages: list[str] = option([], "languages to ask in; empty: all that a task has")
    tasks_limit: int | None = option(
        None, "questions of a task and language, evenly spread over its subjects and in each; null: all", low=1
    )
    tasks_seconds: int = option(
        30,
        "processor time that it may take to read a task's questions in a language",
        unit="seconds",
        low=1,
        high=MOST_SECONDS,
    )
    tasks_gb: int = option(4, "memory that it may take", unit="GB", low=1, high=MOST_GB)
    gate_threshold: float = option(0.0, ABOUT_THRESHOLD, low=0)
    device: str = option("auto", "where to evaluate", choices=("auto", "cpu", "cuda"))
    threads: int = option(1, "CPU threads", low=1, high=MOST_THREADS)

    def asked_in(self, languages: Iterable[str]) -> list[str]:
        """Those of a task's languages to ask in; labels of language models and ISO codes are alike here."""
        codes = set(map(iso_code, self.tasks_languages))
        return [language for language in languages if not codes or iso_code(language) in codes]

    def problems(self) -> Iterator[tuple[str, str]]:
        from train.tasks.task import read_task

        known: dict[str, str] = {}
        for number, name in enumerate(self.tasks):
            if problem := bad_path(name):
                yield f"tasks[{number}]", problem
                continue
            first = known.setdefault(Path(name).stem, name)
            if first != name:
                yield (
                    f"tasks[{number}]",
                    f"{name}: the results would call it as they call {first}; rename its file",
                )
                continue
            try:
                task = read_task(name)
            except ConfigError as error:
                yield f"tasks[{number}]", str(error)
                continue
            if not self.asked_in(task.languages):
                yield "tasks_languages", f"{name} has none of them; it has {', '.join(task.languages)}"
