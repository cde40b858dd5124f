"""Transfers over a server that fails in every way that one can."""

from __future__ import annotations

import io
import random
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server import answering, serving

from pipeline.network import client as client_module
from pipeline.network import connections
from pipeline.network.client import Client
from pipeline.network.threads import map_in_threads, stream_in_threads
from pipeline.network.transports import FetchError
from pipeline.network.urls import file_name, redirected, source_name, url_problem

BODY = random.Random(1).randbytes(300_000)
# What costs one attempt and is made good by the next.
PASSING = [
    *("status 503", "status 429", "status 500", "refuse", "drop 0", "drop 1", "drop 99999", "corrupt"),
    *("ignore range", "wrong range", "weak", "no length", "change abc"),
]


@pytest.fixture
def server():
    with serving() as running:
        running.files["/a.warc.gz"] = BODY
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(tmp_path, waits) -> Client:
    return Client(3, tmp_path / "slots", waits.append)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(st.sampled_from(PASSING), max_size=6))
def test_a_download_ends_with_the_file_of_the_server_whatever_happens_on_the_way(server, tmp_path, faults):
    server.files["/a.warc.gz"], server.faults["/a.warc.gz"] = BODY, list(faults)
    path = tmp_path / "part"
    for leftover in tmp_path.iterdir():
        leftover.unlink()
    arrived = Client(1, sleep=lambda _: None).download(f"{server.url}/a.warc.gz", path)
    assert path.read_bytes() == server.files["/a.warc.gz"]
    assert arrived["bytes"] == path.stat().st_size
    asked = len(server.requests)
    server.faults.clear()
    assert (
        Client(1).download(f"{server.url}/a.warc.gz", path)["bytes"] == arrived["bytes"]
    )  # a run that was killed at the very end
    assert server.requests[asked:] == [("/a.warc.gz", f"bytes={arrived['bytes']}-")] or not arrived["validator"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(st.sampled_from([*PASSING[:7], "ignore range", "wrong range"]), max_size=6),
    ends=st.tuples(st.integers(0, len(BODY)), st.integers(0, len(BODY))),
)
def test_a_range_is_the_range_whatever_happens_on_the_way(server, faults, ends):
    start, stop = min(ends), max(ends) + 1
    server.faults["/a.warc.gz"] = list(faults)
    client = Client(1, sleep=lambda _: None)
    if stop > len(BODY):
        with pytest.raises(FetchError, match=r"it has 300000|no such range"):
            client.read(f"{server.url}/a.warc.gz", start, stop)
    else:
        assert client.read(f"{server.url}/a.warc.gz", start, stop) == BODY[start:stop]


def test_a_dropped_transfer_goes_on_where_it_stopped_in_this_process_and_in_the_next(server, client, tmp_path):
    url, path = f"{server.url}/a.warc.gz", tmp_path / "part"
    server.faults["/a.warc.gz"] = ["drop 200000", "status 404"]
    with pytest.raises(FetchError, match="HTTP 404"):
        client.download(url, path)
    Client(1).download(url, path)
    assert path.read_bytes() == BODY
    assert [asked for _, asked in server.requests] == ["", *["bytes=200000-"] * 2]
    assert server.sent == len(BODY) + 2  # and the "no" of the 404


def test_the_rest_of_a_file_whose_length_is_not_told_is_not_taken_for_all_of_it(tmp_path):
    answers = iter([
        b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 6\r\n\r\nabc",
        b"HTTP/1.1 206 Part\r\nETag: \"1\"\r\nContent-Range: bytes 3-3/*\r\nContent-Length: 1\r\n\r\nd",
        b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 6\r\n\r\nabcdef",
    ])  # fmt: skip
    with answering(lambda connection, _: connection.sendall(next(answers))) as url:
        Client(1, sleep=lambda _: None).download(f"{url}/x", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"abcdef"


@pytest.mark.parametrize("name", ["part", "part.json"])
def test_a_planted_symbolic_link_is_not_written_through(server, client, tmp_path, name):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        client.download(f"{server.url}/a.warc.gz", tmp_path / "part")
    assert (tmp_path / "victim").read_text() == "precious"


def test_waits_double_within_bounds_and_heed_retry_after(server, client, waits, tmp_path):
    server.faults["/a.warc.gz"] = [
        *["status 503"] * 3,
        "status 429 Retry-After: 33",
        "status 503 Retry-After: 999999",
        "status 503 Retry-After: Wed, 21 Oct 2015 07:28:00 GMT",
        "status 503 Retry-After: soon",
    ]
    client.download(f"{server.url}/a.warc.gz", tmp_path / "part")
    assert all(2**i / 2 <= wait <= 2**i for i, wait in enumerate(waits[:3]))
    assert waits[3:5] == [33, client_module.RETRY_AFTER_MAX]
    assert all(wait <= client_module.LONGEST_WAIT for wait in waits[5:])
    assert len(waits) == 7


def test_a_server_that_is_never_well_is_given_up_with_its_reason_and_the_part_is_kept(
    server, client, waits, tmp_path
):
    server.faults["/a.warc.gz"] = ["drop 100", *["status 503"] * 99]
    with pytest.raises(
        FetchError, match=r"a\.warc\.gz: HTTP 503 .*9 times; .*crawl\.connections.*goes on from here"
    ):
        client.download(f"{server.url}/a.warc.gz", tmp_path / "part")
    assert len(waits) == client_module.RETRIES
    assert (tmp_path / "part").read_bytes() == BODY[:100]


def test_a_long_file_may_break_off_more_often_than_a_short_one_if_it_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "PROGRESS", 1000)
    server.faults["/a.warc.gz"] = ["drop 5000"] * 30
    Client(1, sleep=lambda _: None).download(f"{server.url}/a.warc.gz", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY


@pytest.mark.parametrize(
    ("fault", "message", "status"),
    [
        ("status 403", "forbidden; CommonCrawl says so to too many connections", 403),
        ("status 404", "does not exist", 404),
        ("status 401", "needs an account", 401),
        ("redirect /a.warc.gz", "more than 5 redirects", 0),
        ("redirect file:///etc/passwd", "file scheme; only https", 0),
        ("redirect ftp://x/y", "ftp scheme", 0),
        ("redirect s3://bucket/key", "which is not followed", 0),
    ],
)
def test_what_will_not_get_better_fails_at_once(server, client, waits, tmp_path, fault, message, status):
    server.faults["/a.warc.gz"] = [fault] * 9
    with pytest.raises(FetchError, match=message) as caught:
        client.download(f"{server.url}/a.warc.gz", tmp_path / "part")
    assert caught.value.status == status
    assert not waits


def test_redirects_are_followed(server, client, tmp_path):
    server.faults["/moved"] = ["redirect /moved2"]
    server.faults["/moved2"] = [f"redirect {server.url}/a.warc.gz"]
    client.download(f"{server.url}/moved", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY


def test_https_never_leads_to_less_than_https():
    assert redirected("https://a/b", "/c") == "https://a/c"
    assert redirected("http://a/b", "https://c/d") == "https://c/d"
    with pytest.raises(ValueError, match="not followed"):
        redirected("https://a/b", "http://a/c")


def test_an_unreachable_host_and_a_disk_without_room_are_named(client, tmp_path, monkeypatch, server):
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:1/x: .*refused.*check the network"):
        client.download("http://127.0.0.1:1/x", tmp_path / "part")
    usage = type("Usage", (), {"free": client_module.SPARE_DISK + 1000})
    monkeypatch.setattr(client_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FetchError, match=r"300,000 bytes to come, .* free in .*make room"):
        client.download(f"{server.url}/a.warc.gz", tmp_path / "part")


def test_a_slow_body_is_given_up_and_a_long_answer_is_not_read(server, client, waits, monkeypatch):
    with pytest.raises(FetchError, match="longer than 1000 bytes"):
        client.read_whole(f"{server.url}/a.warc.gz", 1000)
    monkeypatch.setattr(connections, "SLOW_SECONDS", 0.05)
    monkeypatch.setattr(connections, "SLOW_RATE", 10**9)
    server.faults["/a.warc.gz"] = ["slow 0.02"] * 2
    client.retries = 1
    with pytest.raises(FetchError, match=r"only \d+ bytes of the body in 0 s, 2 times"):
        client.read_whole(f"{server.url}/a.warc.gz", 10**6)


def test_a_range_of_a_changed_file_and_of_a_server_without_ranges_is_an_error(server, client, monkeypatch):
    url = f"{server.url}/a.warc.gz"
    size, validator = client.size(url)
    assert size == len(BODY)
    server.files["/a.warc.gz"] = BODY + b"x"
    with pytest.raises(FetchError, match="changed while it was read"):
        client.read(url, 10, 20, validator)
    monkeypatch.setattr(client_module, "WHOLE_MAX", 1000)
    server.faults["/a.warc.gz"] = ["ignore range"]
    with pytest.raises(FetchError, match="ignores Range"):
        client.read(url, 100_000, 100_010)


def test_all_clients_that_share_a_folder_share_its_connections(server, tmp_path):
    server.latency = 0.02
    clients = [Client(2, tmp_path / "slots") for _ in range(5)]
    threads = [threading.Thread(target=c.read, args=(f"{server.url}/a.warc.gz", 5, 10)) for c in clients * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most_open <= 2
    assert len(server.requests) == 15


@pytest.mark.parametrize("in_threads", [map_in_threads, stream_in_threads])
def test_an_error_does_not_wait_for_those_that_still_try(server, in_threads):
    server.files |= {"/first": b"", "/second": b""}
    server.faults = {"/first": ["status 503 Retry-After: 30"] * 9, "/second": ["status 403"]}
    client, more = Client(2), ("title", "files") if in_threads is map_in_threads else ()
    paths = ["/first", "/second"]
    with pytest.raises(FetchError, match="/second: HTTP 403"):
        list(in_threads(client, lambda path: client.read_whole(server.url + path, 9), paths, *more))
    assert len([path for path, _ in server.requests if path == "/first"]) <= 1


def test_object_stores_are_read_with_fsspec_and_resume_as_well(tmp_path, monkeypatch):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Store(MemoryFileSystem):
        protocol = "s3"
        failures = 3

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("s3://").lstrip("/")

        def open(self, path, mode="rb", **more):
            return Body(self.cat_file(path)) if mode == "rb" else super().open(path, mode, **more)

    class Body(io.BytesIO):
        def read(self, size=-1):
            if self.tell() and Store.failures:
                Store.failures -= 1
                raise OSError("SlowDown")
            return super().read(size)

    fsspec.register_implementation("s3", Store, clobber=True)
    monkeypatch.setattr("pipeline.network.transports.BLOCK", 100_000)
    Store().pipe("/bucket/a.warc.gz", BODY)
    client = Client(1, sleep=lambda _: None)
    client.download("s3://bucket/a.warc.gz", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    assert client.read("s3://bucket/a.warc.gz", 7, 250_000) == BODY[7:250_000]
    assert Store.failures == 0
    Store().pipe({"/bucket/a": b"other", "/bucket/a::b*": b"this"})  # for fsspec a chain of two, and a glob
    assert client.read("s3://bucket/a::b*", 0, 4) == b"this"
    with pytest.raises(FetchError, match="no such file") as caught:
        client.read("s3://bucket/b", 0, 1)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://a/b", "http://", "http://[x/", "http://u:p@h/x", "https://a/b c", "a/b"]
)
def test_only_plain_addresses_are_fetched(url, client):
    assert url_problem(url)
    with pytest.raises(FetchError):
        client.read(url, 0, 1)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.sampled_from(["https://host/", "s3://bucket/a/", "http://host/%2e%2e/"]))
def test_a_file_name_from_a_url_never_leaves_its_folder(path, base):
    name = file_name(base + path)
    assert name not in ("", ".", "..")
    assert set("/\\\0:") & set(name) == set()
    assert len(name) <= 150
    assert not name.startswith((".", "-"))


def test_provenance_is_commoncrawls_path_from_every_mirror():
    path = "crawl-data/CC-MAIN-2026-30/segments/1.2/warc/CC-MAIN-x-00000.warc.gz"
    for base in ("https://data.commoncrawl.org/", "s3://commoncrawl/", "http://localhost:80/mirror/"):
        assert source_name(base + path) == path
    assert source_name("https://own.example/a.warc.gz") == "https://own.example/a.warc.gz"
