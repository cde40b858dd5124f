"""Text of data sets of the hub: found, fetched and read, from a hub that breaks off, moves on or is away."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import prose
from hub import Done, Hub, Shell, hub

from pipeline.common.files import read_arrow, read_json
from pipeline.crawl.origins import read_folder

LOOK = """
from pipeline.crawl.commoncrawl import texts
from pipeline.crawl.options import Crawl, Texts
print("\\n".join(texts(Crawl(texts=[Texts(files=[{pattern!r}])], cache={cache!r}))[0]))
"""
FETCH = """
import pipeline.network.transports
from pipeline.crawl.fetch import fetch_files
pipeline.network.transports.BLOCK = 1000
fetch_files([{url!r}], {output!r}, {cache!r}, 0, 1)
"""
BODY = bytes(range(256)) * 10  # of three blocks
FILE = "hf://datasets/owner/name/a.parquet"


def parquet(first: int) -> bytes:
    rows = [{"text": "\n".join(prose("fr", i)), "url": f"https://w.example/{i}"} for i in range(first, first + 3)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    with hub() as server:
        modules = (
            "huggingface_hub.hf_file_system",
            "pipeline.crawl.commoncrawl",
            "pipeline.crawl.fetch",
            "pipeline.extract.texts",
        )
        found = Shell(server.url, tmp_path_factory.mktemp("home"), *modules)
        yield server, found
        found.close()


@pytest.fixture
def place(shell, tmp_path) -> tuple[Hub, Shell, Path]:
    server, found = shell
    for known in (server.refs, server.commits, server.files, server.faults, server.requests, server.gated):
        known.clear()
    return server, found, tmp_path


def look(shell: Shell, folder: Path, pattern: str) -> Done:
    return shell("-c", LOOK.format(pattern=pattern, cache=str(folder / "cache")))


def fetch(shell: Shell, folder: Path, url: str = FILE) -> Done:
    return shell("-c", FETCH.format(url=url, output=str(folder / "out"), cache=str(folder / "cache")))


def only_file(folder: Path) -> bytes:
    return next(path for path in (folder / "out").iterdir() if path.suffix == ".parquet").read_bytes()


def test_a_glob_is_looked_up_once_and_its_commit_goes_to_the_pages(place):
    server, shell, folder = place
    files = {f"fr/{i} &.parquet": parquet(3 * i) for i in range(5)}
    commit = server.push(
        "datasets/owner/name", files | {"fr/deep/x.parquet": b"", "fr/y.csv": b"", "README.md": b""}
    )
    found = look(shell, folder, "hf://datasets/owner/name/fr/*.parquet").out.splitlines()
    assert found == [f"hf://datasets/owner/name@{commit}/fr/{i} &.parquet" for i in range(5)]

    server.push("datasets/owner/name", {"fr/new.parquet": b"new", "fr/0.parquet": b"other"})
    server.requests.clear()
    assert look(shell, folder, "hf://datasets/owner/name/fr/*.parquet").out.splitlines() == found
    assert not server.requests

    where = ["--output", f"{folder}/out", "--cache", f"{folder}/cache"]
    assert shell("pipeline", "fetch", *where, "--sources", *found).code == 0
    listed, failed = read_folder(folder / "out")
    assert not failed
    assert {entry["source"]: (folder / "out" / entry["file"]).read_bytes() for entry in listed} == {
        url: files[url.partition("@")[2].partition("/")[2]] for url in found
    }
    pages = ["--output", f"{folder}/0.json", "--ledger", f"{folder}/ledger.json", "--language", "fr"]
    done = shell("pipeline", "text", "--files", f"{folder}/out", "--language-id", "none", *pages)
    assert done.code == 0, done.err
    rows = [row for batch in read_arrow(folder / "0.json") for row in batch.to_pylist()]
    assert {row["warc"] for row in rows} == set(found)
    assert len(rows) == read_json(folder / "ledger.json")["kept"]["documents"] == 15


def test_globs_are_those_of_the_branch_or_tag(place):
    server, shell, folder = place
    old = server.push("datasets/owner/name", {"a.parquet": b"", "b.parquet": b"", "in/c.parquet": b""}, "v1")
    hidden = server.push("datasets/owner/name", {"default/0.parquet": b""}, "refs/convert/parquet")
    model = server.push("owner/model", {"a.jsonl": b""})
    server.push("datasets/owner/name", {"other.parquet": b""})
    start = "hf://datasets/owner/name@"
    for pattern, expected in {
        f"{start}v1/[ab].parquet": [f"{start}{old}/a.parquet", f"{start}{old}/b.parquet"],
        f"{start}v1/?.parquet": [f"{start}{old}/a.parquet", f"{start}{old}/b.parquet"],
        f"{start}v1/**/c.parquet": [f"{start}{old}/in/c.parquet"],
        f"{start}refs/convert/parquet/*/0.parquet": [f"{start}{hidden}/default/0.parquet"],
        f"{start}{old}/in/*.parquet": [f"{start}{old}/in/c.parquet"],
        "hf://owner/model/*.jsonl": [f"hf://owner/model@{model}/a.jsonl"],
    }.items():
        done = look(shell, folder, pattern)
        assert done.out.split() == expected, done.err


@pytest.mark.parametrize("fault", ["status 503", "status 429 Retry-After: 7", "refuse", "drop 100", "corrupt"])
def test_what_breaks_off_is_asked_for_again(place, fault):
    server, shell, folder = place
    server.push("datasets/owner/name", {"a.parquet": BODY})
    (large,) = server.files
    if fault not in ("drop 100", "corrupt"):
        server.faults = {"/api/datasets/owner/name": [fault], "/api/datasets/owner/name/tree/main": [fault] * 2}
        server.faults["/datasets/owner/name/resolve/main/a.parquet"] = ["", fault]
        assert look(shell, folder, "hf://datasets/owner/name/*.parquet").out.startswith("hf://")
        server.faults["/api/datasets/owner/name"] = [fault]
    server.faults[large] = ["", fault]
    done = fetch(shell, folder)
    assert done.code == 0, done.err
    assert only_file(folder) == BODY
    assert done.waited > 0
    assert not any(server.faults.values())


def test_each_byte_is_asked_for_once(place):
    server, shell, folder = place
    server.push("datasets/owner/name", {"a.parquet": BODY})
    assert fetch(shell, folder).code == 0
    ranges = [part for path, part in server.requests if path in server.files]
    assert ranges == ["bytes=0-999", "bytes=1000-1999", "bytes=2000-2559"]


@pytest.mark.parametrize("changed", [False, True], ids=["same", "changed"])
def test_a_transfer_goes_on_where_it_was_unless_the_branch_has_moved(place, changed):
    server, shell, folder = place
    server.push("datasets/owner/name", {"a.parquet": BODY})
    (large,) = server.files
    server.faults[large] = ["", *["refuse"] * 60]
    done = fetch(shell, folder)
    assert done.code == 1
    assert done.err.splitlines()[-1].endswith("and run again: it goes on from here")
    server.faults.clear()
    body = BODY[::-1] if changed else BODY
    server.push("datasets/owner/name", {"a.parquet": body})
    server.requests.clear()
    assert fetch(shell, folder).code == 0
    assert only_file(folder) == body
    first = next(part for path, part in server.requests if path in server.files)
    assert first.startswith("bytes=0-" if changed else "bytes=1000-")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "hf://datasets/owner/none/{}.parquet",
            "no such file (repository not found). If the repo is private, make",
        ),
        ("hf://datasets/owner/name@v9/{}.parquet", "no such file (revision not found)"),
        ("hf://datasets/owner/name/none/{}.parquet", "no such file"),
        (
            "hf://datasets/owner/gated/{}.parquet",
            "You must be authenticated.; log in with `hf auth login`, or set",
        ),
    ],
)
def test_what_is_not_there_is_said_at_once_in_a_line(place, url, message):
    server, shell, folder = place
    for name in ("name", "gated"):
        server.push(f"datasets/owner/{name}", {"a.parquet": BODY})
    server.gated.add("datasets/owner/gated")
    sources = ["--output", f"{folder}/out", "--cache", f"{folder}/cache", "--sources", url.format("a")]
    done = shell("pipeline", "fetch", *sources)
    assert (done.code, done.waited) == (1, 0)
    last = done.err.splitlines()[-1]
    assert last.startswith(f"pipeline fetch: {url.format('a')}: ")
    assert message in last
    assert "Traceback" not in done.err
    if "gated" not in url:  # its tree is open to all
        done = look(shell, folder, url.format("*"))
        assert (done.code, done.waited) == (1, 0)
        last = done.err.splitlines()[-1]
        assert last.startswith(f"pipeline.common.errors.StageError: crawl.texts: {url.format('*')}: no ")
        assert not list((folder / "cache").glob("lists/*"))


def test_a_hub_that_answers_by_and_by_is_left(place):
    """Its own client waits for each byte, and has no bound for all of them."""
    server, shell, folder = place
    commit = server.push("datasets/owner/name", {"a.parquet": BODY})
    slow = "/api/datasets/owner/name", f"/api/datasets/owner/name/revision/{commit}"
    server.files |= dict.fromkeys(slow, bytes(20))
    server.faults = {path: ["slow 0.3"] * 9 for path in slow}
    less = "import pipeline.network.transports as t; t.HEAD_SECONDS = t.LIST_SECONDS = 0.01\n"
    pattern = f"hf://datasets/owner/name@{commit}/*.parquet"
    found = shell("-c", less + LOOK.format(pattern=pattern, cache=f"{folder}/cache"))
    assert f"{pattern}: no answer within 0 s, 4 times; check the network" in found.err
    source = {"url": FILE, "output": f"{folder}/out", "cache": f"{folder}/cache"}
    done = shell("-c", less + FETCH.format(**source))
    assert f"{FILE}: no answer within 0 s, 9 times; check the network" in done.err


def test_a_hub_that_is_away_is_asked_some_times(place):
    server, shell, folder = place
    server.push("datasets/owner/name", {"a.parquet": BODY})
    with server.away():
        sources = ["--output", f"{folder}/out", "--cache", f"{folder}/cache", "--sources", FILE]
        done = shell("pipeline", "fetch", *sources)
        seen = look(shell, folder, "hf://datasets/owner/name/*.parquet")
    for found, most in ((done, 600), (seen, 30)):
        last = found.err.splitlines()[-1]
        assert found.code == 1
        assert "Connection refused, " in last
        assert "check the network" in last
        assert 0 < found.waited < most
    assert "Traceback" not in done.err
    assert look(shell, folder, "hf://datasets/owner/name/*.parquet").code == 0
