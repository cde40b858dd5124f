# The corpus wing: WARC files -> pages -> documents -> shards. Every rule calls `python -m pipeline STAGE`.
from pipeline.manifest import batches
from pipeline.shards import SPLITS, shard_path

BATCHES = batches(WARCS, OPTIONS.crawl.warcs_per_job)
LANGUAGES = OPTIONS.extract.languages
FILTERED = sorted({*OPTIONS.quality.positives, *OPTIONS.quality.models})
LANGUAGE_MODEL = OPTIONS.extract.language_model or f"{OPTIONS.sample.downloads}/lid.176.ftz"
SCHEDULER = f"--scheduler {OPTIONS.engine.scheduler}" if OPTIONS.engine.scheduler else ""


wildcard_constraints:
    batch=r"\d{5}",
    language=r"[\w-]+",
    split="train|validation",


def shards(language, split, corpus=f"{OUT}/corpus"):
    """The shards of one language and split: this workflow's, or those found in another corpus."""
    if corpus == f"{OUT}/corpus":
        return [str(shard_path(corpus, language, split, batch)) for batch in BATCHES]
    return sorted(str(p) for p in Path(corpus, language).glob(f"{split}-*.arrow"))


rule corpus:
    localrule: True
    input:
        f"{OUT}/corpus/README.md",
        f"{OUT}/corpus/stats.json",


if not OPTIONS.crawl.warcs:

    rule sample_crawl:
        message:
            "Fetch real web pages and write them as WARC files"
        output:
            WARCS,
        params:
            options=flags(OPTIONS.sample),
            code=fingerprint("pipeline.sample"),
        log:
            f"{OUT}/logs/sample_crawl.log",
        benchmark:
            f"{OUT}/benchmarks/sample_crawl.tsv"
        retries: 1
        resources:
            mem_mb=2000,
        shell:
            "python -m pipeline sample {params.options} --output {output} > {log} 2>&1"


if not OPTIONS.extract.language_model:

    rule language_model:
        message:
            "Fetch the language identification model"
        output:
            LANGUAGE_MODEL,
        params:
            downloads=OPTIONS.sample.downloads,
        log:
            f"{OUT}/logs/language_model.log",
        benchmark:
            f"{OUT}/benchmarks/language_model.tsv"
        retries: 1
        shell:
            "python -m pipeline language-model --downloads {params.downloads} --output {output} > {log} 2>&1"


rule extract:
    message:
        "Extract the text of batch {wildcards.batch} and identify its languages"
    input:
        warcs=lambda wildcards: BATCHES[wildcards.batch],
        language_id=LANGUAGE_MODEL,
    output:
        pages=f"{OUT}/pages/{{batch}}.arrow",
        ledger=f"{OUT}/pages/{{batch}}.ledger.json",
    params:
        options=flags(OPTIONS.extract),
        scheduler=SCHEDULER,
        code=fingerprint("pipeline.extract"),
    log:
        f"{OUT}/logs/extract/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/extract/{{batch}}.tsv"
    threads: min(OPTIONS.engine.workers, OPTIONS.crawl.warcs_per_job)
    resources:
        mem_mb=4000,
    shell:
        "python -m pipeline extract {params.options} --warcs {input.warcs} --language-id {input.language_id}"
        " --output {output.pages} --ledger {output.ledger} --workers {threads} {params.scheduler} > {log} 2>&1"


rule dedup_hash:
    message:
        "Hash the paragraphs of batch {wildcards.batch}"
    input:
        f"{OUT}/pages/{{batch}}.arrow",
    output:
        f"{OUT}/hashes/{{batch}}.npy",
    params:
        options=flags(OPTIONS.dedup),
        code=fingerprint("pipeline.dedup"),
    log:
        f"{OUT}/logs/dedup_hash/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/dedup_hash/{{batch}}.tsv"
    shell:
        "python -m pipeline dedup-hash {params.options} --pages {input} --output {output} > {log} 2>&1"


rule dedup_reduce:
    message:
        "Find the duplicate paragraphs of the whole crawl"
    input:
        expand(f"{OUT}/hashes/{{batch}}.npy", batch=BATCHES),
    output:
        f"{OUT}/hashes/duplicates.npy",
    params:
        options=flags(OPTIONS.dedup),
        scheduler=SCHEDULER,
        code=fingerprint("pipeline.dedup"),
    log:
        f"{OUT}/logs/dedup_reduce.log",
    benchmark:
        f"{OUT}/benchmarks/dedup_reduce.tsv"
    threads: OPTIONS.engine.workers
    resources:
        mem_mb=4000,
    shell:
        "python -m pipeline dedup-reduce {params.options} --hashes {input} --output {output}"
        " --workers {threads} {params.scheduler} > {log} 2>&1"


rule dedup_apply:
    message:
        "Write the documents of batch {wildcards.batch} without duplicate paragraphs"
    input:
        pages=f"{OUT}/pages/{{batch}}.arrow",
        duplicates=f"{OUT}/hashes/duplicates.npy",
    output:
        documents=f"{OUT}/documents/{{batch}}.arrow",
        ledger=f"{OUT}/documents/{{batch}}.ledger.json",
    params:
        options=flags(OPTIONS.dedup),
        position=lambda wildcards: int(wildcards.batch),
        code=fingerprint("pipeline.dedup"),
    log:
        f"{OUT}/logs/dedup_apply/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/dedup_apply/{{batch}}.tsv"
    shell:
        "python -m pipeline dedup-apply {params.options} --pages {input.pages} --duplicates {input.duplicates}"
        " --position {params.position} --output {output.documents} --ledger {output.ledger} > {log} 2>&1"


rule quality_train:
    message:
        "Train the quality classifier of {wildcards.language}"
    input:
        expand(f"{OUT}/documents/{{batch}}.arrow", batch=BATCHES),
    output:
        model=f"{OUT}/quality/{{language}}.bin",
        report=f"{OUT}/quality/{{language}}.json",
    params:
        options=flags(OPTIONS.quality),
        code=fingerprint("pipeline.quality"),
    log:
        f"{OUT}/logs/quality_train/{{language}}.log",
    benchmark:
        f"{OUT}/benchmarks/quality_train/{{language}}.tsv"
    resources:
        mem_mb=4000,
    shell:
        "python -m pipeline quality-train {params.options} --documents {input} --language {wildcards.language}"
        " --output {output.model} --report {output.report} > {log} 2>&1"


rule shards:
    message:
        "Filter batch {wildcards.batch} by quality and write its shards"
    input:
        documents=f"{OUT}/documents/{{batch}}.arrow",
        quality=expand(f"{OUT}/quality/{{language}}.json", language=FILTERED),
        models=expand(f"{OUT}/quality/{{language}}.bin", language=FILTERED),
    output:
        shards=[shard_path(f"{OUT}/corpus", la, sp, "{batch}") for la in LANGUAGES for sp in SPLITS],
        ledger=f"{OUT}/corpus/.ledgers/{{batch}}.json",
    params:
        options=flags(OPTIONS.shards),
        corpus=f"{OUT}/corpus",
        languages=LANGUAGES,
        quality=lambda wildcards, input: f"--quality {' '.join(input.quality)}" if input.quality else "",
        code=fingerprint("pipeline.shards"),
    log:
        f"{OUT}/logs/shards/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/shards/{{batch}}.tsv"
    shell:
        "python -m pipeline shards {params.options} --documents {input.documents} {params.quality}"
        " --languages {params.languages} --name {wildcards.batch} --output {params.corpus}"
        " --ledger {output.ledger} > {log} 2>&1"


rule card:
    message:
        "Write the dataset card and the statistics of the corpus"
    input:
        shards=[path for la in LANGUAGES for sp in SPLITS for path in shards(la, sp)],
        ledgers=[
            *expand(f"{OUT}/pages/{{batch}}.ledger.json", batch=BATCHES),
            *expand(f"{OUT}/documents/{{batch}}.ledger.json", batch=BATCHES),
            *expand(f"{OUT}/corpus/.ledgers/{{batch}}.json", batch=BATCHES),
        ],
    output:
        card=f"{OUT}/corpus/README.md",
        stats=f"{OUT}/corpus/stats.json",
    params:
        code=fingerprint("pipeline.card"),
    log:
        f"{OUT}/logs/card.log",
    benchmark:
        f"{OUT}/benchmarks/card.tsv"
    shell:
        "python -m pipeline card --shards {input.shards} --ledgers {input.ledgers}"
        " --card {output.card} --stats {output.stats} > {log} 2>&1"
