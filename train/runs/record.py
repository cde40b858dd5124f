"""What a training writes down of itself: `run.json` of a run, `training.json` of a backbone trained here."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.common.config import ConfigError, option, read, to_data
from pipeline.common.errors import StageError
from pipeline.common.files import read_json, write_json
from pipeline.workflow.layout import METRICS, RUN_RECORD
from train.runs.options import Pretrain, Run, Settle

T = TypeVar("T")
Line = dict[str, Any]  # of metrics.jsonl: a step or an evaluation, by docs/formats.md
TRAINING_RECORD = "training.json"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a training took, and on what it ran."""

    tokens: int = option(doc="the tokens trained on, old and new", unit="tokens")
    seconds: float = option(doc="the time of the steps alone, summed over interruptions", unit="seconds")
    cpu_seconds: float | None = option(
        None,
        "processor time of these steps, of all cores and processes; null: of an older version",
        unit="seconds",
    )
    peak_memory_mib: int = option(doc="the memory of the GPU, or of the process on a CPU", unit="MiB")
    ranks: int = option(doc="the number of processes")
    compute: str = option(doc="bfloat16 or float32")
    device: str = option(doc="the name of the GPU, or cpu")
    torch: str = option(doc="the version of torch")
    versions: dict[str, str] = option(doc="the versions of the packages")


@dataclass(frozen=True, kw_only=True)
class Languages:
    """The languages of the old domains, and that of the new one."""

    old: list[str] = option(doc="a list of languages")
    new: str = option(doc="a language")


@dataclass(frozen=True, kw_only=True)
class RunRecord(Costs):
    """A run: how it was made, how large it is, and what it cost."""

    options: Run = option(doc="every option of the run")
    method: str = option(doc="finetune, lora, adapter or neutral")
    backbone: str = option(doc="the folder or hub id that it was trained on")
    backbone_digest: str | None = option(None, doc="a hash of its weights; null: of a run that has none")
    languages: Languages = option(doc="the languages that it was trained on")
    backbone_parameters: int = option(doc="N, tied weights once", unit="weights")
    extra_parameters: int = option(doc="A, what was added; 0 for finetune", unit="weights")
    true_fraction: float = option(doc="A / N")
    width: int = option(doc="M of a block, r of LoRA; 0 for finetune")
    alpha: float | None = option(doc="what was used; 0 but for neutral")

    @property
    def trained_weights(self) -> int:
        """What was added, or all of the backbone where nothing was."""
        return self.extra_parameters or self.backbone_parameters


@dataclass(frozen=True, kw_only=True)
class BackboneRecord(Costs):
    """A backbone that was trained here."""

    parameters: int = option(doc="the number of its weights", unit="weights")
    steps: int = option(doc="how many steps were done")


@dataclass(frozen=True, kw_only=True)
class PretrainingRecord(BackboneRecord):
    """A backbone that was pretrained here."""

    options: Pretrain = option(doc="every option of the pretraining")


@dataclass(frozen=True, kw_only=True)
class SettlingRecord(BackboneRecord):
    """A backbone that was settled here."""

    options: Settle = option(doc="every option of the settling")


def write_record(folder: str | Path, record: RunRecord | BackboneRecord) -> None:
    write_json(Path(folder, RUN_RECORD if isinstance(record, RunRecord) else TRAINING_RECORD), record_data(record))


def record_data(record: RunRecord | BackboneRecord) -> dict[str, Any]:
    """The record as plain JSON data; the costs come last."""
    costs = {field.name for field in dataclasses.fields(Costs)}
    return dict(sorted(to_data(record).items(), key=lambda item: item[0] in costs))


def is_run(folder: str | Path) -> bool:
    return Path(folder, RUN_RECORD).exists()


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run. Raises StageError where the folder is not that of a finished run."""
    if not is_run(folder):
        raise StageError(f"{folder}: not a finished run, it has no {RUN_RECORD}; train it with `extend`")
    return read_result(RunRecord, Path(folder, RUN_RECORD), "train the run again with `extend`")


def read_chain(run_folder: str | Path) -> list[tuple[Path, RunRecord]]:
    """The run and those that it goes on from, the first of them first: their folders and records.

    Raises StageError where a folder is not a finished run's, or a run goes on from itself.
    """
    chain: list[tuple[Path, RunRecord]] = []
    following: Path | None = Path(run_folder)
    while following is not None:
        if following.resolve() in {known.resolve() for known, _ in chain}:
            raise StageError(
                f"{run_folder}: goes on from itself, by way of {following}; train it again with `extend`"
            )
        record = read_run(following)
        chain.insert(0, (following, record))
        base = record.options.base
        following = base_folder(following, base) if base else None
    return chain


def base_folder(folder: Path, base: str) -> Path:
    """Folder of the base run: `base` as it was at training, or, if the runs were moved, beside `folder`."""
    return Path(base) if Path(base).is_dir() else folder.parent / Path(base).name


def read_metrics(folder: str | Path) -> list[Line]:
    """What was measured during a training. Raises StageError where the file is missing or damaged."""
    path = Path(folder, METRICS)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; do the training again") from None
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: damaged JSON ({error}); do the training again") from None


def read_result(cls: type[T], path: str | Path, cure: str) -> T:
    """A JSON file of a stage. Raises StageError that names the file, each key that is wrong, and the cure."""
    try:
        return read(cls, read_json(path, cure), str(path))
    except ConfigError as error:
        raise StageError(f"{error}\nThe file is damaged or of another version; {cure}") from None
    except OSError as error:
        raise StageError(f"{path}: {error.strerror}; {cure}") from None
