"""Addresses of files on the network: which are allowed, and what a file that came from one is called here.

An address comes from a config, a list or a redirect, so nothing of it becomes a path as it is.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

SCHEMES = ("https", "http", "s3", "hf")
NAME_CHARS = 150
CRAWL_PATH = re.compile(r"/(crawl-data/[^?#]+)")


def is_url(text: str) -> bool:
    return "://" in text


def url_problem(url: str) -> str | None:
    """Why nothing is fetched from this address, or None."""
    if re.search(r"[\x00-\x20\x7f]", url):
        return "a URL holds no white space or control characters; quote them as %20"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"not a URL: {error}"
    if parts.scheme.lower() not in SCHEMES:
        return f"{parts.scheme or 'no'} scheme; only {', '.join(SCHEMES)} are fetched"
    if not host:
        return "a URL needs a host (or, with s3://, a bucket)"
    if parts.username is not None or parts.password is not None:
        return "a URL with a password in it; shards would publish it, so leave it out"
    return None


def redirected(url: str, location: str) -> str:
    """Where a redirect leads. Raises ValueError where that is nowhere, or from https to less than that."""
    target = urljoin(url, location)
    if problem := url_problem(target):
        raise ValueError(f"redirects to {target!r}: {problem}")
    before, after = urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower()
    if after not in ("https", "http") or (before == "https" and after != "https"):
        raise ValueError(f"redirects from {before} to {target!r}, which is not followed")
    return target


def file_name(url: str) -> str:
    """The last part of a URL's path as a plain file name: letters, digits, '_', '.' and '-', with its suffixes."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-NAME_CHARS:].lstrip(".-") or "file"


def source_name(url: str) -> str:
    """How provenance names a file: by CommonCrawl's path, from whatever mirror it came, or by its URL."""
    match = CRAWL_PATH.search(url)
    return match[1] if match else url
