"""Multiple-choice tasks: a YAML file each says where the questions are and how they are put; this reads it.

A question becomes a context (the shots, then the prompt) and its answers, each behind a space, to be scored as
continuations (cloze). docs/method.md, Multiple choice; recipes of OLMES (Gu et al. 2024).
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import ConfigError, bad_regex, option, read_yaml
from pipeline.common.errors import StageError
from pipeline.common.guard import BeyondBounds, guarded
from train.tasks.question_sets import (
    MissingSet,
    RawQuestion,
    SetSource,
    bad_expression,
    bad_template,
    environment,
    expression,
    read_rows,
)

TASKS = Path(__file__).resolve().parents[2] / "configs" / "tasks"
METRICS = ("raw", "char", "byte", "token", "pmi")
# What each source must say of a row: its answers and the place of the right one among them, from 0.
NEEDED = ("choices", "answer")
# Characters of a text that is scored, far more than a model reads; and bytes of memory for each, of all that are.
LONGEST_TEXT, BYTES_PER_CHAR = 2**20, 16


@dataclass(frozen=True, kw_only=True)
class Language:
    """A task in one language."""

    labels: dict[str, str] = option({}, "words of the prompts, such as question: 'Question :'")
    sources: list[SetSource] = option(doc="where the questions are; the first source that is there")
    shot_sources: list[SetSource] = option(
        [], "where the shots are: the first rows, of each group if there are any"
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """A set of questions in several languages, and how it is put to a model and scored."""

    doc: str = option("", "what it is, and whose recipe")
    prompt: str = option(doc="Jinja template of labels and fields, to the place where the answer goes")
    unconditional: str = option("{{ labels.answer }}", "what pmi conditions on instead of the question")
    metric: str = option(doc="the normalisation of the headline", choices=METRICS)
    shots: int = option(0, "solved examples before each question", low=0)
    clean: dict[str, str] = option(
        {}, "regular expressions and what replaces them in prompts and answers, in turn"
    )
    fields: dict[str, str] = option(
        {}, "expressions over a row: choices, answer (its place, from 0), what the prompt uses, perhaps group"
    )
    languages: dict[str, Language] = option(doc="the languages, such as fr")

    def problems(self) -> Iterator[tuple[str, str]]:
        for key in ("prompt", "unconditional"):
            if why := bad_template(getattr(self, key)):
                yield key, why
        for pattern in self.clean:
            if problem := bad_regex(pattern):
                yield f"clean.{pattern}", problem
        for name, text in self.fields.items():
            if why := bad_expression(text):
                yield f"fields.{name}", why
        for name, language in self.languages.items():
            for key in ("sources", "shot_sources"):
                for number, source in enumerate(getattr(language, key)):
                    for field in NEEDED:
                        if field not in self.fields | source.fields:
                            yield f"languages.{name}.{key}[{number}].fields.{field}", "missing; say what it is"
            if not language.sources:
                yield f"languages.{name}.sources", "no source; give at least one"
            if self.shots and not language.shot_sources:
                yield f"languages.{name}.shot_sources", f"missing; shots is {self.shots}"


@dataclass(frozen=True)
class Question:
    """`shots + prompt` is the context; `answers` begin with their space."""

    shots: str
    prompt: str
    answers: tuple[str, ...]
    gold: int
    unconditional: str
    group: str = ""


@dataclass(frozen=True)
class Set:
    """The questions of a task in a language; `fewer` counts those whose group has fewer shots than asked for."""

    questions: list[Question]
    source: str
    fewer: int


def task_path(name: str) -> Path:
    """The file of a task: one of configs/tasks by its name, or a path. Raises ConfigError where there is none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else TASKS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in TASKS.glob("*.yaml")))
        raise ConfigError(f"no task {name!r}; name one of {known}, or give the path of a .yaml file")
    return path


def read_task(name: str) -> Task:
    """The task, checked. Raises ConfigError that lists every wrong key and its cure."""
    return read_yaml(Task, task_path(name))


def load_guarded(name: str, language: str, downloads: str, seconds: int, memory: int) -> Set:
    """`load_set` of a task by its name, in a process with bounds of processor time and memory.

    Expressions of ten characters may compute for hours, and a file of 3 kB may unpack to gigabytes. Raises
    MissingSet, and StageError also where that is more than the bounds (seconds, bytes) allow.
    """
    arguments = name, language, downloads
    try:
        found = guarded("train.tasks.task:set_data", *arguments, seconds=seconds, memory=memory)
    except BeyondBounds as error:
        cure = "if you trust its sources, raise evaluate.tasks_seconds or evaluate.tasks_gb"
        raise StageError(f"{name}, {language}: to read its questions {error}; {cure}") from None
    if "missing" in found:
        raise MissingSet(found["missing"])
    questions = [Question(**question | {"answers": tuple(question["answers"])}) for question in found["questions"]]
    texts = [(_longest_text(question), len(question.answers)) for question in questions]
    longest, chars = max(size for size, _ in texts), sum(size * count for size, count in texts)
    if longest > LONGEST_TEXT or chars * BYTES_PER_CHAR > memory:
        raise StageError(
            f"{name}, {language}: its texts have {chars:,} characters, and one has {longest:,}; a text may have "
            f"{LONGEST_TEXT:,}, and all of them more if you raise evaluate.tasks_gb"
        )
    return Set(**found | {"questions": questions})


def _longest_text(question: Question) -> int:
    """Characters of the longest text of a question: a context and an answer behind it."""
    return max(len(question.shots + question.prompt), len(question.unconditional)) + max(
        map(len, question.answers)
    )


def set_data(name: str, language: str, downloads: str) -> dict[str, Any]:
    """`load_set` as JSON data; under `missing` why it is not there."""
    try:
        return dataclasses.asdict(load_set(read_task(name), language, downloads))
    except MissingSet as error:
        return {"missing": str(error)}


def load_set(task: Task, language: str, downloads: str) -> Set:
    """All questions, with their shots. Raises MissingSet where questions or shots are not there."""
    chosen = task.languages[language]
    items, source = _first(chosen.sources, task, chosen, downloads)
    shots: dict[str, list[str]] = defaultdict(list)
    if task.shots:
        for item in _first(chosen.shot_sources, task, chosen, downloads)[0]:
            if len(shots[item.group]) < task.shots:
                shots[item.group].append(f"{item.prompt}{item.answers[item.gold]}\n\n")
        if "" in shots and len(shots[""]) < task.shots:
            raise StageError(
                f"{language}: {len(shots[''])} shots found, not {task.shots}; lower shots or add some"
            )
    questions = [
        Question("".join(shots[x.group]), x.prompt, x.answers, x.gold, x.unconditional, x.group) for x in items
    ]
    return Set(questions, source, sum(len(shots[item.group]) < task.shots for item in items))


def _first(sources: list[SetSource], task: Task, language: Language, downloads: str) -> tuple[list[Question], str]:
    """The questions, without shots, of the first source that is there, and its name."""
    missing = []
    for source in sources:
        try:
            rows = list(read_rows(source, downloads))
        except MissingSet as error:
            missing.append(str(error))
            continue
        if not rows:
            raise StageError(f"{source}: no rows; correct where, each or split in the task")
        fields = task.fields | source.fields
        return [_question(task, language, fields, row, f"{source}: row {i}") for i, row in enumerate(rows)], str(
            source
        )
    raise MissingSet("; or ".join(missing))


def _question(task: Task, language: Language, fields: dict[str, str], row: RawQuestion, where: str) -> Question:
    values: dict[str, Any] = {"labels": language.labels}
    name = ""
    try:
        for name, text in fields.items():
            values[name] = expression(text)(row)
        name = "prompt"
        prompt = _clean(task, _template(task.prompt).render(values))
        name = "unconditional"
        unconditional = _fit(_template(task.unconditional).render(values))
        name = "choices"
        answers, gold = list(values["choices"]), values["answer"]
        while answers and answers[-1] in (None, ""):  # a set with columns for five answers has rows with four
            answers.pop()
        texts = tuple(f" {_clean(task, str(answer))}" for answer in answers)
        fits = isinstance(gold, int) and 0 <= gold < len(answers) and all(map(str, answers))
    except MemoryError:
        raise
    except Exception as error:  # whatever an expression raises on this row
        raise StageError(f"{where}: {name}: {error}; correct it in the task") from None
    if not fits:
        raise StageError(f"{where}: answer {gold!r} is no place among the choices {answers!r}; correct the fields")
    return Question("", prompt, texts, gold, unconditional, str(values.get("group", "")))


def _clean(task: Task, text: str) -> str:
    for pattern, replacement in task.clean.items():
        text = re.sub(pattern, replacement, text)
    return _fit(text)


def _fit(text: str) -> str:
    """The text with "?" for each half of a surrogate pair, which JSON may have and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


@functools.cache
def _template(text: str) -> Any:
    return environment().from_string(text)
