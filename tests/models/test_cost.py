"""The formula of docs/method.md, Cost, against the operations that torch counts."""

import math
from typing import Any

import pytest
import torch
from tiny import make, tokens
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.backbone import create_llama
from models.cost import activation_bytes, attention_flops, flops_per_token, peak_flops, state_bytes
from models.extend import decoder_layers, extend
from models.loss import plain_head, sum_nll

pytestmark = pytest.mark.usefixtures("on_device")
LENGTH, LAYERS, SIZE, FFN = 32, 4, 32, 64


def counted(model: Any, tokens_BT1: Tensor) -> int:
    """What torch counts of a loss and its gradients.

    Without the angles of rotary positions, which some versions of transformers make by a product.
    """
    plain_head(model)  # it is tried once, by operations of its own
    # The head's gradient is added in place, which torch does not count by itself.
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * math.prod(a) * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        sum_nll(model, tokens_BT1).backward()
    angles = (by for name, by in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    return counter.get_total_flops() - sum(sum(by.values()) for by in angles)


def weights(*modules: torch.nn.Module) -> int:
    return sum(weight.numel() for module in modules for weight in module.parameters() if weight.ndim == 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Gemma", "Phi", "GPTNeoX", "GPT2"])
@pytest.mark.parametrize("method", ["finetune", "neutral"])
def test_flops_are_those_that_torch_counts(name: str, method: str) -> None:
    model = make(name)
    extend(model, method, fraction=0.5)
    rows, length = 2, 8
    flops = counted(model, tokens(rows, length + 1))
    layer = decoder_layers(model)[0]
    unneeded = 0
    if method == "neutral":  # nothing needs a gradient below the first block
        attention = next(child for key, child in layer.named_children() if "att" in key and weights(child))
        block = layer.mlp.block
        first = weights(attention, layer.mlp.ffn, block.gate_proj, block.up_proj, block.gate)
        unneeded = 2 * first + attention_flops(model, length) * 2 // 3 // 2
    assert flops == rows * length * (flops_per_token(model, length) - unneeded)


def test_memory() -> None:
    model = make("Llama")
    backbone = sum(weight.numel() for weight in model.parameters())
    extension = extend(model, "adapter", fraction=0.5)
    assert state_bytes(model) == 2 * backbone + 16 * extension.extra_parameters
    attention, ffn, block = 2 * (16 + 16) + 2 * (16 + 8), 3 * (16 + 24), 3 * (16 + extension.width)
    assert activation_bytes(model, checkpointing=False) == 2 * 2 * (attention + ffn + block)
    assert activation_bytes(model, checkpointing=True) == 2 * (attention + ffn + block) + 2 * 2 * 16


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "lora", "adapter", "neutral"])
@pytest.mark.parametrize("tied", [True, False])
def test_formula_is_what_torch_counts_of_every_method(method: str, tied: bool) -> None:
    model = create_llama(hidden_size=SIZE, layers=LAYERS, heads=2, ffn_size=FFN, vocabulary=96, row_tokens=LENGTH)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    extension = extend(model, method)
    flops = counted(model, torch.randint(96, (2, LENGTH + 1))) / (2 * LENGTH)
    formula = flops_per_token(model, LENGTH)
    if method == "finetune":
        assert flops == formula
    elif method == "lora":
        assert 0.85 * formula < flops < formula
    else:  # no gradient passes through the first frozen layer, nor through the block's own input there
        attention, ffn = 4 * SIZE * SIZE, 3 * SIZE * FFN
        below = 2 * (attention + ffn) + 8 * SIZE * LENGTH
        below += 2 * SIZE * (2 * extension.width + (method == "neutral"))
        assert flops == formula - below


def test_a_cpu_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
