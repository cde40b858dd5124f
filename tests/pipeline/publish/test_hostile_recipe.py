"""Recipes of somebody else: what is wrong with one is an error of one line, and nothing is written elsewhere."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import page, prose, write_warc

from pipeline.common.errors import StageError
from pipeline.common.files import read_json, stamp, write_arrow, write_json
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.corpus.paragraphs import kept_text
from pipeline.extract.main_text import main_text
from pipeline.publish import rebuild as module
from pipeline.publish.card import write_card
from pipeline.publish.options import Publish
from pipeline.publish.publish import RECIPE_SCHEMA, publish
from pipeline.publish.rebuild import rebuild
from pipeline.warc.reader import responses
from pipeline.workflow.layout import shard_path

SHARD = "fr/train-00000.arrow"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with a WARC file of 20 pages and the recipe of a corpus of them."""
    root = tmp_path_factory.mktemp("made")
    bodies = [page(prose("fr", i)) for i in range(20)]
    write_warc(root / "a.warc.gz", [(f"https://site.example/{i}", b, "text/html") for i, b in enumerate(bodies)])
    rows = [
        {"text": kept_text(lines, first), "url": record.url, "language": "fr", "language_score": 1.0}
        | {"charset": "utf-8 (detected)", "warc": "a.warc.gz", "offset": record.offset, "paragraphs": first}
        | {"record_id": record.record_id, "digest": record.digest, "date": None, "quality_score": None}
        for record in responses(str(root / "a.warc.gz"))
        for lines in [main_text(record.body.decode()).split("\n")]
        for first in [[i for i, line in enumerate(lines) if line][:3]]
    ]
    schema = stamp(SHARD_SCHEMA, "quality", Publish())
    write_arrow(shard_path(root / "corpus", "fr", "train", "00000"), schema, rows)
    ledger = Ledger("extract")
    ledger.enter(documents=20)
    ledger.keep(documents=20)
    ledger.write(root / "ledger.json")
    corpus = str(root / "corpus")
    write_card([f"{corpus}/{SHARD}"], [f"{root}/ledger.json"], None, f"{corpus}/README.md", f"{corpus}/stats.json")
    (root / "config.yaml").write_text("output: out\n")
    publish(Publish(recipe=True), corpus, f"{root}/config.yaml", f"{root}/recipe")
    return root


@pytest.fixture
def recipe(made, tmp_path) -> Path:
    return shutil.copytree(made / "recipe", tmp_path / "deep" / "in" / "recipe")


@pytest.fixture
def again(made, recipe, tmp_path):
    """Rebuild the recipe; checks that nothing was written but its output and ledger."""

    def again() -> dict:
        output, ledger = tmp_path / "deep/in/output", tmp_path / "ledger.json"
        before = {path for path in tmp_path.rglob("*") if recipe not in path.parents}
        try:
            rebuild(str(recipe), [f"{made}/a.warc.gz"], str(output), str(ledger), 1, None)
        finally:
            written = {path for path in tmp_path.rglob("*") if recipe not in path.parents} - before
            assert not {path for path in written if output not in (path, *path.parents)} - {ledger}
        return read_json(ledger)

    return again


def change(recipe: Path, name: str, *keys: object, value: object) -> None:
    """Put a value into a JSON file of the recipe."""
    data = read_json(recipe / name)
    part = data
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    write_json(recipe / name, data)


def new_rows(recipe: Path, change_row, schema=RECIPE_SCHEMA) -> None:
    """Change each row of the shard, and its checksum with it, as whoever makes the recipe can."""
    table = pa.ipc.open_stream((recipe / SHARD).read_bytes()).read_all()
    rows = [row | change_row(row) for row in table.to_pylist()]
    write_table(recipe, pa.Table.from_pylist(rows, schema))


def write_table(recipe: Path, table: pa.Table, **options) -> None:
    with pa.OSFile(str(recipe / SHARD), "wb") as sink, pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:  # fmt: skip
        writer.write_table(table, **options)
    sums = recipe / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith(SHARD)]
    digest = hashlib.sha256((recipe / SHARD).read_bytes()).hexdigest()
    sums.write_text("".join(f"{line}\n" for line in [*lines, f"{digest}  {SHARD}"]))


def test_a_sound_recipe_is_made_again(again):
    assert again()["kept"]["documents"] == 20


def test_rows_that_do_not_fit_into_memory_come_in_parts(again, monkeypatch):
    parts = []
    real = module._rebuild_rows
    monkeypatch.setattr(module, "PART_BYTES", 9500)
    monkeypatch.setattr(module, "_rebuild_rows", lambda *x: parts.append(len(x[1])) or real(*x))
    assert again()["kept"]["documents"] == 20  # and the same bytes, or it would be an error
    assert parts == [5, 5, 5, 5]
    assert module._bytes({"paragraphs": [1], "warc": "x" * 10**6, "charset": "y" * 10**6, "offset": 1}) > 2 * 10**6


COUNTS = {"shards": 1, "documents": 1, "paragraphs": 1, "bytes": 1}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"../../victim/x": {"train": COUNTS}}, "leads out of the folder"),
        ({"/victim": {"train": COUNTS}}, "leads out of the folder"),
        ({"": {"train": COUNTS}}, "are no language and split"),
        ({"fr/..": {"train": COUNTS}}, "leads out of the folder"),
        ({"x/fr": {"train": COUNTS}}, "are no language and split"),
        ({"fr": {"a/train": COUNTS}}, "are no language and split"),
        ({"fr": {"../train": COUNTS}}, "leads out of the folder"),
        ({"fr": {"train-1": COUNTS}}, "are no language and split"),
        ({"f\x1br": {"train": COUNTS}}, "is no name of a file"),
        ({"x" * 300: {"train": COUNTS}}, "is no name of a file"),
        ({"fr": {"train": COUNTS | {"shards": 10**12}}}, "train-00001.arrow: missing; the statistics count 1,0"),
        ({"fr": {"train": COUNTS | {"shards": 10**30}}}, "shards: 10{30} files is too large"),
        ({"fr": {"train": COUNTS | {"shards": -1}}}, "shards: -1 files is too small"),
        ({"fr": {"train": COUNTS | {"shards": "1"}}}, "shards: expected a whole number, found '1'"),
        ({"fr": {"train": COUNTS | {"shards": True}}}, "shards: expected a whole number, found True"),
        ({"fr": {"train": []}}, "train: expected keys and values"),
        ({"fr": None}, "fr: expected names"),
        ([], "languages: expected names"),
        (None, "languages: expected names"),
    ],
)
def test_names_and_counts_of_the_statistics_are_checked(value, problem, recipe, again, tmp_path):
    (tmp_path / "victim").mkdir()
    change(recipe, "stats.json", "languages", value=value)
    with pytest.raises(StageError, match=problem):
        again()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (name, text)
            for name in ("stats.json", "provenance.json")
            for text in ("", "{", "[]", "3", "[" * 10**5)
        ),
        ("stats.json", "{}"),
        ("provenance.json", json.dumps({"code": {"versions": ["a"]}})),
        ("provenance.json", json.dumps({"code": {"versions": {"fastwarc": "\x1b[2J"}}})),
        ("provenance.json", json.dumps({"code": {"versions": {"x\n": "1"}}})),
        ("provenance.json", json.dumps({"code": {"versions": {"fastwarc": 3}}})),
        *((name, text) for name in ("SHA256SUMS", "corpus.sha256") for text in ("", "x", "0" * 64, "\xff")),
        ("SHA256SUMS", f"{'0' * 64}  ../../victim"),
    ],
)
def test_a_file_that_is_damaged_is_named(name, content, recipe, again):
    (recipe / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(StageError, match=rf"recipe.*({name}|no checksum of {SHARD})") as error:
        again()
    assert len(str(error.value).splitlines()) == 1
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", ["SHA256SUMS", "corpus.sha256"])
def test_a_list_of_checksums_without_end_is_not_read(name, recipe, again):
    with (recipe / name).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(StageError, match=f"{name}: more than 64 MiB; fetch it again"):
        again()


@pytest.mark.parametrize("name", ["corpus", "corpus/fr", "logs"])
def test_what_is_made_in_the_folder_of_the_recipe_goes_through_no_link_of_it(
    name, recipe, made, tmp_path, monkeypatch
):
    """The command that stands in the card of a recipe writes there."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (recipe / name).parent.mkdir(exist_ok=True)
    (recipe / name).symlink_to(victim)
    monkeypatch.chdir(recipe)
    with pytest.raises(StageError, match="is a link that leads out"):
        rebuild(".", [f"{made}/a.warc.gz"], "corpus", "logs/rebuild.json", 1, None)
    assert not list(victim.iterdir())


@pytest.mark.parametrize("name", ["fr", SHARD])
def test_a_link_out_of_the_recipe_is_refused(name, recipe, again, made):
    target = recipe / name
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    target.symlink_to(made / "recipe" / name)
    with pytest.raises(StageError, match="is a link that leads out of the folder"):
        again()


@pytest.mark.parametrize(
    "places", [[], [-1], [0, -1], [2, 1, 0], [0, 0, 1, 2], [0, 1, 2, 99], [2**31 - 1], [0] * 1000]
)
def test_paragraphs_that_the_page_does_not_have_are_no_text(places, recipe, again, tmp_path):
    new_rows(recipe, lambda row: {"paragraphs": places})
    with pytest.raises(StageError, match=r"20 documents could not be made again \(text_differs 20\)"):
        again()
    assert read_json(tmp_path / "ledger.json")["failed"]["text_differs"]["documents"] == 20


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"offset": -1}, "missing_record"),
        ({"offset": 2**63 - 1}, "missing_record"),
        ({"warc": "../../b.warc.gz"}, "missing_archive"),
        ({"warc": ""}, "missing_archive"),
        ({"digest": "x"}, "digest_differs"),
        ({"charset": "zlib_codec (http)"}, "extractor_error"),
        ({"charset": "no such codec"}, "extractor_error"),
        ({"charset": ""}, "extractor_error"),
        ({"charset": "zlib_codec (WET)"}, "text_differs"),
        ({"text_hash": 0}, "text_differs"),
    ],
)
def test_rows_that_fit_no_record_are_counted(values, reason, recipe, again):
    new_rows(recipe, lambda row: values)
    with pytest.raises(StageError, match=rf"20 documents could not be made again \({reason} 20\)"):
        again()


@pytest.mark.parametrize("warc", ["crawl-data/CC-MAIN-2026-30/a.warc.gz", "https://[/x/a.warc.gz?sig=***"])
def test_archives_that_were_fetched_are_found_by_the_name_of_their_file(warc, recipe, again, tmp_path):
    new_rows(recipe, lambda row: {"warc": warc})
    with pytest.raises(StageError, match="1 of 1 shards are not the recipe's"):  # whose checksum has the old name
        again()
    assert read_json(tmp_path / "ledger.json")["kept"]["documents"] == 20


@pytest.mark.parametrize("name", [name for name in RECIPE_SCHEMA.names if name not in ("date", "quality_score")])
def test_a_value_that_is_missing_is_refused(name, recipe, again):
    new_rows(recipe, lambda row: {name: None})
    with pytest.raises(StageError, match=f"{SHARD}: {name} is missing in a row"):
        again()


def test_other_columns_and_batches_that_are_too_large_are_refused(recipe, again):
    table = pa.ipc.open_stream((recipe / SHARD).read_bytes()).read_all()
    many = pa.concat_tables([table] * 100)
    for other, problem in (
        (table.drop_columns(["url"]), "its columns are not those of a recipe"),
        (table.set_column(0, "url", pa.array([1] * 20)), "its columns are not those of a recipe"),
        (many.combine_chunks(), "2000 rows of [0-9]+ bytes at once"),
    ):
        write_table(recipe, other)
        with pytest.raises(StageError, match=f"{SHARD}: {problem}"):
            again()
    write_table(recipe, many, max_chunksize=1000)
    with pytest.raises(StageError, match=r"1 of 1 shards are not the recipe's"):  # each page a hundred times
        again()


def test_an_archive_that_comes_up_again_and_again_is_refused(recipe, again):
    table = pa.ipc.open_stream((recipe / SHARD).read_bytes()).read_all()
    rows = [row | {"warc": name} for row in table.to_pylist() * 60 for name in ("a.warc.gz", "b.warc.gz")]
    write_table(recipe, pa.Table.from_pylist(rows, RECIPE_SCHEMA), max_chunksize=1000)
    with pytest.raises(StageError, match=rf"{SHARD}: '[ab].warc.gz' comes up 1200 times"):
        again()


def test_a_shard_that_unpacks_to_gigabytes_ends_at_the_bound_of_memory(recipe, again, monkeypatch):
    monkeypatch.setattr("pipeline.publish.recipe.MEMORY", 2**28)
    table = pa.ipc.open_stream((recipe / SHARD).read_bytes()).read_all()
    row = table.slice(0, 1).to_pylist()[0] | {"url": "a" * 300_000_000}
    write_table(recipe, pa.Table.from_pylist([row], RECIPE_SCHEMA))
    assert (recipe / SHARD).stat().st_size < 50_000
    with pytest.raises(StageError, match=rf"to read {SHARD} takes more than 0.25 GB of memory"):
        again()


@pytest.mark.parametrize("place", [0, 8, 100, 700, -300, -8])
def test_a_shard_of_damaged_bytes_is_refused(place, recipe, again):
    body = bytearray((recipe / SHARD).read_bytes())
    body[place : place + 8] = b"\xff\x7f" * 4
    (recipe / SHARD).write_bytes(body)
    with pytest.raises(StageError, match=f"{SHARD}: not what SHA256SUMS says"):
        again()
    sums = recipe / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith(SHARD)]
    sums.write_text("".join(f"{line}\n" for line in [*lines, f"{hashlib.sha256(body).hexdigest()}  {SHARD}"]))
    with pytest.raises(StageError, match=r"recipe"):
        again()
