"""summary.json: the result of one run, small enough to keep in git forever.

Owns the record (summary_text.py its layout); computes nothing. What was not measured is absent,
never zero or null. Every field is described here; docs/summary-schema.md and the JSON schema are
generated from these descriptions. Imports no torch, so status and tables stay fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, JsonValue, model_validator

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json, write_text_atomically
from fastdllm.records import bits
from fastdllm.records.item_groups import with_names
from fastdllm.records.result_files import SUMMARY_SCHEMA_VERSION, named_by_place, take_digest
from fastdllm.records.summary_text import MAX_BYTES, text_that_fits
from fastdllm.validation import StrictModel, validated


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
    """Speed of decoding; absent for log-likelihood tasks, mixed hardware and paused processes."""

    tokens_generated: int = Field(
        description="Tokens of all answers, up to and including the first stop token."
    )
    total_time_s: float = Field(
        description="Seconds of decoding, summed over chunks; without loading and warm-up."
    )
    tokens_per_s: float = Field(description="tokens_generated / total_time_s.")
    recording_s: float | None = Field(
        None,
        description="Seconds, not in total_time_s, in which a GPU recorded shapes of passes that "
        "the warm-up had not met; absent if none.",
    )
    processor_share: float | None = Field(
        None,
        description="Share of total_time_s in which the decoding thread was on a processor; other "
        "work on the machine lowers it. Below 0.9 the speed is compared with no other. Only on a "
        "CPU; absent in older summaries.",
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
        None, description="Most sequences in flight when it was reached; only for generation."
    )


class ItemGroup(NamedTuple):
    """Items of one subtask; in JSON a list of both."""

    name: str
    n: int


class Items(StrictModel):
    """Which items were right, so that two runs can be compared item by item."""

    n: int = Field(description="Number of items, in the order of the task's documents.")
    correct_bits: str = Field(
        description="One bit per item, 1 = right, most significant bit first, padded with 0 to "
        "whole bytes, in base64."
    )
    groups: list[ItemGroup] | None = Field(
        None,
        description="Items of each subtask, in the order of the bits; only for groups of tasks. "
        "Numbers that follow the names in `group_results`, 0 for a group of subtasks; name and "
        "number of each where that was left out, and in older summaries. Left out where it does "
        "not fit.",
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
    """State of the project's repository in all processes that decoded and scored the run."""

    commit: str = Field(description="Commit hash.")
    dirty: bool = Field(
        description="Whether tracked files (not in artifacts/) differed from it, or it lacks a "
        "file that decides, or another in experiments/, tasks/ or fastdllm/."
    )


DECODING, PARAMETERS = "decoding.", "policy_parameters."


class Summary(StrictModel):
    """summary.json of one run."""

    schema_version: Literal[2] = Field(2, description="Version of this layout.")
    experiment: str = Field(description="Experiment folder name.")
    task: str = Field(description="Task, as in tasks/<task>.yaml.")
    config: str = Field(description="Configuration, one point of the experiment's grid.")
    timestamp: str = Field(description="When the run was scored, UTC, ISO 8601.")
    fingerprint: str = Field(description="Digest of `decides`; distinguishes done from stale.")
    decides: dict[str, JsonValue] = Field(
        description="Everything that decides the answers, key by key, as in spec.json."
    )
    computation: str | None = Field(
        None,
        description="Digest of what is computed, without settings that cannot matter: runs that "
        "share it must give the same answers.",
    )
    claims: list[str] | None = Field(
        None,
        description="Digests of the registered claims (docs/claims.md) that the run was decoded "
        "under; absent if it is part of none, and in older summaries.",
    )
    same_as: SameAs | None = Field(
        None,
        description="Only if nothing was decoded for this run because another is the same "
        "computation; every measured value is from that run.",
    )
    accuracy: float = Field(description="Value of the primary metric.")
    metrics: list[Metric] = Field(
        description="Every score of the task; only the primary one where they do not fit (more "
        "than some 20), results.json has all."
    )
    group_results: dict[str, float] | None = Field(
        None,
        description="Primary metric of each subtask, and of each group of them within the task; "
        "only for groups of tasks, and without the name of the task before theirs. Left out where "
        "it does not fit; results.json has it.",
    )
    items: Items | None = Field(
        None,
        description="Only where `accuracy` is the share of items that are right. Left out where "
        "it does not fit (more than some 30,000 items); samples.jsonl has it.",
    )
    tied_items: int | None = Field(
        None,
        description="Items that are right or wrong by the order of their options, of which some "
        "are equally likely; absent if there are none, and in older summaries.",
    )
    throughput: Throughput | None = Field(None, description="Speed of decoding.")
    decoding_s: float | None = Field(
        None,
        description="Seconds of decoding of all chunks, log-likelihoods included; without loading "
        "and warm-up. Absent for mixed hardware or paused processes, and in older summaries.",
    )
    tokens_per_forward: float | None = Field(
        None,
        description="Generated tokens per forward evaluation (full-block, sub-block and commit "
        "passes); only for generation.",
    )
    passes: Passes | None = Field(None, description="Passes; only for generation.")
    position_forwards: int | None = Field(
        None,
        description="Layers run times the positions that each pass ran through them, summed over "
        "passes: what large batches pay, where a layer-forward is what one sequence pays. Only for "
        "generation; absent in older summaries.",
    )
    confidences: Confidences | None = Field(None, description="Only for generation.")
    latency_s: Latency | None = Field(
        None, description="Only for generation; absent for mixed hardware or paused processes."
    )
    truncation_rate: float | None = Field(
        None, description="Share of answers truncated at their length limit; only for generation."
    )
    out_of_memory: int | None = Field(
        None,
        description="How often a pass ran out of memory, so that the rest of its chunk was decoded "
        "in smaller passes; absent if never.",
    )
    peak_memory: PeakMemory = Field(description="Most memory during decoding.")
    load_time_s: float | None = Field(
        None,
        description="Seconds to load the model, apart from decoding; absent if an earlier run in "
        "the same process had loaded it.",
    )
    warm_up_s: float = Field(description="Seconds of the unmeasured warm-up.")
    resumed: bool = Field(description="Whether more than one process decoded the answers.")
    dtype: str = Field(description="Number format the model ran in, resolved from `auto`.")
    dtype_reason: str | None = Field(
        None, description="Why `auto` chose it; absent for a dtype that was named."
    )
    hardware: list[Hardware] = Field(
        description="Distinct devices that decoded answers; more than one: no throughput."
    )
    gpu_info: str | None = Field(
        None, description="Name of the GPU, or of each kind of GPU; absent on a CPU."
    )
    git: Git | None = Field(None, description="Absent outside of a git repository.")
    git_unknown: str | None = Field(
        None,
        description="In a git repository: why git did not name the commit, or which several were "
        "at work.",
    )
    code_digest: str | None = Field(
        None,
        description="Digest of the code of `fastdllm/` that decides tokens, without comments and "
        "layout; one for all answers. Absent in older summaries.",
    )
    content_digest: str | None = Field(
        None,
        description="Digest of all other fields, by which a file that was edited or merged by hand "
        "is refused; in the file only. Absent in older summaries.",
    )
    environment: dict[str, str] = Field(
        description="Versions of Python and of packages; `1.0 and 1.1` if the processes that "
        "decoded and scored had different ones."
    )
    weights_left_alone: list[str] | None = Field(
        None,
        description="Files in the model's folder that look like weights and are no part of the "
        "model (backups, adapters, states of optimizers); absent if there are none, where they do "
        "not fit, and in older summaries.",
    )
    notices: list[str] | None = Field(
        None,
        description="What is odd about the items or the chat template (at most five lines, "
        "`plan.json` has all) or the head of the model, and was named, not refused; absent if "
        "nothing is, where it does not fit, and in older summaries.",
    )
    model_args: dict[str, JsonValue] = Field(
        description="Model and decoding settings under the names of the published `--model_args`."
    )
    eval_params: dict[str, JsonValue] = Field(
        description="How the task was run: n_items (documents), n_requests (distinct questions to "
        "the model), n_answers (those with a generated answer, where others ask for a "
        "log-likelihood), chunk_size, batch_size (most sequences that were decoded at once; inputs "
        "in memory at once, for log-likelihoods), smallest_batch_size (where a part of the run had "
        "fewer), items_digest (of what each item asks and expects, and of the commit of a hub's "
        "model), task_definition (digest of the task's YAML and helpers, without its data; absent "
        "in older summaries), model_commit (that commit; absent for a folder, and in older "
        "summaries), limit, max_gen_toks (the most tokens of an answer; absent in older "
        "summaries), num_fewshot, apply_chat_template, bootstrap_iters, seed."
    )

    @model_validator(mode="before")
    @classmethod
    def _with_names(cls, values: Any) -> Any:
        return with_names(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _figures_agree(self) -> Summary:
        """Refuse what was edited or put together from two results."""
        primary = [metric for metric in self.metrics if metric.primary]
        if len(primary) != 1 or primary[0].value != self.accuracy:
            raise ValueError("accuracy is not the value of the one primary metric; make it again")
        items = self.items
        if items is not None:
            right = bits.as_number(items.n, items.correct_bits).bit_count()
            sizes = sum(group.n for group in items.groups or ())
            if abs(right - self.accuracy * items.n) > 1e-6 * items.n or sizes not in (0, items.n):
                raise ValueError("items are not those of its accuracy; make it again")
        return self

    def __repr__(self) -> str:
        """One line for people; a summary has hundreds of values."""
        metric, speed = self.primary, self.throughput
        name = f"{self.experiment}/{self.task_title}/{self.config}"
        parts = [f"{metric.metric} {self.accuracy:.4f}"]
        if metric.interval is not None:
            parts[0] += " ({:.4f} to {:.4f})".format(*metric.interval)
        parts.append(f"{self.eval_params.get('n_items', metric.n)} items")
        parts += [f"{speed.tokens_per_s:,.0f} tokens/s"] if speed is not None else []
        return f"<Summary {name}: {', '.join(parts)}>"

    __str__ = __repr__

    @property
    def n_requests(self) -> int:
        """Distinct questions that the model answered."""
        return int(str(self.eval_params["n_requests"]))

    @property
    def n_answers(self) -> int:
        """Generated answers, of a run that generates; its passes and seconds are for these."""
        return int(str(self.eval_params.get("n_answers", self.n_requests)))

    @property
    def task_title(self) -> str:
        """The task for people; of a limited run with its items, which a limit only bounds."""
        limit, n_items = self.eval_params.get("limit"), self.eval_params.get("n_items")
        if limit is None:
            return self.task
        # A group of tasks has a limit for each, and a task may have fewer items.
        what = f"first {limit} items" if n_items == limit else f"limit {limit}: {n_items} items"
        return f"{self.task} ({what})"

    @property
    def primary(self) -> Metric:
        """The metric whose value is `accuracy`."""
        return next(metric for metric in self.metrics if metric.primary)


def write_summary(path: Path | str, summary: Summary) -> None:
    """Write a summary atomically, keys sorted, absent fields left out.

    Of a task with very many subtasks, items or metrics the parts that do not fit are left out;
    results.json and samples.jsonl have them.

    Raises:
        ValueError: it would still exceed 8,000 bytes.
        UserError: the file cannot be written.
    """
    text = text_that_fits(summary.model_dump(mode="json", exclude_none=True))
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"{path}: a summary of more than {MAX_BYTES} bytes:\n{text}")
    write_text_atomically(path, text)


def read_summary(path: Path | str) -> Summary:
    """Read and check a summary; one in results/ or artifacts/ has the names of its folder.

    Raises:
        UserError: missing, not JSON, not a summary of this schema version, or edited by hand.
    """
    values = read_json(path)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SUMMARY_SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version {version!r} is not {SUMMARY_SCHEMA_VERSION}; run that "
            "configuration again with this version of fastdllm"
        )
    problem = take_digest(values)
    summary = validated(Summary, named_by_place(values, path), str(path))
    if problem is not None:
        raise UserError(f"{path}: {problem}")
    return summary


def pack_bits(correct: Sequence[bool]) -> str:
    """Base64 of one bit per item, as in `Items`."""
    return bits.packed(correct)


def unpack_bits(items: Items) -> list[bool]:
    """The items' bits, in the order of the task's documents."""
    return bits.unpacked(items.n, items.correct_bits)


def json_schema() -> dict[str, Any]:
    """JSON schema of summary.json, for docs/schemas/summary.schema.json."""
    schema = Summary.model_json_schema()
    sizes = {"items": {"type": "integer"}, "type": "array"}
    schema["$defs"]["Items"]["properties"]["groups"]["anyOf"].insert(0, sizes)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
