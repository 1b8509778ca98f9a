"""One decoding of calibration prompts in which every sub-block pass is examined.

Built on `decode` like every front end; the tokens are those of a plain decoding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fastdllm.common.errors import UserError
from fastdllm.decoding.loop import decode
from fastdllm.decoding.sequence import Generation, Request
from fastdllm.model.fused import FusedModel
from fastdllm.policy import LayerRange, default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.tools.sensitivity.probed_policy import PassLog, ProbedPolicy
from fastdllm.tools.sensitivity.shadow_passes import Recorder

Show = Callable[[int, int], None]


@dataclass(slots=True)
class MeasuredPasses:
    """The passes of one decoding, and what replacing each span changes in them.

    spans: the measured spans, in the order of `PassLog.changed`. answers: of the requests that were
    decoded, by their place in the list. refused: why the others were not.
    """

    spans: tuple[LayerRange, ...]
    passes: list[PassLog] = field(default_factory=list)
    answers: dict[int, Generation] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


def check_measurable(settings: DecodingSettings) -> None:
    """Refuse settings under which there is no plain trajectory, or no pass that could reuse.

    Raises:
        UserError: naming the setting.
    """
    if settings.reuse_k > 1:
        raise UserError("reuse_k: sensitivity measures the plain decoder; leave it out")
    if settings.temperature > 0:
        raise UserError("temperature: sensitivity compares the most likely tokens; leave it at 0")
    if not settings.use_block_cache:
        raise UserError(
            "use_block_cache: only sub-block passes can reuse layers, and there are none without "
            "the block cache; leave it on"
        )


def measure_passes(
    model: FusedModel,
    prompts: Sequence[Sequence[int]],
    settings: DecodingSettings,
    spans: Sequence[LayerRange],
    show: Show | None = None,
) -> MeasuredPasses:
    """Decode `prompts` (token ids) one by one and examine every sub-block pass.

    show: called with the number of requests done, and of all.

    Raises:
        UserError: the settings do not suit (`check_measurable`) or do not fit the model.
    """
    check_measurable(settings)
    measured = MeasuredPasses(tuple(spans))
    recorder = Recorder()
    observed = copy.copy(model)
    observed.make_engine, observed.idle_engines = recorder.engine, []
    mask_id = settings.mask_id if settings.mask_id is not None else model.config.mask_id
    if mask_id is None:
        raise UserError("this model names no mask token; give one with the setting mask_id")
    policy = ProbedPolicy(
        default_policy(settings, model.config.num_layers),
        observed,
        recorder,
        spans,
        mask_id=mask_id,
        on_pass=measured.passes.append,
    )
    requests = [Request(tuple(prompt)) for prompt in prompts]
    for step in decode(observed, requests, policy, slots=1):
        if step.finished is None:
            continue
        if step.finished.error is not None:
            measured.refused.append(f"request {step.request}: {step.finished.error}")
        else:
            measured.answers[step.request] = step.finished
        if show is not None:
            show(len(measured.answers) + len(measured.refused), len(requests))
    return measured
