import re

import fasttext
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.classifiers import fasttext_line
from pipeline.extract.language import identify

PIECES = [
    "__label__good",
    "__label__",
    "</s>",
    "</s>x",
    "a</s>",
    "mot",
    "été",
    " ",
    "\n",
    "\r",
    "\v",
    "\0",
    "\x85",
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_every_word_of_a_text_is_a_word_of_the_line(text):
    words = re.split("[ \n\r\t\v\f\0]+", text.strip(" \n\r\t\v\f\0")) if text.strip(" \n\r\t\v\f\0") else []
    seen = fasttext.tokenize(fasttext_line(text))  # as fastText's own reader finds them
    assert [word.removeprefix("\\") for word in seen] == words
    assert not [word for word in seen if word.startswith("__label__") or word == "</s>"]
    if seen == words:  # no control word
        assert fasttext_line(text) == text.replace("\n", " ")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    examples = tmp_path_factory.mktemp("fasttext") / "examples.txt"
    lines = (f"__label__fr un deux trois {i % 7}\n__label__en one two three {i % 7}\n" for i in range(200))
    examples.write_text("".join(lines))
    return fasttext.train_supervised(str(examples), dim=8, epoch=20, thread=1, verbose=0)


@pytest.mark.parametrize("control", ["</s>", "\n</s>\n", "__label__fr </s>"])
def test_a_page_cannot_end_the_text_that_its_language_is_told_from(model, control):
    assert identify(model, f"un deux {control} one two three one two three", 1000)[0] == "en"
