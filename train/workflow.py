"""What the rules must know beside the config: which shards a domain has, and whether a job takes a GPU."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.common.config import ConfigError, bad_path
from pipeline.corpus.shards import SPLITS
from pipeline.workflow.layout import BACKBONE, SOURCE, Layout, shard_path
from train.config import Config
from train.evaluation.options import Evaluate
from train.runs.options import Run, Training, new_domain
from train.tasks.options import Tasks


def domain_shards(config: Config, batches: Iterable[str], domain: str, split: str) -> list[str]:
    """The shards of a domain's language and split: those this workflow makes, or those of another corpus.

    A domain that is held out has the shards of all splits. Raises ConfigError where the other corpus has none.
    """
    options = config.domains[domain]
    splits = SPLITS if options.held_out else (split,)
    if options.corpus is None:
        return [Layout(config.output).shard(options.language, part, batch) for part in splits for batch in batches]
    patterns = [str(shard_path("", options.language, part, "*")) for part in splits]
    shards = [str(path) for pattern in patterns for path in sorted(Path(options.corpus).glob(pattern))]
    if not shards:
        raise ConfigError(f"domains.{domain}.corpus: no {' or '.join(patterns)} in {options.corpus}")
    if problem := next(filter(None, map(bad_path, shards)), None):
        raise ConfigError(f"domains.{domain}.corpus: {problem}")
    return shards


def other_shards(config: Config, batches: Iterable[str], domain: str, split: str) -> list[str]:
    """The shards of a domain's language in the other split; none where all are held out, or there are no such."""
    if config.domains[domain].held_out:
        return []
    (other,) = set(SPLITS) - {split}
    try:
        return domain_shards(config, batches, domain, other)
    except ConfigError:
        return []


def held_out_urls(config: Config, domain: str) -> list[str]:
    """What a domain leaves out: the URLs of the domains of its corpus and language that are held out."""
    own = config.domains[domain]
    return [
        other.urls or ""
        for other in config.domains.values()
        if other.held_out and not own.held_out and (other.language, other.corpus) == (own.language, own.corpus)
    ]


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
