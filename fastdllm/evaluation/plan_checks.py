"""Whether a plan was made for the options of a run; imports no torch."""

from __future__ import annotations

from fastdllm.common.errors import UserError
from fastdllm.evaluation.spec import RunSpec
from fastdllm.tasks.plan import Plan, plan_again


def check_plan(spec: RunSpec, plan: Plan) -> None:
    """Refuse a plan that was made for other options of the task.

    Raises:
        UserError: naming the option and both values.
    """
    asked = {
        "task": spec.task,
        "limit": spec.limit,
        "chunk_size": spec.decides.get("chunk_size"),
        "num_fewshot": spec.decides.get("num_fewshot"),
        "apply_chat_template": spec.decides.get("apply_chat_template"),
    }
    if asked["chunk_size"] is None:
        raise UserError(
            f"{spec.log_path.stem}: its spec.json was written by another version of fastdllm; "
            "`snakemake -n` writes it anew"
        )
    for key, value in asked.items():
        planned = getattr(plan.header, key)
        if planned != value:
            raise UserError(
                f"{spec.run.plan_folder}/plan.json: planned with {key} {planned!r}, the run asks "
                f"{value!r}; {plan_again(spec.task, spec.limit)}"
            )
