"""torch's variable-length attention on a CPU, for which torch has no kernel: a plain loop over documents.

So all that torch wraps around its kernels is tried too: gradients, and shapes under torch.compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import varlen

calls: list[int] = []  # the documents of each call
types: list[torch.dtype] = []  # that it computed in


def each_document(
    q_NHQ: Tensor, k_NKQ: Tensor, v_NKQ: Tensor, bounds: Tensor, scale: float | None, window: list[int]
) -> Iterator[tuple[slice, float, Tensor, Tensor, Tensor, Tensor]]:
    """Where it is, the scale, the probabilities_HTT, and its q, k and v in fp32, as HTQ."""
    ends, groups = bounds.tolist(), q_NHQ.shape[1] // k_NKQ.shape[1]
    scale = q_NHQ.shape[-1] ** -0.5 if scale is None else scale
    for first, last in pairwise(ends):
        whole = (q_NHQ, k_NKQ.repeat_interleave(groups, 1), v_NKQ.repeat_interleave(groups, 1))
        q_HTQ, k_HTQ, v_HTQ = (x_NHQ[first:last].transpose(0, 1).float() for x_NHQ in whole)
        back_TT = torch.arange(last - first)[:, None] - torch.arange(last - first)
        seen_TT = (back_TT >= 0) & ((window[0] < 0) | (back_TT <= window[0]))
        scores_HTT = (q_HTQ @ k_HTQ.mT * scale).masked_fill(~seen_TT, -torch.inf)
        yield slice(first, last), scale, scores_HTT.softmax(-1), q_HTQ, k_HTQ, v_HTQ


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    assert window_size is not None and window_size[1] == 0 and cu_seq_q.dtype == torch.int32
    assert cu_seq_q[0] == 0 and cu_seq_q[-1] == len(query) and cu_seq_q.diff().max() <= max_q
    calls.append(len(cu_seq_q) - 1)
    types.append(query.dtype)
    assert query.dtype == key.dtype == value.dtype
    out_NHQ = torch.empty_like(query)
    for where, _s, p_HTT, _q, _k, v_HTQ in each_document(query, key, value, cu_seq_q, scale, window_size):
        out_NHQ[where] = (p_HTT @ v_HTQ).transpose(0, 1).to(query.dtype)
    return (
        out_NHQ,
        query.new_empty(query.shape[1], len(query), dtype=torch.float32),
        torch.zeros(2).to(torch.uint64),
    )


def backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool,
    rng_state: Tensor,
    scale: float | None = None,
    window_size: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    assert window_size is not None
    dq_NHQ, dk_NKQ, dv_NKQ = (torch.empty_like(x) for x in (query, key, value))
    heads = key.shape[1]
    for where, s, p_HTT, q_HTQ, k_HTQ, v_HTQ in each_document(query, key, value, cu_seq_q, scale, window_size):
        do_HTQ = grad_out[where].transpose(0, 1).float()
        dp_HTT = do_HTQ @ v_HTQ.mT
        ds_HTT = p_HTT * (dp_HTT - (dp_HTT * p_HTT).sum(-1, keepdim=True)) * s
        dq_NHQ[where] = (ds_HTT @ k_HTQ).transpose(0, 1).to(query.dtype)
        for grad_NKQ, grad_HTQ in ((dk_NKQ, ds_HTT.mT @ q_HTQ), (dv_NKQ, p_HTT.mT @ do_HTQ)):
            grad_NKQ[where] = grad_HTQ.unflatten(0, (heads, -1)).sum(1).transpose(0, 1).to(key.dtype)
    return dq_NHQ, dk_NKQ, dv_NKQ


varlen._varlen_attn.register_kernel("cpu")(forward)
varlen._varlen_attn_backward.register_kernel("cpu")(backward)
