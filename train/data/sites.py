"""The sites of a domain's documents, kept with its held-out rows, to measure forgetting and learning by site."""

from __future__ import annotations

import base64
import re
from collections import Counter
from typing import Any

import numpy as np

from pipeline.common.hosts import host_of
from train.data.rows import Rows

MOST = 12
OTHERS = "other sites"


def count_sites(hosts: list[str]) -> dict[str, Any]:
    """The sites of a domain, from the host of each of its documents.

    `names`: the hosts with most documents, largest first, and then one name for all others together. `documents`:
    for each document one byte, the place of its site in `names`, as base64.

    >>> sites = count_sites(["b.fr", "a.fr", "b.fr"])
    >>> sites["names"], list(base64.b64decode(sites["documents"]))
    (['b.fr', 'a.fr'], [0, 1, 0])
    """
    sizes = Counter(hosts)
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:MOST]
    place = {name: number for number, name in enumerate(largest)}
    documents = bytes(place.get(name, len(largest)) for name in hosts)
    names = largest + [OTHERS] * (len(sizes) > MOST)
    return {"names": names, "documents": base64.b64encode(documents).decode()}


def host(url: str) -> str:
    """The host of a URL, or 'no host' where the URL has none or it is no plain host name.

    >>> host("https://Docs.Example:80/a?b")
    'docs.example'
    >>> host("mailto:a@b")
    'no host'
    """
    name = host_of(url)
    return name if re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,99}", name) else "no host"


def site_places(rows: Rows, tokens_NT1: np.ndarray, first_N: np.ndarray) -> np.ndarray:
    """place_NT: for each predicted token, the place of its document's site in the names that count_sites() gives.

    first_N: the document that each row begins in; each separator begins the next one.
    """
    of_document = np.frombuffer(base64.b64decode(rows.metadata["sites"]["documents"]), np.uint8)
    begun_NT = np.cumsum(tokens_NT1[:, 1:] == rows.metadata["separator"], 1)
    return of_document[np.minimum(first_N[:, None] + begun_NT, len(of_document) - 1)]
