"""One run from its spec to its summary: lock, decode what is missing, score, write.

Resumable at any moment: answers.jsonl keeps finished chunks, and summary.json is written last. Ties
the other modules of this package together and holds no logic of its own.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from fastdllm.evaluation.answer_sources import held_chunks, shard_sources
from fastdllm.evaluation.answering import Call, answer_missing, header_of, told
from fastdllm.evaluation.answers import open_answers
from fastdllm.evaluation.end_marks import mark_as_scored
from fastdllm.evaluation.failures import failure_record, remove
from fastdllm.evaluation.finished import finished_summary, is_dated_for_a_repeat
from fastdllm.evaluation.finishing import Outcome, conclude
from fastdllm.evaluation.loading import load_plan_tokenizer
from fastdllm.evaluation.lock import run_lock
from fastdllm.evaluation.merging import remove_traces
from fastdllm.evaluation.plan_checks import check_plan
from fastdllm.evaluation.progress import Progress
from fastdllm.evaluation.requeue import guarded_attempt
from fastdllm.evaluation.runner import missing_chunks
from fastdllm.evaluation.shards import places
from fastdllm.evaluation.spec import RunSpec
from fastdllm.tasks.plan import read_plan


def evaluate_run(
    spec: RunSpec, folder: Path, call: Call, *, wait: bool = False, again: bool = False
) -> Outcome:
    """Finish one run in `folder` (results/E/T/C) and return its summary.

    What shards of the run have decoded is taken over.

    Args:
        wait: wait for a process that works on the same run.
        again: decode a run that has its result once more; so does a spec dated after the result.

    Raises:
        UserError: a wrong input, a locked or unwritable folder; failed.json tells it as well.
        Stopped: a signal came; the same call goes on.
    """
    own = places(folder, spec)
    with run_lock(folder, wait=wait), failure_record(own):
        call.check_sources(spec)
        remove_traces(folder)
        done = finished_summary(folder, spec)
        if done is not None and not again and not is_dated_for_a_repeat(folder):
            remove(own.progress)
            mark_as_scored(own.answers, done)
            return Outcome(done, is_new=False)
        plan = read_plan(Path(spec.run.plan_folder), spec.task)
        check_plan(spec, plan)
        device = call.device or spec.run.device
        header = header_of(spec, plan, device)
        with guarded_attempt(folder, pack=call.pack) as journal:
            shards = shard_sources(folder, header)
            held = held_chunks(plan, shards)
            asked = range(len(plan.header.chunks))
            log = open_answers(own.answers, header, reuse=done is None and not again)
            progress = Progress(own.progress, call.display, total=plan.header.n_requests)
            with (
                closing(log),
                closing(progress),
                told(log, progress, call, asked=asked, held=held),
            ):
                progress.loading(earlier=(held | log.chunks).values())
                tokenizer = load_plan_tokenizer(spec, plan)
                answer_missing(
                    spec,
                    plan,
                    log,
                    missing_chunks(plan, log, held=held),
                    tokenizer=tokenizer,
                    device=device,
                    progress=progress,
                    journal=journal,
                    call=call,
                )
                return conclude(
                    spec,
                    folder,
                    plan,
                    log,
                    shards=shards,
                    header=header,
                    tokenizer=tokenizer,
                    progress=progress,
                    check_sources=call.check_sources,
                    stop=call.stop,
                )
