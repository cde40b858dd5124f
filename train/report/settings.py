"""The runs of a result folder, and which belong together: seeds of a setting, its rates, a language's runs.

Changes are computed of the arrays of train/evaluation/intervals.py, paired(): the value, then its resamples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.workflow.layout import BACKBONE, SOURCE, Layout
from train.evaluation.intervals import paired, paired_kl
from train.runs.record import Line, RunRecord, read_chain, read_metrics
from train.runs.results import Evaluation, read_evaluation

# By domain and model, what paired() knows of its bits per byte.
Bpb = dict[str, dict[str, np.ndarray]]
# Options that do not make another setting: runs that differ in these alone belong together.
SAME_SETTING = (
    "learning_rate",
    "seed",
    "device",
    "gpus",
    "threads",
    "evaluate_every",
    "evaluate_rows",
    "checkpoint_every",
)


@dataclass(frozen=True)
class RunResult:
    """All that is known of a run: its record, the lines of its metrics, its evaluation, and the records of the
    runs that it goes on from, the first of them first.
    """

    name: str
    record: RunRecord
    metrics: list[Line]
    evaluation: Evaluation
    bases: list[RunRecord] = field(default_factory=list)

    @property
    def base(self) -> str | None:
        """The name of the run that it goes on from."""
        return Path(self.record.options.base).name if self.record.options.base else None

    def tokens_at(self, step: int) -> int:
        """The tokens, old and new, of its first `step` steps."""
        return step * self.record.tokens // self.record.options.steps

    @property
    def added_share(self) -> float:
        """The weights of the whole chain of runs over the backbone's."""
        added = sum(record.extra_parameters for record in [*self.bases, self.record])
        return added / self.record.backbone_parameters


def load_result(out: Layout, name: str) -> RunResult:
    """A run of a result folder. Raises StageError where a file is missing or damaged."""
    folder = out.run(name)
    *bases, (_, record) = read_chain(folder)
    evaluation = read_evaluation(out.evaluation(name))
    return RunResult(name, record, read_metrics(folder), evaluation, [base for _, base in bases])


def paired_domains(
    base: Evaluation, runs: Sequence[RunResult], needed: Sequence[str], source: Evaluation | None = None
) -> Bpb:
    """The domains of the backbone, and those needed. Raises StageError where one was not measured of a model."""
    models = {BACKBONE: base} | {run.name: run.evaluation for run in runs}
    models |= {SOURCE: source} if source else {}
    domains = list(dict.fromkeys([*base.domains, *needed]))
    for domain in domains:
        if lacking := [name for name, evaluation in models.items() if domain not in evaluation.domains]:
            raise StageError(f"{domain} was not measured of {', '.join(lacking)}; `evaluate` with its rows too")
    return {
        domain: paired({name: evaluation.domains[domain] for name, evaluation in models.items()})
        for domain in domains
    }


@dataclass(frozen=True)
class Axis:
    """A language that was added: the domain that measures its learning, and the runs that learned it."""

    learning: str
    runs: list[RunResult]


def axes(runs: Sequence[RunResult], learning: str, new: str) -> list[Axis]:
    """The languages of the runs, that of `learning` first.

    It measures the runs whose new domain is `new`. Another new domain measures itself, if it was measured. A stage
    that is started by hand may name no domain: then the language of a run that goes on from another is it.
    """
    by_domain: dict[str, list[RunResult]] = {learning: []}
    for run in runs:
        own = run.record.options.new or (run.record.languages.new if run.bases else None)
        other = own if own and own != new and own in run.evaluation.domains else learning
        by_domain.setdefault(other, []).append(run)
    return [Axis(domain, own_runs) for domain, own_runs in by_domain.items() if own_runs]


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone; `label` is the name of the first, `family` a number that settings
    share that differ in their rate alone.
    """

    label: str
    method: str
    rate: float
    family: int
    runs: list[RunResult]

    def mean(self, by_model: dict[str, np.ndarray]) -> np.ndarray:
        """Of a domain's arrays, the mean over the seeds."""
        mean_1R: np.ndarray = np.mean([by_model[run.name] for run in self.runs], axis=0)
        return mean_1R

    def change(self, by_model: dict[str, np.ndarray], base: str = BACKBONE) -> np.ndarray:
        """Of a domain's arrays, the change against the backbone or another model, the mean over the seeds."""
        return self.mean(by_model) - by_model[base]


def kl_means(settings: Sequence[Setting], domain: str) -> list[np.ndarray]:
    """KL divergence of each setting from the backbone, the mean over its seeds; empty if one was not measured."""
    runs = [run for setting in settings for run in setting.runs]
    if any(domain not in run.evaluation.change for run in runs):
        return []
    kl = paired_kl({run.name: run.evaluation.change[domain] for run in runs})
    return [setting.mean(kl) for setting in settings]


def first_settings(runs: Sequence[RunResult]) -> dict[str, Setting]:
    """The first setting of each method."""
    first: dict[str, Setting] = {}
    for setting in settings_of(runs):
        first.setdefault(setting.method, setting)
    return first


def settings_of(runs: Sequence[RunResult]) -> list[Setting]:
    """The settings of the runs, in the order of their first runs."""
    families: dict[str, int] = {}
    settings: dict[tuple[int, float], Setting] = {}
    for run in runs:
        options = to_data(run.record.options)
        same = json.dumps({key: options[key] for key in options if key not in SAME_SETTING}, sort_keys=True)
        family, rate = families.setdefault(same, len(families)), run.record.options.learning_rate
        setting = Setting(run.name, run.record.method, rate, family, [])
        settings.setdefault((family, rate), setting).runs.append(run)
    return list(settings.values())
