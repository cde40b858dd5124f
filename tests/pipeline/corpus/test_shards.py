import json
from dataclasses import dataclass
from itertools import pairwise

import fasttext
import numpy as np
import pytest
from conftest import prose
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.config import ConfigError, option, read
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, write_arrow
from pipeline.common.schemas import DOCUMENT_SCHEMA
from pipeline.corpus.options import Positives, Quality, Shards
from pipeline.corpus.quality import _draw, _draw_key, choose_threshold, good_score, score_bins, train_classifier
from pipeline.corpus.shards import split_of, write_shards
from pipeline.workflow.layout import shard_path

SMALL = Quality(
    positives={"fr": Positives(urls="good")},
    dimensions=8,
    epochs=5,
    hash_buckets=1000,
    keep_share=0.6,
    max_examples=200,
)


@dataclass(frozen=True)
class Holder:
    quality: Quality = option(Quality(), "the classifier")


@pytest.fixture
def documents(tmp_path):
    return write_documents(
        tmp_path / "documents.arrow", lambda i: f"cliquez ici {i} panier prix promo {i * 7} " * 8
    )


def write_documents(path, spam):
    """40 good documents and 80 of `spam`, a function of their number."""
    rows = []
    for i in range(120):
        good = i % 3 == 0
        text = "\n".join(prose("fr", i)) if good else spam(i)
        row = dict.fromkeys(DOCUMENT_SCHEMA.names)
        rows.append(
            row
            | {
                "text": text,
                "url": f"https://{'good' if good else 'shop'}.example/{i}",
                "language": "fr",
                "paragraphs": [0],
            }
        )
    write_arrow(path, DOCUMENT_SCHEMA, rows)
    return str(path)


def train(documents, tmp_path, name="fr", options=SMALL):
    train_classifier(options, [documents], "fr", str(tmp_path / f"{name}.bin"), str(tmp_path / f"{name}.json"))
    return json.loads((tmp_path / f"{name}.json").read_text())


def test_good_text_passes_and_drops_are_counted(documents, tmp_path):
    report = train(documents, tmp_path)
    write_shards(
        Shards(validation_share=0.2),
        documents,
        [str(tmp_path / "fr.json")],
        ["en", "fr"],
        "00000",
        str(tmp_path / "corpus"),
        str(tmp_path / "ledger.json"),
    )
    rows = {
        s: [r for b in read_arrow(shard_path(tmp_path / "corpus", "fr", s, "00000")) for r in b.to_pylist()]
        for s in ("train", "validation")
    }
    kept = rows["train"] + rows["validation"]
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert ledger["kept"]["documents"] == len(kept)
    assert ledger["dropped"]["low_quality"]["documents"] == 120 - len(kept)
    assert sum("good" in r["url"] for r in kept) == 40
    assert all(r["quality_score"] >= report["threshold"] for r in kept)
    assert 40 <= len(kept) < 120
    assert all(split_of(r["text"], 0.2) == split for split, part in rows.items() for r in part)


@pytest.mark.parametrize("name", ["__label__good", "__LABEL__GOOD", "__label__other", "</s>"])
def test_a_page_that_names_a_label_is_trained_on_and_scored_as_text(tmp_path, name):
    path = write_documents(tmp_path / "documents.arrow", lambda i: f"{name} cliquez {i} panier {name} promo " * 8)
    train(path, tmp_path)
    model = fasttext.load_model(str(tmp_path / "fr.bin"))
    assert sorted(model.labels) == ["__label__good", "__label__random"]
    spam, good = f"cliquez ici panier prix {name} promo " * 8, "\n".join(prose("fr", 999))
    assert good_score(model, spam) < 0.4 < good_score(model, good)
    mixed = "le chat dort {} " + "cliquez ici panier prix promo " * 20
    assert good_score(model, mixed.format(name)) == pytest.approx(good_score(model, mixed.format("zzz")), abs=0.1)


def test_a_model_has_the_same_bytes_each_time(documents, tmp_path):
    train(documents, tmp_path, "one"), train(documents, tmp_path, "two")
    assert (tmp_path / "one.bin").read_bytes() == (tmp_path / "two.bin").read_bytes()


def test_a_ready_made_model_needs_no_positives(documents, tmp_path):
    train(documents, tmp_path, "made")
    report = train(documents, tmp_path, "fr", Quality(models={"fr": str(tmp_path / "made.bin")}, keep_share=0.5))
    assert (tmp_path / "fr.bin").read_bytes() == (tmp_path / "made.bin").read_bytes()
    assert 0 < report["threshold"] < 1


def test_too_few_examples_name_the_key(documents, tmp_path):
    with pytest.raises(StageError, match=r"quality\.positives\.fr: 0 good and 120 random"):
        train(documents, tmp_path, options=Quality(positives={"fr": Positives(urls="nowhere")}))


def test_a_document_never_changes_its_split():
    texts = [f"text {i}" for i in range(4000)]
    small = {t for t in texts if split_of(t, 0.05) == "validation"}
    assert small <= {t for t in texts if split_of(t, 0.1) == "validation"}
    assert 0.03 < len(small) / len(texts) < 0.07


def test_the_threshold_by_precision_has_it_on_held_out_text(documents, tmp_path):
    options = Quality(**{**vars(SMALL), "keep_share": None, "min_precision": 0.7})
    report = train(documents, tmp_path, options=options)
    assert report["chosen"]["by"] == "min_precision"
    assert report["chosen"]["threshold"] == report["threshold"]
    assert report["chosen"]["precision"] >= 0.7
    assert report["chosen"]["recall"] > 0


SCORES = st.lists(st.floats(0, 1, width=16), min_size=1, max_size=30).map(np.array)


@settings(deadline=None)
@given(good=SCORES, rest=SCORES, wanted=st.floats(0.5, 1))
def test_no_lower_score_of_a_good_text_is_as_precise(good, rest, wanted):
    def precision(threshold):  # with both classes weighted alike
        recall, kept = np.mean(good >= threshold), np.mean(rest >= threshold)
        return recall / (recall + kept)

    enough = [t for t in sorted(good) if precision(t) >= wanted]
    options = Quality(min_precision=wanted)
    if enough:
        assert choose_threshold(options, good, rest, "fr") == enough[0]
    else:
        with pytest.raises(StageError, match=r"quality\.min_precision: .* is out of reach for fr"):
            choose_threshold(options, good, rest, "fr")


@settings(deadline=None)
@given(good=SCORES, rest=SCORES, threshold=st.floats(0, 1, width=16))
def test_the_bins_of_scores_have_every_text_on_its_side_of_the_threshold(good, rest, threshold):
    good, rest, threshold = (np.clip(x, 1e-4, 1 - 1e-4) for x in (good, rest, threshold))
    bins = score_bins(good, rest, threshold)
    for kind, scores in (("good", good), ("random", rest)):
        kept = sum(x[kind] for x in bins if x["kept"])
        assert (kept, sum(x[kind] for x in bins)) == ((scores >= threshold).sum(), len(scores))
    assert all(b["low"] == a["high"] for a, b in pairwise(bins))
    edges = [x["low"] for x in bins] + [bins[-1]["high"]]
    assert any(edge == pytest.approx(np.log(threshold / (1 - threshold))) for edge in edges)


def test_a_report_shows_the_texts_next_to_the_threshold(documents, tmp_path):
    report = train(documents, tmp_path)
    model, shown = fasttext.load_model(str(tmp_path / "fr.bin")), report["at_threshold"]
    assert [len(shown[side]) for side in ("dropped", "kept")] == [3, 3]
    dropped, kept = ([one["score"] for one in shown[side]] for side in ("dropped", "kept"))
    assert dropped == sorted(dropped, reverse=True) and kept == sorted(kept)
    assert dropped[0] < report["threshold"] <= kept[0]
    for one in (*shown["dropped"], *shown["kept"]):
        assert 0 < len(one["text"]) <= 300
    short = [one for one in shown["dropped"] if len(one["text"]) < 300]
    assert all(good_score(model, one["text"]) == pytest.approx(one["score"]) for one in short)


@pytest.mark.parametrize("tenths", range(11))
def test_the_share_kept_is_exact(tenths):
    """Of 11 scores the threshold is one of them: in floats 1 - 0.7 is more than 0.3, and one less would pass."""
    rest = np.random.default_rng(0).permutation(11) / 7
    threshold = choose_threshold(Quality(keep_share=tenths / 10), rest, rest, "fr")
    assert (rest >= threshold).sum() == tenths + 1


@settings(deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=40),
    count=st.integers(10, 20),
    seed=st.integers(0, 3),
)
def test_the_draw_is_by_hash_whatever_the_order(texts, count, seed):
    options = Quality(max_examples=count, seed=seed)
    drawn = _draw(iter(texts), options)
    assert drawn == sorted(texts, key=lambda text: _draw_key(text, seed))[:count]
    assert drawn == _draw(texts[::-1], options)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"min_precision": 0.9, "keep_share": 0.5}, "quality.min_precision: keep_share is given too"),
        ({"min_precision": 0.9, "models": {"fr": "m.bin"}}, "the ready-made model of fr has no positives"),
    ],
)
def test_one_option_chooses_the_threshold(given, problem):
    with pytest.raises(ConfigError) as caught:
        read(Holder, {"quality": given})
    assert problem in str(caught.value)
