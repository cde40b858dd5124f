"""What was measured of a model, a dataclass for each file: `evaluate/`, `speed/` and `tasks/{model}.json`.

A field that is None by default may be missing in the file; docs/formats.md says what each is.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.config import default_of, option
from pipeline.common.files import write_json
from train.runs.record import read_result


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Sums by document, in their order, for intervals; neighbours are one group where they are many.

    docs/formats.md; train/evaluation/intervals.py makes and reads them.
    """

    count: int = option(doc="the documents in which a row begins", unit="documents")
    nats: str = option(doc="base64: a float32 for each group")
    bytes: str = option(doc="base64: a uint32 for each group")

    def problems(self) -> Iterator[tuple[str, str]]:
        return _unpaired("nats", self.nats, "bytes", self.bytes)


@dataclass(frozen=True, kw_only=True)
class KLDocuments:
    """The same of the KL divergence."""

    count: int = option(doc="the documents in which a row begins", unit="documents")
    kl: str = option(doc="base64: a float32 for each group, in nats")
    tokens: str = option(doc="base64: a uint32 for each group")

    def problems(self) -> Iterator[tuple[str, str]]:
        return _unpaired("kl", self.kl, "tokens", self.tokens)


def _unpaired(name: str, text: str, other: str, sizes: str) -> Iterator[tuple[str, str]]:
    """What is wrong with two texts that should have a number of 4 bytes for each group."""
    try:
        ours, theirs = (len(base64.b64decode(x, validate=True)) for x in (text, sizes))
    except ValueError:
        yield name, f"this or {other} is not base64"
    else:
        if ours != theirs or not ours or ours % 4:
            yield other, f"{theirs} bytes of numbers beside {ours} of {name}; expected as many, 4 for each group"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Held-out text of a domain, scored."""

    bpb: float = option(doc="the mean of all held-out rows", unit="bits per byte")
    bpb_low: float = option(doc="the lower end of its 95% interval", unit="bits per byte")
    bpb_high: float = option(doc="the upper end of its 95% interval", unit="bits per byte")
    nats_per_token: float = option(doc="the mean of a token", unit="nats")
    nats: float = option(doc="the sum", unit="nats")
    tokens: int = option(doc="the tokens scored", unit="tokens")
    bytes: int = option(doc="the text scored", unit="bytes")
    documents: Documents | None = option(None, "the same by document; an older file has none")


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A domain in an evaluation in training, a line of `metrics.jsonl`."""

    bpb: float = option(doc="of some held-out rows", unit="bits per byte")
    nats_per_token: float = option(doc="of the same", unit="nats")
    documents: Documents | None = option(None, "the same by document; an older file has none")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What the block of a layer does: means over tokens."""

    gate: float = option(doc="the mean of |g|")
    open: float | None = option(None, "the share of tokens whose g is not 0; an older file has none")
    block: float = option(doc="the mean of |g A| over that of |FFN(x)|")


@dataclass(frozen=True, kw_only=True)
class Site:
    """The change on the pages of one site."""

    site: str = option(doc="the host")
    tokens: int = option(doc="the tokens compared", unit="tokens")
    bytes: int = option(doc="their text", unit="bytes")
    bpb: float = option(doc="the change", unit="bits per byte")


@dataclass(frozen=True, kw_only=True)
class Change:
    """An extended model against its backbone, on some rows of a domain."""

    rows: int = option(doc="the rows compared", unit="rows")
    tokens: int = option(doc="the tokens compared", unit="tokens")
    kl: float = option(doc="KL(backbone || model)", unit="nats a token")
    agreement: float = option(doc="the share of tokens with the same most probable value")
    bpb: float = option(doc="the change on these rows", unit="bits per byte")
    layers: list[Layer] = option(doc="the blocks, layer by layer; empty for methods without blocks")
    sites: list[Site] | None = option(None, "the change by site, where the rows know their sites")
    documents: KLDocuments | None = option(None, "the KL by document; an older file has none")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What a model writes behind a prompt."""

    prompt: str = option(doc="the prompt")
    continuation: str = option(doc="what the model writes behind it")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`evaluate/{model}.json`: by domain what was measured, and the change against the backbone."""

    run: str | None = option(doc="the folder of the run; null for the backbone")
    domains: dict[str, Measure] = option(doc="bits per byte by domain")
    change: dict[str, Change] = option(doc="the change by domain; empty for the backbone")
    generations: list[Generation] = option(doc="what the model writes behind each prompt")


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Tokens of one measurement of the speed."""

    scoring: int = option(doc="the tokens read", unit="tokens")
    writing: int = option(doc="the tokens written", unit="tokens")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a model reads, and how fast it writes."""

    scoring: float = option(doc="the speed of reading whole rows", unit="tokens a second")
    writing: float = option(doc="the speed of writing one text", unit="tokens a second")


@dataclass(frozen=True, kw_only=True)
class TextSpeed:
    """The backbone on some text, and beside it the `run`, if there is one."""

    tokens: Amounts = option(doc="how much was read and written")
    speeds: dict[str, Rates] = option(doc="the speed of `backbone` and of `run`")


@dataclass(frozen=True, kw_only=True)
class Speed(TextSpeed):
    """`speed/{model}.json`: on old text, and in `new` on new text."""

    device: str = option(doc="cpu or cuda")
    threads: int = option(doc="the threads of the CPU")
    new: TextSpeed | None = option(None, "the same on text of the domain that measures learning, if it is given")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Accuracies on a group of the questions of a task."""

    count: int = option(doc="the questions of the group", unit="questions")
    accuracy: dict[str, float] = option(doc="the share that is right, by metric")
    stderr: dict[str, float | None] = option(doc="the standard errors; null where they are not known")


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Accuracies on a task in one language."""

    count: int = option(doc="the questions asked", unit="questions")
    shots: int = option(doc="the examples before each question")
    metric: str = option(doc="the metric of the headline")
    accuracy: dict[str, float] = option(doc="the share that is right, by metric; with groups their mean")
    stderr: dict[str, float | None] = option(doc="the standard errors; null where they are not known")
    headline: float = option(doc="the accuracy under the task's metric")
    correct: dict[str, str] = option(
        doc="by group (one without a name where the task has none) a digit for each question in order: 1 where "
        "the answer is right under the task's metric"
    )
    source: str = option(doc="where the questions come from")
    fewer_shots: int = option(doc="the questions with fewer shots than asked for", unit="questions")
    truncated: int = option(doc="the requests that were too long for the model", unit="requests")
    groups: dict[str, Group] | None = option(None, "the same by group, where the task has groups")


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """`tasks/{model}.json`: by `task/language` the accuracies, or why a set of questions was skipped."""

    model: str = option(doc="`backbone`, or the name of the run")
    tasks: dict[str, TaskScore] = option(doc="the accuracies")
    skipped: dict[str, str] = option(doc="why a set of questions could not be had")


def write_result(path: str | Path, result: Evaluation | Speed | TaskScores) -> None:
    write_json(path, _data(result))


def _data(value: Any) -> Any:
    """Plain JSON data, without the fields that may be missing and are None."""
    if dataclasses.is_dataclass(value):
        named = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {f.name: _data(x) for f, x in named.items() if not (x is None and default_of(f) is None)}
    if isinstance(value, dict):
        return {key: _data(x) for key, x in value.items()}
    return [_data(x) for x in value] if isinstance(value, list) else value


def read_evaluation(path: str | Path) -> Evaluation:
    """Raises StageError where the file is missing, damaged, or of another version; so do the next two."""
    return read_result(Evaluation, path, "measure the model again with `evaluate`")


def read_speed(path: str | Path) -> Speed:
    return read_result(Speed, path, "measure the model again with `evaluate --speed`")


def read_task_scores(path: str | Path) -> TaskScores:
    return read_result(TaskScores, path, "measure the model again with `tasks`")
