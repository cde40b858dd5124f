# From web archives to an extended model and the evidence for it. `snakemake --cores all all`
import os
from os.path import relpath
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

# First, since an environment with an older one may lack all else.
min_version("9.27")

from pipeline.common.errors import StageError
from pipeline.crawl.commoncrawl import archives, left_out, texts
from pipeline.common.config import ConfigError, bad_path, flags, read
from pipeline.common.engine import open_to_others
from pipeline.extract.language import labels_of
from pipeline.common.shown import printable, printable_lines
from pipeline.workflow.fingerprint import fingerprint
from pipeline.workflow.layout import Layout
from pipeline.workflow.quoting import exactly, unsafe_in_scripts
from pipeline.workflow.records import keep, restore
from pipeline.workflow.watch import watch
from pipeline.workflow.start import job_environment, read_configs
from train.config import Config, bad_languages, eval_domains, needed_languages

# Only without one of the user's: Snakemake would merge the two.
if not workflow.configfiles:

    configfile: Path(workflow.basedir, "configs/demo.yaml")


# The image of the Dockerfile, made where the workflow runs, for `--sdm apptainer`. Else nothing looks for it.
container: "neutral-residues.sif"


report: "train/report/captions/workflow.rst"


# Relative, so that a folder that is moved makes nothing again.
CONFIG_FILES = [relpath(path) for path in workflow.configfiles]

try:
    os.environ.update(job_environment(workflow.basedir, os.environ))
    if problem := bad_path(relpath(workflow.basedir)):
        raise ConfigError(problem)
    WORDS = workflow.config_settings.config_args or ()
    OPTIONS = read(
        Config,
        read_configs(CONFIG_FILES, WORDS),
        ", ".join([*CONFIG_FILES, *(["--config"] if WORDS else [])]),
    )
    OUT = Layout(OPTIONS.output)
    SAMPLES = OUT.samples(OPTIONS.sample.files) if OPTIONS.crawl.has_sample else []
    ARCHIVES = ([SAMPLES] if SAMPLES else []) + archives(OPTIONS.crawl)
    TEXTS = texts(OPTIONS.crawl)
    # A model of one's own may be large: in the jobs of a cluster its labels are not read again, unless they need them.
    GIVEN = {entry.language for entry in OPTIONS.crawl.texts if entry.language}
    LABELS = (
        set(labels_of(OPTIONS.extract.language_model))
        if GIVEN or workflow.is_main_process
        else set(OPTIONS.extract.languages)
    )
    if problems := dict(bad_languages(OPTIONS, LABELS)):
        raise ConfigError("\n".join(f"{key}: {x}" for key, x in problems.items()))
except (ConfigError, StageError) as error:
    raise WorkflowError(printable_lines(str(error))) from None


# Once, and not in every job of a cluster: how each result was made stays with the results.
if workflow.is_main_process:
    restore(OPTIONS.output)
    for note in left_out(OPTIONS.crawl):
        logger.warning(printable(note))
    if warning := open_to_others(OPTIONS.engine.scheduler):
        logger.warning(warning)


onstart:
    if not workflow.local_exec:
        files = (
            file for job in workflow.dag.jobs for file in (*job.input, *job.output)
        )
        if problem := unsafe_in_scripts(
            [Path.cwd(), workflow.basedir, *CONFIG_FILES, *WORDS, *files]
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
