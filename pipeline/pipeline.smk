# The corpus wing: WARC files -> pages -> documents -> shards. Every rule calls `python -m pipeline STAGE`.
# A job that reads a file of each batch gets their names through `@<(printf …)`: printf is a builtin of bash, so that
# no number of names is too long for it.
from pipeline.corpus.shards import SPLITS, shard_path

LANGUAGES = OPTIONS.extract.languages
FILTERED = sorted({*OPTIONS.quality.positives, *OPTIONS.quality.models})
LANGUAGE_MODEL = (
    OPTIONS.extract.language_model or f"{OPTIONS.sample.downloads}/lid.176.ftz"
)
SCHEDULER = (
    f"--scheduler {OPTIONS.engine.scheduler}" if OPTIONS.engine.scheduler else ""
)


wildcard_constraints:
    batch=r"\d{5}",
    language=r"[\w-]+",
    split="train|validation",


include: "crawl/crawl.smk"


rule corpus:
    input:
        f"{OUT}/corpus/README.md",
        f"{OUT}/corpus/stats.json",
    localrule: True


if not OPTIONS.extract.language_model:

    rule language_model:
        output:
            LANGUAGE_MODEL,
        log:
            f"{OUT}/logs/language_model.log",
        benchmark:
            f"{OUT}/benchmarks/language_model.tsv"
        retries: 1
        params:
            downloads=lambda wildcards, output: Path(output[0]).parent,
        message:
            "Fetch the language identification model"
        shell:
            "python -m pipeline language-model --downloads {params.downloads} --output {output} > {log} 2>&1"


rule extract:
    input:
        warcs=lambda wildcards: local_files(
            OUT, wildcards.batch, BATCHES[wildcards.batch]
        ),
        language_id=LANGUAGE_MODEL,
    output:
        pages=f"{OUT}/pages/{{batch}}.json",
        ledger=f"{OUT}/pages/{{batch}}.ledger.json",
    log:
        f"{OUT}/logs/extract/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/extract/{{batch}}.tsv"
    # Before the next batch is fetched, so that few batches lie on the disk at once.
    priority: 1
    threads: lambda wildcards: min(OPTIONS.engine.workers, len(BATCHES[wildcards.batch]))
    resources:
        mem_mb=4000,
    params:
        options=flags(OPTIONS.extract),
        scheduler=SCHEDULER,
        code=fingerprint("pipeline.extract.webpages"),
    message:
        "Extract the text of batch {wildcards.batch} and identify its languages"
    shell:
        "python -m pipeline extract {params.options} --warcs @<(printf '%s\\n' {input.warcs:q})"
        " --language-id {input.language_id} --output {output.pages} --ledger {output.ledger}"
        " --workers {threads} {params.scheduler} > {log} 2>&1"


rule dedup_hash:
    input:
        f"{OUT}/pages/{{batch}}.json",
    output:
        f"{OUT}/hashes/{{batch}}.arrow",
    log:
        f"{OUT}/logs/dedup_hash/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/dedup_hash/{{batch}}.tsv"
    params:
        # Not `min_chars`: it changes neither the hashes nor what is a duplicate.
        options=f"--normalize {OPTIONS.dedup.normalize}",
        code=fingerprint("pipeline.corpus.dedup"),
    message:
        "Hash the paragraphs of batch {wildcards.batch}"
    shell:
        "python -m pipeline dedup-hash {params.options} --pages {input} --output {output} > {log} 2>&1"


rule dedup_reduce:
    input:
        hashes=expand(f"{OUT}/hashes/{{batch}}.arrow", batch=BATCHES),
        against=OPTIONS.dedup.against,
    output:
        duplicates=expand(f"{OUT}/duplicates/{{batch}}.arrow", batch=BATCHES),
        index=f"{OUT}/hashes/index.arrow",
    log:
        f"{OUT}/logs/dedup_reduce.log",
    benchmark:
        f"{OUT}/benchmarks/dedup_reduce.tsv"
    threads: OPTIONS.engine.workers
    resources:
        mem_mb=4000,
    params:
        options=f"--normalize {OPTIONS.dedup.normalize}",
        folder=lambda wildcards, output: Path(output.duplicates[0]).parent,
        scheduler=SCHEDULER,
        code=fingerprint("pipeline.corpus.dedup"),
    message:
        "Find the duplicate paragraphs of the whole crawl"
    shell:
        "python -m pipeline dedup-reduce {params.options} --against {input.against}"
        " --hashes @<(printf '%s\\n' {input.hashes:q})"
        " --output {params.folder} --index {output.index} --workers {threads} {params.scheduler} > {log} 2>&1"


# A checkpoint, since Snakemake decides again after it: what the reduce wrote with the same bytes as before, as it
# does for all earlier batches when WARCs are added, reruns nothing (up to `max-checksum-file-size`). It has one
# output, since Snakemake goes through all of them for each batch.
checkpoint dedup_reduced:
    input:
        f"{OUT}/hashes/index.arrow",
    output:
        touch(f"{OUT}/hashes/.reduced"),
    localrule: True


rule dedup_apply:
    input:
        pages=f"{OUT}/pages/{{batch}}.json",
        # Not before the checkpoint, which raises until it has been passed.
        duplicates=lambda wildcards: (
            checkpoints.dedup_reduced.get(),
            f"{OUT}/duplicates/{wildcards.batch}.arrow",
        )[1],
    output:
        documents=f"{OUT}/documents/{{batch}}.arrow",
        ledger=f"{OUT}/documents/{{batch}}.ledger.json",
    log:
        f"{OUT}/logs/dedup_apply/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/dedup_apply/{{batch}}.tsv"
    params:
        options=flags(OPTIONS.dedup),
        code=fingerprint("pipeline.corpus.dedup"),
    message:
        "Write the documents of batch {wildcards.batch} without duplicate paragraphs"
    shell:
        "python -m pipeline dedup-apply {params.options} --pages {input.pages} --duplicates {input.duplicates}"
        " --output {output.documents} --ledger {output.ledger} > {log} 2>&1"


# The folder with the documents of the stage before; a stage that is on puts its own in its place.
DOCUMENTS = f"{OUT}/documents"
LEDGERS = [f"{OUT}/pages", DOCUMENTS]
SETS = OPTIONS.filter.decontaminate.sets
CONTAMINATED = [f"{OUT}/filtered/sets.npy"] if SETS else []


if SETS:

    rule decontaminate_index:
        input:
            SETS.values(),
        output:
            index=CONTAMINATED,
            report=f"{OUT}/filtered/sets.json",
        log:
            f"{OUT}/logs/decontaminate_index.log",
        benchmark:
            f"{OUT}/benchmarks/decontaminate_index.tsv"
        params:
            options=flags(OPTIONS.filter.decontaminate),
            code=fingerprint("pipeline.corpus.decontaminate"),
        message:
            "Collect the n-grams of the evaluation sets"
        shell:
            "python -m pipeline decontaminate-index {params.options} --output {output.index}"
            " --report {output.report} > {log} 2>&1"


if OPTIONS.filter.active:

    rule filter:
        input:
            documents=f"{DOCUMENTS}/{{batch}}.arrow",
            contaminated=CONTAMINATED,
        output:
            documents=f"{OUT}/filtered/{{batch}}.arrow",
            ledger=f"{OUT}/filtered/{{batch}}.ledger.json",
        log:
            f"{OUT}/logs/filter/{{batch}}.log",
        benchmark:
            f"{OUT}/benchmarks/filter/{{batch}}.tsv"
        params:
            options=flags(OPTIONS.filter),
            contaminated=f"--contaminated {CONTAMINATED[0]}" if SETS else "",
            code=fingerprint("pipeline.corpus.filters"),
        message:
            "Drop the documents of batch {wildcards.batch} that break a rule"
        shell:
            "python -m pipeline filter {params.options} --documents {input.documents} {params.contaminated}"
            " --output {output.documents} --ledger {output.ledger} > {log} 2>&1"

    DOCUMENTS = f"{OUT}/filtered"
    LEDGERS.append(DOCUMENTS)


if OPTIONS.near.enabled:

    rule near_hash:
        input:
            f"{DOCUMENTS}/{{batch}}.arrow",
        output:
            f"{OUT}/near/{{batch}}.npy",
        log:
            f"{OUT}/logs/near_hash/{{batch}}.log",
        benchmark:
            f"{OUT}/benchmarks/near_hash/{{batch}}.tsv"
        params:
            options=flags(OPTIONS.near),
            code=fingerprint("pipeline.corpus.near"),
        message:
            "Compute the MinHash signatures of batch {wildcards.batch}"
        shell:
            "python -m pipeline near-hash {params.options} --documents {input} --output {output} > {log} 2>&1"

    rule near_reduce:
        input:
            signatures=expand(f"{OUT}/near/{{batch}}.npy", batch=BATCHES),
            documents=expand(f"{DOCUMENTS}/{{batch}}.arrow", batch=BATCHES),
        output:
            duplicates=f"{OUT}/near/duplicates.npy",
            clusters=f"{OUT}/near/clusters.jsonl",
        log:
            f"{OUT}/logs/near_reduce.log",
        benchmark:
            f"{OUT}/benchmarks/near_reduce.tsv"
        resources:
            mem_mb=4000,
        params:
            options=flags(OPTIONS.near),
            code=fingerprint("pipeline.corpus.near"),
        message:
            "Find the near-duplicates of the whole crawl"
        shell:
            "python -m pipeline near-reduce {params.options} --signatures @<(printf '%s\\n' {input.signatures:q})"
            " --documents @<(printf '%s\\n' {input.documents:q})"
            " --output {output.duplicates} --clusters {output.clusters}"
            " > {log} 2>&1"

    rule near_apply:
        input:
            documents=f"{DOCUMENTS}/{{batch}}.arrow",
            duplicates=f"{OUT}/near/duplicates.npy",
        output:
            documents=f"{OUT}/near/{{batch}}.arrow",
            ledger=f"{OUT}/near/{{batch}}.ledger.json",
        log:
            f"{OUT}/logs/near_apply/{{batch}}.log",
        benchmark:
            f"{OUT}/benchmarks/near_apply/{{batch}}.tsv"
        params:
            options=flags(OPTIONS.near),
            position=lambda wildcards: int(wildcards.batch),
            code=fingerprint("pipeline.corpus.near"),
        message:
            "Write the documents of batch {wildcards.batch} without near-duplicates"
        shell:
            "python -m pipeline near-apply {params.options} --documents {input.documents}"
            " --duplicates {input.duplicates} --position {params.position} --output {output.documents}"
            " --ledger {output.ledger} > {log} 2>&1"

    DOCUMENTS = f"{OUT}/near"
    LEDGERS.append(DOCUMENTS)


rule quality_train:
    input:
        expand(f"{DOCUMENTS}/{{batch}}.arrow", batch=BATCHES),
    output:
        model=f"{OUT}/quality/{{language}}.bin",
        report=f"{OUT}/quality/{{language}}.json",
    log:
        f"{OUT}/logs/quality_train/{{language}}.log",
    benchmark:
        f"{OUT}/benchmarks/quality_train/{{language}}.tsv"
    resources:
        mem_mb=4000,
    params:
        options=flags(OPTIONS.quality),
        code=fingerprint("pipeline.corpus.quality"),
    message:
        "Train the quality classifier of {wildcards.language}"
    shell:
        "python -m pipeline quality-train {params.options} --documents @<(printf '%s\\n' {input:q})"
        " --language {wildcards.language}"
        " --output {output.model} --report {output.report} > {log} 2>&1"


rule shards:
    input:
        documents=f"{DOCUMENTS}/{{batch}}.arrow",
        quality=expand(f"{OUT}/quality/{{language}}.json", language=FILTERED),
        models=expand(f"{OUT}/quality/{{language}}.bin", language=FILTERED),
    output:
        shards=[
            shard_path(f"{OUT}/corpus", la, sp, "{batch}")
            for la in LANGUAGES
            for sp in SPLITS
        ],
        ledger=f"{OUT}/corpus/.ledgers/{{batch}}.json",
    log:
        f"{OUT}/logs/shards/{{batch}}.log",
    benchmark:
        f"{OUT}/benchmarks/shards/{{batch}}.tsv"
    params:
        options=flags(OPTIONS.shards),
        corpus=lambda wildcards, output: Path(output.ledger).parent.parent,
        languages=LANGUAGES,
        quality=lambda wildcards, input: (
            f"--quality {' '.join(input.quality)}" if input.quality else ""
        ),
        code=fingerprint("pipeline.corpus.shards"),
    message:
        "Filter batch {wildcards.batch} by quality and write its shards"
    shell:
        "python -m pipeline shards {params.options} --documents {input.documents} {params.quality}"
        " --languages {params.languages} --name {wildcards.batch} --output {params.corpus}"
        " --ledger {output.ledger} > {log} 2>&1"


rule card:
    input:
        shards=expand(
            f"{OUT}/corpus/{{language}}/{{split}}-{{batch}}.arrow",
            language=LANGUAGES,
            split=SPLITS,
            batch=BATCHES,
        ),
        ledgers=[
            *[
                f"{folder}/{batch}.ledger.json"
                for folder in LEDGERS
                for batch in BATCHES
            ],
            *expand(f"{OUT}/corpus/.ledgers/{{batch}}.json", batch=BATCHES),
        ],
        decontamination=[f"{OUT}/filtered/sets.json"] if SETS else [],
    output:
        card=f"{OUT}/corpus/README.md",
        stats=f"{OUT}/corpus/stats.json",
    log:
        f"{OUT}/logs/card.log",
    benchmark:
        f"{OUT}/benchmarks/card.tsv"
    params:
        decontamination=(f"--decontamination {OUT}/filtered/sets.json" if SETS else ""),
        code=fingerprint("pipeline.publish.card"),
    message:
        "Write the dataset card and the statistics of the corpus"
    shell:
        "python -m pipeline card --shards @<(printf '%s\\n' {input.shards:q})"
        " --ledgers @<(printf '%s\\n' {input.ledgers:q}) {params.decontamination}"
        " --card {output.card} --stats {output.stats} > {log} 2>&1"
