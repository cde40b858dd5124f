"""What the rules must know beside the config: which shards a domain has, and whether a job takes a GPU."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.common.config import ConfigError, bad_path
from pipeline.workflow.layout import BACKBONE, SOURCE, Layout, shard_path
from train.config import Config
from train.evaluation.options import Evaluate
from train.runs.options import Run, Training, new_domain
from train.tasks.options import Tasks


def domain_shards(config: Config, batches: Iterable[str], domain: str, split: str) -> list[str]:
    """The shards of a domain's language and split: those this workflow makes, or those of another corpus.

    Raises ConfigError where the other corpus has none.
    """
    options = config.domains[domain]
    if options.corpus is None:
        return [Layout(config.output).shard(options.language, split, batch) for batch in batches]
    pattern = shard_path("", options.language, split, "*")
    shards = sorted(map(str, Path(options.corpus).glob(str(pattern))))
    if not shards:
        raise ConfigError(f"domains.{domain}.corpus: no {pattern} in {options.corpus}")
    if problem := next(filter(None, map(bad_path, shards)), None):
        raise ConfigError(f"domains.{domain}.corpus: {problem}")
    return shards


def run_folder(out: Layout, model: str) -> str:
    """The folder of a model that is a run; of the backbone, or its source, none."""
    return "" if model in (BACKBONE, SOURCE) else out.run(model)


def backbone_folder(out: Layout, model: str) -> str:
    """The folder of a model without what runs add."""
    return out.source if model == SOURCE else out.backbone


def stage_options(config: Config, name: str) -> Run:
    """The options of a run as its stage takes them: with its base's folder and its new domain."""
    run = config.extend.runs[name]
    base = Layout(config.output).run(run.base) if run.base else None
    return dataclasses.replace(run, base=base, new=new_domain(config.extend, name))


def task_options(options: Evaluate) -> Tasks:
    """The options of multiple choice alone."""
    return Tasks(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Tasks)})


def task_languages(config: Config, new: str | None) -> list[str]:
    """The languages of the old and of the new domain, each once."""
    domains = (config.extend.old, new or config.extend.new)
    return list(dict.fromkeys(config.domains[name].language for name in domains))


def evaluate_options(options: Evaluate) -> Evaluate:
    """The options that measure bits per byte, so that others do not make them be measured again."""
    return dataclasses.replace(options, tasks=[], tasks_languages=[], tasks_limit=None, control=None)


def gpus(device: str, count: int = 1) -> int:
    """How many GPUs a job will use, so that the profile's limit of `gpu` keeps jobs from sharing one.

    >>> gpus("cuda", 8), gpus("cpu", 8)
    (8, 0)
    """
    used = device == "cuda" or (device == "auto" and (count > 1 or shutil.which("nvidia-smi") is not None))
    return count if used else 0


def processors(options: Training) -> int:
    """How many threads a training has, all its processes together."""
    return options.threads * options.gpus
