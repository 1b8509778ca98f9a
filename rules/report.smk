# In:  artifacts/<experiment>/<task>/<config>/summary.json (through the stamp of the aggregate rule),
#      artifacts/sensitivity/*.json, results/<run>/samples.jsonl where they are
# Out: artifacts/report.html, artifacts/comparisons.csv, artifacts/plots/*.{svg,png}
#
# Runs only by name: snakemake --profile profiles/local report. With `--report FILE.html` after that,
# Snakemake packs the same files, once made, with their captions and the run times of all jobs.

from glob import glob


rule report:
    input:
        PUBLISHED,
        # Absent until it is measured.
        sorted(glob("artifacts/sensitivity/*.json")),
    output:
        page=report(
            "artifacts/report.html",
            caption="captions/page.rst",
            category="Results",
            labels={"what": "the page, with everything"},
        ),
        table=report(
            "artifacts/comparisons.csv",
            caption="captions/comparisons.rst",
            category="Results",
            labels={"what": "all runs as a table"},
        ),
        plots=report(
            directory("artifacts/plots"),
            patterns=["{name}.svg"],
            caption="captions/plots.rst",
            category="Plots",
            labels={"what": "{name}"},
        ),
    retries: 0
    params:
        python=PYTHON,
    log:
        "logs/report.log",
    message:
        "write the report page, plots and table"
    shell:
        "{params.python:q} -m fastdllm report > {log:q} 2>&1"


localrules:
    report,
