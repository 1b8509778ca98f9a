# The workflow: which runs are missing, and how each is made. See docs/workflow.md.
#
#   plan       requests of a task, once per task          results/_plans/<task>/plan.json
#   eval       decode and score one run                   results/<experiment>/<task>/<config>/summary.json
#   shard      decode a part of one run, if its task has `shards`
#   pack       decode several runs in one job, if their task has `group`
#   finish     their summaries                          results/<experiment>/<task>/<config>/summary.json
#   same       copy the result of the same computation, decoded once
#   aggregate  publish summaries, write the tables        artifacts/
#   report     the published results as one page and plots; only by name: snakemake report
#   speed      time configs in turn, and publish their ratios; only by name: snakemake speed
#   train      make the embedded model again; only by name: snakemake train
#
# All decisions are made in fastdllm/workflow, which is tested; the rules only name files. The rules that
# run here, not in a job, say `retries: 0`: nothing about their failures passes by itself.

include: "rules/common.smk"


rule all:
    default_target: True
    input:
        SUMMARIES,
        PUBLISHED,


include: "rules/plan.smk"
include: "rules/eval.smk"
include: "rules/shard.smk"
include: "rules/pack.smk"
include: "rules/finish.smk"
include: "rules/same.smk"
include: "rules/aggregate.smk"
include: "rules/report.smk"
include: "rules/speed.smk"
include: "rules/train.smk"
