"""The language-model loss with logits for only one chunk of tokens at a time.

Logits of B x T x V numbers are the largest tensor of a small model's training by far, and writing and
reading them three times over took longer than the whole decoder. Here each chunk of tokens yields its loss
and both its gradients while it is still in cache.

Shapes: B rows, T predicted tokens of a row, N = B T tokens, C tokens of a chunk, D width of the model, V entries
of the vocabulary; a final 1 is a dimension of size 1, but tokens_BT1 holds rows of T + 1 tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

# Measured on a 2-core CPU at V = 4096: 512 is best (1.8 times the speed of whole logits). A GPU needs larger
# products to be busy (not measured; 1.6 GB of buffers at V = 128,256).
CHUNK_TOKENS = {"cpu": 512, "cuda": 2048}
ROUNDING = 0.02  # relative; bf16 makes 0.005 of it
LARGE = 3000.0  # a logit far beyond what a head that caps its logits gives


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of weight_N * NLL_N of linear logits, with the gradients of hidden and head made on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, target_N: Tensor, weight_N: Tensor | None, chunk: int
    ) -> Tensor:
        dtype = _compute_dtype(hidden_ND)
        cast_ND, cast_VD = hidden_ND.to(dtype), head_VD.to(dtype)
        needs_hidden, needs_head = ctx.needs_input_grad[:2]
        hidden_grad_ND = torch.empty_like(cast_ND) if needs_hidden else None
        head_grad_VD = torch.zeros_like(head_VD, dtype=torch.float32) if needs_head else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        # One pair of buffers for all chunks: fresh pages for each would cost as much as the arithmetic.
        differentiate = _in_few_kernels if hidden_ND.is_cuda else _in_cache
        logits, probabilities = _buffers(min(chunk, len(target_N)), cast_VD, apart=differentiate is _in_cache)
        for start in range(0, len(target_N), chunk):
            part = slice(start, start + chunk)
            x_CD, target_C1 = cast_ND[part], target_N[part, None]
            weight_C1 = weight_N[part, None].float() if weight_N is not None else None
            logits_CV, p_CV = logits[: len(x_CD)], probabilities[: len(x_CD)]
            torch.mm(x_CD, cast_VD.T, out=logits_CV)
            nll_C1, logits_grad_CV = differentiate(logits_CV, p_CV, target_C1, weight_C1)
            total += (nll_C1 if weight_C1 is None else nll_C1 * weight_C1).sum()
            if hidden_grad_ND is not None:
                torch.mm(logits_grad_CV, cast_VD, out=hidden_grad_ND[part])
            if head_grad_VD is not None:
                _add_product(head_grad_VD, logits_grad_CV.T, x_CD)
        ctx.save_for_backward(hidden_grad_ND, head_grad_VD)
        ctx.dtypes = hidden_ND.dtype, head_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        # In place, as a head's gradient is large; torch refuses a second backward pass through this graph.
        gradients = [
            gradient.mul_(upstream[0].to(gradient.dtype)).to(dtype) if gradient is not None else None
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return gradients[0], gradients[1], None, None, None


def _add_product(sum_VD: Tensor, a_VC: Tensor, b_CD: Tensor) -> None:
    """sum_VD += a_VC @ b_CD, by one kernel where the device has one for these types; there nothing is rounded."""
    if a_VC.dtype == sum_VD.dtype:
        sum_VD.addmm_(a_VC, b_CD)
    elif sum_VD.is_cuda:
        torch.addmm(sum_VD, a_VC, b_CD, out_dtype=sum_VD.dtype, out=sum_VD)
    else:
        sum_VD += a_VC @ b_CD


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products here: inside a custom autograd function autocast has no effect."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def nll_and_gradient(logits_CV: Tensor, target_C1: Tensor, weight_C1: Tensor | None) -> tuple[Tensor, Tensor]:
    """NLL_C1 in fp32, and the gradient of its weighted sum with respect to the logits, in their dtype.

    Compiled, two or three kernels read and write each logit some three times; uncompiled it is some twenty times.

    >>> nll_and_gradient(torch.zeros(1, 2), torch.tensor([[0]]), None)
    (tensor([[0.6931]]), tensor([[-0.5000,  0.5000]]))
    """
    logits_CV_fp32 = logits_CV.float()
    total_C1 = logits_CV_fp32.logsumexp(-1, keepdim=True)
    hit_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == target_C1
    gradient_CV = (logits_CV_fp32 - total_C1).exp() - hit_CV.float()
    if weight_C1 is not None:
        gradient_CV = gradient_CV * weight_C1
    return total_C1 - logits_CV_fp32.gather(1, target_C1), gradient_CV.to(logits_CV.dtype)


def _in_few_kernels(
    logits_CV: Tensor, _p_CV: Tensor, target_C1: Tensor, weight_C1: Tensor | None
) -> tuple[Tensor, Tensor]:
    """nll_and_gradient() for a GPU, where each operation by itself would read and write all logits."""
    return _compiled_gradient()(logits_CV, target_C1, weight_C1)


def _in_cache(
    logits_CV: Tensor, p_CV: Tensor, target_C1: Tensor, weight_C1: Tensor | None
) -> tuple[Tensor, Tensor]:
    """nll_and_gradient() for a CPU: the chunk stays in its cache, the results take the memory that is there."""
    nll_C1 = _nll_and_probabilities(logits_CV, p_CV, target_C1)
    p_CV.scatter_add_(1, target_C1, torch.full_like(nll_C1, -1.0))
    if weight_C1 is not None:
        p_CV *= weight_C1
    return nll_C1, p_CV if p_CV.dtype == logits_CV.dtype else logits_CV.copy_(p_CV)


@functools.cache
def _compiled_gradient() -> Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    return torch.compile(nll_and_gradient)


def _buffers(rows: int, head_VD: Tensor, apart: bool = True) -> tuple[Tensor, Tensor]:
    """Memory for the logits_CV and the probabilities_CV of a chunk: the same if not `apart`, or in fp32."""
    logits_CV = head_VD.new_empty(rows, len(head_VD))
    if not apart or logits_CV.dtype == torch.float32:
        return logits_CV, logits_CV
    return logits_CV, logits_CV.new_empty(logits_CV.shape, dtype=torch.float32)


def _nll_and_probabilities(logits_CV: Tensor, p_CV: Tensor, target_C1: Tensor) -> Tensor:
    """NLL_C1 in fp32; fills p_CV (fp32; it may be the logits' own memory) with their softmax.

    The log of the sum of exponentials is taken from the largest probability, which is at least 1/V and
    so never underflows: six times as fast as logsumexp, which would go over the logits again.
    """
    largest_C1, of_target_C1 = logits_CV.amax(-1, keepdim=True).float(), logits_CV.gather(1, target_C1).float()
    # In place, since softmax with a dtype would allocate room for the copy that it makes.
    if p_CV.dtype != logits_CV.dtype:
        p_CV.copy_(logits_CV)
    torch.softmax(p_CV, -1, out=p_CV)
    return largest_C1 - p_CV.amax(-1, keepdim=True).log() - of_target_C1


def chunked_cross_entropy(
    hidden_ND: Tensor,
    head_VD: Tensor,
    target_N: Tensor,
    weight_N: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Sum of NLL in nats (a scalar, fp32) of target_N under logits hidden_ND @ head_VD.T.

    weight_N multiplies each token's NLL; a mask is a weight of 0 and 1. Under autocast the products are in
    its dtype, else in that of hidden. A head that is frozen costs no gradient.
    """
    chunk = chunk or CHUNK_TOKENS[hidden_ND.device.type]
    total: Tensor = _ChunkedCrossEntropy.apply(hidden_ND, head_VD, target_N, weight_N, chunk)
    return total


def sum_nll(
    model: nn.Module,
    tokens_BT1: Tensor,
    weight_BT: Tensor | None = None,
    position_BT: Tensor | None = None,
    bounds_111S: Tensor | None = None,
) -> Tensor:
    """Sum over tokens of the NLL in nats, a scalar in fp32 with a gradient.

    tokens_BT1 (int64) are whole rows of T + 1 tokens, without padding: the first T predict the last T.
    weight_BT multiplies each token's NLL. position_BT is each token's position, which begins anew where a
    token must not attend to those before it; models/attention.py makes bounds_111S of the same places for models
    that take them. Divide by the tokens of the whole step yourself.
    """
    head = plain_head(model)
    if head is None:
        nll_BT = _full_logits_nll(model, tokens_BT1, position_BT, bounds_111S)
        return (nll_BT if weight_BT is None else nll_BT * weight_BT).sum()
    hidden_BTD = _hidden(model, tokens_BT1, position_BT, bounds_111S)
    weight_N = None if weight_BT is None else weight_BT.flatten()
    return chunked_cross_entropy(hidden_BTD.flatten(0, 1), head, tokens_BT1[:, 1:].flatten(), weight_N)


@torch.no_grad()
def token_nll(model: nn.Module, tokens_BT1: Tensor) -> Tensor:
    """NLL_BT in nats (fp32) of each predicted token of whole rows tokens_BT1; no gradient."""
    head = plain_head(model)
    if head is None:
        return _full_logits_nll(model, tokens_BT1)
    hidden_ND = _hidden(model, tokens_BT1).flatten(0, 1)
    dtype = _compute_dtype(hidden_ND)
    hidden_ND, head_VD, target_N1 = hidden_ND.to(dtype), head.to(dtype), tokens_BT1[:, 1:].reshape(-1, 1)
    chunk = CHUNK_TOKENS[hidden_ND.device.type]
    logits, probabilities = _buffers(min(chunk, len(hidden_ND)), head_VD)
    nll = []
    for x_CD, target_C1 in zip(hidden_ND.split(chunk), target_N1.split(chunk), strict=True):
        logits_CV, p_CV = logits[: len(x_CD)], probabilities[: len(x_CD)]
        torch.mm(x_CD, head_VD.T, out=logits_CV)
        nll.append(_nll_and_probabilities(logits_CV, p_CV, target_C1))
    return torch.cat(nll).view(tokens_BT1[:, 1:].shape)


@torch.no_grad()
def log_probabilities(model: nn.Module, tokens_BT1: Tensor, chunk: int) -> Iterator[Tensor]:
    """Log probabilities_CV of the next token of whole rows, for `chunk` tokens at a time; no gradient.

    The product with the head is in fp32: in bf16 its rounding would be larger than small changes of a model.
    """
    head = plain_head(model)
    if head is None:
        for logits_CV in _call(model, tokens_BT1).logits.flatten(0, 1).split(chunk):
            yield logits_CV.float().log_softmax(-1)
        return
    hidden_ND, head_VD = _hidden(model, tokens_BT1).flatten(0, 1).float(), head.float()
    for x_CD in hidden_ND.split(chunk):
        with torch.autocast(x_CD.device.type, enabled=False):
            logits_CV = x_CD @ head_VD.T
        yield logits_CV.log_softmax(-1)


# Whether the head of a model is plain, which is tried once. Models are kept alive by others.
_tried: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def plain_head(model: Any) -> Tensor | None:
    """The head's weights_VD where logits are nothing but hidden @ weights.T, else None."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None:
        return None
    if model not in _tried:
        # Autocast would keep the head's weights as they are cast here, without a gradient.
        with torch.autocast(head.weight.device.type, enabled=False):
            _tried[model] = _is_product(model, head)
    return head.weight if _tried[model] else None


@torch.no_grad()
def _is_product(model: Any, head: nn.Linear) -> bool:
    """Whether the model, given the hidden states of 4 tokens, returns their product with the head.

    Gemma caps what comes out of it, Cohere and others scale it; large logits show that. A model that needs more of
    its decoder than the hidden states counts as one that does something.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    place = torch.arange(4 * head.in_features, device=head.weight.device)
    hidden_BTD = (place * 0.7).sin().view(1, 4, -1).to(head.weight.dtype)
    expected_BTV = functional.linear(hidden_BTD, head.weight).float()  # a head of its own class may do more
    scale = LARGE / expected_BTV.abs().max()
    made = BaseModelOutputWithPast(last_hidden_state=(hidden_BTD * scale).to(hidden_BTD.dtype))
    decoder, ids_BT = model.base_model, torch.zeros(1, 4, dtype=torch.int64, device=place.device)
    decoder.forward, own = (lambda *_, **__: made), vars(decoder).get("forward")
    try:
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits.float()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False
    finally:
        del decoder.forward
        if own is not None:
            decoder.forward = own
    if logits_BTV.shape != expected_BTV.shape:
        return False
    expected_BTV *= scale
    return bool((logits_BTV - expected_BTV).norm() < ROUNDING * expected_BTV.norm())


def _hidden(
    model: Any, tokens_BT1: Tensor, position_BT: Tensor | None = None, bounds_111S: Tensor | None = None
) -> Tensor:
    hidden_BTD: Tensor = _call(model.base_model, tokens_BT1, position_BT, bounds_111S).last_hidden_state
    return hidden_BTD


def _call(
    model: Any, tokens_BT1: Tensor, position_BT: Tensor | None = None, bounds_111S: Tensor | None = None
) -> Any:
    ids_BT = tokens_BT1[:, :-1]
    return model(input_ids=ids_BT, attention_mask=bounds_111S, position_ids=position_BT, use_cache=False)


def _full_logits_nll(
    model: Any, tokens_BT1: Tensor, position_BT: Tensor | None = None, bounds_111S: Tensor | None = None
) -> Tensor:
    logits_BTV = _call(model, tokens_BT1, position_BT, bounds_111S).logits.float()
    nll_BT: Tensor = functional.cross_entropy(logits_BTV.transpose(1, 2), tokens_BT1[:, 1:], reduction="none")
    return nll_BT
