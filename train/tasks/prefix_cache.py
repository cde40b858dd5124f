"""Keys and values (or other states) of the tokens that contexts share, computed once: where that changes nothing.

transformers' caches are copied here, selected by row, and grown. Not all can be: that is tried on the loaded
model. Some rotary frequencies depend on how long the whole row is; a prefix has those of its own length.
"""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.common.errors import one_line

log = logging.getLogger(__name__)

# Of the logits behind a prefix: the error that the cache may make, by how much another prefix changes them. The
# rounding of bf16 alone makes about 0.03.
TOLERANCE = {True: 0.15, False: 1e-3}  # with and without autocast
WITHOUT = "every answer is scored with its whole context, without a cache"
TRIED = 8  # tokens behind the cache that are compared


def forward(model: Any, tokens_BT: np.ndarray, cache: Any, last: int) -> Tensor:
    """Logits of the `last` tokens of each row; the cache, if there is one, grows by all."""
    if tokens_BT.size > 1 and rope_limit(model.config) and not (cache and cache.get_seq_length()):
        # dynamic NTK keeps the frequencies of a longer row that was there before, until a short one comes.
        forward(model, tokens_BT[:1, :1], None, 1)
    ids_BT = torch.from_numpy(tokens_BT.astype(np.int64)).to(model.device)
    # What transformers called past_key_values is `cache` since 5.24.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    with_cache = {"use_cache": False} if cache is None else {"use_cache": True, name: cache}
    logits_BTV: Tensor = model(input_ids=ids_BT, logits_to_keep=last, **with_cache).logits
    return logits_BTV[:, -last:]


def make_cache(model: Any, tokens_BT: np.ndarray, cache: Any = None) -> Any:
    """A cache of the tokens, after those of `cache`, which is extended."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config) if cache is None else cache
    if tokens_BT.shape[1]:
        forward(model, tokens_BT, cache, 1)
    return cache


def select(cache: Any, rows: np.ndarray, device: torch.device) -> Any:
    """A copy of the cache, of these of its rows."""
    cache = copy.deepcopy(cache)
    if cache.get_seq_length():
        cache.batch_select_indices(torch.from_numpy(rows).to(device))
    return cache


def cache_is_exact(model: Any, tokens_T: np.ndarray) -> bool:
    """Whether logits behind a cache are those of a plain forward pass, tried on a row as long as any will be.

    A cache fails in any way: it cannot be copied, has no rows to select, or cannot be grown by several tokens.
    """
    if len(tokens_T) < 4:
        return True
    first = max(2, len(tokens_T) - TRIED)
    # Two rows with the same prefix, and other tokens behind it.
    row_2T = np.stack([tokens_T, tokens_T])
    row_2T[1, first // 2 : first] = row_2T[1, first // 2 : first][::-1]
    other_2T = row_2T.copy()
    other_2T[:, :first] = np.roll(row_2T[:, :first], first // 3 + 1, axis=1)
    last = len(tokens_T) - first
    plain_2LV, other_2LV = forward(model, row_2T, None, last), forward(model, other_2T, None, last)
    try:
        prefix = make_cache(model, tokens_T[None, : first // 2])
        grown = select(prefix, np.zeros(2, np.int64), model.device)
        make_cache(model, row_2T[:, first // 2 : first], grown)
        for _ in range(2):  # the second time from a copy of the same cache
            swapped = select(grown, np.array([1, 0]), model.device)
            cached_2LV = forward(model, row_2T[::-1, first:], swapped, last).flip(0)
    except Exception as error:
        log.info("%s: a %s's is none that can be shared (%s)", WITHOUT, type(model).__name__, one_line(error))
        return False
    error_2, effect_2 = (
        (one.float() - plain_2LV.float()).square().mean((1, 2)).sqrt() for one in (cached_2LV, other_2LV)
    )
    exact = bool((error_2 <= TOLERANCE[torch.is_autocast_enabled(model.device.type)] * effect_2).all())
    if not exact:
        log.info("%s: with it, a %s computes something else", WITHOUT, type(model).__name__)
    return exact


def rope_limit(config: Any) -> int | None:
    """The length of a row behind which its rotary frequencies are others at every place, or None.

    transformers picks those of longrope (Phi-3) by the longest position of a batch, and dynamic NTK computes them.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [one for one in (rope, *rope.values()) if isinstance(one, dict)]
    lengths = {
        "longrope": lambda one: one.get("original_max_position_embeddings", text.max_position_embeddings),
        "dynamic": lambda one: text.max_position_embeddings,
    }
    return min((lengths[one["rope_type"]](one) for one in kinds if one.get("rope_type") in lengths), default=None)
