"""One request for bytes of a file: over HTTP with urllib3, or from s3:// and hf:// with fsspec.

Both give an Answer, or raise: FetchError where another try cannot help, Interrupted where it may.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import urllib3

from pipeline.common.errors import StageError, one_line
from pipeline.common.shown import shown
from pipeline.network.connections import HEAD_SECONDS, SLOW_RATE, SLOW_SECONDS, Pools, PrivateAddress, TooSlow
from pipeline.network.urls import redirected

T = TypeVar("T")

CONNECT_SECONDS = 20.0
LIST_SECONDS = 600.0  # for a list of files on a hub or in an object store
REDIRECTS_MAX = 5
PIECE, BLOCK = 2**18, 2**23
BUSY = (408, 425, 429, 500, 502, 503, 504)
USER_AGENT = "neutral-residues (corpus toolkit; polite)"


class FetchError(StageError):
    """A file cannot be fetched, and another try now will not help; `status` is 404 where it does not exist."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(Exception):
    """An attempt that failed and may succeed later; `gained` bytes of it are kept."""

    def __init__(self, why: str, wait: float = 0.0, gained: int = 0) -> None:
        super().__init__(why)
        self.wait, self.gained = wait, gained


@dataclass
class Answer:
    """The bytes from `start` on of a file of `total` bytes (None: the server does not say).

    `validator` changes when the file does ("": unknown); `digest` is (algorithm, digest) of the whole file, where
    the server states one. `pieces` come in time, or raise Interrupted.
    """

    start: int
    total: int | None
    validator: str
    digest: tuple[str, bytes] | None
    pieces: Iterator[bytes]


@contextlib.contextmanager
def open_http(pools: Pools, url: str, start: int, stop: int | None, validator: str) -> Iterator[Answer]:
    """Request bytes `start` up to `stop` (None: to the end) of a file by HTTP, and follow redirects.

    With a validator, the answer begins at 0 where the file is not that version any more. Redirects lead to public
    addresses and to the host of `url`. Raises FetchError, Interrupted.
    """
    headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        headers |= {"If-Range": validator} if validator else {}
    place, begin = url, time.monotonic()
    for _ in range(REDIRECTS_MAX + 1):
        pool = pools.named if urlsplit(place).hostname == urlsplit(url).hostname else pools.public
        try:
            timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=HEAD_SECONDS)
            response = pool.request(
                "GET", place, headers=headers, redirect=False, preload_content=False, timeout=timeout
            )
        except (urllib3.exceptions.HTTPError, TooSlow) as error:
            raise Interrupted(one_line(error)) from error
        except PrivateAddress as error:
            raise FetchError(f"{shown(url)}: {_private(url, place)} at {error}, which is not public") from None
        location = response.headers.get("Location")
        if response.status not in (301, 302, 303, 307, 308) or not location:
            break
        _finish(response)
        try:
            place = redirected(place, location)
        except ValueError as error:
            raise FetchError(f"{shown(url)}: {one_line(error)}") from None
        if time.monotonic() - begin > HEAD_SECONDS:
            raise Interrupted(f"only redirects in {HEAD_SECONDS:.0f} s")
    else:
        raise FetchError(f"{shown(url)}: more than {REDIRECTS_MAX} redirects, the last one to {shown(place)}")
    try:
        yield _answer(url, response, start, validator)
    finally:
        _finish(response)


def _private(url: str, place: str) -> str:
    if place == url:
        return "it is a host that has no files to fetch,"
    return f"redirects to {shown(place)!r}; name that address itself in the config, if it is right: its host is"


def _finish(response: Any) -> None:
    """Give the connection back for the next request; close it, where part of a body is still to come."""
    if response.length_remaining == 0:
        response.read()
    else:
        response.close()
    response.release_conn()


def _answer(url: str, response: Any, start: int, asked: str) -> Answer:
    status, headers = response.status, response.headers
    # Arrow counts bytes in 64 bits, into which each number of 18 digits fits.
    match = re.fullmatch(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)", headers.get("Content-Range", ""))
    total = int(match[2]) if match and match[2] != "*" else None
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
    digest = _stated_digest(headers)
    if status == 200:
        length = re.fullmatch(r"[0-9]{1,18}", headers.get("Content-Length", ""))
        return Answer(0, int(length[0]) if length else None, validator, digest, _pieces(response))
    if status == 206 and match and match[1]:
        if int(match[1]) != start:
            raise Interrupted(f"bytes from {match[1]} on came, {start} was asked for")
        return Answer(start, total, validator, digest, _pieces(response))
    if status == 416 and total == start:  # the caller has all of it, or the file is empty
        return Answer(start, total, asked, digest, iter(()))
    if status == 416:
        if start and total is not None:  # the file became shorter: the caller starts again
            return Answer(0, total, "", None, _failing("the file became shorter"))
        raise FetchError(f"{shown(url)}: no such range from {start} on (HTTP 416)", 416)
    if status in BUSY:
        retry = urllib3.Retry()
        try:
            wait = float(retry.get_retry_after(response) or 0)
        except (urllib3.exceptions.HTTPError, ValueError, OverflowError):  # a Retry-After that cannot be read
            wait = 0.0
        raise Interrupted(f"HTTP {status} {str(response.reason)[:100]}", wait)
    cure = {
        401: "it needs an account",
        403: "forbidden; CommonCrawl says so to too many connections: wait a day and lower crawl.connections",
        404: "it does not exist; check the name of the crawl and crawl.commoncrawl.base_url",
    }.get(status, "this server does not give it")
    raise FetchError(f"{shown(url)}: HTTP {status}: {cure}", status)


def _pieces(response: Any) -> Iterator[bytes]:
    """The body as it comes: to wait for whole pieces would hide how slowly that is."""
    try:
        while piece := response.read1(PIECE, decode_content=False):
            response.pace.count += len(piece)
            yield piece
    except (urllib3.exceptions.HTTPError, TooSlow) as error:
        raise Interrupted(one_line(error)) from error


def _failing(why: str) -> Iterator[bytes]:
    raise Interrupted(why)
    yield b""


def _stated_digest(headers: Any) -> tuple[str, bytes] | None:
    """(algorithm, digest) of the whole file: from Repr-Digest (RFC 9530), or the ETag of S3 where it is an MD5."""
    if match := re.search(r"sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("Repr-Digest", "")):
        return "sha256", base64.b64decode(match[1])
    match = re.fullmatch(r'"([0-9a-f]{32})"', headers.get("ETag", ""))
    encrypted = "x-amz-server-side-encryption-aws-kms-key-id" in headers
    if match and headers.get("Server") == "AmazonS3" and not encrypted:
        return "md5", bytes.fromhex(match[1])
    return None


@contextlib.contextmanager
def open_fsspec(_: Any, url: str, start: int, stop: int | None, validator: str) -> Iterator[Answer]:
    """The same as `open_http` for s3:// and hf://; the first argument is there to be called alike."""
    with _file_system(url) as (system, path):
        info = _in_time(HEAD_SECONDS, lambda: _info(system, path))
        total = int(info["size"])
        now = str(info.get("ETag") or info.get("blob_id") or f"{total} {info.get('LastModified', '')}")
        digest = ("sha256", bytes.fromhex(info["lfs"].sha256)) if info.get("lfs") else None
    begin = start if not validator or validator == now else 0
    end = total if stop is None else min(stop, total)
    yield Answer(begin, total, now, digest, _blocks(url, begin, end))


def _info(system: Any, path: str) -> dict[str, Any]:
    system.invalidate_cache(path)  # its lists of folders hide that the file has changed
    return dict(system.info(path))


def _blocks(url: str, begin: int, end: int) -> Iterator[bytes]:
    # Without the cache, which would read ahead, and then fetch the same bytes again as the next block.
    with (
        _file_system(url) as (system, path),
        _in_time(HEAD_SECONDS, lambda: system.open(path, "rb", cache_type="none")) as file,
    ):
        file.seek(begin)
        for place in range(begin, end, BLOCK):
            size = min(BLOCK, end - place)
            yield _in_time(SLOW_SECONDS + size / SLOW_RATE, functools.partial(file.read, size))


def _in_time(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns. Raises Interrupted where it takes longer; it is left to itself then.

    The connections of fsspec are its own, so that none of them can be cut.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        if future.done():  # its own
            raise
        raise Interrupted(f"no answer within {seconds:.0f} s") from None


def find_fsspec(pattern: str) -> list[str]:
    """URLs of the files that match a glob, in order; on the hub at the commit that they have now.

    Raises FetchError or Interrupted.
    """

    def find() -> dict[str, Any]:
        place = _at_commit(system.resolve_path(path)) if pattern.startswith("hf://") else path
        return dict(system.glob(place, detail=True))

    with _file_system(pattern) as (system, path):
        entries = _in_time(LIST_SECONDS, find)
    return sorted(system.unstrip_protocol(name) for name, info in entries.items() if info["type"] == "file")


def _at_commit(place: Any) -> str:
    """A path of the hub with the commit in place of its branch or tag; a path in a bucket stays as it is."""
    from huggingface_hub import HfApi

    if not hasattr(place, "revision"):
        return str(place.unresolve())
    commit = HfApi().repo_info(place.repo_id, repo_type=place.repo_type, revision=place.revision).sha
    return str(dataclasses.replace(place, revision=commit, _raw_revision=None).unresolve())


@contextlib.contextmanager
def _file_system(url: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system of a URL, and the path in it; its errors become FetchError and Interrupted."""
    import fsspec

    try:
        # Not url_to_fs(), for which the name a::b is a file `a` to be read through something else.
        scheme, _, place = url.partition("://")
        kind = fsspec.get_filesystem_class(scheme.lower())
        url = f"{scheme.lower()}://{place}"
        yield kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)
    except Interrupted:
        raise
    except ImportError as error:
        raise FetchError(f"{shown(url)}: {error}; pip install s3fs") from None
    except FileNotFoundError as error:  # on the hub it may be the repository or the revision
        why = "".join(re.findall(r" [(].*", one_line(error)))
        raise FetchError(f"{shown(url)}: no such file{why}", 404) from None
    except PermissionError as error:
        cure = "s3:// needs an account's credentials, https:// does not"
        raise FetchError(f"{shown(url)}: {one_line(error)}; {cure}", 403) from None
    except Exception as error:  # each file system has errors of its own
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if not 400 <= status < 500 or status in BUSY:
            raise Interrupted(one_line(error)) from error
        cure = "; log in with `hf auth login`, or set HF_TOKEN" if status in (401, 403) else ""
        raise FetchError(f"{shown(url)}: {one_line(error)}{cure}", status) from None
