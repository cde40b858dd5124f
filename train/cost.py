"""The predicted cost of a config's runs, before anybody rents a GPU."""

from __future__ import annotations

import json
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
from train.config import Config
from train.runs.load import extend_options
from train.runs.options import Training, ancestors


def print_cost(configfile: str, gpus: list[int], mfu: float) -> None:
    """Print FLOPs, hours and memory of each training as a table in Markdown; docs/method.md, Cost.

    The backbone's sizes come from the JSON file beside the config, if there is one of its name, from the
    config's `pretrain`, or else from its source. Raises StageError where none of these can be read.
    """
    config = read_yaml(Config, configfile)
    print(f"{configfile}: predicted for H100 GPUs at MFU {mfu:g} of {H100_FLOPS / 1e12:g} TFLOP/s (dense bf16)\n")
    hours = " | ".join(f"hours on {count}" for count in gpus)
    print(f"| training | weights | extra | GFLOPs a token | tokens | {hours} | GiB | GiB, checkpointing |")
    print("|---|---:|---:|---:|---:|" + "---:|" * (len(gpus) + 2))
    for row in cost_rows(config, configfile, gpus, mfu):
        print(table_row(row))
    print("\nGiB: weights, gradients, AdamW and activations of one micro-batch on each GPU, unsharded.")


def cost_rows(config: Config, configfile: str, gpus: list[int], mfu: float) -> list[list[str]]:
    """A row of cells for each training of the config."""
    pretrain = config.backbone.pretrain
    rows = []
    if pretrain:
        model = sketch(config, configfile)
        rows.append(_row("pretrain", model, config, pretrain, 0, gpus, mfu))
    for name, run in config.extend.runs.items():
        model = sketch(config, configfile)
        with torch.device("meta"):
            extra = 0
            for one in [*reversed(ancestors(config.extend, name)), name]:
                extra = extend(model, **extend_options(config.extend.runs[one])).extra_parameters
        rows.append(_row(name, model, config, run, extra, gpus, mfu))
    return rows


def _row(
    name: str, model: Any, config: Config, options: Training, extra: int, gpus: list[int], mfu: float
) -> list[str]:
    length = config.tokens.row_tokens
    flops, tokens = flops_per_token(model, length), options.steps * options.batch_rows * length
    hours = [flops * tokens / (count * mfu * H100_FLOPS) / 3600 for count in gpus]
    memory = [
        state_bytes(model) + options.micro_batch_rows * length * activation_bytes(model, checkpointing)
        for checkpointing in (False, True)
    ]
    return [
        name,
        f"{unique_parameters(model) / 1e6:,.0f}M",
        f"{extra / 1e6:,.0f}M",
        f"{flops / 1e9:.2f}",
        f"{tokens / 1e9:,.1f}G",
        *(f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in hours),
        *(f"{size / 2**30:.0f}" for size in memory),
    ]


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
