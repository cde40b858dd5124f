from fractions import Fraction

import pytest
import torch
from device import DEVICE, same
from hypothesis import given
from hypothesis import strategies as st
from tiny import ARCHITECTURES, COMMON, POST_NORMED, logits, make, shake, tokens
from torch import Tensor

from models.backbone import create_llama, unique_parameters
from models.block import GATES, INITS
from models.extend import (
    PLACEMENTS,
    ExtendedFFN,
    ExtendError,
    decoder_layers,
    extend,
    load_trainable,
    round_width,
    trainable_state,
    weights_per_width,
)
from models.loss import sum_nll

pytestmark = pytest.mark.usefixtures("on_device")
METHODS = ("finetune", "lora", "adapter", "neutral")
# Every block there is: what the options of a run can ask for beside the method.
BLOCKS = [
    {"gate": gate, "gate_bias": bias, "init": INITS[bias]}
    for gate in GATES
    for bias in (True, False)
    if gate != "none" or bias
]


@pytest.fixture
def tokens_BT() -> Tensor:
    return tokens()


@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize("method", METHODS)
def test_outputs_unchanged_at_first(name: str, method: str, tokens_BT: Tensor) -> None:
    model = make(name)
    before = logits(model, tokens_BT)
    extend(model, method)
    assert torch.equal(logits(model, tokens_BT), before)
    shake(model)
    assert not torch.equal(logits(model, tokens_BT), before)


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
def test_outputs_unchanged_at_first_in_bf16(method: str, tokens_BT: Tensor) -> None:
    model = make().bfloat16()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        before = logits(model, tokens_BT)
        extend(model, method)
        assert torch.equal(logits(model, tokens_BT), before)
    kinds = {(parameter.requires_grad, parameter.dtype) for parameter in model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_finetuned_layers_add_up_in_the_type_of_autocast(name: str, tokens_BT: Tensor) -> None:
    """As the layers of all other methods do, whose embeddings are in bf16."""
    model, seen = make(name), []
    extend(model, "finetune")
    for layer in decoder_layers(model):
        layer.register_forward_hook(lambda module, inputs, y_BTD: seen.append(y_BTD.dtype))
    with torch.autocast(DEVICE.type, torch.bfloat16):
        sum_nll(model, tokens_BT).backward()
    logits(model, tokens_BT)
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", POST_NORMED)
def test_added_behind_the_norm(name: str, tokens_BT: Tensor) -> None:
    """What the layer adds to its input is then the norm of the FFN's output plus the block's."""
    model = make(name)
    before = logits(model, tokens_BT)
    extend(model, "neutral", placement="after_norm")
    assert torch.equal(logits(model, tokens_BT), before)
    shake(model)
    layer, seen = decoder_layers(model)[0], {}
    for key, module in (
        ("ffn", layer.mlp),
        ("block", layer.mlp.block),
        ("norm", layer.post_feedforward_layernorm),
    ):
        module.register_forward_hook(lambda *args, key=key: seen.__setitem__(key, args[-1]))
    after = logits(model, tokens_BT)
    norm = layer.post_feedforward_layernorm.norm
    assert torch.equal(seen["norm"], norm(seen["ffn"]) + seen["block"])
    other = make(name)
    extend(other, "neutral")
    load_trainable(other, trainable_state(model))
    assert not torch.allclose(logits(other, tokens_BT), after)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
@pytest.mark.parametrize("name", POST_NORMED)
def test_recomputed_behind_the_norm(name: str, tokens_BT: Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        model = make(name).train()
        extend(model, "neutral", placement="after_norm")
        extend(model, "neutral", placement="after_norm", seed=1)  # a second language
        shake(model)
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        sum_nll(model, tokens_BT).backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.requires_grad])
    assert all(same(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_method_and_gate_learns(name: str, tokens_BT: Tensor) -> None:
    for method, how in [*((method, {}) for method in METHODS[:-1]), *(("neutral", how) for how in BLOCKS)]:
        for placement in PLACEMENTS if name in POST_NORMED and method == "neutral" else PLACEMENTS[:1]:
            model = make(name)
            extension = extend(model, method, fraction=0.5, placement=placement, **how)
            assert extension.fraction == pytest.approx(0 if method == "finetune" else 0.5, rel=0.1)
            model.train()
            old_B11 = torch.tensor([1.0, 0.0]).view(-1, 1, 1)
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(trained, 1e-2, fused=True)
            losses = []
            for _ in range(4):
                optimizer.zero_grad()
                with extension.context.losses(old_B11, torch.tensor(0.1 / 8), 0.1 / 16):
                    loss = sum_nll(model, tokens_BT) / 16
                    loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert losses[-1] < losses[0], (method, how, placement, losses)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ARCHITECTURES))
@pytest.mark.parametrize(
    "method, placement", [("lora", ""), ("neutral", "before_norm"), ("neutral", "after_norm")]
)
def test_causal_and_cached_generation_equals_uncached(
    name: str, method: str, placement: str, tokens_BT: Tensor
) -> None:
    model = make(name)
    extend(model, method, placement=placement)
    shake(model)
    whole = logits(model, tokens_BT)
    changed = tokens_BT.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 50
    assert torch.equal(logits(model, changed)[:, :5], whole[:, :5])
    assert not torch.equal(logits(model, changed)[:, 5:], whole[:, 5:])
    how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    cached = model.generate(tokens_BT, use_cache=True, **how)
    assert torch.equal(cached, model.generate(tokens_BT, use_cache=False, **how))


def test_widths_and_fraction() -> None:
    sizes = {"hidden_size": 32, "layers": 2, "heads": 2, "ffn_size": 64, "vocabulary": 500, "row_tokens": 8}
    n = unique_parameters(create_llama(**sizes))
    neutral = extend(create_llama(**sizes), "neutral", fraction=0.3)
    assert neutral.width == round_width(0.3 * n / (3 * 32 * 2))
    assert neutral.extra_parameters == 2 * (3 * 32 * neutral.width + 33)
    lora = extend(create_llama(**sizes), "lora", fraction=0.3)
    assert lora.width == round_width(0.3 * n / (3 * (32 + 64) * 2))
    assert lora.extra_parameters == 3 * (32 + 64) * 2 * lora.width
    for extension in (neutral, lora):
        assert extension.backbone_parameters == n
        assert extension.fraction == extension.extra_parameters / n == pytest.approx(0.3, rel=0.05)
    assert extend(create_llama(**sizes), "finetune").extra_parameters == 0


@given(st.fractions(0.6, 10**5))
def test_wide_rows_are_aligned_and_no_budget_is_far_off(asked: Fraction) -> None:
    width = round_width(asked)
    assert abs(width - asked) <= (asked / 16 if asked >= 63.5 else Fraction(1, 2))
    assert 2 * width % 16 == 0 or width < 64  # bytes of a row in bf16
    assert 2 * width % 128 == 0 or width < 512


@given(st.fractions(0.6, 10**5), st.fractions(0.6, 10**5))
def test_a_larger_fraction_gives_no_smaller_width(one: Fraction, other: Fraction) -> None:
    assert (round_width(one) - round_width(other)) * (one - other) >= 0


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_a_width_of_1_more_adds_the_weights_that_are_counted(name: str, method: str) -> None:
    one, more = (extend(make(name), method, width=width).extra_parameters for width in (7, 8))
    assert weights_per_width(make(name), method) == more - one


@pytest.mark.parametrize("method", METHODS)
def test_state_goes_from_one_model_to_another(method: str, tokens_BT: Tensor) -> None:
    model = make("Gemma2")  # its embeddings are tied
    extend(model, method)
    shake(model)
    state = {name: weight.clone() for name, weight in trainable_state(model).items()}
    other = make("Gemma2")
    extend(other, method, seed=9)
    load_trainable(other, state)
    assert torch.equal(logits(model, tokens_BT), logits(other, tokens_BT))


def test_state_of_another_width_is_refused() -> None:
    one, other = make(), make()
    extend(one, "neutral", fraction=0.5)
    extend(other, "neutral", fraction=0.2)
    with pytest.raises(ExtendError, match=r"such as .*block\.down_proj"):
        load_trainable(other, trainable_state(one))
    with pytest.raises(ExtendError, match="do not fit"):
        load_trainable(other, {})
    state = trainable_state(other)
    with pytest.raises(ExtendError, match="weights do not fit the model"):  # of 4 bits, or complex, in no run
        load_trainable(other, {name: weight.to(torch.complex64) for name, weight in state.items()})


@pytest.mark.parametrize("method", ["lora", "adapter", "neutral"])
def test_no_gradient_below_the_first_addition(method: str, tokens_BT: Tensor) -> None:
    model = make()
    extend(model, method)
    seen: list[bool] = []
    model.get_input_embeddings().register_forward_hook(lambda *args: seen.append(args[-1].requires_grad))
    sum_nll(model, tokens_BT).backward()
    assert seen == [False]
    added = ("block", "lora_")
    assert all((p.grad is not None) == any(a in name for a in added) for name, p in model.named_parameters())


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable")
@pytest.mark.parametrize("gate", ["elu", "sigmoid"])
def test_checkpointed_layers_have_the_same_gradients(gate: str, tokens_BT: Tensor) -> None:
    results, calls = [], [0, 0]
    for recompute in (False, True):
        model = make()
        extension = extend(model, "neutral", gate=gate)
        shake(model)
        for layer in decoder_layers(model):
            layer.mlp.ffn.register_forward_hook(lambda *_, r=recompute: calls.__setitem__(r, calls[r] + 1))
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        with extension.context.losses(torch.tensor([1.0, 0.0]).view(-1, 1, 1), torch.tensor(5.0), 0.5):
            sum_nll(model, tokens_BT).backward()
        results.append([p.grad for p in model.parameters() if p.requires_grad])
    assert calls == [2, 4]
    assert all(same(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_additions_stack(placement: str, tokens_BT: Tensor) -> None:
    """A second language: its blocks add to the first's, which stay as they are, and are not trained."""
    model = make("Gemma2")
    first = extend(model, "neutral", fraction=0.5, placement=placement)
    shake(model)
    before, earlier = logits(model, tokens_BT), trainable_state(model)
    kept = {name: weight.clone() for name, weight in earlier.items()}
    second = extend(model, "neutral", fraction=0.5, gate="relu", placement=placement)
    assert torch.equal(logits(model, tokens_BT), before)
    layer = decoder_layers(model)[0].mlp
    assert isinstance(layer, ExtendedFFN) and isinstance(layer.ffn, ExtendedFFN)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == second.extra_parameters
    assert (second.backbone_parameters, second.width) == (first.backbone_parameters, first.width)
    with second.context.losses(torch.ones(2, 1, 1), torch.tensor(1.0), 0.0):
        sum_nll(model, tokens_BT).backward()
    shake(model)
    assert not torch.equal(logits(model, tokens_BT), before)
    inner = {name: p for name, p in model.named_parameters() if ".mlp.ffn.block." in name}
    assert all(p.grad is None and torch.equal(p, kept[n.replace("ffn.block", "block")]) for n, p in inner.items())
    assert len(inner) == len(kept)


def test_models_that_are_not_understood_are_refused() -> None:
    from transformers import (
        BloomConfig,
        BloomForCausalLM,
        GitConfig,
        GitForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        OPTConfig,
        OPTForCausalLM,
    )

    opt = OPTConfig(
        vocab_size=50,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=16,
    )
    with pytest.raises(ExtendError, match=r"OPTForCausalLM: no list of 2 layers that each have \.mlp"):
        extend(OPTForCausalLM(opt), "neutral")
    bloom = BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)
    with pytest.raises(ExtendError, match=r"BloomForCausalLM: its BloomMLP does not take one tensor"):
        extend(BloomForCausalLM(bloom), "neutral")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    git = GitConfig(**sizes, vocab_size=50, vision_config=sizes | {"image_size": 8, "patch_size": 4})
    with pytest.raises(ExtendError, match=r"GitForCausalLM: no list of 2 layers that each have \.mlp"):
        extend(GitForCausalLM(git), "neutral")  # its layers of images have
    mixtral = MixtralConfig(**COMMON, num_local_experts=2, num_experts_per_tok=1)
    with pytest.raises(ExtendError, match="mixture of experts"):
        extend(MixtralForCausalLM(mixtral), "neutral")
    with pytest.raises(ExtendError, match="no placement 'above'"):
        extend(make(), "neutral", placement="above")
    with pytest.raises(ExtendError, match="larger fraction"):
        extend(make(), "neutral", fraction=1e-6)


@pytest.mark.slow
def test_blocks_behind_a_norm_compile() -> None:
    results = []
    for compiled in (False, True):
        model = make("Gemma2")
        extension = extend(model, "neutral", fraction=0.5, placement="after_norm")
        shake(model)
        if compiled:  # one layer stands for all: to trace takes seconds
            decoder_layers(model)[0].compile(backend="aot_eager", fullgraph=True)
        with extension.context.losses(torch.tensor([[[1.0]], [[0.0]]]), torch.tensor(3.0), 0.0):
            loss = sum_nll(model, tokens())
            loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch._dynamo.reset()
    assert len(results[0]) > 1
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
