"""The text of a first config: short, every number with its reason."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.common.errors import StageError
from pipeline.common.language_codes import iso_code
from pipeline.crawl.catalogue import SOURCES
from pipeline.init.defaults import (
    ASSUMED_WIDTH,
    BYTES_A_TOKEN,
    NATIVE,
    OldText,
    Plan,
    over_width,
    rate,
)
from pipeline.init.looks import Found, Machine, Model, first_words
from pipeline.workflow.fingerprint import ROOT

SCHEMA = ROOT / "configs/schema.json"
NO_PACKAGES = r"^(?!https://[^/]*\.example/)"  # URLs of all but the packages' pages
HELD_BROWN = r"brown\.example/held"  # half of the Brown corpus (pipeline/crawl/rendering.py)
FEW_FILES = 20  # of text: fewer are books rather than documents
HELD_DOCUMENTS = 20
RECORDS = {False: 5000, True: 200_000}  # of CommonCrawl; with a GPU


@dataclass(frozen=True)
class Given:
    """What a user has, looked at."""

    language: str
    old: str
    language_model: str | None
    texts: list[Found]
    archives: list[Found]
    commoncrawl: str | None
    replay: list[Found]
    packages: OldText
    model: Model
    machine: Machine

    @property
    def from_crawl(self) -> bool:
        """Whether the old language's text is looked for in the crawl of the new one."""
        return bool((self.archives or self.commoncrawl) and not self.replay)

    @property
    def new_tokens(self) -> int | None:
        """Tokens of the new text, roughly; None: unknown."""
        if self.archives or self.commoncrawl or any(not found.files for found in self.texts):
            return None
        return int(sum(found.text_bytes for found in self.texts) / BYTES_A_TOKEN)

    @property
    def files(self) -> int:
        return sum(found.files for found in self.texts)


def output_folder(path: Path) -> str:
    """The results of a config, which are called like it.

    >>> output_folder(Path("configs/breton.yaml"))
    'results/breton'
    """
    return f"results/{path.stem}"


def value(data: Any) -> str:
    r"""A value as YAML, on one line, in quotes where it needs them.

    >>> print(value("no"), value(["a: b", "é"]), value({"no": 1}))
    'no' ['a: b', é] {'no': 1}
    """
    text = yaml.safe_dump(data, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def config_text(given: Given, plan: Plan, path: Path, command: str) -> str:
    """The config. path: where it will lie; command: what runs it."""
    return "\n".join(_lines(given, plan, path, command)) + "\n"


def _lines(given: Given, plan: Plan, path: Path, command: str) -> Iterator[str]:
    model, machine = given.model, given.machine
    if SCHEMA.is_file():
        yield f"# yaml-language-server: $schema={os.path.relpath(SCHEMA, path.parent)}"
    where = machine.gpu or f"{machine.cores} CPU cores"
    yield f"# {given.language} added to {_one_line(model.source)}, on {_one_line(where)}: a first config, by"
    yield "# `python -m pipeline init`. Every key: docs/options.md"
    yield f"#   {_one_line(command)}"
    yield f"output: {value(output_folder(path))}"
    yield ""
    yield from _crawl(given)
    yield ""
    yield from _corpus(given)
    yield ""
    yield from _domains(given, plan)
    yield ""
    yield from _backbone(given, plan)
    yield ""
    yield from _runs(given, plan)
    yield ""
    yield from _evaluation(given, plan)


def _one_line(text: str) -> str:
    """A text in a comment: no name of a file ends it."""
    return re.sub(r"\s+", " ", text)


def _crawl(given: Given) -> Iterator[str]:
    yield "crawl:"
    of_replay = [found for found in given.replay if not found.is_archive]
    if given.texts or of_replay:
        yield "  texts:                    # all in one language; without `language` each document's is identified"
    for language, texts in ((given.language, given.texts), (given.old, of_replay)):
        if texts:
            entry = {"files": [name for found in texts for name in found.names], "language": language}
            few = 0 < sum(found.files for found in texts) < FEW_FILES
            yield f"    - {value(entry | ({'documents': 'blocks'} if few else {}))}"
            if few:
                yield "      # few files, so that of a .txt each block is a document, which empty lines part"
    warcs = [name for found in (*given.archives, *given.replay) if found.is_archive for name in found.names]
    if warcs:
        yield f"  warcs: {value(warcs)}"
    if given.commoncrawl:
        limit = RECORDS[bool(given.machine.gpu)]
        index = {"crawl": given.commoncrawl, "languages": [three_letters(given.language)], "limit": limit}
        yield f"  index: {value(index)}  # pages of the new language alone"
        if given.from_crawl:
            whole = {"crawl": given.commoncrawl, "files": 1}
            yield f"  commoncrawl: {value(whole)}  # pages of all languages, some 1 GB, for those in {given.old}"
    if given.packages.sources:
        gpu = bool(given.machine.gpu)
        what = "plain text of the old language" if given.packages.replay else "other text, to measure forgetting"
        yield f"  sample: true              # {what}, from packages by their own clients"
        yield "sample:"
        yield f"  sources: {value(given.packages.sources)}"
        yield f"  pages_per_source: {6000 if gpu else 500}     # as {_like(given)}"
        yield "  files: 2"


def _like(given: Given) -> str:
    """The config whose sizes were measured on such a machine."""
    return f"configs/smollm2-{'fr' if given.machine.gpu else 'quick'}.yaml"


def three_letters(language: str) -> str:
    """As CommonCrawl's index names a language (ISO 639-3). Raises StageError where it has no such name."""
    import langcodes

    try:
        return langcodes.Language.get(iso_code(language)).to_alpha3()
    except (LookupError, ValueError):
        why = "has no code of three letters, by which CommonCrawl is asked; fetch whole files (crawl.commoncrawl)"
        raise StageError(f"{language} {why}") from None


def _corpus(given: Given) -> Iterator[str]:
    yield "extract:"
    yield f"  languages: {value(list(dict.fromkeys([given.language, given.old])))}"
    yield "  language_min_score: 0.7   # leaves out pages that are translated in part"
    if given.language_model:
        yield f"  language_model: {value(given.language_model)}"
    if given.archives or given.commoncrawl:
        rules = ["gopher_word_count", "gopher_alphabetic_words", "fineweb_short_lines", "c4_lorem_ipsum"]
        yield f"filter: {value({'rules': rules})}  # more: docs/options.md"
    yield "near: {enabled: true}       # no near-duplicate of a held-out document is trained on"
    yield "# A quality classifier is off until it is told what good text looks like:"
    yield f"# quality: {{positives: {value({given.language: {'urls': 'a regular expression'}})}}}"
    if given.new_tokens is not None:
        share = min(0.3, max(0.05, HELD_DOCUMENTS / given.files)) if given.files >= FEW_FILES else 0.05
        yield f"shards: {{validation_share: {share:.2g}}}  # of the documents, to measure learning on"


def _hosts(sources: tuple[str, ...]) -> str:
    """A regular expression of the URLs of some sources."""
    return "|".join(dict.fromkeys(SOURCES[name].host.replace(".", r"\.") for name in sources))


def domain_names(given: Given) -> dict[str, str]:
    """The names of the domains, by what they are for."""
    new = given.language if given.language != given.old else f"{given.old}-new"
    roles = {"settle": f"{given.old}-settle", "replay": f"{given.old}-replay", "forgetting": f"{given.old}-held"}
    return roles | {"new": new, "learning": f"{new}-held"}


def _domains(given: Given, plan: Plan) -> Iterator[str]:
    names, packages, old = domain_names(given), given.packages, {"language": given.old}
    rows = {"rows": plan.measured}
    settle, replay = old, old  # of the user's own text: all that is not of another kind, to measure with
    if packages.replay and not given.from_crawl:
        settle = old | {"urls": _hosts((*packages.replay, *packages.settle))}
        replay = old | {"urls": _hosts(packages.replay)}
    elif kept := {*packages.settle, *packages.held} - {*packages.replay}:
        replay = old | {"urls": f"^(?!https://({_hosts(tuple(sorted(kept)))})/)"}
    yield "domains:"
    if plan.settle_steps:
        yield f"  # {names['settle']}: the backbone settles on it"
        yield f"  {value(names['settle'])}: {value(settle)}"
    yield f"  # {names['replay']}: replay, a tenth of what runs read"
    yield f"  {value(names['replay'])}: {value(replay)}"
    if packages.held:
        yield f"  # {names['forgetting']}: forgetting, on text of another kind than the replay's"
        held = HELD_BROWN if packages.held[0] == "brown" else _hosts(packages.held[:1])
        yield f"  {value(names['forgetting'])}: {value(old | {'urls': held, 'held_out': True} | rows)}"
    else:
        yield f"  # {names['forgetting']}: forgetting, on held-out documents of the replay's kind"
        yield f"  {value(names['forgetting'])}: {value(replay | rows)}"
    for name in packages.held[1:]:
        other = old | {"urls": _hosts((name,)), "held_out": True} | rows
        yield f"  {value(f'{given.old}-{name}')}: {value(other)}"
    new = {"language": given.language} | ({"urls": NO_PACKAGES} if given.language == given.old else {})
    yield f"  # {names['new']}: the new language; {names['learning']}: learning, on some of its held-out documents"
    yield f"  {value(names['new'])}: {value(new)}"
    yield f"  {value(names['learning'])}: {value(new | rows)}"


def _backbone(given: Given, plan: Plan) -> Iterator[str]:
    model = given.model
    why = f"as {_like(given)}"
    if model.positions == plan.row_tokens:
        why = "all positions that the backbone has"
    yield f"tokens: {{row_tokens: {plan.row_tokens}}}   # {why}"
    yield "backbone:"
    yield f"  source: {value(model.source)}"
    if plan.settle_steps:
        yield f"  # {model.settle}: any plain text improves it, which would hide what is forgotten"
        yield "  settle:"
        yield f"    domain: {value(domain_names(given)['settle'])}"
        yield f"    learning_rate: {rate(model, 'settle')}   # 0.06 / the backbone's width"
        yield f"    steps: {plan.settle_steps}"
        yield from _training(given, plan, "    ")


def _training(given: Given, plan: Plan, indent: str) -> Iterator[str]:
    """What trainings share."""
    full = plan.batch_rows == (32 if given.machine.gpu else 8)
    why = f"as {_like(given)}" if full else "few, since there is little text"
    yield f"{indent}batch_rows: {plan.batch_rows}   # {why}"
    yield f"{indent}micro_batch_rows: {plan.micro_batch_rows}   # fewer take less memory"
    yield f"{indent}evaluate_every: {plan.every}"
    yield f"{indent}evaluate_rows: {min(64, plan.measured)}"
    yield f"{indent}checkpoint_every: {plan.every}"
    yield f"{indent}threads: {plan.threads}"


def _runs(given: Given, plan: Plan) -> Iterator[str]:
    model, names, tokens = given.model, domain_names(given), plan.tokens("neutral")
    yield "extend:                     # rates are of the backbone's width: docs/guide.md, Rates and alpha"
    yield f"  old: {value(names['replay'])}"
    yield f"  new: {value(names['new'])}"
    yield "  runs:"
    yield "    neutral: &run"
    yield "      method: neutral"
    why = f"{over_width(model, 'neutral'):g} / {model.width or ASSUMED_WIDTH}"
    yield f"      learning_rate: {rate(model, 'neutral')}   # {why}"
    if (model.width, model.layers) == (576, 30):
        yield "      alpha: 30             # docs/findings/results.md; left out, it is fitted to the backbone"
    if model.kind in NATIVE:
        yield "      gate: sigmoid         # that of llama.cpp, Ollama and vLLM; it learns 103% of what elu does"
        yield "      gate_bias: false      # (docs/findings/results.md, Which gate)"
    passes = tokens / given.new_tokens if given.new_tokens else 0
    times = f", {passes:,.{0 if passes > 10 else 1}f} times the new text" if passes else ""
    yield f"      steps: {plan.steps}             # {tokens:,} tokens{times}; more learn more"
    yield from _training(given, plan, "      ")
    whys = {"control": "the same steps on the replay alone", "lora": "to compare with"}
    for method in plan.methods[1:]:
        kind = "finetune" if method == "control" else method
        more = ", old_rate: 1" if method == "control" else ""
        why = f"  # {whys[method]}" if method in whys else ""
        yield f"    {method}: {{<<: *run, method: {kind}, learning_rate: {rate(model, kind)}{more}}}{why}"


def prompts(given: Given) -> list[str]:
    """Beginnings in the new language, the first words of a text, and in English."""
    new = [words for found in given.texts for file in found.some if (words := first_words(file))]
    return [*new[:2], *(["The Python interpreter is"] if iso_code(given.old) == "en" else [])]


def _evaluation(given: Given, plan: Plan) -> Iterator[str]:
    names = domain_names(given)
    yield "evaluate:"
    yield f"  forgetting: {value(names['forgetting'])}"
    yield f"  learning: {value(names['learning'])}"
    if others := [f"{given.old}-{name}" for name in given.packages.held[1:]]:
        yield f"  others: {value(others)}"
    if "control" in plan.methods:
        yield "  control: control"
    yield f"  threads: {plan.threads}"
    yield f"  prompts: {value(prompts(given))}  # which each model continues, in the report"
    if given.model.kind in NATIVE:
        yield ""
        yield "export: {runs: [neutral], gguf: [q8_0]}   # the extended model, for llama.cpp and Ollama too"
    title = f"{given.language} added to {Path(given.model.source).name}"
    yield f"report: {{title: {value(_one_line(title))}}}"
