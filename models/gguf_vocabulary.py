"""Tokenizers as the entries of a GGUF file, of which llama.cpp makes its own tokenizer.

llama.cpp knows how to split a text by a name alone. It is found by the rules of the tokenizer, not by who made it:
a tokenizer with other rules is refused, for a text would become other tokens than those that the model learned.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from models.refusals import said
from models.tokenizers import put_around, vocabulary_size

# Rules by which tokenizers of bytes split a text into words, as tokenizer.json has them.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _words(numbers: str) -> list[dict[str, Any]]:
    pattern = {"Regex": WORDS.format(numbers)}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    return [split, BYTES | {"use_regex": False}]


# llama.cpp's names of such rules, and whether a word that is an entry becomes it without merges.
PRE_TOKENIZERS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([BYTES], False),
    "smollm": ([DIGITS, BYTES], False),
    "qwen2": (_words(r"\p{N}"), False),
    "llama-bpe": (_words(r"\p{N}{1,3}"), True),
    "dbrx": (_words(r"\p{N}{1,3}"), False),  # OLMo 2's too
}
SPACE = "\u2581"  # stands for a space in the entries of SentencePiece
TO_SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
# Rules by which tokenizers of SentencePiece's kind turn a text into one word, and whether with a space before it;
# a split at spaces, of which none is left, does nothing.
METASPACE = {"type": "Metaspace", "replacement": SPACE, "split": False}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
WHOLE: list[tuple[Any, Any, bool]] = [
    ({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, TO_SPACE]}, None, True),
    (None, METASPACE | {"prepend_scheme": "always"}, True),
    (None, METASPACE | {"prepend_scheme": "first"}, True),
    (None, METASPACE | {"prepend_scheme": "never"}, False),
    (TO_SPACE, SPLIT, False),
    (TO_SPACE, None, False),
]
BYTE_TOKENS = {f"<0x{byte:02X}>" for byte in range(256)}
# Types of entries: text, what cannot be written, control tokens, other added ones, no token, a byte.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TAKE = "take a backbone with the tokenizer of Llama, Mistral 7B, Qwen 2 or 3, Gemma, SmolLM, OLMo 2 or GPT-2"


def vocabulary(tokenizer: Any, rows: int) -> dict[str, Any]:
    """Entries of a GGUF file (`tokenizer.` comes before their names), for embeddings of so many `rows`.

    llama.cpp then makes the tokens of the fast tokenizer, but for this: it does not compose characters (NFC); of
    SentencePiece's kinds with a space before a text, it sets one before a text that begins with a space too, and
    before the text behind each control token.
    Raises ValueError where it would make others.
    """
    if (size := vocabulary_size(tokenizer)) > rows:
        raise ValueError(f"its tokenizer has ids up to {size - 1}, and the model has embeddings of {rows}")
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    model, added = rules["model"], rules["added_tokens"]
    if model["type"] != "BPE" or model["dropout"] or model["continuing_subword_prefix"]:
        raise ValueError(f"its tokenizer ({said(model['type'])[1:-1]}) is none of llama.cpp's; {TAKE}")
    entries = _sentencepiece(rules) if model["byte_fallback"] else _byte_level(rules)
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [UNUSED] * rows
    for token, number in model["vocab"].items():
        if number < rows:
            tokens[number] = token
            types[number] = BYTE if model["byte_fallback"] and token in BYTE_TOKENS else NORMAL
    for about in added:
        if about["id"] < rows:
            tokens[about["id"]] = about["content"]
            types[about["id"]] = CONTROL if about["special"] else USER_DEFINED
            if model["byte_fallback"] and not about["special"]:
                tokens[about["id"]] = about["content"].replace(SPACE, " ")
            if not about["special"] and (about["single_word"] or about["lstrip"] or about["rstrip"]):
                raise ValueError(
                    f"its tokenizer takes the white space around {said(about['content'])}, which llama.cpp "
                    f"does not; {TAKE}"
                )
    unknown = tokenizer.unk_token_id
    if model["byte_fallback"] and unknown is not None:
        types[unknown] = UNKNOWN
    if len(set(tokens)) < rows:
        raise ValueError(
            "two tokens of its tokenizer have the same text, which llama.cpp does not take; rename one"
        )
    entries |= {"ggml.tokens": tokens, "ggml.token_type": types, **_special(tokenizer)}
    if "ggml.scores" in entries:
        scores = entries["ggml.scores"]
        entries["ggml.scores"] = [scores.get(token, -float(rows)) for token in tokens]
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return entries | ({"chat_template": template} if template else {})


def _byte_level(rules: dict[str, Any]) -> dict[str, Any]:
    """Entries of a tokenizer whose letters are bytes. Raises ValueError where it is not split as llama.cpp can."""
    pre = rules["pre_tokenizer"] or {}
    parts = [
        {key: value for key, value in part.items() if key != "trim_offsets"}
        for part in pre.get("pretokenizers", [pre])
    ]
    split = (parts, rules["model"]["ignore_merges"])
    name = next((name for name, known in PRE_TOKENIZERS.items() if split == known), None)
    if name is None or rules["normalizer"] not in (None, {"type": "NFC"}):
        raise ValueError(f"its tokenizer splits texts by rules that are not known of llama.cpp; {TAKE}")
    merges = [f"{one} {other}" for one, other in rules["model"]["merges"]]
    return {"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": merges}


def _sentencepiece(rules: dict[str, Any]) -> dict[str, Any]:
    """Entries of a tokenizer that was SentencePiece's, with the scores by text. Raises ValueError for another.

    There every two entries that stand side by side may be merged into a third, first those that make the one with
    the highest score. tokenizer.json lists all these pairs in that order.
    """
    how = (rules["normalizer"], rules["pre_tokenizer"])
    space = next((space for *known, space in WHOLE if how == tuple(known)), None)
    vocab, merges = rules["model"]["vocab"], [tuple(pair) for pair in rules["model"]["merges"]]
    # llama.cpp sets the space behind each added token, too.
    once = (rules["pre_tokenizer"] or {}).get("prepend_scheme") == "first"
    others = once and any(not about["special"] for about in rules["added_tokens"])
    if space is None or others or not vocab.keys() >= BYTE_TOKENS:
        raise ValueError(f"its tokenizer splits texts by rules that are not known of llama.cpp; {TAKE}")
    # Those are found in a text before anything is merged.
    whole = {about["content"] for about in rules["added_tokens"]}
    order = [token for token, _ in groupby(made for made in map("".join, merges) if made not in whole)]
    pairs = {
        (token[:cut], token[cut:])
        for token in vocab.keys() - whole
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    }
    if len(set(order)) < len(order) or not pairs <= set(merges):
        raise ValueError(
            f"its tokenizer is like SentencePiece's, but merges in another order, which llama.cpp cannot; {TAKE}"
        )
    scores = {token: -float(place) for place, token in enumerate(order)}
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.scores": scores, "ggml.add_space_prefix": space}


def _special(tokenizer: Any) -> dict[str, Any]:
    """Entries of special tokens: which they are, and which llama.cpp shall put around a text.

    Where they are not said, it takes token 11 for the beginning and the end.
    """
    before, after = put_around(tokenizer)
    ends = [token for token in (tokenizer.eos_token_id, tokenizer.bos_token_id) if token is not None]
    if not ends:
        raise ValueError("its tokenizer has no token for an end of text; name one as eos_token, and save it again")
    if len(before) > 1 or after not in ([], ends[:1]):
        raise ValueError(f"its tokenizer puts other tokens around a text than a beginning and an end; {TAKE}")
    entries = {
        "ggml.bos_token_id": before[0] if before else ends[-1],
        "ggml.eos_token_id": ends[0],
        "ggml.add_bos_token": bool(before),
        "ggml.add_eos_token": bool(after),
    }
    others = {"unknown": tokenizer.unk_token_id, "padding": tokenizer.pad_token_id}
    return entries | {f"ggml.{key}_token_id": token for key, token in others.items() if token is not None}
