import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.block import GATES, NeutralBlock
from models.local_losses import Context, make_probe

pytestmark = pytest.mark.usefixtures("on_device")
SIZE, WIDTH, LAYERS = 8, 6, 3
ALPHA, BETA = 5.0, 0.7


def make(gate: str, context: Context, layer: int = 0) -> NeutralBlock:
    torch.manual_seed(layer)
    block = NeutralBlock(SIZE, WIDTH, LAYERS, functional.silu, gate, "low_variance", context)
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
    block = NeutralBlock(256, 300, LAYERS, functional.silu, "elu", init, Context())
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
@pytest.mark.parametrize("gate", ["elu", "none"])
def test_measures(gate: str, recompute: bool) -> None:
    """Two blocks and two micro-batches add up, each once."""
    context = Context()
    blocks = [make(gate, context, layer) for layer in range(2)]
    x_BTD, old_B11 = rows()
    x_BTD.requires_grad_()
    upstream_BTD = torch.randn_like(x_BTD)
    strength = 3.0 / (SIZE * LAYERS)
    expected = torch.zeros(5)
    for block in blocks:
        g_BT1 = torch.ones(4, 5, 1) if block.gate is None else functional.elu(block.gate(x_BTD))
        sums = [block(x_BTD).abs() * old_B11, g_BT1 * old_B11, g_BT1 * (1 - old_B11)]
        expected += torch.stack([*(one.sum().detach() for one in sums), torch.zeros(()), torch.zeros(())])
        expected[3] += strength**2 * 2 * 5 * SIZE
        expected[4] += (upstream_BTD * old_B11).square().sum()
    probe_5 = make_probe(x_BTD.device)
    for part in (slice(0, 1), slice(1, 4)):
        with context.losses(old_B11[part], torch.tensor(3.0), 0.0, probe_5):
            outs = [
                checkpoint(block, x_BTD[part], use_reentrant=False) if recompute else block(x_BTD[part])
                for block in blocks
            ]
            sum(outs).backward(upstream_BTD[part])
    assert probe_5.grad is not None
    torch.testing.assert_close(probe_5.grad, expected)


def test_measuring_leaves_the_gradients_alone() -> None:
    context = Context()
    blocks, (x_BTD, old_B11) = [make("sigmoid", context)], rows()
    found = []
    for probe_5 in (None, make_probe(x_BTD.device)):
        with context.losses(old_B11, torch.tensor(3.0), 0.5, probe_5):
            blocks[0](x_BTD).square().sum().backward()
        found.append(gradients(blocks))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_unknown_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="no gate 'tanh'"):
        make("tanh", Context())
