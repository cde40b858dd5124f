"""Documents to tokens: the tokenizer, what it makes of a text, and a domain's stream of tokens."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.foreign import as_data
from models.saving import saving
from models.tokenizers import read_tokenizer, vocabulary_size
from pipeline.common.arrow import check_sizes
from pipeline.common.errors import StageError
from pipeline.common.files import atomic_folder, read_arrow, write_json
from pipeline.common.hosts import matches
from pipeline.common.locks import own_folder
from pipeline.common.progress import progress
from pipeline.common.schemas import some_columns
from train.data.options import Domain, Tokens
from train.data.packing import write_rows
from train.data.rows import Rows
from train.data.sites import count_sites, host
from train.data.special import control_ids, put_around, unknown_ids, unscored_ids

log = logging.getLogger(__name__)

SEPARATOR = "<|endoftext|>"
# Of a document that is tokenized each character may take 300 bytes of memory.
DOCUMENTS_AT_ONCE, CHARS_AT_ONCE = 256, 2**21
LONGEST_WORD = 1000  # in the training of a tokenizer, whose time is quadratic in it
MOST_UNKNOWN = 0.01  # of a domain's bytes: text that the tokenizer cannot write


def documents(shards: Iterable[str], urls: str | None, without: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Text and URL ("" where there is none) of a domain's documents: those of the shards whose URL matches `urls`,
    but for those whose URL matches one of `without`.

    Raises StageError where a shard, which may be another corpus's, is damaged or has other columns.
    """
    pattern, others = re.compile(urls or ""), [re.compile(other) for other in without]
    for path in shards:
        for batch in read_arrow(path, some_columns("text", "url")):
            if batch.column("text").null_count:
                raise StageError(f"{path}: a document has no text (null); take it out")
            for text, url in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                if matches(pattern, url or "") and not any(matches(other, url or "") for other in others):
                    yield text, url or ""


def note_hosts(pairs: Iterator[tuple[str, str]], hosts: list[str]) -> Iterator[str]:
    """The texts of documents(), one by one; the host of each goes into `hosts`, so that one pass gives both."""
    for text, url in pairs:
        hosts.append(sys.intern(host(url)))
        yield text


def train_tokenizer(
    options: Tokens, shards: list[str], urls: str | None, output: str, without: Sequence[str] = ()
) -> None:
    """Train a byte-level BPE and save it as a tokenizer folder of transformers.

    Byte level: every text has tokens, in any language. Trained on the old domain alone, so that a backbone
    pretrained on it leaves no embedding untrained.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(LONGEST_WORD)])
    tokenizer.decoder = decoders.ByteLevel()
    log.info("counting the words of %d shards, then making %d tokens", len(shards), options.vocabulary)
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for text, _ in documents(shards, urls, without)), trainer)
    tokenizer.pre_tokenizer = words
    if tokenizer.get_vocab_size() < options.vocabulary:
        raise StageError(
            f"tokens.vocabulary: the text of {options.domain} gives only {tokenizer.get_vocab_size()} entries, "
            f"not {options.vocabulary}; lower it or give more text"
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SEPARATOR, eos_token=SEPARATOR)
    with atomic_folder(output) as folder, saving(folder):
        fast.save_pretrained(folder)


def tokenize(
    options: Domain,
    shards: list[str],
    tokenizer: str,
    split: str,
    row_tokens: int,
    output: str,
    ledger: str,
    without: Sequence[str] = (),
    other_shards: Sequence[str] = (),
) -> None:
    """Write one split of a domain as rows: an uncompressed Arrow IPC file that can be mapped into memory.

    Columns: `tokens` (T + 1 token ids), `bytes` (UTF-8 bytes of the text whose tokens the row predicts) and
    `document` (number of the document that the row begins in). Validation rows are filled up with
    separators, so that every token counts; of training rows the unfinished last one is left out. The metadata of
    validation rows say which site each document is of. `without`: the URLs of what other domains hold out.
    `other_shards`: of the other split; where too few documents are there to hold one out, one of the training text
    is measured with, and not trained on (`held_out_text`). Raises StageError where the domain has no document in
    this split.
    """
    try:
        encoder = read_tokenizer(tokenizer)
    except ValueError as error:
        raise StageError(f"{tokenizer}: {error}") from None
    before, after = separators(encoder)
    vocabulary = max(vocabulary_size(encoder), *(token + 1 for token in (*before, *after)))
    dtype = np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    held_out = split == "validation"
    hosts: list[str] = []
    training, measuring = (other_shards, shards) if held_out else (shards, other_shards)
    held = held_out_text(training, measuring, without) if other_shards else None
    pairs = documents(shards if held is None else training, options.urls, without)
    if held is not None:
        log.warning(
            "%s: the validation split has no %s document; one of the training split is measured with instead",
            output,
            options.language,
        )
        mine = (pair for pair in pairs if (pair[0] == held) == held_out)
        pairs = itertools.islice(mine, 1) if held_out else mine
    texts = note_hosts(pairs, hosts) if held_out else (text for text, _ in pairs)
    with own_folder(f"{output}.spool") as folder:
        names = [folder / name for name in ("ids", "sizes", "owners")]
        count = _spool(texts, encoder, before, after, dtype, names)
        if not count["documents"]:
            raise _no_documents(output, options, split, sum(map(check_sizes, {*shards, *other_shards})))
        if count["unknown_bytes"] > MOST_UNKNOWN * count["bytes"]:
            raise StageError(
                f"domain of {output}: the tokenizer of {tokenizer} has no tokens for "
                f"{count['unknown_bytes'] / count['bytes']:.1%} of the {options.language} text; "
                "take a backbone whose tokenizer can write the language"
            )
        kinds: tuple[Any, ...] = (dtype, np.uint32, np.int64)
        ids, sizes, owners = (np.memmap(name, kind) for name, kind in zip(names, kinds, strict=True))
        begins = beginning(encoder)
        kept = write_rows(
            output,
            ids,
            sizes,
            owners,
            row_tokens,
            (after or before)[-1] if held_out else None,
            {
                "row_tokens": row_tokens,
                "vocabulary": vocabulary,
                "special_ids": sorted(unscored_ids(encoder)),
                "separator": before[0],
                "beginning": begins,
                # Where the end of text is also the beginning (OPT), a model learns to end by it.
                "unlearned_ids": [token for token in begins if token != encoder.eos_token_id],
                "tokenizer_sha256": tokenizer_digest(tokenizer),
                "documents": count["documents"],
                "bytes": count["bytes"],
                "domain": Path(output).parent.name,
                "language": options.language,
                "split": split,
                **({"sites": count_sites(hosts)} if held_out else {}),
            },
            options.rows,
        )
        tokens = {"tokens": len(ids), "tokens_in_rows": kept, "tokens_left_out": len(ids) - kept}
        write_json(ledger, {"stage": "tokenize", **count, **tokens})


def held_out_text(training: Iterable[str], measuring: Iterable[str], without: Sequence[str] = ()) -> str | None:
    """The text to measure with, of the training shards of a language, where the validation shards have none.

    It is the first by a hash: the same for all domains of the language, so that none trains on what another
    measures with. None where there is a document to measure with, or only one in all.
    """
    if next(documents(measuring, None, without), None) is not None:
        return None
    count, digest, first = 0, b"", ""
    for text, _ in documents(training, None, without):
        count += 1
        own = hashlib.sha256(text.encode()).digest()
        if count == 1 or own < digest:
            digest, first = own, text
    return first if count > 1 else None


def _no_documents(output: str, options: Domain, split: str, total: int) -> StageError:
    """The error where a domain has no document in a split, of the `total` of its language."""
    where, language = f"domain of {output}", options.language
    if total == 0 or (total == 1 and not options.urls):
        return StageError(
            f"{where}: the corpus has {total or 'no'} {language} document, and at least two are needed, one to "
            "learn from and one to measure with; its stats.json says what was dropped in which stage"
        )
    only = f" whose URL matches {options.urls!r}" if options.urls else ""
    return StageError(
        f"{where}: no {language} document{only} in the {split} split, of {total:,} in all; widen its urls, or "
        "raise shards.validation_share"
    )


def open_tokenizer(path: str) -> Any:
    """The tokenizer that a model asks for. Raises StageError where there is none, or a damaged one."""
    from models.backbone import load_tokenizer

    try:
        return load_tokenizer(path)
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: {error}") from None


def tokenizer_digest(source: str | Path) -> str:
    """sha256 of the tokenizer.json of a folder or a hub id. Raises StageError where there is none."""
    from transformers.utils import cached_file

    try:
        return hashlib.sha256(Path(str(cached_file(str(source), "tokenizer.json"))).read_bytes()).hexdigest()
    except OSError as error:
        raise StageError(f"{source}: has no tokenizer.json to compare with ({error})") from None


def check_tokenizer(rows: Rows, backbone: str) -> None:
    """Raises StageError where the rows were made with another tokenizer than the backbone's, or without its rule.

    Of rows that do not say what they begin with, none begins with what a tokenizer puts before texts.
    """
    if rows.metadata["tokenizer_sha256"] != tokenizer_digest(backbone):
        raise StageError(
            f"{rows.path}: made with another tokenizer than {backbone} has; run `python -m train tokenize` again"
        )
    if "beginning" not in rows.metadata and beginning(open_tokenizer(backbone)):
        raise StageError(
            f"{rows.path}: its rows do not begin with the token that {backbone} expects before every text; "
            "run `python -m train tokenize` again"
        )


# What stands around a text ------------------------------------------------------------------------


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text, mostly one or none.

    A model that was trained with them needs them, and another must not have them: the rule of
    lm-evaluation-harness too.
    """
    return put_around(tokenizer)[0]


def separators(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokens before and after each document of a stream.

    What the tokenizer itself puts there, and an end if it has another one; or, if it puts nothing before a text,
    one separator before.
    """
    before, after = put_around(tokenizer)
    if not before:
        return [separator_id(tokenizer)], []
    ends = after or [tokenizer.eos_token_id]
    return before, [token for token in ends if token is not None and token not in before]


def separator_id(tokenizer: Any) -> int:
    """The token that stands between documents: end of text, or else beginning of text."""
    token = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if token is None:
        raise StageError("the tokenizer has neither an end nor a beginning token to put between documents")
    return int(token)


# Encoding -----------------------------------------------------------------------------------------


def _spool(
    texts: Iterator[str],
    encoder: Any,
    before: list[int],
    after: list[int],
    dtype: np.dtype,
    names: list[Path],
) -> dict[str, int]:
    """Write the stream's ids, UTF-8 bytes of each token, and document numbers to three raw files.

    Returns how many `documents` and `bytes` there were, and how many tokens and bytes are of unknown text.
    """
    count = dict.fromkeys(("documents", "bytes", "unknown_tokens", "unknown_bytes"), 0)
    unknown = unknown_ids(encoder)
    with (
        names[0].open("wb") as ids_file,
        names[1].open("wb") as sizes_file,
        names[2].open("wb") as owners_file,
        progress(None, "tokenize", "documents") as bar,
    ):
        for batch in batched(texts):
            for text, (ids, offsets) in zip(batch, encode(encoder, batch), strict=True):
                sizes = token_bytes(text, offsets)
                np.array([*before, *ids, *after], dtype).tofile(ids_file)
                np.array([0] * len(before) + sizes + [0] * len(after), np.uint32).tofile(sizes_file)
                np.full(len(before) + len(ids) + len(after), count["documents"], np.int64).tofile(owners_file)
                count["documents"] += 1
                count["bytes"] += sum(sizes)
                count["unknown_bytes"] += lost_bytes(text, offsets)
                if not unknown.isdisjoint(ids):
                    of_unknown = [size for token, size in zip(ids, sizes, strict=True) if token in unknown]
                    count["unknown_tokens"] += len(of_unknown)
                    count["unknown_bytes"] += sum(of_unknown)
            bar.update(len(batch))
    return count


def encode(tokenizer: Any, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Tokens of each text, without a beginning or an end, and their character spans.

    The name of a special token in a text is text, not the token. Where a tokenizer makes it the token all the same
    (one of its own vocabulary, or one that it does not call special), it is cut behind its first character.
    Raises StageError where the tokenizer fails, which a damaged one does in its own ways.
    """
    if not texts:
        return []
    try:
        with as_data("the tokenizer cannot encode a text"):
            encoded = tokenizer(
                texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
            )
    except ValueError as error:
        raise StageError(str(error)) from None
    control = control_ids(tokenizer)
    whole = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    return [
        one if control.isdisjoint(one[0]) else _encode_cut(tokenizer, text, *one, control)
        for text, one in zip(texts, whole, strict=True)
    ]


def _encode_cut(
    tokenizer: Any, text: str, ids: list[int], spans: list[tuple[int, int]], control: frozenset[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """encode() of the parts of a text, which is cut inside the names of `control` tokens, as one."""
    names = [span for token, span in zip(ids, spans, strict=True) if token in control]
    # Some tokens take the white space before their name, of any length.
    begins = [(end - len(text[start:end].lstrip() or text[start:end]), end) for start, end in names]
    cuts = [begin + 1 for begin, end in begins if end > begin + 1]
    if not cuts:  # what it cannot write, if the token of that is a separator too
        kept = [(token, span) for token, span in zip(ids, spans, strict=True) if token not in control]
        return [token for token, _ in kept], [span for _, span in kept]
    starts = [0, *cuts]
    parts = encode(tokenizer, [text[a:b] for a, b in zip(starts, [*cuts, len(text)], strict=True)])
    return (
        [token for part, _ in parts for token in part],
        [(start + a, start + b) for start, (_, part) in zip(starts, parts, strict=True) for a, b in part],
    )


def lost_bytes(text: str, offsets: list[tuple[int, int]]) -> int:
    """UTF-8 bytes of the characters, but for white space, of which no token was made.

    >>> lost_bytes("un été", [(0, 2), (4, 6)])
    2
    """
    parts, until = [], 0
    for start, end in [*offsets, (len(text), len(text))]:
        if start > until:
            parts.append(text[until:start])
        until = max(until, end)
    return len("".join("".join(parts).split()).encode())


def token_bytes(text: str, offsets: list[tuple[int, int]]) -> list[int]:
    """UTF-8 bytes of the text that each token stands for; they sum to the bytes of the whole text.

    `offsets` are the tokens' character spans. What lies between two spans counts for the later token, and
    a character that is cut into several tokens counts for the first of them.

    >>> token_bytes("un été", [(0, 2), (3, 4), (4, 6)])
    [2, 3, 3]
    """
    if not offsets:
        return []
    ends = np.maximum.accumulate(np.array([end for _, end in offsets]))
    ends[-1] = len(text)
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    until = np.concatenate([[0], np.cumsum(widths)])
    return np.diff(until[ends], prepend=0).tolist()


def batched(texts: Iterator[str]) -> Iterator[list[str]]:
    """The texts, so many at a time that encode() takes little memory."""
    pending: list[str] = []
    chars = 0
    for text in texts:
        pending.append(text)
        chars += len(text)
        if len(pending) == DOCUMENTS_AT_ONCE or chars >= CHARS_AT_ONCE:
            yield pending
            pending, chars = [], 0
    if pending:
        yield pending
