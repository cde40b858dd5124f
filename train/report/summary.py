"""What came out, in sentences: forgetting and learning of each method, and neutral residues against the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.evaluation.intervals import FEWEST, Estimate, estimate
from train.report.settings import Axis, Bpb, Setting, first_settings, kl_means, settings_of
from train.report.words import NOISE, is_noise, joined, plain_with_ends, share, with_ends
from train.runs.results import Evaluation


@dataclass(frozen=True)
class Comparison:
    """Neutral residues against a setting of another method, by domain: of forgetting, of learning, then others.

    differences: neutral residues' change less the other's. shares: neutral residues' change over the other's, if
    both go the same way, the other beyond the noise; forgetting and learning have but one way. Where forgetting
    is measured, and None if it is not known: control_share, the same of the changes against the control; kl_share,
    of the KL divergences from the backbone.
    """

    other: Setting
    differences: dict[str, Estimate]
    shares: dict[str, Estimate]
    control_share: Estimate | None = None
    kl_share: Estimate | None = None


def neutral_setting(axis: Axis) -> Setting | None:
    """The first setting of neutral residues."""
    return next((setting for setting in settings_of(axis.runs) if setting.method == "neutral"), None)


def comparisons(axis: Axis, forgetting: str, bpb: Bpb, control: str | None = None) -> list[Comparison]:
    """The first neutral residues against every setting of the other methods; empty without neutral residues."""
    neutral = neutral_setting(axis)
    others = [setting for setting in settings_of(axis.runs) if setting.method != "neutral"]
    return [_compare(neutral, other, axis, forgetting, bpb, control) for other in others] if neutral else []


def _compare(
    neutral: Setting, other: Setting, axis: Axis, forgetting: str, bpb: Bpb, control: str | None
) -> Comparison:
    differences, shares = {}, {}
    ways = {forgetting: 1.0, axis.learning: -1.0}
    for domain in [*ways, *(domain for domain in bpb if domain not in ways)]:
        ours, theirs = neutral.change(bpb[domain]), other.change(bpb[domain])
        differences[domain] = estimate(ours - theirs)
        way = ways.get(domain, np.sign(theirs[0]))
        if part := _share(way * ours, way * theirs):
            shares[domain] = part
    against = [setting.change(bpb[forgetting], control) for setting in (neutral, other)] if control else []
    kl = kl_means([neutral, other], forgetting)
    return Comparison(
        other,
        differences,
        shares,
        control_share=_share(*against) if against else None,
        kl_share=_share(*kl) if kl else None,
    )


def _share(ours_1R: np.ndarray, theirs_1R: np.ndarray) -> Estimate | None:
    """The one over the other, if both are above 0, the other beyond the noise."""
    known = theirs_1R[0] > 0 < ours_1R[0] and not is_noise(estimate(theirs_1R))
    return estimate(ours_1R / theirs_1R) if known else None


def summary(axes: Sequence[Axis], forgetting: str, bpb: Bpb, base: Evaluation) -> list[str]:
    """Sentences: of each language its neutral residues, then each other method; what the intervals are of."""
    sentences = [sentence for axis in axes for sentence in _of_language(axis, forgetting, bpb)]
    sentences += [_against_base(setting, axes, forgetting, bpb) for setting in _stacked(axes, bpb)]
    return [*sentences, _about_intervals(axes, forgetting, bpb, base)]


def _of_language(axis: Axis, forgetting: str, bpb: Bpb) -> list[str]:
    """A sentence for each method, of its first setting; that of neutral residues comes first, and compares it."""
    compared = {each.other.label: each for each in comparisons(axis, forgetting, bpb)}
    first = first_settings(axis.runs)
    sentences: list[str] = []
    for setting in sorted(first.values(), key=lambda setting: setting.method != "neutral"):
        old, new = (with_ends(estimate(setting.change(bpb[domain]))) for domain in (forgetting, axis.learning))
        verb = "change" if setting.method == "neutral" else "changes"
        if sentences:
            text = f"{_name(setting)} {verb} them by {old} and {new}"
        else:
            text = f"{_name(setting)} {verb} {forgetting}, which measures forgetting, by {old} bits per byte, "
            text += f"and {axis.learning}, which measures learning, by {new}"
        if setting.method == "neutral":
            for other in (first[method] for method in first if method != "neutral"):
                text += f"; {_beside(compared[other.label], forgetting, axis.learning)}"
        sentences.append(f"{text}.")
    return sentences + _distance(list(first.values()), compared, forgetting)


def _distance(settings: list[Setting], compared: dict[str, Comparison], forgetting: str) -> list[str]:
    """How far each method moves the backbone's distributions where forgetting is measured, if that is known."""
    if not (kl := kl_means(settings, forgetting)):
        return []
    clauses = []
    for setting, kl_1R in zip(settings, kl, strict=True):
        same = np.mean([run.evaluation.change[forgetting].agreement for run in setting.runs])
        clauses.append(f"{_name(setting, begin=False)} {plain_with_ends(estimate(kl_1R))} and {same:.1%}")
    what = "KL divergence from the backbone (nats a token), and tokens after which the same one is most probable"
    text = f"On {forgetting}, {what}: {', '.join(clauses)}."
    shares = {setting.label: each.kl_share for setting in settings if (each := compared.get(setting.label))}
    told = [f"{share(part)} of {name}'s" for name, part in shares.items() if part]
    return [f"{text} Neutral residues' divergence is {joined(told)}." if told else text]


def _beside(comparison: Comparison, forgetting: str, learning: str) -> str:
    """How much neutral residues forget and learn, beside the other method."""
    clauses = []
    for verb, domain in (("forget", forgetting), ("learn", learning)):
        difference, part = comparison.differences[domain], comparison.shares.get(domain)
        if part is None:
            clauses.append(f"differ on {domain} by {with_ends(difference)}")
        elif is_noise(difference):
            clauses.append(f"{verb} as much, {NOISE}: {share(part)}")
        else:
            clauses.append(f"{verb} {share(part)} as much")
    return f"beside {_name(comparison.other)}, they {' and '.join(clauses)}"


def _stacked(axes: Sequence[Axis], bpb: Bpb) -> list[Setting]:
    """The settings that go on from another run that is known."""
    settings = [setting for axis in axes for setting in settings_of(axis.runs)]
    return [each for each in settings if each.runs[0].base in next(iter(bpb.values()))]


def _against_base(setting: Setting, axes: Sequence[Axis], forgetting: str, bpb: Bpb) -> str:
    """What a run on another run changed of what that one had."""
    base = str(setting.runs[0].base)
    changes = []
    for domain in dict.fromkeys([forgetting, *(axis.learning for axis in axes)]):
        changes.append(f"{domain} by {with_ends(estimate(setting.mean(bpb[domain]) - bpb[domain][base]))}")
    return f"Against {base}, which it goes on from, {setting.label} changes {', '.join(changes)}."


def _about_intervals(axes: Sequence[Axis], forgetting: str, bpb: Bpb, base: Evaluation) -> str:
    """What the intervals are of, where there are some, and why there are none elsewhere."""
    domains = list(dict.fromkeys([forgetting, *(axis.learning for axis in axes)]))
    known = [bool(np.isfinite(bpb_1R).all()) for domain in domains for bpb_1R in bpb[domain].values()]
    settings = {axis.learning: settings_of(axis.runs) for axis in axes}
    sentences = []
    if any(known):
        documents = [(domain, base.domains[domain].documents) for domain in domains]
        counts = ", ".join(f"{found.count:,} of {domain}" for domain, found in documents if found)
        several = any(len(setting.runs) > 1 for own in settings.values() for setting in own)
        seeds = "the spread of the seeds is below the table" if several else "another seed may differ by more"
        sentences.append(f"In brackets: 95% intervals over held-out documents ({counts}); {seeds}.")
    if not all(known):
        sentences.append(
            f"Without an interval it is not known how sure a number is: the documents are fewer than {FEWEST}, or "
            "the evaluation is of an older version or of other documents; measure it again with `evaluate`."
        )
    if any(len(own) > len({setting.method for setting in own}) for own in settings.values()):
        sentences.append("Of a method with several settings, the first is in these sentences.")
    return " ".join(sentences)


def _name(setting: Setting, begin: bool = True) -> str:
    """The setting in words: its method, its label where that is another, and how many seeds.

    >>> _name(Setting("ft", "finetune", 0.1, 0, [])), _name(Setting("neutral", "neutral", 0.1, 0, []))
    ('finetune (ft)', 'Neutral residues')
    """
    name = f"{'N' if begin else 'n'}eutral residues" if setting.method == "neutral" else setting.method
    name += f" ({setting.label})" if setting.label != setting.method else ""
    return name + (f" (mean of {len(setting.runs)} seeds)" if len(setting.runs) > 1 else "")
