"""Tokenizers from elsewhere, read as data: fast ones, whose ids are those of their file and of the model."""

from __future__ import annotations

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

from models.foreign import as_data, check_folder, find, read_config
from models.refusals import Refused, file_names, said

# Classes of a tokenizer that is its tokenizer.json alone; beside a config the model may say otherwise.
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")
MOST_GROWTH = 100  # characters that a tokenizer makes of one, far above what any does
# What a vocabulary lies in, if not in tokenizer.json.
VOCABULARY = re.compile(r".*\.model|vocab.*|tekken\.json|.*\.tiktoken|.*\.spm|spiece.*|merges\.txt")


def read_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer of a folder or a repository, as transformers reads it for the model beside it.

    Raises ValueError where it is damaged.
    """
    from transformers import PreTrainedTokenizerFast

    if Path(path).is_dir():
        check_folder(path)
    # Of the tokenizers that are made here, there is no config.
    config = {"config": read_config(path, revision)} if find(path, "config.json", revision, needed=False) else {}
    with as_data("its tokenizer cannot be read"):
        about = _tokenizer_config(path, revision)
        _check_there(path, revision)
        where: dict[str, Any] = {"revision": revision or "main"}
        if not config and about.get("tokenizer_class") in PLAIN:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path, **where)
        else:
            from transformers import AutoTokenizer  # takes seconds to import

            _check_class(about.get("tokenizer_class") or "")
            _check_class(getattr(config.get("config"), "tokenizer_class", None) or "")
            tokenizer = AutoTokenizer.from_pretrained(path, **where, trust_remote_code=False, **config)
        # It would lead those who trust a copy's code to code of another repository.
        tokenizer.init_kwargs.pop("auto_map", None)
        _check_growth(tokenizer)
        _check_ids(tokenizer, find(path, "tokenizer.json", revision, needed=False))
    if config:
        _check_fit(tokenizer, config["config"])
    return tokenizer


def vocabulary_size(tokenizer: Any) -> int:
    """What the ids of texts and of the separators between them lie below.

    Not the number of entries, for ids may leave holes. Special tokens that no text makes (train/data/tokens.py)
    do not count: Gemma 3's token of an image lies behind the embeddings of its text models.
    """
    made = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    special = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    unmade = special.union(tokenizer.all_special_ids) - made
    return int(max(set(tokenizer.get_vocab().values()) - unmade, default=-1)) + 1


def put_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before and behind every text. Raises ValueError where it leaves none."""
    from tokenizers import Tokenizer, models

    # Any text of one token will do, of whatever vocabulary.
    one = Tokenizer(models.WordLevel({"a": 0})).encode("a")
    with as_data("the tokenizer puts no text between its tokens"):
        processor = tokenizer.backend_tokenizer.post_processor
        whole = one if processor is None else processor.process(one)
        place = whole.sequence_ids.index(0)
    return whole.ids[:place], whole.ids[place + 1 :]


def _check_there(path: str, revision: str | None) -> None:
    """Raises Refused where there is no file of a tokenizer: some classes would be made without a word in them."""
    if find(path, "tokenizer.json", revision, needed=False):
        return
    if not any(map(VOCABULARY.fullmatch, file_names(path, revision))):
        raise Refused(f"there is no tokenizer (tokenizer.json) in {path}; put the model's own beside it")


def _check_ids(tokenizer: Any, file: Path | None) -> None:
    """Raises Refused where the library gives tokens other ids than the tokenizer's file, or two the same.

    It numbers added tokens by the count of entries, and so wrongly where ids before them leave holes.
    """
    ids = tokenizer.get_vocab()
    if len(set(ids.values())) < len(ids):
        raise Refused("its tokenizer gives several tokens the same id; close the holes in its ids")
    added = json.loads(file.read_text(encoding="utf-8")).get("added_tokens") or [] if file else []
    for token in added:
        own = ids.get(token["content"], token["id"])
        if own != token["id"]:
            about = (
                f"{said(token['content'])} is {said(token['id'])[1:-1]} in tokenizer.json and {own} when loaded"
            )
            raise Refused(f"its tokenizer numbers tokens in two ways ({about}); close the holes in its ids")


def _check_fit(tokenizer: Any, config: Any) -> None:
    """Raises Refused where no rows can be made with the tokenizer, or not for this model."""
    if not tokenizer.is_fast:
        kind = type(tokenizer).__name__
        raise Refused(f"its tokenizer ({kind}) has no fast form, tokenizer.json; take a model that has one")
    if tokenizer.eos_token_id is None and tokenizer.bos_token_id is None:
        cure = "name one of its tokens as eos_token in tokenizer_config.json"
        raise Refused(f"its tokenizer has neither an end nor a beginning token to put between documents; {cure}")
    size, entries = vocabulary_size(tokenizer), getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(entries, int) and size > entries:
        last = next(token for token, number in tokenizer.get_vocab().items() if number == size - 1)
        raise Refused(
            f"its tokenizer has ids up to {size - 1} ({said(last)}), and the model {entries} embeddings: put the "
            f"model's own tokenizer beside it, or enlarge it with model.resize_token_embeddings({size})"
        )


def _tokenizer_config(path: str, revision: str | None = None) -> dict[str, Any]:
    """What the files beside a tokenizer say of it. Raises ValueError where they lead to a file elsewhere.

    Their keys are arguments of the tokenizer's class, which opens some of these, and a copy would hold the text.
    """
    about: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = find(path, name, revision, needed=False)
        for key, value in json.loads(file.read_text(encoding="utf-8") if file else "{}").items():
            opened = key in ("vocab", "merges", "vocab_file", "merges_file") and isinstance(value, str)
            versions = key == "fast_tokenizer_files" and "/" in str(value)
            if (opened and Path(value).is_file()) or versions or (value and key in ("gguf_file", "init_inputs")):
                raise ValueError(f"{key} in {name} leads to another file; take it out")
            about[key] = value
    return about


def _check_class(name: str) -> None:
    """Raises ValueError where a tokenizer's class is something else of transformers.

    That would read other files, and ask on the terminal whether to run code that lies there.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    for known in map(tokenizer_class_from_name, (name, name.removesuffix("Fast"))):
        if known is not None and not (isinstance(known, type) and issubclass(known, PreTrainedTokenizerBase)):
            raise ValueError(f"{name} is no class of a tokenizer")


def _check_growth(tokenizer: Any) -> None:
    """Raises ValueError where rules of a tokenizer make many characters of one.

    Five rules that each make 30 letters of the last one's letter would make gigabytes of a line.
    """
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        for rules in filter(None, (backend.normalizer, backend.decoder)):
            growth = _growth(json.loads(rules.__getstate__()))
            if growth > MOST_GROWTH:
                raise ValueError(f"its rules make {growth:,.0f} characters of one, more than any tokenizer does")


def _growth(rule: dict[str, Any]) -> float:
    """How many characters a rule may make of one."""
    if rule["type"] == "Replace":
        return max(1, len(rule["content"]) / max(1, len(rule["pattern"].get("String", ""))))
    if rule["type"] == "Precompiled":  # a table, whose size comes first, and the texts that it leads to
        table = base64.b64decode(rule["precompiled_charsmap"])
        texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
        return max(1, *(len(text.decode(errors="replace")) for text in texts))
    parts = rule.get("normalizers") or rule.get("decoders") or []
    return math.prod(map(_growth, parts)) * max(1, len(rule.get("prepend", "")))
