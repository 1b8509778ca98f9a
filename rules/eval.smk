# In:  results/<experiment>/<task>/<config>/spec.json     the resolved settings of one run
#      results/_plans/<task>/plan.json                    its requests
# Out: results/<experiment>/<task>/<config>/summary.json  beside results.json, samples.jsonl, answers.jsonl
#
# `update` leaves an old summary in place until the new one is complete, and if the job fails. The
# command resumes where a killed one stopped, and decodes a finished run again only if its spec is
# dated after its summary, as the workflow dates runs that are forced.
#
# `exec`, so that a signal from SLURM reaches the eval itself, with no shell in between.


rule eval:
    input:
        spec="results/{experiment}/{task}/{config}/spec.json",
        plan=plan_if_needed,
    output:
        update(f"results/{{experiment,{NO_EVAL}}}/{{task}}/{{config}}/summary.json"),
    params:
        python=PYTHON,
    log:
        "logs/eval/{experiment}/{task}/{config}.log",
    benchmark:
        "logs/eval/{experiment}/{task}/{config}.benchmark.tsv"
    threads: 1
    resources:
        gpu_slot=ONE_GPU,
        runtime=run_minutes,
    message:
        "eval {wildcards.experiment} {wildcards.task} {wildcards.config}"
    shell:
        "exec {params.python:q} -m fastdllm.launch eval {input.spec:q} --threads {threads} > {log:q} 2>&1"
