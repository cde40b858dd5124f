"""Addresses of files on the network: which are allowed, and what a file that came from one is called here.

An address comes from a config, a list or a redirect, so nothing of it becomes a path as it is.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

from pipeline.common.shown import shown

SCHEMES = ("https", "http", "s3", "hf")
NAME_CHARS, SHORT = 150, 32
CRAWL_PATH = re.compile(r"/(crawl-data/[^?#]+)")


def is_url(text: str) -> bool:
    """Whether a text names something on the network rather than a local file.

    >>> is_url("s3://bucket/a.parquet"), is_url("crawl/a.warc.gz")
    (True, False)
    """
    return "://" in text


def url_problem(url: str) -> str | None:
    """What is wrong with an address that must not be fetched, or None.

    >>> url_problem("https://data.example/a.warc.gz")
    >>> url_problem("ftp://data.example/a.warc.gz")
    'ftp scheme; only https, http, s3, hf are fetched'
    >>> url_problem("s3://bucket/a name, which buckets and hubs take as it is.jsonl")
    """
    if re.search(r"[\x00-\x1f\x7f]", url) or (" " in url and url.lower().startswith("http")):
        return "a URL holds no white space or control characters; quote them as %20"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:  # whose words may have a part of a password
        return "not a URL: its host or port cannot be read"
    if parts.scheme.lower() not in SCHEMES:
        return f"{parts.scheme or 'no'} scheme; only {', '.join(SCHEMES)} are fetched"
    if not host:
        return "a URL needs a host (or, with s3://, a bucket)"
    if parts.username is not None or parts.password is not None:
        return "a URL with a password in it; shards would publish it, so leave it out"
    return None


def redirected(url: str, location: str) -> str:
    """The address that a redirect leads to: `location` as the server sent it, relative to `url`.

    Raises ValueError where that is no address to fetch from, or where it leaves https.

    >>> redirected("https://data.example/old/a.gz", "../new/a.gz")
    'https://data.example/new/a.gz'
    """
    target = urljoin(url, location)
    if problem := url_problem(target):
        raise ValueError(f"redirects to {shown(target)!r}: {problem}")
    before, after = urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower()
    if after not in ("https", "http") or (before == "https" and after != "https"):
        raise ValueError(f"redirects from {before} to {shown(target)!r}, which is not followed")
    return target


def file_name(url: str) -> str:
    """The last part of a URL's path as a safe file name: letters, digits, '_', '.' and '-', with its suffixes.

    >>> file_name("https://data.example/x/mes%20pages.warc.gz?token=1")
    'mes_pages.warc.gz'
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-NAME_CHARS:].lstrip(".-") or "file"


def source_name(url: str) -> str:
    """The name of a file in provenance: CommonCrawl's path, whichever mirror served it, or else the URL.

    Without the values of its query: whoever has those of a signed URL can fetch the file.

    >>> source_name("https://mirror.example/crawl-data/CC-MAIN-2026-30/a.warc.gz")
    'crawl-data/CC-MAIN-2026-30/a.warc.gz'
    """
    match = CRAWL_PATH.search(url)
    return match[1] if match else shown(url)


def digest(text: str) -> str:
    """SHA-256 of a URL or path, in hex: the name of what is made of it, which nothing made of another has.

    Who chooses URLs can give two of them one xxh3, and short hashes meet by chance: of 90,000 names two have
    the same 32 bits in 61 of 100 cases. A file's name has the first SHORT digits (128 bits) of it, and its own
    name.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
