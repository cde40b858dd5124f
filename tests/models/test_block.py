import pytest
import torch
from device import DEVICE
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.block import GATES, NeutralBlock, close_gates
from models.local_losses import Context, make_probe
from models.modeling_neutral import DENSE, rounded_up

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


# Without gradients ---------------------------------------------------------------------------------


def opened(block: NeutralBlock, shape: tuple[int, ...], share: float) -> tuple[Tensor, Tensor]:
    """x_BTD of which about this share has an open gate, far from 0 or not at all, and which tokens these are."""
    assert block.gate is not None
    nn.init.zeros_(block.gate.weight)
    with torch.no_grad():
        block.gate.weight[0, 0] = 1
    is_open_BT = torch.rand(shape) < share
    x_BTD = torch.randn(*shape, SIZE)
    x_BTD[..., 0] = torch.where(is_open_BT, 1.0, -1.0) * (1 + torch.rand(shape))
    return x_BTD, is_open_BT


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.75, 0.9, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (4, 5), (2, 100)])
def test_tokens_with_a_closed_gate_cost_no_more_than_their_gate(shape: tuple[int, ...], share: float) -> None:
    block = make("relu", Context())
    x_BTD, is_open_BT = opened(block, shape, share)
    computed: list[int] = []
    expected_BTD = block(x_BTD).detach()
    block.down_proj.register_forward_hook(lambda module, inputs, y: computed.append(inputs[0].numel() // WIDTH))
    with torch.no_grad():
        out_BTD = block(x_BTD)
    torch.testing.assert_close(out_BTD, expected_BTD)
    assert not out_BTD[~is_open_BT].any()
    count, tokens = int(is_open_BT.sum()), is_open_BT.numel()
    if DEVICE.type == "cuda":
        assert computed == [tokens]
    elif not count:
        assert computed == []
    else:
        assert len(computed) == 1 and count <= computed[0] <= tokens
        assert computed[0] <= count * 9 / 8 or count > DENSE * tokens * 8 / 9


@pytest.mark.parametrize("gate", ["sigmoid", "elu", "relu"])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 10.0])
def test_a_threshold_closes_gates_on_both_sides_of_0(gate: str, threshold: float) -> None:
    block = make(gate, Context())
    close_gates(block, threshold)
    x_BTD = torch.randn(4, 25, SIZE) * 3
    assert block.gate is not None
    with torch.no_grad():
        g_BT1 = block.phi(block.gate(x_BTD))
        g_BT1 = torch.where(g_BT1.abs() > threshold, g_BT1, 0)
        inside_BTM = functional.silu(block.gate_proj(x_BTD)) * block.up_proj(x_BTD)
        expected_BTD = g_BT1 * block.down_proj(inside_BTM)
        torch.testing.assert_close(block(x_BTD), expected_BTD)
    torch.testing.assert_close(block(x_BTD).detach(), expected_BTD)
    if threshold in (0.2, 0.5):
        assert 0 < (g_BT1 == 0).float().mean() < 1
    close_gates(block, 0.0)  # takes nothing back
    assert block.threshold == threshold


def test_in_bf16_by_autocast() -> None:
    """As models are measured: x_BTD may be fp32, what leaves is bf16 either way."""
    block = make("relu", Context())
    x_BTD, _ = opened(block, (4, 50), 0.3)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        expected_BTD = block(x_BTD).detach()
        with torch.no_grad():
            out_BTD, none_BTD = block(x_BTD), block(-x_BTD.abs())
    assert out_BTD.dtype == none_BTD.dtype == expected_BTD.dtype == torch.bfloat16
    torch.testing.assert_close(out_BTD, expected_BTD)
    assert none_BTD.shape == x_BTD.shape and not none_BTD.any()


@pytest.mark.slow
def test_compiled_and_traced_blocks_compute_all_tokens() -> None:
    block = make("relu", Context())
    x_BTD, _ = opened(block, (4, 5), 0.0)
    other_BTD, _ = opened(block, (4, 5), 0.5)
    with torch.no_grad():
        compiled = torch.compile(block, backend="eager", fullgraph=True)
        traced = torch.jit.trace(block, x_BTD)
        exported = torch.export.export(block, (x_BTD,)).module()
        for one in (compiled, traced, exported):
            assert not one(x_BTD).any()
            torch.testing.assert_close(one(other_BTD), block(other_BTD))


def test_numbers_of_rows_are_few() -> None:
    counts = range(1, 2**12 + 1)
    assert all(count <= rounded_up(count) <= count * 9 / 8 for count in counts)
    assert len(set(map(rounded_up, counts))) == 16 + 8 * 8


def test_unknown_gate_is_refused() -> None:
    with pytest.raises(ValueError, match="no gate 'tanh'"):
        make("tanh", Context())
