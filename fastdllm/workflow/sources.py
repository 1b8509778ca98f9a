"""Do the files that a run is about to use still mean what its spec says?

A spec names digests of the policy's code, the task with its data, and a local model. Between its
writing and the run, which may wait in a queue for hours, any of them may have been edited.
"""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.decoding.policy_files import policy_code_digest
from fastdllm.runs.spec import RunSpec
from fastdllm.workflow.digests import FileDigests, digest_of, model_digest, task_digest


def check_sources(spec: RunSpec, digests: FileDigests) -> None:
    """Compare the run's files with the digests of its spec.

    Args:
        digests: kept from one check of a run to the next, so that only a file whose size or time
            differs is read again; weights may be many gigabytes.

    Raises:
        UserError: one of them was changed since, or the spec itself was edited.
    """
    if digest_of(spec.decides) != spec.fingerprint:
        raise UserError(
            f"spec.json of {spec.experiment}/{spec.task}/{spec.config}: its settings are not those "
            "of its fingerprint; `snakemake -n` writes it anew"
        )
    policy, task = Path(spec.run.policy_file), Path(spec.run.task_file)
    if not policy.exists():
        raise UserError(
            f"{policy}: not found from here; type the command in the project's folder, or give "
            "--directory before it"
        )
    found = {
        "policy_digest": (policy, policy_code_digest(policy)),
        "task_digest": (task, task_digest(task, digests)),
    }
    if spec.decides.get("model") == "local":
        folder = Path(spec.run.model_path).expanduser()
        found["model_digest"] = (folder, model_digest(folder, digests))
    for key, (path, digest) in found.items():
        if spec.decides.get(key) != digest:
            raise UserError(
                f"{path}: changed since the run was planned; type the same snakemake command again"
            )
