"""Intervals by document: against scipy and made-up documents whose truth is known."""

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import evaluation, scored_documents

from pipeline.common.errors import StageError
from train.evaluation.intervals import (
    FEWEST,
    GROUPS,
    Estimate,
    bpb_interval,
    document_kl,
    document_sums,
    estimate,
    interval,
    paired,
    paired_kl,
    resampled,
)
from train.runs.results import read_evaluation, write_result


def made_up(documents: int, seed: int, models: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """nats_MG and bytes_G: documents that are hard for all models, and a little differently so."""
    random = np.random.default_rng(seed)
    bytes_G = random.integers(100, 5000, documents).astype(float)
    nats_MG = bytes_G * (random.normal(1.5, 0.3, documents) + random.normal(0, 0.05, (models, documents)))
    return nats_MG, bytes_G


def test_intervals_of_differences_and_of_shares_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    nats_MG, bytes_G = made_up(150, 0)
    nats_MG += np.array([[0.0], [-0.5], [-0.3]]) * bytes_G

    def share(base, one, other, size, axis=-1):
        base, one, other = (nats.sum(axis) / size.sum(axis) for nats in (base, one, other))
        return (one - base) / (other - base)

    def change(base, one, other, size, axis=-1):
        return (one.sum(axis) - base.sum(axis)) / size.sum(axis)

    base_R, one_R, other_R = resampled(nats_MG, bytes_G, 4_000, seed=3)
    for statistic, ours_R in ((share, (one_R - base_R) / (other_R - base_R)), (change, one_R - base_R)):
        theirs = stats.bootstrap(
            (*nats_MG, bytes_G), statistic, paired=True, n_resamples=4_000, method="percentile", rng=1
        )
        ends = theirs.confidence_interval
        # Each end varies by about 0.04 of the standard error from one such bootstrap to the next.
        assert np.allclose(interval(ours_R), ends, rtol=0, atol=0.25 * theirs.standard_error)


def test_the_spread_is_that_of_a_ratio_of_sums() -> None:
    """The delta method: Var(sum n / sum b) is about sum (n - r b)^2 / (sum b)^2."""
    (one_G, other_G, _), bytes_G = made_up(2000, 1)
    difference_G = one_G - other_G
    ratio = difference_G.sum() / bytes_G.sum()
    error = math.sqrt(((difference_G - ratio * bytes_G) ** 2).sum()) / bytes_G.sum()
    one_R, other_R = resampled(np.stack([one_G, other_G]), bytes_G)
    assert np.std(one_R - other_R) == pytest.approx(error, rel=0.1)
    assert np.std(one_R) > 4 * error  # as hard for both: alone each is far less sure


def test_the_interval_covers_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        size = random.integers(50, 150, 60).astype(float)
        rate = random.normal(1.0, 0.3, 60)  # nats per byte of each document
        low, high = interval(resampled((rate * size)[None], size, 200, trial)[0])
        inside += low <= 1 <= high
    assert 0.90 <= inside / 200 <= 0.98


def test_rows_of_a_document_are_drawn_together() -> None:
    rate = np.repeat(np.random.default_rng(1).normal(1.0, 0.3, 40), 25)
    narrow, wide = (bpb_interval(document_sums(rate * 100, np.full(1000, 100), documents)) for documents in (
        np.arange(1000), np.repeat(np.arange(40), 25)))  # fmt: skip
    assert np.diff(wide) > 3 * np.diff(narrow)
    one = bpb_interval(document_sums(rate * 100, np.full(1000, 100), np.zeros(1000)))
    assert one[0] == pytest.approx(one[1])


def test_many_documents_are_grouped_and_nothing_of_them_is_lost() -> None:
    (nats_N, _, _), bytes_N = made_up(3 * GROUPS + 7, 2)
    documents = document_sums(nats_N, bytes_N, 5 * np.arange(len(nats_N)))
    nats_G, bytes_G = (np.frombuffer(base64.b64decode(text), kind) for text, kind in (
        (documents.nats, "<f4"), (documents.bytes, "<u4")))  # fmt: skip
    assert (documents.count, len(nats_G)) == (3 * GROUPS + 7, GROUPS)
    assert len(documents.nats) + len(documents.bytes) < 107_000
    assert bytes_G.sum() == bytes_N.sum()
    assert nats_G.sum(dtype=np.float64) == pytest.approx(nats_N.sum(), rel=1e-6)
    whole = np.array(interval(resampled(nats_N[None], bytes_N)[0])) / math.log(2)
    assert np.diff(bpb_interval(documents)) == pytest.approx(np.diff(whole), rel=0.15)


def test_what_is_not_known_has_no_interval() -> None:
    """Other documents, too few of them, an older file: then nothing is said to be beyond the noise."""
    base, run = (evaluation(name, documents=40, fr=x).domains["fr"] for name, x in (("b", 3.0), ("r", 2.5)))
    other = replace(run, documents=scored_documents(2.5, 41, "r"))
    bpb = paired({"b": base, "r": run, "other": other, "older": replace(run, documents=None)})
    known = estimate(bpb["r"] - bpb["b"])
    assert known.value == -0.5
    assert known.low < -0.5 < known.high < 0
    assert known.beyond() and not known.beyond(-0.5)
    for name in ("other", "older"):
        assert estimate(bpb[name] - bpb["b"]) == Estimate(-0.5, None, None)
        assert not estimate(bpb[name] - bpb["b"]).beyond()
    few = {
        name: evaluation(name, documents=FEWEST - 1, fr=x).domains["fr"] for name, x in (("b", 3.0), ("r", 2.5))
    }
    assert estimate(paired(few)["r"] - paired(few)["b"]).low is None


def test_a_share_of_another_models_kl_has_a_narrower_interval_than_either() -> None:
    """As hard for both: the one's KL is a fifth of the other's in each document, and nearly so in each draw."""
    random, same = np.random.default_rng(0), {"tokens_N": np.full(60, 100), "document_N": np.arange(60)}
    kl_N = random.gamma(2.0, 0.1, 60) * 100
    sums = {"a": 0.2 * kl_N, "b": kl_N}
    change = evaluation("a", fr=1.0).change["fr"]
    changes = {
        name: replace(change, kl=own_N.sum() / 6000, documents=document_kl(own_N, **same))
        for name, own_N in sums.items()
    } | {"older": change}
    kl = paired_kl(changes)
    share, whole = estimate(kl["a"] / kl["b"]), estimate(kl["b"])
    assert (share.value, share.low, share.high) == pytest.approx((0.2, 0.2, 0.2), rel=1e-6)
    assert whole.low < 0.9 * whole.value < 1.1 * whole.value < whole.high
    assert whole.value == pytest.approx(np.mean(kl["b"][1:]), rel=0.05)
    assert estimate(kl["older"]) == Estimate(0.5, None, None)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"nats": "?"}, "is not base64"),
        ({"nats": ""}, "160 bytes of numbers beside 0 of nats"),
        ({"nats": "", "bytes": ""}, "expected as many, 4 for each group"),
        ({"nats": "AAAA", "bytes": "AAAA"}, "expected as many, 4 for each group"),
    ],
)
def test_sums_that_are_none_are_refused(changes: dict[str, str], problem: str, tmp_path) -> None:
    write_result(tmp_path / "a.json", evaluation(None, documents=40, fr=3.0))
    data = json.loads((tmp_path / "a.json").read_text())
    assert read_evaluation(tmp_path / "a.json").domains["fr"].documents.count == 40
    data["domains"]["fr"]["documents"] |= changes
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(StageError, match=rf"domains\.fr\.documents\.\w+: .*{problem}"):
        read_evaluation(tmp_path / "a.json")
    del data["domains"]["fr"]["documents"]  # an older file
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_evaluation(tmp_path / "a.json").domains["fr"].documents is None
