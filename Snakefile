# From web archives to an extended model and the evidence for it. `snakemake --cores all all`
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from pipeline.common.errors import StageError
from pipeline.crawl.commoncrawl import archives, texts
from pipeline.common.config import ConfigError, flags, read
from pipeline.common.yaml_file import load_yaml
from pipeline.common.shown import printable_lines
from pipeline.workflow.fingerprint import fingerprint
from pipeline.workflow.layout import Layout
from pipeline.workflow.records import keep, restore
from train.config import Config, eval_domains

min_version("9.27")


# Only without one of the user's: Snakemake would merge the two.
if not workflow.configfiles:

    configfile: "configs/demo.yaml"


container: "docker://python:3.12-slim"


report: "train/report/captions/workflow.rst"


try:
    # Snakemake has read them by then, but says nothing of a key that stands twice.
    for file in workflow.configfiles:
        if Path(file).suffix != ".json":
            load_yaml(file)
    OPTIONS = read(Config, config, ", ".join(map(str, workflow.configfiles)))
    OUT = Layout(OPTIONS.output)
    ARCHIVES = (
        archives(OPTIONS.crawl)
        if OPTIONS.crawl.given
        else [OUT.samples(OPTIONS.sample.files)]
    )
    TEXTS = texts(OPTIONS.crawl)
except (ConfigError, StageError) as error:
    raise WorkflowError(printable_lines(str(error))) from None


# Once, and not in every job of a cluster: how each result was made stays with the results.
if workflow.is_main_process:
    restore(OPTIONS.output)


onsuccess:
    keep(OPTIONS.output)


onerror:
    keep(OPTIONS.output)


include: "pipeline/pipeline.smk"
include: "train/train.smk"
include: "train/paper/paper.smk"


rule all:
    default_target: True
    input:
        rules.corpus.input,
        rules.report.output,
    localrule: True
