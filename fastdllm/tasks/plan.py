"""The plan of a task: every request, tokenised once, in fixed chunks.

Owns plan.json and the files beside it: their records, how requests are split into chunks, and how
all are written and read. A chunk is decoded, kept and resumed as a whole. Knows no lm-eval,
tokenizer or model (see planning.py for where requests come from).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot, json_object, read_json, to_json, write_if_changed
from fastdllm.common.paths import split_task_folder
from fastdllm.decoding.prefix_tree import Branch, Tokens, grow
from fastdllm.validation import StrictModel, validated

RequestKind = Literal["generate_until", "loglikelihood"]
SCHEMA_VERSION: Literal[5] = 5  # of plan.json
# Beside plan.json: the spec that it was made from.
MADE_FROM = "made_from.json"
# Published models share whole blocks of 32 tokens. A plan serves any model; with other blocks it
# is just as valid and shares nearly as much.
SHARED_BLOCK = 32
# Marks a line of requests.jsonl without the prompt, which is that of the line before.
_SAME_PROMPT = "same_prompt"


class ItemError(UserError):
    """What is wrong with an item (`task:doc`) whose place in the data is not known."""

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(f"item {item}: {reason}")
        self.item = item


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One question to the model, as token ids.

    `item` names the first document that asks it (`task:doc`); `args` are lm-eval's own arguments.
    `target_ids` belongs to log-likelihood requests, `gen_kwargs` to generation requests.
    """

    id: str
    kind: RequestKind
    item: str
    prompt_ids: tuple[int, ...]
    args: tuple[Any, ...]
    target_ids: tuple[int, ...] = ()
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)


class PlanHeader(StrictModel):
    """plan.json: what was planned, with what, and which requests form which chunk."""

    schema_version: Literal[5] = SCHEMA_VERSION
    task: str
    limit: int | None = Field(description="Items per task; null means all.")
    chunk_size: int = Field(ge=1, description="Most requests in a chunk.")
    num_fewshot: int | None = Field(description="Examples in a prompt; null: the task's own.")
    apply_chat_template: bool
    chat_template: str | None = Field(description="Text of the template, when it was applied.")
    model_tokenizer_digest: str
    model_commit: str | None = Field(None, description="Of a model of the hub; null for a folder.")
    lm_eval_version: str
    n_items: int = Field(description="Documents of the task that are scored.")
    n_requests: int = Field(description="Requests after de-duplication.")
    item_digests: dict[str, list[str]] = Field(
        description="Per single task: a digest of what each item asks and of its target."
    )
    notices: list[str] = Field(
        [], description="What is odd about items or template, not refused, a line each; words only."
    )
    digest: str = Field(description="sha256 of requests.jsonl.")
    chunks: list[list[int]] = Field(
        description="Per chunk: line numbers in requests.jsonl, from 0."
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan with its requests."""

    header: PlanHeader
    requests: tuple[PlannedRequest, ...]

    @property
    def digest(self) -> str:
        """Digest of the requests and of the chunks they form; answers belong to one digest.

        Of a model of the hub also of its commit, since a branch moves.
        """
        parts = [self.header.digest, self.header.chunks]
        if self.header.model_commit is not None:
            parts.append(self.header.model_commit)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def items_digest(self) -> str:
        """Short digest of what is asked and expected, and of the commit of a hub's model."""
        parts = [self.header.item_digests, self.header.model_commit]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def budget(self) -> int | None:
        """The most tokens that an answer may have; None if none is generated."""
        budgets = (request.gen_kwargs.get("max_gen_toks") for request in self.requests)
        return max((budget for budget in budgets if budget is not None), default=None)

    def chunk(self, index: int) -> list[PlannedRequest]:
        """The requests of one chunk, in the order in which they are decoded."""
        return [self.requests[i] for i in self.header.chunks[index]]


def request_id(kind: str, args: Sequence[Any], repeat: int = 0) -> str:
    """Return the identity of a request: sha256 of kind, arguments and, from the second on, repeat.

    Keys are sorted, so the order in which a task file lists its generation_kwargs does not matter.
    """
    identity: list[Any] = [kind, list(args)]
    if repeat:
        identity.append(repeat)
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fixed_chunks(requests: Sequence[PlannedRequest], chunk_size: int) -> list[list[int]]:
    """Split requests into chunks of at most `chunk_size`, longest prompts first.

    The longest come first so that a lack of memory shows at once and the time left is never
    underestimated. Generation requests share a chunk only with equal gen_kwargs. Log-likelihood
    contexts that begin alike share one, as far as they fit; all options of a context stay together,
    even when they are more than `chunk_size`.
    """
    generate: dict[str, list[int]] = {}
    contexts: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        if request.kind == "generate_until":
            key = json.dumps(request.gen_kwargs, sort_keys=True)
            generate.setdefault(key, []).append(index)
        else:
            contexts.setdefault(request.prompt_ids, []).append(index)

    chunks: list[list[int]] = []
    for indices in generate.values():
        indices.sort(key=lambda i: -len(requests[i].prompt_ids))
        chunks += [indices[at : at + chunk_size] for at in range(0, len(indices), chunk_size)]
    return chunks + context_chunks(contexts, chunk_size)


def context_chunks(options: Mapping[Tokens, Sequence[int]], chunk_size: int) -> list[list[int]]:
    """Split the options of contexts into chunks of at most `chunk_size`.

    Scoring computes a shared prefix once per chunk, so contexts that begin alike belong together.
    Options of one context stay together, even when they are more. Contexts with a common prefix
    are neighbours, the longest first within each group and among groups. A group that does not fit
    into the rest of a chunk begins a new one, unless its members have less in common with each
    other than with those before them: then splitting it costs less.

    Args:
        options: per context its requests, as numbers.
    """
    contexts = list(options)
    counts = [len(options[context]) for context in contexts]
    chunks: list[list[int]] = [[]]
    pending = [grow(contexts, SHARED_BLOCK)]
    while pending:
        branch = pending.pop()
        n_taken = len(chunks[-1])
        fits = n_taken + sum(counts[member] for member in branch.members) <= chunk_size
        is_single = len(branch.members) == 1
        if n_taken and not fits and (is_single or branch.stop - branch.start >= branch.start):
            chunks.append([])
        if is_single:
            chunks[-1] += options[contexts[branch.members[0]]]
            continue
        ending = [Branch(branch.stop, branch.stop, [member]) for member in branch.ending]
        parts = [*branch.children, *ending]
        # The stack returns the last first.
        parts.sort(key=lambda part: part.members[0], reverse=True)
        parts.sort(key=lambda part: max(len(contexts[member]) for member in part.members))
        pending += parts
    return chunks if chunks[0] else []


def requests_text(requests: Sequence[PlannedRequest]) -> str:
    """The content of requests.jsonl: one request a line, keys without a value left out.

    A prompt that is that of the line before, as where options share one, is not repeated.
    """
    lines = []
    before: PlannedRequest | None = None
    for request in requests:
        # Not asdict, which copies each token: 2 s of five-shot gsm8k.
        values = {field.name: getattr(request, field.name) for field in fields(request)}
        prompt = (request.prompt_ids, request.args[0])
        if before is not None and prompt == (before.prompt_ids, before.args[0]):
            values |= {"prompt_ids": (), "args": request.args[1:], _SAME_PROMPT: True}
        record = {key: value for key, value in values.items() if value not in ((), {})}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        before = request
    return "".join(lines)


def write_plan(folder: Path, plan: Plan, *, made_from: str) -> None:
    """Write requests.jsonl and made_from.json, then plan.json, which is therefore always complete.

    Files that have that content already stay as they are: others may be reading them.

    Args:
        made_from: the text of the spec that the plan was made from.

    Raises:
        UserError: the file system refused.
    """
    plan_path, made_from_path = folder / "plan.json", folder / MADE_FROM
    try:
        if not made_from_path.exists() or made_from_path.read_bytes() != made_from.encode():
            # A kill from here on must not leave an old plan that seems to be of this spec.
            plan_path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("replace", plan_path, error) from None
    write_if_changed(folder / "requests.jsonl", requests_text(plan.requests))
    write_if_changed(made_from_path, made_from)
    write_if_changed(plan_path, to_json(plan.header.model_dump()))


def plan_again(task: str, limit: int | None) -> str:
    """Return the end of an error line about a plan that does not fit: the command to run."""
    return f"run `fastdllm plan --task {task}{f' --limit {limit}' if limit else ''}`"


def read_plan(folder: Path, task: str) -> Plan:
    """Read a plan and check that its two files belong together.

    Raises:
        UserError: no plan there, or a file was changed after planning.
    """
    path, requests_path = folder / "plan.json", folder / "requests.jsonl"
    # The plan itself may be what is missing, so its folder tells the limit.
    advice = plan_again(task, split_task_folder(folder.name)[1])
    for needed in (path, requests_path):
        if not needed.is_file():
            raise UserError(f"{needed}: the plan of task {task!r} is missing; {advice}")
    values = read_json(path)
    if isinstance(values, dict) and values.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: made by another version of fastdllm; {advice}")
    header = validated(PlanHeader, values, str(path))
    content = requests_path.read_bytes()
    if hashlib.sha256(content).hexdigest() != header.digest:
        raise UserError(f"{requests_path}: does not belong to {path.name}; {advice}")
    requests = tuple(_requests(content))
    placed = sorted(index for chunk in header.chunks for index in chunk)
    if not placed == list(range(len(requests))) == list(range(header.n_requests)):
        raise UserError(f"{path}: its chunks do not hold each request once; {advice}")
    return Plan(header=header, requests=requests)


def planned_sizes(folder: Path) -> list[int] | None:
    """Return the number of requests in each chunk of the plan in a folder, None without a plan."""
    try:
        return [len(chunk) for chunk in _header(folder)["chunks"]]
    except (KeyError, TypeError):
        return None


def planned_notices(folder: Path) -> list[str]:
    """Return what the plan in a folder names about its items; nothing without a plan."""
    notices = _header(folder).get("notices")
    return list(map(str, notices)) if isinstance(notices, list) else []


def planned_digest(folder: Path) -> str | None:
    """Return the digest of the requests that plan.json in a folder belongs to.

    None without a plan, and of one that another version of fastdllm made.
    """
    header = _header(folder)
    return header.get("digest") if header.get("schema_version") == SCHEMA_VERSION else None


def _header(folder: Path) -> dict[str, Any]:
    """Return plan.json as it is, without a check that it belongs to its requests."""
    return json_object(folder / "plan.json")


def _requests(content: bytes) -> Iterator[PlannedRequest]:
    before: PlannedRequest | None = None
    for line in content.splitlines():
        record = json.loads(line)
        for key in ("prompt_ids", "target_ids", "args"):
            if key in record:
                record[key] = tuple(record[key])
        if record.pop(_SAME_PROMPT, False):
            assert before is not None, "of the first line"
            record |= {"prompt_ids": before.prompt_ids, "args": (before.args[0], *record["args"])}
        before = PlannedRequest(**record)
        yield before
