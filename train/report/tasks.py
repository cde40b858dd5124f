"""Accuracies on multiple-choice tasks as plain rows, and their means over the tasks of a language."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from pipeline.common.language_codes import iso_code
from pipeline.workflow.layout import BACKBONE, SOURCE
from train.report.points import Points
from train.report.settings import RunResult
from train.runs.results import TaskScore, TaskScores

# Accuracy and its standard error, both as shares; the error is None where it is not known.
Accuracy = tuple[float, float | None]


@dataclass(frozen=True)
class TasksTable:
    """By model and task its accuracy, and by model and language the mean over the tasks, of several of them.

    tasks: those of a language together. scores: None where a task was not asked. methods: of the models, None for
    the backbone. flat: all accuracies as plain rows. skipped: why a task was left out.
    """

    tasks: list[str]
    scores: dict[str, list[TaskScore | None]]
    means: dict[str, dict[str, Accuracy | None]]
    methods: dict[str, str | None]
    flat: Points
    skipped: dict[str, str]


def tasks_table(scores: dict[str, TaskScores], runs: list[RunResult]) -> TasksTable:
    """`scores`: by model, of the backbone, of its source if it was settled, and of the runs."""
    by_language: dict[str, list[str]] = {}
    for task in dict.fromkeys(task for model in scores.values() for task in model.tasks):
        by_language.setdefault(language_of(task), []).append(task)
    tasks = [task for own in by_language.values() for task in own]
    several = {language: own for language, own in by_language.items() if len(own) > 1}
    return TasksTable(
        tasks=tasks,
        scores={name: [model.tasks.get(task) for task in tasks] for name, model in scores.items()},
        means={
            name: {
                language: mean_accuracy(model, language) if model.tasks.keys() >= set(own) else None
                for language, own in several.items()
            }
            for name, model in scores.items()
        },
        methods={SOURCE: None, BACKBONE: None} | {run.name: run.record.method for run in runs},
        flat=[
            {"model": name, "task": task, "count": score.count, "metric": metric, "accuracy": accuracy}
            | {"stderr": score.stderr[metric], "headline": metric == score.metric}
            for name, model in scores.items()
            for task, score in model.tasks.items()
            for metric, accuracy in score.accuracy.items()
        ],
        skipped={task: why for model in scores.values() for task, why in model.skipped.items()},
    )


def language_of(task: str) -> str:
    """Of `task/language`, the ISO code."""
    return iso_code(task.rpartition("/")[2])


def mean_accuracy(scores: TaskScores, language: str) -> Accuracy | None:
    """The mean of the headline accuracies of a language's tasks, and its standard error; None without a task.

    The tasks are taken as they are: the error is of the questions asked, all independent.
    """
    own = [score for task, score in scores.tasks.items() if language_of(task) == iso_code(language)]
    if not own:
        return None
    squares = [error**2 for score in own if (error := score.stderr[score.metric]) is not None]
    error = math.sqrt(sum(squares)) / len(own) if len(squares) == len(own) else None
    return fmean(score.headline for score in own), error
