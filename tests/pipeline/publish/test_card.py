import json

import pytest
from conftest import prose

from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from pipeline.common.ledger import Ledger
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.publish.card import write_card
from pipeline.workflow.layout import shard_path


def write_ledger(folder, stage, name, entered, drops):
    book = Ledger(stage)
    book.enter(documents=entered)
    for reason, count in drops.items():
        book.drop(reason, documents=count)
    book.keep(documents=entered - sum(drops.values()))
    book.write(folder / name)
    return str(folder / name)


def card(folder, ledgers, decontamination=None):
    shard = shard_path(folder, "fr", "train", "00000")
    write_arrow(shard, SHARD_SCHEMA, [dict.fromkeys(SHARD_SCHEMA.names) | {"text": prose("fr", 1)[0]}])
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
