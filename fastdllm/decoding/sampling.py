"""From logits to one proposed token and its confidence per position.

Temperature 0 takes the most likely token; above 0 a nucleus sample. Knows nothing of blocks or
policies. Probabilities are float32 whatever the model's dtype.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_FLOAT32 = torch.finfo(torch.float32)


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the most likely tokens and their probabilities: logits float32 [..., V] to [...] each.

    The first index wins a tie. The probability is that of a softmax, which near 1 resolves more
    than exp(logit - logsumexp); at threshold 1.0 the order of commits depends on it.
    """
    probabilities = logits.softmax(dim=-1)
    if probabilities.device.type == "cpu":
        # numpy finds the index of a maximum ten times as fast as torch there.
        tokens = torch.from_numpy(probabilities.numpy().argmax(-1))
        return tokens, probabilities.amax(dim=-1)
    confidence, tokens = probabilities.max(dim=-1)
    return tokens, confidence


def nucleus_sample(
    logits: Tensor, *, temperature: float, top_p: float, uniform: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample from the nucleus of softmax(logits / T): float32 [W, V] to tokens, confidences [W].

    A token stays in the nucleus while the probability of those before it does not exceed `top_p`
    (Holtzman et al. 2019, arXiv 1904.09751, section 3.1; the first token always stays). The
    confidence is the token's renormalised probability in the nucleus, as in Fast-dLLM v2.

    Args:
        uniform: [W] draws from [0, 1), one per position; inverse-transform sampling.
    """
    # Beyond the range of float32 a temperature would be 0 or infinite.
    temperature = min(max(temperature, _FLOAT32.tiny), _FLOAT32.max)
    # The largest logit becomes 0, so that no temperature above 0 overflows.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    ordered, order = scaled.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    nucleus = ordered.masked_fill(before > top_p, 0.0)
    nucleus = nucleus / nucleus.sum(dim=-1, keepdim=True)
    choice = torch.searchsorted(nucleus.cumsum(dim=-1), uniform[:, None].to(nucleus), right=True)
    # Rounding may leave the last cumulative sum below a draw close to 1. Logits that are no numbers
    # are refused later, with the item; here they must not leave the row, which breaks a GPU.
    last = (nucleus > 0).sum(dim=-1, keepdim=True) - 1
    choice = choice.minimum(last).clamp_(min=0)
    return order.gather(-1, choice)[:, 0], nucleus.gather(-1, choice)[:, 0]


def request_seed(seed: int, prompt_ids: Sequence[int], occurrence: int) -> int:
    """Return the seed of one request's generator, which does not depend on other prompts.

    `occurrence` counts earlier requests with the same prompt, so that copies differ, and the n-th
    copy is sampled the same way in every list.
    """
    text = f"{seed}/{occurrence}/" + ",".join(map(str, prompt_ids))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
