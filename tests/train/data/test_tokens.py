import base64
import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import prose
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from pipeline.common.schemas import SHARD_SCHEMA
from train.data import tokens
from train.data.options import Domain, Tokens
from train.data.rows import open_rows
from train.data.tokens import (
    CHARS_AT_ONCE,
    SEPARATOR,
    batched,
    documents,
    encode,
    open_tokenizer,
    token_bytes,
    tokenize,
    train_tokenizer,
)


def shard(folder: Path, texts: list[str]) -> list[str]:
    rows = [
        dict.fromkeys(SHARD_SCHEMA.names) | {"text": text, "url": f"https://{'a' if i % 2 else 'b'}.example/{i}"}
        for i, text in enumerate(texts)
    ]
    write_arrow(folder / "train-00000.arrow", SHARD_SCHEMA, rows)
    return [str(folder / "train-00000.arrow")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = ["\n".join(prose("en", i)) for i in range(40)]
    train_tokenizer(Tokens(vocabulary=300), shard(folder, texts), None, str(folder / "t"))
    return str(folder / "t")


def rows_of(texts, tokenizer, split="train", row_tokens=16, urls=None):
    from transformers import AutoTokenizer

    folder = Path(tempfile.mkdtemp())
    tokenize(
        Domain(language="en", urls=urls),
        shard(folder, texts),
        tokenizer,
        split,
        row_tokens,
        str(folder / "rows.arrow"),
        str(folder / "ledger.json"),
    )
    return open_rows(str(folder / "rows.arrow")), AutoTokenizer.from_pretrained(tokenizer), folder


def documents_of(tokens_NT1, encoder):
    stream = np.concatenate([tokens_NT1[:1, 0], tokens_NT1[:, 1:].ravel()])
    begins = np.flatnonzero(stream == encoder.eos_token_id)
    return [encoder.decode(part[1:]) for part in np.split(stream, begins)[1:]]


NAMES = st.sampled_from([SEPARATOR, f"a{SEPARATOR}é{SEPARATOR}", SEPARATOR[:-1], SEPARATOR * 3])
TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=120) | NAMES, min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS)
def test_validation_rows_predict_every_byte_once(tokenizer, texts):
    rows, encoder, _ = rows_of(texts, tokenizer, split="validation")
    everything = np.arange(len(rows))
    tokens = rows.tokens(everything)
    assert (tokens[1:, 0] == tokens[:-1, -1]).all()
    assert rows.bytes(everything).sum() == sum(len(text.encode()) for text in texts)
    documents = documents_of(tokens, encoder)
    assert documents[: len(texts)] == texts  # behind them the row is filled up
    assert not any(documents[len(texts) :])


@given(
    st.text(max_size=50).flatmap(
        lambda text: st.tuples(st.just(text), st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    )
)
def test_token_bytes_sum_to_the_text(case):
    text, cuts = case
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return
    offsets = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    assert sum(token_bytes(text, offsets)) == size
    assert min(token_bytes(text, offsets)) >= 0


def unusual_tokenizers():
    """Tokenizers that make the name of a special token the token, though asked to split it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    # Not called special.
    plain.add_tokens([AddedToken("<｜fin▁de▁phrase｜>", special=False, lstrip=True), "    "])
    pieces = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", 0.0)] + [(c, -5.0) for c in "▁abc</s>"], unk_id=0))
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    yield PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<｜fin▁de▁phrase｜>")  # noqa: S106
    same = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<｜fin▁de▁phrase｜>")
    yield PreTrainedTokenizerFast(tokenizer_object=plain, **same)
    yield PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="</s>", unk_token="<unk>")  # noqa: S106


def test_no_text_makes_a_special_token():
    for tokenizer in unusual_tokenizers():
        name = tokenizer.eos_token
        for text in (name, f"ab{name}c", f"{name}{name}", f"a {name[:-1]}{name}", f"a{' ' * 2000}{name}", ""):
            ids, spans = encode(tokenizer, [text])[0]
            assert tokenizer.eos_token_id in tokenizer(name)["input_ids"]
            assert tokenizer.eos_token_id not in ids
            assert sum(token_bytes(text, spans)) == len(text.encode())
            assert "".join(tokenizer.decode(ids).split()) == "".join(text.split())


def test_added_tokens_that_are_text_stay_whole():
    tokenizer = next(unusual_tokenizers())
    assert len(encode(tokenizer, ["a    b"])[0][0]) == 3


def test_a_tokenizer_trained_on_the_name_of_its_separator_does_not_make_it(tmp_path):
    texts = [f"{SEPARATOR} {number} a{SEPARATOR}" for number in range(400)]
    train_tokenizer(Tokens(vocabulary=300), shard(tmp_path, texts), None, str(tmp_path / "t"))
    rows, encoder, _ = rows_of(texts[:3], str(tmp_path / "t"), split="validation")
    assert documents_of(rows.tokens(np.arange(len(rows))), encoder)[:3] == texts[:3]


def test_a_damaged_tokenizer_is_named(tokenizer, tmp_path):
    shutil.copytree(tokenizer, tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}')
    with pytest.raises(StageError, match=r"/t: its tokenizer cannot be read \("):
        rows_of(["a" * 40], str(tmp_path / "t"))
    with pytest.raises(StageError, match=r"/t: its tokenizer cannot be read \("):
        open_tokenizer(str(tmp_path / "t"))


def test_unfinished_training_rows_are_left_out_and_counted(tokenizer):
    rows, _, folder = rows_of(["one text", "another text"], tokenizer, row_tokens=8)
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["tokens_in_rows"] + ledger["tokens_left_out"] == ledger["tokens"]
    assert ledger["tokens_in_rows"] == len(rows) * 8 + 1


def test_urls_choose_the_documents(tokenizer):
    rows, _, _ = rows_of(["a" * 40, "b" * 40], tokenizer, split="validation", urls=r"//a\.")
    assert rows.metadata["documents"] == 1
    assert rows.metadata["sites"] == {"names": ["a.example"], "documents": base64.b64encode(bytes(1)).decode()}
    with pytest.raises(StageError, match=r"no en document whose URL matches 'nowhere' in the validation split"):
        rows_of(["a" * 40], tokenizer, split="validation", urls="nowhere")


def test_of_few_documents_one_is_measured_with_and_not_trained_on(tokenizer, tmp_path, caplog):
    texts = [f"{number} " + "word " * 40 for number in range(5)]
    (tmp_path / "empty").mkdir()
    train, empty = shard(tmp_path, texts), shard(tmp_path / "empty", [])

    def tokenized(split, shards, others, urls=None):
        out = [str(tmp_path / f"{split}.arrow"), str(tmp_path / f"{split}.json")]
        tokenize(Domain(language="en", urls=urls), shards, tokenizer, split, 8, *out, other_shards=others)
        rows = open_rows(out[0])
        return documents_of(rows.tokens(np.arange(len(rows))), open_tokenizer(tokenizer))

    held = tokenized("validation", empty, train)[0]
    assert held in texts
    assert "one of the training split is measured with" in caplog.text
    trained = tokenized("train", train, empty)
    assert trained[:-1] == [text for text in texts if text != held][:-1]  # the last row is not full
    assert not any(held[:4] in text for text in trained)
    site = r"//a\." if texts.index(held) % 2 else r"//b\."
    assert tokenized("validation", empty, train, site)[0] == held
    other = {r"//a\.": r"//b\.", r"//b\.": r"//a\."}[site]  # the document is another domain's
    with pytest.raises(StageError, match=r"no en document whose URL matches .* in the validation split, of 5 in"):
        tokenized("validation", empty, train, other)
    for few in (0, 1):
        with pytest.raises(StageError, match=f"{few or 'no'} en document, and at least two are needed"):
            tokenized("validation", empty, shard(tmp_path, texts[:few]))


def test_a_vocabulary_that_the_text_cannot_fill_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"tokens\.vocabulary: .* only \d+ entries"):
        train_tokenizer(Tokens(vocabulary=5000), shard(tmp_path, ["short"]), None, str(tmp_path / "t"))


def test_rows_are_mapped_and_not_copied(tokenizer):
    rows, _, _ = rows_of(["text " * 400], tokenizer)
    assert not rows.batches[0][0].flags.owndata
    assert rows.batches[0][0].dtype == pa.uint16().to_pandas_dtype()


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"text": ["a", None], "url": ["u", "v"]}, "a document has no text"),
        ({"text": ["a"]}, r"expected one column url \(string\); found text"),
        ({"text": [b"a"], "url": ["u"]}, r"expected one column text \(string\); found text \(binary\)"),
    ],
)
def test_shards_of_others_without_the_columns_are_refused(tmp_path, columns, message):
    batch = pa.record_batch(columns)
    with pa.ipc.new_stream(tmp_path / "a.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(StageError, match=f"a.arrow: {message}"):
        list(documents([str(tmp_path / "a.arrow")], None))


def test_training_a_tokenizer_on_a_word_without_end_takes_linear_time(tmp_path):  # quadratic would take minutes
    letters = "".join(random.Random(0).choices("abcdefghij", k=500_000))
    texts = ["\n".join(prose("en", i)) for i in range(40)]
    train_tokenizer(Tokens(vocabulary=300), shard(tmp_path, [*texts, letters]), None, str(tmp_path / "t"))


def test_words_of_ordinary_length_are_trained_on_whole(tmp_path, monkeypatch):
    texts = ["\n".join(prose("en", i)) for i in range(40)]
    for name, longest in (("whole", 10**9), ("cut", tokens.LONGEST_WORD)):
        monkeypatch.setattr(tokens, "LONGEST_WORD", longest)
        train_tokenizer(Tokens(vocabulary=300), shard(tmp_path, texts), None, str(tmp_path / name))
    whole, cut = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("whole", "cut"))
    assert cut == whole and json.loads(cut)["pre_tokenizer"]["type"] == "ByteLevel"


def test_few_characters_are_tokenized_at_once_whatever_the_lengths_of_documents():
    texts = ["a" * 10] * 600 + ["b" * CHARS_AT_ONCE] * 3 + ["c" * (CHARS_AT_ONCE - 1), "d", "e"]
    batches = list(batched(iter(texts)))
    assert [text for batch in batches for text in batch] == texts
    assert list(map(len, batches)) == [256, 256, 89, 1, 1, 2, 1]


def test_llama_cpp_makes_the_tokens_of_a_tokenizer_trained_here(tokenizer, tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    from benchmarks.llama_cpp import loaded
    from models.backbone import create_llama
    from models.gguf_file import write_gguf

    encoder, path = open_tokenizer(tokenizer), tmp_path / "model.gguf"
    sizes = {"hidden_size": 32, "layers": 1, "heads": 1, "ffn_size": 32, "vocabulary": 300, "row_tokens": 64}
    write_gguf(create_llama(**sizes), encoder, path)
    texts = [*prose("en", 3), "L’été 2024, l'été:\n\t\n  déjà 12345 🙂 你好 мир", SEPARATOR, " ", ""]
    with loaded(path) as model:
        for text in texts:
            [(ids, _)] = encode(encoder, [text])
            assert model.tokenize(text) == ids
        assert model.tokenize(f"a{SEPARATOR}b", special=True) == encoder(f"a{SEPARATOR}b").input_ids
