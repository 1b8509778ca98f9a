# In:  results/_packs/<pack>/members.json                 the specs of the runs in this pack
#      results/<experiment>/<task>/<config>/spec.json     of each of them
#      results/_plans/<task>/plan.json                    their requests
# Out: results/_packs/<pack>/report.json                  the outcome of each
#
# One job for several runs (`group: n` of their task), which loads the model once. It writes their
# summaries, and a run that fails does not stop the others; rules/finish.smk reports each.


def pack_specs(wildcards):
    return member_specs(wildcards.pack)


rule pack:
    input:
        members="results/_packs/{pack}/members.json",
        specs=pack_specs,
        plans=lambda wildcards: CALL.plans_of(member_specs(wildcards.pack)),
    output:
        "results/_packs/{pack}/report.json",
    wildcard_constraints:
        pack=NAME_PATTERN,
    params:
        python=PYTHON,
    log:
        "logs/pack/{pack}.log",
    threads: 1
    resources:
        gpu_slot=ONE_GPU,
        runtime=pack_minutes,
    message:
        "pack {wildcards.pack}: several runs with one loading of the model"
    shell:
        "exec {params.python:q} -m fastdllm.launch pack {input.members:q} --threads {threads}"
        " > {log:q} 2>&1"
