"""An independent decoder, from docs/decoding.md alone: no cache, plain loops, patched layers."""

from typing import Any

import torch
from hypothesis import assume
from torch.nn.functional import rms_norm


def assert_equal(found: Any, expected: Any, margins: list[float]) -> None:
    """The same outcome, where no decision is so close that rounding may make it."""
    if found != expected:
        assume(min(margins, default=1.0) > 1e-4)
    assert found == expected


def _turn(x, theta):  # x: [heads, T, d]
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * theta ** -(torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)


def _forward(model, ids, bs, mask, live, kept, span=(), add=False, tau=None):
    """Logits [T, V]; rows outside `live`, and all in `span`, are `kept` (`add`: their change).

    tau: the span is computed after all where its input at masks has changed by more than that.
    """
    w, c, n, block = model.state_dict(), model.config, len(ids), torch.arange(len(ids)) // bs
    later = block[:, None] < block
    h = w["model.embed_tokens.weight"][torch.tensor(ids)]
    for i in range(c.num_layers):
        g = {k.removeprefix(f"model.layers.{i}."): v for k, v in w.items() if f"layers.{i}." in k}
        given = h.clone()
        if tau is not None and span and i == span[0]:
            holes = [p for p in live if ids[p] == mask]
            was = kept[i][4][holes]
            kept["change"] = float((h[holes] - was).norm() / was.norm())
            span = () if kept["change"] > tau else span
        x = rms_norm(h, h.shape[-1:], g["input_layernorm.weight"], c.rms_norm_eps)
        q, k, v = (
            x @ g[f"self_attn.{p}_proj.weight"].T + g[f"self_attn.{p}_proj.bias"] for p in "qkv"
        )
        q, k, v = (t.view(n, -1, c.head_dim).transpose(0, 1) for t in (q, k, v))
        q, k = _turn(q, c.rope_theta), _turn(k, c.rope_theta)
        old = [p for p in range((n - 1) // bs * bs, n) if p not in live or i in span]
        if old:
            k[:, old], v[:, old] = (stored[:, old] for stored in kept[i][:2])
        keys, values = (t.repeat_interleave(c.num_heads // c.num_kv_heads, 0) for t in (k, v))
        scores = (q @ keys.transpose(1, 2) / c.head_dim**0.5).masked_fill(later, -torch.inf)
        mixed = (scores.softmax(-1) @ values).transpose(0, 1).reshape(n, -1)
        h = h + mixed @ g["self_attn.o_proj.weight"].T
        x = rms_norm(h, h.shape[-1:], g["post_attention_layernorm.weight"], c.rms_norm_eps)
        gate, up = x @ g["mlp.gate_proj.weight"].T, x @ g["mlp.up_proj.weight"].T
        h = h + (gate * gate.sigmoid() * up) @ g["mlp.down_proj.weight"].T
        change = h - given
        if old:
            h[old], change[old] = kept[i][2][old], kept[i][3][old]
        if add and i in span:
            h[list(live)] = (given + change)[list(live)]
        if old:
            given[old] = kept[i][4][old]
        kept[i] = (k, v, h.clone(), change, given)
    kept["skipped"] = bool(span)
    h = rms_norm(h, h.shape[-1:], w["model.norm.weight"], c.rms_norm_eps)
    logits = h @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
    return logits.index_fill(1, torch.tensor([mask]), -torch.inf)


def slow_decode(model, prompt, s, mask, stop, span=(), add=False, tau=None, margins=None):
    """Generated ids, and the letters of the passes (P, F, S, C), at temperature 0.

    margins: a list that takes how far each decision was from the other one.
    """
    bs, sb, ids = s.block_size, s.small_block_size, list(prompt)
    letters, limit = "P" * (len(ids) >= bs), len(ids) + s.max_new_tokens
    while True:
        if len(ids) % bs == 0:
            whole = range(len(ids) - bs, len(ids))
            ids.append(int(_forward(model, ids, bs, mask, whole, {})[-1].argmax()))
        start = (len(ids) - 1) // bs * bs
        holes, kept, step, last, far = set(range(len(ids), start + bs)), {}, 0, None, {}
        in_a_row = 0
        ids += [mask] * len(holes)
        while True:
            gap = min(holes, default=len(ids))
            answer = ids[len(prompt) : min(gap, limit)]
            if stop in answer or gap >= limit:
                return answer[: answer.index(stop) + 1] if stop in answer else answer, letters
            if not holes:
                break
            a = gap // sb * sb
            entered = s.lookahead_depth and a != last
            full = not s.use_block_cache or not kept or a in holes or entered
            live = range(start, start + bs) if full else range(a, a + sb)
            reused = step % s.reuse_k if tau is None else in_a_row + 1 < s.reuse_k
            skip = span if not full and reused else ()
            logits = _forward(model, ids, bs, mask, live, kept, skip, add, tau)
            in_a_row = in_a_row + 1 if kept["skipped"] else 0
            letters, step, last = letters + ("F" if full else "S"), step + 1, a
            seen = range(a, start + bs if full else a + sb)
            rows = {p: max(p - 1, live[0]) for p in seen if p in holes}
            best = {p: logits[row].softmax(-1).topk(2) for p, row in rows.items()}
            far = best if full else far | best
            sure = {p: far[p].values[0] for p in far}
            own = [p for p in range(a, a + sb) if p in holes]
            top = max(own, key=lambda p: (sure[p], -p))
            chosen = [p for p in own if sure[p] > s.threshold or p == top]
            if margins is not None:
                ranked = sorted((float(sure[p]) for p in own), reverse=True)
                margins += [abs(value - s.threshold) for value in ranked]
                margins += [ranked[0] - ranked[1]] if len(ranked) > 1 else []
                margins += [abs(kept["change"] - tau)] if tau and "change" in kept else []
            for b in range(a + sb, min(a + sb * (1 + s.lookahead_depth), start + bs), sb):
                if not {p for p in holes if p < b} - set(chosen):
                    next_ones = [p for p in range(b, b + sb) if p in holes]
                    chosen += [p for p in next_ones if sure[p] > s.lookahead_threshold]
                    if margins is not None:
                        margins += [abs(float(sure[p]) - s.lookahead_threshold) for p in next_ones]
            for p in chosen:
                if margins is not None:
                    margins.append(float(far[p].values[0] - far[p].values[1]))
                ids[p] = int(far[p].indices[0])
                holes.discard(p)
        letters += "C"
