"""Whether our numbers uphold what the paper says: each claim of the grid judged by means, seeds counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from train.paper.grid import Claim

# By row, by measure, a value for each seed. Measures: forgetting and learning in bits per byte, or flatness.
Values = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Verdict:
    """A claim, whether the means uphold it, and the numbers that say so."""

    text: str
    holds: bool
    evidence: list[str]


def judge(claim: Claim, values: Values, methods: Mapping[str, str]) -> Verdict:
    """The verdict on a claim; `methods` names the method of each row."""
    if claim.optimum:
        return _optimum(claim.text, claim.optimum, values)
    if claim.flatter:
        parts = [_less(values, second, first, "flatness") for first, second in claim.flatter]
    else:
        axes = [axis for axis in ("forgetting", "learning") if getattr(claim, axis)]
        if claim.lower:
            parts = [_less(values, first, second, axis) for first, second in claim.lower for axis in axes]
        elif claim.steadier:
            parts = [
                _steadier(values, claim.steadier[0], other, axis) for other in claim.steadier[1:] for axis in axes
            ]
        else:
            parts = [_every(values, str(claim.every), methods, axis) for axis in axes]
    return Verdict(claim.text, all(holds for holds, _ in parts), [evidence for _, evidence in parts])


def _less(values: Values, low: str, high: str, measure: str) -> tuple[bool, str]:
    """Whether the mean of `low` is below that of `high`, and in how many seeds it is."""
    lows, highs = values[low][measure], values[high][measure]
    holds = fmean(lows) < fmean(highs)
    seeds = sum(a < b for a, b in zip(lows, highs, strict=True))
    sign = "<" if holds else ">="
    return (
        holds,
        f"{measure}: {low} {fmean(lows):.4f} {sign} {high} {fmean(highs):.4f} ({seeds} of {len(lows)} seeds)",
    )


def _optimum(text: str, row: str, values: Values) -> Verdict:
    """Whether the row has the lowest sum of forgetting and learning."""
    sums = {name: fmean(m["forgetting"]) + fmean(m["learning"]) for name, m in values.items()}
    best = min(sums, key=lambda name: sums[name])
    evidence = ", ".join(f"{name} {total:.3f}" for name, total in sums.items())
    return Verdict(text, best == row, [f"forgetting + learning: {evidence}; the lowest is {best}"])


def _steadier(values: Values, rows: Sequence[str], others: Sequence[str], measure: str) -> tuple[bool, str]:
    """Whether the means of `rows` lie closer together than those of `others`."""
    ours, theirs = (_range([fmean(values[row][measure]) for row in group]) for group in (rows, others))
    sign = "<" if ours < theirs else ">="
    return ours < theirs, f"range of {measure}: {rows[0]} and on {ours:.4f} {sign} {others[0]} and on {theirs:.4f}"


def _range(means: Sequence[float]) -> float:
    return max(means) - min(means)


def _every(values: Values, method: str, methods: Mapping[str, str], measure: str) -> tuple[bool, str]:
    """Whether the worst row of a method is below the best row of any other."""
    means = {row: fmean(measured[measure]) for row, measured in values.items()}
    worst = max((row for row in means if methods[row] == method), key=lambda row: means[row])
    best = min((row for row in means if methods[row] != method), key=lambda row: means[row])
    holds = means[worst] < means[best]
    sign = "<" if holds else ">="
    return holds, f"{measure}: worst {worst} {means[worst]:.4f} {sign} best other {best} {means[best]:.4f}"


def verdicts(claims: Sequence[Claim], values: Values, methods: Mapping[str, str]) -> str:
    """The verdicts as Markdown: each claim with yes or no, and below it the numbers."""
    if not claims:
        return ""
    lines = ["## Which of the paper's claims hold here", ""]
    for claim in claims:
        verdict = judge(claim, values, methods)
        lines.append(f"- **{'Holds' if verdict.holds else 'Does not hold'}**: {verdict.text}.")
        lines += [f"    - {evidence}" for evidence in verdict.evidence]
    return "\n".join(lines) + "\n"
