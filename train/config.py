"""The whole config file, both wings together. The options of a section lie beside the stages that they steer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipeline.common.classifiers import LID_176
from pipeline.common.config import MOST_SEED, bad_name, bad_texts, json_schema, option, to_data
from pipeline.common.engine import Engine
from pipeline.common.files import write_json, write_text
from pipeline.common.language_codes import named, near_labels, unknown_label
from pipeline.common.options_page import options_page
from pipeline.corpus.options import Dedup, Filter, Near, Quality, Shards
from pipeline.crawl.options import Crawl, Sample
from pipeline.extract.options import Extract
from pipeline.workflow.layout import WATCHED
from train.data.options import Domain, Tokens
from train.evaluation.options import Evaluate
from train.report.options import Report
from train.runs.options import Backbone, Export, Extend, Run, bad_runs


@dataclass(frozen=True, kw_only=True)
class Paper:
    """The paper's tables and figures: configs/paper/grid.yaml changes these runs row by row."""

    seeds: list[int] = option(
        [0], "seeds of every run; the tables then show means and ranges", low=0, high=MOST_SEED
    )
    runs: dict[str, Run] = option({}, "a run of each method to start from; none: those of extend.runs")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from bad_runs(self.runs)
        for name, run in self.runs.items():
            if run.base:
                yield f"runs.{name}.base", "the paper's runs start from the backbone; take it out"
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield "seeds", f"{self.seeds} has none or one twice; give different numbers"


@dataclass(frozen=True, kw_only=True)
class Exports(Export):
    """The models that are passed on."""

    runs: list[str] = option([], "runs that `all` exports; the target `export` does all runs")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole config file."""

    output: str = option(doc="folder of all that the workflow makes, such as results/demo", path=True)
    engine: Engine = option(Engine(), "where the batch stages run")
    sample: Sample = option(Sample(), "the sample crawl")
    crawl: Crawl = option(Crawl(), "the archives to read")
    extract: Extract = option(Extract(), "HTML to text, and languages")
    dedup: Dedup = option(Dedup(), "paragraph deduplication")
    filter: Filter = option(Filter(), "heuristic filters and decontamination")
    near: Near = option(Near(), "near-duplicates")
    quality: Quality = option(Quality(), "quality classifiers")
    shards: Shards = option(Shards(), "the corpus")
    domains: dict[str, Domain] = option({}, "named domains")
    tokens: Tokens = option(Tokens(), "tokenizer and rows")
    backbone: Backbone = option(doc="the model to extend")
    extend: Extend = option(doc="the runs")
    evaluate: Evaluate = option(Evaluate(), "what is measured")
    export: Exports = option(Exports(), "the models that are passed on")
    report: Report = option(Report(), "the report")
    paper: Paper = option(Paper(), "the paper's tables and figures")

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from bad_texts(to_data(self))
        used = used_domains(self)
        trained = ("extend.old", "extend.new", "extend.runs", "tokens", "backbone")
        for key, name in used.items():
            if name in self.domains and self.domains[name].held_out and key.startswith(trained):
                yield key, f"domain {name!r} is held out, to measure with alone; name another"
            if name not in self.domains:
                yield key, f"no domain {name!r}; domains has {', '.join(self.domains) or 'none'}"
        yield from self._bad_control()
        for name in set(self.export.runs) - set(self.extend.runs):
            yield "export.runs", f"no run {name!r}; extend.runs has {', '.join(self.extend.runs) or 'none'}"
        for name in self.domains:
            if problem := bad_name(name):
                yield f"domains.{name}", problem
            elif name in WATCHED:
                yield f"domains.{name}", "this is a file beside the folders of the domains; choose another name"
        # Of another model the labels are read when the workflow starts.
        yield from bad_languages(self, LID_176 if self.extract.language_model is None else None)

    def _bad_control(self) -> Iterator[tuple[str, str]]:
        name, runs = self.evaluate.control, self.extend.runs
        if name is None:
            return
        if name not in runs:
            yield "evaluate.control", f"no run {name!r}; extend.runs has {', '.join(runs) or 'none'}"
        elif runs[name].old_rate < 1:
            yield (
                "evaluate.control",
                f"{name} has old_rate {runs[name].old_rate:g}; set it to 1: a control trains on replay alone",
            )
        elif len(runs) == 1:
            yield "evaluate.control", f"{name} is the only run; add one that learns, or take the control out"


def used_domains(config: Config) -> dict[str, str]:
    """The domain that each key of the config names."""
    used = {
        "extend.old": config.extend.old,
        "extend.new": config.extend.new,
        "evaluate.forgetting": config.evaluate.forgetting,
        "evaluate.learning": config.evaluate.learning,
        **{f"evaluate.others[{i}]": name for i, name in enumerate(config.evaluate.others)},
        **{f"extend.runs.{name}.new": run.new for name, run in config.extend.runs.items() if run.new},
        **{f"paper.runs.{name}.new": run.new for name, run in config.paper.runs.items() if run.new},
    }
    if config.backbone.pretrain:  # else the tokenizer is the backbone's own
        used["tokens.domain"] = config.tokens.domain
        used["backbone.pretrain.domain"] = config.backbone.pretrain.domain
    if config.backbone.settle:
        used["backbone.settle.domain"] = config.backbone.settle.domain
    return used


def needed_languages(config: Config) -> list[str]:
    """The languages of the crawl that something is trained on or measured with, each once."""
    domains = [config.domains[name] for name in used_domains(config).values()]
    return list(dict.fromkeys(domain.language for domain in domains if domain.corpus is None))


def bad_languages(config: Config, labels: Collection[str] | None) -> Iterator[tuple[str, str]]:
    """(key, problem) of each language that the language model has no label for, or that is not extracted.

    labels: of the language model; None: not known here. A language that all its texts come with needs none.
    """
    wanted = config.extract.languages
    texts = {f"crawl.texts[{number}].language": entry.language for number, entry in enumerate(config.crawl.texts)}
    used = {
        **{f"extract.languages[{number}]": language for number, language in enumerate(wanted)},
        **{key: language for key, language in texts.items() if language},
        **{f"domains.{name}.language": x.language for name, x in config.domains.items() if x.corpus is None},
        **{f"quality.positives.{language}": language for language in config.quality.positives},
        **{f"quality.models.{language}": language for language in config.quality.models},
    }
    for key, language in used.items():
        is_given = language in texts.values() and not named(language)
        if labels is not None and language not in labels and not is_given:
            yield key, unknown_label(language, labels)
        elif language not in wanted:
            near = near_labels(language, wanted)
            cure = f"did you mean {' or '.join(near)}?" if near else "add it there"
            yield key, f"{language!r} is not in extract.languages {wanted}; {cure}"


def eval_domains(config: Config) -> list[str]:
    """The domains to measure, forgetting first, learning second, each once."""
    evaluate = config.evaluate
    return list(dict.fromkeys([evaluate.forgetting, evaluate.learning, *evaluate.others]))


ABOUT_OPTIONS = """# Every option

What a config file may say, section by section; `python -m train schema` writes this page from the code.
Where an option has no default, it must be given.
On the command line of a stage, `row_tokens` is `--row-tokens`.

"""


def write_schema(output: str, page: str) -> None:
    """Write what a config file may say: as JSON Schema, which editors complete and check with, and as a page."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "neutral-residues config"}
    write_json(output, about | json_schema(Config))
    write_text(page, ABOUT_OPTIONS + options_page(Config))
