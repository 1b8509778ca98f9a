# In:  results/<experiment>/<task>/<config>/spec.json     of a run that is the same computation as another
#      results/.../summary.json                           of that one, the leader, if it is made first
# Out: results/<experiment>/<task>/<config>/summary.json  which names the run it was copied from (same_as)
#
# The pattern names the runs of this kind one by one, and rules/eval.smk excludes exactly these, so
# that each summary is made by one rule. Runs here, not on a compute node: it only reads and writes files.


def awaited_leader(wildcards):
    return CALL.awaited(f"results/{wildcards.run}/summary.json")


def leader_folder(wildcards):
    return CALL.leader(f"results/{wildcards.run}/summary.json")


rule same:
    input:
        leader=awaited_leader,
        spec="results/{run}/spec.json",
    output:
        update(f"results/{{run,{COPIES}}}/summary.json"),
    retries: 0
    params:
        python=PYTHON,
        leader=leader_folder,
    log:
        "logs/eval/{run}.log",
    message:
        "{wildcards.run} is the same as {params.leader}"
    shell:
        "{params.python:q} -m fastdllm same {params.leader:q} {input.spec:q} > {log:q} 2>&1"
