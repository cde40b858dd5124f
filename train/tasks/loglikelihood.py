"""Log-likelihoods of continuations: what contexts share is computed once.

The contexts of a family (a task's questions behind the same shots) begin with the same tokens: their keys and
values are computed once (train/tasks/prefix_cache.py). Questions are batched by length: a batch computes as many
tokens of each context as its shortest has, once a question; what is left goes with each answer. So no row has
padding before its answer, and no mask or position differs from those of a plain forward pass. Where a cache would
change something, rows of the same length are computed whole.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.backbone import compute
from train.data.tokens import batched, beginning, encode
from train.tasks.prefix_cache import cache_is_exact, forward, make_cache, rope_limit, select

log = logging.getLogger(__name__)

# Of a batch: tokens of its keys and values, and numbers of its logits. Measured on a 2-core CPU, larger ones
# are not faster; a GPU has to be kept busy.
BATCH_TOKENS = {"cpu": 2**13, "cuda": 2**16}
BATCH_LOGITS = {"cpu": 2**26, "cuda": 2**29}
# Contexts of a batch differ by at most so many tokens, which are computed once an answer; rows of a forward pass
# too, as padding. A CPU's time goes by tokens, a GPU's by forward passes, of which more tokens save some.
SPREAD = {"cpu": 4, "cuda": 64}


@dataclass(frozen=True)
class Request:
    """A context and its continuations, in tokens. Requests of a `family` are likely to begin alike."""

    family: tuple[str, ...]
    context: np.ndarray
    continuations: list[list[int]]
    truncated: bool = False

    @property
    def longest(self) -> int:
        return max(map(len, self.continuations))

    @property
    def length(self) -> int:
        """Tokens of its longest row, but for the last, which is predicted and not fed."""
        return len(self.context) + self.longest - 1


def encode_pairs(tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Tokens of each (context, continuation), as lm-evaluation-harness splits them.

    The whole is encoded and cut where the context's own tokens end; white space at the end of the context goes
    to the continuation, where the tokenizer joins it to the next word. An empty context becomes a separator.
    """
    start = beginning(tokenizer)
    moved = [(context.rstrip(), context[len(context.rstrip()) :] + rest) for context, rest in pairs]
    contexts = list(dict.fromkeys(context for context, _ in moved))
    alone = dict(zip(contexts, _encode(tokenizer, contexts), strict=True))
    whole = _encode(tokenizer, [context + rest for context, rest in moved])
    empty = start or [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None][:1]
    encoded = []
    for (context, rest), tokens in zip(moved, whole, strict=True):
        # A tokenizer that merges across the boundary may leave nothing behind it.
        continuation = tokens[len(alone[context]) :] or _encode(tokenizer, [rest])[0]
        encoded.append(([*start, *alone[context]] or empty, continuation))
    return encoded


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokens for batch in batched(iter(texts)) for tokens, _ in encode(tokenizer, batch)]


def make_request(
    family: tuple[str, ...], pairs: list[tuple[list[int], list[int]]], room: int, lead: int = 0
) -> Request:
    """One question's answers as a request for a model of `room` tokens.

    A context that is too long loses its first tokens, but for `lead` that begin every text.
    """
    context = pairs[0][0]
    continuations = [continuation[-room:] for _, continuation in pairs]
    # The last token is predicted and not fed, so that a row of room + 1 fits.
    fitting = room + 1 - max(map(len, continuations))
    head = context[: min(lead, fitting)]
    kept = head + context[len(context) - fitting + len(head) :] if len(context) > fitting else context
    truncated = len(kept) < len(context) or any(
        len(a) < len(b) for a, (_, b) in zip(continuations, pairs, strict=True)
    )
    return Request(
        (*family, "truncated") if truncated else family, np.array(kept, np.int32), continuations, truncated
    )


@dataclass(frozen=True)
class Pass:
    """Requests (by number) computed together, of a family whose contexts share the first `shared` tokens.

    cached: whether those may be computed once.
    """

    family: tuple[str, ...]
    shared: int
    numbers: list[int]
    cached: bool = True


def plan_passes(
    requests: Sequence[Request], vocabulary: int, device: str, longest_cached: float = math.inf
) -> list[Pass]:
    """All requests in passes, each family's longest first: the same for the same requests, in any order."""
    families: dict[tuple[tuple[str, ...], bool], list[int]] = {}
    for number, request in enumerate(requests):
        families.setdefault((request.family, request.length <= longest_cached), []).append(number)
    passes = []
    for (family, cached), numbers in families.items():
        shared = _shared([requests[number].context for number in numbers])
        numbers.sort(
            key=lambda n: (-len(requests[n].context), -requests[n].longest, requests[n].context.tobytes())
        )
        while numbers:
            count = _fitting([requests[number] for number in numbers], vocabulary, device)
            passes.append(Pass(family, shared, numbers[:count], cached))
            numbers = numbers[count:]
    return passes


def _shared(contexts: list[np.ndarray]) -> int:
    """How many first tokens all contexts have in common; each keeps one token more."""
    first, last = min(contexts, key=list), max(contexts, key=list)
    length = min(map(len, contexts)) - 1
    differ = np.flatnonzero(first[:length] != last[:length])
    return int(differ[0]) if len(differ) else length


def _fitting(requests: list[Request], vocabulary: int, device: str) -> int:
    """How many of the requests, sorted by length, go into a batch."""
    rows = longest = 0
    context = len(requests[0].context)
    for count, request in enumerate(requests):
        rows += len(request.continuations)
        longest = max(longest, request.longest)
        differ = context - len(request.context)
        if count and (
            differ > SPREAD[device]
            or rows * (context + longest) > BATCH_TOKENS[device]
            or rows * (differ + longest) * vocabulary > BATCH_LOGITS[device]
        ):
            return count
    return len(requests)


def score(
    model: Any, requests: Sequence[Request], done: Callable[[int], bool] = lambda number: False
) -> Iterator[dict[int, list[float]]]:
    """Log-likelihoods in nats of the continuations of each request, by its number; a batch at a time.

    Batches whose requests are all `done` are passed over; the others are what they would have been without.
    """
    device = next(model.parameters()).device
    family, cache = None, None
    with torch.inference_mode(), compute(device, model):
        most = longest_cached(model, requests)
        for batch in plan_passes(requests, model.config.get_text_config().vocab_size, device.type, most):
            if all(map(done, batch.numbers)):
                continue
            chosen = [requests[number] for number in batch.numbers]
            if not batch.cached:
                scores = _score_batch(model, chosen, None, 0)
            else:
                if family != batch.family:
                    family, cache = batch.family, make_cache(model, chosen[0].context[None, : batch.shared])
                scores = _score_batch(model, chosen, cache, batch.shared)
            yield dict(zip(batch.numbers, scores, strict=True))


def longest_cached(model: Any, requests: Sequence[Request]) -> float:
    """The most tokens of a request that is scored with a cache of what contexts share: infinite, or 0 for none."""
    limit = rope_limit(model.config) or math.inf
    shorter = [request for request in requests if request.length <= limit]
    if len(shorter) < len(requests):
        log.info(
            "%d questions of more than %d tokens are scored without a cache", len(requests) - len(shorter), limit
        )
    if not shorter:
        return 0
    longest = max(shorter, key=lambda request: request.length)
    row = [*longest.context, *max(longest.continuations, key=len)]
    return limit if cache_is_exact(model, np.array(row[:-1])) else 0


def _score_batch(model: Any, requests: list[Request], cache: Any, shared: int) -> list[list[float]]:
    """`cache` holds the first `shared` tokens of every context, as one row; None: rows are computed whole."""
    cut = min(len(request.context) for request in requests) - 1 if cache is not None else 0
    own = cut > shared
    if own:
        cache = select(cache, np.zeros(len(requests), np.int64), model.device)
        cache = make_cache(model, np.stack([request.context[shared:cut] for request in requests]), cache)
    rows = [
        (owner if own else 0, request.context[cut:].tolist(), continuation)
        for owner, request in enumerate(requests)
        for continuation in request.continuations
    ]
    sums = np.empty(len(rows))
    # Whole rows of a batch are of one length: what is behind an answer may matter to layers that need no cache.
    spread = SPREAD[model.device.type] if cache is not None else 0
    for chosen in _alike([len(rest) + len(answer) for _, rest, answer in rows], spread):
        sums[chosen] = _score_rows(model, [rows[i] for i in chosen], cache)
    ends = np.cumsum([len(request.continuations) for request in requests])
    return [part.tolist() for part in np.split(sums, ends[:-1])]


def _alike(lengths: list[int], spread: int) -> Iterator[np.ndarray]:
    """All places, the longest first, in parts whose lengths differ by at most `spread`."""
    order = np.argsort(-np.array(lengths), kind="stable")
    while len(order):
        part = [i for i in order if lengths[order[0]] - lengths[i] <= spread]
        yield np.array(part)
        order = order[len(part) :]


def _score_rows(model: Any, rows: list[tuple[int, list[int], list[int]]], cache: Any) -> np.ndarray:
    """Log-likelihoods of rows: the row of `cache` that each goes on from, the rest of its context, its answer."""
    _, rests, answers = zip(*rows, strict=True)
    if cache is not None:
        cache = select(cache, np.array([row for row, _, _ in rows]), model.device)
    width = max(len(rest) + len(answer) - 1 for rest, answer in zip(rests, answers, strict=True))
    tokens_BT = np.zeros((len(rows), width), np.int32)  # what is behind an answer does not matter
    for i, (rest, answer) in enumerate(zip(rests, answers, strict=True)):
        tokens_BT[i, : len(rest) + len(answer) - 1] = [*rest, *answer[:-1]]
    first = min(map(len, rests)) - 1  # the token whose logits are of an answer's first token
    logits_BTV = forward(model, tokens_BT, cache, width - first)
    row_N = np.repeat(np.arange(len(rows)), list(map(len, answers)))
    place_N = np.concatenate([len(r) - 1 - first + np.arange(len(a)) for r, a in zip(rests, answers, strict=True)])
    target_N = torch.tensor([token for answer in answers for token in answer], device=model.device)
    picked_NV = logits_BTV[torch.from_numpy(row_N).to(model.device), torch.from_numpy(place_N).to(model.device)]
    logp_N = _log_likelihood(picked_NV, target_N).double().cpu().numpy()
    return np.bincount(row_N, weights=logp_N, minlength=len(rows))


def _log_likelihood(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    logits_NV = logits_NV.float()
    return logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(1)
