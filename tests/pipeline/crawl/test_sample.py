import hashlib
from pathlib import Path

import pytest
from conftest import page, prose
from warcio.archiveiterator import ArchiveIterator

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.common.packages import Package
from pipeline.crawl import sample as module
from pipeline.crawl.catalogue import Source, WebFile
from pipeline.crawl.options import Sample
from pipeline.extract.charset import charset_of, decode
from pipeline.warc.reader import responses

PAGES = [WebFile(f"https://site.example/{i}", "text/html", page([*prose("fr", i), "été"])) for i in range(300)]
OTHERS = [WebFile(f"https://site.example/{i}.png", "image/png", b"\x89PNG") for i in range(50)]


@pytest.fixture
def crawl(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "web_files", lambda source, downloads: iter(PAGES + OTHERS))

    def make(name, **options):
        paths = [str(tmp_path / name / f"{i}.warc.gz") for i in range(3)]
        module.make_sample(Sample(sources=["python-doc"], **options), paths)
        return paths

    return make


def test_records_are_framed_as_commoncrawl_frames_them(crawl):
    with Path(crawl("a")[1]).open("rb") as file:
        records = [(r.rec_type, r.rec_headers.get_header("WARC-Target-URI")) for r in ArchiveIterator(file)]
    assert records[0][0] == "warcinfo"
    for i in range(1, len(records), 3):
        kinds, urls = zip(*records[i : i + 3], strict=True)
        assert kinds == ("request", "response", "metadata")
        assert len(set(urls)) == 1


def test_the_same_seed_gives_the_same_bytes(crawl):
    def digest(paths):
        return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]

    assert digest(crawl("a")) == digest(crawl("b"))
    assert digest(crawl("a")) != digest(crawl("c", seed=1))


def test_pages_are_mixed_as_on_the_web_and_read_back(crawl):
    found = [r for path in crawl("a") for r in responses(path)]
    assert len(found) == 306
    assert {r.content_type for r in found} == {"text/html", "image/png"}
    assert {r.status for r in found} == {200, 404}
    codecs = set()
    bodies = {url: body.decode() for url, _, body in PAGES}
    for record in found:
        if record.status == 200 and record.content_type == "text/html":
            codec, _ = charset_of(record.body, record.charset)
            codecs.add(codec)
            assert decode(record.body, codec).lstrip("\ufeff") == bodies[record.url]
    assert {"utf-8", "cp1252"} <= codecs


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"sources\[1\]: no source 'pythn'; there are .*python-doc"):
        read(Sample, {"sources": ["python-doc", "pythn"]}, "sample")


@pytest.mark.parametrize(
    ("client", "name", "sha256"), [("apt", "something", ""), ("npm", "something@1.0.0", "0" * 64)]
)
def test_a_missing_client_is_named_with_the_way_out(client, name, sha256, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    source = Source((Package(client, (name,), sha256),), "site.example", "(.+)")
    monkeypatch.setitem(module.SOURCES, "some", source)
    with pytest.raises(StageError, match=r"(apt-get|npm) is not installed; install it, or set crawl\.warcs"):
        module.make_sample(Sample(sources=["some"], downloads=str(tmp_path)), [str(tmp_path / "a")])
