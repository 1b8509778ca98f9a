# In:  results/_plans/<task>/spec.json       what the plan depends on: task, tokenizer, prompt options
# Out: results/_plans/<task>/plan.json, requests.jsonl       tokenised requests in fixed chunks
#      results/_plans/<task>/made_from.json                  the spec it was made from
#
# `update` leaves a plan in place that another clone with the same results/ has just made.
#
# Runs here, not on a compute node: planning may need the network (data sets), never a GPU.


def plan_arguments(wildcards):
    task, limit = split_task_folder(wildcards.task)
    return ["--task", task] if limit is None else ["--task", task, "--limit", str(limit)]


rule plan:
    input:
        spec="results/_plans/{task}/spec.json",
    output:
        update("results/_plans/{task}/plan.json"),
        update("results/_plans/{task}/requests.jsonl"),
        update("results/_plans/{task}/made_from.json"),
    retries: 0
    params:
        python=PYTHON,
        arguments=plan_arguments,
    log:
        "logs/plan/{task}.log",
    message:
        "plan the requests of {wildcards.task}"
    shell:
        # What is named, not refused, is also shown.
        "{params.python:q} -m fastdllm plan {params.arguments:q} > {log:q} 2>&1 && "
        "sed -n '/^fastdllm: /p' {log:q} >&2"
