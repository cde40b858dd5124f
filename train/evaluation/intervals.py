"""How sure a measure is: documents are drawn again, and whatever is computed of bits per byte is computed again.

docs/method.md, Intervals by document. Models are measured on the same documents, so what is drawn is the same for
all of them: the interval of a difference is that of pairs, and far narrower than those of its two sides.

Shapes: N rows, G groups of rows, M models, R resamples; a final 1 is the value itself before its resamples.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from train.runs.results import Change, Documents, KLDocuments, Measure, Watched

RESAMPLES = 1000
# Documents that are kept apart. Beyond that neighbours are one group: a file of 10^6 documents stays as small, and
# the interval's own error, 1 / sqrt(2 * GROUPS), is below that of so few resamples.
GROUPS = 10_000
CHUNK = 2**18  # numbers of draws at once: 2 MB
# Intervals of fewer documents are too narrow: resamples of a few look too much alike.
FEWEST = 10


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95% interval; None where they are not known."""

    value: float
    low: float | None
    high: float | None

    def beyond(self, value: float = 0.0) -> bool:
        """Whether it is known to be another than `value`: beyond the noise of which documents were held out."""
        return self.low is not None and self.high is not None and not self.low <= value <= self.high


def document_sums(nats_N: np.ndarray, bytes_N: np.ndarray, document_N: np.ndarray) -> Documents:
    """Sums over the rows that begin in the same document; at most GROUPS of them, by more documents in each."""
    count, nats, size = _by_document(nats_N, bytes_N, document_N)
    return Documents(count=count, nats=nats, bytes=size)


def document_kl(kl_N: np.ndarray, tokens_N: np.ndarray, document_N: np.ndarray) -> KLDocuments:
    """The same of the KL divergence and the tokens of rows."""
    count, kl, tokens = _by_document(kl_N, tokens_N, document_N)
    return KLDocuments(count=count, kl=kl, tokens=tokens)


def _by_document(values_N: np.ndarray, sizes_N: np.ndarray, document_N: np.ndarray) -> tuple[int, str, str]:
    """How many documents there are, and both sums by group as text."""
    _, owner_N = np.unique(document_N, return_inverse=True)
    count = int(owner_N.max(initial=-1)) + 1
    group_N = owner_N * min(count, GROUPS) // max(count, 1)
    values_G, sizes_G = (np.bincount(group_N, weights=each) for each in (values_N, sizes_N))
    return count, _text(values_G, "<f4"), _text(sizes_G, "<u4")


def _text(values_G: np.ndarray, kind: str) -> str:
    return base64.b64encode(values_G.astype(kind).tobytes()).decode()


def _sums(documents: Documents | KLDocuments) -> tuple[np.ndarray, np.ndarray]:
    """nats_G and bytes_G, or kl_G and tokens_G."""
    if isinstance(documents, Documents):
        values, sizes = documents.nats, documents.bytes
    else:
        values, sizes = documents.kl, documents.tokens
    texts = (values, "<f4"), (sizes, "<u4")
    values_G, sizes_G = (np.frombuffer(base64.b64decode(text), kind).astype(np.float64) for text, kind in texts)
    return values_G, sizes_G


def resampled(values_MG: np.ndarray, sizes_G: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sums of values over sums of sizes, of each model, ratio_MR, over groups drawn with replacement.

    The groups are the same ones for all models.
    """
    random, groups = np.random.default_rng(seed), len(sizes_G)
    sums_GK = np.vstack([values_MG, sizes_G]).T.copy()
    parts, left = [], resamples
    while left:
        some = min(left, max(1, CHUNK // groups))
        drawn_SG = [np.bincount(random.integers(0, groups, groups), minlength=groups) for _ in range(some)]
        parts.append(np.stack(drawn_SG).astype(np.float64) @ sums_GK)
        left -= some
    sums_KR = np.concatenate(parts).T
    ratio_MR: np.ndarray = sums_KR[:-1] / np.maximum(sums_KR[-1], 1)
    return ratio_MR


def interval(values_R: np.ndarray) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile."""
    low, high = np.percentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def bpb_interval(documents: Documents) -> tuple[float, float]:
    """The 95% interval of bits per byte. With one document there is none: both ends are the value."""
    nats_G, bytes_G = _sums(documents)
    return interval(resampled(nats_G[None], bytes_G)[0] / math.log(2))


def paired(measures: Mapping[str, Measure | Watched]) -> dict[str, np.ndarray]:
    """By model, bits per byte of a domain: bpb_1R, first of all its documents and then of each resample.

    What is computed of these arrays, elementwise, is an Estimate by estimate(). The resamples are NaN where
    nothing is known: of a model without sums by document, or on other documents than the first model that has
    them, and of all where the documents are fewer than FEWEST.
    """
    drawn = _drawn({model: measure.documents for model, measure in measures.items()})
    return {name: np.concatenate([[measure.bpb], drawn[name] / math.log(2)]) for name, measure in measures.items()}


def paired_kl(changes: Mapping[str, Change]) -> dict[str, np.ndarray]:
    """By model, the KL divergence of a domain from the backbone, nats a token: kl_1R, as of paired()."""
    drawn = _drawn({model: change.documents for model, change in changes.items()})
    return {name: np.concatenate([[change.kl], drawn[name]]) for name, change in changes.items()}


def _drawn(documents: Mapping[str, Documents | KLDocuments | None]) -> dict[str, np.ndarray]:
    """By model, the resamples of its values over its sizes, NaN where they are not known."""
    known = {model: _sums(own) for model, own in documents.items() if own}
    sizes_G = next((sums[1] for sums in known.values()), np.zeros(0))
    same = [model for model, sums in known.items() if np.array_equal(sums[1], sizes_G)]
    drawn = dict.fromkeys(documents, np.full(RESAMPLES, np.nan))
    if len(sizes_G) >= FEWEST:
        drawn |= zip(same, resampled(np.stack([known[model][0] for model in same]), sizes_G), strict=True)
    return drawn


def estimate(values_1R: np.ndarray) -> Estimate:
    """What was computed of the arrays of paired(), with its 95% interval.

    >>> estimate(np.array([0.5, *np.linspace(0, 1, 1001)]))
    Estimate(value=0.5, low=0.025, high=0.975)
    """
    low, high = interval(values_1R[1:])
    value = float(values_1R[0])
    return Estimate(value, low, high) if math.isfinite(low + high) else Estimate(value, None, None)
