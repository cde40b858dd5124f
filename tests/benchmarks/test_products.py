"""The ways to do a block's products that are timed against each other are ways to do the same."""

import pytest
import torch

from benchmarks.gpu.products import WAYS, make_block, products


@pytest.mark.parametrize("way", list(WAYS)[1:])
@pytest.mark.parametrize("width", [12, 13])
def test_every_way_gives_what_the_block_gives(way: str, width: int) -> None:
    results = []
    for forward in (WAYS["three products"], WAYS[way]):
        torch.manual_seed(0)
        block = make_block(16, width).double()
        torch.nn.init.normal_(block.gate.bias)
        x_TD = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
        out_TD = forward(block, x_TD)
        out_TD.backward(torch.randn_like(out_TD))
        results.append([out_TD, x_TD.grad, *(weight.grad for weight in block.parameters())])
    torch.testing.assert_close(*results)


def test_each_way_is_timed() -> None:
    found = products({"device": "cpu", "toy": True})
    assert len(found) == 2 * len(WAYS)
    assert all(line["ms"] > 0 for line in found.values())
