"""Fixtures made by code: small WARC files with known pages."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import hypothesis
import pytest
from preloaded import SNAKEMAKE, preloaded

# On a loaded machine any example may be slow.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")

ROOT = Path(__file__).resolve().parent.parent
FETCHING = frozenset(("language_id",))  # fixtures that need a downloaded package
WORDS = {
    language: sentence.split()
    for language, sentence in {
        "fr": "le chat dort sur la chaise et la petite fille regarde une maison dans la rue avec son ami",
        "en": "the cat sleeps on the chair while a little girl looks at the big house in the street",
    }.items()
}


def prose(language: str, number: int, paragraphs: int = 4) -> list[str]:
    """Different paragraphs for each number, that a language model takes for the language."""
    words = WORDS[language]
    return [
        " ".join(words[(number * 7 + p * 3 + i * (p + 1)) % len(words)] for i in range(24)) + f" {number}-{p}."
        for p in range(paragraphs)
    ]


def page(paragraphs: list[str]) -> bytes:
    body = "".join(f"<p>{p}</p>" for p in paragraphs)
    return f"<html><head><title>t</title></head><body><main>{body}</main></body></html>".encode()


def jsonl(documents: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents).encode()


def write_warc(path: Path, records: list[tuple[str, bytes, str]]) -> Path:
    """Records of (URL, body, Content-Type), one gzip member each."""
    from warcio.statusandheaders import StatusAndHeaders  # not on a machine for the model side alone
    from warcio.warcwriter import WARCWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for url, body, content_type in records:
            http = StatusAndHeaders("200 OK", [("Content-Type", content_type)], protocol="HTTP/1.1")
            headers = {
                "WARC-Date": "2026-01-01T00:00:00Z",
                "WARC-Record-ID": f"<urn:uuid:{uuid5(NAMESPACE_URL, url)}>",
            }
            writer.write_record(
                writer.create_warc_record(
                    url, "response", io.BytesIO(body), len(body), http_headers=http, warc_headers_dict=headers
                )
            )
    return path


@pytest.fixture
def make_warc(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "a.warc.gz", count: int = 30, first: int = 0, language: str = "fr") -> Path:
        records = [
            (f"https://site.example/{i}", page(prose(language, i)), "text/html; charset=utf-8")
            for i in range(first, first + count)
        ]
        return write_warc(tmp_path / name, records)

    return make


@pytest.fixture(scope="session")
def language_id(tmp_path_factory: pytest.TempPathFactory) -> str:
    """lid.176.ftz, from the folder of downloads."""
    from pipeline.crawl.sample import fetch_language_model

    path = tmp_path_factory.mktemp("language") / "lid.176.ftz"
    fetch_language_model(str(path), str(ROOT / "downloads"))
    return str(path)


@pytest.fixture(scope="session")
def snakemake_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A `python` that starts Snakemake at once, as tests/preloaded.py does."""
    with preloaded(tmp_path_factory.mktemp("snakemake"), SNAKEMAKE, ROOT) as folder:
        yield f"{folder}/python"


@pytest.fixture(scope="module")
def on_device() -> Iterator[None]:
    """What a test makes without saying where is on the device of the tests."""
    from device import DEVICE

    with DEVICE:
        yield


@pytest.hookimpl(tryfirst=True)  # before -m chooses by the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a fixture fetches for. The tests of the workflow, which take longest, come first: the others fill
    the second process meanwhile."""
    for item in items:
        if FETCHING.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("network")
    items.sort(key=lambda item: item.path.name != "test_workflow.py")
