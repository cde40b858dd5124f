# Where the pages come from: the sample, archives of one's own, CommonCrawl, plain text. It makes folders that
# `extract` and `text` read; a batch of local files needs none.
from pipeline.common.cli import list_argument
from pipeline.crawl.commoncrawl import (
    batch_files,
    own_sizes,
    per_job,
    text_flags,
    text_folders,
)
from pipeline.crawl.manifest import batches

PER_JOB = per_job(OPTIONS.crawl, ARCHIVES, TEXTS)
BATCHES = batches(ARCHIVES + TEXTS, PER_JOB)
ARCHIVE_BATCHES = len(batches(ARCHIVES, PER_JOB[: len(ARCHIVES)]))
# The entry of `texts` that each batch of text belongs to.
TEXT_BATCHES = dict(
    zip(
        list(BATCHES)[ARCHIVE_BATCHES:],
        (
            entry
            for entry, files, size in zip(
                OPTIONS.crawl.texts, TEXTS, PER_JOB[len(ARCHIVES) :]
            )
            for _ in batches([files], size)
        ),
    )
)
# Whether a batch is of files that are not made here, as the sample's are.
IS_OWN = {batch: files[0] not in SAMPLES for batch, files in BATCHES.items()}


if SAMPLES:

    rule sample_crawl:
        output:
            SAMPLES,
        log:
            OUT.log("sample_crawl"),
        benchmark:
            OUT.benchmark("sample_crawl")
        resources:
            mem_mb=2000,
        params:
            options=exactly(flags(OPTIONS.sample)),
            code=fingerprint("pipeline.crawl.sample:make_sample"),
        message:
            "Fetch real web pages and write them as WARC files"
        shell:
            f"python -m pipeline sample {{params.options:q}} --output {list_argument('output')}"
            " > {log:q} 2>&1"


# The folder goes when its batch has been read. What may stay for later runs is in the cache, under another link.
rule fetch:
    output:
        temp(directory(OUT.fetched("{batch}"))),
    log:
        OUT.log("fetch/{batch}"),
    benchmark:
        OUT.benchmark("fetch/{batch}")
    resources:
        # Not params: a change of these fetches nothing again.
        connections=OPTIONS.crawl.connections,
        cache_gb=OPTIONS.crawl.cache_gb,
        cache=OPTIONS.crawl.cache,
    params:
        sources=lambda wildcards: BATCHES[wildcards.batch],
    message:
        "Fetch the files of batch {wildcards.batch}"
    shell:
        f"python -m pipeline fetch --sources {list_argument('params.sources')}"
        " --output={output:q} --cache={resources.cache:q} --cache-gb={resources.cache_gb:q}"
        " --connections={resources.connections:q} > {log:q} 2>&1"


if OPTIONS.crawl.index:

    rule index_plan:
        output:
            plan=OUT.records_plan,
            report=OUT.records_cost,
        log:
            OUT.log("index_plan"),
        benchmark:
            OUT.benchmark("index_plan")
        resources:
            mem_mb=8000,
            connections=OPTIONS.crawl.connections,
            cache=OPTIONS.crawl.cache,
        params:
            options=exactly(flags(OPTIONS.crawl.index)),
            code=fingerprint("pipeline.crawl.index:plan_records"),
        message:
            "Find the wanted records in the index of the crawl"
        shell:
            "python -m pipeline index-plan {params.options:q} --output={output.plan:q} --report={output.report:q}"
            " --cache={resources.cache:q} --connections={resources.connections:q}"
            " --memory-mb={resources.mem_mb:q} > {log:q} 2>&1"

    rule fetch_records:
        input:
            OUT.records_plan,
        output:
            directory(OUT.records("{part}")),
        log:
            OUT.log("fetch_records/{part}"),
        benchmark:
            OUT.benchmark("fetch_records/{part}")
        wildcard_constraints:
            part=r"\d+",
        resources:
            mem_mb=2000,
            connections=OPTIONS.crawl.connections,
            cache=OPTIONS.crawl.cache,
        params:
            options=exactly(flags(OPTIONS.crawl.index)),
            code=fingerprint("pipeline.crawl.records:fetch_records"),
        message:
            "Fetch part {wildcards.part} of the wanted records"
        shell:
            "python -m pipeline fetch-records {params.options:q} --plan={input:q} --part={wildcards.part:q}"
            " --output={output:q} --cache={resources.cache:q} --connections={resources.connections:q}"
            " > {log:q} 2>&1"


if TEXT_BATCHES:

    ruleorder: text > extract

    rule text:
        input:
            files=lambda wildcards: batch_files(
                OUT, wildcards.batch, BATCHES[wildcards.batch], OPTIONS.crawl.given
            ),
            language_id=LANGUAGE_MODEL,
        output:
            pages=OUT.pages("{batch}"),
            ledger=OUT.ledger(OUT.pages("{batch}")),
            decisions=OUT.decisions("extract", "{batch}"),
        log:
            OUT.log("text/{batch}"),
        benchmark:
            OUT.benchmark("text/{batch}")
        wildcard_constraints:
            batch="|".join(TEXT_BATCHES),
        priority: 1
        resources:
            mem_mb=4000,
        params:
            options=exactly(flags(OPTIONS.extract)),
            sizes=lambda wildcards: own_sizes(
                BATCHES[wildcards.batch], OPTIONS.crawl.given
            ),
            columns=lambda wildcards: text_flags(TEXT_BATCHES[wildcards.batch]),
            folders=lambda wildcards: text_folders(TEXT_BATCHES[wildcards.batch]),
            code=fingerprint("pipeline.extract.texts:read_texts"),
        message:
            "Read the text of batch {wildcards.batch}"
        shell:
            f"python -m pipeline text {{params.options:q}} --files {list_argument('input.files')}"
            f" --folders {list_argument('params.folders')}"
            " --language-id={input.language_id:q} {params.columns:q}"
            " --output={output.pages:q} --ledger={output.ledger:q} --decisions={output.decisions:q} > {log:q} 2>&1"
