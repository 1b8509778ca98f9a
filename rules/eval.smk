# In:  results/<experiment>/<task>/<config>/spec.json     the resolved settings of one run
#      results/_plans/<task>/plan.json                    its requests; its date does not count
# Out: results/<experiment>/<task>/<config>/summary.json  beside results.json, samples.jsonl, answers.jsonl
#
# `update` leaves an old summary in place until the new one is whole, and when the job fails. The
# command goes on where a killed one stopped; it decodes a finished run from the start.


rule eval:
    input:
        spec="results/{experiment}/{task}/{config}/spec.json",
        plan=ancient("results/_plans/{task}/plan.json"),
    output:
        update("results/{experiment}/{task}/{config}/summary.json"),
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
