# The paper's tables and figures: `snakemake --cores all paper/table2`. configs/paper/grid.yaml has their rows.
SUBSET = ("table2", "table6", "table8", "figure1")
SPECTRA = [name for name, target in PAPER.grid.targets.items() if target.spectrum]
TABLES = [name for name in PAPER.grid.targets if name not in SPECTRA]
ENDINGS = ("md", "csv", "svg", "png")


MADE = OUT.paper("{name}") + ".md"


rule paper:
    input:
        expand(MADE, name=PAPER.names),
    localrule: True
    message:
        "The paper's tables and figures"
        + "".join(f"; left out: {name}, {why}" for name, why in PAPER.missing.items())
        .replace("{", "{{")
        .replace("}", "}}")


rule paper_subset:
    input:
        expand(MADE, name=SUBSET),
    localrule: True


for name in PAPER.grid.targets:

    rule:
        name:
            f"paper/{name}"
        input:
            expand(MADE, name=name),
        localrule: True


rule paper_table:
    input:
        grid=GRID,
        runs=lambda wildcards: expand(
            OUT.run_record("{run}"), run=PAPER.of(wildcards.table)
        ),
        evaluations=lambda wildcards: expand(
            OUT.evaluation("{run}"), run=PAPER.of(wildcards.table)
        ),
        base=OUT.evaluation("backbone"),
        tasks=lambda wildcards: (
            expand(
                OUT.task_scores("{model}"),
                model=["backbone", *PAPER.of(wildcards.table)],
            )
            if OPTIONS.evaluate.tasks
            else []
        ),
    output:
        multiext(OUT.paper("{table}"), *(f".{ending}" for ending in ENDINGS)),
    log:
        OUT.log("paper/{table}"),
    benchmark:
        OUT.benchmark("paper/{table}")
    wildcard_constraints:
        table="|".join(TABLES),
    params:
        runs=lambda wildcards: expand(OUT.run("{run}"), run=PAPER.of(wildcards.table)),
        evaluations=lambda wildcards: expand(
            OUT.evaluation("{run}"), run=PAPER.of(wildcards.table)
        ),
        forgetting=OPTIONS.evaluate.forgetting,
        learning=lambda wildcards: PAPER.grid.targets[wildcards.table].new
        or OPTIONS.evaluate.learning,
        # Mean accuracies in the old and in the new language, where tasks are asked.
        tasks=OUT.tasks if OPTIONS.evaluate.tasks else "",
        languages=lambda wildcards: (
            task_languages(OPTIONS, PAPER.grid.targets[wildcards.table].new)
            if OPTIONS.evaluate.tasks
            else []
        ),
        output=OUT.paper("{table}"),
        code=fingerprint("train.paper.tables:write_table"),
    message:
        "Write {wildcards.table} of the paper"
    shell:
        "python -m train table --grid={input.grid:q} --target={wildcards.table:q}"
        f" --runs {list_argument('params.runs')} --evaluations {list_argument('params.evaluations')}"
        " --base={input.base:q} --forgetting={params.forgetting:q} --learning={params.learning:q}"
        f" --tasks={{params.tasks:q}} --languages {list_argument('params.languages')}"
        " --output={params.output:q} > {log:q} 2>&1"


rule paper_spectrum:
    input:
        grid=GRID,
        runs=lambda wildcards: expand(
            OUT.weights("{run}"), run=PAPER.of(wildcards.figure)
        ),
        backbone=BACKBONE,
    output:
        multiext(OUT.paper("{figure}"), *(f".{ending}" for ending in ENDINGS)),
    log:
        OUT.log("paper/{figure}"),
    benchmark:
        OUT.benchmark("paper/{figure}")
    wildcard_constraints:
        figure="|".join(SPECTRA),
    params:
        runs=lambda wildcards: expand(OUT.run("{run}"), run=PAPER.of(wildcards.figure)),
        output=OUT.paper("{figure}"),
        code=fingerprint("train.paper.spectrum:write_spectrum"),
    message:
        "Write {wildcards.figure} of the paper"
    shell:
        "python -m train spectrum --grid={input.grid:q} --target={wildcards.figure:q}"
        f" --runs {list_argument('params.runs')}"
        " --backbone={input.backbone:q} --output={params.output:q} > {log:q} 2>&1"
