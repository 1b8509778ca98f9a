# In:  nothing: the data comes from the project's own generator
# Out: models/tiny (weights, tokenizer, card)
#
# It has no output for Snakemake, so nothing ever triggers it; it runs only by name: snakemake train


rule train:
    params:
        python=PYTHON,
    log:
        "logs/train.log",
    threads: 1
    message:
        "train models/tiny; follow it with: tail -f {log}"
    shell:
        "{params.python:q} -m training.train --out models/tiny > {log:q} 2>&1"


localrules:
    train,
