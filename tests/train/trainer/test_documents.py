"""mask_documents is refused where a backbone would not keep documents apart, and is fast where it can be."""

import re
from functools import partial, wraps
from typing import Any

import numpy as np
import pytest
import torch
import varlen_cpu
from device import DEVICE
from tiny import ARCHITECTURES, COMMON, make
from torch import Tensor
from torch.nn.attention import varlen
from transformers import BloomConfig, BloomForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from benchmarks.gpu import checks, toys
from benchmarks.gpu.checks import computing_in, cosine, gradients
from benchmarks.gpu.speed import graphs
from models.attention import attends_by_documents
from pipeline.common.errors import StageError
from train.trainer import documents
from train.trainer.documents import check_documents_apart, keep_documents_apart
from train.trainer.mixture import Batch, read_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "Gemma2"])
def test_attention_with_positions_keeps_documents_apart(name: str, attention: str) -> None:
    model = make(name)
    model.set_attn_implementation(attention)
    check_documents_apart(model.to(DEVICE), DEVICE)


def hybrid() -> Any:
    """A recurrent layer, behind which there is one with attention."""
    sizes = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
    kinds = {"linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"]}
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**COMMON | {"head_dim": 8} | sizes | kinds)).eval()


def alibi() -> Any:
    return BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2)).eval()


@pytest.mark.parametrize("build", [hybrid, alibi])
@pytest.mark.parametrize("rounded", [False, True])
def test_what_does_not_is_refused_in_one_line(build: Any, rounded: bool) -> None:
    model = build()
    with pytest.raises(StageError, match=r"^mask_documents: .*; set it to false[^\n]*$"):
        check_documents_apart((model.bfloat16() if rounded else model).to(DEVICE), DEVICE)


def sdpa(name: str) -> Any:
    model = make(name)
    model.set_attn_implementation("sdpa")
    return model


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == documents.log.name]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU passes for a device with kernels for attention within documents."""
    monkeypatch.setattr(documents, "runs_on", lambda device: True)


@pytest.mark.parametrize("name", ["Llama", "Gemma3", "GPT2"])
def test_kernels_that_are_right_are_taken(name: str, kernels: None, caplog: pytest.LogCaptureFixture) -> None:
    model = sdpa(name)
    keep_documents_apart(model, CPU, 40)
    assert attends_by_documents(model) and not said(caplog)


def test_attention_of_its_own_leaves_the_mask(kernels: None, caplog: pytest.LogCaptureFixture) -> None:
    model = make("Llama")  # eager
    keep_documents_apart(model, CPU, 40)
    assert not attends_by_documents(model) and "a way of its own" in said(caplog)[0]


def no_borders(
    kernel: Any, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, _: Tensor, *rest: Any, **how: Any
) -> Any:
    ends = bounds[[0, -1]]
    return kernel(q, k, v, ends, ends, *rest, **how)


def wider(kernel: Any, *given: Any, window_size: tuple[int, int], **how: Any) -> Any:
    return kernel(*given, window_size=(window_size[0] + (window_size[0] >= 0), 0), **how)


def negative(kernel: Any, query: Tensor, *given: Any, **how: Any) -> Any:
    return kernel(-query, *given, **how)


def broken(kernel: Any, *given: Any, **how: Any) -> Any:
    raise RuntimeError("head of 7\nat line 1")


WRONG = {
    no_borders: "a document sees the one before it",
    wider: r"the loss is \d.* cosine of its gradients is 0\.\d",
    negative: r"the loss is \d",
    broken: r"does not attend without them \(head of 7\)",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_others_leave_the_mask(
    wrong: Any, kernels: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = varlen.varlen_attn
    monkeypatch.setattr(varlen, "varlen_attn", wraps(plain)(partial(wrong, plain)))
    model = sdpa("Gemma3")  # some of its layers have windows
    keep_documents_apart(model, CPU, 40)
    assert not attends_by_documents(model)
    assert re.fullmatch(f"mask_documents: masks of .*{WRONG[wrong]}.*", said(caplog)[0])


def uneven_documents(step: int, *given: Any) -> Batch:
    batch = read_batch(step, *given)
    batch.tokens_BT1[np.random.default_rng(step).random(batch.tokens_BT1.shape) < 0.05] = 0
    return batch


@pytest.mark.slow
def test_training_has_the_gradients_of_the_mask_and_few_graphs(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Whatever the number of documents, which is another one in each micro-batch."""
    monkeypatch.setattr(toys, "attention_on", lambda device: "sdpa")
    # Traced and differentiated as usual; machine code would take half a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(checks, "read_batch", uneven_documents)
    job = {**toys.TOY, "device": "cpu", "method": "neutral", "rows": 8}
    take = partial(gradients, steps_before=2, mask_documents=True, micro_batch_rows=4)
    with computing_in(torch.float32):
        mask = take(job)
        request.getfixturevalue("kernels")
        varlen_cpu.calls.clear()
        assert cosine(take(job), mask) == pytest.approx((1, 1), abs=1e-6)
        assert len(set(varlen_cpu.calls)) > 2
        torch._dynamo.utils.counters.clear()
        assert cosine(take(job | {"compile": True}), mask) == pytest.approx((1, 1), abs=1e-6)
    assert graphs() == 2  # one for the layer that gets no gradient, one for all others
    torch._dynamo.reset()
