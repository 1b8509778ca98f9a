"""A conversation at a terminal or through a pipe: questions are answered, commands obeyed.

Decoding is `Decode`, which it is given; closing its steps ends it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console

from fastdllm.chat.answer_views import AnswerView, LiveView, PlainView
from fastdllm.chat.figures import StepView, stats_line, visible
from fastdllm.chat.interrupts import no_echo, stop_on_interrupt
from fastdllm.common.console import counted, utf8_text
from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.paths import expanded
from fastdllm.serving.conversation import (
    Conversation,
    Turn,
    fitted,
    load_conversation,
    prompt_room,
    save_conversation,
)
from fastdllm.serving.partial import PartialAnswer
from fastdllm.settings import LAYER_SUBSETS, DecodingSettings
from fastdllm.validation import validated

if TYPE_CHECKING:
    from fastdllm import Generation, Step
    from fastdllm.model.fused import FusedModel

DEFAULT = "default"
Decode = Callable[[tuple[int, ...], DecodingSettings], Iterator["Step"]]


@dataclass(frozen=True, slots=True)
class Command:
    """What follows a command, what it does, and the method that does it."""

    arguments: str
    help: str
    method: str


COMMANDS = {
    "/help": Command("", "show this list", "_help"),
    "/set": Command("NAME VALUE ...", f"change settings; {DEFAULT} takes one back", "_set"),
    "/show": Command("", "show the settings and the conversation's size", "_show"),
    "/steps": Command("[on|off]", "a line per pass, in place of masks that fill in", "_steps"),
    "/system": Command("[TEXT]", "set the system text; without TEXT, remove it", "_system"),
    "/save": Command("FILE", "write the conversation as JSON", "_save"),
    "/load": Command("FILE", "go on with a conversation that was saved", "_load"),
    "/clear": Command("", "forget the turns; also: clear", "_clear"),
    "/exit": Command("", "end; also: exit, Ctrl-D", "_exit"),
}
WITH_PATHS = ("/save", "/load")
WITHOUT_SLASH = {"clear": "/clear", "exit": "/exit"}


class Talk:
    """One conversation and its settings.

    is_live: the terminal can move its cursor, so that masks fill in place.
    is_interactive: a person types, so that mistakes are said and do not end the program.
    """

    def __init__(
        self,
        model: FusedModel,
        tokenizer: Any,
        settings: DecodingSettings,
        decode: Decode,
        console: Console,
        *,
        is_live: bool,
        is_interactive: bool,
    ) -> None:
        from fastdllm.tasks.generation import AnswerText

        self.conversation = Conversation()
        self._model, self._tokenizer, self._decode = model, tokenizer, decode
        self._console, self._is_live, self._is_interactive = console, is_live, is_interactive
        self._text = AnswerText(tokenizer, until=None).text
        self._shows_steps = self._is_over = False
        self._settings = self._checked(settings.model_dump(exclude_unset=True), "options")

    def run(self, read: Callable[[], str | None]) -> None:
        """Take lines from `read` until one says exit, or it returns None.

        Raises:
            UserError: a line is wrong, and nobody is there to type another.
        """
        while not self._is_over:
            try:
                line = read()
                if line is None:
                    return
                self.take(utf8_text(line, "the line"))
            except KeyboardInterrupt:
                if not self._is_interactive:
                    raise
                self._say("Ctrl-D or exit ends the chat")
            except UserError as error:
                if not self._is_interactive:
                    raise
                self._console.print(f"fastdllm: {error}", style="red", markup=False)

    def take(self, line: str) -> None:
        """Answer a question, or obey a command.

        Raises:
            UserError: the line is wrong, or the question does not fit; nothing has changed.
        """
        word, _, rest = line.strip().partition(" ")
        if not word:
            return
        command = WITHOUT_SLASH.get(line.strip().lower(), word)
        if not command.startswith("/") or line[0].isspace():
            self._ask(line)
        elif command not in COMMANDS:
            raise unknown_name("command", command, COMMANDS)
        elif rest and not COMMANDS[command].arguments:
            raise UserError(f"{command} takes nothing after it")
        else:
            getattr(self, COMMANDS[command].method)(rest.strip())

    def _ask(self, question: str) -> None:
        """Answer a question; Ctrl-C keeps what there is of the answer."""
        settings = self._settings
        room = prompt_room(self._model.config, settings)
        prompt = fitted(self.conversation, question, self._tokenizer, room=room)
        partial = PartialAnswer(
            len(prompt.ids), block_size=settings.block_size, most=settings.max_new_tokens
        )
        steps = self._decode(prompt.ids, settings)
        with ExitStack() as stack:
            stack.callback(getattr(steps, "close", lambda: None))
            stop = stack.enter_context(stop_on_interrupt()) if self._is_interactive else None
            stack.enter_context(no_echo() if self._is_interactive else nullcontext())
            first = next(steps)
            if first.finished is not None and first.finished.error is not None:
                raise UserError(first.finished.error)
            if prompt.dropped:
                self._say(f"the context is full: the oldest {counted(prompt.dropped, 'turn')} went")
            generation = self._shown(first, steps, partial, prompt.ids, stop)
        answer = self._text(generation.token_ids, finish_reason=generation.finish_reason)
        is_stopped = partial.generation is None
        turn = Turn(question=question, answer=answer, stopped=is_stopped)
        self.conversation = prompt.conversation.with_turn(turn)
        line = stats_line(generation, partial.elapsed_s, self._model, settings)
        self._say(f"stopped | {line}" if is_stopped else line)

    def _shown(
        self,
        step: Step,
        steps: Iterator[Step],
        partial: PartialAnswer,
        prompt: tuple[int, ...],
        stop: Any,
    ) -> Generation:
        """Show an answer from its first step to its end, or to where it is stopped."""
        lines = StepView(self._console, self._tokenizer, prompt) if self._shows_steps else None
        is_live = self._is_live and lines is None
        view: AnswerView = (LiveView if is_live else PlainView)(self._console, self._text)
        with view:
            while True:
                partial.add(step)
                if lines is not None:
                    lines.show(step)
                elif partial.generation is None:
                    view.show(partial)
                if partial.generation is not None or (stop is not None and stop.is_set()):
                    break
                step = next(steps)
            generation = partial.generation or partial.stopped()
            view.finish(self._text(generation.token_ids, finish_reason=generation.finish_reason))
        return generation

    def _help(self, _: str) -> None:
        for name, command in COMMANDS.items():
            self._console.print(f"{name} {command.arguments}".strip(), style="bold", markup=False)
            self._console.print(f"    {command.help}", markup=False)
        self._console.print("Anything else is a question. Ctrl-C stops an answer.")

    def _set(self, text: str) -> None:
        words = text.replace("=", " ").split()
        if not words or len(words) % 2:
            raise UserError("/set takes names with values, such as /set threshold 0.8")
        given = self._settings.model_dump(exclude_unset=True)
        for name, value in zip(words[::2], words[1::2], strict=True):
            if value == DEFAULT and name in DecodingSettings.model_fields:
                given.pop(name, None)
            else:
                given[name] = value
        self._settings = self._checked(given, "/set")
        self._say(", ".join(f"{name} {_shown(self._settings, name)}" for name in words[::2]))

    def _show(self, _: str) -> None:
        for name in DecodingSettings.model_fields:
            is_given = name in self._settings.model_fields_set
            text = f"{name:<20}{_shown(self._settings, name)}"
            self._console.print(text, style="bold" if is_given else None, markup=False)
        self._console.print(f"{'steps':<20}{'on' if self._shows_steps else 'off'}")
        system = visible(self.conversation.system) or "none"
        self._console.print(f"{'system':<20}{system}", markup=False)
        self._console.print(f"{'turns':<20}{len(self.conversation.turns)}")

    def _steps(self, text: str) -> None:
        if text not in ("", "on", "off"):
            raise UserError(f"/steps takes on or off, not {text!r}")
        self._shows_steps = not self._shows_steps if text == "" else text == "on"
        self._say(f"steps are {'shown' if self._shows_steps else 'not shown'}")

    def _system(self, text: str) -> None:
        self.conversation = Conversation(system=text, turns=self.conversation.turns)
        self._say("the system text is set" if text else "no system text")

    def _save(self, text: str) -> None:
        save_conversation(self.conversation, _path(text, "/save"))
        self._say(f"{counted(len(self.conversation.turns), 'turn')} saved")

    def _load(self, text: str) -> None:
        self.conversation = load_conversation(_path(text, "/load"))
        self._say(f"{counted(len(self.conversation.turns), 'turn')} loaded")

    def _clear(self, _: str) -> None:
        self.conversation = Conversation(system=self.conversation.system)
        self._say("cleared")

    def _exit(self, _: str) -> None:
        self._is_over = True

    def _checked(self, values: dict[str, Any], where: str) -> DecodingSettings:
        """Return settings that are allowed, and fit the model."""
        from fastdllm.decoding.admission import check_settings

        settings = validated(DecodingSettings, values, where)
        check_settings(self._model.config, settings)
        return settings

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)


def offers(words: list[str]) -> Iterable[tuple[str, str]]:
    """What the last of the words may become, and a hint, for completion."""
    fields = DecodingSettings.model_fields
    if len(words) == 1:
        return [(name, command.help) for name, command in COMMANDS.items()]
    if words[0] == "/steps":
        return [("on", ""), ("off", "")]
    if words[0] != "/set":
        return []
    if len(words) % 2 == 0:
        return [(name, field.description or "") for name, field in fields.items()]
    values = [DEFAULT]
    if words[-2] == "layer_subset":
        values += LAYER_SUBSETS
    elif words[-2] in fields and bool in _kinds(words[-2]):
        values += ["true", "false"]
    return [(value, "") for value in values]


def _kinds(name: str) -> tuple[Any, ...]:
    annotation = DecodingSettings.model_fields[name].annotation
    return get_args(annotation) or (annotation,)


def _shown(settings: DecodingSettings, name: str) -> str:
    value = getattr(settings, name)
    return value if isinstance(value, str) else json.dumps(value)


def _path(text: str, command: str) -> Path:
    if not text:
        raise UserError(f"{command} takes the name of a file")
    return expanded(text)
