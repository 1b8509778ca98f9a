# In:  results/<experiment>/<task>/<config>/spec.json     the resolved settings of one run
#      results/_plans/<task>/plan.json                    its requests
# Out: results/<experiment>/<task>/<config>/shards/<i>-of-<n>.json   this part is decoded
#
# One of n jobs that share the chunks of a run (`shards: n` of its task). The answers are beside the
# stamp; the last of the n merges them, scores them and writes the summary itself, so that a run is
# completed even if Snakemake has ended. rules/finish.smk waits for that.


rule shard:
    input:
        spec="results/{experiment}/{task}/{config}/spec.json",
        plan=plan_if_needed,
    output:
        "results/{experiment}/{task}/{config}/shards/{shard}.json",
    wildcard_constraints:
        shard=r"\d+-of-\d+",
    params:
        python=PYTHON,
        shard=lambda wildcards: wildcards.shard.replace("-of-", "/"),
    log:
        "logs/eval/{experiment}/{task}/{config}.shards/{shard}.log",
    threads: 1
    resources:
        gpu_slot=ONE_GPU,
        runtime=run_minutes,
    message:
        "shard {wildcards.shard} of {wildcards.experiment} {wildcards.task} {wildcards.config}"
    shell:
        "exec {params.python:q} -m fastdllm.launch eval {input.spec:q} --shard {params.shard}"
        " --threads {threads} > {log:q} 2>&1"
