"""What the curves say: after how many tokens of training neutral residues pass the other methods in learning, and
from how many on each method forgets.

docs/method.md, Over the tokens of training. Read from the evaluations in training, with their intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.workflow.layout import BACKBONE
from train.evaluation.intervals import FEWEST, Estimate, estimate, paired
from train.report.settings import Axis, RunResult, Setting, first_settings
from train.report.words import NOISE, counted, is_noise, joined
from train.runs.results import Watched

Series = list[tuple[int, Estimate]]  # by tokens, in their order


def watched(run: RunResult, domain: str) -> dict[int, Watched]:
    """By tokens, what was measured of a domain in training. Raises StageError where the metrics are damaged."""
    lines = [line for line in run.metrics if domain in line.get("evaluation", {})]
    try:
        return {run.tokens_at(line["step"]): read(Watched, line["evaluation"][domain], domain) for line in lines}
    except ConfigError as error:
        raise StageError(f"metrics.jsonl of {run.name}: {error}; do the training again") from None


def over_tokens(axes: Sequence[Axis], forgetting: str) -> list[str]:
    """Sentences: of each language its learning, then forgetting, and how both are read; empty without curves."""
    sentences: list[str] = []
    series: list[Series] = []
    for axis in axes:
        first = first_settings(axis.runs)
        neutral, others = first.get("neutral"), [each for each in first.values() if each.method != "neutral"]
        beside = {other.label: _series([neutral, other], axis.learning) for other in others if neutral}
        changes = {setting.label: _series([setting], forgetting) for setting in first.values()}
        sentences += _told(f"In learning {axis.learning}, neutral residues ", "; they ", beside, _passing)
        told = _told(f"{forgetting} is forgotten ", "; ", changes, _forgetting)
        sentences += [text.replace(" is forgotten not by ", " is not forgotten by ") for text in told]
        series += [*beside.values(), *changes.values()]
    return [*sentences, _about(series)] if sentences else []


def _series(settings: list[Setting], domain: str) -> Series:
    """Of one setting the change since step 0, of two the one less the other, where all runs were measured."""
    points = {run.name: watched(run, domain) for setting in settings for run in setting.runs}
    common = set.intersection(*(set(own) for own in points.values()))
    if 0 not in common:
        return []
    start = next(iter(points.values()))[0]
    series = []
    for tokens in sorted(common - {0}):
        bpb = paired({BACKBONE: start} | {name: own[tokens] for name, own in points.items()})
        series.append((tokens, estimate(reduce(np.subtract, (setting.change(bpb) for setting in settings)))))
    return series


def since(series: Series, direction: int) -> int | None:
    """The tokens from which on, to the end, the value is beyond the noise in that direction.

    >>> values = [Estimate(-1, -2, -0.5), Estimate(1, -1, 2), Estimate(1, 0.5, 2), Estimate(2, 1, 3)]
    >>> since([*zip([10, 20, 30, 40], values)], 1), since([*zip([10, 20], values)], -1)
    (30, None)
    """
    found = None
    for tokens, known in series:
        beyond = direction * known.value > 0 and not is_noise(known)
        found = (found or tokens) if beyond else None
    return found


# In words -----------------------------------------------------------------------------------------


def _told(begin: str, between: str, series: dict[str, Series], say: Callable[[Series], str]) -> list[str]:
    """A sentence of what there is to say of each series; those of which the same is said are named together."""
    clauses: dict[str, list[str]] = {}
    for name, own in series.items():
        if own:
            clauses.setdefault(say(own), []).append(name)
    said = [
        clause.format(joined(names, "or" if " not " in f" {clause}" else "and"))
        for clause, names in clauses.items()
    ]
    return [f"{begin}{between.join(said)}."] if said else []


def _passing(series: Series) -> str:
    (begin, _), (end, last), after = series[0], series[-1], since(series, -1)
    if after == begin:
        return f"are ahead of {{}} from the first measurement on, after {counted(begin)} tokens"
    if after:
        return f"pass {{}} after {counted(after)} tokens"
    if is_noise(last):
        return f"are as good as {{}} after these {counted(end)} tokens, {NOISE}"
    return f"do not pass {{}} within these {counted(end)} tokens"


def _forgetting(series: Series) -> str:
    begin, end, after = series[0][0], series[-1][0], since(series, 1)
    if after == begin:
        return f"by {{}} from the first measurement on, after {counted(begin)} tokens"
    return f"by {{}} after {counted(after)} tokens" if after else f"not by {{}} within these {counted(end)} tokens"


def _about(series: list[Series]) -> str:
    """How the tokens are read from the curves."""
    told = (
        "Each time it is the first measurement in training from which on, to the end, the 95% interval of the "
        "difference (of what is forgotten: of the change since step 0) leaves 0 out. A shorter training has other "
        "curves, since its learning rate falls sooner."
    )
    unknown = (
        f" Where no interval is known, since the documents are fewer than {FEWEST} or the training is of an older "
        "version, every difference counts."
    )
    return told + unknown if any(known.low is None for own in series for _, known in own) else told
