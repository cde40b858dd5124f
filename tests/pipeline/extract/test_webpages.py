import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import page, prose, write_warc

from pipeline.common.arrow import read_schema
from pipeline.common.files import read_arrow
from pipeline.extract import sandbox
from pipeline.extract import webpages as module
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract
from pipeline.warc.reader import responses


def run(tmp_path, warcs, language_id, name="pages", workers=1, **options):
    output, ledger = tmp_path / f"{name}.json", tmp_path / f"{name}.ledger.json"
    extract(Extract(**options), [str(w) for w in warcs], language_id, str(output), str(ledger), workers, None)
    return [r for b in read_arrow(output) for r in b.to_pylist()], json.loads(ledger.read_text()), output


def test_pages_carry_their_provenance(tmp_path, make_warc, language_id):
    warc = make_warc(count=3)
    rows, ledger, _ = run(tmp_path, [warc], language_id)
    (pages,) = (tmp_path / "warcs").glob("*.arrow")
    assert int(read_schema(pages).metadata[b"archive_bytes"]) == warc.stat().st_size
    assert [r["url"] for r in rows] == [f"https://site.example/{i}" for i in range(3)]
    assert rows[1]["text"] == "\n\n".join(prose("fr", 1))
    assert rows[1]["language"] == "fr"
    assert 0.5 < rows[1]["language_score"] <= 1
    assert rows[1]["warc"] == "a.warc.gz"
    assert rows[1]["offset"] > rows[0]["offset"]
    assert rows[1]["digest"].startswith("sha1:")
    assert ledger["kept"]["documents"] == 3


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"\x89PNG", "image/png", "not_html"),
        (page(["court"]), "text/html", "text_too_short"),
        (page(prose("en", 1)), "text/html", "unlikely_language"),
        (b'<html lang="fr-CA">' + page(prose("en", 1)), "text/html", "other_language"),
        (page(prose("fr", 1)) + b" " * 5000, "text/html", "html_too_long"),
        ("日本語".encode("shift_jis") * 100, "text/html; charset=utf-8", "undecodable"),
    ],
)
def test_every_drop_has_its_reason(tmp_path, language_id, body, content_type, reason):
    warc = write_warc(tmp_path / "b.warc.gz", [("https://site.example/", body, content_type)])
    rows, ledger, _ = run(tmp_path, [warc], language_id, languages=["fr"], max_html_bytes=5000)
    assert rows == []
    assert (ledger["dropped"] | ledger["failed"])[reason]["documents"] == 1


@pytest.mark.slow
def test_workers_do_not_change_a_byte(tmp_path, make_warc, language_id):
    warcs = [make_warc(f"{i}.warc.gz", first=10 * i, count=10) for i in range(3)]
    for n in (1, 2):
        run(tmp_path / f"{n}", warcs, language_id, workers=n)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "12")
    assert len(one) == 8
    assert one == two


def test_pages_are_used_again_unless_the_warc_the_model_or_the_options_changed(
    tmp_path, make_warc, language_id, monkeypatch
):
    warcs = [make_warc(f"{i}.warc.gz", first=10 * i, count=10) for i in range(3)]
    language_id = shutil.copy(language_id, f"{tmp_path}/model.ftz")
    first, _, _ = run(tmp_path, warcs[::2], language_id)
    read = []
    monkeypatch.setattr(module, "responses", lambda path: read.append(path) or responses(path))
    grown, ledger, _ = run(tmp_path, warcs, language_id)  # one more in their middle
    assert read == [warcs[1].__fspath__()]
    assert [r["url"] for r in grown] == [f"https://site.example/{i}" for i in range(30)]
    assert [r for r in grown if r in first] == first
    assert ledger["kept"]["documents"] == 30
    run(tmp_path, warcs, language_id, min_chars=100)
    assert read[1:] == [str(w) for w in warcs]
    make_warc("0.warc.gz", first=90, count=10)
    assert run(tmp_path, warcs, language_id, min_chars=100)[0][0]["url"] == "https://site.example/90"
    Path(language_id).write_bytes(Path(language_id).read_bytes() + b"x")  # another one in its place
    read.clear()
    run(tmp_path, warcs, language_id, min_chars=100)
    assert read == [str(w) for w in warcs]


def test_pages_that_are_listed_and_gone_say_how_to_make_them_again(tmp_path, make_warc, language_id):
    _, _, output = run(tmp_path, [make_warc(count=2)], language_id)
    (pages,) = (tmp_path / "warcs").glob("*.arrow")
    pages.unlink()
    with pytest.raises(FileNotFoundError, match=f"delete {output} and run again"):
        list(read_arrow(output))


@pytest.fixture
def hostile_warc(tmp_path):
    """Pages that hang and crash the extractor among good ones."""
    deep = b"<html><body>" + b"<div>" * 100_000 + b"x" * 300
    pages = [page(prose("fr", i)) for i in range(4)]
    bodies = [pages[0], deep, pages[1], page(["CRASH"]), pages[2], page(["PANIC"]), pages[3]]
    return write_warc(
        tmp_path / "h.warc.gz", [(f"https://site.example/{i}", b, "text/html") for i, b in enumerate(bodies)]
    )


@pytest.mark.slow
def test_a_page_that_hangs_or_crashes_the_extractor_costs_only_itself(
    tmp_path, hostile_warc, language_id, monkeypatch
):
    monkeypatch.setattr(sandbox, "COMMAND", [sys.executable, "-c", CRASHING_HELPER])
    module._extractor.cache_clear()
    rows, ledger, _ = run(tmp_path, [hostile_warc], language_id, page_seconds=1, cascade=False)
    assert [r["url"][-1] for r in rows] == ["0", "2", "4", "6"]
    assert {reason: c["documents"] for reason, c in ledger["failed"].items()} == {
        "extractor_hung": 1,
        "extractor_crashed": 1,
        "extractor_error": 1,
    }
    module._extractor.cache_clear()


# The helper itself, but for two pages: one ends the process as a fault in native code does, one panics.
CRASHING_HELPER = """
import os, signal, sys
from pipeline.extract import sandbox
whole = sandbox.main_text
def main_text(html):
    if "CRASH" in html:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "PANIC" in html:
        raise BaseException("panic")
    return whole(html)
sandbox.main_text = main_text
sandbox.main(sys.argv[1:])
"""


def test_the_cascade_keeps_wanted_pages_and_extracts_few_others(tmp_path, make_warc, language_id, monkeypatch):
    from pipeline.extract.sandbox import Extractor

    asked = []
    whole = Extractor.extract
    monkeypatch.setattr(Extractor, "extract", lambda *a: asked.append(1) or whole(*a))
    warcs = [make_warc(f"{la}.warc.gz", language=la, count=20) for la in ("fr", "en")]
    rows, ledger, _ = run(tmp_path, warcs, language_id, languages=["fr"])
    assert len(rows) == len(asked) == 20
    assert ledger["dropped"]["unlikely_language"]["documents"] == 20
    assert ledger["languages"]["en"]["documents"] == 20
    asked.clear()
    again, ledger, _ = run(tmp_path, warcs, language_id, languages=["fr"], cascade=False)
    assert again == rows
    assert len(asked) == 40
    assert ledger["dropped"]["other_language"]["documents"] == 20
