"""From answers, scores and environment to the summary of a run; pure arithmetic, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastdllm.common.files import now
from fastdllm.decoding.sequence import PassCounts
from fastdllm.records.summary import (
    Confidences,
    Git,
    Hardware,
    Latency,
    Passes,
    PeakMemory,
    Summary,
    Throughput,
)
from fastdllm.runs.answer_records import Answer, Chunk, Session
from fastdllm.runs.commits import EDGES
from fastdllm.runs.scoring import Scores
from fastdllm.runs.spec import RunSpec
from fastdllm.tasks.plan import Plan

# Most parts of a run whose speeds a summary records separately.
MOST_CHUNKS = 100
# Lines about the items that a summary repeats from the plan.
MOST_NOTICES = 5


@dataclass(frozen=True, slots=True)
class Decoded:
    """The content of the answers.jsonl of a complete run."""

    sessions: Sequence[Session]
    chunks: Sequence[Chunk]
    dtype: str
    code_digest: str | None = None

    @property
    def working_sessions(self) -> list[Session]:
        """The processes whose answers are in the file."""
        return [self.sessions[index] for index in sorted({chunk.session for chunk in self.chunks})]

    @property
    def has_one_speed(self) -> bool:
        """Whether one kind of device decoded all answers, without a pause."""
        devices = {session.hardware for session in self.working_sessions}
        return len(devices) == 1 and not any(chunk.was_paused for chunk in self.chunks)

    @property
    def seconds(self) -> float:
        return round(sum(chunk.seconds for chunk in self.chunks), 4)

    @property
    def generated(self) -> list[Answer]:
        return [a for chunk in self.chunks for a in chunk.answers if a.token_ids is not None]

    @property
    def n_answers(self) -> int | None:
        """Generated answers, if a group of tasks asks for log-likelihoods as well; else None."""
        n = len(self.generated)
        return n if 0 < n < sum(len(chunk.answers) for chunk in self.chunks) else None

    @property
    def batch_size(self) -> int:
        """Most sequences decoded at once; inputs in memory at once if none was decoded."""
        return max(chunk.batch_size for chunk in self._of_main_kind)

    @property
    def _of_main_kind(self) -> list[Chunk]:
        """The chunks of generation, as for throughput; all of a run without generation."""
        generated = [chunk for chunk in self.chunks if chunk.answers[0].token_ids is not None]
        return generated or list(self.chunks)

    @property
    def smallest_batch_size(self) -> int | None:
        """The smallest batch of a chunk, if it was not small for lack of requests; else None.

        Only for generation: equal inputs of log-likelihoods run once, so their number says nothing
        about memory.
        """
        if not self.generated:
            return None
        sizes = [
            chunk.smallest_batch_size
            for chunk in self._of_main_kind
            if chunk.smallest_batch_size < min(self.batch_size, len(chunk.answers))
        ]
        return min(sizes, default=None)

    @property
    def out_of_memory(self) -> int | None:
        """How often a pass ran out of memory; None for never."""
        return sum(chunk.out_of_memory for chunk in self.chunks) or None


def summarize(
    spec: RunSpec,
    *,
    plan: Plan,
    decoded: Decoded,
    scores: Scores,
    git: Mapping[str, Any] | None,
    environment: Mapping[str, str],
    weights_left_alone: Sequence[str],
    notices: Sequence[str],
) -> Summary:
    """Build the summary of a complete run.

    notices: about the model.
    """
    sessions = decoded.working_sessions
    devices = list(dict.fromkeys(session.hardware for session in sessions))
    primary = next(metric for metric in scores.metrics if metric.primary)
    gpus = dict.fromkeys(s.device_name for s in sessions if s.device == "cuda")
    peak = max(decoded.chunks, key=lambda chunk: chunk.peak_memory_gib)
    eval_params = {
        "n_items": plan.header.n_items,
        "n_requests": plan.header.n_requests,
        "n_answers": decoded.n_answers,
        "items_digest": plan.items_digest,
        "task_definition": spec.run.task_definition,
        "model_commit": plan.header.model_commit,
        "chunk_size": plan.header.chunk_size,
        "batch_size": decoded.batch_size,
        "smallest_batch_size": decoded.smallest_batch_size,
        "limit": plan.header.limit,
        "max_gen_toks": plan.budget,
        "num_fewshot": plan.header.num_fewshot,
        "apply_chat_template": plan.header.apply_chat_template,
        "likelihood_mode": None if decoded.generated else spec.decides.get("likelihood_mode"),
        "bootstrap_iters": spec.run.bootstrap_iters,
        "seed": spec.settings.seed,
    }
    return Summary(
        experiment=spec.experiment,
        task=spec.task,
        config=spec.config,
        timestamp=now(),
        fingerprint=spec.fingerprint,
        decides=spec.decides,
        computation=spec.run.computation,
        claims=spec.run.claims,
        accuracy=primary.value,
        metrics=scores.metrics,
        group_results=scores.group_results,
        items=scores.items,
        tied_items=scores.tied_items or None,
        **_decoding_figures(decoded),
        decoding_s=decoded.seconds if decoded.has_one_speed else None,
        out_of_memory=decoded.out_of_memory,
        peak_memory=PeakMemory(
            gib=peak.peak_memory_gib,
            kind="cuda_allocated"
            if decoded.sessions[peak.session].device == "cuda"
            else "process_resident",
            slots=peak.batch_size if peak.answers[0].token_ids is not None else None,
        ),
        load_time_s=sessions[-1].load_s,
        warm_up_s=sessions[-1].warm_up_s,
        resumed=len(sessions) > 1,
        dtype=decoded.dtype,
        code_digest=decoded.code_digest,
        dtype_reason=sessions[-1].dtype_reason,
        hardware=[
            Hardware(device="cpu" if threads else "cuda", name=name, threads=threads)
            for name, threads in devices
        ],
        gpu_info=", ".join(gpus) or None,
        **_commit([*(session.git for session in sessions), git]),
        environment=_versions([*(session.versions for session in sessions), environment]),
        weights_left_alone=list(weights_left_alone) or None,
        notices=[*notices, *_first(plan.header.notices)] or None,
        model_args=_model_args(spec),
        eval_params={key: value for key, value in eval_params.items() if value is not None},
    )


def _position_forwards(chunks: Sequence[Chunk]) -> int | None:
    """Return the sum over all chunks; None if some were decoded before it was counted."""
    counts = [chunk.position_forwards for chunk in chunks]
    return None if None in counts else sum(count for count in counts if count is not None)


def _decoding_figures(decoded: Decoded) -> dict[str, Any]:
    """The figures of generation: passes, tokens per forward, latency, truncation, throughput."""
    answers = decoded.generated
    if not answers:
        return {}
    passes = sum((answer.passes for answer in answers if answer.passes), PassCounts())
    tokens = sum(len(answer.token_ids or ()) for answer in answers)
    latencies = [answer.latency_s for answer in answers if answer.latency_s is not None]
    n_truncated = sum(answer.finish_reason == "length" for answer in answers)
    chunks = [chunk for chunk in decoded.chunks if chunk.answers[0].token_ids is not None]
    counts = zip(*(chunk.confidence_counts or () for chunk in chunks), strict=True)
    figures: dict[str, Any] = {
        "passes": Passes(**asdict(passes)),
        "position_forwards": _position_forwards(chunks),
        "truncation_rate": round(n_truncated / len(answers), 6),
        "confidences": Confidences(edges=list(EDGES), counts=[sum(bin_) for bin_ in counts]),
    }
    if passes.forwards:
        figures["tokens_per_forward"] = round(tokens / passes.forwards, 4)
    if decoded.has_one_speed:
        p50, p95 = np.percentile(latencies, (50, 95)).tolist()
        figures["latency_s"] = Latency(p50=round(p50, 4), p95=round(p95, 4))
        seconds = sum(chunk.seconds for chunk in chunks)
        figures["throughput"] = Throughput(
            tokens_generated=tokens,
            total_time_s=round(seconds, 4),
            tokens_per_s=round(tokens / seconds, 2),
            recording_s=round(sum(chunk.recording_s for chunk in chunks), 4) or None,
            processor_share=_processor_share(chunks),
            chunks=_tokens_and_seconds(chunks),
        )
    return figures


def _processor_share(chunks: Sequence[Chunk]) -> float | None:
    """Return the share of the chunks' seconds on a processor; None unless each recorded it."""
    on_processor = [chunk.processor_s for chunk in chunks if chunk.processor_s is not None]
    if len(on_processor) < len(chunks):
        return None
    return round(sum(on_processor) / sum(chunk.seconds for chunk in chunks), 4)


def _tokens_and_seconds(chunks: Sequence[Chunk]) -> list[tuple[int, float]]:
    """Tokens and seconds of each chunk, or of neighbours together if there are many."""
    width = -(-len(chunks) // MOST_CHUNKS)
    parts = [chunks[start : start + width] for start in range(0, len(chunks), width)]
    return [
        (
            sum(len(answer.token_ids or ()) for chunk in part for answer in chunk.answers),
            round(sum(chunk.seconds for chunk in part), 4),
        )
        for part in parts
    ]


def _commit(of_processes: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the fields of the commit that all processes ran, or why there is not one."""
    states = [state for state in of_processes if state]
    commits = list(dict.fromkeys(state["commit"] for state in states if "commit" in state))
    reasons = [state["unknown"] for state in states if "unknown" in state]
    if len(commits) > 1:
        reasons.append(f"made with the code of several commits: {', '.join(commits)}")
    if reasons:
        return {"git_unknown": reasons[0]}
    is_dirty = any(state["dirty"] for state in states)
    return {"git": Git(commit=commits[0], dirty=is_dirty)} if commits else {}


def _versions(of_processes: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return each package with its versions in the processes that decoded or scored."""
    names = dict.fromkeys(name for versions in of_processes for name in versions)
    found = {name: [v[name] for v in of_processes if name in v] for name in names}
    return {name: " and ".join(dict.fromkeys(versions)) for name, versions in found.items()}


def _first(notices: Sequence[str]) -> list[str]:
    """Return the first lines about the items, the last of them with the number of the others."""
    if len(notices) <= MOST_NOTICES:
        return list(notices)
    n_left = len(notices) - MOST_NOTICES + 1
    return [*notices[: MOST_NOTICES - 1], f"{n_left} more such remarks about the items"]


def _model_args(spec: RunSpec) -> dict[str, Any]:
    """The settings under the names of the published `--model_args`."""
    decoding = {
        key: value
        for key, value in spec.settings.model_dump(mode="json").items()
        if value is not None
    }
    return {"model_path": spec.run.model_path, "experiment_name": spec.experiment, **decoding}
