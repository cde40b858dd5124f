"""A block's products on a GPU: gate, up and the gate's vector each by itself, or of weights that are put together.

Shapes: T tokens, D width of the model, M of the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu.speed import seconds
from models.block import NeutralBlock
from models.local_losses import Context
from train.trainer.stages import peak_memory_mib

Forward = Callable[[NeutralBlock, Tensor], Tensor]
ALIGNED = 8  # numbers of bf16 in 16 bytes
# D, tokens, and widths of blocks. A fraction of 0.2 asks for the first, and models.extend builds the second of it.
CASES = {"135M": (576, 32768, (570, 576, 563, 512)), "1B": (2048, 16384, (2719, 2688))}
TOY = {"toy": (16, 64, (12, 16))}


def products(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds and MiB of a block there and back, of each way to do its products; compiled on a GPU.

    job: device, toy; `cases`, where there are others than CASES.
    """
    device, results = torch.device(job["device"]), {}
    for name, (size, tokens, widths) in job.get("cases", TOY if job["toy"] else CASES).items():
        x_TD = torch.randn(tokens, size, device=device, dtype=torch.bfloat16, requires_grad=True)
        upstream_TD = torch.randn_like(x_TD)
        for width in widths:
            block = make_block(size, width).to(device)
            for way, forward in WAYS.items():
                key = f"{name}, M = {width}: {way}"
                try:
                    if device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats()
                    compute = there_and_back(block, forward, x_TD, upstream_TD, device.type == "cuda")
                    results[key] = {"ms": 1e3 * seconds(compute, device), "MiB": peak_memory_mib(device)}
                except (RuntimeError, ValueError) as error:
                    results[key] = {"failed": str(error).splitlines()[0][:300]}
    return results


def make_block(size: int, width: int) -> NeutralBlock:
    """A block of which all weights have gradients: W_down is not zero."""
    block = NeutralBlock(
        size, width, layers=1, activation=functional.silu, gate="elu", init="he", context=Context()
    )
    nn.init.normal_(block.down_proj.weight, std=width**-0.5)
    return block


def there_and_back(
    block: NeutralBlock, forward: Forward, x_TD: Tensor, upstream_TD: Tensor, compiled: bool
) -> Callable[[], None]:
    """Gradients of the block's weights and of its input, as in a training: weights in fp32, products in bf16."""

    def compute(x_TD: Tensor) -> Tensor:
        return forward(block, x_TD)

    if compiled:
        torch._dynamo.reset()  # else all ways at all widths count as recompilations of one function
        compute = torch.compile(compute, dynamic=False)

    def run() -> None:
        for tensor in (x_TD, *block.parameters()):
            tensor.grad = None
        with torch.autocast(x_TD.device.type, torch.bfloat16):
            out_TD = compute(x_TD)
        out_TD.backward(upstream_TD)

    return run


def three_products(block: NeutralBlock, x_TD: Tensor) -> Tensor:
    """As the block does it."""
    return block(x_TD)


def two_products(block: NeutralBlock, x_TD: Tensor) -> Tensor:
    """Gate and up in one."""
    gate_TM, up_TM = joined(x_TD, block.gate_proj, block.up_proj)
    out_TD: Tensor = block.down_proj(block.activation(gate_TM) * up_TM)
    return block.phi(block.gate(x_TD)) * out_TD


def one_product(block: NeutralBlock, x_TD: Tensor) -> Tensor:
    """Gate, up and the gate's vector in one."""
    gate_TM, up_TM, logit_T1 = joined(x_TD, block.gate_proj, block.up_proj, block.gate)
    out_TD: Tensor = block.down_proj(block.activation(gate_TM) * up_TM)
    return block.phi(logit_T1 + block.gate.bias.to(logit_T1.dtype)) * out_TD


def joined(x_TD: Tensor, *linears: nn.Linear) -> tuple[Tensor, ...]:
    """The products of several weights with x, without biases, by one product; zeros fill it up to ALIGNED rows."""
    sizes = [linear.out_features for linear in linears]
    sizes.append(-sum(sizes) % ALIGNED)
    zeros = linears[0].weight.new_zeros(sizes[-1], x_TD.shape[-1])
    weight = torch.cat([*(linear.weight for linear in linears), zeros])
    return functional.linear(x_TD, weight).split(sizes, -1)[:-1]


WAYS: dict[str, Forward] = {
    "three products": three_products,
    "gate and up in one": two_products,
    "all in one": one_product,
}
