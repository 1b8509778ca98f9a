# In:  results/<experiment>/<task>/_speed/spec.json          the configs that are timed in turn
#      results/_plans/<task>/plan.json                       the requests
# Out: results/<experiment>/<task>/_speed/sitting-<n>.json   the rounds of one process
#      results/<experiment>/<task>/speed.json                the ratios over all sittings
#
# Only by name: snakemake --profile profiles/local speed. A sitting begins when the one before has
# ended, so that they differ in time. On one machine it has all cores for itself, as other work
# beside it would cost it precision; it still uses the threads that suit the model, not those that
# Snakemake names for the rule (OMP_NUM_THREADS).


def needed_sittings(wildcards):
    return CALL.sittings(f"results/{wildcards.experiment}/{wildcards.task}/speed.json")


def sitting_before(wildcards):
    number = int(wildcards.number) - 1
    folder = f"results/{wildcards.experiment}/{wildcards.task}/_speed"
    return [f"{folder}/sitting-{number}.json"] if number else []


rule sitting:
    input:
        spec="results/{experiment}/{task}/_speed/spec.json",
        plan="results/_plans/{task}/plan.json",
        before=sitting_before,
    output:
        "results/{experiment}/{task}/_speed/sitting-{number}.json",
    wildcard_constraints:
        number=r"[1-9]\d*",
    params:
        python=PYTHON,
    log:
        "logs/speed/{experiment}/{task}/sitting-{number}.log",
    threads: lambda wildcards: workflow.cores
    resources:
        gpu_slot=ONE_GPU,
        runtime=lambda wildcards, attempt: CALL.minutes([], attempt),
    message:
        "sitting {wildcards.number} of {wildcards.experiment} {wildcards.task}"
    shell:
        "exec env -u OMP_NUM_THREADS {params.python:q} -m fastdllm.launch speed {input.spec:q}"
        " --sitting {wildcards.number}"
        " > {log:q} 2>&1"


rule ratios:
    input:
        spec="results/{experiment}/{task}/_speed/spec.json",
        sittings=needed_sittings,
    output:
        update("results/{experiment}/{task}/speed.json"),
    retries: 0
    params:
        python=PYTHON,
    log:
        "logs/speed/{experiment}/{task}/ratios.log",
    message:
        "ratios of {wildcards.experiment} {wildcards.task}"
    shell:
        "{params.python:q} -m fastdllm speed {input.spec:q} --combine > {log:q} 2>&1"


rule speed:
    input:
        [str(measurement.record_path) for measurement in CALL.speeds],
    output:
        touch(str(SPEEDS_STAMP)),
    retries: 0
    params:
        python=PYTHON,
    log:
        "logs/speed/publish.log",
    message:
        "publish the speeds and write the tables"
    shell:
        "{params.python:q} -m fastdllm aggregate > {log:q} 2>&1"


localrules:
    ratios,
    speed,
