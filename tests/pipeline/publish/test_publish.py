"""A corpus is published whole; a recipe gives the same bytes again, and says what is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import page, prose, write_warc

from pipeline.common.errors import StageError
from pipeline.common.files import read_json
from pipeline.corpus.dedup import apply_duplicates, hash_paragraphs, reduce_hashes
from pipeline.corpus.options import Dedup, Shards
from pipeline.corpus.shards import SPLITS, write_shards
from pipeline.crawl.origins import finish_folder
from pipeline.extract.options import Extract
from pipeline.extract.webpages import extract
from pipeline.publish.card import write_card
from pipeline.publish.options import Publish
from pipeline.publish.publish import publish, read_sums, sha256, text_hash
from pipeline.publish.rebuild import _kept_text, rebuild
from pipeline.warc.content import Response
from pipeline.workflow.layout import shard_path

LANGUAGES = ["en", "fr"]
KINDS = ("text/html; charset=utf-8", "text/html; charset=windows-1252")


@pytest.fixture(scope="module")
def crawl(tmp_path_factory, language_id) -> Path:
    """A corpus of three WARCs in two batches, two of one name, one fetched; half of the text is duplicates."""
    root = tmp_path_factory.mktemp("crawl")
    warcs = [root / "b/x.warc.gz", root / "a/x.warc.gz", root / "a/y.warc.gz"]
    for number, path in enumerate(warcs):
        records = []
        for i in range(12):
            language = LANGUAGES[i % 2]
            lines = [*prose(language, 100 * number + i), *prose(language, i), "finé café"]
            charset = KINDS[i % 3 == 0]
            body = page(lines) if charset == KINDS[0] else page(lines).decode().encode("cp1252")
            records.append((f"https://site.example/{number}/{i}", body, charset))
        write_warc(path, records)
    out, corpus, ledgers = root / "out", root / "out/corpus", []
    (root / "part").mkdir()
    shutil.copy(warcs[2], root / "part/00-y.warc.gz")
    listed = {"file": "00-y.warc.gz", "source": "crawl-data/CC-MAIN-2026-30/y.warc.gz"}
    finish_folder(root / "part", str(root / "fetched"), [listed], [])
    for batch, part in enumerate((warcs[:2], [root / "fetched"])):
        ledgers.append(f"{out}/pages/{batch}.ledger.json")
        extract(Extract(languages=LANGUAGES, min_chars=1), list(map(str, part)), language_id,
                f"{out}/pages/{batch}.json", ledgers[-1], 1, None)  # fmt: skip
        hash_paragraphs(Dedup(), f"{out}/pages/{batch}.json", f"{out}/hashes/{batch}.arrow")
    hashes = [f"{out}/hashes/{batch}.arrow" for batch in (0, 1)]
    reduce_hashes(Dedup(), hashes, f"{out}/duplicates", f"{out}/index.arrow", 1, None)
    shards = []
    for batch in (0, 1):
        document = f"{out}/documents/{batch}.arrow"
        apply_duplicates(Dedup(min_chars=1), f"{out}/pages/{batch}.json", f"{out}/duplicates/{batch}.arrow",
                         document, f"{out}/documents/{batch}.ledger.json")  # fmt: skip
        write_shards(Shards(validation_share=0.3), document, [], LANGUAGES, f"{batch:05d}", str(corpus),
                     f"{out}/{batch}.ledger.json")  # fmt: skip
        shards += [str(shard_path(corpus, la, sp, f"{batch:05d}")) for la in LANGUAGES for sp in SPLITS]
    ledgers += [f"{out}/{folder}{batch}.ledger.json" for folder in ("documents/", "") for batch in (0, 1)]
    write_card(shards, ledgers, None, f"{corpus}/README.md", f"{corpus}/stats.json")
    (root / "config.yaml").write_text("output: out\nextract: {languages: [en, fr]}\n")
    return root


@pytest.fixture
def recipe(crawl, tmp_path) -> Path:
    publish(Publish(recipe=True, license="cc0-1.0"), f"{crawl}/out/corpus", f"{crawl}/config.yaml",
            f"{tmp_path}/recipe")  # fmt: skip
    return tmp_path / "recipe"


def remake(recipe: Path, warcs: list[str]) -> dict:
    """The ledger; what is wrong is under the key `error`."""
    error = None
    try:
        rebuild(str(recipe), warcs, f"{recipe}/../again", f"{recipe}/../ledger.json", 1, None)
    except StageError as caught:
        error = str(caught)
    return read_json(recipe / "../ledger.json") | {"error": error}


def warcs_of(folder: Path) -> list[str]:
    return sorted(map(str, folder.glob("[ab]/*.warc.gz")))


def shards_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.glob("*/*.arrow"))}


def test_a_published_folder_is_whole_checked_and_loads_by_its_card(crawl, tmp_path, capsys):
    import datasets

    publish(Publish(license="odc-by"), f"{crawl}/out/corpus", f"{crawl}/config.yaml", f"{tmp_path}/hub")
    assert capsys.readouterr().out == f"hf upload ACCOUNT/NAME {tmp_path}/hub --repo-type=dataset\n"
    assert shards_of(tmp_path / "hub") == shards_of(crawl / "out/corpus")
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "hub", check=True)
    named = {line[66:] for line in (tmp_path / "hub/SHA256SUMS").read_text().splitlines()}
    assert named == {str(p.relative_to(tmp_path / "hub")) for p in (tmp_path / "hub").rglob("*.*")}
    loaded = datasets.load_dataset(str(tmp_path / "hub"), "fr", cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == set(SPLITS)
    assert loaded["train"].num_rows > 5
    card = (tmp_path / "hub/README.md").read_text()
    assert card.startswith("---\nlicense: odc-by\nlanguage: [en, fr]\n")
    assert read_json(tmp_path / "hub/provenance.json")["config"]["output"] == "out"


def test_a_published_config_has_no_secrets(crawl, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "crawl: {warcs: ['https://a.example/x.warc.gz?X-Amz-Signature=0f1e', 's3://key:0f1e@bucket/y.warc.gz']}\n"
        "hf_token: 0f1e\ntokens: {vocabulary: 512}\n"
    )
    publish(Publish(license="odc-by"), f"{crawl}/out/corpus", f"{tmp_path}/config.yaml", f"{tmp_path}/hub")
    assert "0f1e" not in Path(tmp_path, "hub/provenance.json").read_text()
    config = read_json(tmp_path / "hub/provenance.json")["config"]
    assert config["crawl"]["warcs"] == [
        "https://a.example/x.warc.gz?X-Amz-Signature=***",
        "s3://***@bucket/y.warc.gz",
    ]
    assert config["tokens"] == {"vocabulary": 512}
    publish(Publish(), f"{crawl}/out/corpus", f"{crawl}/config.yaml", f"{tmp_path}/hub")  # in its place


def test_a_recipe_has_no_text_and_gives_the_same_bytes(crawl, recipe, tmp_path):
    for path in filter(Path.is_file, recipe.rglob("*")):
        content = path.read_bytes()
        if path.suffix == ".arrow":
            table = pa.ipc.open_stream(content).read_all()
            assert "text" not in table.schema.names
            content = json.dumps(table.drop_columns(["url"]).to_pylist(), default=str).encode()
        assert not re.search(rb"chaise|fille|chair|sleeps|caf\xc3\xa9", content), path
    ledger = remake(recipe, warcs_of(crawl))
    assert ledger["error"] is None
    assert shards_of(tmp_path / "again") == shards_of(crawl / "out/corpus") == read_sums(recipe / "corpus.sha256")
    assert ledger["in"] == ledger["kept"]
    assert ledger["kept"]["documents"] == read_json(recipe / "stats.json")["ledgers"][-1]["kept"]["documents"]
    # A shard that is there is not made again; one that was damaged is.
    stamps = {p: p.stat() for p in (tmp_path / "again").rglob("*.arrow")}
    first = min(stamps)
    first.write_bytes(b"")
    assert remake(recipe, warcs_of(crawl))["error"] is None
    assert {p for p in stamps if p.stat() != stamps[p]} == {first}


def test_what_cannot_be_made_again_is_counted_and_comes_with_the_missing_archive(crawl, recipe, tmp_path):
    own = tmp_path / "own"
    for name in ("a", "b"):
        shutil.copytree(crawl / name, own / name)
    lines = (own / "b/x.warc.gz").read_bytes()
    # One page of another text at the same URL (its digest is another), and one record less.
    records = [(f"https://site.example/0/{i}", page(prose("fr", 7)), KINDS[0]) for i in range(1)]
    write_warc(own / "b/x.warc.gz", records)
    (own / "a/y.warc.gz").unlink()
    ledger = remake(recipe, warcs_of(own))
    assert "digest_differs" in ledger["error"] and "give the missing archives" in ledger["error"]
    assert ledger["failed"]["digest_differs"]["documents"] == 1
    assert ledger["failed"]["missing_archive"]["documents"] > 5
    assert ledger["failed"]["missing_record"]["documents"] > 5
    assert ledger["kept"]["documents"] > 5
    again = {
        row["url"] for p in (tmp_path / "again").rglob("*.arrow")
        for row in pa.ipc.open_stream(p.read_bytes()).read_all().to_pylist()
    }  # fmt: skip
    assert len(again) == ledger["kept"]["documents"]
    (own / "b/x.warc.gz").write_bytes(lines)
    shutil.copy(crawl / "a/y.warc.gz", own / "a")
    assert remake(recipe, warcs_of(own))["error"] is None
    assert shards_of(tmp_path / "again") == shards_of(crawl / "out/corpus")


def test_a_text_that_the_archive_does_not_give_is_counted(recipe, crawl, monkeypatch):
    import pipeline.publish.rebuild as module

    monkeypatch.setattr(module, "text_hash", lambda text: 0)
    ledger = remake(recipe, warcs_of(crawl))
    assert ledger["failed"] == {"text_differs": ledger["in"]}


def test_a_corpus_or_recipe_that_is_not_whole_is_refused(crawl, recipe, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(crawl / "out/corpus", copy)
    (copy / "fr/train-00001.arrow").unlink()
    with pytest.raises(StageError, match=r"fr/train-00001.arrow: missing; the statistics count 4 fr shards; run"):
        publish(Publish(), str(copy), f"{crawl}/config.yaml", f"{tmp_path}/hub")
    with pytest.raises(StageError, match="exists and is nothing that publish made"):
        publish(Publish(), f"{crawl}/out/corpus", f"{crawl}/config.yaml", str(copy))
    with pytest.raises(StageError, match=r"stats.json: missing; --corpus is the folder"):
        publish(Publish(), f"{crawl}/out", f"{crawl}/config.yaml", f"{tmp_path}/hub")
    assert not list(tmp_path.glob("hub*"))
    shard = recipe / "fr/train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(StageError, match=r"train-00000.arrow: not what SHA256SUMS says"):
        rebuild(str(recipe), [], f"{tmp_path}/again", f"{tmp_path}/ledger.json", 1, None)


@pytest.mark.parametrize(("charset", "codec"), [(None, "utf-8"), ("utf-8", "utf-8"), ("iso-8859-1", "cp1252")])
def test_plain_text_of_an_archive_is_made_again_whatever_its_charset(charset, codec):
    body = "un café\nà part".encode(codec)
    record = Response("https://a.example/", "", 0, "", "", 200, "text/plain", charset, body, "conversion")
    row = {"charset": f"{codec} (WET)", "digest": "", "paragraphs": [1], "text_hash": text_hash("à part")}
    assert _kept_text(record, row, None).text == "à part"
