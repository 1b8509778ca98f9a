# In:  results/_plans/<task>/plan.json         requests of the tasks of the runs that are to be made
# Out: results/_probes/<hardware>.json         seconds per item, which `fastdllm estimate` goes by
#
# No output for Snakemake, as the name of the file is known on the node only, and each probe adds to
# it; it runs when it is asked for: snakemake --profile profiles/pace probe


def plans_to_probe(wildcards):
    runs = [run for run in CALL.runs if CALL.is_planned(str(run.summary_path))]
    return sorted({f"results/_plans/{run.task_folder}/plan.json" for run in runs})


def selection_options(wildcards):
    keys = [key for key in ("experiment", "task", "config", "limit") if key in config]
    return [part for key in keys for part in (f"--{key}", str(config[key]))]


rule probe:
    input:
        plans_to_probe,
    params:
        python=PYTHON,
        selection=selection_options,
    log:
        "logs/probe.log",
    threads: 1
    resources:
        gpu_slot=ONE_GPU,
        # Two minutes of measuring behind the loading of the model.
        runtime=20,
    message:
        "measure the speed of this hardware; {log} tells what was found"
    shell:
        "exec {params.python:q} -m fastdllm.launch estimate --probe {params.selection:q}"
        " --threads {threads} > {log:q} 2>&1"
