import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import fasttext
import pytest
from archives import http, record
from conftest import page, prose, write_warc

from pipeline.common.arrow import read_schema
from pipeline.common.decisions import url_hash
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow
from pipeline.extract import sandbox
from pipeline.extract import webpages as module
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract
from pipeline.warc.reader import responses


def run(tmp_path, warcs, language_id, name="pages", workers=1, **options):
    output, ledger = tmp_path / f"{name}.json", tmp_path / f"{name}.ledger.json"
    files = str(output), str(ledger)
    extract(Extract(**options), [str(w) for w in warcs], language_id, *files, workers, None, f"{output}.decisions")
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
        (b"\xff\xfe" + b"\x00\xd8" * 500, "text/html; charset=utf-8", "undecodable"),  # halves of pairs
    ],
)
def test_every_drop_has_its_reason(tmp_path, language_id, body, content_type, reason):
    warc = write_warc(tmp_path / "b.warc.gz", [("https://site.example/", body, content_type)])
    rows, ledger, _ = run(tmp_path, [warc], language_id, languages=["fr"], max_html_bytes=5000)
    assert rows == []
    assert (ledger["dropped"] | ledger["failed"])[reason]["documents"] == 1


def test_records_of_all_types_are_pages_or_have_a_reason(tmp_path, language_id):
    """And those that describe the file or another record are not counted."""
    text = "\n".join(prose("fr", 1))
    html, plain = page(prose("fr", 1)), text.encode()
    latin = text.replace("’", "'").encode("iso-8859-15", "replace")
    url, fields = "https://site.example/", "application/warc-fields"
    kept = {
        f"{url}response": (http(html), "response", "application/http ;", "utf-8"),
        f"{url}resource": (html, "resource", "text/html", "utf-8"),
        "urn:x:resource": (html, "resource", "*/*", "utf-8"),
        f"{url}wet": (plain, "conversion", "text/plain", "utf-8 (WET)"),
        f"{url}latin": (latin, "conversion", "text/plain; charset=iso-8859-1", "cp1252 (WET)"),
        f"{url}html": (html, "conversion", "text/html; charset=utf-8", "utf-8"),
    }
    left_out = [
        (f"{url}1", b"{}", "metadata", "application/json", "metadata_record"),
        (f"{url}2", b"", "revisit", "application/http", "revisit_record"),
        (f"{url}3", html, "continuation", "application/http", "continuation_record"),
        (f"{url}4", html, "x-own", "text/html", "unknown_record_type"),
        ("dns:site.example", b"20260101", "response", "text/dns", "other_scheme"),
        (f"{url}5", plain, "resource", "text/plain", "not_html"),
        (f"{url}6", b"{}", "conversion", "application/json", "not_html"),
    ]
    uncounted = [(url, b"a: b\r\n", kind, fields) for kind in ("warcinfo", "metadata")]
    uncounted.append((url, b"GET / HTTP/1.1\r\n\r\n", "request", "application/http"))
    records = [(address, *entry[:3]) for address, entry in kept.items()]
    records += [entry[:4] for entry in left_out] + uncounted
    (tmp_path / "a.warc").write_bytes(b"".join(record(*entry) for entry in records))
    rows, ledger, _ = run(tmp_path, [tmp_path / "a.warc"], language_id, languages=["fr"])
    charsets = {row["url"]: row["charset"] for row in rows}
    assert charsets.keys() == kept.keys()
    assert all(charsets[address].startswith(entry[3]) for address, entry in kept.items())
    assert {row["text"].replace("\n\n", "\n") for row in rows} == {text, text.replace("’", "'")}
    dropped = {reason: counts["documents"] for reason, counts in ledger["dropped"].items()}
    assert dropped == Counter(entry[4] for entry in left_out)
    assert ledger["failed"] == {} and ledger["in"]["documents"] == len(kept) + len(left_out)


@pytest.mark.slow
def test_a_page_that_declares_its_language_passes_for_any_label_of_it(tmp_path):
    model = tmp_path / "labels.bin"
    lines = [
        (label, x) for label, language in (("fra_Latn", "fr"), ("eng_Latn", "en")) for x in prose(language, 1)
    ]
    (tmp_path / "text").write_text("".join(f"__label__{label} {line}\n" for label, line in lines))
    trained = fasttext.train_supervised(
        str(tmp_path / "text"), minn=2, maxn=4, bucket=10_000, dim=16, epoch=100, lr=0.8, thread=1, verbose=0
    )
    trained.save_model(str(model))
    menu = "".join(f"<p>{x}</p>" for number in range(4) for x in prose("en", number))
    body = b'<html lang="fr"><nav>' + menu.encode() + b"</nav>" + page([*prose("fr", 1), *prose("fr", 2)])
    warc = write_warc(tmp_path / "a.warc.gz", [("https://site.example/", body, "text/html; charset=utf-8")])
    rows, _, _ = run(tmp_path, [warc], str(model), languages=["fra_Latn"])
    assert [row["language"] for row in rows] == ["fra_Latn"]
    with pytest.raises(StageError, match=r"no label 'fr'; did you mean fra_Latn\?"):
        run(tmp_path, [warc], str(model), languages=["fr"])


def test_workers_do_not_change_a_byte(tmp_path, make_warc, language_id):
    warcs = [make_warc(f"{i}.warc.gz", first=10 * i, count=10) for i in range(3)]
    for n in (1, 2):
        run(tmp_path / f"{n}", warcs, language_id, workers=n)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in "12")
    assert len(one) == 12
    assert one == two


def test_pages_are_used_again_unless_the_warc_the_model_or_the_options_changed(
    tmp_path, make_warc, language_id, monkeypatch
):
    warcs = [make_warc(f"{i}.warc.gz", first=10 * i, count=10) for i in range(3)]
    language_id = shutil.copy(language_id, f"{tmp_path}/model.ftz")
    first, _, _ = run(tmp_path, warcs[::2], language_id)
    read = []
    monkeypatch.setattr(module, "responses", lambda path: read.append(path) or responses(path))
    grown, ledger, output = run(tmp_path, warcs, language_id)  # one more in their middle
    assert read == [warcs[1].__fspath__()]
    assert [r["url"] for r in grown] == [f"https://site.example/{i}" for i in range(30)]
    assert [r for r in grown if r in first] == first
    decided = [r for b in read_arrow(f"{output}.decisions") for r in b.to_pylist()]
    assert [r["url"] for r in decided] == [url_hash(r["url"]) for r in grown]
    assert [(Path(r["file"]).name, r["place"]) for r in decided] == [(r["warc"], r["offset"]) for r in grown]
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
