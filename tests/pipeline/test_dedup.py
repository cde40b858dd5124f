import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dedup import apply_duplicates, hash_paragraphs, paragraph_key, reduce_hashes
from pipeline.extract import PAGE_SCHEMA
from pipeline.files import read_arrow, write_arrow
from pipeline.options import Dedup

# Few different paragraphs, so that most crawls have duplicates within and across pages and files.
PARAGRAPH = st.sampled_from([f"p{i}" for i in range(8)])
CRAWL = st.lists(st.lists(st.lists(PARAGRAPH, min_size=1, max_size=6), max_size=5), min_size=1, max_size=4)


def dedup(folder: Path, crawl, options):
    """The whole stage over a crawl of files of pages of paragraphs; returns documents and ledgers."""
    hashes = []
    for i, pages in enumerate(crawl):
        rows = [dict.fromkeys(PAGE_SCHEMA.names) | {"text": "\n".join(p), "url": f"{i}"} for p in pages]
        write_arrow(folder / f"{i}.arrow", PAGE_SCHEMA, rows)
        hashes.append(str(folder / f"{i}.npy"))
        hash_paragraphs(options, str(folder / f"{i}.arrow"), hashes[-1])
    reduce_hashes(options, hashes, str(folder / "d.npy"), 1, None)
    documents, ledgers = [], []
    for i in range(len(crawl)):
        out, ledger = folder / f"{i}.out", folder / f"{i}.json"
        apply_duplicates(options, str(folder / f"{i}.arrow"), str(folder / "d.npy"), i, str(out), str(ledger))
        documents.append([r for b in read_arrow(out) for r in b.to_pylist()])
        ledgers.append(json.loads(ledger.read_text()))
    return documents, ledgers


def reference(crawl):
    """The same in four plain lines: the first occurrence in reading order stays."""
    seen, files = set(), []
    for pages in crawl:
        files.append([[i for i, p in enumerate(page) if not (p in seen or seen.add(p))] for page in pages])
    return files


@settings(max_examples=60, deadline=None)
@given(crawl=CRAWL, buckets=st.integers(1, 9))
def test_the_first_occurrence_stays_whatever_the_files_and_buckets(crawl, buckets):
    folder = Path(tempfile.mkdtemp())
    documents, ledgers = dedup(folder, crawl, Dedup(buckets=buckets, min_chars=1))
    shutil.rmtree(folder)
    expected = [[kept for kept in file if kept] for file in reference(crawl)]
    assert [[d["paragraphs"] for d in file] for file in documents] == expected
    for file, pages, ledger in zip(documents, crawl, ledgers, strict=True):
        assert ledger["in"]["paragraphs"] == sum(map(len, pages))
        assert ledger["kept"]["paragraphs"] == sum(len(d["paragraphs"]) for d in file)
        assert all(len(d["text"].split("\n")) == len(d["paragraphs"]) for d in file)


def test_documents_with_little_text_left_are_dropped_and_counted(tmp_path):
    documents, ledgers = dedup(tmp_path, [[["a" * 50, "b" * 50], ["a" * 50, "c"]]], Dedup(min_chars=20))
    assert [d["paragraphs"] for d in documents[0]] == [[0, 1]]
    assert ledgers[0]["dropped"]["little_text_left"] == {"documents": 1, "paragraphs": 1, "bytes": 1}
    assert ledgers[0]["dropped"]["duplicate_paragraph"] == {"documents": 0, "paragraphs": 1, "bytes": 51}


@pytest.mark.parametrize(
    ("one", "other", "same"), [("Page 12.", "page 7", True), ("Été", "été !", True), ("a", "b", False)]
)
def test_ccnet_normalisation_folds_case_digits_and_punctuation(one, other, same):
    assert (paragraph_key(one, "ccnet") == paragraph_key(other, "ccnet")) is same
    assert paragraph_key(one, "none") != paragraph_key(other, "none")
