"""Which documents a domain has: by URL, and without those that other domains hold out."""

from pathlib import Path

import pytest

from pipeline.common.config import ConfigError, read
from pipeline.common.files import write_arrow
from pipeline.common.schemas import SHARD_SCHEMA
from pipeline.workflow.layout import shard_path
from train.config import Config, needed_languages
from train.data.tokens import documents, held_out_text
from train.workflow import domain_shards, held_out_urls, other_shards

HELD = {"language": "fr", "urls": "one", "held_out": True}
DOMAINS = {
    "en": {"language": "en"},
    "en-one": {"language": "en", "urls": "one", "held_out": True},
    "fr": {"language": "fr"},
    "fr-one": HELD,
    "fr-two": HELD | {"urls": "(?i)TWO"},
}


def config(domains=DOMAINS, **changes) -> Config:
    given = {
        "output": "results/x",
        "backbone": {"source": "some/model"},
        "extend": {"old": "en", "new": "fr", "runs": {"a": {"learning_rate": 1e-3}}},
        "evaluate": {"forgetting": "en-one", "learning": "fr", "others": ["fr-one"]},
        "domains": domains,
    }
    return read(Config, given | changes)


def test_what_is_held_out_is_in_no_other_domain_of_its_language():
    assert held_out_urls(config(), "fr") == ["one", "(?i)TWO"]
    assert held_out_urls(config(), "en") == ["one"]
    assert held_out_urls(config(), "fr-two") == []  # what measures alone may share documents


def test_the_documents_of_a_domain_and_those_left_out(tmp_path):
    urls = ["https://one.example/a", "https://two.example/a", "https://three.example/a", None]
    rows = [dict.fromkeys(SHARD_SCHEMA.names) | {"text": str(i), "url": url} for i, url in enumerate(urls)]
    path = str(tmp_path / "a.arrow")
    write_arrow(path, SHARD_SCHEMA, rows)
    assert [text for text, _ in documents([path], None, ["one", "(?i)TWO"])] == ["2", "3"]
    assert [text for text, _ in documents([path], "/a$", ["one"])] == ["1", "2"]


@pytest.mark.parametrize("own", [True, False])
def test_a_domain_held_out_has_both_splits(own, tmp_path):
    domains = DOMAINS
    if not own:
        domains = DOMAINS | {"fr-one": HELD | {"corpus": str(tmp_path)}}
        for split in ("train", "validation"):
            path = shard_path(tmp_path, "fr", split, "00000")
            path.parent.mkdir(exist_ok=True)
            path.touch()
    made = config(domains)

    def names(domain, split):
        return [Path(path).name for path in domain_shards(made, ["00000"], domain, split)]

    assert names("fr-one", "validation") == ["train-00000.arrow", "validation-00000.arrow"]
    assert names("fr", "validation") == ["validation-00000.arrow"]
    others = [
        other_shards(made, ["00000"], *which)
        for which in (("fr", "train"), ("fr", "validation"), ("fr-one", "train"))
    ]
    assert [[Path(path).name for path in paths] for paths in others] == [
        ["validation-00000.arrow"],
        ["train-00000.arrow"],
        [],
    ]
    assert held_out_urls(made, "fr") == (["one", "(?i)TWO"] if own else ["(?i)TWO"])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"extend": {"old": "en-one", "new": "fr", "runs": {"a": {"learning_rate": 1e-3}}}}, "extend.old"),
        ({"extend": {"old": "en", "new": "fr-one", "runs": {"a": {"learning_rate": 1e-3}}}}, "extend.new"),
        (
            {"extend": {"old": "en", "new": "fr", "runs": {"a": {"learning_rate": 1e-3, "new": "fr-one"}}}},
            "extend.runs.a.new",
        ),
        (
            {"backbone": {"pretrain": {"learning_rate": 1e-3, "domain": "en-one"}}, "tokens": {"domain": "en"}},
            "backbone.pretrain.domain",
        ),
    ],
)
def test_nothing_trains_on_what_is_held_out(changes, key):
    with pytest.raises(ConfigError, match=rf"{key}: domain '..-one' is held out, to measure with alone; name"):
        config(**changes)


def test_a_language_held_out_whole_is_refused():
    with pytest.raises(ConfigError, match=r"fr-one\.held_out: give urls too"):
        config(DOMAINS | {"fr-one": {"language": "fr", "held_out": True}})


def test_a_corpus_that_another_config_makes_is_asked_for():
    with pytest.raises(ConfigError, match=r"fr-one\.corpus: no such folder: made/corpus; make it"):
        config(DOMAINS | {"fr-one": {"language": "fr", "corpus": "made/corpus"}})


def write_shard(path, texts):
    rows = [
        dict.fromkeys(SHARD_SCHEMA.names) | {"text": text, "url": f"https://x.example/{text}"} for text in texts
    ]
    write_arrow(path, SHARD_SCHEMA, rows)
    return str(path)


def test_where_nothing_is_held_out_the_same_document_is_whatever_the_shards_and_domains(tmp_path):
    texts = [f"text {number}" for number in range(20)]
    empty = write_shard(tmp_path / "empty.arrow", [])
    whole = write_shard(tmp_path / "whole.arrow", texts)
    parts = [write_shard(tmp_path / f"{n}.arrow", texts[n::3][::-1]) for n in range(3)]
    held = held_out_text([whole], [empty])
    assert held in texts
    assert held_out_text(parts, [empty, empty]) == held
    assert held_out_text(parts, [empty, whole]) is None  # there is something to measure with
    assert held_out_text([write_shard(tmp_path / "one.arrow", texts[:1])], [empty]) is None
    others = held_out_text([whole], [empty], [f"{held}$"])  # what another domain holds out
    assert others in set(texts) - {held}
    assert held_out_text([whole], [write_shard(tmp_path / "held.arrow", [held])], [f"{held}$"]) == others


def test_the_languages_that_something_is_made_of(tmp_path):
    elsewhere = {"de": {"language": "de", "corpus": str(tmp_path)}, "it": {"language": "it"}}
    made = config(DOMAINS | elsewhere, extract={"languages": ["en", "fr", "it"]})
    assert needed_languages(made) == ["en", "fr"]
