"""What tokenizers put around texts, and rows that begin with it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from models.backbone import create_llama, load_tokenizer, save_backbone
from pipeline.common.errors import StageError
from pipeline.common.files import write_arrow
from train.data.options import Domain
from train.data.packing import write_rows
from train.data.rows import Rows, open_rows
from train.data.sites import count_sites, site_places
from train.data.special import control_ids, unscored_ids
from train.data.texts import SCHEMA
from train.data.tokens import beginning, check_tokenizer, encode, separators, token_bytes, tokenize
from train.evaluation.evaluate import evaluate
from train.evaluation.options import Evaluate

# For each kind: its special tokens, by name where transformers knows one; what it puts around a text; the names of
# what then stands before and behind a document.
KINDS: dict[str, tuple[dict[str, str], str, list[str], list[str]]] = {
    "Llama 2": ({"unk": "<unk>", "bos": "<s>", "eos": "</s>"}, "<s> $A", ["<s>"], ["</s>"]),
    "Llama 3": (
        {"bos": "<|begin|>", "eos": "<|end|>", "0": "<|eot|>"},
        "<|begin|> $A",
        ["<|begin|>"],
        ["<|end|>"],
    ),
    "Gemma": ({"pad": "<pad>", "eos": "<eos>", "bos": "<bos>"}, "<bos> $A", ["<bos>"], ["<eos>"]),
    "Mistral with an end": ({"bos": "<s>", "eos": "</s>"}, "<s> $A </s>", ["<s>"], ["</s>"]),
    "BERT": ({"cls": "[CLS]", "sep": "[SEP]"}, "[CLS] $A [SEP]", ["[CLS]"], ["[SEP]"]),
    "GLM 4": ({"0": "[gMASK]", "1": "<sop>", "eos": "<end>"}, "[gMASK] <sop> $A", ["[gMASK]", "<sop>"], ["<end>"]),
    "OPT": ({"bos": "</s>", "eos": "</s>"}, "</s> $A", ["</s>"], []),
    "GPT-2": ({"bos": "<end>", "eos": "<end>", "unk": "<end>"}, "$A", ["<end>"], []),
    "Qwen 2": ({"eos": "<|end|>"}, "$A", ["<|end|>"], []),
    "SmolLM 2": ({"bos": "<|im_start|>", "eos": "<|im_end|>"}, "$A", ["<|im_end|>"], []),
    "none but a beginning": ({"bos": "<s>"}, "$A", ["<s>"], []),
}
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def make_tokenizer(kind: str) -> Any:
    """Of bytes, as SentencePiece falls back on them (Llama 2, Gemma) or as GPT-2 has them."""
    names, template, _, _ = KINDS[kind]
    special = list(dict.fromkeys(names.values()))
    pieces = kind in ("Llama 2", "Gemma")
    letters = [*BYTES, "▁", "a", "b", "c"] if pieces else sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate([*special, *letters])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token=names.get("unk"), byte_fallback=pieces, fuse_unk=True))
    template_of = processors.TemplateProcessing(
        single=template, special_tokens=[(x, vocabulary[x]) for x in special]
    )
    core.post_processor = template_of
    if pieces:
        spaces = normalizers.Replace(" ", "▁")
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if kind == "Llama 2" else spaces
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template_of])
    more = [name for place, name in names.items() if place.isdigit()]
    named = {f"{place}_token": name for place, name in names.items() if not place.isdigit()}
    return PreTrainedTokenizerFast(tokenizer_object=core, additional_special_tokens=more, **named)


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_around_a_document(kind: str, tmp_path: Path) -> None:
    names, template, before, after = KINDS[kind]
    made = make_tokenizer(kind)
    made.save_pretrained(tmp_path)
    for tokenizer in (made, load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer.convert_ids_to_tokens(separators(tokenizer)[0]) == before
        assert tokenizer.convert_ids_to_tokens(separators(tokenizer)[1]) == after
        assert beginning(tokenizer) == (separators(tokenizer)[0] if template != "$A" else [])
        assert tokenizer("b")["input_ids"][: len(beginning(tokenizer))] == beginning(tokenizer)
        for text in (*names.values(), f"a {names['eos' if 'eos' in names else next(iter(names))]}b", "é\u0378 漢"):
            [(ids, spans)] = encode(tokenizer, [text])
            assert control_ids(tokenizer).isdisjoint(ids)
            assert sum(token_bytes(text, spans)) == len(text.encode())


def test_the_reader_decides_as_the_model_would(tmp_path: Path) -> None:
    """A class that transformers gives a model may put nothing where tokenizer.json says so."""
    made = make_tokenizer("OPT")
    made.save_pretrained(tmp_path)
    assert beginning(load_tokenizer(str(tmp_path))) == [0]
    about = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about | {"tokenizer_class": "GPTNeoXTokenizer"}))
    ours, theirs = load_tokenizer(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    assert beginning(ours) == beginning(theirs) == theirs("")["input_ids"]
    assert rows_of(tmp_path, ["a" * 99]).metadata["beginning"] == beginning(theirs)


# Rows ---------------------------------------------------------------------------------------------


def stream(lengths: list[int], lead: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, bytes and owners of documents of so many tokens, all different, each behind a beginning (or separator)
    and before an end; the first ids are those of the beginning.
    """
    ids, sizes, owners, token = [], [], [], 10
    for document, length in enumerate(lengths):
        before = list(range(1, lead + 1)) or [7]
        ids += [*before, *range(token, token + length), *([9] if lead else [])]
        sizes += [0] * len(before) + [1 + i % 3 for i in range(length)] + [0] * bool(lead)
        owners += [document] * (len(ids) - len(owners))
        token += length
    return np.array(ids, np.uint16), np.array(sizes, np.uint32), np.array(owners, np.int64)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    row_tokens=st.integers(8, 13),
    lead=st.integers(0, 3),
    filled=st.booleans(),
)
def test_every_token_is_predicted_once(
    lengths: list[int], row_tokens: int, lead: int, filled: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ids, sizes, owners = stream(lengths, lead)
    path = str(tmp_path_factory.mktemp("rows") / "rows.arrow")
    sites = count_sites([f"{document}.example" for document in range(min(len(lengths), 12))])
    about = {
        "row_tokens": row_tokens, "vocabulary": 60_000, "special_ids": [], "tokenizer_sha256": "", "domain": "",
        "separator": 1 if lead else 7, "beginning": list(range(1, lead + 1)), "sites": sites,
    }  # fmt: skip
    try:
        kept = write_rows(path, ids, sizes, owners, row_tokens, 9 if filled else None, about)
    except StageError:
        assert len(ids) <= row_tokens and not filled
        return
    rows = open_rows(path)
    everything = np.arange(len(rows))
    tokens_NT1 = rows.tokens(everything)
    assert (tokens_NT1[:, :lead] == about["beginning"]).all()
    assert lead or (tokens_NT1[1:, 0] == tokens_NT1[:-1, -1]).all()

    predicted = tokens_NT1[:, max(lead, 1) :].ravel()
    inside = set(about["beginning"]) or {7}
    text = [token for token in predicted if token not in inside and token != 9]
    assert text == [token for token in ids[:kept] if token not in inside and token != 9]
    assert rows.bytes(everything).sum() == sizes[:kept].sum()
    assert kept == len(ids) if filled else kept > len(ids) - row_tokens - lead - 1
    for row in tokens_NT1.tolist():  # no beginning right behind another, but a whole one
        assert all(token != 1 or row[i : i + lead] == row[:lead][: len(row) - i] for i, token in enumerate(row))
        assert not lead or row[lead] != 1

    owner = dict(zip(ids.tolist(), owners.tolist(), strict=True))
    place_NT = site_places(rows, tokens_NT1, rows.documents(everything))
    of_site = {int(name.split(".")[0]): i for i, name in enumerate(sites["names"])}
    for row, places in zip(tokens_NT1[:, 1:].tolist(), place_NT.tolist(), strict=True):
        for token, place in zip(row, places, strict=True):
            assert token < 10 or len(lengths) > 12 or place == of_site[owner[token]]


@pytest.mark.parametrize("lead", [0, 2])
@pytest.mark.parametrize("most", [1, 3, 7, 8, 99])
def test_a_limit_leaves_rows_that_are_evenly_spread(most: int, lead: int, tmp_path: Path) -> None:
    ids, sizes, owners = stream([5, 30, 2, 17, 40, 9, 1], lead)
    about = {
        "row_tokens": 13, "vocabulary": 60_000, "special_ids": [], "tokenizer_sha256": "", "domain": "",
        "beginning": list(range(1, lead + 1)), "documents": 7, "bytes": int(sizes.sum()),
    }  # fmt: skip
    write_rows(str(tmp_path / "all"), ids, sizes, owners, 13, 9, about)
    kept = write_rows(str(tmp_path / "some"), ids, sizes, owners, 13, 9, about, most)
    everything, some = open_rows(str(tmp_path / "all")), open_rows(str(tmp_path / "some"))
    place = np.arange(count := min(most, len(everything))) * len(everything) // count
    here = np.arange(len(some))
    assert (some.tokens(here) == everything.tokens(place)).all()
    assert (some.documents(here) == everything.documents(place)).all()
    assert kept == some.metadata["tokens"] <= everything.metadata["tokens"]
    if most < len(everything):
        predicted = set(some.tokens(here)[:, max(lead, 1) :].ravel().tolist())
        owner = {token: owner for token, owner in zip(ids.tolist(), owners.tolist(), strict=True) if token >= 10}
        assert some.metadata["documents"] == len({owner[token] for token in predicted if token >= 10})
        assert some.metadata["bytes"] == some.bytes(here).sum()
    else:
        assert some.metadata == everything.metadata


def rows_of(tokenizer: Path, texts: list[str], split: str = "validation", row_tokens: int = 16) -> Rows:
    write_arrow(tokenizer / "shard.arrow", SCHEMA, ({"text": text, "url": None} for text in texts))
    shards, output, ledger = [str(tokenizer / "shard.arrow")], tokenizer / "rows.arrow", tokenizer / "ledger.json"
    tokenize(Domain(language="fr"), shards, str(tokenizer), split, row_tokens, str(output), str(ledger))
    return open_rows(str(output))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_each_kind(kind: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(kind)
    tokenizer.save_pretrained(tmp_path)
    texts = ["un été " * 5, "<s></s> a", *(f"{i} <end>" * i for i in range(1, 9))]
    rows = rows_of(tmp_path, texts)
    tokens_NT1, lead = rows.tokens(np.arange(len(rows))), len(beginning(tokenizer))
    assert rows.bytes(np.arange(len(rows))).sum() == sum(len(text.encode()) for text in texts)
    assert (tokens_NT1[:, :lead] == beginning(tokenizer)).all()
    before, _ = separators(tokenizer)
    inside = tokens_NT1[:, lead or 1 :]
    begins = int((inside == before[0]).sum())
    whole = [row[lead:].tolist() for row in tokens_NT1] if lead else [tokens_NT1[0].tolist(), *inside[1:].tolist()]
    written = tokenizer.decode([token for row in whole for token in row], skip_special_tokens=True)
    assert "".join(written.split()) == "".join("".join(texts).split())
    assert lead or begins >= len(texts) - 1
    scored = np.isin(inside, rows.metadata["special_ids"], invert=True).sum()
    assert scored == sum(len(encode(tokenizer, [text])[0][0]) for text in texts)
    assert rows.unlearned_ids == [token for token in before[:lead] if token != tokenizer.eos_token_id]


def test_older_rows_are_taken_where_nothing_changed(tmp_path: Path) -> None:
    for kind, problem in (("GPT-2", None), ("Llama 3", "do not begin with the token that .* expects")):
        folder = tmp_path / kind
        make_tokenizer(kind).save_pretrained(folder)
        rows = rows_of(folder, ["a" * 99])
        check_tokenizer(rows, str(folder))
        del rows.metadata["beginning"]
        if problem is None:
            check_tokenizer(rows, str(folder))
        else:
            with pytest.raises(StageError, match=problem):
                check_tokenizer(rows, str(folder))


def test_bits_per_byte_are_those_of_transformers(tmp_path: Path) -> None:
    """Each part of a text behind a beginning of its own, by a plain loop."""
    folder = tmp_path / "backbone"
    tokenizer = make_tokenizer("Llama 2")
    tokenizer.model_max_length = 16
    model = create_llama(
        hidden_size=16, layers=2, heads=2, ffn_size=24, vocabulary=len(tokenizer), row_tokens=16, seed=3
    )
    for weight in model.parameters():
        weight.data *= 8
    save_backbone(model, tokenizer, folder)
    text = "un bac à cabas " * 6
    (tmp_path / "a.txt").write_text(text)
    evaluate(Evaluate(device="cpu"), str(folder), None, [f"a={tmp_path}/a.txt"], f"{tmp_path}/out.json", None)
    ours = json.loads((tmp_path / "out.json").read_text())["domains"]["a"]

    plain, (bos, *ids) = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        tokenizer(text)["input_ids"],
    )
    nats = {}
    for first in ([bos], []):
        nats[bool(first)] = 0.0
        for start in range(0, len(ids), 16):
            row = torch.tensor([[*first, *ids[start : start + 16]]])
            with torch.no_grad():
                logp = plain(input_ids=row).logits[0, :-1].log_softmax(-1)
            nats[bool(first)] -= logp.gather(1, row[0, 1:, None]).sum().item()
    assert ours["tokens"] == len(ids) and ours["bytes"] == len(text.encode())
    assert ours["bpb"] == pytest.approx(nats[True] / math.log(2) / len(text.encode()), rel=1e-2)
    assert ours["bpb"] != pytest.approx(nats[False] / math.log(2) / len(text.encode()), rel=3e-2)


# Text is text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": True}]
)
@pytest.mark.parametrize("kind", ["Llama 2", "Llama 3"])
@pytest.mark.parametrize(
    "name", ["<|user|>", "<｜Assistant｜>", "<tool_call>", "</think>", "[INST]", "<start_of_image>"]
)
def test_signs_of_a_chat_are_text(name: str, kind: str, options: dict[str, bool]) -> None:
    """Special or not, as tokenizers of chat models have both."""
    for special in (True, False):
        tokenizer = make_tokenizer(kind)
        tokenizer.add_tokens([AddedToken(name, special=special, **options)])
        sign = tokenizer.convert_tokens_to_ids(name)
        for text in (name, f"a  {name}  b", f"{name}{name}\n", f" {name[:-1]}{name} "):
            [(ids, spans)] = encode(tokenizer, [text])
            assert sign not in ids
            assert sum(token_bytes(text, spans)) == len(text.encode())
            assert "".join(tokenizer.decode(ids).split()) == "".join(text.split())


def test_tokens_of_text_that_were_added_stay() -> None:
    tokenizer = make_tokenizer("Gemma")
    added = ["\n\n", "    ", "<td>", "</blockquote>", "été"]
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in added])
    assert [tokenizer.decode(encode(tokenizer, [name])[0][0][0]) for name in added] == added
    assert all(len(encode(tokenizer, [name])[0][0]) == 1 for name in added)


def test_a_letter_that_models_are_padded_with_is_text() -> None:
    tokenizer = make_tokenizer("Llama 3")
    tokenizer.pad_token = "!"  # noqa: S105
    [(ids, _)] = encode(tokenizer, ["a!b!"])
    assert tokenizer.decode(ids) == "a!b!" and tokenizer.pad_token_id not in unscored_ids(tokenizer)


def words(unknown: str | None) -> Any:
    """A tokenizer of five words, which has a token for all others or leaves them out."""
    vocabulary = {"<end>": 0, "<unk>": 1, "un": 2, "deux": 3, "trois": 4}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"unk_token": "<unk>"} if unknown == "<unk>" else {}
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", **named)  # noqa: S106


@pytest.mark.parametrize("unknown", ["<unk>", "<end>"])
def test_what_a_tokenizer_cannot_write_is_scored_or_refused(unknown: str, tmp_path: Path) -> None:
    words(unknown).save_pretrained(tmp_path)
    known = " ".join(["un deux trois"] * 50)
    rows = rows_of(tmp_path, [f"{known} cinq", known])
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert (ledger["unknown_tokens"], ledger["unknown_bytes"]) == ((1, 5) if unknown == "<unk>" else (0, 4))
    assert rows.metadata["special_ids"] == [0]
    with pytest.raises(StageError, match=r"has no tokens for [68]\.[37]% of the fr text; take a backbone"):
        rows_of(tmp_path, ["un deux trois un deux trois un deux trois un deux trois cinq"] * 9)


def test_what_a_tokenizer_leaves_out_is_counted(tmp_path: Path) -> None:
    core = Tokenizer(models.BPE({"<end>": 0, "a": 1, "b": 2, " ": 3}, []))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>").save_pretrained(tmp_path)  # noqa: S106
    rows_of(tmp_path, ["ab " * 200 + "é"])
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert (ledger["unknown_tokens"], ledger["unknown_bytes"], ledger["bytes"]) == (0, 2, 602)
    with pytest.raises(StageError, match="has no tokens for"):
        rows_of(tmp_path, ["ab Ελληνικά"])
