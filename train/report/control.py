"""Changes against others than the backbone, in sentences: against a control, and of settling."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.workflow.layout import BACKBONE, SOURCE
from train.evaluation.intervals import estimate
from train.report.settings import Axis, Bpb, first_settings
from train.report.words import with_ends


def settling(backbone: str, tokens: int, bpb: Bpb) -> str:
    """What settling changed of the source. backbone: what public_origin() calls it."""
    changes = [f"{domain} by {with_ends(estimate(by[BACKBONE] - by[SOURCE]))}" for domain, by in bpb.items()]
    how = f"The backbone is {backbone} for {tokens:,} tokens"
    return f"{how}; against the source as it comes, that changes {', '.join(changes)} bits per byte."


def against_control(control: str, axes: Sequence[Axis], forgetting: str, bpb: Bpb) -> list[str]:
    """A sentence of each language: the changes against the run that trained on the replay alone."""
    own = with_ends(estimate(bpb[forgetting][control] - bpb[forgetting][BACKBONE]))
    sentences = [f"{control}, a control that trained on the replay alone, changes {forgetting} by {own}."]
    for axis in axes:
        changes = []
        for setting in first_settings(axis.runs).values():
            each = (setting.change(bpb[domain], control) for domain in (forgetting, axis.learning))
            changes.append(f"{setting.label} by {' and '.join(with_ends(estimate(change)) for change in each)}")
        sentences.append(f"Against it, {forgetting} and {axis.learning} change with {', with '.join(changes)}.")
    return sentences
