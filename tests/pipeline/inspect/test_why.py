"""A small crawl with one page of each fate, and damage: what is said of each, and shown."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from archives import FORMATS, starts, url_of
from conftest import page, prose, write_warc
from warcio.archiveiterator import ArchiveIterator

from pipeline.__main__ import STAGES, main
from pipeline.common.decisions import url_hash
from pipeline.corpus.dedup import apply_duplicates, hash_paragraphs, reduce_hashes
from pipeline.corpus.filters import filter_documents
from pipeline.corpus.near import apply_near, hash_documents, reduce_signatures
from pipeline.corpus.options import Dedup, Filter, Near, Shards
from pipeline.corpus.shards import write_shards
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract
from pipeline.inspect.texts import record_at
from pipeline.workflow.layout import Layout

HTML = "text/html; charset=utf-8"
SITE = "https://site.example"
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202eevil"


def fates():
    """The records of two archives: (URL, body, type)."""
    own = ["Un paragraphe que nul autre n'a, que l'on nomme https://site.example/named, sur le chat de son ami."]
    changed = [f"{line} bis" for line in prose("fr", 3, 12)]
    first = [
        (f"{SITE}/kept", page(prose("fr", 1)), HTML),
        (f"{SITE}/image", b"\x89PNG\0", "image/png"),
        (f"{SITE}/short", page(["court"]), HTML),
        (f"{SITE}/english", page(prose("en", 1)), HTML),
        (f"{SITE}/long", page(prose("fr", 3, 12)), HTML),
        (f"{SITE}/again", page(prose("fr", 11)), HTML),
    ]
    second = [
        (f"{SITE}/copy", page(prose("fr", 1)), HTML),
        (f"{SITE}/part", page([*prose("fr", 2), *prose("fr", 1)[1:3], *own]), HTML),
        (f"{SITE}/near", page(changed), HTML),
        (f"{SITE}/few", page([" ".join(["anticonstitutionnellement"] * 9) + " dans la maison"]), HTML),
        (f"{SITE}/again", page(prose("fr", 12)), HTML),
        (f"{SITE}/{HOSTILE}", page([HOSTILE, *prose("fr", 13)]), HTML),
        (f"{SITE}/cut", page(prose("fr", 14)), HTML),
    ]
    return first, second


@pytest.fixture(scope="module")
def crawl(tmp_path_factory, language_id):
    """The folder of results, and the archives, of which the second ends in the middle of its last record."""
    folder = tmp_path_factory.mktemp("crawl")
    archives = [write_warc(folder / f"{n}.warc.gz", records) for n, records in enumerate(fates())]
    archives[1].write_bytes(archives[1].read_bytes()[:-40])
    out = Layout(folder / "out")
    names = ["00000", "00001"]
    options = Extract(languages=["fr"], min_chars=100)
    near = Near(enabled=True, threshold=0.6, permutations=64)
    for name, archive in zip(names, archives, strict=True):
        pages, decisions = out.pages(name), out.decisions("extract", name)
        extract(options, [str(archive)], language_id, pages, out.ledger(pages), 1, None, decisions)
        hash_paragraphs(Dedup(), pages, out.hashes(name))
    hashes = [out.hashes(name) for name in names]
    reduce_hashes(Dedup(), hashes, str(Path(out.duplicates("x")).parent), out.hash_index, 1, None)
    for name in names:
        files = out.documents(name), out.ledger(out.documents(name)), out.decisions("dedup", name)
        apply_duplicates(Dedup(min_chars=50), out.pages(name), out.duplicates(name), *files)
        files = out.filtered(name), out.ledger(out.filtered(name)), out.decisions("filter", name)
        filter_documents(Filter(min_words=15), out.documents(name), None, *files)
        hash_documents(near, out.filtered(name), out.signatures(name))
    documents = [out.filtered(name) for name in names]
    reduce_signatures(near, [out.signatures(n) for n in names], documents, out.near_duplicates, out.near_clusters)
    for position, name in enumerate(names):
        files = out.near(name), out.ledger(out.near(name)), out.decisions("near", name)
        apply_near(near, out.filtered(name), out.near_duplicates, position, *files)
        files = out.corpus, out.shards_ledger(name), out.decisions("quality", name)
        write_shards(Shards(validation_share=0), out.near(name), [], ["fr"], name, *files)
    return str(out.root), archives


@pytest.fixture
def why(crawl, capsys):
    def ask(page, output=crawl[0], status=0):
        assert main("pipeline", "", STAGES, ["why", f"--output={output}", "--", page]) == status
        said = capsys.readouterr()
        return said.err if status else said.out

    return ask


def offsets(archive):
    """URL -> offsets of its responses, by warcio."""
    found = {}
    with archive.open("rb") as file:
        records = ArchiveIterator(file)
        try:
            for record in records:
                found.setdefault(record.rec_headers["WARC-Target-URI"], []).append(records.get_record_offset())
        except EOFError:
            pass
    return found


@pytest.mark.parametrize(
    ("name", "stages", "words"),
    [
        ("kept", "extract dedup filter near quality", "fr/train-00000.arrow row 0"),
        ("image", "extract", "dropped: not_html"),
        ("short", "extract", "dropped: text_too_short, its main text has less than extract.min_chars = 100"),
        ("english", "extract", "dropped: unlikely_language, by a guess from its bytes in none of ['fr']"),
        ("copy", "extract dedup", "dropped: duplicate_paragraph"),
        ("part", "extract dedup filter near quality", "kept; 5 of 7 paragraphs"),
        ("few", "extract dedup filter", "dropped: few_words, 12, less than filter.min_words = 15"),
        ("near", "extract dedup filter near", "dropped: near_duplicate, of an earlier document"),
    ],
)
def test_what_became_of_a_page_of_each_fate(crawl, why, name, stages, words):
    said = why(f"{SITE}/{name}")
    places = [(a, o) for a in crawl[1] for o in offsets(a).get(f"{SITE}/{name}", [])]
    assert [f"{archive} at {offset:,}" in said for archive, offset in places] == [True]
    assert re.findall(r"^  (\w+)", said, re.MULTILINE) == stages.split()
    assert words in said.splitlines()[-1] or words in said


def test_a_dropped_paragraph_names_its_first_copy(crawl, why):
    said = why(f"{SITE}/part")
    (offset,) = offsets(crawl[1][0])[f"{SITE}/kept"]
    assert f"2 duplicate_paragraph, first in {crawl[1][0]} at {offset:,}: {SITE}/kept" in said
    assert all(repr(line[:90])[1:-1] in said for line in prose("fr", 1)[1:3])
    assert f"with {SITE}/long" in why(f"{SITE}/near")


def test_all_captures_of_a_url_are_said_and_nearly_equal_urls_are_tried(why):
    assert "pages of this URL: 2\n" in why(f"{SITE}/again")
    assert f"pages of {SITE}/again: 2\n" in why(f"{SITE}/again/#part")


def test_a_page_is_found_by_a_paragraph_or_a_piece_of_its_text(why):
    paragraph = prose("fr", 1)[1]
    assert re.search(rf"\A.*\nbatches with this paragraph.*: 2\n\n.*{SITE}/kept\n", why(paragraph))
    assert f": {SITE}/part\n" in why("paragraphe que nul autre")


def test_of_an_unknown_page_the_causes_are_said(why):
    assert f": {SITE}/part\n" in why(f"que l'on nomme {SITE}/named")
    assert "text of a page" in why("no such text", status=1)
    for url in (f"{SITE}/named", f"{SITE}/\udcff"):
        assert "text of a page" not in why(url, status=1)
    said = why(f"{SITE}/cut", status=1)
    assert (
        "nothing is known of" in said and "or it is one of 1 records lost to damage (1 truncated_file in" in said
    )
    assert len(said.splitlines()) == 1


def test_hostile_urls_and_texts_steer_nothing(why):
    for asked, status in ((f"{SITE}/{HOSTILE}", 0), (prose("fr", 13)[0], 0), (HOSTILE, 1)):
        said = why(asked, status=status)
        assert "evil" in said and "\x1b" not in said and "\u202e" not in said


def test_where_files_were_cleaned_away_the_rest_is_said(crawl, why, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(crawl[0], output)
    for name in ("pages", "hashes", "duplicates", "documents", "filtered", "near"):
        shutil.rmtree(output / name)
    said = why(f"{SITE}/part", output)
    assert "2 dropped: duplicate_paragraph\n" in said and f"{output}/pages/00001.json is gone" in said
    assert "fr/train-00001.arrow row 0" in said and f": {SITE}/part\n" in said
    assert f"near-duplicates of what cannot be said: {output}/near/clusters.jsonl is gone" in why(
        f"{SITE}/near", output
    )
    assert f": {SITE}/part\n" in why("paragraphe que nul autre", output)
    shutil.rmtree(output / "decisions/quality")
    (output / "decisions/near/00001.arrow").unlink()
    assert f"not known: {output}/decisions/near/00001.arrow is not there" in why(f"{SITE}/part", output)
    assert "name the `output` of a config" in why("x", tmp_path, status=1)


class Page(HTMLParser):
    """The samples of a page, and the scripts in it."""

    def __init__(self):
        super().__init__()
        self.samples, self.tags, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "article":
            self.samples.append({name.removeprefix("data-"): value for name, value in attributes})

    def handle_data(self, data):
        self.text.append(data)


def look(crawl, tmp_path, *arguments):
    assert (
        main("pipeline", "", STAGES, ["look", f"--output={crawl[0]}", f"--page={tmp_path}/l.html", *arguments])
        == 0
    )
    read = Page()
    read.feed((tmp_path / "l.html").read_text())
    return read


def test_the_page_of_samples_has_every_stage_and_reason_with_its_text(crawl, tmp_path):
    read = look(crawl, tmp_path)
    assert {(sample["stage"], sample["reason"]) for sample in read.samples} == {
        ("extract", "not_html"), ("extract", "text_too_short"), ("extract", "unlikely_language"),
        ("extract", "truncated_file"), ("dedup", "duplicate_paragraph"), ("filter", "few_words"),
        ("near", "near_duplicate"), ("quality", "kept"),
    }  # fmt: skip
    text = "".join(read.text)
    assert prose("en", 1)[0] in text and "court" in text and "anticonstitutionnellement dans la maison" in text
    assert HOSTILE.partition("\x1b")[0] in text and read.tags.count("script") == 1
    assert "image/png, 5 bytes that are no text" in text


def test_samples_are_of_the_reasons_asked_for_and_the_same_each_time(crawl, tmp_path):
    first = look(crawl, tmp_path, "--reasons", "few_words", "kept", "--each=2")
    assert {sample["reason"] for sample in first.samples} == {"few_words", "kept"}
    assert len(first.samples) == 3
    assert look(crawl, tmp_path, "--reasons", "few_words", "kept", "--each=2").text == first.text


def test_a_wrong_reason_is_said_with_those_there_are(crawl, capsys, tmp_path):
    assert main("pipeline", "", STAGES, ["look", f"--output={crawl[0]}", "--page=x", "--reasons", "typo"]) == 1
    assert (
        "no page has the reason typo; the reasons are duplicate_paragraph, few_words, kept"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("name", FORMATS)
def test_one_record_of_any_archive_is_read_by_its_offset(tmp_path, name):
    form = FORMATS[name]
    records = [form.pack(form.record(number)) for number in range(5)]
    path = tmp_path / f"a{form.suffix}"
    path.write_bytes(form.head + b"".join(records))
    for number, offset in enumerate(starts([form.head, *records])[1:]):
        found = record_at(str(path), offset, url_hash(url_of(number)))
        assert found.url == url_of(number) and f"{number * 7919:x}".encode() in found.body
        assert record_at(str(path), offset, url_hash(url_of(number + 1))) is None
    assert record_at(str(path), path.stat().st_size + 1, url_hash(url_of(0))) is None
