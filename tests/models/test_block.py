import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.block import GATES, NeutralBlock
from models.local_losses import Context

pytestmark = pytest.mark.usefixtures("on_device")
SIZE, WIDTH, LAYERS = 8, 6, 3
ALPHA, BETA = 5.0, 0.7


def make(gate: str, context: Context, layer: int = 0) -> NeutralBlock:
    torch.manual_seed(layer)
    block = NeutralBlock(SIZE, WIDTH, layer, LAYERS, functional.silu, gate, "low_variance", context)
    nn.init.normal_(block.down_proj.weight)
    return block


def rows() -> tuple[Tensor, Tensor]:
    torch.manual_seed(7)
    return torch.randn(4, 5, SIZE), torch.tensor([1.0, 0, 0, 1.0]).view(-1, 1, 1)


def explicit_loss(blocks: list[NeutralBlock], x_BTD: Tensor, old_B11: Tensor) -> Tensor:
    """The loss of docs/method.md, written down: a stand-in for the LM loss, plus alpha l1 + beta CE."""
    old_tokens, tokens = old_B11.sum() * x_BTD.shape[1], x_BTD.shape[0] * x_BTD.shape[1]
    total = torch.zeros(())
    h_BTD = x_BTD
    for block in blocks:
        out_BTD = block(h_BTD)
        total = total + ALPHA * (out_BTD.abs() * old_B11).sum() / (old_tokens * SIZE * LAYERS)
        if block.is_sigmoid:
            logit_BT1 = block.gate(h_BTD)
            target_BT1 = (1 - old_B11).expand_as(logit_BT1)
            entropy = functional.binary_cross_entropy_with_logits(logit_BT1, target_BT1, reduction="sum")
            total = total + BETA * entropy / (tokens * LAYERS)
        h_BTD = h_BTD + out_BTD
    return total + h_BTD.square().sum() / tokens


def gradients(blocks: list[NeutralBlock]) -> list[Tensor]:
    all_of_them = [parameter.grad for block in blocks for parameter in block.parameters()]
    for block in blocks:
        block.zero_grad()
    return [gradient for gradient in all_of_them if gradient is not None]


@pytest.mark.parametrize("micro", [4, 1])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("gate", list(GATES))
def test_injected_gradient_is_that_of_the_explicit_loss(gate: str, recompute: bool, micro: int) -> None:
    context = Context()
    blocks = [make(gate, context, layer) for layer in range(LAYERS)]
    x_BTD, old_B11 = rows()
    explicit_loss(blocks, x_BTD, old_B11).backward()
    expected = gradients(blocks)

    tokens, old_tokens = x_BTD.shape[0] * x_BTD.shape[1], old_B11.sum().item() * x_BTD.shape[1]
    for part in torch.arange(4).split(micro):
        with context.losses(old_B11[part], torch.tensor(ALPHA / old_tokens), BETA / tokens):
            h_BTD = x_BTD[part].clone().requires_grad_()
            for block in blocks:
                out_BTD = checkpoint(block, h_BTD, use_reentrant=False) if recompute else block(h_BTD)
                h_BTD = h_BTD + out_BTD
            (h_BTD.square().sum() / tokens).backward()
    for ours, theirs in zip(gradients(blocks), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_outside_of_losses_there_is_no_local_loss() -> None:
    context = Context()
    block, (x_BTD, _) = make("sigmoid", context), rows()
    block(x_BTD).sum().backward()
    plain = gradients([block])
    with context.losses(torch.zeros(4, 1, 1), None, 0.0):
        block(x_BTD).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients([block]), strict=True))


@pytest.mark.parametrize("init, variance", [("low_variance", 1 / (256 * LAYERS)), ("he", 2 / 256)])
def test_initial_weights(init: str, variance: float) -> None:
    torch.manual_seed(0)
    block = NeutralBlock(256, 300, 0, LAYERS, functional.silu, "elu", init, Context())
    assert block.gate is not None
    for linear in (block.gate_proj, block.up_proj):
        assert linear.weight.var().item() == pytest.approx(variance, rel=0.05)
    assert block.gate.weight.var().item() == pytest.approx(variance, rel=0.4)
    assert block.gate.bias.item() == 0 and not block.down_proj.weight.any()


@pytest.mark.parametrize("gate", ["none", "elu", "relu"])
def test_only_down_has_a_gradient_at_first(gate: str) -> None:
    context = Context()
    block = make(gate, context)
    nn.init.zeros_(block.down_proj.weight)
    x_BTD, old_B11 = rows()
    with context.losses(old_B11, torch.tensor(1.0), 1.0):
        (block(x_BTD) * torch.randn_like(x_BTD)).sum().backward()
    moved = [name for name, weight in block.named_parameters() if weight.grad is not None and weight.grad.any()]
    assert moved == ["down_proj.weight"]


@pytest.mark.parametrize("recompute", [False, True])
def test_statistics(recompute: bool) -> None:
    context = Context()
    block = make("elu", context)
    x_BTD, old_B11 = rows()
    assert block.gate is not None
    g_BT1 = functional.elu(block.gate(x_BTD))
    out_BTD = block(x_BTD)
    x_BTD.requires_grad_()
    upstream_BTD = torch.randn_like(x_BTD)
    with context.losses(old_B11, torch.tensor(3.0), 0.0, measure=True) as statistics:
        again_BTD = checkpoint(block, x_BTD, use_reentrant=False) if recompute else block(x_BTD)
        again_BTD.backward(upstream_BTD)
    expected = torch.stack(
        [(out_BTD.abs() * old_B11).sum(), (g_BT1 * old_B11).sum(), (g_BT1 * (1 - old_B11)).sum()]
    )
    torch.testing.assert_close(statistics.forward[0], expected.detach())
    strength = 3.0 / (SIZE * LAYERS)
    lm, l1 = (upstream_BTD * old_B11).square().sum(), torch.tensor(strength**2 * 2 * 5 * SIZE)
    torch.testing.assert_close(statistics.backward[0], torch.stack([lm, l1]))


def test_unknown_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="no gate 'tanh'"):
        make("tanh", Context())
