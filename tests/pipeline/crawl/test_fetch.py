"""Files of a crawl: which are chosen, how they arrive, the cache, and the pages that are made of them."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_files import CRAWL, make_crawl, paths_gz
from server import serving

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, read_json
from pipeline.crawl import fetch as fetch_module
from pipeline.crawl.commoncrawl import RECORDS, archives, chosen, texts
from pipeline.crawl.fetch import fetch_files, trim
from pipeline.crawl.manifest import manifest
from pipeline.crawl.options import CommonCrawl, Crawl, Index, Texts
from pipeline.crawl.origins import input_files, read_folder, unique_name
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract
from pipeline.network.urls import SHORT, file_name


def same_in_32_bits(url: str) -> list[str]:
    """Two URLs in place of `{}` whose xxh3 has the same first eight digits: one in some 80,000 has."""
    known: dict[str, str] = {}
    for number in itertools.count():
        one = url.format(number)
        other = known.setdefault(xxhash.xxh3_64_hexdigest(one.encode())[:8], one)
        if other != one:
            return [other, one]
    raise AssertionError


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    return make_crawl(tmp_path_factory.mktemp("crawl"), french=1)


@pytest.fixture
def server(crawl, monkeypatch):
    monkeypatch.setattr("pipeline.network.client.FIRST_WAIT", 0.0)
    with serving() as running:
        running.files = dict(crawl)
        yield running


def urls(server, count=4) -> list[str]:
    return [server.url + path for path in sorted(server.files) if path.endswith(".warc.gz")][:count]


def fetch(tmp_path, sources, gigabytes=1, name="00000", connections=3) -> Path:
    fetch_files(sources, str(tmp_path / name), str(tmp_path / "cache"), gigabytes, connections)
    return tmp_path / name


def contents(folder: Path) -> dict[str, bytes]:
    files, _ = read_folder(folder)
    return {entry["source"]: (folder / entry["file"]).read_bytes() for entry in files}


def choose(server, tmp_path, **changes) -> list[str]:
    options = read(CommonCrawl, {"crawl": CRAWL, "base_url": server.url} | changes)
    return chosen(options, str(tmp_path / "cache"), 3)


# Which files ---------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.integers(0, 999), min_size=2, max_size=40, unique=True),
    seed=st.integers(0, 5),
    order=st.randoms(),
)
def test_more_files_begin_with_the_same_whatever_the_order_of_the_list(server, tmp_path, numbers, seed, order):
    paths = [f"crawl-data/{CRAWL}/segments/1/warc/x-{number}.warc.gz" for number in numbers]
    found = []
    for _ in range(2):
        order.shuffle(paths)
        server.files[f"/crawl-data/{CRAWL}/warc.paths.gz"] = paths_gz([*paths, paths[0]])
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        found.append(choose(server, tmp_path, files="all", seed=seed))
        for count in (1, len(paths) - 1):
            assert choose(server, tmp_path, files=count, seed=seed) == found[-1][:count]
    assert found[0] == found[1]
    assert sorted(found[0]) == sorted(f"{server.url}/{path}" for path in paths)


def test_the_list_is_fetched_once_and_another_seed_chooses_others(server, tmp_path):
    first = choose(server, tmp_path, files="all")
    assert choose(server, tmp_path, files="all", seed=1) != first
    assert len(server.requests) == 1
    with pytest.raises(StageError, match=r"files: 5, but CC-MAIN-2026-30 has 4; give that or all"):
        choose(server, tmp_path, files=5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "not a list of paths: Not a gzipped"),
        (paths_gz(["a/b"])[:-9], "not a list of paths: Compressed file ended"),
        (paths_gz([]), "holds 'nothing'"),
        (paths_gz(["crawl-data/../../etc/passwd"]), "it holds 'crawl-data/../../etc/passwd'"),
        (paths_gz(["/etc/passwd"]), "it holds '/etc/passwd'"),
        (paths_gz(["https://elsewhere.example/x"]), "it holds 'https://elsewhere"),
        (paths_gz(["\x1b[2J" * 1000]), "not a list of paths: it holds '\\x1b[2J"),
        (gzip.compress(b"a/b\n" * 2**20 + b"a/c\n"), "more than 1,048,576 lines or 134,217,728 bytes"),
        (gzip.compress(bytes(2**27 + 1), 1), "more than 1,048,576 lines or 134,217,728 bytes"),
        (None, "HTTP 404: it does not exist; check the name of the crawl"),
    ],
    ids=["html", "cut", "empty", "climbing", "absolute", "elsewhere", "controls", "lines", "bomb", "missing"],
)
def test_a_list_that_is_none_is_named_and_not_kept(server, tmp_path, body, message):
    path = f"/crawl-data/{CRAWL}/warc.paths.gz"
    good = server.files.pop(path)
    if body is not None:
        server.files[path] = body
    with pytest.raises(StageError, match=r"warc\.paths\.gz: ") as caught:
        choose(server, tmp_path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000
    server.files[path] = good
    assert len(choose(server, tmp_path, files="all")) == 4


def test_the_manifest_has_own_files_then_commoncrawl_then_records_and_texts_by_themselves(server, tmp_path):
    (tmp_path / "own.warc.gz").touch()
    (tmp_path / "list.txt").write_text("https://a.example/1.warc.gz\n\ns3://b/2.warc.gz\n")
    (tmp_path / "wiki.jsonl").touch()
    crawl = Crawl(
        warcs=["https://own.example/x.warc.gz", str(tmp_path / "*.warc.gz"), str(tmp_path / "list.txt")],
        commoncrawl=CommonCrawl(crawl=CRAWL, files=2, base_url=server.url),
        index=Index(crawl=CRAWL, languages=["fra"], files=3),
        texts=[Texts(files=[str(tmp_path / "*.jsonl")]), Texts(files=["https://t.example/a.parquet"])],
        cache=str(tmp_path / "cache"),
    )
    entries = archives(crawl)
    assert entries[:3] == [
        ["https://own.example/x.warc.gz"],
        [str(tmp_path / "own.warc.gz")],
        ["https://a.example/1.warc.gz", "s3://b/2.warc.gz"],
    ]
    assert [len(entry) for entry in entries[3:]] == [2, 3]
    assert entries[4][0] == f"{RECORDS}0"
    assert texts(crawl) == [[str(tmp_path / "wiki.jsonl")], ["https://t.example/a.parquet"]]


def test_wrong_addresses_and_duplicates_are_problems_of_the_config(tmp_path):
    (tmp_path / "list.txt").write_text("https://a.example/1\nhttps://a.example/1\nfile:///etc/passwd\nplain\n")
    _, problems = manifest([str(tmp_path / "list.txt"), "ftp://x/y", "https://a.example/1"])
    text = "\n".join(problems)
    for part in (
        "names local files and URLs",
        "names 1 files twice",
        "file scheme",
        "ftp scheme",
        "https://a.example/1 is named twice",
    ):
        assert part in text
    bad = {
        "commoncrawl": {"crawl": "CC/../x", "files": "many", "base_url": "ftp://x"},
        "index": {"crawl": CRAWL, "languages": ["fr"]},
        "texts": [{"files": ["a.docx", "https://a.example/a.docx"]}],
        "connections": 50,
    }
    with pytest.raises(ConfigError) as caught:
        read(Crawl, bad)
    for part in (
        "commoncrawl.crawl: 'CC/../x' is no name of a crawl",
        "commoncrawl.files: 'many'; give a number or all",
        "commoncrawl.base_url: ftp scheme",
        "index.languages[0]: 'fr'; the index names languages by three letters (ISO 639-3): did you mean fra?",
        "texts[0].files: local files and URLs in one entry",
        "texts[0].files: no file matches a.docx",
        "texts[0].files: https://a.example/a.docx: not a known kind of file",
        "connections: 50 is too large; the most is 10",
    ):
        assert part in str(caught.value)


def test_what_a_bucket_calls_its_files_names_none_of_this_machine(tmp_path, monkeypatch):
    crawl = Crawl(texts=[Texts(files=["s3://bucket/*.jsonl"])], cache=str(tmp_path))
    for names, message in (
        (
            ["s3://bucket/a.jsonl", "s3://bucket/b\n/etc/passwd"],
            r"'s3://bucket/b\\n/etc/passwd': a URL holds no white",
        ),
        (["s3://bucket/a.jsonl"] * 4, r"\*\.jsonl: 4 files match; narrow it"),
    ):
        monkeypatch.setattr("pipeline.crawl.commoncrawl.LIST_LINES", 3)
        monkeypatch.setattr("pipeline.network.client.Client.find", lambda *_, names=names: names)
        with pytest.raises(StageError, match=message):
            texts(crawl)
        assert not list(tmp_path.glob("lists/*"))


# How they arrive -----------------------------------------------------------------------------------


def test_a_folder_holds_the_files_of_the_server_under_names_of_their_own(server, crawl, tmp_path):
    server.files["/other/CC-MAIN-x-00000.warc.gz"] = b"another"
    server.files["/evil/..%2F..%2Fetc%2Fpasswd"] = b"root"
    sources = [*urls(server), f"{server.url}/evil/..%2F..%2Fetc%2Fpasswd"]
    folder = fetch(tmp_path, sources)
    found = contents(folder)
    assert found == {source.removeprefix(server.url + "/") if "crawl-data" in source else source: server.files[
        source.removeprefix(server.url)
    ] for source in sources}  # fmt: skip
    assert all(path.parent == folder for path in folder.rglob("*"))
    assert not list((tmp_path / "cache/parts").iterdir())


def test_what_is_missing_is_counted_and_left_out_but_not_all_of_it(server, tmp_path):
    sources = [*urls(server, 2), f"{server.url}/crawl-data/gone.warc.gz"]
    files, failed = read_folder(fetch(tmp_path, sources))
    assert len(files) == 2
    assert failed == [
        {"reason": "fetch_http_404", "source": "crawl-data/gone.warc.gz", "documents": 1, "bytes": 0}
    ]
    with pytest.raises(StageError, match="HTTP 404"):
        fetch(tmp_path, sources[2:], name="00001")


def test_a_stage_that_fails_keeps_what_came_and_fetches_only_the_rest(server, tmp_path):
    sources = urls(server)
    server.faults[sources[3].removeprefix(server.url)] = ["drop 1000", "status 403"]
    for gigabytes in (0, 1):
        server.requests.clear()
        server.faults[sources[3].removeprefix(server.url)] = ["drop 1000", "status 403"]
        with pytest.raises(StageError, match="forbidden"):  # one after the other: the error would break off others
            fetch(tmp_path, sources, gigabytes, f"{gigabytes}", connections=1)
        assert not (tmp_path / f"{gigabytes}").exists()
        # What a writer has beside its file, and leaves where it is killed.
        (tmp_path / f"{gigabytes}.part" / f"{gigabytes}" / "fetched.json.part").mkdir()
        assert len(contents(fetch(tmp_path, sources, gigabytes, f"{gigabytes}"))) == 4
        asked = [part for path, part in server.requests if path == sources[3].removeprefix(server.url)]
        assert asked == ["", "bytes=1000-", "bytes=1000-"]
        assert len(server.requests) == 3 + 3


def test_another_run_takes_files_from_the_cache_and_a_batch_keeps_its_own(server, tmp_path):
    sources = urls(server, 2)
    first = contents(fetch(tmp_path, sources, name="a"))
    asked = len(server.requests)
    assert contents(fetch(tmp_path, sources, name="b")) == first
    assert len(server.requests) == asked == 2
    kept = tmp_path / "cache/files"
    trim(kept, tmp_path / "cache/parts", 0)
    assert len(list(kept.iterdir())) == 2  # both are in use
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    oldest, newest = sorted(kept.iterdir())
    os.utime(oldest, (1, 1))
    trim(kept, tmp_path / "cache/parts", newest.stat().st_size)
    assert list(kept.iterdir()) == [newest]
    newest.unlink()
    os.mkfifo(newest)  # by another user of the cache
    folder = fetch(tmp_path, sources, name="c")
    assert all(path.is_file() for path in folder.iterdir())
    assert contents(folder) == first


def test_names_that_were_one_are_two(server, tmp_path):
    sources = same_in_32_bits(server.url + "/{}/x.warc.gz")
    for number, source in enumerate(sources):
        server.files[source.removeprefix(server.url)] = b"body %d" % number
    for gigabytes in (1, 0):
        folders = [fetch(tmp_path, [source], gigabytes, f"{gigabytes} {i}") for i, source in enumerate(sources)]
        assert [contents(folder) for folder in folders] == [{sources[0]: b"body 0"}, {sources[1]: b"body 1"}]
        assert list(contents(fetch(tmp_path, sources, gigabytes, f"{gigabytes}")).values()) == [
            b"body 0",
            b"body 1",
        ]


def test_the_cache_has_the_whole_hash_of_the_url_so_that_no_other_url_has_it(server, tmp_path):
    fetch(tmp_path, urls(server, 1))
    (kept,) = (tmp_path / "cache/files").iterdir()
    assert kept.name == hashlib.sha256(urls(server, 1)[0].encode()).hexdigest()


def test_two_signatures_of_a_file_are_two_sources_of_one_name(server, tmp_path):
    sources = [f"{server.url}/x.warc.gz?Signature={number}" for number in (1, 2)]
    for number, source in enumerate(sources):
        server.files[source.removeprefix(server.url)] = b"body %d" % number
    folder = fetch(tmp_path, sources)
    listed, _ = read_folder(folder)
    assert [entry["source"] for entry in listed] == [f"{server.url}/x.warc.gz?Signature=***"] * 2
    assert sorted((folder / entry["file"]).read_bytes() for entry in listed) == [b"body 0", b"body 1"]
    files, _ = input_files([str(folder)])
    assert len({file.unique_name for file in files}) == 2


def test_two_runs_of_one_batch_both_end_with_all_of_it(server, tmp_path):
    server.latency = 0.02
    errors = []

    def run(number: int) -> None:
        try:
            fetch_files(urls(server), str(tmp_path / "out"), str(tmp_path / f"cache {number}"), number, 2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(contents(tmp_path / "out").values()) == sorted(
        server.files[url.removeprefix(server.url)] for url in urls(server)
    )
    assert not list(tmp_path.glob("*.part"))


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=300))
def test_what_is_made_of_a_file_has_a_name_that_a_file_may_have(name):
    made = unique_name(name, f"folder/{name}")
    assert len(f"{made}.ledger.json.99.part".encode()) <= 255
    assert made != unique_name(name, f"other/{name}")
    longest = unique_name(f"{'0' * SHORT}-{file_name('https://h/' + 'x' * 500)}", "s")
    assert longest.startswith("0" * SHORT)  # which tells apart the files of one folder


def test_without_a_cache_only_the_batch_holds_its_files(server, tmp_path):
    folder = fetch(tmp_path, urls(server, 2), gigabytes=0)
    assert all(path.stat().st_nlink == 1 for path in folder.iterdir())
    assert not (tmp_path / "cache/files").exists()


def test_transfers_that_nobody_goes_on_with_leave_the_cache(tmp_path):
    for name in ("files", "parts"):
        (tmp_path / name).mkdir()
    for name, days in (("old", fetch_module.PART_DAYS + 1), ("new", 1)):
        (tmp_path / "parts" / name).touch()
        os.utime(tmp_path / "parts" / name, (time.time() - days * 86400,) * 2)
    trim(tmp_path / "files", tmp_path / "parts", 0)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["new"]


def test_a_cache_on_another_disk_is_copied_from(server, tmp_path, monkeypatch):
    def no_link(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    (tmp_path / "a.part/a/x.warc.gz.part").mkdir(parents=True)  # a run was killed while it copied
    first = contents(fetch(tmp_path, urls(server, 2), name="a"))
    assert contents(fetch(tmp_path, urls(server, 2), name="b")) == first
    assert len(server.requests) == 2


def test_a_full_disk_is_said_and_the_next_run_goes_on(server, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.crawl.fetch.os.fsync", full)
    with pytest.raises(OSError, match="make room and run again") as caught:
        fetch(tmp_path, urls(server, 1))
    assert caught.value.filename.startswith(str(tmp_path / "00000.part"))
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.network.client.FIRST_WAIT", 0.0)
    assert len(contents(fetch(tmp_path, urls(server, 1)))) == 1
    assert server.sent == len(server.files[urls(server, 1)[0].removeprefix(server.url)])  # once


# Pages ---------------------------------------------------------------------------------------------


def pages_of(output: Path) -> list[dict]:
    return [row for batch in read_arrow(output) for row in batch.to_pylist()]


def make_pages(tmp_path, language_id, warcs: list[str], name: str) -> list[dict]:
    output, ledger = tmp_path / name / "0.json", tmp_path / name / "0.ledger.json"
    extract(Extract(languages=["fr"]), warcs, language_id, str(output), str(ledger), 1, None)
    return pages_of(output)


def test_pages_say_commoncrawls_path_and_a_batch_of_other_number_extracts_nothing_again(
    server, tmp_path, language_id, monkeypatch
):
    folder = fetch(tmp_path, urls(server, 2))
    pages = make_pages(tmp_path, language_id, [str(folder)], "pages")
    assert {page["warc"] for page in pages} == {url.removeprefix(server.url + "/") for url in urls(server, 2)}
    moved = folder.rename(tmp_path / "00007")
    monkeypatch.setattr("pipeline.extract.webpages._pages", lambda *_: pytest.fail("extracted again"))
    assert make_pages(tmp_path, language_id, [str(moved)], "pages") == pages


def test_what_was_not_fetched_is_in_the_ledger_of_extract(server, tmp_path, language_id):
    folder = fetch(tmp_path, [*urls(server, 1), f"{server.url}/crawl-data/gone.warc.gz"])
    make_pages(tmp_path, language_id, [str(folder)], "pages")
    ledger = read_json(tmp_path / "pages/0.ledger.json")
    assert ledger["failed"]["fetch_http_404"]["documents"] == 1
    assert ledger["in"]["documents"] == 41


def test_records_make_the_same_pages_as_the_whole_files_with_the_same_provenance(server, tmp_path, language_id):
    from pipeline.crawl.index import plan_records
    from pipeline.crawl.records import fetch_records

    options = Index(crawl=CRAWL, languages=["fra"], files=1, base_url=server.url)
    cache = str(tmp_path / "cache")
    plan_records(options, str(tmp_path / "plan.arrow"), str(tmp_path / "plan.json"), cache, 3, 0.1, 1e6)
    fetch_records(options, str(tmp_path / "plan.arrow"), 0, str(tmp_path / "records"), cache, 3)
    of_records = make_pages(tmp_path, language_id, [str(tmp_path / "records")], "a")
    of_files = make_pages(tmp_path, language_id, [str(fetch(tmp_path, urls(server)))], "b")

    def place(page):
        return page["warc"], page["offset"]

    assert sorted(of_records, key=place) == sorted(of_files, key=place)
    assert len(of_records) == 160
