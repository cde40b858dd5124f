"""The predicted cost of a config's runs, before anybody rents a GPU."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from models.backbone import create_llama, network_errors, unique_parameters
from models.cost import H100_FLOPS, activation_bytes, flops_per_token, state_bytes
from models.extend import extend
from models.foreign import as_data, parse_config, read_config, sketch_decoder
from models.refusals import Refused
from pipeline.common.config import read_yaml
from pipeline.common.errors import StageError
from pipeline.common.markdown import table_row
from pipeline.workflow.layout import Layout
from train.config import Config
from train.runs.load import extend_options
from train.runs.options import Run, Training, ancestors
from train.runs.origin import backbone_record
from train.runs.record import is_run, read_metrics, read_run

ASSUMED_MFU = 0.45
# What `python -m benchmarks.gpu` measured; an installed package has no such file.
BENCHMARKS = Path(__file__).parents[1] / "docs" / "benchmarks" / "gpu.jsonl"
UNITS = {"M": 1e6, "B": 1e9}


def print_cost(configfile: str, gpus: list[int], mfu: float | None) -> None:
    """Print FLOPs, hours and memory of each training as a table in Markdown; docs/method.md, Cost.

    mfu: of all trainings; None: as find_mfu() finds it for each.
    The backbone's sizes come from the JSON file beside the config, if there is one of its name, from the
    config's `pretrain`, or else from its source. Raises StageError where none of these can be read.
    """
    config = read_yaml(Config, configfile)
    rows = cost_rows(config, configfile, gpus, mfu)  # first, so that an error stands alone
    print(f"{configfile}: predicted for H100 GPUs of {H100_FLOPS / 1e12:g} TFLOP/s (dense bf16)\n")
    hours = " | ".join(f"hours on {count}" for count in gpus)
    print(f"| training | weights | extra | GFLOPs a token | tokens | {hours} | GiB | GiB, checkpointing | MFU |")
    print("|---|---:|---:|---:|---:|" + "---:|" * (len(gpus) + 2) + "---|")
    for row in rows:
        print(table_row(row))
    print("\nGiB: weights, gradients, AdamW and activations of one micro-batch on each GPU, unsharded.")


def cost_rows(config: Config, configfile: str, gpus: list[int], mfu: float | None) -> list[list[str]]:
    """A row of cells for each training of the config."""
    rows = []
    for title, training in (("pretrain", config.backbone.pretrain), ("settle", config.backbone.settle)):
        if training:
            rows.append(_row(title, sketch(config, configfile), config, training, 0, gpus, mfu))
    for name, run in config.extend.runs.items():
        model = sketch(config, configfile)
        with torch.device("meta"):
            extra = 0
            for one in [*reversed(ancestors(config.extend, name)), name]:
                extra = extend(model, **extend_options(config.extend.runs[one])).extra_parameters
        rows.append(_row(name, model, config, run, extra, gpus, mfu))
    return rows


def _row(
    name: str, model: Any, config: Config, options: Training, extra: int, gpus: list[int], given: float | None
) -> list[str]:
    length = config.tokens.row_tokens
    flops, tokens = flops_per_token(model, length), options.steps * options.batch_rows * length
    weights, results = unique_parameters(model), Layout(config.output)
    if given:
        mfu, source = given, "given"
    elif isinstance(options, Run):
        mfu, source = find_mfu(results.run(name), options.method, weights - extra)
    else:  # all weights are trained, as in finetuning
        mfu, source = find_mfu(results.backbone, "finetune", weights)
    hours = [flops * tokens / (count * mfu * H100_FLOPS) / 3600 for count in gpus]
    memory = [
        state_bytes(model) + options.micro_batch_rows * length * activation_bytes(model, checkpointing)
        for checkpointing in (False, True)
    ]
    return [
        name,
        f"{weights / 1e6:,.0f}M",
        f"{extra / 1e6:,.0f}M",
        f"{flops / 1e9:.2f}",
        f"{tokens / 1e9:,.1f}G",
        *(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in hours),
        *(f"{size / 2**30:.0f}" for size in memory),
        f"{mfu:.2g}, {source}",
    ]


def find_mfu(folder: str, method: str, weights: int) -> tuple[float, str]:
    """The MFU to expect of a training, and where it is from.

    That of the same training, if it ran on a GPU and left `folder`; else of the benchmarks, of the same method, or
    of one with the same products, on the model next in size; else one that is assumed. weights: of the backbone.
    """
    if found := own_mfu(folder):
        return found
    measured = benchmarks(method) or (benchmarks("neutral") if method == "adapter" else [])
    nearest = min(measured, key=lambda line: abs(math.log(line[0] / weights)), default=None)
    return nearest[1:] if nearest else (ASSUMED_MFU, "assumed")


def own_mfu(folder: str) -> tuple[float, str] | None:
    """The median MFU of the training that left this folder, and the GPU; None where it has none."""
    record = read_run(folder) if is_run(folder) else backbone_record(folder)
    steps = [line["mfu"] for line in read_metrics(folder) if "mfu" in line] if record else []
    return (statistics.median(steps), f"measured in {folder} on {record.device}") if record and steps else None


def benchmarks(method: str) -> list[tuple[float, float, str]]:
    """(weights, MFU, where) of the plain steps of a method that were measured; of the same one the last counts."""
    found: dict[str, tuple[float, float, str]] = {}
    card = ""
    for line in BENCHMARKS.read_text(encoding="utf-8").splitlines() if BENCHMARKS.exists() else ():
        step = json.loads(line)
        measured, sizes = step.get("found", {}), step["job"].get("sizes", "")
        if step["step"] == "machine":
            card = measured.get("card", "")
        if step["step"] == f"speed {sizes} {method}" and "mfu" in measured:
            weights = float(sizes[:-1]) * UNITS[sizes[-1]]
            found[sizes] = (weights, measured["mfu"], f"measured on {card} at {sizes}, {method}")
    return list(found.values())


def sketch(config: Config, configfile: str) -> Any:
    """The backbone on the `meta` device: sizes without weights."""
    beside = Path(configfile).with_suffix(".json")
    pretrain = config.backbone.pretrain
    if pretrain:
        with torch.device("meta"):
            return create_llama(
                hidden_size=pretrain.hidden_size,
                layers=pretrain.layers,
                heads=pretrain.heads,
                ffn_size=pretrain.ffn_size,
                vocabulary=config.tokens.vocabulary,
                row_tokens=config.tokens.row_tokens,
            )
    try:
        if beside.is_file():
            with as_data(f"{beside} cannot be read"):
                known = parse_config(json.loads(beside.read_text(encoding="utf-8")))
        else:
            with network_errors():
                known = read_config(str(config.backbone.source), config.backbone.revision)
        return sketch_decoder(known)
    except Refused as error:
        raise StageError(f"backbone.source {config.backbone.source}: {error}") from None
    except (OSError, ValueError) as error:
        cure = f"put its config.json beside the config, as {beside}"
        raise StageError(f"backbone.source {config.backbone.source}: {error}; {cure}") from None
