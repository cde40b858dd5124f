"""Attacks by tasks, packages, configs, recipes, fetched folders and cards."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.attacks.run import Outcome, stage

QUIZ: dict[str, Any] = {
    "prompt": "{{ question }}",
    "metric": "raw",
    "fields": {"question": "q", "choices": "c", "answer": "a"},
    "languages": {"en": {"labels": {"answer": "A:"}, "sources": [{"path": "quiz.jsonl"}]}},
}
ROWS = [{"q": "one?", "c": ["yes", "no"], "a": 1}, {"q": "two?", "c": ["a", "b"], "a": 0}]
GIGABYTE = 10**9
WORDS = ("le", "chat", "dort", "sur", "la", "chaise", "et", "une", "petite", "fille", "regarde", "dans", "rue")


def _short(what: object) -> str:
    """The first and the last words of a message: paths stand between them."""
    text = " ".join(str(what).split())
    return text if len(text) < 60 else f"{text[:18]} … {text[-38:]}"


# Tasks --------------------------------------------------------------------------------------------


def _write_task(source: dict[str, Any] | None = None, **changes: Any) -> str:
    """The path of a task's file with its questions beside it, changed."""
    Path("quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    language = QUIZ["languages"]["en"] | ({"sources": [source]} if source else {})
    Path("quiz.yaml").write_text(json.dumps(QUIZ | {"languages": {"en": language}} | changes))
    return "quiz.yaml"


def _load(task: str) -> tuple[str, float]:
    """What came of reading a task and its questions as the stage does, and the GB of memory that it took."""
    from train.tasks.accuracy import load_tasks
    from train.tasks.options import Tasks

    try:
        asked, skipped = load_tasks(Tasks(tasks=[task]), "downloads")
        what = f"{len(asked)} sets read, {len(skipped)} skipped"
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return what, max(usage.ru_maxrss for usage in usages) * 1024 / GIGABYTE


def _refused(outcome: str) -> bool:
    """Whether reading a task ended with an error that says what is wrong."""
    return outcome.startswith(("StageError", "ConfigError"))


def task_package_from_a_url(folder: Path) -> Outcome:
    """A task whose package is the address of an archive, with code that pip runs to build it."""
    with zipfile.ZipFile("evil-1.0.zip", "w") as archive:
        archive.writestr("evil-1.0/pyproject.toml", '[build-system]\nrequires = []\nbuild-backend = "b"\n'
                                                    'backend-path = ["."]\n')  # fmt: skip
        archive.writestr("evil-1.0/b.py", f"open({str(folder / 'pwned')!r}, 'w')\n")
    package = {"package": f"evil @ file://{folder}/evil-1.0.zip", "path": "a.json"}
    what, _ = _load(_write_task(package))
    return not Path("pwned").exists(), "its code ran" if Path("pwned").exists() else _short(what)


def source_package_is_built(folder: Path) -> Outcome:
    """A source package, of an index that has no other, with code that pip runs to build it."""
    Path("evil-1.0").mkdir()
    backend = '[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n'
    Path("evil-1.0/pyproject.toml").write_text(backend)
    Path("evil-1.0/b.py").write_text(f"open({str(folder / 'pwned')!r}, 'w')\n")
    Path("index").mkdir()
    with tarfile.open("index/evil-1.0.tar.gz", "w:gz") as archive:
        archive.add("evil-1.0")
    os.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "index")}
    sha256 = hashlib.sha256(Path("index/evil-1.0.tar.gz").read_bytes()).hexdigest()
    from pipeline.common.packages import Package, fetch

    what = "fetched"
    for client in ("pip", "wheel"):
        try:
            fetch(Package(client, ("evil==1.0",), sha256), Path("downloads"))
        except Exception as error:
            what = f"{client}: {error}"
    return not Path("pwned").exists(), "its code ran" if Path("pwned").exists() else _short(what)


def task_package_without_checksum(folder: Path) -> Outcome:
    """A task whose package has no checksum, so that anything may be in it."""
    place = Path("downloads/wheel/quiz_1.0")
    place.mkdir(parents=True)
    with zipfile.ZipFile(place / "quiz-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("a.jsonl", json.dumps(ROWS[0]))
    what, _ = _load(_write_task({"package": "quiz==1.0", "path": "a.jsonl"}))
    return _refused(what), _short(what)


def task_wheel_of_gigabytes(folder: Path) -> Outcome:
    """A wheel of 8 MB, with its checksum, whose file has 8 GB."""
    place = Path("downloads/wheel/quiz_1.0")
    place.mkdir(parents=True)
    wheel = place / "quiz-1.0-py3-none-any.whl"
    with (
        zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.jsonl", "w", force_zip64=True) as file,
    ):
        for _ in range(8000):
            file.write(b" " * 10**6)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    what, memory = _load(_write_task({"package": "quiz==1.0", "sha256": sha256, "path": "a.jsonl"}))
    return _refused(what) and memory < 5, _short(f"{memory:.1f} GB; {what}")


def task_gzip_of_gigabytes(folder: Path) -> Outcome:
    """Questions of 8 MB in gzip that have 8 GB."""
    with gzip.open("bomb.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(8000):
            file.write(b" " * 10**6)
    what, memory = _load(_write_task({"path": "bomb.jsonl.gz"}))
    return _refused(what) and memory < 5, _short(f"{memory:.1f} GB; {what}")


def task_parquet_of_gigabytes(folder: Path) -> Outcome:
    """Questions of a few kilobytes in Parquet that have 7 GB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 7000, pa.int8()), ["a" * 10**6])
    pq.write_table(pa.table({"q": text}), "bomb.parquet", compression="zstd")
    what, memory = _load(_write_task({"path": "bomb.parquet"}))
    return _refused(what) and memory < 5, _short(f"{memory:.1f} GB; {what}")


def task_text_of_gigabytes(folder: Path) -> Outcome:
    """An expression of a task of 25 characters that makes a text of 6 GB of the first letter of a question."""
    what, memory = _load(_write_task(fields=QUIZ["fields"] | {"question": "(q[0] * 6000000000)[:5]"}))
    return _refused(what) and memory < 5, _short(f"{memory:.1f} GB; {what}")


def task_constant_in_its_prompt(folder: Path) -> Outcome:
    """A prompt with two texts of 3 GB as constants, which were computed where a config is only checked."""
    from train.tasks.task import read_task

    path = _write_task(prompt="{{ 'a' * 3000000000 }}{{ 'b' * 3000000000 }}")
    begin = time.perf_counter()
    try:
        read_task(path)
        what = "read"
    except Exception as error:
        what = type(error).__name__
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE
    return memory < 0.5, f"{what} in {time.perf_counter() - begin:.1f} s with {memory:.1f} GB"


def task_loops_without_end(folder: Path) -> Outcome:
    """A prompt with two loops of 99,999."""
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    what, _ = _load(_write_task(prompt=loops))
    return _refused(what), _short(what)


def task_pattern_without_end(folder: Path) -> Outcome:
    """A regular expression of a task that tries 2 to the power of 60 ways."""
    what, _ = _load(_write_task(prompt="a" * 60, clean={"(a+)+b": ""}))
    return _refused(what), _short(what)


def task_set_of_the_hub_is_here(folder: Path) -> Outcome:
    """A task whose set of the hub is a folder of this machine."""
    Path("secrets").mkdir()
    Path("secrets/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    what, _ = _load(_write_task({"hub": str(folder / "secrets"), "split": "test"}))
    return _refused(what), _short(what)


# Configs ------------------------------------------------------------------------------------------


def yaml_of_a_billion_values(folder: Path) -> Outcome:
    """A config of 400 bytes whose aliases stand for 100 million values."""
    from pipeline.common.config import read_yaml
    from train.config import Config

    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 8)]
    Path("config.yaml").write_text("\n".join([*lines, "output: *a7"]))
    begin = time.perf_counter()
    try:
        read_yaml(Config, "config.yaml")
        what = "read"
    except Exception as error:
        what = f"{type(error).__name__} of {len(str(error)):,} characters"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE
    seconds = time.perf_counter() - begin
    return memory < 0.5 and seconds < 5, f"{what}, {seconds:.1f} s, {memory:.1f} GB"


def yaml_key_twice(folder: Path) -> Outcome:
    """A config in which a key stands twice, so that its first value is forgotten."""
    from pipeline.common.config import read_yaml
    from pipeline.corpus.options import Dedup

    Path("config.yaml").write_text("min_chars: 100\nmin_chars: 7\n")
    try:
        return False, f"read as {read_yaml(Dedup, 'config.yaml').min_chars}"
    except Exception as error:
        return "twice" in str(error), _short(error)


def long_word_in_a_task(folder: Path) -> Outcome:
    """A task whose expression is one wrong word of 200,000 letters."""
    from train.tasks.task import read_task

    where = f"{{path: a.json, where: '{'a' * 200_000} ('}}"
    fields = "fields: {choices: a, answer: a}"
    Path("task.yaml").write_text(f"prompt: x\nmetric: raw\n{fields}\nlanguages: {{fr: {{sources: [{where}]}}}}\n")
    begin = time.perf_counter()
    try:
        read_task("task.yaml")
        what = "read"
    except Exception as error:
        what = type(error).__name__
    seconds = time.perf_counter() - begin
    return what == "ConfigError" and seconds < 10, f"{what} after {seconds:.1f} s"


# Recipes and fetched folders ----------------------------------------------------------------------


def _make_recipe(folder: Path) -> None:
    """A WARC file of 12 pages, and in `recipe` the recipe of a corpus of them."""
    from pipeline.common.files import stamp, write_arrow
    from pipeline.common.ledger import Ledger
    from pipeline.common.schemas import SHARD_SCHEMA
    from pipeline.extract.sandbox import extract_text
    from pipeline.publish.card import write_card
    from pipeline.publish.options import Publish
    from pipeline.publish.publish import publish
    from pipeline.warc.reader import responses
    from pipeline.workflow.layout import shard_path

    _write_warc(folder / "a.warc.gz", 12)
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for number, record in enumerate(responses(str(folder / "a.warc.gz"))):
        lines = extract_text(record.body, "utf-8").text.split("\n")
        rows["validation" if number % 4 == 0 else "train"].append(
            {"text": "\n".join(lines[:3]), "url": record.url, "language": "fr", "language_score": 1.0}
            | {"charset": "utf-8 (detected)", "warc": "a.warc.gz", "offset": record.offset}
            | {"paragraphs": [0, 1, 2], "record_id": record.record_id, "digest": record.digest}
            | {"date": None, "quality_score": None}
        )
    corpus = folder / "corpus"
    shards = [str(shard_path(corpus, "fr", split, "00000")) for split in rows]
    for shard, part in zip(shards, rows.values(), strict=True):
        write_arrow(shard, stamp(SHARD_SCHEMA, "quality", Publish()), part)
    ledger = Ledger("extract")
    ledger.enter(documents=12)
    ledger.keep(documents=12)
    ledger.write(folder / "ledger.json")
    write_card(shards, [f"{folder}/ledger.json"], None, f"{corpus}/README.md", f"{corpus}/stats.json")
    (folder / "config.yaml").write_text("output: out\n")
    publish(Publish(recipe=True), str(corpus), f"{folder}/config.yaml", f"{folder}/recipe")
    shutil.copy(folder / "recipe" / "SHA256SUMS", folder / "sums")


def _write_warc(path: Path, count: int) -> None:
    import io
    from uuid import NAMESPACE_URL, uuid5

    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for i in range(count):
            texts = [
                " ".join(WORDS[(i * 7 + p * 3 + k * (p + 1)) % len(WORDS)] for k in range(24)) for p in range(4)
            ]
            body = f"<html><body><main>{''.join(f'<p>{t} {i}.</p>' for t in texts)}</main></body></html>".encode()
            url = f"https://site.example/{i}"
            headers = {
                "WARC-Date": "2026-01-01T00:00:00Z",
                "WARC-Record-ID": f"<urn:uuid:{uuid5(NAMESPACE_URL, url)}>",
            }
            http = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=utf-8")], protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record(
                    url, "response", io.BytesIO(body), len(body), http_headers=http, warc_headers_dict=headers
                )
            )


def _read_recipe(folder: Path) -> str:
    """What came of making the shards of the recipe again; its checksums are those of its files as they are now."""
    from pipeline.common.errors import StageError
    from pipeline.publish.rebuild import rebuild

    if (folder / "recipe" / "SHA256SUMS").read_bytes() == (folder / "sums").read_bytes():
        _sum_again(folder / "recipe")
    try:
        rebuild(f"{folder}/recipe", [f"{folder}/a.warc.gz"], f"{folder}/again", f"{folder}/again.json", 1, None)
    except (StageError, OSError) as error:
        return f"refused: {error}"
    return "rebuilt"


def _change_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _sum_again(recipe: Path) -> None:
    """The checksums of a recipe that was changed, as whoever makes it gives them."""
    files = sorted(path for path in recipe.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(recipe)}\n" for path in files]
    (recipe / "SHA256SUMS").write_text("".join(sums))


def recipe_writes_outside(folder: Path) -> Outcome:
    """A recipe in whose statistics a language is ../../victim/x, which lies beside it."""
    _make_recipe(folder)
    place = folder / "dist" / "a" / "recipe"
    place.parent.mkdir(parents=True)
    shutil.move(folder / "recipe", place)
    shutil.copytree(place / "fr", folder / "dist" / "victim" / "x")
    name = "../../victim/x"
    _change_json(place / "stats.json", lambda data: data | {"languages": {name: data["languages"]["fr"]}})
    for sums in ("SHA256SUMS", "corpus.sha256"):
        (place / sums).write_text((place / sums).read_text().replace("  fr/", f"  {name}/"))
    (folder / "home" / "user" / "in").mkdir(parents=True)
    from pipeline.publish.rebuild import rebuild

    try:
        rebuild(str(place), ["a.warc.gz"], "home/user/in/again", "home/user/in/ledger.json", 1, None)
        what = "rebuilt"
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
    outside = list(folder.glob("home/user/victim/**/*.arrow"))
    return not outside, f"{len(outside)} files written outside" if outside else _short(what)


def recipe_links_its_output(folder: Path) -> Outcome:
    """A recipe with a link `corpus`, where its own command writes, to a folder with a file of the same name."""
    from pipeline.publish.rebuild import rebuild

    _make_recipe(folder)
    victim = folder / "home" / "fr" / "train-00000.arrow"
    victim.parent.mkdir(parents=True)
    victim.write_text("precious")
    (folder / "recipe" / "corpus").symlink_to(folder / "home")
    os.chdir(folder / "recipe")
    try:
        rebuild(".", [f"{folder}/a.warc.gz"], "corpus", "rebuild.json", 1, None)
        what = "rebuilt"
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
    held = victim.read_bytes() == b"precious"
    return held, _short(what) if held else f"the file is overwritten; {_short(what)}"


def recipe_of_many_shards(folder: Path) -> Outcome:
    """A recipe whose statistics count a million shards, of which it has one."""
    _make_recipe(folder)

    def change(data: Any) -> Any:
        data["languages"]["fr"]["train"]["shards"] = 1_000_000
        return data

    _change_json(folder / "recipe/stats.json", change)
    begin = time.perf_counter()
    what = _read_recipe(folder)
    seconds = time.perf_counter() - begin
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE
    return what.startswith(
        "refused"
    ) and seconds < 10, f"{what.split(':')[0]} after {seconds:.0f} s, {memory:.1f} GB"


def recipe_of_gigabytes(folder: Path) -> Outcome:
    """A shard of a recipe of 100 kB, in which a document has 200 million paragraphs."""
    import numpy as np
    import pyarrow as pa

    _make_recipe(folder)
    path = folder / "recipe/fr/train-00000.arrow"
    table = pa.ipc.open_stream(path.read_bytes()).read_all().slice(0, 1)
    count = 2 * 10**8
    places = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), pa.array(np.zeros(count, np.int32)))
    number = table.schema.get_field_index("paragraphs")
    table = table.set_column(number, table.schema.field(number), places)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    size = path.stat().st_size
    _sum_again(folder / "recipe")
    del table, places
    done = stage("pipeline", "rebuild", "--recipe", "recipe", "--warcs", "a.warc.gz", "--output", "again",
                 "--ledger", "again.json", "--workers", "1")  # fmt: skip
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GIGABYTE
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    held = memory < 3 and last.startswith("pipeline rebuild: ")
    return held, f"{size // 1000} kB: {memory:.1f} GB, {last[-30:]}"[:59]


def recipe_moves_the_cursor(folder: Path) -> Outcome:
    """A recipe whose version of a library is a code that clears the terminal."""
    _make_recipe(folder)
    _change_json(
        folder / "recipe/provenance.json",
        lambda data: data | {"code": {"versions": {"fastwarc": "\x1b[2J\x1b[H\nall is well"}}},
    )
    _sum_again(folder / "recipe")
    done = stage("pipeline", "rebuild", "--recipe", "recipe", "--warcs", "a.warc.gz", "--output", "again",
                 "--ledger", "again.json", "--workers", "1")  # fmt: skip
    codes = done.stderr.count("\x1b[2J")
    return not codes, f"status {done.returncode}, {codes} codes on the terminal"


def recipe_that_is_damaged(folder: Path) -> Outcome:
    """A recipe whose files are empty, of another form or cut off: eight ways."""
    _make_recipe(folder)
    shutil.copytree("recipe", "sound")
    tracebacks = 0
    for name, text in (
        ("stats.json", "[]"),
        ("stats.json", "{"),
        ("stats.json", '{"languages": {"fr": {"train": {"shards": "2"}}}, "ledgers": []}'),
        ("provenance.json", "{}"),
        ("provenance.json", '{"code": {"versions": 3}}'),
        ("SHA256SUMS", "nothing"),
        ("corpus.sha256", ""),
        ("fr/train-00000.arrow", "ARROW"),
    ):
        shutil.rmtree("recipe")
        shutil.copytree("sound", "recipe")
        Path("recipe", name).write_text(text)
        try:
            _read_recipe(folder)
        except Exception:
            tracebacks += 1
    return not tracebacks, f"{tracebacks} of 8 end with an error of Python"


def fetched_folder_leads_outside(folder: Path) -> Outcome:
    """A fetched folder whose list names a file ../../victim, by which what is made of it is called."""
    from pipeline.crawl.origins import input_files
    from pipeline.extract.webpages import pages_path

    Path("batch").mkdir()
    Path("batch/fetched.json").write_text(
        json.dumps({"files": [{"file": "../../victim/a.warc.gz", "source": "a"}], "failed": []})
    )
    try:
        (file,), _ = input_files(["batch"])
        path = pages_path(folder / "pages" / "warcs", file).resolve()
    except Exception as error:
        return True, _short(error)
    return path.is_relative_to(folder / "pages" / "warcs"), f"would write {path.parent.name}/{path.name}"[:59]


def origins_of_one_long_name(folder: Path) -> Outcome:
    """A file of origins of 100 kB, in which 50,000 records are of one WARC whose name has 100,000 letters."""
    import numpy as np
    import pyarrow as pa

    from pipeline.common.files import write_batches
    from pipeline.crawl.origins import ORIGIN_SCHEMA, read_origins

    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), pa.array(["n" * 10**5]))
    numbers = pa.array(np.arange(50_000))
    write_batches("a.arrow", ORIGIN_SCHEMA, [pa.record_batch([numbers, names, numbers], schema=ORIGIN_SCHEMA)])
    read_origins("a.arrow")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return peak < 1, f"{peak:.1f} GB of memory, of a file of {Path('a.arrow').stat().st_size / 1e3:.0f} kB"


def list_leads_outside(folder: Path) -> Outcome:
    """A list of files of pages that names one of another folder."""
    import pyarrow as pa

    from pipeline.common.files import read_arrow, write_arrow

    write_arrow("secret/a.arrow", pa.schema([("text", pa.string())]), [{"text": "secret"}])
    Path("results").mkdir()
    Path("results/0.json").write_text(json.dumps({"files": ["../secret/a.arrow"]}))
    try:
        rows = sum(batch.num_rows for batch in read_arrow("results/0.json"))
    except Exception as error:
        return True, _short(error)
    return False, f"{rows} rows of another folder read"


# Cards --------------------------------------------------------------------------------------------


def _write_corpus(language: str, reason: str) -> None:
    """A corpus of one document, of which one more was dropped."""
    from pipeline.common.files import write_arrow
    from pipeline.common.ledger import Ledger
    from pipeline.common.schemas import SHARD_SCHEMA
    from pipeline.publish.card import write_card

    row = dict.fromkeys(SHARD_SCHEMA.names) | {"text": "En katt sover.", "paragraphs": [0]}
    shard = f"corpus/{language}/train-00000.arrow"
    write_arrow(shard, SHARD_SCHEMA, [row])
    ledger = Ledger("filter")
    ledger.enter(documents=2)
    ledger.keep(documents=1)
    ledger.drop(reason, documents=1)
    ledger.write("ledger.json")
    write_card([shard], ["ledger.json"], None, "corpus/README.md", "corpus/stats.json")
    Path("config.yaml").write_text("output: out\n")


def card_of_norwegian(folder: Path) -> Outcome:
    """A corpus in the language no, which YAML takes for false."""
    import datasets

    _write_corpus("no", "few_words")
    try:
        rows = datasets.load_dataset("corpus", "no", cache_dir="cache")["train"].num_rows
    except Exception as error:
        return False, f"load_dataset: {type(error).__name__}"
    return rows == 1, f"load_dataset: {rows} row"


def card_with_a_licence_of_lines(folder: Path) -> Outcome:
    """A licence of several lines that adds keys to the card's header."""
    import yaml

    from pipeline.publish.options import Publish
    from pipeline.publish.publish import publish

    _write_corpus("fr", "few_words")
    publish(Publish(license="mit\ntags: [evil]\nextra: 1"), "corpus", "config.yaml", "hub")
    header = yaml.safe_load(Path("hub/README.md").read_text().split("---\n")[1])
    added = {"tags", "extra"}.intersection(header)
    return not added, f"{len(added)} keys added"


def card_with_markup(folder: Path) -> Outcome:
    """A reason of a ledger that is a picture, a link and a title in the card."""
    from markdown_it import MarkdownIt

    _write_corpus("fr", "<img src=x onerror=alert(1)> [a](https://evil.example) \n\n# Title\n\n")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(Path("corpus/README.md").read_text())
    marks = html.count("<img") + html.count("<a ") + html.count("<h1>") - 1
    return not marks, f"{marks} elements of HTML added"
