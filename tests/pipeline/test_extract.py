import json

import pytest
from conftest import page, prose, write_warc

from pipeline.extract import extract
from pipeline.files import read_arrow
from pipeline.options import Extract


def run(tmp_path, warcs, language_id, name="pages", workers=1, **options):
    output, ledger = tmp_path / f"{name}.arrow", tmp_path / f"{name}.json"
    extract(Extract(**options), [str(w) for w in warcs], language_id, str(output), str(ledger), workers, None)
    return [r for b in read_arrow(output) for r in b.to_pylist()], json.loads(ledger.read_text()), output


def test_pages_carry_their_provenance(tmp_path, make_warc, language_id):
    rows, ledger, _ = run(tmp_path, [make_warc(count=3)], language_id)
    assert [r["url"] for r in rows] == [f"https://site.example/{i}" for i in range(3)]
    assert rows[1]["text"] == "\n".join(prose("fr", 1))
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
        (page(prose("en", 1)), "text/html", "other_language"),
        (page(prose("fr", 1)) + b" " * 5000, "text/html", "html_too_long"),
        ("日本語".encode("shift_jis") * 100, "text/html; charset=utf-8", "undecodable"),
    ],
)
def test_every_drop_has_its_reason(tmp_path, language_id, body, content_type, reason):
    warc = write_warc(tmp_path / "b.warc.gz", [("https://site.example/", body, content_type)])
    rows, ledger, _ = run(tmp_path, [warc], language_id, languages=["fr"], max_html_bytes=5000)
    assert rows == []
    assert ledger["dropped"][reason]["documents"] == 1


def test_workers_do_not_change_a_byte(tmp_path, make_warc, language_id):
    warcs = [make_warc(f"{i}.warc.gz", first=10 * i, count=10) for i in range(3)]
    one, two = (run(tmp_path, warcs, language_id, f"w{n}", workers=n)[2] for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    assert one.with_suffix(".json").read_bytes() == two.with_suffix(".json").read_bytes()


def test_finished_parts_are_used_again_unless_the_options_changed(tmp_path, make_warc, language_id, monkeypatch):
    from pipeline import extract as module

    warcs = [make_warc(f"{i}.warc.gz", first=10 * i, count=10) for i in range(2)]
    monkeypatch.setattr(module.shutil, "rmtree", lambda path: None)  # as if killed before the end
    _, _, output = run(tmp_path, warcs, language_id)
    whole = output.read_bytes()
    read = []
    monkeypatch.setattr(module, "responses", lambda path: read.append(path) or iter(()))
    assert run(tmp_path, warcs, language_id)[2].read_bytes() == whole
    assert read == []
    run(tmp_path, warcs, language_id, min_chars=100)
    assert read == [str(w) for w in warcs]
