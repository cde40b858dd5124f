# The model wing: shards -> rows -> backbone -> runs -> evaluation -> report. `python -m train STAGE`.
from pipeline.common.cli import list_argument
from pipeline.common.config import NAME
from train.runs.options import new_domain, old_domains
from train.paper.plan import plan, with_runs
from train.tasks.options import BOUNDS
from train.tasks.task import task_path
from train.trainer.decisive import other_options, stops_early
from train.workflow import (
    backbone_folder,
    domain_shards,
    evaluate_options,
    gpus,
    held_out_urls,
    other_shards,
    processors,
    run_folder,
    stage_options,
    task_languages,
    task_options,
)

PRETRAIN, SETTLE = OPTIONS.backbone.pretrain, OPTIONS.backbone.settle
BACKBONE = OUT.backbone
# The same but where it is settled.
SOURCE = OUT.source if SETTLE else BACKBONE
TOKENIZER = OUT.tokenizer if PRETRAIN else SOURCE
RUNS = OPTIONS.extend.runs
MODELS = [*(["source"] if SETTLE else []), "backbone", *RUNS]
GRID = relpath(Path(workflow.basedir, "configs/paper/grid.yaml"))
PAPER = plan(OPTIONS, GRID)
# The config's runs, and those of the paper's tables (paper.smk): trained and evaluated by the same rules.
TRAINED = with_runs(OPTIONS, PAPER)
EVAL_DOMAINS = eval_domains(OPTIONS)
EVAL_ROWS = [OUT.rows(domain, "validation") for domain in EVAL_DOMAINS]
EVAL_FLAGS = [f"{domain}={path}" for domain, path in zip(EVAL_DOMAINS, EVAL_ROWS)]
# In pretraining only forgetting and learning are measured; the other domains wait for the end.
WATCHED_ROWS, WATCHED_FLAGS = (
    (EVAL_ROWS, EVAL_FLAGS) if SETTLE else (EVAL_ROWS[:2], EVAL_FLAGS[:2])
)
TRAIN_DOMAINS = list(
    dict.fromkeys(
        [
            *(training.domain for training in (PRETRAIN, SETTLE) if training),
            OPTIONS.extend.old,
            *(new_domain(OPTIONS.extend, run) for run in RUNS),
        ]
    )
)
TASK_SCORES = (
    expand(OUT.task_scores("{model}"), model=MODELS) if OPTIONS.evaluate.tasks else []
)
TRAIN_ROWS = [OUT.rows(domain, "train") for domain in TRAIN_DOMAINS]


wildcard_constraints:
    domain=NAME,
    run=NAME,
    model=NAME,


rule tokens:
    input:
        TRAIN_ROWS,
        EVAL_ROWS,
    localrule: True


rule backbone:
    input:
        BACKBONE,
    localrule: True


rule extend:
    input:
        expand(OUT.weights("{run}"), run=RUNS),
    localrule: True


rule export:
    input:
        expand(OUT.export("{run}"), run=RUNS),
    localrule: True


rule evaluate:
    input:
        expand(OUT.evaluation("{model}"), model=MODELS),
        TASK_SCORES,
    localrule: True


if PRETRAIN:

    rule tokenizer:
        input:
            domain_shards(OPTIONS, BATCHES, OPTIONS.tokens.domain, "train"),
        output:
            directory(OUT.tokenizer),
        log:
            OUT.log("tokenizer"),
        benchmark:
            OUT.benchmark("tokenizer")
        resources:
            mem_mb=4000,
        params:
            options=exactly(flags(OPTIONS.tokens)),
            urls=exactly(OPTIONS.domains[OPTIONS.tokens.domain].urls or ""),
            without=held_out_urls(OPTIONS, OPTIONS.tokens.domain),
            code=fingerprint("train.data.tokens:train_tokenizer"),
        message:
            "Train the tokenizer"
        shell:
            f"python -m train tokenizer {{params.options:q}} --shards {list_argument('input')}"
            f" --urls={{params.urls:q}} --without {list_argument('params.without')}"
            " --output={output:q} > {log:q} 2>&1"

    rule pretrain:
        input:
            rows=OUT.rows(PRETRAIN.domain, "train"),
            watched=ancient(OUT.watched("backbone")),
            # Unless it ends where they stop improving.
            decisive=WATCHED_ROWS if stops_early(PRETRAIN) else [],
            tokenizer=TOKENIZER,
        output:
            directory(BACKBONE),
        log:
            OUT.log("pretrain"),
        benchmark:
            OUT.benchmark("pretrain")
        threads: processors(PRETRAIN)
        resources:
            mem_mb=6000 * PRETRAIN.gpus,
            gpu=gpus(PRETRAIN.device, PRETRAIN.gpus),
        params:
            options=exactly(flags(PRETRAIN, without=other_options(PRETRAIN))),
            # Such functions of `threads` Snakemake does not record: a change of these trains nothing again.
            others=lambda wildcards, threads: flags(
                PRETRAIN, only=other_options(PRETRAIN)
            ),
            code=fingerprint("train.trainer.stages:pretrain"),
        message:
            "Pretrain the backbone"
        shell:
            "python -m train pretrain {params.options:q} {params.others:q} --rows={input.rows:q}"
            " --validation=@{input.watched:q} --tokenizer={input.tokenizer:q} --output={output:q}"
            " > {log:q} 2>&1"

else:

    rule fetch_backbone:
        output:
            directory(SOURCE),
        log:
            OUT.log("fetch_backbone"),
        benchmark:
            OUT.benchmark("fetch_backbone")
        resources:
            mem_mb=8000,
        params:
            source=exactly(OPTIONS.backbone.source),
            revision=exactly(OPTIONS.backbone.revision or ""),
            code=fingerprint("train.runs.backbone:fetch_backbone"),
        message:
            "Fetch the backbone"
        shell:
            "python -m train backbone --source={params.source:q} --revision={params.revision:q}"
            " --output={output:q} > {log:q} 2>&1"


if SETTLE:

    rule settle:
        input:
            backbone=SOURCE,
            rows=OUT.rows(SETTLE.domain, "train"),
            watched=ancient(OUT.watched("backbone")),
            decisive=WATCHED_ROWS if stops_early(SETTLE) else [],
        output:
            directory(BACKBONE),
        log:
            OUT.log("settle"),
        benchmark:
            OUT.benchmark("settle")
        threads: processors(SETTLE)
        resources:
            mem_mb=6000 * SETTLE.gpus,
            gpu=gpus(SETTLE.device, SETTLE.gpus),
        params:
            options=exactly(flags(SETTLE, without=other_options(SETTLE))),
            # As of `pretrain`: not recorded.
            others=lambda wildcards, threads: flags(SETTLE, only=other_options(SETTLE)),
            code=fingerprint("train.trainer.stages:settle"),
        message:
            "Settle the backbone"
        shell:
            "python -m train settle {params.options:q} {params.others:q} --backbone={input.backbone:q}"
            " --rows={input.rows:q} --validation=@{input.watched:q} --output={output:q} > {log:q} 2>&1"


# What is measured during a training decides nothing about its weights, and so makes none of it again.
rule watched:
    input:
        EVAL_ROWS,
    output:
        backbone=OUT.watched("backbone"),
        runs=OUT.watched("runs"),
    log:
        OUT.log("watched"),
    localrule: True
    params:
        backbone=exactly(WATCHED_FLAGS),
        runs=exactly(EVAL_FLAGS),
    shell:
        "(printf '%s\\0' {params.backbone:q} > {output.backbone:q}"
        " && printf '%s\\0' {params.runs:q} > {output.runs:q}) 2> {log:q}"


rule tokenize:
    input:
        shards=lambda wildcards: domain_shards(
            OPTIONS, BATCHES, wildcards.domain, wildcards.split
        ),
        others=lambda wildcards: other_shards(
            OPTIONS, BATCHES, wildcards.domain, wildcards.split
        ),
        # Nothing of it is read: it is made only where there is something of the languages.
        languages=lambda wildcards: (
            [] if OPTIONS.domains[wildcards.domain].corpus else ancient(OUT.languages)
        ),
        tokenizer=TOKENIZER,
    output:
        rows=OUT.rows("{domain}", "{split}"),
        ledger=OUT.ledger(OUT.rows("{domain}", "{split}")),
    log:
        OUT.log("tokenize/{domain}.{split}"),
    benchmark:
        OUT.benchmark("tokenize/{domain}.{split}")
    resources:
        mem_mb=2000,
    params:
        options=lambda wildcards: flags(OPTIONS.domains[wildcards.domain]),
        without=lambda wildcards: held_out_urls(OPTIONS, wildcards.domain),
        row_tokens=OPTIONS.tokens.row_tokens,
        code=fingerprint("train.data.tokens:tokenize"),
    message:
        "Pack the {wildcards.split} text of {wildcards.domain} into rows of tokens"
    shell:
        f"python -m train tokenize {{params.options:q}} --shards {list_argument('input.shards')}"
        f" --other-shards {list_argument('input.others')}"
        f" --without {list_argument('params.without')} --tokenizer={{input.tokenizer:q}}"
        " --split={wildcards.split:q} --row-tokens={params.row_tokens:q} --output={output.rows:q}"
        " --ledger={output.ledger:q} > {log:q} 2>&1"


rule extend_run:
    input:
        backbone=BACKBONE,
        old=lambda wildcards: [
            OUT.rows(domain, "train")
            for domain in old_domains(TRAINED.extend, wildcards.run)
        ],
        new=lambda wildcards: OUT.rows(
            new_domain(TRAINED.extend, wildcards.run), "train"
        ),
        base=lambda wildcards: (
            OUT.weights(TRAINED.extend.runs[wildcards.run].base)
            if TRAINED.extend.runs[wildcards.run].base
            else []
        ),
        watched=ancient(OUT.watched("runs")),
    output:
        weights=OUT.weights("{run}"),
        run=OUT.run_record("{run}"),
        metrics=OUT.metrics("{run}"),
    log:
        OUT.log("extend/{run}"),
    benchmark:
        OUT.benchmark("extend/{run}")
    threads: lambda wildcards: processors(TRAINED.extend.runs[wildcards.run])
    resources:
        mem_mb=lambda wildcards: 6000 * TRAINED.extend.runs[wildcards.run].gpus,
        gpu=lambda wildcards: gpus(
            (run := TRAINED.extend.runs[wildcards.run]).device, run.gpus
        ),
    params:
        options=lambda wildcards: flags(
            run := stage_options(TRAINED, wildcards.run), without=other_options(run)
        ),
        # As of `pretrain`: not recorded.
        others=lambda wildcards, threads: flags(
            run := stage_options(TRAINED, wildcards.run), only=other_options(run)
        ),
        folder=lambda wildcards, output: Path(output.run).parent,
        code=fingerprint("train.trainer.stages:extend"),
    message:
        "Extend the backbone: {wildcards.run}"
    shell:
        "python -m train extend {params.options:q} {params.others:q} --backbone={input.backbone:q}"
        f" --old-rows {list_argument('input.old')}"
        " --new-rows={input.new:q} --validation=@{input.watched:q} --output={params.folder:q} > {log:q} 2>&1"


rule evaluate_model:
    input:
        backbone=lambda wildcards: backbone_folder(OUT, wildcards.model),
        run=lambda wildcards: (
            OUT.weights(wildcards.model) if run_folder(OUT, wildcards.model) else []
        ),
        rows=EVAL_ROWS,
    output:
        measures=OUT.evaluation("{model}"),
        # Not in the measures, which have the same bytes every time.
        speed=OUT.speed("{model}"),
    log:
        OUT.log("evaluate/{model}"),
    benchmark:
        OUT.benchmark("evaluate/{model}")
    threads: OPTIONS.evaluate.threads
    resources:
        mem_mb=4000,
        gpu=gpus(OPTIONS.evaluate.device),
    params:
        options=exactly(flags(evaluate_options(OPTIONS.evaluate), without=BOUNDS)),
        run=lambda wildcards: run_folder(OUT, wildcards.model),
        rows=exactly(EVAL_FLAGS),
        code=fingerprint("train.evaluation.evaluate:evaluate"),
    message:
        "Evaluate {wildcards.model}"
    shell:
        "python -m train evaluate {params.options:q} --backbone={input.backbone:q} --run={params.run:q}"
        f" --rows {list_argument('params.rows')}"
        " --output={output.measures:q} --speed={output.speed:q} > {log:q} 2>&1"


rule tasks_model:
    input:
        backbone=lambda wildcards: backbone_folder(OUT, wildcards.model),
        run=lambda wildcards: (
            OUT.weights(wildcards.model) if run_folder(OUT, wildcards.model) else []
        ),
        tasks=[relpath(task_path(name)) for name in OPTIONS.evaluate.tasks],
    output:
        OUT.task_scores("{model}"),
    log:
        OUT.log("tasks/{model}"),
    benchmark:
        OUT.benchmark("tasks/{model}")
    threads: OPTIONS.evaluate.threads
    resources:
        mem_mb=6000,
        gpu=gpus(OPTIONS.evaluate.device),
    params:
        options=exactly(flags(task_options(OPTIONS.evaluate), without=BOUNDS)),
        # Not recorded: other bounds ask nothing again.
        others=lambda wildcards, threads: flags(
            task_options(OPTIONS.evaluate), only=BOUNDS
        ),
        run=lambda wildcards: run_folder(OUT, wildcards.model),
        code=fingerprint("train.tasks.accuracy:measure_tasks"),
    message:
        "Ask {wildcards.model} the tasks"
    shell:
        "python -m train tasks {params.options:q} {params.others:q} --backbone={input.backbone:q}"
        " --run={params.run:q} --output={output:q} > {log:q} 2>&1"


rule export_run:
    input:
        backbone=BACKBONE,
        run=OUT.weights("{run}"),
        evaluations=[
            OUT.evaluation("backbone"),
            OUT.evaluation("{run}"),
        ],
    output:
        directory(OUT.export("{run}")),
    log:
        OUT.log("export/{run}"),
    benchmark:
        OUT.benchmark("export/{run}")
    resources:
        mem_mb=8000,
    params:
        folder=lambda wildcards, input: Path(input.run).parent,
        options=exactly(flags(OPTIONS.export, without=("runs",))),
        threshold=OPTIONS.evaluate.gate_threshold,
        code=fingerprint("train.sharing.export:export_run"),
    message:
        "Export {wildcards.run} for transformers"
    shell:
        "python -m train export {params.options:q} --run={params.folder:q} --backbone={input.backbone:q}"
        f" --evaluations {list_argument('input.evaluations')}"
        " --gate-threshold={params.threshold:q} --output={output:q} > {log:q} 2>&1"


rule report:
    input:
        stats=OUT.stats,
        quality=expand(OUT.quality_report("{language}"), language=FILTERED),
        backbone=BACKBONE,
        runs=expand(OUT.run_record("{run}"), run=RUNS),
        metrics=expand(OUT.metrics("{run}"), run=RUNS),
        evaluations=expand(OUT.evaluation("{model}"), model=MODELS),
        speeds=expand(OUT.speed("{run}"), run=RUNS),
        tasks=TASK_SCORES,
        ledgers=[OUT.ledger(rows) for rows in [*TRAIN_ROWS, *EVAL_ROWS]],
    output:
        page=report(
            OUT.report,
            caption="report/captions/page.rst",
            category="Results",
            labels={"what": "the whole report"},
        ),
        figure=report(
            OUT.figure,
            caption="report/captions/figure1.rst",
            category="Results",
            labels={"what": "learning against forgetting"},
        ),
        table=report(
            OUT.results,
            caption="report/captions/results.rst",
            category="Results",
            labels={"what": "table of results"},
        ),
    log:
        OUT.log("report"),
    benchmark:
        OUT.benchmark("report")
    params:
        options=exactly(flags(OPTIONS.report)),
        folder=lambda wildcards, output: Path(output.page).parent,
        runs=list(RUNS),
        quality=FILTERED,
        tasks=exactly(OPTIONS.evaluate.tasks),
        forgetting=OPTIONS.evaluate.forgetting,
        learning=OPTIONS.evaluate.learning,
        control=OPTIONS.evaluate.control or "",
        new=OPTIONS.extend.new,
        configs=exactly(CONFIG_FILES),
        domains=exactly(
            [
                f"{domain}={OPTIONS.domains[domain].language}"
                for domain in dict.fromkeys([*TRAIN_DOMAINS, *EVAL_DOMAINS])
            ]
        ),
        code=fingerprint("train.report.report:write_report"),
    message:
        "Write the report"
    shell:
        "python -m train report {params.options:q} --folder={params.folder:q}"
        f" --runs {list_argument('params.runs')} --quality {list_argument('params.quality')}"
        f" --tasks {list_argument('params.tasks')} --config-files {list_argument('params.configs')}"
        f" --domains {list_argument('params.domains')}"
        " --forgetting={params.forgetting:q} --learning={params.learning:q} --control={params.control:q}"
        " --new={params.new:q} > {log:q} 2>&1"
