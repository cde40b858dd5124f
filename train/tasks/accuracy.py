"""Accuracies of a model on multiple-choice tasks, under every normalisation, with standard errors.

An answer's score is its log-likelihood as it is (raw), per character, byte or token, or minus that behind the
unconditional prompt (pmi: pointwise mutual information). Characters and bytes count the space before it, as OLMES
does. docs/method.md, Multiple choice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.backbone import weights_digest
from models.block import close_gates
from models.positions import longest_text
from pipeline.common.locks import locked
from pipeline.common.progress import progress
from pipeline.workflow.fingerprint import fingerprint
from train.data.tokens import beginning, open_tokenizer
from train.runs.load import load_run, measuring_device
from train.runs.results import Group, TaskScore, TaskScores, write_result
from train.tasks.averages import macro_average
from train.tasks.loglikelihood import Request, encode_pairs, make_request, score
from train.tasks.options import Tasks
from train.tasks.question_sets import MissingSet
from train.tasks.task import METRICS, Question, Set, Task, load_guarded, read_task

NO_LIMIT = 2**31  # tokens of a text


@dataclass
class Asked:
    """A task in a language: the questions asked, of all that it has, and the numbers of their two requests."""

    task: Task
    whole: Set
    questions: list[Question]
    numbers: list[tuple[int, int]] = field(default_factory=list)


def measure_tasks(options: Tasks, backbone: str, run: str | None, downloads: str, output: str) -> None:
    """Ask the backbone, or the run on it, all questions of the tasks; write accuracies, and what was skipped."""
    asked, skipped = load_tasks(options, downloads)
    measure_asked(options, asked, skipped, backbone, run, output)


def measure_asked(
    options: Tasks, asked: dict[str, Asked], skipped: dict[str, str], backbone: str, run: str | None, output: str
) -> None:
    """The same with questions that are loaded already.

    What was scored is kept beside `output` until it is written, so that a killed run goes on. The same model and
    questions give the same bytes.
    """
    torch.set_num_threads(options.threads)
    tokenizer = open_tokenizer(backbone)
    model = load_run(backbone, run, measuring_device(options.device))
    close_gates(model, options.gate_threshold)
    logging.info("tasks: tokenizing the questions")
    requests = make_requests(asked, tokenizer, longest_text(model.config) or NO_LIMIT)
    with (
        kept_scores(f"{output}.scores.jsonl", _key(model, options, requests)) as (scores, keep),
        progress(len(requests), "tasks", "requests", len(scores)) as bar,
    ):
        for batch in score(model, requests, scores.__contains__):
            new = {number: values for number, values in batch.items() if number not in scores}
            keep(batch)
            bar.update(len(new))
        measures = {name: measure(one, requests, scores) for name, one in asked.items()}
        name = Path(run).name if run else "backbone"
        write_result(output, TaskScores(model=name, tasks=measures, skipped=skipped))


def load_tasks(options: Tasks, downloads: str) -> tuple[dict[str, Asked], dict[str, str]]:
    """The questions of each `task/language`, and why one is skipped."""
    asked, skipped = {}, {}
    for path in options.tasks:
        task = read_task(path)
        for language in options.asked_in(task.languages):
            name = f"{Path(path).stem}/{language}"
            logging.info("tasks: loading %s", name)
            try:
                questions = load_guarded(
                    path, language, downloads, options.tasks_seconds, options.tasks_gb * 2**30
                )
            except MissingSet as error:
                skipped[name] = str(error)
                logging.warning("tasks: %s is skipped: %s", name, error)
                continue
            chosen = spread(questions.questions, options.tasks_limit or NO_LIMIT)
            asked[name] = Asked(task, questions, chosen)
    return asked, skipped


def spread(questions: list[Question], count: int) -> list[Question]:
    """At most `count` of the questions: as many of each group, if it has them, and evenly spread in it.

    The mean over groups is then nearly as sure as that of as many questions without groups.
    """
    chosen, left = [], count
    groups = sorted(_by_group(questions).values(), key=len)
    for place, numbers in enumerate(groups):
        share = min(len(numbers), left // (len(groups) - place))
        chosen += [numbers[i * len(numbers) // share] for i in range(share)]
        left -= share
    return [questions[number] for number in sorted(chosen)]


def _by_group(questions: list[Question]) -> dict[str, list[int]]:
    """The places of each group's questions."""
    groups: dict[str, list[int]] = {}
    for number, question in enumerate(questions):
        groups.setdefault(question.group, []).append(number)
    return groups


def make_requests(asked: dict[str, Asked], tokenizer: Any, room: int) -> list[Request]:
    """Each question's answers behind its context, and behind the unconditional prompt."""
    requests: list[Request] = []
    lead = len(beginning(tokenizer))
    for name, one in asked.items():
        pairs = [
            (context, answer)
            for question in one.questions
            for context in (question.shots + question.prompt, question.unconditional)
            for answer in question.answers
        ]
        encoded = iter(encode_pairs(tokenizer, pairs))
        for question in one.questions:
            for family in ((name, question.group), (name, "", "unconditional")):
                requests.append(make_request(family, [next(encoded) for _ in question.answers], room, lead))
            one.numbers.append((len(requests) - 2, len(requests) - 1))
    return requests


def _key(model: Any, options: Tasks, requests: list[Request]) -> str:
    """What scores depend on: the weights, the threshold of gates, the requests and the code."""
    parts = weights_digest(model), options.gate_threshold, fingerprint("train.tasks.loglikelihood")
    digest = hashlib.sha256(" ".join(map(str, parts)).encode())
    for request in requests:
        digest.update(f"{request.family}{request.continuations}".encode() + request.context.tobytes())
    return digest.hexdigest()


Scores = dict[int, list[float]]


@contextmanager
def kept_scores(path: str, key: str) -> Iterator[tuple[Scores, Callable[[Scores], None]]]:
    """The scores of an earlier, killed run of the same `key`, and the function that adds to them and to the file.

    A line a batch; a last line that is cut off is forgotten. The file is gone when the block ends well.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file):
        whole = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        scores: Scores = {}
        if whole and json.loads(whole[0]) == {"key": key}:
            for line in whole[1:]:
                scores |= {int(number): values for number, values in json.loads(line).items()}
        else:
            whole = [json.dumps({"key": key}).encode() + b"\n"]
        file.write_bytes(b"".join(whole))
        with file.open("a", encoding="utf-8") as opened:

            def keep(batch: Scores) -> None:
                scores.update(batch)
                opened.write(json.dumps(batch) + "\n")
                opened.flush()

            yield scores, keep
        file.unlink()


def measure(asked: Asked, requests: list[Request], scores: Scores) -> TaskScore:
    """Accuracies of one task and language; with groups, the means over groups (macro average)."""
    correct = np.array(
        [
            _correct(question, requests[number], scores[number], scores[unconditional])
            for question, (number, unconditional) in zip(asked.questions, asked.numbers, strict=True)
        ]
    )
    parts = {name: correct[numbers] for name, numbers in sorted(_by_group(asked.questions).items())}
    mean, error = macro_average(list(parts.values()))
    headline = METRICS.index(asked.task.metric)
    return TaskScore(
        count=len(correct),
        shots=asked.task.shots,
        metric=asked.task.metric,
        accuracy=_by_metric(mean),
        stderr=_known(error),
        headline=float(mean[headline]),
        correct={name: "".join(map(str, part[:, headline].astype(int))) for name, part in parts.items()},
        source=asked.whole.source,
        fewer_shots=asked.whole.fewer,
        truncated=sum(requests[number].truncated for numbers in asked.numbers for number in numbers),
        groups=None if list(parts) == [""] else {name: _group(part) for name, part in parts.items()},
    )


def _group(correct: np.ndarray) -> Group:
    mean, error = macro_average([correct])
    return Group(count=len(correct), accuracy=_by_metric(mean), stderr=_known(error))


def _correct(question: Question, request: Request, logp: list[float], unconditional: list[float]) -> list[bool]:
    """Whether the right answer has the best score, in each of METRICS; of equal ones the first counts."""
    return [int(np.argmax(x)) == question.gold for x in normalise(question.answers, request, logp, unconditional)]


def normalise(
    answers: tuple[str, ...], request: Request, logp: list[float], unconditional: list[float]
) -> list[np.ndarray]:
    """The scores of the answers in each of METRICS, from their log-likelihoods in nats."""
    raw = np.array(logp)
    sizes = ([len(x) for x in answers], [len(x.encode()) for x in answers], list(map(len, request.continuations)))
    return [raw, *(raw / np.array(size) for size in sizes), raw - np.array(unconditional)]


def _by_metric(values: np.ndarray) -> dict[str, float]:
    return {name: float(x) for name, x in zip(METRICS, values, strict=True)}


def _known(values: np.ndarray) -> dict[str, float | None]:
    """By metric, and None for what is not a number."""
    return {name: None if math.isnan(x) else x for name, x in _by_metric(values).items()}
