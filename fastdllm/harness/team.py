"""The processes that torchrun or accelerate started for one evaluation, and how they share it.

Process 0 talks to lm-eval and has all requests; the others only answer chunks. Whoever is free
takes the next chunk, so an answer does not depend on who gives it. All that they exchange goes
through the store by which torch brings them together, as JSON: it is a port of the network, over
which nothing may come that is run.
"""

from __future__ import annotations

import json
import os
import signal
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter
from torch import distributed

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.runs.answer_records import Answer
from fastdllm.tasks.plan import PlannedRequest

# The others wait while process 0 reads data, and for their turn: for as long as that takes.
PATIENCE = timedelta(days=30)
# How long process 0 waits at its end for the others, if the store would end with it.
GOODBYE_S = 5.0
STORE_IS_ELSEWHERE = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun sets it
LOOK_S = 0.05
MOST_BYTES = 4 << 20  # the store refuses values of more than 8 MiB
# How many processes a starter without a rendezvous has started: each would do all the work.
APART = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
}
END = "end"

_ANSWERS = TypeAdapter(tuple[Answer, ...])
_REQUESTS = TypeAdapter(tuple[PlannedRequest, ...])

# The answers of a chunk and its seconds, None if they mean nothing.
Answered = tuple[tuple[Answer, ...], float | None]
# The same, and the number of the process that gave them.
AnsweredBy = tuple[tuple[Answer, ...], float | None, int]
AnswerChunk = Callable[[Sequence[PlannedRequest], Callable[[Answer], None]], Answered]


class Team:
    """This process among the others; alone if nobody started several."""

    def __init__(self) -> None:
        """Meet the others.

        Raises:
            UserError: several processes were started that know nothing of each other, or not how
                to meet.
        """
        self.size, self.rank = process_count(), 0
        self._calls = 0
        self._store: Any = None
        if self.size > 1:
            try:
                store, self.rank, _ = next(distributed.rendezvous("env://", timeout=PATIENCE))
            except ValueError as error:
                raise UserError(
                    f"{' '.join(str(error).split())}; torchrun and accelerate launch set it"
                ) from None
            # A program may make several models, one after the other.
            number = store.add(f"fastdllm/teams of {self.rank}", 1)
            self._store = distributed.PrefixStore(f"fastdllm/{number}", store)
            self._store.set_timeout(PATIENCE)
            if self.rank == 0:
                weakref.finalize(self, _dismiss, self._store, self.size)
            else:
                # Waiting for the store, Python itself would not notice Ctrl-C.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
        else:
            _check_alone()

    def serve(self, answer: AnswerChunk) -> None:
        """Answer chunks until process 0 has no more (for the others)."""
        for call in range(1 << 30):
            count = self._store.get(_key(call, "count")).decode()
            if count == END:
                self._store.add("left", 1)
                return
            for index in self._taken(call, int(count)):
                taken = take(self._store, _key(call, "requests", index))
                requests = _REQUESTS.validate_python(taken)
                answers, seconds = answer(requests, _ignore)
                dumped = [asdict(each) for each in answers]
                record = {"rank": self.rank, "seconds": seconds, "answers": dumped}
                put(self._store, _key(call, "answers", index), record)

    def answer(
        self,
        chunks: Sequence[Sequence[PlannedRequest]],
        answer: AnswerChunk,
        tell: Callable[[Answer], None],
    ) -> list[AnsweredBy]:
        """Have all chunks answered, here and by the others (for process 0).

        tell: gets each answer, those of others a chunk at a time.
        """
        call, self._calls = self._calls, self._calls + 1
        if self._store is None:
            return [(*answer(chunk, tell), self.rank) for chunk in chunks]
        for index, chunk in enumerate(chunks):
            records = [asdict(request) for request in chunk]
            put(self._store, _key(call, "requests", index), records)
        self._store.set(_key(call, "count"), str(len(chunks)))
        done: dict[int, AnsweredBy] = {}
        for index in self._taken(call, len(chunks)):
            drop(self._store, _key(call, "requests", index))
            done[index] = (*answer(chunks[index], tell), self.rank)
            self._collect(call, len(chunks), done, tell)
        while len(done) < len(chunks):
            time.sleep(LOOK_S)
            self._collect(call, len(chunks), done, tell)
        return [done[index] for index in range(len(chunks))]

    def _taken(self, call: int, count: int) -> Iterator[int]:
        """Take one chunk after the other that nobody has taken."""
        while (index := self._store.add(_key(call, "taken"), 1) - 1) < count:
            yield index

    def _collect(
        self, call: int, count: int, done: dict[int, AnsweredBy], tell: Callable[[Answer], None]
    ) -> None:
        for index in set(range(count)) - done.keys():
            key = _key(call, "answers", index)
            if self._store.check([key]):
                record = take(self._store, key)
                answers = _ANSWERS.validate_python(record["answers"])
                done[index] = answers, record["seconds"], record["rank"]
                for each in answers:
                    tell(each)


def process_count() -> int:
    """Return how many processes torchrun or accelerate started for this evaluation."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def serves() -> bool:
    """Whether this process answers for process 0, and talks to nobody itself."""
    return process_count() > 1 and os.environ.get("RANK") != "0"


def _check_alone() -> None:
    for variable, starter in APART.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            raise UserError(
                f"{starter} started {count} processes that know nothing of each other: each would "
                "do all the work and write the same files; start one that runs torchrun "
                "--nproc_per_node N -m fastdllm lm-eval ..., or accelerate launch"
            )
    # accelerate names a port where it was asked for several, and starts several by torchrun only.
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        notice(
            "accelerate launch was asked for several processes and has started one, as it does "
            "with --cpu; this one does all the work. Several: ACCELERATE_USE_CPU=true torchrun "
            "--nproc_per_node N -m fastdllm lm-eval ..."
        )


def _dismiss(store: Any, size: int) -> None:
    """Let the others end, which takes a moment unless they are in the middle of a chunk."""
    calls = 0
    while store.check([_key(calls, "count")]):
        calls += 1
    store.set(_key(calls, "count"), END)
    if os.environ.get(STORE_IS_ELSEWHERE) == "True":
        return
    deadline = time.monotonic() + GOODBYE_S
    while store.add("left", 0) < size - 1 and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def _key(call: int, what: str, index: int | None = None) -> str:
    return f"{call}/{what}" + ("" if index is None else f"/{index}")


def put(store: Any, key: str, value: Any) -> None:
    """Store a value as JSON, in pieces that the store takes; `key` is there last."""
    content = zlib.compress(json.dumps(value).encode(), 1)
    pieces = [content[at : at + MOST_BYTES] for at in range(0, len(content), MOST_BYTES)]
    for number, piece in enumerate(pieces):
        store.set(f"{key}/{number}", piece)
    store.set(key, str(len(pieces)))


def take(store: Any, key: str) -> Any:
    """Return a value that was put, and drop it."""
    pieces = [store.get(f"{key}/{number}") for number in range(int(store.get(key)))]
    drop(store, key)
    return json.loads(zlib.decompress(b"".join(pieces)))


def drop(store: Any, key: str) -> None:
    """Drop a value that was put: the store is in memory."""
    for number in range(int(store.get(key))):
        store.delete_key(f"{key}/{number}")
    store.delete_key(key)


def _ignore(answer: Answer) -> None:
    """The listener of processes that nobody listens to."""
