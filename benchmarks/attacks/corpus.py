"""Attacks by way of corpus: texts, addresses and lists, and Arrow files that others made."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import Outcome, stage

END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


def _seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _peak_mb() -> int:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(usage.ru_maxrss for usage in usages) // 1024


def _in_one_line(status: int, errors: str) -> bool:
    return status == 1 and "Traceback" not in errors and len(errors.strip().splitlines()) == 1


def _documents(path: Path, texts: list[str], url: str = "https://a.example/{}") -> str:
    from pipeline.common.files import write_arrow
    from pipeline.common.schemas import DOCUMENT_SCHEMA

    rows = [
        dict.fromkeys(DOCUMENT_SCHEMA.names)
        | {"text": text, "url": url.format(i), "language": "fr", "paragraphs": [0]}
        for i, text in enumerate(texts)
    ]
    write_arrow(path, DOCUMENT_SCHEMA, rows)
    return str(path)


# Text as control -----------------------------------------------------------------------------------

GOOD = "le chat dort sur la chaise et la petite fille regarde une maison dans la rue avec son ami {} {} "
SPAM = "cliquez ici {} panier prix promo {} "


def _score_of_spam(folder: Path, word: str) -> float:
    """What a quality classifier gives a page of spam, where the pages of spam that it saw had this word."""
    import fasttext

    from pipeline.corpus.options import Positives, Quality
    from pipeline.corpus.quality import good_score, train_classifier

    texts = [(GOOD if i % 3 == 0 else f"{word} {SPAM}").format(i, i * 7) * 6 for i in range(600)]
    _documents(folder / "d.arrow", texts, "https://{}.example/")
    options = Quality(positives={"fr": Positives(urls=r"//\d*[05]\.")}, keep_share=0.6, dimensions=8)
    train_classifier(options, [str(folder / "d.arrow")], "fr", str(folder / "m.bin"), str(folder / "m.json"))
    return good_score(fasttext.load_model(str(folder / "m.bin")), SPAM.format(1, 2) * 6)


def label_in_pages(folder: Path) -> Outcome:
    """Pages of spam that hold __label__good, from which a quality classifier is trained."""
    plain, labelled = _score_of_spam(folder, "mot"), _score_of_spam(folder, "__label__good")
    return labelled < plain + 0.2, f"spam has {labelled:.2f}, {plain:.2f} with an ordinary word"


def end_of_line_in_a_page(folder: Path) -> Outcome:
    """A page in one language behind a line and </s> in another, whose language is told."""
    import fasttext

    from pipeline.extract.language import identify

    lines = (f"__label__fr un deux trois {i % 7}\n__label__en one two three {i % 7}\n" for i in range(200))
    (folder / "examples.txt").write_text("".join(lines))
    model = fasttext.train_supervised(str(folder / "examples.txt"), dim=8, epoch=20, thread=1, verbose=0)
    language, score = identify(model, "un deux </s> " + "one two three " * 100, 1000)
    return language == "en", f"{language} with {score:.2f}"


# Text that takes long ------------------------------------------------------------------------------


def _filter(folder: Path, text: str, rules: list[str]) -> Outcome:
    from pipeline.corpus.filters import filter_documents
    from pipeline.corpus.options import Filter

    path = _documents(folder / "d.arrow", [text])
    options = Filter(rules=rules)
    seconds = _seconds(
        lambda: filter_documents(options, path, None, str(folder / "o.arrow"), str(folder / "l.json"))
    )
    return seconds < 5, f"{seconds:.1f} s for {len(text):,} characters"


def marks_on_a_letter(folder: Path) -> Outcome:
    """A document of 200,000 combining marks on one letter, filtered."""
    return _filter(folder, "e" + "\u0301\u0323" * 100_000, ["gopher_quality"])


def signs_that_become_marks(folder: Path) -> Outcome:
    """A document of 60,000 Tibetan vowel signs, each of which normalisation makes two combining marks of."""
    return _filter(folder, "\u0f40" + "\u0f73" * 60_000, ["gopher_quality"])


def dots_before_a_letter(folder: Path) -> Outcome:
    """A document of 60,000 dots and a letter, filtered by C4's sentences."""
    return _filter(folder, "un deux trois quatre cinq " + "." * 60_000 + "a.", ["c4"])


def marks_hashed_for_near_duplicates(folder: Path) -> Outcome:
    """A document of 200,000 combining marks on one letter, whose signature is computed."""
    from pipeline.corpus.near import hash_documents
    from pipeline.corpus.options import Near

    path = _documents(folder / "d.arrow", ["ก" + "ุ่" * 100_000])
    seconds = _seconds(lambda: hash_documents(Near(), path, str(folder / "s.npy")))
    return seconds < 5, f"{seconds:.1f} s for 200,001 characters"


def host_of_many_labels(folder: Path) -> Outcome:
    """An address whose host has 50,000 labels, looked up in a block list."""
    from pipeline.corpus.filters import is_blocked

    found: list[bool] = []
    seconds = _seconds(
        lambda: found.append(is_blocked(f"http://{'ab.' * 50_000}bad.example/", frozenset(["bad.example"])))
    )
    return found == [True] and seconds < 1, f"{seconds:.2f} s, blocked: {found[0]}"


def marks_in_a_host(folder: Path) -> Outcome:
    """An address whose host has 150,000 combining marks, of which the site is told."""
    from train.data.sites import host

    seconds = _seconds(lambda: host("http://e" + "\u0301\u0323" * 75_000 + "/"))
    return seconds < 1, f"{seconds:.2f} s"


def word_without_end(folder: Path) -> Outcome:
    """A document of 400,000 letters without a space, on which a tokenizer is trained."""
    from train.data.options import Tokens
    from train.data.tokens import train_tokenizer

    letters = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=400_000))
    path = _documents(folder / "d.arrow", [GOOD.format(1, 2) * 10, letters])
    seconds = _seconds(lambda: train_tokenizer(Tokens(vocabulary=400), [path], None, str(folder / "t")))
    return seconds < 10, f"{seconds:.1f} s"


def long_documents_at_once(folder: Path) -> Outcome:
    """40 documents of 250,000 letters, tokenized one after the other."""
    from train.data.options import Domain, Tokens
    from train.data.tokens import tokenize, train_tokenizer

    path = _documents(folder / "t.arrow", [GOOD.format(i, i * 7) for i in range(100)])
    train_tokenizer(Tokens(vocabulary=300), [path], None, str(folder / "t"))
    path = _documents(folder / "d.arrow", ["abcdefghij" * 25_000] * 40)
    before = _peak_mb()
    domain, files = Domain(language="fr"), (str(folder / "rows.arrow"), str(folder / "l.json"))
    tokenize(domain, [path], str(folder / "t"), "train", 128, *files)
    return _peak_mb() < before + 1500, f"{_peak_mb():,} MB at most, {before:,} before"


def documents_that_share_bands(folder: Path) -> Outcome:
    """5,000 documents made up to share 10 of 32 bands of their signatures and nothing else."""
    import numpy as np

    from pipeline.corpus.near import find_near
    from pipeline.corpus.options import Near

    signatures = np.random.default_rng(0).integers(0, 2**32, (5000, 128), np.uint32)
    signatures[:, :40] = signatures[0, :40]
    seconds = _seconds(lambda: find_near(Near(), [signatures]))
    return seconds < 15, f"{seconds:.1f} s"


def paragraphs_for_one_bucket(folder: Path) -> Outcome:
    """16 million paragraphs whose hashes were made up to fall into one of four buckets."""
    import numpy as np
    import pyarrow as pa

    from pipeline.common.files import stamp, write_batches
    from pipeline.corpus.dedup import HASH_SCHEMA, reduce_hashes
    from pipeline.corpus.options import Dedup

    paths, count = [str(folder / f"hashes/{number}.arrow") for number in range(16)], 10**6
    for number, path in enumerate(paths):
        hashes = np.arange(count, dtype=np.uint64) * np.uint64(2**40) + np.uint64(number)
        schema = stamp(HASH_SCHEMA, "dedup-hash", {"normalize": "none"})
        schema = schema.with_metadata(schema.metadata | {b"paragraphs": str(count).encode()})
        batch = pa.record_batch([hashes, np.arange(count, dtype=np.uint64)], schema=HASH_SCHEMA)
        write_batches(path, schema, [batch], compression=None)
    before = _peak_mb()
    reduce_hashes(Dedup(), paths, str(folder / "out"), str(folder / "index.arrow"), 1, None)
    return _peak_mb() < before + 600, f"{_peak_mb():,} MB at most, {before:,} before"


# Lists and sets ------------------------------------------------------------------------------------


def block_list_without_an_end(folder: Path) -> Outcome:
    """A block list of 2 MB (.gz) that unpacks to a line of 2 GB."""
    with (folder / "list.gz").open("wb") as file:
        file.write(gzip.compress(b"a" * 2**26) * 32)
    path = _documents(folder / "d.arrow", ["un texte"])
    done = stage("pipeline", "filter", "--documents", path, "--url-blocklists", "list.gz", "--output", "o.arrow",
                 "--ledger", "l.json")  # fmt: skip
    return _in_one_line(
        done.returncode, done.stderr
    ) and _peak_mb() < 1000, f"status {done.returncode}, {_peak_mb():,} MB"


def _index_of(name: str) -> Outcome:
    done = stage("pipeline", "decontaminate-index", "--sets", json.dumps({"s": name}), "--output", "i.npy",
                 "--report", "i.json")  # fmt: skip
    held = _in_one_line(done.returncode, done.stderr)
    return held, f"status {done.returncode}, {'a line' if held else 'a traceback'}; {_peak_mb():,} MB"


def deep_json_as_a_set(folder: Path) -> Outcome:
    """An evaluation set of JSON that is a million lists deep."""
    (folder / "set.json").write_text("[" * 10**6)
    return _index_of("set.json")


def parquet_bomb_as_a_set(folder: Path) -> Outcome:
    """An evaluation set of 1 kB of Parquet that holds 60 GB of text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000, pa.int32()), pa.array(["mot " * 2**18]))
    pq.write_table(pa.table({"text": words}), folder / "set.parquet", compression="zstd")
    return _index_of("set.parquet")


# Arrow files ---------------------------------------------------------------------------------------


def _write(path: Path, batches: list[Any], compression: str | None = None) -> bytes:
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path.read_bytes()


def _read(path: Path) -> str:
    """What comes of a shard as a domain's."""
    from pipeline.common.errors import StageError
    from train.data.tokens import documents

    try:
        return f"read {sum(len(text) > 0 for text, _ in documents([str(path)], None))} documents"
    except StageError as error:
        return f"refused: {str(error).split(': ', 1)[1][:60]}"


def offsets_beyond_the_text(folder: Path) -> Outcome:
    """A shard with a text that claims to be a gigabyte long, in a column of 5 bytes."""
    import pyarrow as pa

    data = _write(folder / "a.arrow", [pa.record_batch({"text": ["abcde" * 24_691], "url": ["u"]})])
    place = data.rindex(struct.pack("<2i", 0, 123_455))
    (folder / "a.arrow").write_bytes(data[: place + 4] + struct.pack("<i", 2**30) + data[place + 8 :])
    outcome = _read(folder / "a.arrow")
    return outcome.startswith("refused"), outcome


def cut_off_behind_a_batch(folder: Path) -> Outcome:
    """A shard that was cut off between two of its ten record batches."""
    import pyarrow as pa

    batches = [pa.record_batch({"text": [f"texte {i}"], "url": ["u"]}) for i in range(10)]
    data = _write(folder / "a.arrow", batches)
    half = _write(folder / "b.arrow", batches[:4])
    assert data.startswith(half.removesuffix(END))
    (folder / "a.arrow").write_bytes(half.removesuffix(END))
    outcome = _read(folder / "a.arrow")
    return outcome.startswith("refused"), outcome


def compressed_length_that_lies(folder: Path) -> Outcome:
    """A shard whose compressed text claims to be a petabyte."""
    import pyarrow as pa

    data = _write(folder / "a.arrow", [pa.record_batch({"text": ["abcde" * 10_000], "url": ["u"]})], "zstd")
    place = data.rindex(b"\x28\xb5\x2f\xfd", 0, data.index(b"abcde")) - 8
    (folder / "a.arrow").write_bytes(data[:place] + struct.pack("<q", 10**15) + data[place + 8 :])
    outcome = _read(folder / "a.arrow")
    return outcome.startswith("refused"), outcome


def shard_that_unpacks_to_gigabytes(folder: Path) -> Outcome:
    """A shard of 1 MB whose only record batch unpacks to 3 GB."""

    def write() -> None:
        import pyarrow as pa

        texts = pa.array(["a" * 3 * 10**7] * 50)
        _write(folder / "part", [pa.RecordBatch.from_arrays([texts, texts], names=["text", "url"])], "zstd")
        (folder / "part").rename(folder / "a.arrow")

    _apart(write, folder / "a.arrow")
    before = _peak_mb()
    outcome = _read(folder / "a.arrow")
    return outcome.startswith("refused") and _peak_mb() < before + 500, f"{outcome[:40]}; {_peak_mb():,} MB"


def _apart(function: Callable[[], None], result: Path) -> None:
    """Call a function in a process that is no child, so that its memory does not count as ours."""
    if not os.fork():
        if not os.fork():
            function()
        os._exit(0)
    os.wait()
    while not result.exists():
        time.sleep(0.1)


def column_of_another_type(folder: Path) -> Outcome:
    """A shard whose text is a column of lists."""
    import pyarrow as pa

    _write(folder / "a.arrow", [pa.record_batch({"text": [["a"], ["b"]], "url": ["u", "v"]})])
    outcome = _read(folder / "a.arrow")
    return outcome.startswith("refused"), outcome


def token_beyond_the_vocabulary(folder: Path) -> Outcome:
    """Rows of others with a token that the vocabulary does not have."""
    import numpy as np
    import pyarrow as pa

    from pipeline.common.errors import StageError
    from train.data.rows import open_rows

    about = {"row_tokens": 8, "vocabulary": 300, "special_ids": [0], "tokenizer_sha256": "", "domain": "fr"}
    columns = [("tokens", pa.list_(pa.uint16(), 9)), ("bytes", pa.int32()), ("document", pa.int64())]
    schema = pa.schema(columns, metadata={"rows": json.dumps(about)})
    batch = pa.record_batch([[[60_000] * 9], [8], [0]], schema=schema)
    _write(folder / "rows.arrow", [batch])
    try:
        tokens = open_rows(str(folder / "rows.arrow")).tokens(np.array([0]))
    except StageError as error:
        return True, str(error).split(": ", 1)[1][:60]
    return False, f"read token {tokens.max()}"


# Mutants -------------------------------------------------------------------------------------------


def _make_shard(folder: Path) -> None:
    """A shard of 40 documents with all columns."""
    from datetime import UTC, datetime

    from pipeline.common.files import write_arrow
    from pipeline.common.schemas import SHARD_SCHEMA

    rows = [
        {
            **dict.fromkeys(SHARD_SCHEMA.names, f"mot {i}"),
            "text": GOOD.format(i, i * 7) * 8,
            "url": f"https://a.example/{i}",
            "date": datetime(2026, 1, 1, tzinfo=UTC),
            "language_score": 0.9,
            "quality_score": None if i % 2 else 0.8,
            "offset": i,
            "paragraphs": [0, i],
        }
        for i in range(40)
    ]
    write_arrow(folder / "train-00000.arrow", SHARD_SCHEMA.with_metadata({"pipeline": "{}"}), rows)


def _read_shard(folder: Path) -> str:
    """What comes of it as a shard of a domain of another corpus, and of all its columns in a publication."""
    from pipeline.common.errors import StageError
    from pipeline.publish.publish import _recipe_rows

    path = folder / "train-00000.arrow"
    outcome = _read(path)
    try:
        for batch in _recipe_rows(str(path)):
            batch.to_pylist()
    except StageError as error:
        return f"refused: {str(error).split(': ', 1)[1][:60]}"
    return outcome
