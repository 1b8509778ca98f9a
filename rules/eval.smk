# In:  results/<experiment>/<task>/<config>/spec.json     the resolved settings of one run
#      results/_plans/<task>/plan.json                    its requests
# Out: results/<experiment>/<task>/<config>/summary.json  beside results.json, samples.jsonl, answers.jsonl
#
# `update` leaves an old summary in place until the new one is whole, and when the job fails. The
# command goes on where a killed one stopped, and decodes a finished run again only when its spec is
# dated after its summary, as the workflow dates the runs that are forced.
#
# Only a run that is going to be made has the plan as an input: for Snakemake, making the missing
# plan of one run would be a reason to make all runs of that task again.


def plan_if_needed(wildcards):
    summary = f"results/{wildcards.experiment}/{wildcards.task}/{wildcards.config}/summary.json"
    return [f"results/_plans/{wildcards.task}/plan.json"] if CALL.is_planned(summary) else []


rule eval:
    input:
        spec="results/{experiment}/{task}/{config}/spec.json",
        plan=plan_if_needed,
    output:
        update("results/{experiment}/{task}/{config}/summary.json"),
    wildcard_constraints:
        experiment=f"(?!(?:{COPIES})/summary){NAME_PATTERN}",
    params:
        python=PYTHON,
    log:
        "logs/eval/{experiment}/{task}/{config}.log",
    benchmark:
        "logs/eval/{experiment}/{task}/{config}.benchmark.tsv"
    threads: 1
    resources:
        gpu_slot=GPU_SLOTS,
    message:
        "eval {wildcards.experiment} {wildcards.task} {wildcards.config}"
    shell:
        "{params.python:q} -m fastdllm eval {input.spec:q} --threads {threads} > {log:q} 2>&1"
