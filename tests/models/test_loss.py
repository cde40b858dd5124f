import pytest
import torch
from device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from models import loss
from models.backbone import create_llama
from models.loss import chunked_cross_entropy, nll_and_gradient, plain_head, sum_nll, token_nll

pytestmark = pytest.mark.usefixtures("on_device")
SIZES = {"hidden_size": 16, "layers": 2, "heads": 2, "ffn_size": 24, "vocabulary": 50, "row_tokens": 12}


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(1, 40),
    chunk=st.integers(1, 50),
    masked=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_chunked_equals_torch(tokens: int, chunk: int, masked: bool, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    hidden_ND, head_VD = torch.randn(tokens, 8) * scale, torch.randn(11, 8)
    target_N = torch.randint(11, (tokens,))
    weight_N = torch.randint(2, (tokens,)).float() if masked else None
    results = []
    for chunked in (True, False):
        leaves = [hidden_ND.clone().requires_grad_(), head_VD.clone().requires_grad_()]
        if chunked:
            loss = chunked_cross_entropy(*leaves, target_N, weight_N, chunk)
        else:
            nll_N = functional.cross_entropy(leaves[0] @ leaves[1].T, target_N, reduction="none")
            loss = (nll_N if weight_N is None else nll_N * weight_N).sum()
        (loss / 7).backward()
        results.append([loss.detach(), leaves[0].grad, leaves[1].grad])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


def test_improbable_target_is_exact() -> None:
    hidden_ND, head_VD = torch.tensor([[1.0]]), torch.tensor([[0.0], [500.0]])
    assert chunked_cross_entropy(hidden_ND, head_VD, torch.tensor([0])).item() == 500.0


def test_masked_token_has_no_gradient() -> None:
    hidden_ND = torch.randn(4, 8, requires_grad=True)
    chunked_cross_entropy(
        hidden_ND, torch.randn(5, 8), torch.tensor([0, 1, 2, 3]), torch.tensor([1.0, 0, 1, 0])
    ).backward()
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.abs().sum(1).gt(0).tolist() == [True, False, True, False]


def test_frozen_head_gets_no_gradient() -> None:
    hidden_ND, head_VD = torch.randn(4, 8, requires_grad=True), torch.randn(5, 8)
    chunked_cross_entropy(hidden_ND, head_VD, torch.tensor([0, 1, 2, 3])).backward()
    assert head_VD.grad is None and hidden_ND.grad is not None


def test_autocast_computes_in_bf16() -> None:
    torch.manual_seed(0)
    hidden_ND, head_VD, target_N = torch.randn(64, 16), torch.randn(50, 16), torch.randint(50, (64,))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        under = chunked_cross_entropy(hidden_ND, head_VD, target_N)
    explicit = chunked_cross_entropy(hidden_ND.bfloat16(), head_VD.bfloat16(), target_N)
    assert torch.equal(under, explicit)
    assert not torch.equal(under, chunked_cross_entropy(hidden_ND, head_VD, target_N))


def softcapped() -> torch.nn.Module:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.5,
    )
    return Gemma2ForCausalLM(config)


@pytest.mark.parametrize("make", [lambda: create_llama(**SIZES), softcapped], ids=["chunked", "full logits"])
def test_model_loss_equals_logits(make) -> None:
    torch.manual_seed(0)
    model, tokens_BT1 = make().eval(), torch.randint(50, (3, 13))
    logits_BTV = model(input_ids=tokens_BT1[:, :-1]).logits
    expected_BT = functional.cross_entropy(logits_BTV.transpose(1, 2), tokens_BT1[:, 1:], reduction="none")
    torch.testing.assert_close(token_nll(model, tokens_BT1), expected_BT)
    mask_BT = torch.randint(2, (3, 12)).float()
    torch.testing.assert_close(sum_nll(model, tokens_BT1, mask_BT), (expected_BT * mask_BT).sum())


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


def test_only_a_product_with_the_weights_is_a_plain_head() -> None:
    assert plain_head(softcapped()) is None
    assert plain_head(create_llama(**SIZES)) is not None
    large = create_llama(**SIZES | {"hidden_size": 128, "vocabulary": 4096}).bfloat16()
    assert plain_head(large) is not None  # its rounding is no change
    model = create_llama(**SIZES)
    model.set_output_embeddings(Scaled(SIZES["hidden_size"], SIZES["vocabulary"], bias=False))
    assert plain_head(model) is None
    # Logits that are small are capped by next to nothing.
    quiet = softcapped()
    quiet.get_output_embeddings().weight.data *= 1e-3
    assert plain_head(quiet) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_gpu_gets_the_loss_and_gradients_of_a_cpu(monkeypatch, weighted: bool, dtype: torch.dtype) -> None:
    """By the function that is compiled there, here as it is; in chunks of which the last is shorter."""
    torch.manual_seed(0)
    hidden_ND, head_VD, target_N = (
        torch.randn(20, 8, dtype=dtype),
        torch.randn(11, 8, dtype=dtype),
        torch.arange(20) % 11,
    )
    weight_N = torch.rand(20) if weighted else None
    results = []
    for way in ("_in_cache", "_in_few_kernels"):
        monkeypatch.setattr(loss, "_compiled_gradient", lambda: nll_and_gradient)
        monkeypatch.setattr(loss, "_in_cache", getattr(loss, way))
        leaves = [hidden_ND.clone().requires_grad_(), head_VD.clone().requires_grad_()]
        total = chunked_cross_entropy(*leaves, target_N, weight_N, chunk=7)
        total.backward()
        results.append([total.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
