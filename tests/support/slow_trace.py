"""An independent measurement: no cache, plain loops, one layer patched at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tests.support.slow_decoder import _forward

# A decision nearer than this to another one may fall either way in float32.
CLEAR = 2e-3


@dataclass
class SlowPass:
    """One sub-block pass. changed: per span, None where rounding could decide."""

    block: int
    sub_block: int
    step: int
    masked: int
    input_change: list[float] = field(default_factory=list)
    delta_change: list[float] = field(default_factory=list)
    changed: list[bool | None] = field(default_factory=list)


def committed(logits, rows, threshold):
    """What a pass commits ({position: token}), and how near it is to committing something else."""
    ordered = {p: logits[row].softmax(-1).sort(descending=True) for p, row in rows.items()}
    best = {p: float(o.values[0]) for p, o in ordered.items()}
    top = max(best, key=lambda p: (best[p], -p))
    taken = {p: int(ordered[p].indices[0]) for p in best if best[p] > threshold or p == top}
    gaps = [abs(value - threshold) for value in best.values()]
    gaps += [float(ordered[p].values[0] - ordered[p].values[1]) for p in taken]
    if best[top] <= threshold:
        gaps += [best[top] - value for p, value in best.items() if p != top]
    return taken, min(gaps)


def relative(new, old):
    return float((new - old).norm() / old.norm())


@torch.inference_mode()
def slow_trace(model, prompt, s, spans, mask, most_passes):
    """The first `most_passes` sub-block passes of a plain decoding, and its tokens until then."""
    bs, sb, ids, found = s.block_size, s.small_block_size, list(prompt), []
    embedding = model.state_dict()["model.embed_tokens.weight"]
    while True:
        if len(ids) % bs == 0:
            whole = range(len(ids) - bs, len(ids))
            ids.append(int(_forward(model, ids, bs, mask, whole, {})[-1].argmax()))
        start = (len(ids) - 1) // bs * bs
        holes, kept, step = set(range(len(ids), start + bs)), {}, 0
        ids += [mask] * len(holes)
        while holes:
            a = min(holes) // sb * sb
            full = not kept or a in holes
            live = range(start, start + bs) if full else range(a, a + sb)
            before, kept = kept, dict(kept)
            logits = _forward(model, ids, bs, mask, live, kept)
            rows = {p: max(p - 1, live[0]) for p in range(a, a + sb) if p in holes}
            taken, gap = committed(logits, rows, s.threshold)
            if not full:
                one = SlowPass(start // bs, (a - start) // sb, step, len(rows))
                now, then = ([embedding[torch.tensor(ids)]] * 2,) * 2
                for layer in range(model.config.num_layers):
                    now = now[1], kept[layer][2]
                    then = then[1], before[layer][2]
                    at = list(rows)
                    one.input_change.append(relative(now[0][at], then[0][at]))
                    one.delta_change.append(
                        relative((now[1] - now[0])[at], (then[1] - then[0])[at])
                    )
                for span in spans:
                    patched = _forward(
                        model, ids, bs, mask, live, dict(before), range(*span), add=True
                    )
                    other, own_gap = committed(patched, rows, s.threshold)
                    clear = min(gap, own_gap) > CLEAR
                    one.changed.append(other != taken if clear else None)
                found.append(one)
                if len(found) == most_passes:
                    return found, ids
            for p, token in taken.items():
                ids[p] = token
                holes.discard(p)
            step += 1
