"""Look at what a user has, write a first config, and say what it will cost and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from pipeline.common.classifiers import LID_176, read_labels
from pipeline.common.config import ConfigError, bad_language, bad_path, read
from pipeline.common.errors import StageError
from pipeline.common.files import write_text
from pipeline.common.language_codes import iso_code, unknown_label
from pipeline.common.shown import printable_lines
from pipeline.crawl.options import CommonCrawl
from pipeline.init.config import Given, config_text, output_folder, three_letters
from pipeline.init.defaults import (
    ASSUMED_WIDTH,
    Plan,
    choose_plan,
    disk_bytes,
    memory_gb,
    old_text,
    times,
)
from pipeline.init.looks import (
    find_any,
    find_archives,
    find_texts,
    look_at_machine,
    look_at_model,
    missing_packages,
)
from pipeline.workflow.fingerprint import ROOT

T = TypeVar("T")
FEW_TOKENS = 100_000


def init(
    language: str,
    backbone: str,
    texts: list[str],
    crawl: list[str],
    commoncrawl: str | None,
    replay: list[str],
    old: str | None,
    language_model: str | None,
    output: str | None,
) -> None:
    """Write a config for a language, and print what was found, what it will cost and what to do next.

    Raises ConfigError with a line for each thing that is wrong; then nothing is written.
    """
    path = Path(output or f"configs/{language}.yaml")
    problems = [f"--output {path}: {problem}" for problem in _bad_output(path)]

    def tried(flag: str, look: Callable[[str], T], name: str) -> list[T]:
        """What a look at something finds, if it does."""
        try:
            return [look(name)]
        except (StageError, ConfigError, OSError) as error:
            problems.extend(f"--{flag}: {line}" for line in str(error).splitlines())
            return []

    labels = frozenset(*tried("language-model", read_labels, language_model)) if language_model else LID_176
    old = old or next((label for label in sorted(labels) if iso_code(label) == "en"), "en")
    models = tried("backbone", look_at_model, backbone)
    new_texts = [found for name in texts for found in tried("texts", find_texts, name)]
    archives = [found for name in crawl for found in tried("crawl", find_archives, name)]
    old_given = [found for name in replay for found in tried("replay", find_any, name)]
    if commoncrawl:
        tried("commoncrawl", lambda name: read(CommonCrawl, {"crawl": name}, name), commoncrawl)
        tried("language", three_letters, language)
    if not (texts or crawl or commoncrawl):
        problems.append(
            f"no text of {language}: give a folder of it (--texts DIR), archives (--crawl 'crawl/*.warc.gz') or "
            "a crawl to fetch it from (--commoncrawl CC-MAIN-2026-30)"
        )
    problems += _bad_languages(language, old, labels, bool(crawl or commoncrawl), bool(replay))
    machine = look_at_machine()
    settles = bool(models and models[0].settle)
    code, gpu = iso_code(old), bool(machine.gpu)
    packages = old_text(code, bool(commoncrawl or replay), settles, gpu)
    if packages is None and crawl:
        packages = old_text(code, True, settles, gpu)
    if packages is None:
        problems.append(
            f"--replay: no package with text of {old} can be fetched here (by apt-get and dpkg-deb, or npm); give "
            "a folder, files or archives of it"
        )
    if problems or packages is None:
        raise ConfigError("\n".join(problems))
    given = Given(
        language, old, language_model, new_texts, archives, commoncrawl, old_given, packages, models[0], machine
    )
    plan = choose_plan(given.model, machine, given.new_tokens)
    elsewhere = [] if Path("Snakefile").resolve() == ROOT / "Snakefile" else ["--snakefile", f"{ROOT}/Snakefile"]
    command = shlex.join(["snakemake", *elsewhere, "--cores", "all", "all", "--configfile", str(path)])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, config_text(given, plan, path, command))
    lines = [*_found(given, labels), *_cost(given, plan), *_next(given, path, command)]
    print(printable_lines("\n".join(lines)))


def _bad_output(path: Path) -> Iterator[str]:
    """What is wrong with the place of the config."""
    if problem := bad_path(str(path)):
        yield problem
    elif path.suffix not in (".yaml", ".yml"):
        yield "name a file that ends in .yaml"
    elif path.exists():
        yield "is there already, and stays as it is; give another name, or move it away"


def _bad_languages(
    language: str, old: str, labels: Collection[str], from_crawl: bool, has_replay: bool
) -> Iterator[str]:
    """What is wrong with the new and the old language. What comes as text of a language needs no label."""
    looked_for = {"language": from_crawl, "old": from_crawl or not has_replay}
    for flag, name in (("language", language), ("old", old)):
        if problem := bad_language(name):
            yield f"--{flag}: {problem}"
        elif looked_for[flag] and labels and name not in labels:
            cure = f"or give its text, by --{'texts' if flag == 'language' else 'replay'} alone"
            yield f"--{flag}: {unknown_label(name, labels)}; {cure}"
    if language == old and (from_crawl or has_replay):
        yield f"--language: {language} is the old language too, and cannot be told from it; give --texts alone"


def _found(given: Given, labels: Collection[str]) -> Iterator[str]:
    """What was found, a line each."""
    model, machine, tokens = given.model, given.machine, given.new_tokens
    if given.language not in labels:
        yield f"language: {unknown_label(given.language, labels)}; all of --texts is taken for it"
    for name, found in (("texts", given.texts), ("crawl", given.archives), ("replay", given.replay)):
        files, size = sum(one.files for one in found), sum(one.bytes for one in found)
        about = f", some {tokens:,} tokens (at 3 bytes each, as French)" if name == "texts" and tokens else ""
        if files:
            yield f"{name}: {files:,} files, {size / 1e6:,.1f} MB{about}"
        if others := [file for one in found for file in one.left_out]:
            yield f"  {len(others):,} files are of no known kind and not read, such as {others[0]}"
    if tokens is not None and tokens < FEW_TOKENS:
        yield "  that is little: what is measured on it will have wide intervals"
    packages = ", ".join(given.packages.sources)
    if given.from_crawl:
        more = (
            f", and text from packages: {packages}"
            if given.packages.replay
            else "; where it has none, give --replay"
        )
        yield f"replay: the crawl's pages in {given.old}{more}"
    elif given.packages.replay:
        yield f"replay: text in {given.old} from packages, since none was given: {packages}"
    if model.unknown:
        yield f"backbone: sizes unknown, since {model.unknown}; rates are for a width of {ASSUMED_WIDTH}"
    else:
        weights = f"{model.weights / 1e6:,.0f}M weights, " if model.weights else ""
        yield f"backbone: {weights}width {model.width}, {model.positions or 'unknown'} positions"
    if model.settle:
        yield f"  {model.settle}, so that it is settled on plain text in {given.old} first"
    bf16 = "with" if machine.bf16 else "without"
    yield f"machine: {machine.gpu or f'{machine.cores} cores, {bf16} AVX512-BF16; no GPU'}"
    if machine.why_no_gpu:
        yield f"  {machine.why_no_gpu}"


def _cost(given: Given, plan: Plan) -> Iterator[str]:
    """What it will cost, as an estimate."""
    parts = times(plan, given.model, given.machine)
    yield ""
    for name, tokens, seconds in parts:
        yield f"{name:<22} {f'{tokens:,} tokens' if tokens else '':>20} {_duration(seconds):>10}"
    yield f"{'in all':<22} {'':>20} {_duration(sum(seconds for _, _, seconds in parts)):>10}"
    disk = disk_bytes(plan, given.model, sum(found.text_bytes for found in (*given.texts, *given.replay))) / 1e9
    memory = memory_gb(plan, given.model)
    yield f"with {disk:,.1f} GB of disk" + ("" if given.machine.gpu else f" and {memory:,.0f} GB of memory")
    if not given.machine.gpu and 0 < given.machine.memory < 1e9 * memory:
        yield f"  of which this machine has {given.machine.memory / 1e9:,.0f}: take a smaller backbone"
    if given.archives or given.commoncrawl:
        yield "and what the crawl takes (below)"
    if given.model.weights is None:
        yield "  if the backbone is as large as SmolLM2-135M; a larger one takes more"
    slow = not given.machine.gpu and not given.machine.bf16
    basis = "on one H100" if given.machine.gpu else "on two cores of an AMD EPYC"
    yield f"An estimate, by what SmolLM2-135M took {basis} (docs/findings/results.md), in proportion to weights"
    yield "and cores" + (", and three times as long without AVX512-BF16" if slow else "")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"


def _next(given: Given, path: Path, command: str) -> Iterator[str]:
    """What to do next."""
    config = shlex.quote(str(path))
    yield ""
    yield f"Wrote {path}. Look at it, then run:"
    if install := missing_packages(given.model.source):
        yield f"  {install}"
    if given.archives:
        yield f"  python -m pipeline plan --configfile {config}   # the cost of the crawl, by two of its archives"
    if given.commoncrawl:
        yield f"  python -m pipeline index-plan --configfile {config} --output plan.arrow --report plan.json"
    yield f"  {command}"
    yield f"Then open {output_folder(path)}/report.html. To learn more, raise `steps` and run it again."
