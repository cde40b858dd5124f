"""What is freed of a finished corpus, and what stays known of it; test_workflow.py tries it with Snakemake."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.common.errors import StageError
from pipeline.common.files import read_json, write_arrow, write_list
from pipeline.workflow import freed
from pipeline.workflow.freed import archive_bytes, clean, read_freed, stamped_options, what_goes, written
from pipeline.workflow.layout import Layout

SCHEMA = pa.schema([("text", pa.string())])
CRAWL = ["out/crawl/sample-00000.warc.gz"]
GOES = ("pages/00000.json", "pages/warcs/a.arrow", "hashes/00000.arrow", "duplicates/00000.arrow",
        "documents/00000.arrow", "filtered/00000.arrow", "filtered/sets.npy", "near/00000.arrow", "near/00000.npy",
        "near/duplicates.npy", "quality/fr.bin", "records/0/records-0.warc.gz",
        "crawl/sample-00000.warc.gz")  # fmt: skip
STAYS = ("pages/00000.ledger.json", "pages/warcs/a.ledger.json", "hashes/index.arrow", "hashes/.reduced",
         "documents/00000.ledger.json", "filtered/sets.json", "near/clusters.jsonl", "quality/fr.json",
         "records/plan.arrow", "corpus/fr/train-00000.arrow", "corpus/stats.json", "tokens/fr/train.arrow",
         "backbone/config.json", "documents/notes.txt", "crawl/own.warc.gz")  # fmt: skip


@pytest.fixture
def out(tmp_path, monkeypatch) -> Layout:
    """A result folder whose every file is there, as far as cleaning looks at it."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate((*GOES, *STAYS)):
        path = Path("out", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(1000 + number))
    for name, stage in (
        ("pages/warcs/a", "extract"),
        ("documents/00000", "dedup"),
        ("corpus/fr/train-00000", "x"),
    ):
        stamp = {
            "pipeline": json.dumps({"stage": stage, "options": {"min_chars": len(name)}}),
            "archive_bytes": "7",
        }
        write_arrow(f"out/{name}.arrow", SCHEMA.with_metadata(stamp), [{"text": name}])
    for name in ("filtered/00000", "near/00000"):
        write_arrow(f"out/{name}.arrow", SCHEMA, [])
    write_list("out/pages/00000.json", ["out/pages/warcs/a.arrow"])
    return Layout("out")


def there() -> set[str]:
    return {str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file()}


def test_only_what_the_stages_before_the_shards_wrote_is_freed_and_its_size_said_first(out, capsys):
    size = sum(Path("out", name).stat().st_size for name in GOES)
    told = what_goes("out", CRAWL)
    assert told.splitlines()[-1].split() == [f"{size / 1e6:.1f}", "MB", "in", "all"]
    assert there() == {*GOES, *STAYS}
    clean("out", CRAWL)
    assert capsys.readouterr().out == f"Freed:\n{told}\n"
    assert there() == {*STAYS, "freed.json"}


def test_archives_of_ones_own_stay(out):
    clean("out", [])
    assert Path(CRAWL[0]).exists()


def test_a_corpus_that_is_not_whole_keeps_all(out):
    Path(out.stats).unlink()
    with pytest.raises(StageError, match="not complete"):
        clean("out", CRAWL)
    assert there() == {*GOES, *STAYS} - {"corpus/stats.json"}


@pytest.mark.parametrize("kill", range(len(GOES)))
def test_a_killed_clean_leaves_no_list_of_files_that_are_gone_and_is_ended_by_the_next(out, monkeypatch, kill):
    before = known(out)
    real, left = freed.delete, iter(range(kill))

    def deleted(path: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(freed, "delete", deleted)
    with pytest.raises(KeyboardInterrupt):
        clean("out", CRAWL)
    for path in out.files(out.pages("[0-9]*")):
        if "ledger" not in path.name:
            assert all(Path("out/pages", name).exists() for name in read_json(path)["files"])
    monkeypatch.setattr(freed, "delete", real)
    clean("out", CRAWL)
    assert there() == {*STAYS, "freed.json"}
    assert known(out) == before


def known(out: Layout) -> tuple[int, dict, dict]:
    """What plans and comparisons read."""
    patterns = [out.pages("*"), out.page_file("*/*"), out.quality_model("*"), out.near("*")]
    return written(out, read_freed(out), patterns), archive_bytes(out), stamped_options(out)


def test_sizes_archives_and_options_stay_known_until_files_are_made_again(out):
    before = known(out)
    stages = {"extract": {"min_chars": 13}, "dedup": {"min_chars": 15}, "x": {"min_chars": 21}, "None": {}}
    assert before[1:] == ({"pages/00000.json": 7}, stages)
    clean("out", CRAWL)
    clean("out", CRAWL)
    assert known(out) == before
    Path("out/quality/fr.bin").write_bytes(bytes(5))
    assert known(out)[0] == before[0] - (1000 + GOES.index("quality/fr.bin")) + 5
