"""Servers that mean harm: they hold the client, fill the disk, lead it astray, or write on the terminal."""

from __future__ import annotations

import io
import itertools
import logging
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from server import answering, serving

from pipeline.__main__ import STAGES
from pipeline.common.cli import main, start_logging
from pipeline.network import client as client_module
from pipeline.network import connections, transports
from pipeline.network.client import Client
from pipeline.network.connections import has_no_files, is_private
from pipeline.network.transports import FetchError

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.0)


@pytest.fixture
def impatient(monkeypatch):
    """For servers that are to be given up: on a loaded machine any server may be as slow."""
    monkeypatch.setattr(connections, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)


def drip(connection: socket.socket, head: bytes, each: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(each)
        time.sleep(0.02)


def flood(connection: socket.socket, head: bytes, each: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(each * 100)


# Held for ever -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "head", "each"),
    [
        (drip, OK + b"Content-Length: 100000\r\n\r\n", b"x"),
        (drip, OK + b"\r\n", b"x"),
        (drip, CHUNKED, b"1\r\nx\r\n"),
        (drip, CHUNKED + b"5;", b"x"),
        (drip, OK + b"X: ", b"y"),
        (drip, b"HTTP/1.1 2", b"0"),
        (drip, OK + b"Content-Length: 100000\r\n\r\n", b""),
        (drip, b"", b""),
        (flood, b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (flood, CHUNKED + b"1\r\nx\r\n0\r\n", b"Trailer: x\r\n"),
    ],
    ids=["body", "no length", "chunks", "size", "head", "status", "silent", "mute", "continue", "trailers"],
)
@pytest.mark.usefixtures("impatient")
def test_no_server_holds_the_client_for_long(how, head, each):
    given_up = pytest.raises(FetchError, match=r"only \d+ bytes of the body in 0 s, 2 times")
    with answering(lambda connection, path: how(connection, head, each)) as url, given_up:
        Client(1, retries=1).read_whole(f"{url}/x", 10**6)


def test_redirects_that_take_their_time_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(transports, "HEAD_SECONDS", 0.2)

    def answer(connection, path):
        time.sleep(0.11)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with answering(answer) as url, pytest.raises(FetchError, match="only redirects in 0 s, 1 times"):
        Client(1, retries=0).read_whole(f"{url}/x", 10**6)


def test_a_slow_body_that_is_fast_enough_comes_whole(monkeypatch):
    monkeypatch.setattr(connections, "SLOW_RATE", 100)
    monkeypatch.setattr(connections, "SLOW_SECONDS", 1.0)

    def answer(connection, path):
        connection.sendall(OK + b"Content-Length: 6000\r\n\r\n")
        for _ in range(60):
            connection.sendall(b"x" * 100)  # 5,000 bytes a second
            time.sleep(0.02)

    with answering(answer) as url:
        assert Client(1).read_whole(f"{url}/x", 10**6) == b"x" * 6000


def test_a_reader_that_takes_its_time_is_not_the_servers_fault(monkeypatch):
    seconds = 0.0  # which pass for the reader alone
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: seconds))
    monkeypatch.setattr(connections, "SLOW_SECONDS", 0.05)
    with serving() as server:
        server.files["/x"] = bytes(2**20)
        with Client(1)._open(f"{server.url}/x", 0, None, "") as answer:
            size = 0
            for piece in answer.pieces:
                size += len(piece)
                seconds += 0.1
    assert size == 2**20


@pytest.mark.parametrize("growth", [0, 2000])
@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_begins_again_each_time_is_no_progress(monkeypatch, tmp_path, growth, etag):
    monkeypatch.setattr(client_module, "PROGRESS", 1000)
    numbers = itertools.count()

    def answer(connection, path):
        number = next(numbers)
        head = b'ETag: "%d"\r\n' % number if etag else b""
        connection.sendall(OK + head + b"Content-Length: 999999\r\n\r\n" + b"x" * (2000 + growth * number))

    with answering(answer) as url, pytest.raises(FetchError, match=r"began again 3 times|, 4 times"):
        Client(1, retries=3).download(f"{url}/x", tmp_path / "part")
    assert next(numbers) <= 10


def test_many_breaks_with_progress_are_borne(monkeypatch, tmp_path):
    monkeypatch.setattr(client_module, "PROGRESS", 1000)
    with serving() as server:
        server.files["/x"] = bytes(100_000)
        server.faults["/x"] = ["drop 2000"] * 40
        assert Client(1, retries=3).download(f"{server.url}/x", tmp_path / "part")["bytes"] == 100_000


def test_a_hub_that_never_answers_is_left(monkeypatch):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    never = threading.Event()

    class Silent(MemoryFileSystem):
        protocol = "s3"

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("s3://").lstrip("/")

        def open(self, path, mode="rb", **more):
            return Body(b"x" * 100) if mode == "rb" else super().open(path, mode, **more)

    class Body(io.BytesIO):
        def read(self, size=-1):
            never.wait()

    fsspec.register_implementation("s3", Silent, clobber=True)
    Silent().pipe("/bucket/a", b"x" * 100)
    monkeypatch.setattr(transports, "SLOW_SECONDS", 0.05)
    with pytest.raises(FetchError, match="no answer within 0 s, 2 times"):
        Client(1, retries=1).read("s3://bucket/a", 0, 100)
    monkeypatch.setattr(Silent, "glob", lambda *_, **__: never.wait())
    monkeypatch.setattr(transports, "LIST_SECONDS", 0.05)
    with pytest.raises(FetchError, match="no answer within 0 s, 1 times"):
        Client(1, retries=0).find("s3://bucket/*")
    never.set()


# Sizes ---------------------------------------------------------------------------------------------


def endless(connection: socket.socket, path: str) -> None:
    head = {
        "/none": OK + b"\r\n",
        "/chunks": CHUNKED,
        "/range": b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/10\r\n\r\n",
    }[path]
    flood(connection, head, b"3e8\r\n" + b"x" * 1000 + b"\r\n" if path == "/chunks" else b"x" * 1000)


@pytest.mark.parametrize("path", ["none", "chunks"])
def test_a_body_without_a_length_ends_where_a_file_must_and_leaves_nothing(monkeypatch, tmp_path, path):
    monkeypatch.setattr(client_module, "UNSTATED_MAX", 10**6)
    with (
        answering(endless) as url,
        pytest.raises(FetchError, match=r"longer than 1,000,000 bytes, and its length"),
    ):
        Client(1).download(f"{url}/{path}", tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == 0


def test_the_disk_is_looked_at_while_a_body_grows(monkeypatch, tmp_path):
    monkeypatch.setattr(client_module, "ROOM_BYTES", 10**5)
    part = tmp_path / "part"

    def usage(_):
        return type("Usage", (), {"free": client_module.SPARE_DISK + 10**6 - part.stat().st_size})

    monkeypatch.setattr(client_module.shutil, "disk_usage", usage)
    with answering(endless) as url, pytest.raises(FetchError, match=r"free in .*make room"):
        Client(1).download(f"{url}/none", part)
    assert part.stat().st_size == 0


def test_more_bytes_than_the_file_has_are_not_written(tmp_path):
    with answering(endless) as url:
        with pytest.raises(FetchError, match="more than its 10 bytes came, 2 times"):
            Client(1, retries=1).download(f"{url}/range", tmp_path / "part")
        assert (tmp_path / "part").stat().st_size == 0
        assert Client(1).read(f"{url}/range", 0, 10) == b"x" * 10


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000,
        b"HTTP/1.1 503 Busy\r\nRetry-After: " + b"9" * 5000,
        b"HTTP/1.1 503 Busy\r\nRetry-After: 1" + b"0" * 400,
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/" + b"9" * 5000,
        b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-0/" + b"9" * 19,
        b"HTTP/1.1 200 OK\r\nRepr-Digest: sha-256=:" + b"A" + b"=" * 43 + b":",
        b"HTTP/1.1 302 Found\r\nLocation: http://[",
        b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 70 + b".example/",
        b"HTTP/9.9 xx\r\nA",
    ],
)
def test_a_head_of_nonsense_is_an_error_in_a_line(head):
    with (
        answering(lambda connection, path: connection.sendall(head + b"\r\n\r\n")) as url,
        pytest.raises(FetchError),
    ):
        Client(1, retries=1, sleep=lambda _: None).size(f"{url}/x")


# Astray --------------------------------------------------------------------------------------------


def test_what_is_private():
    for address in (
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "::ffff:10.0.0.1"),
        *("::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "64:ff9b:1::1"),
    ):
        assert is_private(address), address
    for address in ("8.8.8.8", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"):
        assert not is_private(address), address
        assert not has_no_files(address), address
    clouds = ("100.100.100.200", "192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16", "fd00:ec2::254")
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", *clouds):  # noqa: S104
        assert has_no_files(address), address
        assert is_private(address), address


@pytest.fixture
def inside():
    """A server that nobody outside should reach."""
    with serving() as server:
        server.files["/secret"] = b"the keys"
        yield server


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LocalHost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.2", "[::1]"),
        *("[::ffff:127.0.0.1]", "169.254.169.254", "10.1.2.3", "100.64.0.1", "0", "[fe80::1]"),
    ],
)
def test_a_redirect_into_this_network_is_refused_at_once(inside, host):
    port = inside.server_address[1]
    with serving() as server:
        server.faults["/x"] = [f"redirect http://{host}:{port}/secret"]
        with pytest.raises(FetchError, match=r"/x: redirects to .*which is not public"):
            Client(1, sleep=lambda _: pytest.fail("tried again")).read_whole(f"{server.url}/x", 1000)
    assert not inside.requests


def test_a_redirect_to_the_host_that_was_asked_is_followed_whatever_its_port(inside):
    with serving() as server:
        server.faults["/x"] = [f"redirect {inside.url}/secret"]
        assert Client(1).read_whole(f"{server.url}/x", 1000) == b"the keys"


def test_a_name_is_as_public_as_the_address_that_is_connected_to(inside, monkeypatch):
    real, asked = socket.getaddrinfo, []

    def getaddrinfo(host, *arguments, **more):
        asked.append(host)
        if host == "9.9.9.9":
            raise socket.gaierror("not in a test")
        answers = {"mirror.example": ["127.0.0.1"], "two.example": ["127.0.0.2", "127.0.0.1"]}
        # What an attacker's name server says: first one thing, then another.
        answers["evil.example"] = ["127.0.0.1"] if asked.count("evil.example") > 1 else ["9.9.9.9"]
        if answers.get(host) == ["9.9.9.9"]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("9.9.9.9", 80))]
        return [entry for name in answers.get(host, [host]) for entry in real(name, *arguments, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    port = inside.server_address[1]
    for host in ("mirror.example", "two.example"):  # as the config has it
        assert Client(1).read_whole(f"http://{host}:{port}/secret", 1000) == b"the keys"
    inside.requests.clear()
    with serving() as server:
        server.faults["/x"] = [f"redirect http://evil.example:{port}/secret"] * 2
        asked.clear()
        with pytest.raises(FetchError, match=r"9\.9\.9\.9"):
            Client(1, retries=0).read_whole(f"{server.url}/x", 1000)
        assert asked[-2:] == ["evil.example", "9.9.9.9"]
        with pytest.raises(FetchError, match=r"at 127\.0\.0\.1, which is not public"):
            Client(1, retries=0).read_whole(f"{server.url}/x", 1000)
        server.faults["/x"] = [f"redirect http://mirror.example:{port}/secret"]
        with pytest.raises(
            FetchError, match=r"redirects to 'http://mirror.example:\d+/secret'; name that address"
        ):
            Client(1).read_whole(f"{server.url}/x", 1000)
    assert not inside.requests


def test_metadata_of_a_cloud_is_not_fetched_even_if_a_list_names_it():
    for url in ("http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/x", "http://0.0.0.0:80/x"):
        with pytest.raises(FetchError, match=r"has no files to fetch, at .*, which is not public"):
            Client(1).read_whole(url, 1000)


# Secrets and terminals -----------------------------------------------------------------------------

SIGNED = "X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=0f1e2d3c"


@pytest.mark.parametrize(
    "fault",
    ["status 403", "status 404", "status 503", "drop 5", "redirect /x?token=0f1e2d3c", "redirect ftp://x/?t=0f1e2d3c",
     "redirect http://u:0f1e2d3c@127.0.0.1/x", "redirect http://localhost/?sig=0f1e2d3c", "wrong range", "refuse"],
)  # fmt: skip
def test_no_error_tells_the_signature_of_a_url(fault, tmp_path):
    with serving() as server:
        server.files["/x"] = bytes(1000)
        server.faults["/x"] = [fault] * 9
        with pytest.raises(FetchError) as caught:
            Client(1, retries=1, sleep=lambda _: None).read(f"{server.url}/x?{SIGNED}", 5, 2000)
    assert f"{server.url}/x?X-Amz-Credential=***&X-Amz-Signature=***: " in str(caught.value)
    assert "0f1e2d3c" not in str(caught.value)
    assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 no server for /x?sig=0f1e2d3c4b5a\r\n\r\n",
        b"no server for /x?sig=0f1e2d3c4b5a\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /login/0f1e2d3c4b5a\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/0f1e2d3c4b5a\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: ftp://h/a%20word0f1e2d3c4b5a\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0f1e2d3c4b5a?\r\n",
    ],
)
def test_what_a_server_repeats_of_a_url_is_not_told(answer):
    with (
        answering(lambda connection, path: connection.sendall(answer)) as url,
        pytest.raises(FetchError) as caught,
    ):
        Client(1, retries=1, sleep=lambda _: None).read_whole(f"{url}/x?sig=0f1e2d3c4b5a&word=a%20word&n=1", 9)
    assert "0f1e2d3c" not in str(caught.value)
    assert "a%20word" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@h/x", "https://me:hun/ter2@h/x", "https://me:hunter2 @h/x?a=hunter2"]
)
def test_a_refused_password_is_not_printed(url, capsys, tmp_path, caplog):
    arguments = ["fetch", "--sources", url, "--output", str(tmp_path / "o"), "--cache", str(tmp_path / "c")]
    assert main("pipeline", "", STAGES, arguments) == 1
    printed = "".join(capsys.readouterr()) + caplog.text
    assert "ter2" not in printed
    assert "https://***@h/x" in printed


def test_what_a_server_says_does_not_steer_the_terminal(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "RETRIES", 0)
    monkeypatch.setattr(Client.__init__, "__defaults__", (None, None, 0))
    answers = [
        b"HTTP/1.1 503 \x1b[2J\x1b]0;owned\x07 busy\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: ftp://x/\x1b[31m\u202e\x9b2J\r\n\r\n".encode("utf-8"),
    ]
    for number, answer in enumerate(answers):
        with answering(lambda connection, path, answer=answer: connection.sendall(answer)) as url:
            arguments = [
                "--sources",
                f"{url}/x",
                "--output",
                str(tmp_path / f"{number}"),
                "--cache",
                str(tmp_path),
            ]
            assert main("pipeline", "", STAGES, ["fetch", *arguments]) == 1
        printed = capsys.readouterr().err
        assert (
            "\x1b" not in printed and "\x07" not in printed and "\x9b" not in printed and "\u202e" not in printed
        )
        assert "pipeline fetch: " in printed.splitlines()[-1]


def test_a_log_line_is_one_line_without_secrets_and_terminal_codes():
    before = logging.getLogRecordFactory()
    start_logging()
    printed = io.StringIO()
    library = logging.Logger("a library with a handler of its own")
    library.addHandler(logging.StreamHandler(printed))
    try:
        raise ValueError("\x1b[2J https://h/?sig=0f1e")
    except ValueError:
        library.exception("a\n12:00:00 all is well\x1b[2J %s", "s3://k:pw@b/")
    finally:
        logging.setLogRecordFactory(before)
    first, *rest = printed.getvalue().strip().split("\n")
    assert first == r"a\n12:00:00 all is well\x1b[2J s3://***@b/"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == r"ValueError: \x1b[2J https://h/?sig=***"


def test_the_part_of_a_signed_url_is_not_named_after_it(tmp_path):
    """Kept in the cache for days, where others of the machine may look."""
    from pipeline.crawl.fetch import fetch_files

    with serving() as server:
        server.files[f"/x.gz?{SIGNED}"] = b"body"
        fetch_files([f"{server.url}/x.gz?{SIGNED}"], str(tmp_path / "out"), str(tmp_path / "cache"), 1, 1)
    for path in tmp_path.rglob("*"):
        assert "0f1e2d3c" not in str(path)
        assert not path.is_file() or b"0f1e2d3c" not in path.read_bytes()
    assert b"X-Amz-Signature=***" in Path(tmp_path, "out/fetched.json").read_bytes()
