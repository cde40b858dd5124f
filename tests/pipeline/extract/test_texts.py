"""Plain text in Parquet and JSON lines to pages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import jsonl, prose
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, read_json
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.extract.options import Extract
from pipeline.extract.texts import read_texts

DOCUMENTS = [
    {"text": "\n\n".join(prose("fr" if i % 4 else "en", i)), "url": f"https://w.example/{i}", "id": i}
    for i in range(40)
]


def write(path: Path, documents=DOCUMENTS) -> Path:
    if ".parquet" in path.suffixes:
        pq.write_table(pa.Table.from_pylist(documents), path, row_group_size=7)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(jsonl(documents)))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(jsonl(documents))
    else:
        path.write_bytes(jsonl(documents))
    return path


def make_pages(files, language_id, language=None, text="text", url="url", **options):
    folder = Path(files[0]).parent
    read_texts(
        Extract(languages=["fr"], **options),
        *(list(map(str, files)), language_id, text, url, language),
        output=str(folder / "0.json"),
        ledger=str(folder / "0.ledger.json"),
    )
    rows = [row for batch in read_arrow(folder / "0.json") for row in batch.to_pylist()]
    return rows, read_json(folder / "0.ledger.json")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json.gz", "a.ndjson", "a.jsonl.zst"])
def test_every_kind_of_file_gives_the_pages_of_the_wanted_language(tmp_path, language_id, name):
    pages, ledger = make_pages([write(tmp_path / name)], language_id)
    wanted = [(i, d) for i, d in enumerate(DOCUMENTS) if i % 4]
    assert [page["text"] for page in pages] == [d["text"].replace("\n\n", "\n") for _, d in wanted]
    assert [(page["offset"], page["url"]) for page in pages] == [(i, d["url"]) for i, d in wanted]
    assert {page["warc"] for page in pages} == {name}
    assert set(pages[0]) == set(PAGE_SCHEMA.names)
    assert ledger["in"]["documents"] == 40
    assert ledger["dropped"]["other_language"]["documents"] == 10
    assert ledger["stage"] == "extract"


def test_a_given_language_is_not_identified_and_a_row_without_url_is_named_by_its_place(tmp_path):
    documents = [{"body": d["text"]} for d in DOCUMENTS]
    pages, _ = make_pages([write(tmp_path / "a.parquet", documents)], "no/model", "fr", text="body")
    assert len(pages) == 40
    assert pages[3]["url"] == "a.parquet#3"
    assert pages[3]["language_score"] == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [b'{"text": 3}', b"{}", b"[1]", b"{", b"\xff\xfe", b"nan", b'"text"', b'{"text": "\\ud800"}', b""]
        ),
        max_size=8,
    )
)
def test_bad_lines_cost_themselves_and_the_ledger_balances(tmp_path, lines):
    good = jsonl(DOCUMENTS[:2]).rstrip().split(b"\n")
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([good[0], *lines, good[1]]))
    pages, ledger = make_pages([tmp_path / "a.jsonl"], "no/model", "fr")
    assert len(pages) == 2
    assert ledger["in"]["documents"] == 2 + sum(bool(line) for line in lines)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_damaged_file_costs_what_is_behind_the_damage_and_is_counted(tmp_path, name):
    path = write(tmp_path / name, DOCUMENTS * 40)
    other = write(tmp_path / "b.jsonl")
    whole = path.read_bytes()
    if name.endswith(".parquet"):
        path.write_bytes(whole[: len(whole) // 2] + bytes(500) + whole[len(whole) // 2 + 500 :])
    else:
        path.write_bytes(whole[: len(whole) // 2])
    pages, ledger = make_pages([path, other], "no/model", "fr")
    assert [page["warc"] for page in pages].count("b.jsonl") == 40
    assert sum(counts["documents"] for counts in ledger["failed"].values()) >= 1
    if name.endswith(".parquet"):
        assert ledger["in"]["documents"] == 40 * 41


def test_no_such_column_is_an_error_that_names_those_there_are(tmp_path):
    with pytest.raises(StageError, match=r"no column 'body'; it has text, url, id: set crawl\.texts\.text"):
        make_pages([write(tmp_path / "a.parquet")], "no/model", "fr", text="body")
    with pytest.raises(StageError, match="no line has a key 'body'"):
        make_pages([write(tmp_path / "a.jsonl")], "no/model", "fr", text="body")
