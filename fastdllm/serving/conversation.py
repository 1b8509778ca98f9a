"""A conversation: its texts, its prompt as token ids, and its file.

A front end keeps one, asks `fitted` for the prompt of the next question, and adds the turn that
comes of it. Decodes nothing; imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json_object, write_json_atomically
from fastdllm.model.tokenizer import conversation_ids
from fastdllm.validation import StrictModel, validated

if TYPE_CHECKING:
    from fastdllm.model.config import ModelConfig
    from fastdllm.settings import DecodingSettings


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a character (a lone surrogate); write it whole") from None
    return text


WritableText = Annotated[str, AfterValidator(_writable)]


class Turn(StrictModel):
    """A question and its answer; `stopped`: the user stopped it, so that it may end anywhere."""

    question: WritableText = Field(min_length=1)
    answer: WritableText
    stopped: bool = False


class Conversation(StrictModel):
    """The system text, empty for none, and the turns so far; also the layout of its file."""

    system: WritableText = ""
    turns: list[Turn] = Field(default_factory=list)

    def with_turn(self, turn: Turn) -> Conversation:
        """Return the conversation with one more turn."""
        return Conversation(system=self.system, turns=[*self.turns, turn])

    def without_oldest(self, count: int) -> Conversation:
        """Return the conversation without its `count` oldest turns."""
        return Conversation(system=self.system, turns=self.turns[count:])

    def prompt_ids(self, tokenizer: Any, question: str) -> tuple[int, ...]:
        """Return the token ids of the conversation and its next question, by the chat template.

        Raises:
            UserError: the tokenizer has no chat template, or one that cannot write it.
        """
        if not tokenizer.chat_template:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template, which a "
                "conversation needs; ask with fastdllm generate --no-chat-template"
            )
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": question})
        return conversation_ids(tokenizer, messages)


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits, what is left of its conversation, and how many turns had to go."""

    ids: tuple[int, ...]
    conversation: Conversation
    dropped: int


def prompt_room(config: ModelConfig, settings: DecodingSettings) -> int:
    """Return the most tokens of a prompt: the model's positions less `max_new_tokens`."""
    from fastdllm.decoding.admission import usable_positions

    return usable_positions(config, settings.block_size) - settings.max_new_tokens


def fitted(conversation: Conversation, question: str, tokenizer: Any, *, room: int) -> FittedPrompt:
    """Return the prompt of a question, without the fewest oldest turns that make it fit.

    Args:
        room: most tokens of the prompt, as of `prompt_room`.

    Raises:
        UserError: the question does not fit even alone, or the chat template cannot write it.
    """

    def without(count: int) -> FittedPrompt:
        rest = conversation.without_oldest(count)
        return FittedPrompt(rest.prompt_ids(tokenizer, question), rest, count)

    best = without(0)
    if len(best.ids) <= room:
        return best
    too_few, best = 0, without(len(conversation.turns))
    if len(best.ids) > room:
        raise UserError(
            f"the question has {len(best.ids)} tokens with "
            + ("the system text and " if conversation.system else "")
            + f"the chat template, and beside max_new_tokens the model has room for {max(room, 0)};"
            " shorten it, or lower max_new_tokens"
        )
    # Few attempts, as each writes and encodes the whole conversation.
    while best.dropped - too_few > 1:
        middle = without((too_few + best.dropped) // 2)
        if len(middle.ids) <= room:
            best = middle
        else:
            too_few = middle.dropped
    return best


def load_conversation(path: Path) -> Conversation:
    """Read a conversation that `save_conversation` wrote.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file; name one that /save wrote")
    return validated(Conversation, read_json_object(path), str(path))


def save_conversation(conversation: Conversation, path: Path) -> None:
    """Write a conversation as JSON, in place of an older conversation only.

    Raises:
        UserError: the file holds something else, or the file system refused.
    """
    if path.exists():
        try:
            load_conversation(path)
        except UserError:
            raise UserError(
                f"{path}: is there already, and is no conversation; choose another name"
            ) from None
    write_json_atomically(path, conversation.model_dump())
