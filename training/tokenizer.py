"""The tokenizer of the tiny model: byte-level BPE with Qwen's pre-tokenisation and ChatML.

Every digit is its own token. At most 512 tokens in all, learned from the generator's text; the
special tokens are those of Fast-dLLM v2. `transformers.AutoTokenizer` loads the saved folder with
neither remote code nor network.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.drills import draw_drill
from training.problems import draw_problem

VOCAB_SIZE = 512
PAD, START, STOP, MASK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "|<MASK>|"
SPECIALS = (PAD, START, STOP, MASK)
TEXTS = 4000
TEXT_SEED = "tokenizer"

# The splitting rule of the published Qwen2 tokenizer.json.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on text of the generator; the same one on every call."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=STOP,
        mask_token=MASK,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files into `folder`."""
    tokenizer.save_pretrained(folder)


def render_prompt(content: str) -> str:
    """Return the ChatML text of one user turn, up to where the answer begins."""
    return f"{START}user\n{content}{STOP}\n{START}assistant\n"


def _texts() -> list[str]:
    rng = Random(TEXT_SEED)
    texts = []
    for _ in range(TEXTS):
        problem = draw_problem(rng, held_out=False)
        drill = "".join(piece.text for piece in draw_drill(rng, 2))
        texts += [f"user\n{problem.question}", f"assistant\n{problem.answer}", drill]
    return texts
