"""The published decoding loop, plainly: `transformers`' Qwen2 layers and a cache that grows.

Written from the description in docs/decoding.md, as a reference for speed (published_loop.py) and
for tokens. As published: a batch decodes in lock-step, its next pass runs the whole block if one of
its sequences needs that, logits are computed for every row, and every pass concatenates keys and
values. Each sequence has the tokens that it has alone, which are those of `fastdllm.generate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from fastdllm.decoding.admission import special_tokens
from fastdllm.model.fused import Weights
from fastdllm.settings import DecodingSettings


class GrowingCache:
    """Keys and values of one batch, per layer [B, kv_heads, positions, d].

    prefix: of the committed blocks; grows by concatenation. block: of the current one. Before each
    pass, the loop says what `update`, which transformers' attention calls, is to keep: commits:
    the pass becomes part of the prefix. part: the pass runs only these columns of the block.
    writes: bool [B, columns], if a pass leaves some keys and values of the block as they are.
    """

    def __init__(self, layers: int) -> None:
        self.prefix: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.block: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.commits = False
        self.part: slice | None = None
        self.writes: Tensor | None = None

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Take the keys and values of a pass; return all that its rows see."""
        new, old, before = (key, value), self.block[layer], self.prefix[layer]
        if old is not None and self.part is not None:
            for whole, own in zip(old, new, strict=True):
                whole[:, :, self.part] = own
            new = old
        elif old is not None and self.writes is not None:
            where = self.writes[:, None, :, None]
            new = (torch.where(where, key, old[0]), torch.where(where, value, old[1]))
        if not self.commits:
            self.block[layer] = new
        if before is not None:
            new = (torch.cat((before[0], new[0]), dim=2), torch.cat((before[1], new[1]), dim=2))
        if self.commits:
            self.prefix[layer] = new
        return new

    def clear_block(self) -> None:
        """Forget the current block."""
        self.block = [None] * len(self.block)

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` of the batch."""
        self.prefix = [kv and (kv[0][rows], kv[1][rows]) for kv in self.prefix]


class PublishedLoop:
    """Decodes batches of prompts at temperature 0, to a fixed length each."""

    def __init__(self, weights: Weights, settings: DecodingSettings) -> None:
        """Copy the weights to transformers' layers.

        Raises:
            UserError: the model and the settings name no mask token.
        """
        config = weights.config
        self.mask_id, _ = special_tokens(config, settings.mask_id, settings.stop_token)
        self.settings = settings
        theirs = Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.max_positions,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_word_embeddings,
        )
        self.model = Qwen2ForCausalLM._from_config(theirs, attn_implementation="sdpa").eval()
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                weights.write(name, weight)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], *, batch: int) -> list[list[int]]:
        """Return `max_new_tokens` ids for each prompt, in their order; batches by length."""
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        answers: list[list[int]] = [[]] * len(prompts)
        for first in range(0, len(order), batch):
            chosen = order[first : first + batch]
            decoded = self._decode([prompts[index] for index in chosen])
            for index, answer in zip(chosen, decoded, strict=True):
                answers[index] = answer
        return answers

    def _decode(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        # Sequences of different length share the columns of one padded tensor, tokens: [B, T].
        size, count = self.settings.block_size, self.settings.max_new_tokens
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        limits = lengths + count
        blocks = -(-int(limits.max()) // size)
        tokens = torch.full((len(prompts), blocks * size), self.mask_id)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
        cache, decoded = GrowingCache(self.model.config.num_hidden_layers), tokens.clone()
        rows = torch.arange(len(prompts))
        first = int(lengths.min()) // size
        if first:
            self._commit(tokens, slice(0, first * size), lengths, cache)
        for block in range(first, blocks):
            columns = slice(block * size, (block + 1) * size)
            self._fill(tokens, columns, limits, cache)
            decoded[rows, : columns.stop] = tokens[:, : columns.stop]
            unfinished = limits > columns.stop
            if not unfinished.any():
                break
            if not unfinished.all():
                rows, tokens = rows[unfinished], tokens[unfinished]
                lengths, limits = lengths[unfinished], limits[unfinished]
                cache.select(unfinished)
            self._commit(tokens, columns, lengths, cache)
        return [
            decoded[row, len(prompt) : len(prompt) + count].tolist()
            for row, prompt in enumerate(prompts)
        ]

    def _fill(self, tokens: Tensor, block: slice, limits: Tensor, cache: GrowingCache) -> None:
        """Denoise one block, sub-block after sub-block, until each sequence has its tokens."""
        width, cache.commits = self.settings.small_block_size, False
        cache.clear_block()
        has_block = torch.zeros(len(tokens), dtype=torch.bool)
        for start in range(block.start, block.stop, width):
            sub = slice(start, start + width)
            is_wanted = torch.arange(sub.start, sub.stop) < limits[:, None]
            while True:
                is_masked = tokens[:, sub] == self.mask_id
                waits = (is_masked & is_wanted).any(dim=1)
                if not waits.any():
                    break
                needs_block = waits & (is_masked[:, 0] | ~has_block)
                if needs_block.any() or not self.settings.use_block_cache:
                    logits = self._whole_block(tokens, block, sub, waits & ~needs_block, cache)
                    has_block |= needs_block
                else:
                    cache.part = slice(sub.start - block.start, sub.stop - block.start)
                    logits = shifted(self._forward(tokens, sub, cache))
                    cache.part = None
                self._choose(tokens[:, sub], logits, is_masked & waits[:, None])

    def _whole_block(
        self, tokens: Tensor, block: slice, sub: slice, alone: Tensor, cache: GrowingCache
    ) -> Tensor:
        """Logits of `sub` from a pass over `block`.

        alone: sequences that would run their sub-block only. They share the pass, but of their keys
        and values only the sub-block's are renewed.
        """
        own = slice(sub.start - block.start, sub.stop - block.start)
        if self.settings.use_block_cache and alone.any():
            is_own = torch.zeros(block.stop - block.start, dtype=torch.bool)
            is_own[own] = True
            cache.writes = ~alone[:, None] | is_own
        logits = shifted(self._forward(tokens, block, cache))[:, own]
        cache.writes = None
        return logits

    def _choose(self, tokens: Tensor, logits: Tensor, is_masked: Tensor) -> None:
        """Write the proposals above the threshold, and the most confident one of each sequence."""
        logits[..., self.mask_id] = -torch.inf
        confidence, proposed = logits.softmax(dim=-1).max(dim=-1)
        confidence = torch.where(is_masked, confidence, -torch.inf)
        accepted = confidence > self.settings.threshold
        accepted.scatter_(1, confidence.argmax(dim=1, keepdim=True), value=True)
        accepted &= is_masked
        tokens[accepted] = proposed[accepted]

    def _commit(self, tokens: Tensor, columns: slice, lengths: Tensor, cache: GrowingCache) -> None:
        """Append `columns` to the prefix; the last row predicts the token after them."""
        cache.commits = True
        cache.clear_block()
        logits = self._forward(tokens, columns, cache)[:, -1]
        logits[:, self.mask_id] = -torch.inf
        if columns.stop < tokens.shape[1]:
            known = lengths > columns.stop
            after = tokens[:, columns.stop]
            tokens[:, columns.stop] = torch.where(known, after, logits.argmax(dim=-1))

    def _forward(self, tokens: Tensor, columns: slice, cache: GrowingCache) -> Tensor:
        """Run the layers on `columns`: logits [B, columns, V]."""
        body = self.model.model
        hidden = body.embed_tokens(tokens[:, columns])
        positions = torch.arange(columns.start, columns.stop)[None]
        rotation = body.rotary_emb(hidden, positions)
        mask, size = None, self.settings.block_size
        if columns.stop - columns.start > size:
            of_block = positions[0] // size
            mask = (of_block <= of_block[:, None])[None, None]
        for layer in body.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=rotation,
                past_key_values=cache,
                is_causal=False,
            )
        return self.model.lm_head(body.norm(hidden))


def shifted(logits: Tensor) -> Tensor:
    """Logits [B, T, V] that predict the position of each row: those of the row before it."""
    return torch.cat((logits[:, :1], logits[:, :-1]), dim=1)
