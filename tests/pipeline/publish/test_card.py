import json

import pytest
from conftest import prose
from markdown_it import MarkdownIt

from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.publish.card import write_card
from pipeline.publish.options import Publish
from pipeline.publish.publish import publish
from pipeline.workflow.layout import shard_path


def write_ledger(folder, stage, name, entered, drops):
    book = Ledger(stage)
    book.enter(documents=entered)
    for reason, count in drops.items():
        book.drop(reason, documents=count)
    book.keep(documents=entered - sum(drops.values()))
    book.write(folder / name)
    return str(folder / name)


def card(folder, ledgers, decontamination=None, score=None, warc=None):
    shard = shard_path(folder, "fr", "train", "00000")
    row = dict.fromkeys(SHARD_SCHEMA.names) | {"text": prose("fr", 1)[0], "quality_score": score, "warc": warc}
    write_arrow(shard, SHARD_SCHEMA, [row])
    write_card([str(shard)], ledgers, decontamination, str(folder / "README.md"), str(folder / "stats.json"))
    return json.loads((folder / "stats.json").read_text()), (folder / "README.md").read_text()


def test_the_ledgers_of_the_stages_that_ran_in_their_order(tmp_path):
    ledgers = [
        write_ledger(tmp_path, "extract", "a", 5, {"empty": 1}),
        write_ledger(tmp_path, "extract", "b", 3, {}),
        write_ledger(tmp_path, "near", "c", 7, {"near_duplicate": 2}),
        write_ledger(tmp_path, "quality", "d", 5, {"low_quality": 1}),
    ]
    stats, text = card(tmp_path, ledgers)
    assert [(x["stage"], x["in"]["documents"]) for x in stats["ledgers"]] == [
        ("extract", 8),
        ("near", 7),
        ("quality", 5),
    ]
    assert "after these stages: extract, near, quality." in text
    assert "| near | near_duplicate | 2 |" in text
    assert "Evaluation sets" not in text


def test_a_quality_filter_that_was_off_is_not_named(tmp_path):
    ledgers = [
        write_ledger(tmp_path, "dedup", "a", 5, {"empty": 1}),
        write_ledger(tmp_path, "quality", "b", 4, {}),
    ]
    stats, text = card(tmp_path, ledgers)
    assert [ledger["stage"] for ledger in stats["ledgers"]] == ["dedup", "shards"]
    assert "after these stages: dedup." in text
    assert "quality" not in text
    stats, text = card(tmp_path, ledgers, score=0.5)
    assert [ledger["stage"] for ledger in stats["ledgers"]] == ["dedup", "quality"]
    assert "after these stages: dedup, quality." in text


def test_a_corpus_of_plain_text_names_no_pages_and_no_extraction(tmp_path):
    ledgers = [
        write_ledger(tmp_path, "extract", "a", 5, {"no_text": 1}),
        write_ledger(tmp_path, "dedup", "b", 4, {}),
    ]
    stats, text = card(tmp_path, ledgers, warc="books/une.jsonl.gz")
    assert stats["ledgers"][0]["stage"] == "text"
    assert "Text of files, after these stages: text, dedup." in text and "| text | no_text | 1 |" in text
    assert "page" not in text.lower() and "extract" not in text
    stats, text = card(tmp_path, ledgers, warc="crawl/a.warc.gz")
    assert "Main text of web pages, after these stages: extract, dedup." in text


def test_documents_lost_between_two_stages_are_an_error(tmp_path):
    ledgers = [write_ledger(tmp_path, "extract", "a", 5, {}), write_ledger(tmp_path, "dedup", "b", 4, {})]
    with pytest.raises(StageError, match="extract kept 5 documents but 4 came into dedup"):
        card(tmp_path, ledgers)


def test_the_card_says_what_each_evaluation_set_cost(tmp_path):
    report = {"ngram": 13, "sets": [{"name": "quiz", "ngrams": 1200}, {"name": "exam", "ngrams": 30}]}
    (tmp_path / "sets.json").write_text(json.dumps(report))
    ledgers = [write_ledger(tmp_path, "filter", "a", 5, {"contaminated:quiz": 2, "c4_sentences": 1})]
    stats, text = card(tmp_path, ledgers, str(tmp_path / "sets.json"))
    assert [entry["documents_dropped"] for entry in stats["decontamination"]["sets"]] == [2, 0]
    assert "Documents with 13 words in a row" in text
    assert "| quiz | 1,200 | 2 |" in text
    assert "| exam | 30 | 0 |" in text


def write_corpus(folder, languages, reasons=()):
    """A corpus of a document in each language, with documents dropped for these reasons."""
    shards = []
    for language in languages:
        shards.append(shard_path(folder, language, "train", "00000"))
        row = dict.fromkeys(SHARD_SCHEMA.names) | {"text": prose("fr", 1)[0], "paragraphs": [0]}
        write_arrow(shards[-1], SHARD_SCHEMA, [row])
    ledger = write_ledger(folder, "filter", "ledger.json", 5 + len(reasons), dict.fromkeys(reasons, 1))
    write_card(list(map(str, shards)), [ledger], None, str(folder / "README.md"), str(folder / "stats.json"))


def test_an_ordinary_card_is_as_it_was(tmp_path):
    write_corpus(tmp_path, ["fr", "en"], ["few_words"])
    assert (
        (tmp_path / "README.md")
        .read_text()
        .startswith("""---
language: [en, fr]
task_categories: [text-generation]
configs:
- config_name: en
  data_files:
  - split: train
    path: en/train-*.arrow
- config_name: fr
  data_files:
  - split: train
    path: fr/train-*.arrow
---

# Web corpus

Main text of web pages, after these stages: filter. Each document says
where it comes from: `url`, `date`, and the crawl's `warc`, `offset`, `record_id`, `digest` and kept `paragraphs`.
The text belongs to the sites it comes from.

| language | split | documents | paragraphs | text, MB |
|---|---|---:|---:|---:|
| en | train | 1 | 1 | 0.0 |
| fr | train | 1 | 1 | 0.0 |

## What was left out, and why

| stage | reason | documents | paragraphs | MB |
|---|---|---:|---:|---:|
| filter | few_words | 1 | 0 | 0.0 |
""")
    )


def test_the_card_names_languages_by_iso_codes(tmp_path):
    write_corpus(tmp_path, ["zho_Hans", "zho_Hant", "bre_Latn"])
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlanguage: [br, zh]\n")
    assert "path: zho_Hant/train-*.arrow" in card


def test_norwegian_is_a_language_and_a_licence_of_several_lines_a_licence(tmp_path):
    import datasets
    from huggingface_hub import DatasetCard

    corpus = tmp_path / "corpus"
    write_corpus(
        corpus, ["no", "fr"], ["a|b", "<img src=x onerror=alert(1)>", "[a](https://evil.example)\n\n# Title"]
    )
    (tmp_path / "config.yaml").write_text("output: out\n")
    licence = "mit\ntags: [x]\n---\n`# Title"
    publish(Publish(license=licence), str(corpus), f"{tmp_path}/config.yaml", f"{tmp_path}/hub")
    for language in ("no", "fr"):
        loaded = datasets.load_dataset(str(tmp_path / "hub"), language, cache_dir=str(tmp_path / "cache"))
        assert loaded["train"].num_rows == 1
    card = DatasetCard.load(tmp_path / "hub/README.md")
    assert card.data.to_dict().keys() == {"license", "language", "task_categories", "configs"}
    assert card.data.license == licence
    assert card.data.language == ["fr", "no"]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.text)
    assert html.count("<h1>") == 1
    assert "<img" not in html and "<a " not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
