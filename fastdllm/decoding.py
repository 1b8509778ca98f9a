"""The generator of denoising steps: the only decoding loop of the project.

Chat, the web page, lm-eval, the workflow and the benchmark all stand on `decode`. It follows the
batch-1 rules for each sequence, whatever shares its batch, and yields one `Step` per sequence and
pass. Knows nothing of tokenizers, tasks or files. Rules: docs/decoding.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from fastdllm.admission import start_sequences
from fastdllm.model import BlockDiffusionModel
from fastdllm.passes import PassRunner
from fastdllm.policy import PassKind, Policy, default_policy
from fastdllm.proposals import (
    check_accepted,
    check_pass,
    check_spans,
    chosen_pass,
    propose,
    stored_logits,
    violation,
)
from fastdllm.sampling import exclude_mask_token
from fastdllm.sequence import DecodedSequence, Generation, Request
from fastdllm.settings import DecodingSettings

# The decoder alone decides on these: a skipped one would leave a ragged prefix cache.
WHOLE_BLOCK_PASSES = (PassKind.PREFILL, PassKind.COMMIT)


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of one sequence: what it committed, with which confidence, and what it cost.

    positions: absolute positions in the sequence; a commit or prefill pass may write the one token
        that follows it. confidences: probabilities; empty for tokens that no threshold judged.
    rows: positions that the pass ran through the layers (0 for a reused pass).
    finished: the answer, when this pass completed it.
    """

    request: int
    kind: PassKind
    block: int
    sub_block: int | None
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    rows: int
    layers_computed: int
    layers_skipped: int
    finished: Generation | None


def generate(
    model: BlockDiffusionModel,
    prompts: Iterable[Request | Sequence[int]],
    settings: DecodingSettings | None = None,
    policy: Policy | None = None,
) -> list[Generation]:
    """Answer `prompts` (token ids, or `Request`s) as one batch, in the order given.

    Raises:
        UserError: a setting, a prompt or the policy does not fit the model.
    """
    settings = settings or DecodingSettings()
    requests = [p if isinstance(p, Request) else Request(tuple(p)) for p in prompts]
    policy = policy or default_policy(settings, model.config.num_layers)
    finished: dict[int, Generation] = {}
    for step in decode(model, requests, policy, settings):
        if step.finished is not None:
            finished[step.request] = step.finished
    return [finished[index] for index in range(len(requests))]


@torch.inference_mode()
def decode(
    model: BlockDiffusionModel,
    requests: Sequence[Request],
    policy: Policy,
    settings: DecodingSettings,
) -> Iterator[Step]:
    """Decode `requests` together and yield a `Step` per sequence and pass, in a fixed order.

    Source: Fast-dLLM v2 (arXiv 2509.26328), with the corrections in docs/decoding.md.

    Raises:
        UserError: a request does not fit the model.
        PolicyViolation: the policy asked for what block diffusion does not allow.
    """
    check_spans(policy, model.config.num_layers)
    sequences = start_sequences(model.config, requests, settings)
    if not sequences:
        return
    blocks = max(-(-sequence.limit // settings.block_size) for sequence in sequences)
    runner = PassRunner(
        model,
        policy=policy,
        settings=settings,
        slots=len(sequences),
        capacity=blocks * settings.block_size,
    )
    active = sequences
    while active:
        for kind, group in _passes(policy, active):
            if kind in WHOLE_BLOCK_PASSES:
                yield from _whole_block_pass(runner, kind, group)
            else:
                yield from _denoising_pass(runner, kind, group, settings)
        active = [sequence for sequence in active if sequence.finish_reason is None]


def _passes(
    policy: Policy, active: list[DecodedSequence]
) -> list[tuple[PassKind, list[DecodedSequence]]]:
    """Group the sequences by the pass that each needs next, in a fixed order."""
    groups: dict[tuple[int, int], list[DecodedSequence]] = {}
    order = list(PassKind)
    for sequence in active:
        width = 0
        if sequence.needs_prefill:
            # One pass holds prompts of one length in blocks, so that nothing is padded.
            kind, width = PassKind.PREFILL, sequence.block
        elif sequence.is_full:
            kind = PassKind.COMMIT
        else:
            kind = chosen_pass(policy, sequence.state())
            if kind in WHOLE_BLOCK_PASSES:
                raise violation(policy, f"asked for a {kind} pass; only the decoder decides those")
        groups.setdefault((order.index(kind), width), []).append(sequence)
    return [(order[key[0]], groups[key]) for key in sorted(groups)]


def _whole_block_pass(
    runner: PassRunner, kind: PassKind, sequences: list[DecodedSequence]
) -> Iterator[Step]:
    """Prefill or commit; where a block ends with known tokens, its last row predicts the next."""
    hidden = runner.prefill(sequences) if kind is PassKind.PREFILL else runner.commit(sequences)
    predicting = [
        row
        for row, sequence in enumerate(sequences)
        if kind is PassKind.COMMIT or sequence.prompt_length == sequence.block_start
    ]
    next_tokens: dict[int, int] = {}
    if predicting:
        logits = runner.model.head(hidden[torch.tensor(predicting, device=hidden.device)])
        tokens = exclude_mask_token(logits, sequences[0].mask_id).argmax(dim=-1)
        next_tokens = dict(zip(predicting, tokens.tolist(), strict=True))
    for row, sequence in enumerate(sequences):
        rows = sequence.block_start if kind is PassKind.PREFILL else runner.block_size
        block = sequence.block
        sequence.count(kind, computed=runner.num_layers, skipped=0)
        if kind is PassKind.COMMIT:
            sequence.enter_next_block()
        sequence.needs_prefill = False
        written = {0: next_tokens[row]} if row in next_tokens else {}
        sequence.commit_tokens(written)
        yield _step(sequence, kind, block, written=written, rows=rows, skipped=0, runner=runner)


def _denoising_pass(
    runner: PassRunner,
    kind: PassKind,
    sequences: list[DecodedSequence],
    settings: DecodingSettings,
) -> Iterator[Step]:
    """Predict the masked positions that the policy looks at, and commit those that it accepts."""
    policy = runner.policy
    states = [sequence.state() for sequence in sequences]
    windows = [policy.window(state, kind) for state in states]
    for state, window in zip(states, windows, strict=True):
        check_pass(policy, kind=kind, window=window, state=state, settings=settings)
    if kind is PassKind.REUSED:
        logits = stored_logits(policy, sequences, windows)
        skipped = [runner.num_layers] * len(sequences)
    else:
        logits, skipped = runner.denoise(kind, sequences, states, windows)
        if policy.keeps_logits:
            for sequence, row, window in zip(sequences, logits, windows, strict=True):
                sequence.stored_logits = row[: window[1] - window[0]]
                sequence.stored_window = window
    predictions = propose(sequences, logits, windows)
    # Read before the policy sees them: it chooses positions, not tokens.
    tokens_of, confidences_of = predictions.tokens.tolist(), predictions.confidence.tolist()
    masked = predictions.masked.clone()
    accepted = policy.accept(predictions, states)
    check_accepted(policy, accepted, masked)
    sub_block_rows = {PassKind.SUB_BLOCK: settings.small_block_size, PassKind.REUSED: 0}
    results = zip(accepted.tolist(), tokens_of, confidences_of, strict=True)
    for row, (taken, tokens, confidences) in enumerate(results):
        sequence, start = sequences[row], windows[row][0]
        columns = [column for column, take in enumerate(taken) if take]
        sequence.count(kind, computed=runner.num_layers - skipped[row], skipped=skipped[row])
        sequence.lowest_confidence = min(confidences[column] for column in columns)
        sequence.committed_since_compute += len(columns)
        written = {start + column: tokens[column] for column in columns}
        sequence.commit_tokens(written)
        yield _step(
            sequence,
            kind,
            states[row].block,
            sub_block=states[row].sub_block,
            written=written,
            confidences=tuple(confidences[column] for column in columns),
            rows=sub_block_rows.get(kind, settings.block_size),
            skipped=skipped[row],
            runner=runner,
        )


def _step(
    sequence: DecodedSequence,
    kind: PassKind,
    block: int,
    *,
    written: dict[int, int],
    rows: int,
    skipped: int,
    runner: PassRunner,
    sub_block: int | None = None,
    confidences: tuple[float, ...] = (),
) -> Step:
    return Step(
        request=sequence.index,
        kind=kind,
        block=block,
        sub_block=sub_block,
        positions=tuple(sequence.block_start + offset for offset in written),
        tokens=tuple(written.values()),
        confidences=confidences,
        rows=rows,
        layers_computed=runner.num_layers - skipped,
        layers_skipped=skipped,
        finished=sequence.generation() if sequence.finish_reason else None,
    )
