"""The workflow on a crawl that lies on a server: whole files, records by the index, and text, to pages."""

from __future__ import annotations

import pytest
from conftest import jsonl, prose
from index_files import CRAWL, make_crawl
from server import serving
from test_incremental import checkout, snakemake

from pipeline.common.files import read_arrow, read_json
from pipeline.inspect.why import why

pytestmark = pytest.mark.slow

__all__ = ["checkout"]  # a fixture

FETCH = "Fetch the files of batch {}"
EXTRACT = "Extract the text of batch {} and identify its languages"
PAGES = [f"out/pages/{batch:05d}.json" for batch in range(5)]
# Names that a shell would not leave as they are.
LETTER = "$(touch PWNED) 'a'.txt"
TEXT_FILE, COLUMN = "x$(touch PWNED) 'it's' \"`touch PWNED`\".jsonl", "--text $(touch PWNED) {batch}"


@pytest.fixture
def crawl(checkout, tmp_path_factory):
    folder, config = checkout
    with serving() as server:
        server.files = make_crawl(tmp_path_factory.mktemp("crawl"), pages=20)
        server.files["/wiki.jsonl"] = jsonl([{"text": "\n".join(prose("fr", i))} for i in range(5)])
        (folder / TEXT_FILE).write_bytes(jsonl([{COLUMN: "\n".join(prose("fr", i))} for i in range(5, 8)]))
        for number in range(3):  # a job reads them all, though it reads only two archives
            (folder / "letters" / f"{number} é").mkdir(parents=True)
            (folder / "letters" / f"{number} é" / LETTER).write_text("\n".join(prose("fr", 8 + number)))
        config["crawl"] = {
            "commoncrawl": {"crawl": CRAWL, "files": 1, "base_url": server.url},
            "index": {"crawl": CRAWL, "languages": ["fra"], "files": 1, "base_url": server.url},
            "texts": [
                {"files": [f"{server.url}/wiki.jsonl"], "language": "fr"},
                {"files": ["x*.jsonl"], "text": COLUMN, "language": "fr"},
                {"files": ["letters"], "language": "fr"},
            ],
            "warcs_per_job": 2,
            "cache_gb": 0,
        }
        yield folder, config, server


def test_a_crawl_on_a_server_becomes_pages_and_a_larger_one_makes_only_what_is_new(crawl, capsys):
    folder, config, server = crawl
    plan = snakemake(folder, config, "-n", *PAGES)
    assert {FETCH.format(f"0000{i}") for i in (0, 2)} < set(plan)
    assert {EXTRACT.format(f"0000{i}") for i in (0, 1)} < set(plan)
    assert len(server.requests) == 1  # the list of the files
    snakemake(folder, config, *PAGES)

    rows = [[row for batch in read_arrow(folder / path) for row in batch.to_pylist()] for path in PAGES]
    warcs = {path[1:] for path in server.files if path.endswith(".warc.gz")}
    assert [len({row["warc"] for row in part}) for part in rows] == [1, 4, 1, 1, 3]
    assert {row["warc"] for part in rows[:2] for row in part} == warcs
    french = {(row["warc"], row["offset"]) for row in rows[1]}
    assert len(french) == 16
    assert {(row["warc"], row["offset"]) for row in rows[0] if row["language"] == "fr"} <= french
    assert {row["warc"] for row in rows[2]} == {f"{server.url}/wiki.jsonl"}
    assert {row["warc"] for row in rows[3]} == {TEXT_FILE}
    places = {0: "{warc} at {offset:,}, batch 00000: ", 1: "({warc} at {offset:,}): ", 3: "{warc} at {offset:,}, "}
    for part, place in places.items():
        row = rows[part][-1]
        why(row["url"], str(folder / "out"), [])
        assert place.format(**row) in capsys.readouterr().out
    assert [row["text"] for row in rows[3]] == ["\n".join(prose("fr", i)) for i in range(5, 8)]
    assert [row["url"] for row in rows[4]] == [f"{number} é/{LETTER}#0" for number in range(3)]
    assert not list(folder.rglob("PWNED"))
    assert read_json(folder / "out/records/plan.json")["records"] == 16
    assert not list((folder / "out/fetched").glob("*"))  # read, so gone; there is no cache

    asked = len(server.requests)
    config["crawl"]["connections"] = 2
    assert not snakemake(folder, config, *PAGES)
    config["crawl"]["commoncrawl"]["files"] = 2
    assert snakemake(folder, config, "-n", *PAGES) == [FETCH.format("00000"), EXTRACT.format("00000")]
    assert len(server.requests) == asked
