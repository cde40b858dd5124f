"""`python -m train STAGE`: the stages of the model wing."""

from __future__ import annotations

import sys

from pipeline.cli import File, Stage, main
from train import options

SHARDS = File("shards", "Arrow shards of the corpus", many=True)
VALIDATION = File("validation", "held-out rows to evaluate with, as DOMAIN=PATH", many=True)
BACKBONE = File("backbone", "folder of the backbone")

STAGES = (
    Stage(
        "tokenizer",
        "Train a byte-level BPE tokenizer.",
        "train.tokens:train_tokenizer",
        (
            SHARDS,
            File("urls", "only documents whose URL matches this regular expression", required=False),
            File("output", "folder of the tokenizer"),
        ),
        options.Tokens,
        "tokens",
    ),
    Stage(
        "tokenize",
        "Pack one split of a domain into rows of tokens.",
        "train.tokens:tokenize",
        (
            SHARDS,
            File("tokenizer", "folder of the tokenizer"),
            File("split", "train or validation"),
            File("row_tokens", "tokens of a row that are predicted (T)", kind=int),
            File("output", "Arrow file of rows"),
            File("ledger", "JSON ledger"),
        ),
        options.Domain,
    ),
    Stage(
        "pretrain",
        "Pretrain a small Llama on rows.",
        "train.trainer:pretrain",
        (
            File("rows", "rows to train on"),
            VALIDATION,
            File("tokenizer", "folder of the tokenizer"),
            File("output", "folder of the backbone"),
        ),
        options.Pretrain,
    ),
    Stage(
        "backbone",
        "Fetch a backbone from the hub or a folder, checked and saved as safetensors.",
        "train.backbone:fetch_backbone",
        (
            File("source", "hub id or folder"),
            File("revision", "revision of the hub id", required=False),
            File("output", "folder of the backbone"),
        ),
    ),
    Stage(
        "extend",
        "Extend a backbone to a new domain by one method.",
        "train.trainer:extend",
        (
            BACKBONE,
            File("old_rows", "rows of the old domain, to replay; of several: in about equal shares", many=True),
            File("new_rows", "rows of the new domain"),
            VALIDATION,
            File("output", "folder of the run"),
        ),
        options.Run,
    ),
    Stage(
        "evaluate",
        "Measure a backbone, or a run on it, in bits per byte, and let it write.",
        "train.evaluate:evaluate",
        (
            BACKBONE,
            File("run", "folder of the run; without it the backbone alone", required=False),
            File("rows", "held-out rows, as DOMAIN=PATH", many=True),
            File("output", "JSON of the measures"),
        ),
        options.Evaluate,
        "evaluate",
    ),
    Stage(
        "report",
        "Write the report: one self-contained HTML page.",
        "train.report:write_report",
        (
            File("stats", "statistics of the corpus (card)"),
            File("quality", "reports of quality-train", many=True, required=False),
            BACKBONE,
            File("runs", "run.json of each run", many=True),
            File("evaluations", "evaluations, the backbone's first", many=True),
            File("forgetting", "domain that measures forgetting"),
            File("learning", "domain that measures learning"),
            File("config_file", "the config, to show", required=False),
            File("benchmarks", "folder of Snakemake's benchmark files", required=False),
            File("output", "the HTML page"),
        ),
        options.Report,
        "report",
    ),
    Stage(
        "schema",
        "Write the JSON Schema of a config, for editors.",
        "train.options:write_schema",
        (File("output", "the schema", default="configs/schema.json"),),
    ),
)

if __name__ == "__main__":
    sys.exit(main("train", __doc__ or "", STAGES))
