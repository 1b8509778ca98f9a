"""The end of a run: merge what shards left, score, write the result. Decodes nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdllm.common.files import write_json_atomically, write_text_atomically
from fastdllm.evaluation.answer_records import Header
from fastdllm.evaluation.answer_sources import Source
from fastdllm.evaluation.answers import AnswerLog
from fastdllm.evaluation.merging import merge, remove_traces
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.spec import RunSpec
from fastdllm.evaluation.stopping import Stop
from fastdllm.machine.provenance import git_state, package_versions
from fastdllm.results.result_files import keep_result_aside, stored_fingerprint
from fastdllm.results.summary import Summary, write_summary
from fastdllm.tasks.plan import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run tells in the end.

    is_new: False when the run had its result already and nothing was done.
    """

    summary: Summary
    unused_answers: int = 0
    is_new: bool = True

    def lines(self, folder: Path) -> list[str]:
        """What a person is told in the end."""
        primary = self.summary.primary
        lines = [f"{primary.metric} {self.summary.accuracy:.4f} -> {folder / 'summary.json'}"]
        if not self.is_new:
            lines[0] += " (was done already; --again repeats it)"
        if self.unused_answers:
            lines.append(f"warning: {self.unused_answers} answers belong to no item of the task")
        return lines


def conclude(
    spec: RunSpec,
    folder: Path,
    plan: Plan,
    log: AnswerLog,
    *,
    shards: Sequence[Source],
    header: Header,
    tokenizer: Any,
    progress: Progress,
    check_sources: Callable[[RunSpec], None],
    stop: Stop,
) -> Outcome:
    """Make the result of a run whose chunks are all there, in its log and in those of its shards.

    Closes the log. SIGUSR1 is only noted meanwhile, since a run that is decoded is soon done; one
    that is stopped or killed here loses nothing. With the result there, nothing is left to stop.

    Raises:
        Stopped: by SIGTERM.
        UserError: shards contradict each other, the task cannot be scored, a file not be written.
    """
    try:
        with stop.deferred(signal.SIGUSR1):
            log = merge(log, shards, plan=plan, header=header)
            progress.scoring()
            outcome = _score_and_write(
                spec,
                folder,
                plan,
                log,
                tokenizer=tokenizer,
                dtype=header.dtype,
                check_sources=check_sources,
            )
            log.append_end()
            stop.settle()
    finally:
        log.close()
    remove_traces(folder)
    progress.remove()
    return outcome


def _score_and_write(
    spec: RunSpec,
    folder: Path,
    plan: Plan,
    log: AnswerLog,
    *,
    tokenizer: Any,
    dtype: str,
    check_sources: Callable[[RunSpec], None],
) -> Outcome:
    # lm-eval takes seconds to import and decoding does not need it, so a failing decode is quick.
    from fastdllm.evaluation.scoring import score_answers
    from fastdllm.evaluation.summarize import Decoded, summarize
    from fastdllm.tasks.lm_eval_tasks import load_task

    chunks = [log.chunks[index] for index in sorted(log.chunks)]
    scores = score_answers(
        plan,
        [answer for chunk in chunks for answer in chunk.answers],
        tokenizer=tokenizer,
        task=load_task(spec.task, Path(spec.run.task_file).parent),
        bootstrap_iters=spec.run.bootstrap_iters,
    )
    summary = summarize(
        spec,
        plan=plan.header,
        decoded=Decoded(sessions=log.sessions, chunks=chunks, dtype=dtype),
        scores=scores,
        git=git_state(),
        environment=package_versions(),
    )
    check_sources(spec)
    path = folder / "summary.json"
    if path.exists() and stored_fingerprint(path) != spec.fingerprint:
        keep_result_aside(folder)
    lines = [_json_line(record) for record in scores.samples]
    write_json_atomically(folder / "results.json", scores.results)
    write_text_atomically(folder / "samples.jsonl", "".join(lines))
    write_summary(path, summary)
    return Outcome(summary, unused_answers=scores.unused_answers)


def _json_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
