"""The speed of a run from what others published, where nothing was measured: an order of magnitude.

Of the same model on the same kind of GPU, decoded with the settings that the source states; of
another task or other settings besides, it is near enough. How long answers are is published as
well, or bounded by the task's own limit. Jobs ask for no time by it.
"""

from __future__ import annotations

from collections.abc import Callable

from fastdllm.common.errors import UserError
from fastdllm.records.published import Published, published
from fastdllm.tasks.plan import read_plan
from fastdllm.tools.estimate.hardware import WantedHardware, is_of_kind
from fastdllm.tools.estimate.nearest import Basis, Speed
from fastdllm.workflow.project.runs import Run


def published_speed(
    run: Run, wanted: WantedHardware, tokens_at_most: Callable[[Run], int | None]
) -> Speed | None:
    """Return the published speed of a run; None if none fits, or nothing is generated.

    tokens_at_most: the most tokens that an answer may have.
    """
    speed = next((one for one in published() if _fits(one, run, wanted)), None)
    most = tokens_at_most(run)
    if speed is None or speed.figure.tokens_per_s is None or most is None:
        return None
    length = next((one for one in published() if _has_length(one, run)), None)
    tokens, answers = float(most), f"{most:,} tokens per answer, its limit: an upper bound"
    if length is not None and length.figure.tokens_per_answer is not None:
        tokens = min(length.figure.tokens_per_answer, tokens)
        answers = f"{tokens:,.0f} tokens per answer ({length.source})"
    of_task = "" if speed.figure.task == run.task else f" on {speed.figure.task}"
    size = speed.figure.batch_size or "not stated"
    return Speed(
        Basis.PUBLISHED,
        tokens / speed.figure.tokens_per_s,
        startup_s=None,
        note=f"{run.task}: published{of_task} {speed.figure.tokens_per_s:g} tokens/s "
        f"({speed.source}; {speed.figure.hardware}, batch size {size}), {answers}",
    )


def tokens_at_most(run: Run) -> int | None:
    """Return the limit of a planned run's answers; None without a plan, or of likelihoods."""
    try:
        plan = read_plan(run.plan_folder, run.task)
    except UserError:
        return None
    generates = all(request.kind == "generate_until" for request in plan.requests)
    return plan.budget if generates else None


def _fits(one: Published, run: Run, wanted: WantedHardware) -> bool:
    figure = one.figure
    if figure.tokens_per_s is None or figure.hardware is None:
        return False
    return one.is_decoded_in(run.decides) and is_of_kind(wanted.name, figure.hardware)


def _has_length(one: Published, run: Run) -> bool:
    is_asked = one.is_asked_in(run.decides, run.surroundings["task_definition"])
    return is_asked and one.figure.tokens_per_answer is not None
