"""The records inside a summary, each field with its meaning; see summary.py.

docs/summary-schema.md and the JSON schema are generated from the descriptions. Imports no torch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from fastdllm.validation import StrictModel


class Metric(StrictModel):
    """One score of lm-eval."""

    metric: str = Field(description="Name of the metric, such as `exact_match`.")
    filter: str = Field(description="Filter of the answers it is computed on; `none` without one.")
    value: float = Field(description="The score, usually a share in 0..1.")
    stderr: float | None = Field(None, description="Standard error, as lm-eval computes it.")
    interval: tuple[float, float] | None = Field(
        None, description="95 % interval, low and high; see `interval_method`."
    )
    interval_method: Literal["wilson", "normal"] | None = Field(
        None,
        description="`wilson` for a share of right items, `normal` for value +- 1.96 stderr.",
    )
    n: int = Field(description="Items that were scored.")
    higher_is_better: bool | None = Field(None, description="Direction of the metric.")
    primary: bool = Field(description="Whether `accuracy` is this score.")


class Throughput(StrictModel):
    """Speed of decoding; absent for log-likelihood tasks and for mixed hardware."""

    tokens_generated: int = Field(
        description="Tokens of all answers, up to and including the first stop token."
    )
    total_time_s: float = Field(
        description="Seconds of decoding, summed over chunks; without loading and warm-up."
    )
    tokens_per_s: float = Field(description="tokens_generated / total_time_s.")
    recording_s: float | None = Field(
        None,
        description="Seconds, not in total_time_s, in which a GPU recorded shapes of passes at "
        "their first use, which the warm-up left over; absent when none.",
    )
    chunks: list[tuple[int, float]] | None = Field(
        None,
        description="Tokens generated and seconds of each generation chunk, in the order of the "
        "plan; neighbours are added up where there are more than 100. How much they vary gives the "
        "interval of tokens_per_s. Left out where it does not fit.",
    )


class Passes(StrictModel):
    """Passes summed over all answers, one pass of one sequence each."""

    prefill: int = Field(description="Passes over the whole blocks of a prompt.")
    full_block: int = Field(description="Denoising passes over a whole block.")
    sub_block: int = Field(description="Denoising passes over one sub-block.")
    commit: int = Field(description="Passes that put a finished block into the prefix cache.")
    reused: int = Field(description="Denoising steps answered without running any layer.")
    layer_forwards_computed: int = Field(description="Layers run, summed over passes.")
    layer_forwards_skipped: int = Field(description="Layers that a policy left out of passes.")


class Latency(StrictModel):
    """Seconds from when a request entered a slot until its answer was complete."""

    p50: float = Field(description="Median.")
    p95: float = Field(description="95th percentile.")


class PeakMemory(StrictModel):
    """Most memory during decoding."""

    gib: float = Field(description="Amount in GiB.")
    kind: Literal["cuda_allocated", "process_resident"] = Field(
        description="`cuda_allocated`: tensors on the GPU. `process_resident`: the whole process."
    )
    slots: int | None = Field(
        None, description="Sequences in flight at most when it was reached; only for generation."
    )


class ItemGroup(NamedTuple):
    """Items of one subtask; in JSON a list of both."""

    name: str
    n: int


class Items(StrictModel):
    """Which items were right, so that two runs can be compared item by item."""

    n: int = Field(description="Number of items, in the order of the task's documents.")
    correct_bits: str = Field(
        description="One bit per item, 1 = right, most significant bit first, filled with 0 to "
        "whole bytes, in base64."
    )
    groups: list[ItemGroup] | None = Field(
        None,
        description="Name and number of items of each subtask, in the order of the bits; only for "
        "groups of tasks. Left out where it does not fit.",
    )


class Confidences(StrictModel):
    """How sure the model was of the tokens of its answers when they were committed."""

    edges: list[float] = Field(
        description="Edges of the bins; a confidence belongs to the last lower edge it reaches."
    )
    counts: list[int] = Field(
        description="Tokens in each bin; one fewer than edges. Tokens that no threshold judged "
        "(the first one behind a prefill or a commit) are in none."
    )


class SameAs(StrictModel):
    """The run whose summary this one was made from: the same computation, decoded once."""

    experiment: str = Field(description="Its experiment.")
    task: str = Field(description="Its task.")
    config: str = Field(description="Its configuration.")
    fingerprint: str = Field(description="Its fingerprint.")


class Hardware(StrictModel):
    """Where the answers were decoded."""

    device: Literal["cpu", "cuda"] = Field(description="Kind of device.")
    name: str = Field(description="Name of the GPU or of the processor.")
    threads: int | None = Field(None, description="CPU threads; only on a CPU.")


class Git(StrictModel):
    """State of the project's repository when the run was scored."""

    commit: str = Field(description="Commit hash.")
    dirty: bool = Field(
        description="Whether tracked files (artifacts/ apart) differed from it, or experiments/, "
        "tasks/ or fastdllm/ held files that are not in git."
    )
