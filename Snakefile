# From web archives to an extended model and the evidence for it. `snakemake --cores all all`
from os.path import relpath
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from pipeline.common.errors import StageError
from pipeline.crawl.commoncrawl import archives, texts
from pipeline.common.config import ConfigError, bad_path, flags, read
from pipeline.common.engine import open_to_others
from pipeline.common.yaml_file import load_yaml
from pipeline.extract.language import without_label
from pipeline.common.shown import printable_lines
from pipeline.workflow.fingerprint import fingerprint
from pipeline.workflow.layout import Layout
from pipeline.workflow.quoting import exactly, unsafe_in_scripts
from pipeline.workflow.records import keep, restore
from pipeline.workflow.watch import watch
from train.config import Config, eval_domains

min_version("9.27")


# Only without one of the user's: Snakemake would merge the two.
if not workflow.configfiles:

    configfile: "configs/demo.yaml"


# The image of the Dockerfile, made where the workflow runs, for `--sdm apptainer`. Else nothing looks for it.
container: "neutral-residues.sif"


report: "train/report/captions/workflow.rst"


# Relative, so that a folder that is moved makes nothing again.
CONFIG_FILES = [relpath(path) for path in workflow.configfiles]

try:
    for path in CONFIG_FILES:
        if problem := bad_path(path):
            raise ConfigError(problem)
        # Snakemake has read it by then, but says nothing of a key that stands twice.
        if Path(path).suffix != ".json":
            load_yaml(path)
    OPTIONS = read(Config, config, ", ".join(CONFIG_FILES))
    OUT = Layout(OPTIONS.output)
    ARCHIVES = (
        archives(OPTIONS.crawl)
        if OPTIONS.crawl.given
        else [OUT.samples(OPTIONS.sample.files)]
    )
    TEXTS = texts(OPTIONS.crawl)
    # Only a language that all its texts come with needs no label of the language model.
    GIVEN = {entry.language for entry in OPTIONS.crawl.texts if entry.language}
    UNLABELLED = (
        without_label(OPTIONS.extract.languages, OPTIONS.extract.language_model)
        if GIVEN or workflow.is_main_process
        else {}
    )
    if problems := [
        UNLABELLED[language] for language in UNLABELLED if language not in GIVEN
    ]:
        raise ConfigError("\n".join(f"extract.languages: {x}" for x in problems))
except (ConfigError, StageError) as error:
    raise WorkflowError(printable_lines(str(error))) from None


# Once, and not in every job of a cluster: how each result was made stays with the results.
if workflow.is_main_process:
    restore(OPTIONS.output)
    if warning := open_to_others(OPTIONS.engine.scheduler):
        logger.warning(warning)


onstart:
    if not workflow.local_exec:
        files = (
            file for job in workflow.dag.jobs for file in (*job.input, *job.output)
        )
        words = workflow.config_settings.config_args or ()
        if problem := unsafe_in_scripts(
            [Path.cwd(), *CONFIG_FILES, *words, *files]
        ):
            raise WorkflowError(problem)
    watch(workflow, OUT, config)


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
        expand(OUT.export("{run}"), run=OPTIONS.export.runs),
    localrule: True
