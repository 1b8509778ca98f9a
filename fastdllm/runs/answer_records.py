"""The records of answers.jsonl; see answers.py for the file itself.

Knows no model, no task and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict

from fastdllm.decoding.sequence import PassCounts

SCHEMA_VERSION = 3
# A misspelt key would otherwise be an answer without that value.
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
OTHER_CODE = "decoded by other code than this"


@dataclass(frozen=True, slots=True)
class Header:
    """What all answers of a file share; another value of any key means another file.

    code_digest: of the code that decoded them; None in files of older versions.
    """

    fingerprint: str
    plan_digest: str
    dtype: str
    decides: Mapping[str, Any]
    code_digest: str | None = None

    def agrees_with(self, record: Mapping[str, Any]) -> bool:
        return self.difference_from(record) is None

    def difference_from(self, record: Mapping[str, Any]) -> str | None:
        """Return how answers under another header differ, in words; None if they do not."""
        if record.get("schema_version") != SCHEMA_VERSION:
            return "of another version of fastdllm"
        if record.get("fingerprint") != self.fingerprint:
            return "of other settings"
        if record.get("plan_digest") != self.plan_digest:
            return "of another plan"
        if record.get("dtype") != self.dtype:
            return (
                f"decoded in {record.get('dtype')}, but this device uses {self.dtype}; with a "
                "dtype named in workflow_config.yaml all devices use the same"
            )
        return OTHER_CODE if record.get("code_digest") != self.code_digest else None


@dataclass(frozen=True, slots=True)
class Session:
    """One process that worked on the run: where, with what, and its cost before decoding.

    load_s: None if the model was loaded already, for the run before in the same process.
    git: state of the code (`git_state`); None outside of git, and in older records.
    """

    __pydantic_config__ = STRICT

    device: str
    device_name: str
    threads: int | None
    host: str
    pid: int
    started: str
    load_s: float | None
    warm_up_s: float
    versions: Mapping[str, str]
    dtype_reason: str | None = None
    git: Mapping[str, Any] | None = None

    @property
    def hardware(self) -> tuple[str, int | None]:
        """Throughputs are comparable on the same hardware only."""
        return self.device_name, self.threads


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request; generation fills the first group, log-likelihood the second.

    committed_at: the number of the pass that committed each token, counted from 1 after the
    prefill; 0: the prefill itself.
    input_changes: one entry for each pass in which the policy measured them: the pass's number,
    then the relative change of each span's input (`Step.input_changes`), None if no earlier input
    was stored. Absent if nothing was measured.
    latency_s: from when the request entered a slot until this answer was complete.
    """

    id: str
    token_ids: tuple[int, ...] | None = None
    committed_at: tuple[int, ...] | None = None
    input_changes: tuple[tuple[int | float | None, ...], ...] | None = None
    finish_reason: str | None = None
    passes: PassCounts | None = None
    latency_s: float | None = None
    logprob: float | None = None
    is_greedy: bool | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The answers of one chunk and its cost, without loading and warm-up.

    recording_s: seconds, not among `seconds`, in which a GPU recorded shapes of passes at their
    first use.
    processor_s: of `seconds`, those in which the decoding thread was on a processor; None on a GPU,
        for which it waits, and in older records.
    batch_size: most sequences decoded at once (inputs in memory at once, for log-likelihoods).
    smallest_batch_size: at the end; fewer after memory ran out. out_of_memory: how often it did.
    confidence_counts: histogram of the tokens' confidences (commits.py); None for log-likelihoods.
    position_forwards: positions times layers run for them, summed over all passes; None for
        log-likelihoods, and in older records.
    session: which of the file's sessions decoded it; default: the last one before the chunk.
    was_paused: the process was stopped or frozen meanwhile, and continued, so `seconds` and
        latencies are no measure of its speed; None if not.
    """

    __pydantic_config__ = STRICT

    index: int
    seconds: float
    recording_s: float
    prompt_tokens: int
    peak_memory_gib: float
    batch_size: int
    smallest_batch_size: int
    out_of_memory: int
    answers: tuple[Answer, ...]
    session: int = 0
    confidence_counts: tuple[int, ...] | None = None
    was_paused: bool | None = None
    processor_s: float | None = None
    position_forwards: int | None = None
