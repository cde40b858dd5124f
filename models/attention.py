"""Attention within the documents of a row, by torch's kernels for sequences of any lengths, without a mask.

transformers hands a mask of four dimensions on to every layer as it is. In its place a model gets the bounds of
documents, and attends by attend(), which transformers knows under the name of BY_DOCUMENTS.

Shapes: B rows, T tokens of a row, N = B T tokens, H heads, K heads of keys and values, Q width of a head, and S
bounds of all rows' documents together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.backbone import compute_dtype

# Names of transformers for attention.
SDPA, BY_DOCUMENTS = "sdpa", "sdpa_by_documents"
# Arguments of other attention than the plain one.
MORE = ("softcap", "s_aux", "position_bias")


def runs_on(device: torch.device) -> bool:
    """Whether torch has kernels for this device and what it computes in."""
    return device.type == "cuda" and compute_dtype(device) == torch.bfloat16


def document_bounds(is_start_BT: np.ndarray) -> np.ndarray:
    """Where documents begin in the rows laid end to end, and the end of the last: int32, of 1 x 1 x 1 x S.

    Each row begins one.

    >>> document_bounds(np.array([[False, False, True], [True, False, False]]))
    array([[[[0, 2, 3, 6]]]], dtype=int32)
    """
    is_start_BT = is_start_BT.copy()
    is_start_BT[:, 0] = True
    return np.append(np.flatnonzero(is_start_BT), is_start_BT.size).astype(np.int32)[None, None, None]


def attends_by_documents(model: Any) -> bool:
    """Whether the model takes document_bounds() for an attention mask."""
    return bool(model.config.get_text_config()._attn_implementation == BY_DOCUMENTS)


def attend_by_documents(model: Any) -> bool:
    """Let a model that attends by SDPA take document_bounds() for an attention mask; returns whether it will.

    Without bounds it attends as before.
    """
    from torch.nn.attention.varlen import varlen_attn
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    if model.config.get_text_config()._attn_implementation != SDPA:
        return attends_by_documents(model)
    # torch 2.11 lets keys have fewer heads than queries without being told.
    told: dict[str, Any] = (
        {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
    )
    AttentionInterface.register(
        BY_DOCUMENTS, partial(attend, sdpa_attention_forward, partial(varlen_attn, **told))
    )
    AttentionMaskInterface.register(BY_DOCUMENTS, sdpa_mask)
    model.set_attn_implementation(BY_DOCUMENTS)
    return attends_by_documents(model)


def attend(
    sdpa: Callable[..., tuple[Tensor, None]],
    kernel: Callable[..., Any],
    module: nn.Module,
    query_BHTQ: Tensor,
    key_BKTQ: Tensor,
    value_BKTQ: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: by `kernel` where the mask holds bounds of documents, else by `sdpa`.

    Returns out_BTHQ. Raises ValueError where attention is more than the kernel computes.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa(module, query_BHTQ, key_BKTQ, value_BKTQ, attention_mask, **options)
    more = [name for name in MORE if options.get(name) is not None]
    if more or options.get("dropout"):
        raise ValueError(f"the kernel knows no {', '.join(more) or 'dropout'}")
    kind, length, window = query_BHTQ.device.type, query_BHTQ.shape[2], options.get("sliding_window")
    # Of SDPA autocast casts the inputs; of an operator that is no part of torch's core it does not.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query_BHTQ.dtype
    tensors = [x.transpose(1, 2).flatten(0, 1).to(dtype) for x in (query_BHTQ, key_BKTQ, value_BKTQ)]
    bounds_S = attention_mask.flatten()
    # transformers counts the token itself as a part of a window, the kernel does not; -1 is none.
    left = window - 1 if window and window < length else -1
    out_NHQ = kernel(
        *tensors, bounds_S, bounds_S, length, length, scale=options.get("scaling"), window_size=(left, 0)
    )
    return out_NHQ.unflatten(0, (-1, length)), None
