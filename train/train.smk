# The model wing: shards -> rows -> backbone -> runs -> evaluation -> report. `python -m train STAGE`.
PRETRAIN = OPTIONS.backbone.pretrain
BACKBONE = f"{OUT}/backbone"
TOKENIZER = f"{OUT}/tokenizer" if PRETRAIN else BACKBONE
RUNS = OPTIONS.extend.runs
EVAL_DOMAINS = eval_domains(OPTIONS)
EVAL_ROWS = [f"{OUT}/tokens/{domain}/validation.arrow" for domain in EVAL_DOMAINS]
EVAL_FLAGS = [f"{domain}={path}" for domain, path in zip(EVAL_DOMAINS, EVAL_ROWS)]
# During training only forgetting and learning are measured; the other domains wait for the end.
WATCHED_ROWS, WATCHED_FLAGS = EVAL_ROWS[:2], EVAL_FLAGS[:2]
TRAIN_DOMAINS = list(
    dict.fromkeys([*([PRETRAIN.domain] if PRETRAIN else []), OPTIONS.extend.old, OPTIONS.extend.new])
)
TRAIN_ROWS = [f"{OUT}/tokens/{domain}/train.arrow" for domain in TRAIN_DOMAINS]


wildcard_constraints:
    domain=r"[\w.-]+",
    run=r"[\w.-]+",
    model=r"[\w.-]+",


def domain_shards(domain, split):
    options = OPTIONS.domains[domain]
    found = shards(options.language, split, options.corpus or f"{OUT}/corpus")
    if not found:
        raise WorkflowError(f"domains.{domain}.corpus: no {options.language}/{split}-*.arrow in {options.corpus}")
    return found


def gpus(device):
    """1 where a job will use a GPU, so that the profile's `gpu` limit lets one at a time have it."""
    return int(device == "cuda" or (device == "auto" and shutil.which("nvidia-smi") is not None))


rule tokens:
    localrule: True
    input:
        TRAIN_ROWS,
        EVAL_ROWS,


rule backbone:
    localrule: True
    input:
        BACKBONE,


rule extend:
    localrule: True
    input:
        expand(f"{OUT}/runs/{{run}}/weights.safetensors", run=RUNS),


rule evaluate:
    localrule: True
    input:
        expand(f"{OUT}/evaluate/{{model}}.json", model=["backbone", *RUNS]),


if PRETRAIN:

    rule tokenizer:
        message:
            "Train the tokenizer"
        input:
            domain_shards(OPTIONS.tokens.domain, "train"),
        output:
            directory(f"{OUT}/tokenizer"),
        params:
            options=flags(OPTIONS.tokens),
            urls=f"--urls '{urls}'" if (urls := OPTIONS.domains[OPTIONS.tokens.domain].urls) else "",
            code=fingerprint("train.tokens"),
        log:
            f"{OUT}/logs/tokenizer.log",
        benchmark:
            f"{OUT}/benchmarks/tokenizer.tsv"
        resources:
            mem_mb=4000,
        shell:
            "python -m train tokenizer {params.options} --shards {input} {params.urls} --output {output}"
            " > {log} 2>&1"

    rule pretrain:
        message:
            "Pretrain the backbone"
        input:
            rows=f"{OUT}/tokens/{PRETRAIN.domain}/train.arrow",
            validation=WATCHED_ROWS,
            tokenizer=TOKENIZER,
        output:
            directory(BACKBONE),
        params:
            options=flags(PRETRAIN),
            validation=WATCHED_FLAGS,
            code=fingerprint("train.trainer"),
        log:
            f"{OUT}/logs/pretrain.log",
        benchmark:
            f"{OUT}/benchmarks/pretrain.tsv"
        threads: PRETRAIN.threads
        resources:
            mem_mb=6000,
            gpu=gpus(PRETRAIN.device),
        shell:
            "python -m train pretrain {params.options} --rows {input.rows} --validation {params.validation}"
            " --tokenizer {input.tokenizer} --output {output} > {log} 2>&1"

else:

    rule fetch_backbone:
        message:
            "Fetch the backbone"
        output:
            directory(BACKBONE),
        params:
            source=OPTIONS.backbone.source,
            revision=f"--revision {OPTIONS.backbone.revision}" if OPTIONS.backbone.revision else "",
            code=fingerprint("train.backbone"),
        log:
            f"{OUT}/logs/fetch_backbone.log",
        benchmark:
            f"{OUT}/benchmarks/fetch_backbone.tsv"
        retries: 1
        resources:
            mem_mb=8000,
        shell:
            "python -m train backbone --source {params.source} {params.revision} --output {output} > {log} 2>&1"


rule tokenize:
    message:
        "Pack the {wildcards.split} text of {wildcards.domain} into rows of tokens"
    input:
        shards=lambda wildcards: domain_shards(wildcards.domain, wildcards.split),
        tokenizer=TOKENIZER,
    output:
        rows=f"{OUT}/tokens/{{domain}}/{{split}}.arrow",
        ledger=f"{OUT}/tokens/{{domain}}/{{split}}.ledger.json",
    params:
        options=lambda wildcards: flags(OPTIONS.domains[wildcards.domain]),
        row_tokens=OPTIONS.tokens.row_tokens,
        code=fingerprint("train.tokens"),
    log:
        f"{OUT}/logs/tokenize/{{domain}}.{{split}}.log",
    benchmark:
        f"{OUT}/benchmarks/tokenize/{{domain}}.{{split}}.tsv"
    resources:
        mem_mb=2000,
    shell:
        "python -m train tokenize {params.options} --shards {input.shards} --tokenizer {input.tokenizer}"
        " --split {wildcards.split} --row-tokens {params.row_tokens} --output {output.rows}"
        " --ledger {output.ledger} > {log} 2>&1"


rule extend_run:
    message:
        "Extend the backbone: {wildcards.run}"
    input:
        backbone=BACKBONE,
        old=f"{OUT}/tokens/{OPTIONS.extend.old}/train.arrow",
        new=f"{OUT}/tokens/{OPTIONS.extend.new}/train.arrow",
        validation=EVAL_ROWS,
    output:
        weights=f"{OUT}/runs/{{run}}/weights.safetensors",
        run=f"{OUT}/runs/{{run}}/run.json",
        metrics=f"{OUT}/runs/{{run}}/metrics.jsonl",
    params:
        options=lambda wildcards: flags(RUNS[wildcards.run]),
        validation=EVAL_FLAGS,
        folder=lambda wildcards: f"{OUT}/runs/{wildcards.run}",
        code=fingerprint("train.trainer"),
    log:
        f"{OUT}/logs/extend/{{run}}.log",
    benchmark:
        f"{OUT}/benchmarks/extend/{{run}}.tsv"
    threads: lambda wildcards: RUNS[wildcards.run].threads
    resources:
        mem_mb=6000,
        gpu=lambda wildcards: gpus(RUNS[wildcards.run].device),
    shell:
        "python -m train extend {params.options} --backbone {input.backbone} --old-rows {input.old}"
        " --new-rows {input.new} --validation {params.validation} --output {params.folder} > {log} 2>&1"


def run_files(wildcards):
    """What a model is made of, beside the backbone."""
    return [] if wildcards.model == "backbone" else f"{OUT}/runs/{wildcards.model}/weights.safetensors"


rule evaluate_model:
    message:
        "Evaluate {wildcards.model}"
    input:
        backbone=BACKBONE,
        run=run_files,
        rows=EVAL_ROWS,
    output:
        f"{OUT}/evaluate/{{model}}.json",
    params:
        options=flags(OPTIONS.evaluate),
        run=lambda wildcards: "" if wildcards.model == "backbone" else f"--run {OUT}/runs/{wildcards.model}",
        rows=EVAL_FLAGS,
        code=fingerprint("train.evaluate"),
    log:
        f"{OUT}/logs/evaluate/{{model}}.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate/{{model}}.tsv"
    threads: OPTIONS.evaluate.threads
    resources:
        mem_mb=4000,
        gpu=gpus(OPTIONS.evaluate.device),
    shell:
        "python -m train evaluate {params.options} --backbone {input.backbone} {params.run}"
        " --rows {params.rows} --output {output} > {log} 2>&1"


rule report:
    message:
        "Write the report"
    input:
        stats=f"{OUT}/corpus/stats.json",
        quality=expand(f"{OUT}/quality/{{language}}.json", language=FILTERED),
        backbone=BACKBONE,
        runs=expand(f"{OUT}/runs/{{run}}/run.json", run=RUNS),
        metrics=expand(f"{OUT}/runs/{{run}}/metrics.jsonl", run=RUNS),
        evaluations=expand(f"{OUT}/evaluate/{{model}}.json", model=["backbone", *RUNS]),
    output:
        report(f"{OUT}/report.html", category="Report"),
    params:
        options=flags(OPTIONS.report),
        folder=OUT,
        forgetting=OPTIONS.evaluate.forgetting,
        learning=OPTIONS.evaluate.learning,
        config=lambda wildcards: workflow.configfiles[-1] if workflow.configfiles else "",
        quality=lambda wildcards, input: f"--quality {' '.join(input.quality)}" if input.quality else "",
        code=fingerprint("train.report"),
    log:
        f"{OUT}/logs/report.log",
    benchmark:
        f"{OUT}/benchmarks/report.tsv"
    shell:
        "python -m train report {params.options} --stats {input.stats} {params.quality}"
        " --backbone {input.backbone} --runs {input.runs} --evaluations {input.evaluations}"
        " --forgetting {params.forgetting} --learning {params.learning} --config-file {params.config}"
        " --benchmarks {params.folder}/benchmarks --output {output} > {log} 2>&1"
