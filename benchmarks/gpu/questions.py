"""The questions of a config's tasks as one file, for a machine that can fetch none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from pipeline.common.config import read, to_data
from train.tasks.accuracy import Asked, load_tasks
from train.tasks.options import Tasks
from train.tasks.task import Question, Set, Task

QUESTIONS = "questions.jsonl"


def write_questions(options: Tasks, downloads: str, path: Path) -> None:
    """A line of each task and language; of a set that cannot be had why."""
    asked, skipped = load_tasks(options, downloads)
    with path.open("w", encoding="utf-8") as file:
        for name, one in asked.items():
            questions = [dataclasses.asdict(question) for question in one.questions]
            about = {"source": one.whole.source, "fewer": one.whole.fewer}
            line = {"name": name, "task": to_data(one.task), "questions": questions, **about}
            file.write(json.dumps(line) + "\n")
        for name, why in skipped.items():
            file.write(json.dumps({"name": name, "skipped": why}) + "\n")


def read_questions(path: Path) -> tuple[dict[str, Asked], dict[str, str]]:
    """What write_questions() wrote: questions by `task/language`, and why one was skipped."""
    asked, skipped = {}, {}
    for text in path.read_text("utf-8").splitlines():
        line = json.loads(text)
        if "skipped" in line:
            skipped[line["name"]] = line["skipped"]
            continue
        questions = [Question(**each | {"answers": tuple(each["answers"])}) for each in line["questions"]]
        task = read(Task, line["task"], line["name"])
        asked[line["name"]] = Asked(task, Set(questions, line["source"], line["fewer"]), questions)
    return asked, skipped
