# In:  results/<run>/spec.json                            of a run that is split into shards, or in a pack
#      results/<run>/shards/<i>-of-<n>.json  or  results/_packs/<pack>/report.json
# Out: results/<run>/summary.json
#
# Decodes nothing. The last shard, or the pack, has already written the summary unless it was killed
# just before; then this rule writes it, and it fails if a part failed. The pattern names the runs of
# this kind one by one, and rules/eval.smk excludes exactly these. Runs here, not on a compute node.


rule finish:
    input:
        spec="results/{run}/spec.json",
        parts=lambda wildcards: CALL.parts[f"results/{wildcards.run}/summary.json"],
    output:
        update(f"results/{{run,{SPLIT}}}/summary.json"),
    retries: 0
    params:
        python=PYTHON,
    log:
        "logs/eval/{run}.finish.log",
    message:
        "finish {wildcards.run}"
    shell:
        "{params.python:q} -m fastdllm finish {input.spec:q} > {log:q} 2>&1"


localrules:
    finish,
