"""The training stages: `pretrain` makes a backbone, `settle` trains one further, `extend` adds a domain to one."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from models.backbone import (
    attention_on,
    compute_dtype,
    create_llama,
    save_backbone,
    unique_parameters,
    weights_digest,
)
from models.extend import trainable_state
from models.saving import saving
from pipeline.common.config import to_data
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder, write_json
from pipeline.workflow.fingerprint import fingerprint
from pipeline.workflow.layout import WEIGHTS
from train.data.rows import Rows, join_rows, open_rows
from train.data.tokens import check_tokenizer, open_tokenizer
from train.distributed import gathered, processes, rank, world
from train.ranks import on_gpus
from train.runs.load import extend_for, load_for, load_run
from train.runs.options import Pretrain, Run, Settle, Training
from train.runs.origin import ORIGIN, Settled, origin
from train.runs.record import (
    Costs,
    Languages,
    PretrainingRecord,
    RunRecord,
    SettlingRecord,
    read_run,
    write_record,
)
from train.trainer import checkpoint
from train.trainer.decisive import other_options, stops_early
from train.trainer.inputs import check_fit, check_rows, open_validation, prepare
from train.trainer.loop import TrainingJob, train
from train.trainer.metrics import metrics_log

TOKENIZER = "tokenizer.json"


@on_gpus
def pretrain(options: Pretrain, rows: str, validation: list[str], tokenizer: str, output: str) -> None:
    """Train a small Llama from scratch on `rows`; writes the Hugging Face folder `output`.

    validation are 'name=path' of rows files. Beside model and tokenizer the folder holds metrics.jsonl and
    training.json. Checkpoints stand in `output`.checkpoints until then. Raises StageError on rows that do not
    fit and on a loss that is no number.
    """
    device = prepare(options)
    train_rows, held_out = open_rows(rows), open_validation(validation)
    check_rows([train_rows, *held_out.values()], options)
    check_tokenizer(train_rows, tokenizer)
    encoder = open_tokenizer(tokenizer)
    with processes(device):
        model = create_llama(
            hidden_size=options.hidden_size,
            layers=options.layers,
            heads=options.heads,
            ffn_size=options.ffn_size,
            vocabulary=train_rows.metadata["vocabulary"],
            row_tokens=train_rows.row_tokens,
            bos=encoder.bos_token_id,
            eos=encoder.eos_token_id,
            seed=options.seed,
            attention=attention_on(device),
        )
        if not options.shard:
            model = model.to(device)
        state, record = train_backbone(options, "pretrain", model, device, train_rows, held_out, output)
        weights = gathered(model.state_dict())
        if rank() == 0:
            with backbone_folder(output, model, encoder, weights, state) as folder:
                write_record(folder, PretrainingRecord(options=options, **record))


@on_gpus
def settle(options: Settle, backbone: str, rows: str, validation: list[str], output: str) -> None:
    """Train all weights of a backbone (folder or hub id) further on `rows`; writes the folder `output`.

    As `pretrain`, and with origin.json, which says what it was made from and on what. Raises StageError too where
    the rows do not fit the backbone.
    """
    device = prepare(options)
    train_rows, held_out = open_rows(rows), open_validation(validation)
    check_rows([train_rows, *held_out.values()], options)
    from transformers.utils import cached_file

    known, encoder = origin(backbone), open_tokenizer(backbone)
    with processes(device):
        model = load_for(backbone, device, stays=options.shard)
        check_fit(train_rows, model, backbone)
        extend_for(model, Run(method="finetune", learning_rate=options.learning_rate))
        state, record = train_backbone(options, "settle", model, device, train_rows, held_out, output)
        weights = gathered(model.state_dict())
        if rank() == 0:
            on = Settled(domain=train_rows.metadata["domain"], tokens=record["tokens"])
            with backbone_folder(output, model, encoder, weights, state) as folder:
                # Rows know it by its bytes, and versions of transformers write it differently.
                shutil.copyfile(str(cached_file(backbone, TOKENIZER)), folder / TOKENIZER)
                write_record(folder, SettlingRecord(options=options, **record))
                write_json(folder / ORIGIN, to_data(replace(known, settled=[*known.settled, on])))


def train_backbone(
    options: Pretrain | Settle,
    title: str,
    model: Any,
    device: torch.device,
    rows: Rows,
    held_out: dict[str, Rows],
    output: str,
) -> tuple[checkpoint.State, dict[str, Any]]:
    """Train all weights of the model on `rows`. Returns the state, and what a BackboneRecord says beside options.

    Raises StageError where flat_below has no held-out rows to decide by.
    """
    alike = tuple(name for name, one in held_out.items() if language_of(one) == language_of(rows))
    if stops_early(options) and not alike:
        raise StageError(
            f"flat_below: none of the held-out rows is in {language_of(rows)}, as {rows.path} is; watch some that "
            "are, or set it to 0"
        )
    job = TrainingJob(
        title=title,
        model=model,
        options=options,
        old=None,
        new=rows,
        validations=held_out,
        checkpoints=f"{output}.checkpoints",
        identity=identity(options, [rows], held_out, model),
        device=device,
        decisive=alike,
    )
    state = train(job)
    return state, {"parameters": unique_parameters(model), "steps": state.step, **vars(costs(job, state))}


@contextmanager
def backbone_folder(
    output: str, model: Any, encoder: Any, weights: dict[str, torch.Tensor], state: checkpoint.State
) -> Iterator[Path]:
    """The folder of a trained backbone, for what else belongs in it; once whole, the checkpoints go."""
    with atomic_folder(output) as folder:
        save_backbone(model, encoder, folder, weights)
        write_metrics(folder, state)
        yield folder
    shutil.rmtree(f"{output}.checkpoints", ignore_errors=True)


@on_gpus
def extend(
    options: Run, backbone: str, old_rows: list[str], new_rows: str, validation: list[str], output: str
) -> None:
    """Extend a backbone (folder or hub id) to the domain of `new_rows`; writes the folder `output`.

    What options.base, the folder of an earlier run, added stays and is frozen; old_rows are then of several
    domains. validation are 'name=path' of rows files. The folder holds weights.safetensors (what was
    trained, fp32), run.json and metrics.jsonl. Checkpoints stand in `output`.checkpoints until then. Raises
    StageError on inputs that do not fit each other and on a loss that is no number.
    """
    device = prepare(options)
    olds, new = [open_rows(path) for path in old_rows], open_rows(new_rows)
    held_out = open_validation(validation)
    check_rows([new, *olds, *held_out.values()], options)
    with processes(device):
        model = load_run(backbone, options.base, device, stays=options.shard)
        check_fit(new, model, backbone)
        digest = read_run(options.base).backbone_digest if options.base else weights_digest(model)
        extension = extend_for(model, options)
        job = TrainingJob(
            title=f"extend {Path(output).name}",
            model=model,
            options=options,
            old=join_rows(olds),
            new=new,
            validations=held_out,
            checkpoints=f"{output}.checkpoints",
            identity=identity(options, olds if options.old_rate == 1 else [*olds, new], held_out, model),
            device=device,
            context=extension.context,
        )
        state = train(job)
        weights = gathered(trainable_state(model))
        if rank() == 0:
            record = RunRecord(
                options=options,
                method=options.method,
                backbone=backbone,
                backbone_digest=digest,
                languages=Languages(old=[language_of(rows) for rows in olds], new=language_of(new)),
                backbone_parameters=extension.backbone_parameters,
                extra_parameters=extension.extra_parameters,
                true_fraction=extension.fraction,
                width=extension.width,
                alpha=state.alpha,
                **vars(costs(job, state)),
            )
            with atomic_folder(output) as folder:
                with saving(folder):
                    save_file(weights, folder / WEIGHTS)
                write_metrics(folder, state)
                write_record(folder, record)
            shutil.rmtree(job.checkpoints, ignore_errors=True)


# Before the training ------------------------------------------------------------------------------


def identity(options: Training, rows: list[Rows], watched: dict[str, Rows], model: Any) -> str:
    """A hash of all that decides the weights: options, rows, initial weights, code and torch.

    Not the number of ranks, nor what decides only where numbers are rounded, nor, unless they say when it ends,
    the rows that are only measured.
    """
    # Of the whole stage: the loop alone does not name the blocks that it trains.
    stages = {
        Run: "train.trainer.stages:extend",
        Pretrain: "train.trainer.stages:pretrain",
        Settle: "train.trainer.stages:settle",
    }
    code = [fingerprint(stages[type(options)]), torch.__version__, str(next(model.parameters()).dtype)]
    others = other_options(options)
    decisive = {name: value for name, value in to_data(options).items() if name not in others}
    files = [*rows, *(watched.values() if stops_early(options) else ())]
    parts = [decisive, [one.digest() for one in files], weights_digest(model), code]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


# After the training -------------------------------------------------------------------------------


def costs(job: TrainingJob, state: checkpoint.State) -> Costs:
    """What the training took, and on what; seconds of the steps alone, summed over interruptions."""
    packages = ("torch", "transformers", "peft", "safetensors")
    return Costs(
        tokens=state.step * job.options.batch_rows * job.new.row_tokens,
        seconds=round(state.seconds, 3),
        cpu_seconds=round(state.cpu_seconds, 3),
        peak_memory_mib=peak_memory_mib(job.device),
        ranks=world(),
        compute=str(compute_dtype(job.device)).removeprefix("torch."),
        device=torch.cuda.get_device_name() if job.device.type == "cuda" else "cpu",
        torch=torch.__version__,
        versions={name: importlib.metadata.version(name) for name in packages},
    )


def peak_memory_mib(device: torch.device) -> int:
    """Most memory used so far, in MiB: of the GPU where there is one, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def language_of(rows: Rows) -> str:
    """The language of the rows, or of older files the domain."""
    return str(rows.metadata.get("language", rows.metadata["domain"]))


def write_metrics(folder: Path, state: checkpoint.State) -> None:
    """metrics.jsonl and, for TensorBoard, an event file."""
    with metrics_log(folder, state.metrics):
        pass
