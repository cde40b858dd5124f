# The corpus wing: WARC files -> pages -> documents -> shards. Every rule calls `python -m pipeline STAGE`.
from dataclasses import replace

from pipeline.common.cli import list_argument
from pipeline.common.config import LANGUAGE
from pipeline.corpus.order import documents_before, ledgers, stages_on
from pipeline.corpus.shards import SPLITS
from pipeline.workflow.freed import what_goes

LANGUAGES = OPTIONS.extract.languages
ON_PAGES = replace(OPTIONS.extract, languages=[x for x in LANGUAGES if x in LABELS])
FILTERED = sorted({*OPTIONS.quality.positives, *OPTIONS.quality.models})
LANGUAGE_MODEL = OPTIONS.extract.language_model or OUT.language_model
# The stages that write documents, as they are on; `documents_before` is what each of them reads.
DOCUMENT_STAGES = stages_on(OPTIONS.filter, OPTIONS.near)


wildcard_constraints:
    batch=r"\d{5}",
    language=LANGUAGE,
    split="train|validation",


include: "crawl/crawl.smk"


SHARDS = expand(
    OUT.shard("{language}", "{split}", "{batch}"),
    language=LANGUAGES,
    split=SPLITS,
    batch=BATCHES,
)


rule corpus:
    input:
        OUT.card,
        OUT.stats,
        SHARDS,  # whoever deletes one wants it again
    localrule: True


if not OPTIONS.extract.language_model:

    rule language_model:
        output:
            LANGUAGE_MODEL,
        log:
            OUT.log("language_model"),
        benchmark:
            OUT.benchmark("language_model")
        params:
            downloads=exactly(OPTIONS.sample.downloads),
        message:
            "Fetch the language identification model"
        shell:
            "python -m pipeline language-model --downloads={params.downloads:q} --output={output:q}"
            " > {log:q} 2>&1"


rule extract:
    input:
        warcs=lambda wildcards: batch_files(
            OUT, wildcards.batch, BATCHES[wildcards.batch], IS_OWN[wildcards.batch]
        ),
        language_id=LANGUAGE_MODEL,
    output:
        pages=OUT.pages("{batch}"),
        ledger=OUT.ledger(OUT.pages("{batch}")),
        decisions=OUT.decisions("extract", "{batch}"),
    log:
        OUT.log("extract/{batch}"),
    benchmark:
        OUT.benchmark("extract/{batch}")
    # Before the next batch is fetched, so that few batches lie on the disk at once.
    priority: 1
    threads: lambda wildcards: min(OPTIONS.engine.workers, len(BATCHES[wildcards.batch]))
    resources:
        mem_mb=4000,
        scheduler=OPTIONS.engine.scheduler or "",
    params:
        options=exactly(flags(ON_PAGES)),
        sizes=lambda wildcards: own_sizes(
            BATCHES[wildcards.batch], IS_OWN[wildcards.batch]
        ),
        code=fingerprint("pipeline.extract.webpages:extract"),
    message:
        "Extract the text of batch {wildcards.batch} and identify its languages"
    shell:
        f"python -m pipeline extract {{params.options:q}} --warcs {list_argument('input.warcs')}"
        " --language-id={input.language_id:q} --output={output.pages:q} --ledger={output.ledger:q}"
        " --decisions={output.decisions:q}"
        " --workers={threads:q} --scheduler={resources.scheduler:q} > {log:q} 2>&1"


# What it prints is for people to see at once.
rule count_languages:
    input:
        expand(OUT.ledger(OUT.pages("{batch}")), batch=BATCHES),
    output:
        OUT.languages,
    log:
        OUT.log("count_languages"),
    benchmark:
        OUT.benchmark("count_languages")
    priority: 2
    params:
        languages=LANGUAGES,
        needed=needed_languages(OPTIONS),
        code=fingerprint("pipeline.extract.count_languages:count_languages"),
    message:
        "Count the documents of each language"
    shell:
        f"python -m pipeline count-languages --ledgers {list_argument('input')}"
        f" --languages {list_argument('params.languages')} --needed {list_argument('params.needed')}"
        " --output={output:q} 2> {log:q}"


rule dedup_hash:
    input:
        OUT.pages("{batch}"),
    output:
        OUT.hashes("{batch}"),
    log:
        OUT.log("dedup_hash/{batch}"),
    benchmark:
        OUT.benchmark("dedup_hash/{batch}")
    params:
        # The other options change neither the hashes nor what is a duplicate.
        options=exactly(flags(OPTIONS.dedup, only=("normalize",))),
        code=fingerprint("pipeline.corpus.dedup:hash_paragraphs"),
    message:
        "Hash the paragraphs of batch {wildcards.batch}"
    shell:
        "python -m pipeline dedup-hash {params.options:q} --pages={input:q} --output={output:q} > {log:q} 2>&1"


rule dedup_reduce:
    input:
        hashes=expand(OUT.hashes("{batch}"), batch=BATCHES),
        against=OPTIONS.dedup.against,
    output:
        duplicates=expand(OUT.duplicates("{batch}"), batch=BATCHES),
        index=OUT.hash_index,
    log:
        OUT.log("dedup_reduce"),
    benchmark:
        OUT.benchmark("dedup_reduce")
    threads: OPTIONS.engine.workers
    resources:
        mem_mb=4000,
        scheduler=OPTIONS.engine.scheduler or "",
    params:
        options=exactly(flags(OPTIONS.dedup, only=("normalize", "against"))),
        folder=lambda wildcards, output: Path(output.duplicates[0]).parent,
        code=fingerprint("pipeline.corpus.dedup:reduce_hashes"),
    message:
        "Find the duplicate paragraphs of the whole crawl"
    shell:
        f"python -m pipeline dedup-reduce {{params.options:q}} --hashes {list_argument('input.hashes')}"
        " --output={params.folder:q} --index={output.index:q} --workers={threads:q}"
        " --scheduler={resources.scheduler:q} > {log:q} 2>&1"


# A checkpoint, since Snakemake decides again after it: what the reduce wrote with the same bytes as before, as it
# does for all earlier batches when WARCs are added, reruns nothing (up to `max-checksum-file-size`). It has one
# output, since Snakemake goes through all of them for each batch.
checkpoint dedup_reduced:
    input:
        OUT.hash_index,
    output:
        touch(OUT.dedup_reduced),
    localrule: True


rule dedup_apply:
    input:
        pages=OUT.pages("{batch}"),
        # Not before the checkpoint, which raises until it has been passed.
        duplicates=lambda wildcards: (
            checkpoints.dedup_reduced.get(),
            OUT.duplicates(wildcards.batch),
        )[1],
    output:
        documents=OUT.documents("{batch}"),
        ledger=OUT.ledger(OUT.documents("{batch}")),
        decisions=OUT.decisions("dedup", "{batch}"),
    log:
        OUT.log("dedup_apply/{batch}"),
    benchmark:
        OUT.benchmark("dedup_apply/{batch}")
    params:
        options=exactly(flags(OPTIONS.dedup)),
        code=fingerprint("pipeline.corpus.dedup:apply_duplicates"),
    message:
        "Write the documents of batch {wildcards.batch} without duplicate paragraphs"
    shell:
        "python -m pipeline dedup-apply {params.options:q} --pages={input.pages:q}"
        " --duplicates={input.duplicates:q} --output={output.documents:q} --ledger={output.ledger:q}"
        " --decisions={output.decisions:q} > {log:q} 2>&1"


SETS = OPTIONS.filter.decontaminate.sets
CONTAMINATED = [OUT.sets] if SETS else []


if SETS:

    rule decontaminate_index:
        input:
            SETS.values(),
        output:
            index=CONTAMINATED,
            report=OUT.sets_report,
        log:
            OUT.log("decontaminate_index"),
        benchmark:
            OUT.benchmark("decontaminate_index")
        params:
            options=exactly(flags(OPTIONS.filter.decontaminate)),
            code=fingerprint("pipeline.corpus.decontaminate:build_index"),
        message:
            "Collect the n-grams of the evaluation sets"
        shell:
            "python -m pipeline decontaminate-index {params.options:q} --output={output.index:q}"
            " --report={output.report:q} > {log:q} 2>&1"


if OPTIONS.filter.active:

    rule filter:
        input:
            documents=documents_before(OUT, DOCUMENT_STAGES, "filter"),
            contaminated=CONTAMINATED,
        output:
            documents=OUT.filtered("{batch}"),
            ledger=OUT.ledger(OUT.filtered("{batch}")),
            decisions=OUT.decisions("filter", "{batch}"),
        log:
            OUT.log("filter/{batch}"),
        benchmark:
            OUT.benchmark("filter/{batch}")
        params:
            options=exactly(flags(OPTIONS.filter)),
            code=fingerprint("pipeline.corpus.filters:filter_documents"),
        message:
            "Drop the documents of batch {wildcards.batch} that break a rule"
        shell:
            "python -m pipeline filter {params.options:q} --documents={input.documents:q}"
            " --contaminated={input.contaminated:q} --output={output.documents:q} --ledger={output.ledger:q}"
            " --decisions={output.decisions:q} > {log:q} 2>&1"


if OPTIONS.near.enabled:

    NEAR_DOCUMENTS = documents_before(OUT, DOCUMENT_STAGES, "near")

    rule near_hash:
        input:
            NEAR_DOCUMENTS,
        output:
            OUT.signatures("{batch}"),
        log:
            OUT.log("near_hash/{batch}"),
        benchmark:
            OUT.benchmark("near_hash/{batch}")
        params:
            options=exactly(flags(OPTIONS.near)),
            code=fingerprint("pipeline.corpus.near:hash_documents"),
        message:
            "Compute the MinHash signatures of batch {wildcards.batch}"
        shell:
            "python -m pipeline near-hash {params.options:q} --documents={input:q} --output={output:q}"
            " > {log:q} 2>&1"

    rule near_reduce:
        input:
            signatures=expand(OUT.signatures("{batch}"), batch=BATCHES),
            documents=expand(NEAR_DOCUMENTS, batch=BATCHES),
        output:
            duplicates=OUT.near_duplicates,
            clusters=OUT.near_clusters,
        log:
            OUT.log("near_reduce"),
        benchmark:
            OUT.benchmark("near_reduce")
        resources:
            mem_mb=4000,
        params:
            options=exactly(flags(OPTIONS.near)),
            code=fingerprint("pipeline.corpus.near:reduce_signatures"),
        message:
            "Find the near-duplicates of the whole crawl"
        shell:
            f"python -m pipeline near-reduce {{params.options:q}} --signatures {list_argument('input.signatures')}"
            f" --documents {list_argument('input.documents')}"
            " --output={output.duplicates:q} --clusters={output.clusters:q}"
            " > {log:q} 2>&1"

    rule near_apply:
        input:
            documents=NEAR_DOCUMENTS,
            duplicates=OUT.near_duplicates,
        output:
            documents=OUT.near("{batch}"),
            ledger=OUT.ledger(OUT.near("{batch}")),
            decisions=OUT.decisions("near", "{batch}"),
        log:
            OUT.log("near_apply/{batch}"),
        benchmark:
            OUT.benchmark("near_apply/{batch}")
        params:
            options=exactly(flags(OPTIONS.near)),
            position=lambda wildcards: int(wildcards.batch),
            code=fingerprint("pipeline.corpus.near:apply_near"),
        message:
            "Write the documents of batch {wildcards.batch} without near-duplicates"
        shell:
            "python -m pipeline near-apply {params.options:q} --documents={input.documents:q}"
            " --duplicates={input.duplicates:q} --position={params.position:q} --output={output.documents:q}"
            " --ledger={output.ledger:q} --decisions={output.decisions:q} > {log:q} 2>&1"


DOCUMENTS = documents_before(OUT, DOCUMENT_STAGES, "quality")


rule quality_train:
    input:
        expand(DOCUMENTS, batch=BATCHES),
    output:
        model=OUT.quality_model("{language}"),
        report=OUT.quality_report("{language}"),
    log:
        OUT.log("quality_train/{language}"),
    benchmark:
        OUT.benchmark("quality_train/{language}")
    resources:
        mem_mb=4000,
    params:
        options=exactly(flags(OPTIONS.quality)),
        code=fingerprint("pipeline.corpus.quality:train_classifier"),
    message:
        "Train the quality classifier of {wildcards.language}"
    shell:
        f"python -m pipeline quality-train {{params.options:q}} --documents {list_argument('input')}"
        " --language={wildcards.language:q}"
        " --output={output.model:q} --report={output.report:q} > {log:q} 2>&1"


rule shards:
    input:
        documents=DOCUMENTS,
        quality=expand(OUT.quality_report("{language}"), language=FILTERED),
        models=expand(OUT.quality_model("{language}"), language=FILTERED),
    output:
        shards=[
            OUT.shard(language, split, "{batch}")
            for language in LANGUAGES
            for split in SPLITS
        ],
        ledger=OUT.shards_ledger("{batch}"),
        decisions=OUT.decisions("quality", "{batch}"),
    log:
        OUT.log("shards/{batch}"),
    benchmark:
        OUT.benchmark("shards/{batch}")
    params:
        options=exactly(flags(OPTIONS.shards)),
        corpus=lambda wildcards, output: Path(output.ledger).parent.parent,
        languages=LANGUAGES,
        code=fingerprint("pipeline.corpus.shards:write_shards"),
    message:
        f"{'Filter by quality and write' if FILTERED else 'Write'} the shards of batch {{wildcards.batch}}"
    shell:
        "python -m pipeline shards {params.options:q} --documents={input.documents:q}"
        f" --quality {list_argument('input.quality')} --languages {list_argument('params.languages')}"
        " --name={wildcards.batch:q} --output={params.corpus:q} --ledger={output.ledger:q}"
        " --decisions={output.decisions:q} > {log:q} 2>&1"


rule card:
    input:
        shards=SHARDS,
        ledgers=expand(ledgers(OUT, DOCUMENT_STAGES), batch=BATCHES),
        decontamination=[OUT.sets_report] if SETS else [],
    output:
        card=OUT.card,
        stats=OUT.stats,
    log:
        OUT.log("card"),
    benchmark:
        OUT.benchmark("card")
    params:
        code=fingerprint("pipeline.publish.card:write_card"),
    message:
        "Write the dataset card and the statistics of the corpus"
    shell:
        f"python -m pipeline card --shards {list_argument('input.shards')}"
        f" --ledgers {list_argument('input.ledgers')}"
        " --decontamination={input.decontamination:q} --card={output.card:q} --stats={output.stats:q}"
        " > {log:q} 2>&1"


# Once the shards are there, only a change of the corpus needs what was made on the way to them.
rule clean_intermediate:
    input:
        rules.corpus.input,
    log:
        OUT.log("clean_intermediate"),
    localrule: True
    params:
        output=exactly(OPTIONS.output),
        crawl=exactly(SAMPLES),
        files=lambda wildcards: what_goes(OPTIONS.output, SAMPLES),
    message:
        "Free what only a change of the corpus needs:\n{params.files}"
    shell:
        f"python -m pipeline clean --output={{params.output:q}} --crawl {list_argument('params.crawl')}"
        " 2> {log:q}"
