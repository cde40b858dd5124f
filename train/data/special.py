"""Tokens that are no text: what a tokenizer puts around a text, and what no text may make."""

from __future__ import annotations

import functools
import re
from typing import Any

from models import tokenizers
from pipeline.common.errors import StageError

# Elements of HTML, and Gemma's bbox: text to a tokenizer that has tokens for them.
TAG = re.compile(
    "</?(a|abbr|article|aside|b|bbox|blockquote|body|br|button|caption|center|code|col|dd|del|details|div|dl|dt|em|"
    "figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|li|link|main|mark|meta|nav|"
    "ol|option|p|pre|q|s|samp|script|section|select|small|source|span|strong|style|sub|summary|sup|svg|table|tbody|"
    "td|textarea|tfoot|th|thead|time|title|tr|u|ul|var|video)>"
)


def put_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before and behind every text. Raises StageError where it leaves none."""
    try:
        return tokenizers.put_around(tokenizer)
    except ValueError as error:
        raise StageError(str(error)) from None


@functools.lru_cache(maxsize=8)
def control_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that no text may make: special ones, but for that of unknown words if it is no separator too,
    and others whose names are signs of a chat or a tool, such as <|user|> and <tool_call>.
    """
    added = tokenizer.added_tokens_decoder.items()
    signs = {token for token, about in added if about.special or _is_sign(about.content)}
    return frozenset(signs - _letters(tokenizer) - unknown_ids(tokenizer)) | unscored_ids(tokenizer)


def unscored_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that are no text and may stand in rows: special ones, but for that of unknown words."""
    special = set(tokenizer.all_special_ids) - _letters(tokenizer)
    return frozenset(special | _ends(tokenizer)) - unknown_ids(tokenizer)


@functools.lru_cache(maxsize=8)
def unknown_ids(tokenizer: Any) -> frozenset[int]:
    """The token that stands in encoded text for what the tokenizer cannot write, if it is no separator too."""
    backend = tokenizer.backend_tokenizer
    name = getattr(backend.model, "unk_token", None)
    ids = {tokenizer.unk_token_id, None if name is None else backend.token_to_id(name)}
    return frozenset(token for token in ids if token is not None) - _ends(tokenizer)


def _ends(tokenizer: Any) -> set[int]:
    ids = {tokenizer.bos_token_id, tokenizer.eos_token_id}.union(*put_around(tokenizer))
    return {token for token in ids if token is not None}


def _letters(tokenizer: Any) -> set[int]:
    """Special tokens of one character, such as the ! that some models are padded with: they are text."""
    special = set(tokenizer.all_special_ids).union(tokenizer.added_tokens_decoder)
    return {token for token in special if len(tokenizer.convert_ids_to_tokens(token)) == 1} - _ends(tokenizer)


def _is_sign(name: str) -> bool:
    """Whether a name in brackets is no element of HTML, which some tokenizers have as tokens of text.

    >>> [_is_sign(name) for name in ("<|user|>", " <tool_call>", "[INST]", "</td>", "    ", "<")]
    [True, True, True, False, False, False]
    """
    name = name.strip("\u2581 ")
    return bool(re.fullmatch(r"<.+>|\[.+\]", name)) and not TAG.fullmatch(name)
