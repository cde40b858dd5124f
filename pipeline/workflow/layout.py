"""Where every file of a result folder lies; docs/formats.md says what is in each.

A name may be a wildcard of Snakemake, such as `{batch}`, or `*` for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# The files in the folder of a run.
RUN_RECORD, WEIGHTS, METRICS = "run.json", "weights.safetensors", "metrics.jsonl"
# The backbone among models, which are else named after their runs.
BACKBONE = "backbone"
# The source of one that was settled, among models.
SOURCE = "source"
# What lies beside the folders of the domains, and what beside those of the runs has a run's name before it.
WATCHED = ("backbone.txt", "runs.txt")
BESIDE_RUNS = (".checkpoints", ".part")


@dataclass(frozen=True)
class Layout:
    """The paths in the folder `root`, the `output` of a config.

    >>> Layout("results/demo").pages("{batch}")
    'results/demo/pages/{batch}.json'
    """

    root: str | Path

    def files(self, path: str) -> list[Path]:
        """The files and folders that a path of this layout with `*` in it matches, sorted."""
        return sorted(Path(self.root).glob(str(Path(path).relative_to(self.root))))

    def ledger(self, path: str) -> str:
        """The ledger beside what a stage writes.

        >>> Layout("out").ledger("out/documents/00000.arrow")
        'out/documents/00000.ledger.json'
        """
        return f"{path.rpartition('.')[0]}.ledger.json"

    def log(self, job: str) -> str:
        return f"{self.logs}/{job}.log"

    @property
    def logs(self) -> str:
        return f"{self.root}/logs"

    def benchmark(self, job: str) -> str:
        """Time and memory of a job, as Snakemake measures them."""
        return f"{self.benchmarks}/{job}.tsv"

    @property
    def benchmarks(self) -> str:
        return f"{self.root}/benchmarks"

    @property
    def plan(self) -> str:
        """What the crawl was predicted to cost."""
        return f"{self.root}/plan.json"

    @property
    def calibration(self) -> str:
        """The result folder of the run that such a prediction is made from."""
        return f"{self.root}/calibration"

    @property
    def freed(self) -> str:
        """What is known of files that `clean` freed."""
        return f"{self.root}/freed.json"

    # The crawl ------------------------------------------------------------------------------------

    def samples(self, count: int) -> list[str]:
        """The WARC files of the sample crawl."""
        return [f"{self.root}/crawl/sample-{number:05d}.warc.gz" for number in range(count)]

    def fetched(self, batch: str) -> str:
        """Folder of the files of a batch."""
        return f"{self.root}/fetched/{batch}"

    def records(self, part: str) -> str:
        """Folder of one part of the records that an index was asked for."""
        return f"{self.root}/records/{part}"

    @property
    def records_plan(self) -> str:
        return f"{self.root}/records/plan.arrow"

    @property
    def records_cost(self) -> str:
        return f"{self.root}/records/plan.json"

    # The corpus -----------------------------------------------------------------------------------

    @property
    def language_model(self) -> str:
        """The language identification model, where the config names none of one's own."""
        return f"{self.root}/lid.176.ftz"

    def pages(self, batch: str) -> str:
        """List of the files of pages of a batch."""
        return f"{self.root}/pages/{batch}.json"

    @property
    def languages(self) -> str:
        """How many documents there are of each language."""
        return f"{self.root}/pages/languages.json"

    def page_file(self, name: str) -> str:
        return f"{self.root}/pages/{name}.arrow"

    def page_decisions(self, name: str) -> str:
        """What became of each page of an archive in `extract`, beside the archive's pages."""
        return f"{self.root}/pages/{name}.decisions"

    def decisions(self, stage: str, batch: str) -> str:
        """What became of each page of a batch in a stage that has a ledger of this name."""
        return f"{self.root}/decisions/{stage}/{batch}.arrow"

    def hashes(self, batch: str) -> str:
        return f"{self.root}/hashes/{batch}.arrow"

    @property
    def hash_index(self) -> str:
        return self.hashes("index")

    @property
    def dedup_reduced(self) -> str:
        """Empty; it says that the duplicates are known."""
        return f"{self.root}/hashes/.reduced"

    def duplicates(self, batch: str) -> str:
        return f"{self.root}/duplicates/{batch}.arrow"

    def documents(self, batch: str) -> str:
        """Documents without duplicate paragraphs."""
        return f"{self.root}/documents/{batch}.arrow"

    def filtered(self, batch: str) -> str:
        """Documents that keep to the rules."""
        return f"{self.root}/filtered/{batch}.arrow"

    @property
    def sets(self) -> str:
        """The n-grams of the evaluation sets."""
        return f"{self.root}/filtered/sets.npy"

    @property
    def sets_report(self) -> str:
        return f"{self.root}/filtered/sets.json"

    def near(self, batch: str) -> str:
        """Documents without near-duplicates."""
        return f"{self.root}/near/{batch}.arrow"

    def signatures(self, batch: str) -> str:
        return f"{self.root}/near/{batch}.npy"

    @property
    def near_duplicates(self) -> str:
        return f"{self.root}/near/duplicates.npy"

    @property
    def near_clusters(self) -> str:
        return f"{self.root}/near/clusters.jsonl"

    def quality_model(self, language: str) -> str:
        return f"{self.root}/quality/{language}.bin"

    def quality_report(self, language: str) -> str:
        return f"{self.root}/quality/{language}.json"

    @property
    def corpus(self) -> str:
        """The corpus alone: the folder that is published."""
        return f"{self.root}/corpus"

    def shard(self, language: str, split: str, batch: str) -> str:
        return str(shard_path(self.corpus, language, split, batch))

    def shards_ledger(self, batch: str) -> str:
        return f"{self.corpus}/.ledgers/{batch}.json"

    @property
    def card(self) -> str:
        return f"{self.corpus}/README.md"

    @property
    def stats(self) -> str:
        return f"{self.corpus}/stats.json"

    # Models ---------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> str:
        """Folder of the tokenizer of a backbone that is pretrained here."""
        return f"{self.root}/tokenizer"

    def rows(self, domain: str, split: str) -> str:
        return f"{self.root}/tokens/{domain}/{split}.arrow"

    def watched(self, training: str) -> str:
        """List of the held-out rows that are measured while the `backbone` or the `runs` train, as DOMAIN=PATH."""
        return f"{self.root}/tokens/{training}.txt"

    @property
    def source(self) -> str:
        """Folder of the source of a backbone that is settled here."""
        return f"{self.root}/source"

    @property
    def backbone(self) -> str:
        return f"{self.root}/backbone"

    def run(self, run: str) -> str:
        """Folder of a run."""
        return f"{self.root}/runs/{run}"

    def weights(self, run: str) -> str:
        return f"{self.run(run)}/{WEIGHTS}"

    def run_record(self, run: str) -> str:
        return f"{self.run(run)}/{RUN_RECORD}"

    def metrics(self, run: str) -> str:
        return f"{self.run(run)}/{METRICS}"

    # What came out; a model is `backbone` or a run --------------------------------------------------

    def evaluation(self, model: str) -> str:
        return f"{self.root}/evaluate/{model}.json"

    def speed(self, model: str) -> str:
        return f"{self.root}/speed/{model}.json"

    @property
    def tasks(self) -> str:
        return f"{self.root}/tasks"

    def task_scores(self, model: str) -> str:
        return f"{self.tasks}/{model}.json"

    def export(self, run: str) -> str:
        return f"{self.root}/export/{run}"

    @property
    def report(self) -> str:
        return f"{self.root}/report.html"

    @property
    def figure(self) -> str:
        return f"{self.root}/figure1.png"

    @property
    def results(self) -> str:
        """The table of results."""
        return f"{self.root}/results.md"

    def paper(self, name: str) -> str:
        """A table or figure of the paper, without the ending."""
        return f"{self.root}/paper/{name}"


def shard_path(corpus: str | Path, language: str, split: str, batch: str) -> Path:
    """A shard in a folder that has the corpus alone, such as a published one. shard_parts() takes it apart.

    >>> str(shard_path("corpus", "fr", "train", "00000"))
    'corpus/fr/train-00000.arrow'
    """
    return Path(corpus, language, f"{split}-{batch}.arrow")


def shard_parts(path: str | Path) -> tuple[str, str, str]:
    """(language, split, batch) of a path that shard_path() made.

    >>> shard_parts("corpus/fr/train-00000.arrow")
    ('fr', 'train', '00000')
    """
    split, _, batch = Path(path).stem.partition("-")
    return Path(path).parent.name, split, batch
