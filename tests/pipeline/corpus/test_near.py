import json
import random
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_filters import write_documents

from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow
from pipeline.corpus import near
from pipeline.corpus.near import (
    apply_near,
    band_size,
    find_near,
    hash_documents,
    needed_matches,
    reduce_signatures,
    shingles,
)
from pipeline.corpus.options import Near

OPTIONS = Near(enabled=True, threshold=0.8, ngram=2)


def changed(text, share, seed):
    """The text with a share of its words replaced."""
    draw = random.Random(seed)
    return " ".join(f"x{draw.randrange(10**6)}" if draw.random() < share else word for word in text.split())


def text(number, length=200):
    draw = random.Random(number)
    return " ".join(f"w{draw.randrange(10**6)}" for _ in range(length))


def run(folder, crawl, options=OPTIONS):
    """The whole stage over files of texts; returns the kept URLs of each file, its ledgers and the clusters."""
    paths = {
        kind: [str(folder / f"{i}.{kind}") for i in range(len(crawl))] for kind in ("arrow", "npy", "out", "json")
    }
    for i, texts in enumerate(crawl):
        write_documents(paths["arrow"][i], [(f"{i}-{row}", text) for row, text in enumerate(texts)])
        hash_documents(options, paths["arrow"][i], paths["npy"][i])
    drops, clusters = str(folder / "drops.npy"), folder / "clusters.jsonl"
    reduce_signatures(options, paths["npy"], paths["arrow"], drops, str(clusters))
    kept, ledgers = [], []
    for i in range(len(crawl)):
        apply_near(options, paths["arrow"][i], drops, i, paths["out"][i], paths["json"][i])
        kept.append([r["url"] for b in read_arrow(paths["out"][i]) for r in b.to_pylist()])
        ledgers.append(json.loads(Path(paths["json"][i]).read_text()))
    return kept, ledgers, [json.loads(line) for line in clusters.read_text().splitlines()]


def test_the_first_stays_and_the_cluster_names_the_rest(tmp_path):
    crawl = [[text(1), text(2)], [], [changed(text(1), 0.03, 0), text(3), text(2)]]
    kept, ledgers, clusters = run(tmp_path, crawl)
    assert kept == [["0-0", "0-1"], [], ["2-1"]]
    assert [ledger["dropped"].get("near_duplicate", {}).get("documents", 0) for ledger in ledgers] == [0, 0, 2]
    assert [cluster["url"] for cluster in clusters] == ["0-0", "0-1"]
    (member,) = clusters[0]["near_duplicates"]
    assert (member["url"], member["file"], member["row"]) == ("2-0", 2, 0)
    assert 0.8 <= member["similarity"] < 1
    assert clusters[1]["near_duplicates"] == [{"url": "2-2", "file": 2, "row": 2, "similarity": 1.0}]


def reference(signatures, threshold):
    """Every document against every earlier kept one."""
    kept, found = [], {}
    for number, signature in enumerate(signatures):
        hits = [k for k in kept if np.mean(signatures[k] == signature) >= threshold]
        if hits:
            found[number] = (hits[0], float(np.mean(signatures[hits[0]] == signature)))
        else:
            kept.append(number)
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([0.6, 0.7, 0.75, 0.8, 0.9, 1.0]),
    permutations=st.sampled_from([16, 64, 100]),
    cuts=st.lists(st.integers(0, 30), max_size=3),
)
def test_lsh_drops_what_a_comparison_of_all_pairs_drops(seed, threshold, permutations, cuts):
    """Whatever the files, and with chains of near-duplicates around the threshold."""
    draw = np.random.default_rng(seed)
    rows = [draw.integers(0, 2**32, permutations, np.uint32)]
    for _ in range(29):
        row = rows[draw.integers(len(rows))].copy()
        new = draw.random(permutations) < draw.choice([0.0, 0.1, 0.3, 1.0]) * draw.random()
        row[new] = draw.integers(0, 2**32, int(new.sum()), np.uint32)
        rows.append(row)
    signatures = np.stack(rows)
    options = Near(threshold=threshold, permutations=permutations)
    assert find_near(options, np.split(signatures, sorted(cuts))) == reference(signatures, threshold)


def test_documents_made_up_to_share_bands_are_compared_with_few(monkeypatch):
    """1,500 that share 20 of 32 bands, and then a near-duplicate of the last of them, and one of the first."""
    monkeypatch.setattr(near, "MOST_KEPT", 30)
    read = []
    gather = near._signatures
    monkeypatch.setattr(
        near, "_signatures", lambda *arguments: read.append(len(arguments[2])) or gather(*arguments)
    )
    draw = np.random.default_rng(0)
    signatures = draw.integers(0, 2**32, (1502, 128), np.uint32)
    signatures[:1500, :80] = signatures[0, :80]
    for copy, original in ((1500, 1499), (1501, 0)):
        signatures[copy] = signatures[original]
        signatures[copy, ::9] += 1  # 15 of 128
    assert find_near(Near(), [signatures]) == {1500: (1499, 113 / 128), 1501: (0, 113 / 128)}
    assert sum(read) < 1502 * 40  # each with 751, without a bound


@settings(deadline=None)
@given(threshold=st.floats(0.6, 1), permutations=st.integers(16, 1024))
def test_no_pair_at_the_threshold_is_missed(threshold, permutations):
    width, needed = band_size(threshold, permutations), needed_matches(threshold, permutations)
    assert needed >= Fraction(str(threshold)) * permutations > needed - 1
    assert width >= 1
    assert permutations // width > permutations - needed  # more bands than hashes that may differ


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.3))
def test_the_estimate_is_near_the_exact_similarity(seed, share):
    texts = [text(seed, 400), changed(text(seed, 400), share, seed)]
    one, two = (set(shingles(t, 2).tolist()) for t in texts)
    words = [list(zip(t.split(), t.split()[1:], strict=False)) for t in texts]
    exact = len(set(words[0]) & set(words[1])) / len(set(words[0]) | set(words[1]))
    assert len(one & two) / len(one | two) == pytest.approx(exact)  # no two shingles share a hash here
    with tempfile.TemporaryDirectory() as folder:
        write_documents(f"{folder}/d.arrow", [("u", t) for t in texts])
        hash_documents(Near(ngram=2, permutations=512), f"{folder}/d.arrow", f"{folder}/s.npy")
        first, second = np.load(f"{folder}/s.npy")
    assert abs(np.mean(first == second) - exact) < 5 * np.sqrt(0.25 / 512)


def test_files_do_not_matter_but_their_order_does(tmp_path):
    texts = [changed(text(i // 3), 0.02 * (i % 3), i) for i in range(30)]
    whole, _, _ = run(tmp_path, [texts])
    parts, _, _ = run(tmp_path, [texts[:7], texts[7:8], texts[8:]])
    flat = [int(url.split("-")[1]) + (0, 7, 8)[int(url.split("-")[0])] for urls in parts for url in urls]
    assert [int(url.split("-")[1]) for url in whole[0]] == flat
    assert len(flat) < 30


def test_texts_of_few_or_no_words_have_a_signature_of_their_own(tmp_path):
    kept, _, _ = run(tmp_path, [["un", "deux", "un", "!!!", "???", "!!!"]], Near(ngram=5))
    assert kept == [["0-0", "0-1", "0-3", "0-4"]]


def test_the_seed_and_nothing_else_makes_the_signatures(tmp_path):
    write_documents(tmp_path / "d.arrow", [("u", text(1)), ("v", text(2))])
    signatures = []
    for seed in (1, 1, 2):
        hash_documents(Near(seed=seed), str(tmp_path / "d.arrow"), str(tmp_path / "s.npy"))
        signatures.append((tmp_path / "s.npy").read_bytes())
    assert signatures[0] == signatures[1] != signatures[2]


def test_long_documents_are_hashed_in_steps(tmp_path, monkeypatch):
    write_documents(tmp_path / "d.arrow", [("u", text(1, 1000))])
    hash_documents(OPTIONS, str(tmp_path / "d.arrow"), str(tmp_path / "one.npy"))
    monkeypatch.setattr("pipeline.corpus.near.SHINGLES_AT_ONCE", 64)
    hash_documents(OPTIONS, str(tmp_path / "d.arrow"), str(tmp_path / "many.npy"))
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "many.npy").read_bytes()


def test_signatures_of_another_file_are_refused(tmp_path):
    write_documents(tmp_path / "a.arrow", [("u", text(1)), ("v", text(1))])
    write_documents(tmp_path / "b.arrow", [("u", text(1))])
    hash_documents(OPTIONS, str(tmp_path / "a.arrow"), str(tmp_path / "a.npy"))
    with pytest.raises(StageError, match=r"b\.arrow: has 1 documents but 2 signatures"):
        reduce_signatures(OPTIONS, [str(tmp_path / "a.npy")], [str(tmp_path / "b.arrow")],
                          str(tmp_path / "d.npy"), str(tmp_path / "c.jsonl"))  # fmt: skip
