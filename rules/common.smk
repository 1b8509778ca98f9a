# In:  workflow_config.yaml, experiments/*/experiment.yaml, --config task= experiment= config= limit=
# Out: CALL, the runs of this call, with results/<experiment>/<task>/<config>/spec.json written and
#      dated by their fingerprints (empty in the process of a single job, which plans nothing)

import sys

from snakemake.logging import logger

sys.path.insert(0, workflow.basedir)

from fastdllm.machine.gpus import visible_cards
from fastdllm.entry import open_call
from fastdllm.common.paths import NAME_PATTERN, split_task_folder
from fastdllm.runs.packs import member_specs
from fastdllm.workflow.reconcile import PUBLISHED_STAMP
from fastdllm.workflow.speed_states import SPEEDS_STAMP
from fastdllm.workflow.snakemake_log import leave_out_needless

leave_out_needless(logger, sys.argv[1:], is_dry_run=workflow.output_settings.dryrun)
CALL = open_call(
    config,
    is_main_process=workflow.is_main_process,
    is_dry_run=workflow.output_settings.dryrun,
    log=next(iter(workflow.logger_manager.get_logfile()), None),
)
SUMMARIES = [str(run.summary_path) for run in CALL.runs]
# A limited run is a trial: it stays in results/ and is never published.
FULL_SUMMARIES = [str(run.summary_path) for run in CALL.runs if run.limit is None]
# The runs that are made from another's result, as a regular expression.
COPIES = CALL.copies_pattern()
# The runs that are split into shards or packed, likewise.
SPLIT = CALL.parts_pattern()
# The first folder of all others. Long patterns stand in outputs only: as wildcard_constraints they
# would be searched for every log of every job as well.
NO_EVAL = f"(?!(?:{COPIES}|{SPLIT})/summary){NAME_PATTERN}"
PUBLISHED = [str(PUBLISHED_STAMP)] if FULL_SUMMARIES else []
# The interpreter that runs Snakemake also runs the jobs, whatever `python` is on the PATH.
PYTHON = sys.executable
# One GPU holds one model: profiles/local allows one such job at a time.
ONE_GPU = int(workflow.is_main_process and bool(visible_cards()))


# Only a run that is going to be made has the plan as an input: for Snakemake, making the missing
# plan of one run would be a reason to make all runs of that task again.


def plan_if_needed(wildcards):
    summary = f"results/{wildcards.experiment}/{wildcards.task}/{wildcards.config}/summary.json"
    return [f"results/_plans/{wildcards.task}/plan.json"] if CALL.is_planned(summary) else []


# Minutes to request from SLURM: from earlier runs, or the queue's limit if nothing is known.
def run_minutes(wildcards, attempt):
    spec = f"results/{wildcards.experiment}/{wildcards.task}/{wildcards.config}/spec.json"
    return CALL.minutes([spec], attempt)


def pack_minutes(wildcards, attempt):
    return CALL.minutes(member_specs(wildcards.pack), attempt)


wildcard_constraints:
    experiment=NAME_PATTERN,
    task=NAME_PATTERN,
    config=NAME_PATTERN,


localrules:
    all,
    plan,
    same,
    aggregate,


onerror:
    sys.stderr.write("fastdllm: `fastdllm status` shows what failed and why; the same command "
        "resumes; `fastdllm aggregate` publishes what is done\n")
