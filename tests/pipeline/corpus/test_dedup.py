import itertools
import json
import re
import shutil
import tempfile
import unicodedata
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.corpus.dedup
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, stamp, write_arrow, write_batches
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.corpus.dedup import HASH_SCHEMA, apply_duplicates, hash_paragraphs, reduce_hashes
from pipeline.corpus.folding import fold
from pipeline.corpus.options import Dedup
from pipeline.corpus.paragraphs import kept_text

# Few different paragraphs, so that most crawls have duplicates within and across pages and files; "" parts blocks.
LINE = st.sampled_from(["", "", "é", "ééé", *(f"p{i}" for i in range(4)), "—", "A long one", "a long one."])
CRAWL = st.lists(st.lists(st.lists(LINE, min_size=1, max_size=6), max_size=5), min_size=1, max_size=4)


def dedup(folder: Path, crawl, options, workers=1):
    """The whole stage over a crawl of files of pages of paragraphs; returns documents and ledgers."""
    hashes = []
    for i, pages in enumerate(crawl):
        rows = [dict.fromkeys(PAGE_SCHEMA.names) | {"text": "\n".join(p), "url": f"{i}"} for p in pages]
        write_arrow(folder / f"{i}.pages", PAGE_SCHEMA, rows)
        hashes.append(str(folder / "hashes" / f"{i}.arrow"))
        hash_paragraphs(options, str(folder / f"{i}.pages"), hashes[-1])
    reduce_hashes(options, hashes, str(folder / "duplicates"), str(folder / "index.arrow"), workers, None)
    documents, ledgers = [], []
    for i in range(len(crawl)):
        out, ledger = folder / f"{i}.documents", folder / f"{i}.json"
        duplicates = str(folder / "duplicates" / f"{i}.arrow")
        decisions = folder / f"{i}.decisions"
        apply_duplicates(options, str(folder / f"{i}.pages"), duplicates, str(out), str(ledger), str(decisions))
        documents.append([r for b in read_arrow(out) for r in b.to_pylist()])
        ledgers.append(json.loads(ledger.read_text()))
        check_decisions(crawl[i], documents[-1], [r for b in read_arrow(decisions) for r in b.to_pylist()])
    return documents, ledgers


def check_decisions(pages, documents, rows):
    """One row decides on each page; it and those behind it have its paragraphs, and it those of the document."""
    starts = [i for i, row in enumerate(rows) if row["documents"]]
    of_pages = [rows[i:j] for i, j in itertools.pairwise([*starts, len(rows)])]
    assert all(row["documents"] == 1 for row, *_ in of_pages)
    assert [sum(row["paragraphs"] for row in own) for own in of_pages] == [
        len(list(filter(None, p))) for p in pages
    ]
    kept = [(row["paragraphs"], row["bytes"]) for row, *_ in of_pages if row["fate"] == "kept"]
    assert kept == [(len(d["paragraphs"]), len(d["text"].encode())) for d in documents]
    assert not [row for own in of_pages for row in own[1:] if row["fate"] != "dropped" or not row["paragraphs"]]


def blocks_of(page):
    """Lists of the numbers of lines between empty lines."""
    parts = "".join(" " if line == "" else f"{i}," for i, line in enumerate(page)).split()
    return [[int(i) for i in part.split(",") if i] for part in parts]


def text_of(page, kept):
    """The lines `kept` of a page, with an empty line between those of two blocks."""
    blocks = [[page[i] for i in block if i in kept] for block in blocks_of(page)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def reference(crawl, least=0, share=None, key=str):
    """The kept lines of each page in a few plain lines: the first occurrence in reading order stays."""
    seen, files = set(), [[] for _ in crawl]
    exact = Fraction(str(share or 0))
    for pages, kept in zip(crawl, files, strict=True):
        for page in pages:
            kept.append(set())
            for block in blocks_of(page):
                first = {i for i in block if not (key(page[i]) in seen or seen.add(key(page[i])))}
                new = first | {i for i in block if len(page[i]) < least}
                size, new_size = (sum(len(page[i].encode()) + 1 for i in some) for some in (block, new))
                kept[-1] |= new if share is None else set(block) if new_size > exact * size else set()
    return files


@pytest.fixture
def small_buckets(monkeypatch):
    return lambda size: monkeypatch.setattr(pipeline.corpus.dedup, "HASHES_PER_BUCKET", size)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    crawl=CRAWL,
    bucket=st.integers(1, 9),
    min_chars=st.integers(1, 5),
    least=st.sampled_from([0, 3, 11]),
    share=st.sampled_from([None, 0, 0.2, 0.5, 0.7, 0.99]),
    normalize=st.sampled_from(["none", "ccnet"]),
)
def test_the_first_occurrence_stays_whatever_the_files_and_buckets(
    crawl, bucket, min_chars, least, share, normalize
):
    """By the rule of lines, and with a least length, or of blocks; beside a plain reference."""
    options = Dedup(normalize=normalize, min_chars=min_chars, min_paragraph_chars=least, block_new_share=share)
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.corpus.dedup, "HASHES_PER_BUCKET", bucket)
        patch.setattr("os.fsync", lambda file: None)  # most of the time of small files
        documents, ledgers = dedup(folder, crawl, options)
    shutil.rmtree(folder)
    right = reference(crawl, least, share, str if normalize == "none" else plain_fold)
    for kept, pages, found, ledger in zip(right, crawl, documents, ledgers, strict=True):
        texts = [(text_of(page, lines), sorted(lines)) for page, lines in zip(pages, kept, strict=True)]
        expected = [(text, lines) for text, lines in texts if len(text) >= min_chars]
        assert [(d["text"], d["paragraphs"]) for d in found] == expected
        again = [(kept_text(page, lines), lines) for page, (_, lines) in zip(pages, texts, strict=True)]
        assert again == texts
        little = [
            (text, lines)
            for page, (text, lines) in zip(pages, texts, strict=True)
            if len(text) < min_chars and (lines or not any(page))
        ]
        sizes = {
            "in": ledger["in"],
            "kept": ledger["kept"],
            "little": ledger["dropped"].get("little_text_left", {"documents": 0, "paragraphs": 0, "bytes": 0}),
        }
        whole = [(text_of(page, range(len(page))), list(filter(None, page))) for page in pages]
        for name, rows in (("in", whole), ("kept", expected), ("little", little)):
            assert sizes[name] == {
                "documents": len(rows),
                "paragraphs": sum(len(row[1]) for row in rows),
                "bytes": sum(len(row[0].encode()) for row in rows),
            }


@pytest.mark.long
@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(first=CRAWL, second=CRAWL, bucket=st.integers(1, 9))
def test_a_crawl_against_an_earlier_ones_index_keeps_what_both_together_would(first, second, bucket):
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.corpus.dedup, "HASHES_PER_BUCKET", bucket)
        patch.setattr("os.fsync", lambda file: None)  # most of the time of small files
        one, _ = dedup(folder / "one", first, Dedup(min_chars=1))
        against = Dedup(min_chars=1, against=[str(folder / "one" / "index.arrow")])
        other, ledgers = dedup(folder / "other", second, against)
        both, _ = dedup(folder / "both", first + second, Dedup(min_chars=1))
    shutil.rmtree(folder)
    texts = [[d["text"] for d in file] for file in one + other]
    assert texts == [[d["text"] for d in file] for file in both]
    earlier = {p for pages in first for page in pages for p in page if p}
    own = [p for pages in second for page in pages for p in page if p]
    dropped = [
        sum(ledger["dropped"].get(reason, {"paragraphs": 0})["paragraphs"] for ledger in ledgers)
        for reason in ("seen_in_earlier_crawl", "duplicate_paragraph")
    ]
    assert dropped == [len(earlier.intersection(own)), len(own) - len(set(own))]


def write_hashes(path, hashes):
    columns = {"hash": pa.array(hashes, pa.uint64()), "place": pa.array(range(len(hashes)), pa.uint64())}
    schema = stamp(HASH_SCHEMA, "dedup-hash", {"normalize": "none"})
    schema = schema.with_metadata(schema.metadata | {b"paragraphs": str(len(hashes)).encode()})
    write_batches(path, schema, [pa.record_batch(columns, schema=HASH_SCHEMA)], compression=None)
    return str(path)


def test_paragraphs_made_up_for_one_bucket_are_spread_over_many(tmp_path, small_buckets):
    """All hashes in a hundredth of the range, and most of these next to each other; some in all files."""
    small_buckets(50)
    base = 2**64 // 100 * 37
    crowds = [[base + i * 2**40 for i in range(200)], [base + 7 + i for i in range(1000)], [2**64 - 1, 0]]
    files = [sorted(sum(crowds, [file])) for file in (5, 9)]
    paths = [write_hashes(tmp_path / "hashes" / f"{i}.arrow", hashes) for i, hashes in enumerate(files)]
    bounds = pipeline.corpus.dedup._bucket_bounds(paths)
    sizes = np.histogram(np.array(files[0] + files[1], object), np.array(bounds, object))[0]
    assert bounds[0] == 0 and bounds[-1] == 2**64 and bounds == sorted(set(bounds))
    assert max(sizes) <= 100 and sum(sizes) == sum(map(len, files))
    reduce_hashes(Dedup(), paths, str(tmp_path / "out"), str(tmp_path / "index.arrow"), 1, None)
    later = [row["duplicate_paragraph"] for b in read_arrow(tmp_path / "out/1.arrow") for row in b.to_pylist()]
    assert later == [hash_ in files[0] for hash_ in files[1]]
    index = [row["hash"] for b in read_arrow(tmp_path / "index.arrow") for row in b.to_pylist()]
    assert index == sorted({*files[0], *files[1]})


def test_hashes_that_are_spread_evenly_are_cut_into_ranges_of_equal_width(tmp_path, small_buckets):
    small_buckets(100)
    path = write_hashes(tmp_path / "a.arrow", [i * (2**64 // 1000) for i in range(1000)])
    assert pipeline.corpus.dedup._bucket_bounds([path]) == [(i << 64) // 10 for i in range(11)]


@pytest.mark.slow
def test_workers_do_not_change_a_byte_of_the_duplicates_the_index_and_the_documents(tmp_path, small_buckets):
    small_buckets(5)
    crawl = [[[f"p{i * j % 17}" if j % 4 else "" for j in range(9)] for i in range(6)] for _ in range(3)]
    files = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        dedup(folder, crawl, Dedup(min_chars=1, block_new_share=0.2), workers)
        paths = [*folder.glob("duplicates/*"), *folder.glob("*.documents"), folder / "index.arrow"]
        files[workers] = [path.read_bytes() for path in sorted(paths)]
        assert not list(folder.rglob("*.part*"))
    assert files[1] == files[2]
    assert len(files[1]) == 7


def test_the_index_is_the_sorted_hashes_of_the_crawl_each_once(tmp_path, small_buckets):
    small_buckets(3)
    crawl = [[["a", "", "b"], ["a", "c"]], [["c", "", "d"]]]
    dedup(tmp_path, crawl, Dedup(min_chars=1))
    index = [h for batch in read_arrow(tmp_path / "index.arrow") for h in batch.column("hash").to_pylist()]
    assert index == sorted(xxhash.xxh3_64_intdigest(p) for p in (b"a", b"b", b"c", b"d"))


def test_documents_with_little_text_left_are_dropped_and_counted(tmp_path):
    documents, ledgers = dedup(tmp_path, [[["a" * 50, "b" * 50], ["a" * 50, "c"]]], Dedup(min_chars=20))
    assert [d["paragraphs"] for d in documents[0]] == [[0, 1]]
    assert ledgers[0]["dropped"]["little_text_left"] == {"documents": 1, "paragraphs": 1, "bytes": 1}
    assert ledgers[0]["dropped"]["duplicate_paragraph"] == {"documents": 0, "paragraphs": 1, "bytes": 51}
    assert ledgers[0]["samples"]["duplicate_paragraph"] == [{"url": "0", "text": "a" * 50}]
    assert ledgers[0]["samples"]["little_text_left"] == [{"url": "0", "text": "c"}]


def test_an_index_of_another_normalisation_is_refused_with_the_cure(tmp_path):
    dedup(tmp_path / "one", [[["a"]]], Dedup(normalize="ccnet"))
    with pytest.raises(StageError, match=r"index.arrow: .* normalize ccnet, .*set dedup.normalize to ccnet"):
        dedup(tmp_path / "other", [[["a"]]], Dedup(against=[str(tmp_path / "one" / "index.arrow")]))


@pytest.mark.parametrize("wrong", ["pages", "text"])
def test_an_index_that_is_none_is_refused_with_the_cure(tmp_path, wrong):
    dedup(tmp_path / "one", [[["a"]]], Dedup())
    path = tmp_path / "one" / "0.pages"
    if wrong == "text":
        path.write_text("no Arrow file at all")
    with pytest.raises(StageError, match=r"0.pages: not a file of hashes; .*hashes/index.arrow"):
        dedup(tmp_path / "other", [[["a"]]], Dedup(against=[str(path)]))


@pytest.mark.parametrize("pages", [[["a", "b"], ["c"]], [["a"]], [], [["a", "b", "c", "d", "e"]]])
def test_duplicates_of_another_file_are_refused_and_nothing_is_written(tmp_path, pages):
    dedup(tmp_path, [[["a", "b"], ["c", "d"]], pages], Dedup(min_chars=1))
    with pytest.raises(StageError, match=r"1.arrow: is about \d paragraphs, but .*0.pages has 4; .*dedup-hash"):
        apply_duplicates(
            Dedup(),
            str(tmp_path / "0.pages"),
            str(tmp_path / "duplicates" / "1.arrow"),
            str(tmp_path / "out.arrow"),
            str(tmp_path / "out.json"),
        )
    assert not list(tmp_path.glob("out*"))


def plain_fold(text: str) -> bytes:
    """`fold`, character by character."""
    nothing = [c for c in text if unicodedata.category(c) in ("Cf", "Cc") and not c.isspace()]
    zeros = ("0" if unicodedata.category(c) == "Nd" else c for c in text if c not in nothing)
    folded = "".join(small(c) if unicodedata.category(c)[0] in "LMN" else " " for c in zeros)
    return re.sub(" +", " ", folded).strip(" ").encode()


def small(char):
    if unicodedata.category(char)[0] == "M" or len(char.casefold()) > 1:
        return char.lower() if len(char.lower()) == 1 else char
    return char.casefold()


TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("éÉe\u0301\xadİIΣς９٣ⅣAǅ \n"), max_size=20
)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(TEXT, min_size=1, max_size=5))
def test_folding_many_lines_is_folding_each_that_is_not_empty(lines):
    lines = [line.replace("\n", " ") for line in lines]
    folded = fold("\n".join(lines))
    assert folded == [plain_fold(line) for line in lines if line]
    assert [line for some in folded for line in fold(some.decode())] == list(filter(None, folded))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Page 12.", "page 97", True),
        ("Nantes\t17", "Nantes\t323204", False),
        ("Page ١٢", "Page 12", True),
        ("12\t1873", "17 2031", True),
        ("12", "—", False),
        ("Chapitre Ⅳ", "chapitre ⅳ", True),
        ("Chapitre Ⅳ", "chapitre ⅵ", False),
        ("m²", "m³", False),
        ("Été", "été !", True),
        ("Das Donau\xaddampf\xadschiff", "Das Donaudampfschiff", True),
        ("Donau\u200bdampf\u2060schiff\u200f", "Donaudampfschiff", True),
        ("a\x00b\x7fc", "abc", True),
        ("« ΟΔΟΣ »", "οδος", True),
        ("a", "b", False),
        ("कि", "की", False),  # only the mark on the letter differs
        ("ab", "a b", False),
    ],
)
def test_ccnet_normalisation_folds_case_digits_and_punctuation(tmp_path, one, other, same):
    assert (fold(one) == fold(other)) is same
    # Enough lines for several chunks: where a chunk ends changes nothing.
    pages = [["x" * 20_000], [one], ["y" * 20_000], [other]]
    for normalize, kept in (("ccnet", 3 if same else 4), ("none", 4)):
        documents, _ = dedup(tmp_path / normalize, [pages], Dedup(normalize=normalize, min_chars=1))
        assert len(documents[0]) == kept
    assert [d["text"] for d in documents[0]][1] == one
