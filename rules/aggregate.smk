# In:  results/<experiment>/<task>/<config>/summary.json  of every selected full run
# Out: artifacts/<experiment>/<task>/<config>/summary.json, artifacts/<experiment>/table.{md,csv}
#
# The files in artifacts/ are no outputs for Snakemake, which deletes outputs before it makes them
# again; the stamp shows for all of them whether something is left to publish.


rule aggregate:
    input:
        FULL_SUMMARIES,
    output:
        touch(str(PUBLISHED_STAMP)),
    retries: 0
    params:
        python=PYTHON,
    log:
        "logs/aggregate.log",
    message:
        "publish finished summaries into artifacts/ and write the tables"
    shell:
        "{params.python:q} -m fastdllm aggregate > {log:q} 2>&1"
