"""Accuracies on multiple-choice tasks as plain rows, and their means over the tasks of a language."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from pipeline.common.language_codes import iso_code
from pipeline.workflow.layout import BACKBONE, SOURCE
from train.report.points import Points
from train.report.settings import RunResult
from train.runs.results import TaskScore, TaskScores
from train.tasks.averages import macro_average

# Accuracy and its standard error, both as shares; the error is None where it is not known.
Accuracy = tuple[float, float | None]


@dataclass(frozen=True)
class TasksTable:
    """By model and task its accuracy, and by model and language the mean over the tasks, of several of them.

    tasks: those of a language together. scores: None where a task was not asked. changes: of the means, since the
    backbone; None where they are not of the same questions. methods: of the models, None for the backbone.
    flat: all accuracies as plain rows. skipped: why a task was left out.
    """

    tasks: list[str]
    scores: dict[str, list[TaskScore | None]]
    means: dict[str, dict[str, Accuracy | None]]
    changes: dict[str, dict[str, Accuracy | None]]
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
        changes={
            name: {
                language: None if name == BACKBONE else mean_change(model, scores.get(BACKBONE), own)
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
    return _mean([(score.headline, score.stderr[score.metric]) for score in own])


def mean_change(scores: TaskScores, base: TaskScores | None, tasks: list[str]) -> Accuracy | None:
    """The change of the mean of the tasks since `base`, and its standard error, both question by question.

    None where not both were asked all, or not the same number of questions.
    """
    changes = []
    for task in tasks:
        if base is None or task not in scores.tasks or task not in base.tasks:
            return None
        new, old = _digits(scores.tasks[task]), _digits(base.tasks[task])
        if {name: len(x) for name, x in new.items()} != {name: len(x) for name, x in old.items()}:
            return None
        mean, error = macro_average([new[name] - old[name] for name in old])
        changes.append((float(mean[0]), None if math.isnan(error[0]) else float(error[0])))
    return _mean(changes)


def _digits(score: TaskScore) -> dict[str, np.ndarray]:
    """By group 1 for each right answer and 0 for each wrong one, in a column."""
    return {name: np.array([int(digit) for digit in text])[:, None] for name, text in score.correct.items()}


def _mean(accuracies: list[Accuracy]) -> Accuracy:
    squares = [error**2 for _, error in accuracies if error is not None]
    error = math.sqrt(sum(squares)) / len(accuracies) if len(squares) == len(accuracies) else None
    return fmean(share for share, _ in accuracies), error
