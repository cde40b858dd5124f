"""What is printed and kept: nothing secret of addresses, nothing that steers a terminal, all the rest as it is."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.config import ConfigError
from pipeline.common.errors import StageError
from pipeline.common.files import stamp
from pipeline.common.schemas import PAGE_SCHEMA
from pipeline.common.shown import data_without_secrets, printable, shown, without_secrets, without_steering
from pipeline.crawl.options import Index
from pipeline.network.transports import FetchError


@pytest.mark.parametrize(
    "url",
    [
        *("https://me:SECRET@h/x", "https://SECRET@h/x", "https://me:SEC/SECRET@h/x", "https://me:a?SECRET@h/x"),
        *(
            "s3://key:SECRET@bucket/x",
            "https://h/x?sig=SECRET",
            "https://h/x?SECRET",
            "https://h/x?a=b&c=SECRET==",
        ),
        *(
            "https://h/x?a;token=SECRET",
            "https://h/x#access_token=SECRET",
            "HTTPS://me:SECRET@h/",
            "ftp://a:SECRET@b",
            "x" * 300_000 + "://me:SECRET@h/",  # took minutes
        ),
        *("https://h/x?type=UTF-8''a.gz&sig=SECRET", "https://h/x?file='a'&sig=SECRET", "s3://key:it'SECRET@h"),
    ],
)
def test_no_secret_of_a_url_is_shown(url):
    for text in (url, f"cannot fetch {url}: no", f"({url})", f"'{url}', and", f"{url}\n{url}"):
        assert "SECRET" not in without_secrets(text)
    assert "SECRET" not in shown(url)
    assert shown(shown(url)) == shown(url)


@pytest.mark.parametrize(
    "url",
    [
        *("https://data.example/a.warc.gz", "http://127.0.0.1:80/x@y", "hf://datasets/o/n@refs/pr/1/a.parquet"),
        *("s3://bucket/a b/c.parquet", "http://[::1]:8000/x@y", "folder/a?b=c", "https://h/a.parquet#12", ""),
        *("https://h", "https://h:443", "records:0", "/a:b@c", "user@host:file"),
    ],
)
def test_a_url_without_secrets_stays_as_it_is(url):
    assert shown(url) == url
    assert without_secrets(f"see {url}: it is") == f"see {url}: it is"


def test_long_words_take_linear_time():  # quadratic would take minutes
    assert without_secrets("a." * 200_000) == "a." * 200_000


@given(st.text())
def test_what_is_printed_is_one_line_that_steers_nothing(text):
    line = printable(text)
    assert len(line.splitlines()) <= 1
    assert not set(map(ord, line)) & {
        *range(9),
        *range(10, 0x20),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    }
    line.encode()
    assert len(line) <= 4001
    assert without_steering(text).count("\n") == text.count("\n")


@given(st.text(st.characters(categories=("L", "N", "P", "S"))))
def test_plain_text_is_printed_as_it_is(text):
    assert without_steering(text) == text


def test_errors_of_a_stage_and_a_config_have_no_secrets_however_they_travel():
    for error in (
        StageError("https://h/?a=SECRET: no"),
        FetchError("https://h/?a=SECRET: no", 404),
        ConfigError("s3://a:SECRET@b"),
    ):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - from a worker
        assert str(again) == str(error)
        assert "SECRET" not in str(error)
    assert again.args and pickle.loads(pickle.dumps(FetchError("x", 404))).status == 404  # noqa: S301


def test_keys_with_secrets_lose_their_texts_and_others_do_not():
    data = {
        "tokens": {"n": 1},
        "row_tokens": 4,
        "HF_TOKEN": "x",
        "a": [{"password": "x", "key": "y"}],
    }
    assert data_without_secrets(data) == {
        "tokens": {"n": 1},
        "row_tokens": 4,
        "HF_TOKEN": "***",
        "a": [{"password": "***", "key": "y"}],
    }


def test_an_address_alone_may_have_quotes_and_a_regular_expression_is_none():
    urls = r"^https://forum\.example/\?page=\d+"
    data = {"tables": ['https://h/x?name="a"&sig=SECRET'], "quality": {"fr": {"urls": urls}}}
    assert data_without_secrets(data) == {
        "tables": ["https://h/x?name=***&sig=***"],
        "quality": {"fr": {"urls": urls}},
    }


def test_the_options_in_a_file_have_no_secrets():
    options = Index(crawl="CC", languages=["fra"], tables=["https://h/a.parquet?sig=SECRET"])
    metadata = stamp(PAGE_SCHEMA, "index-plan", options).metadata[b"pipeline"]
    assert b"SECRET" not in metadata and b"https://h/a.parquet?sig=***" in metadata
