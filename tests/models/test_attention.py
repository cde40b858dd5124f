"""Attention within documents gives what the dense mask of transformers gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import varlen_cpu
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ARCHITECTURES, logits, make, tokens
from torch import Tensor

from models.attention import attend_by_documents, attends_by_documents, document_bounds
from models.loss import sum_nll

# The lengths of the documents in two rows of 16 tokens: longer than the windows of 4 tokens, and a single token.
LENGTHS = ((5, 1, 10), (13, 3))
POSITIONS = torch.tensor([[place for length in row for place in range(length)] for row in LENGTHS])


def bounds() -> Tensor:
    return torch.from_numpy(document_bounds((POSITIONS == 0).numpy()))


def loss_and_gradient(model: Any, *documents: Tensor | None) -> tuple[float, Tensor]:
    model.zero_grad()
    nll = sum_nll(model, tokens(2, 17), None, *documents)
    nll.backward()
    return nll.item(), torch.cat(
        [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    )


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_bounds_are_the_lengths_of_documents_added_up(lengths: list[list[int]]) -> None:
    width = max(map(sum, lengths))
    lengths = [[*row[:-1], row[-1] + width - sum(row)] for row in lengths]  # the last one fills the row
    is_start_BT = np.array([[place == 0 for length in row for place in range(length)] for row in lengths])
    is_start_BT[:, 0] = False  # a row begins a document, whatever it begins with
    found = document_bounds(is_start_BT)
    assert found.dtype == np.int32 and found.shape[:3] == (1, 1, 1)
    assert np.diff(found.ravel(), prepend=0).tolist() == [0, *(length for row in lengths for length in row)]


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "Gemma2"])
def test_loss_and_gradient_are_those_of_the_mask(name: str) -> None:
    """Llama and Gemma have fewer heads of keys than of queries, Mistral and Gemma 3 windows of 4 tokens."""
    model = make(name)
    model.set_attn_implementation("sdpa")
    loss, gradient = loss_and_gradient(model, POSITIONS)
    assert attend_by_documents(model) and attend_by_documents(model) and attends_by_documents(model)
    varlen_cpu.calls.clear()
    ours, our_gradient = loss_and_gradient(model, POSITIONS, bounds())
    assert varlen_cpu.calls == [5, 5]
    assert ours == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(our_gradient, gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())
    # Documents matter, and without bounds all is as it was.
    plain = make(name)
    assert loss != pytest.approx(loss_and_gradient(plain)[0], rel=1e-4)
    plain.set_attn_implementation("sdpa")
    assert torch.equal(logits(model, tokens(2, 16)), logits(plain, tokens(2, 16)))
    assert loss_and_gradient(model, POSITIONS)[0] == loss and len(varlen_cpu.calls) == 2


def test_eager_attention_stays_and_what_is_more_than_plain_is_refused() -> None:
    model = make("Llama")
    assert not attend_by_documents(model) and not attends_by_documents(model)
    model = make("Llama")
    model.set_attn_implementation("sdpa")
    attend_by_documents(model)
    for name in ("softcap", "s_aux", "position_bias"):
        with pytest.raises(ValueError, match=f"knows no {name}"):
            model(input_ids=tokens(2, 16), attention_mask=bounds(), position_ids=POSITIONS, **{name: 1.0})
    model.train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match="knows no dropout"):
        sum_nll(model, tokens(2, 17), None, POSITIONS, bounds())


def test_inputs_are_in_what_autocast_computes_in() -> None:
    """A model in fp32 has queries in fp32 there, behind their rotation, and values in bf16."""
    model = make("Llama")
    model.set_attn_implementation("sdpa")
    loss, gradient = loss_and_gradient(model, POSITIONS)
    attend_by_documents(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours, our_gradient = loss_and_gradient(model, POSITIONS, bounds())
    assert varlen_cpu.types.pop() == torch.bfloat16
    assert ours == pytest.approx(loss, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(our_gradient, gradient, dim=0) > 0.999
