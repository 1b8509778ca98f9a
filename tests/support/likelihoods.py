"""An independent scorer of log-likelihoods, requests that share prefixes, and counts of rows."""

from __future__ import annotations

import random

import pytest
import torch

from fastdllm.decoding.events import PassRecord, SlotsChosen
from fastdllm.decoding.likelihood import LikelihoodRequest
from fastdllm.model.config import ModelConfig
from fastdllm.model.plain import BlockDiffusionModel

MASK, STOP = 255, 254
EXACT = 1e-5
IDS = {"mask_id": MASK, "stop_token": STOP}


def steady_network(config: ModelConfig) -> BlockDiffusionModel:
    """A network whose weights do not amplify rounding: two forms of it are 4e-6 apart at most.

    The golden ones do: in float32 the plain way itself is up to 6e-4 from double precision there.
    """
    torch.manual_seed(0)
    model = BlockDiffusionModel(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def inputs_of(request, mode, size):
    """(whole input, position read, token asked for), by the words of docs/decoding.md."""
    prefix, target = request.prefix_ids, request.target_ids
    for i, token in enumerate(target if mode == "chain" else target[:1]):
        behind = [] if mode == "chain" else [*target[1:], STOP]
        tokens = [*prefix, *target[:i], MASK, *behind]
        tokens += [MASK] * (-len(tokens) % size)
        yield tokens, max(len(prefix) + i - 1, 0), token


@torch.inference_mode()
def plain_scores(model, requests, mode, size):
    """One input at a time, whole, under a mask, through the plain network: (logprob, is_greedy)."""
    scores = []
    for request in requests:
        total, greedy = 0.0, mode == "chain" or len(request.target_ids) == 1
        for tokens, read_at, token in inputs_of(request, mode, size):
            hidden = model.run_layers(
                model.embed(torch.tensor([tokens])),
                0,
                model.config.num_layers,
                positions=torch.arange(len(tokens)),
                mask=block_causal_mask(len(tokens), size),
            )
            logprobs = model.head(hidden[0, read_at]).log_softmax(0)
            total += float(logprobs[token])
            greedy = greedy and int(logprobs.argmax()) == token
        scores.append((total, greedy))
    return scores


def assert_plain(got, model, requests, mode="published", size=32, tolerance=EXACT):
    assert_scores(got, plain_scores(model, requests, mode, size), tolerance)


def assert_scores(got, expected, tolerance=EXACT):
    assert [g.logprob for g in got] == pytest.approx([e for e, _ in expected], abs=tolerance, rel=0)
    assert [g.is_greedy for g in got] == [greedy for _, greedy in expected]


def distinct_rows(requests, mode, size):
    """Rows of all distinct blocks, a block being all that stands before its end."""
    paths = set()
    for request in requests:
        for tokens, read_at, _ in inputs_of(request, mode, size):
            paths |= {tuple(tokens[:end]) for end in range(size, read_at + size + 1, size)}
    return len(paths) * size


def nested_requests(seed, size, *, stems=3, most=5):
    """Subjects, questions and options that share prefixes of many lengths, exact blocks included.

    Some requests are equal, some prefixes empty, and some end where others go on.
    """
    rng = random.Random(seed)

    def some(lengths):
        return tuple(rng.randrange(250) for _ in range(rng.choice(lengths)))

    lengths = [0, 1, size - 1, size, size + 1, 2 * size, 2 * size + 5]
    requests = []
    for _ in range(stems):
        subject = some(lengths)
        for _ in range(rng.randint(1, 3)):
            question = subject + some(lengths)
            target = some([1, 1, 3, size + 2])
            # Options with a common beginning, as "the heart" and "the lungs".
            options = [target[: rng.randint(0, len(target))] + some([1, 2]) for _ in range(most)]
            requests += [LikelihoodRequest(question, option) for option in options[:3]]
            requests.append(LikelihoodRequest(question, rng.choice(options)))
    rng.shuffle(requests)
    return requests


def rows_run(records):
    return sum(record.rows for record in records if isinstance(record, PassRecord))


def slots(records):
    return [record.slots for record in records if isinstance(record, SlotsChosen)]


def block_causal_mask(length: int, block_size: int) -> torch.Tensor:
    """Bool [T, T]: query p may attend to key q iff q's block is not later than p's.

    Source: Fast-dLLM v2 (arXiv 2509.26328); blocks are aligned to absolute position 0.
    """
    block = torch.arange(length) // block_size
    return block[:, None] >= block[None, :]
