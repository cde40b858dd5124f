"""The sites of a domain's documents, kept with its held-out rows: where a model forgets, and where it learns."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pipeline.common.files import read_arrow
from train.data.rows import Rows

MOST = 12
OTHERS = "other sites"


def count_sites(shards: list[str], urls: str | None) -> dict[str, Any]:
    """The hosts of a domain's documents: `names`, those with most documents first and the others together last,
    and `documents`, for each document in the order of its rows one byte that counts in the names, as base64.
    """
    codes: dict[str, int] = {}
    document_codes = np.array([codes.setdefault(host, len(codes)) for host in _hosts(shards, urls)], np.int64)
    sizes, hosts = np.bincount(document_codes, minlength=len(codes)), list(codes)
    order = sorted(range(len(hosts)), key=lambda code: (-sizes[code], hosts[code]))
    places = np.full(len(hosts), min(MOST, len(hosts)), np.uint8)
    places[order[:MOST]] = np.arange(len(order[:MOST]))
    names = [hosts[code] for code in order[:MOST]] + [OTHERS] * (len(hosts) > MOST)
    return {"names": names, "documents": base64.b64encode(places[document_codes].tobytes()).decode()}


def _hosts(shards: list[str], urls: str | None) -> Iterator[str]:
    pattern = re.compile(urls or "")
    for path in shards:
        for batch in read_arrow(path, ["url"]):
            yield from (host(url or "") for url in batch.column("url").to_pylist() if pattern.search(url or ""))


def host(url: str) -> str:
    """The host of a URL; what is no plain host name, as a crawl may have it, is 'no host'."""
    try:
        found = urlsplit(url).hostname or ""
    except ValueError:
        found = ""
    return found if re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,99}", found) else "no host"


def site_places(rows: Rows, tokens_NT1: np.ndarray, first_N: np.ndarray) -> np.ndarray:
    """For each predicted token the place_NT of its document's site among the names. `first_N`: the document that
    each row begins in; each separator begins the next one.
    """
    of_document = np.frombuffer(base64.b64decode(rows.metadata["sites"]["documents"]), np.uint8)
    begun_NT = np.cumsum(tokens_NT1[:, 1:] == rows.metadata["separator"], 1)
    return of_document[np.minimum(first_N[:, None] + begun_NT, len(of_document) - 1)]
