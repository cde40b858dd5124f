"""Texts and addresses made to take long: none takes more than linear time; quadratic would take minutes each."""

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.files import read_arrow, read_json, write_arrow
from pipeline.common.hosts import host_of
from pipeline.common.schemas import DOCUMENT_SCHEMA
from pipeline.corpus.dedup import fold
from pipeline.corpus.filters import RULES, filter_documents, is_blocked
from pipeline.corpus.measures import Document
from pipeline.corpus.near import hash_documents
from pipeline.corpus.options import Filter, Near, Positives, Quality
from pipeline.corpus.quality import _positives
from pipeline.corpus.sentences import sentences
from train.data.tokens import documents

SIZE = 250_000
BEGIN = "un deux trois quatre cinq six "
TEXTS = {
    "marks": "e" + "\u0301\u0323" * (SIZE // 2),
    "marks and letters": "ก" + "ุ่" * (SIZE // 2),
    "signs that become marks": "\u0f40" + "\u0f73" * SIZE,
    "marks that lower case makes": "İ" + "\u0323" * SIZE,
    "dots before a letter": BEGIN + "." * SIZE + "a.",
    "quotes behind dots": BEGIN + "." * (SIZE // 2) + '"' * (SIZE // 2) + "a.",
    "dots and quotes": BEGIN + '."' * (SIZE // 2) + "a.",
    "wide dots": BEGIN + "。" * SIZE + "a。",
    "marks and quotes of many scripts": BEGIN + "։។」“" * (SIZE // 4) + "a",
    "Armenian colons": "ա:" * (SIZE // 2) + "ա",
    "Ethiopic colons": "አ፡" * (SIZE // 2),
    "Thai phrases": "กา " * (SIZE // 3),
    "syllables of Korean": "한 " * (SIZE // 2),
    "newlines": BEGIN + "\n " * (SIZE // 2) + "a",
    "letters": "a" * SIZE,
    "spaces": "a" + " " * SIZE + "a",
}


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_keeps_a_filter_or_the_folding_of_paragraphs_busy(name):
    document = Document("", TEXTS[name], "en")
    for rule in RULES.values():
        rule.broken_by(document)
    fold(TEXTS[name])


def test_no_document_keeps_a_stage_busy(tmp_path):
    rows = [
        dict.fromkeys(DOCUMENT_SCHEMA.names)
        | {"text": TEXTS["marks"], "url": f"http://{host}/", "language": "fr", "paragraphs": [0]}
        for host in (
            "a." * SIZE + "bad.example",
            "e\u0301\u0323" * SIZE,
            f"{'a' * SIZE}@bad.example",
            "good.example",
        )
    ]
    (tmp_path / "list.txt").write_text("bad.example\n")
    write_arrow(tmp_path / "d.arrow", DOCUMENT_SCHEMA, rows)
    options = Filter(url_blocklists=[str(tmp_path / "list.txt")], min_words=1)
    kept, ledger = tmp_path / "kept.arrow", tmp_path / "ledger.json"
    filter_documents(options, str(tmp_path / "d.arrow"), None, str(kept), str(ledger))
    assert [url for batch in read_arrow(kept) for url in batch.column("url").to_pylist()] == [
        row["url"] for row in rows[1::2]
    ]
    assert read_json(ledger)["dropped"]["blocked_url"]["documents"] == 2
    hash_documents(Near(permutations=16), str(kept), str(tmp_path / "near.npy"))


def test_no_address_keeps_a_pattern_of_the_config_busy(tmp_path):
    rows = [
        dict.fromkeys(DOCUMENT_SCHEMA.names) | {"text": "a", "url": f"https://{host}wiki.org/", "language": "fr"}
        for host in ("", "a." * SIZE)
    ]
    write_arrow(tmp_path / "d.arrow", DOCUMENT_SCHEMA, rows)
    pattern = r"(.*\.|//)wiki\.org"
    options = Quality(positives={"fr": Positives(urls=pattern)})
    assert list(_positives(options, [str(tmp_path / "d.arrow")], "fr")) == ["a"]
    assert [url for _, url in documents([str(tmp_path / "d.arrow")], pattern)] == ["https://wiki.org/"]


# The pattern as it was first written: plain, and quadratic.
PLAIN = re.compile(r"[.!?。！？؟।]+(?=[\"”»')]*(?:\s|$))|[。！？।]")


@given(st.text(st.sampled_from("a.!。।\"')» \u3000"), max_size=14))
def test_the_sentences_are_those_of_the_plain_pattern(line):
    assert sentences(line) == len(PLAIN.findall(line))


@given(
    st.lists(
        st.sampled_from(["https", ":", "//", "a", "b.example", "@", ":80", "/", "?", "#", "[", "]", "é", "."])
    )
)
def test_the_host_of_an_address_is_that_of_the_standard_library(pieces):
    url = "".join(pieces)
    try:
        expected = urlsplit(url).hostname or ""
    except ValueError:
        expected = ""
    assert host_of(url) == expected
    labels = expected.strip(".").split(".")
    parents = {".".join(labels[first:]) for first in range(len(labels))}
    assert is_blocked(url, frozenset({"b.example"})) == ("b.example" in parents)


def test_the_host_of_a_long_address_is_read_from_its_end():
    for url in (f"https://{'a' * 5000}@x.example:80/{'a' * 5000}", f"https://x.example/{'a/' * 5000}"):
        assert host_of(url) == "x.example"
    assert host_of("a" * 5000) == host_of(f"mailto:{'a' * 5000}") == host_of(f"{'a' * 5000}://") == ""
