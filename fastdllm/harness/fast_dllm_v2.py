"""`fast_dllm_v2`, the model that lm-eval sees; importing this module registers it.

Prompts become requests as when a task is planned, and those are answered as in a run, so that a
direct evaluation gives the scores of plan, decode, score. Under torchrun or accelerate launch the
processes share the chunks (team.py), and lm-eval sees one process with all requests.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401 -- its own, which lm-eval adds only where there is no other
from lm_eval.api.model import hash_args
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string

from fastdllm.common.console import ProgressNumbers, notice, open_display
from fastdllm.common.errors import UserError
from fastdllm.harness.answerer import LM_EVAL_DEVICE, Answerer, device_of_process
from fastdllm.harness.arguments import WHERE, read_arguments
from fastdllm.harness.team import Team
from fastdllm.runs.answer_records import Answer
from fastdllm.tasks.generation import AnswerText, sampling_temperature
from fastdllm.tasks.lm_eval_models import PromptLM, request_ids
from fastdllm.tasks.plan import PlannedRequest, fixed_chunks
from fastdllm.tasks.planning import planned_requests
from fastdllm.workflow.project.config_files import TaskOptions

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import CacheHook

NAME = "fast_dllm_v2"
# Most requests in a chunk, as where a task of the workflow says nothing.
CHUNK_SIZE: int = TaskOptions.model_fields["chunk_size"].default
# Of several processes each gets about as many, so that none works long alone at the end.
CHUNKS_EACH = 4
# The settings that a task's generation_kwargs overrule, by their name there.
OVERRULED = {"max_new_tokens": "max_gen_toks", "temperature": "temperature", "top_p": "top_p"}
# Where a cache of answers names what gave them, and which of them belong to one item.
MARK, OPTIONS = "fastdllm", "fastdllm options"


@register_model(NAME)
class FastDLLM(PromptLM):
    """A Fast-dLLM v2 checkpoint with its decoding settings, by the names of `--model_args`.

    Where several processes were started, making one serves process 0 in all others, and does not
    return there.
    """

    def __init__(self, **arguments: Any) -> None:
        """Load the model.

        Raises:
            UserError: an argument that is unknown or not allowed, or what cannot be loaded.
            SystemExit: in a process that has served another one.
        """
        self._team = Team()
        asked = str(arguments.get("device", "auto"))
        device = device_of_process(asked, self._team.size)
        if device == "cpu" and asked == LM_EVAL_DEVICE and self._team.rank == 0:
            notice(f"no GPU is used here: decoding on the CPU (--device is {asked} by default)")
        self._arguments = read_arguments({**arguments, "device": device})
        self._answerer = Answerer(self._arguments)
        if self._team.rank > 0:
            self._team.serve(self._answerer.answer)
            sys.exit(0)
        super().__init__(self._answerer.tokenizer)
        self._device = self._answerer.engine.model.device
        self._cutters: dict[str, AnswerText] = {}
        self._tokens, self._seconds = 0, 0.0
        self._was_paused = False
        self._template_is_used = False
        self._remark: str | None = None

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> FastDLLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FastDLLM:
        """Make one from `--model_args`, which win over `--device` and `--batch_size`."""
        others = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**others, **arg_dict})

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not self._answerer.tokenizer.chat_template:
            raise UserError(
                f"{self._answerer.tokenizer.name_or_path}: has no chat template; leave out "
                "--apply_chat_template"
            )
        self._template_is_used = True
        return super().apply_chat_template(chat_history, add_generation_prompt)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        answers = self._answers("generate_until", requests)
        if self._arguments.model.show_speed:
            sys.stdout.write(f"{self._speed()}\n")
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        kept = self.cache_hook.dbdict
        if kept is not None:
            options: dict[str, list[str]] = {}
            for request in requests:
                options.setdefault(request.args[0], []).append(
                    hash_args("loglikelihood", request.args)
                )
            kept[OPTIONS] = [*kept.get(OPTIONS, ()), *options.values()]
        return self._answers("loglikelihood", requests)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Keep answers as they come, in a cache of this model and these settings only.

        lm-eval finds answers by prompt and options alone.

        Raises:
            UserError: its answers are of another model or other settings.
        """
        super().set_cache_hook(cache_hook)
        kept = cache_hook.dbdict
        if kept is None:
            return
        digest = self._arguments.digest()
        # A kill may have come between two options of an item, which are scored together.
        has = set(kept.keys())
        for keys in kept.get(OPTIONS, ()):
            if not has.issuperset(keys):
                for key in has.intersection(keys):
                    del kept[key]
        if not has:
            kept[MARK] = digest
        elif kept.get(MARK) != digest:
            raise UserError(
                f"{kept.filename}: holds answers of another model or other settings; give "
                "--use_cache another name (fastdllm lm-eval does so by itself)"
            )

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results: model, settings, and the speed if it decoded."""
        facts = self._answerer.facts() | {"processes": self._team.size}
        if self._seconds and not self._was_paused:
            facts["throughput"] = {
                "tokens_generated": self._tokens,
                "total_time_s": round(self._seconds, 6),
                "tokens_per_s": round(self._tokens / self._seconds, 3),
                "batch_size": self._answerer.batch_size,
            }
        if self._remark is not None:
            facts["remark"] = self._remark
        return facts

    def _answers(self, method: str, instances: Sequence[Instance]) -> list[Any]:
        """Answer requests of one kind, in their order."""
        if self._answerer.tokenizer.chat_template and not self._template_is_used:
            notice(
                "prompts are written without the model's chat template; --apply_chat_template "
                "writes them by it, as the published evaluation does"
            )
        keys = request_ids(instances)
        given = self._arguments.model.decoding
        requests = planned_requests(
            list(zip(keys, instances, strict=True)),
            self._answerer.tokenizer,
            budget=given.get("max_new_tokens"),
        )
        for request in requests:
            _check_overruled(request, given)
        self._answerer.check(requests)
        self._check_repeats(instances, requests)
        by_id = {request.id: request for request in requests}
        asked = {key: instance.args for key, instance in zip(keys, instances, strict=True)}
        results: dict[str, Any] = {}
        display = open_display(f"{NAME}: {instances[0].task_name}")

        def tell(answer: Answer) -> None:
            results[answer.id] = self._result(by_id[answer.id], answer)
            self.cache_hook.add_partial(method, asked[answer.id], results[answer.id])
            display.show(ProgressNumbers(len(results), len(requests)))

        try:
            self._answer_chunks(requests, tell)
        finally:
            display.close(ProgressNumbers(len(results), len(requests)))
        return [results[key] for key in keys]

    def _answer_chunks(self, requests: Sequence[PlannedRequest], tell: Any) -> None:
        chunks = [
            [requests[index] for index in chunk]
            for chunk in fixed_chunks(requests, self._chunk_size(requests))
        ]
        seconds_of: dict[int, float] = {}  # by process
        for answers, seconds, rank in self._team.answer(chunks, self._answerer.answer, tell):
            lengths = [len(answer.token_ids) for answer in answers if answer.token_ids is not None]
            if lengths and seconds is not None:
                self._tokens += sum(lengths)
                seconds_of[rank] = seconds_of.get(rank, 0.0) + seconds
            self._was_paused |= seconds is None
        # Processes work at once, and all wait for the slowest.
        self._seconds += max(seconds_of.values(), default=0.0)

    def _chunk_size(self, requests: Sequence[PlannedRequest]) -> int:
        """Return the most requests in a chunk; note where it depends on the number of processes."""
        model = self._arguments.model
        size = model.chunk_size or CHUNK_SIZE
        if model.batch_size == "auto" and model.max_batch_size is not None:
            size = min(size, model.max_batch_size)
        # Not likelihoods, which may differ in their last digit from chunks to chunks.
        is_shared = self._team.size > 1 and requests[0].kind == "generate_until"
        if model.chunk_size is not None or not is_shared:
            return size
        of_each = math.ceil(len(requests) / (CHUNKS_EACH * self._team.size))
        least = model.batch_size if isinstance(model.batch_size, int) else 1
        shared = min(size, max(of_each, least))
        dtype = self._answerer.engine.model.dtype
        if shared < min(size, len(requests)) and dtype.itemsize < 4:
            name = str(dtype).removeprefix("torch.")
            self._remark = (
                f"in {name}, answers may differ in places from those of another number of "
                f"processes, whose chunks have other sizes: chunk_size={shared} repeats these"
            )
            notice(self._remark)
        return shared

    def _result(self, request: PlannedRequest, answer: Answer) -> Any:
        if answer.token_ids is None:
            return answer.logprob, bool(answer.is_greedy)
        until = request.gen_kwargs.get("until")
        cutter = self._cutters.get(repr(until))
        if cutter is None:
            cutter = self._cutters[repr(until)] = AnswerText(self._answerer.tokenizer, until)
        return cutter.text(answer.token_ids, finish_reason=answer.finish_reason)

    def _check_repeats(
        self, instances: Sequence[Instance], requests: Sequence[PlannedRequest]
    ) -> None:
        """Refuse a cache for answers that are drawn several times: it has one for each prompt.

        lm-eval itself takes no answer from it where a task says do_sample.
        """
        most = max(Counter(map(id, instances)).values())
        setting = self._arguments.settings.temperature
        is_drawn = any(
            not request.gen_kwargs.get("do_sample")
            and sampling_temperature(request.gen_kwargs, setting) > 0
            for request in requests
        )
        if most > 1 and is_drawn and self.cache_hook.dbdict is not None:
            raise UserError(
                f"task {instances[0].task_name!r} draws {most} answers to each prompt, and "
                "--use_cache keeps one; leave it out"
            )

    def _speed(self) -> str:
        if self._was_paused:
            return "speed: not measured, as the process was paused while it decoded"
        rate = self._tokens / self._seconds if self._seconds else 0.0
        together = f" of {self._team.size} processes together" if self._team.size > 1 else ""
        return (
            f"speed: {self._tokens:,} tokens, each answer up to its first stop token, in "
            f"{self._seconds:.2f} s of decoding without loading and warm-up, batch size "
            f"{self._answerer.batch_size}: {rate:,.1f} tokens/s{together}"
        )


def _check_overruled(request: PlannedRequest, given: Mapping[str, Any]) -> None:
    """Refuse an argument that a task overrules, and that would have no effect.

    Raises:
        UserError: naming both, and how to overrule the task.
    """
    wishes = request.gen_kwargs
    task = request.item.partition(":")[0]
    for name, wish in OVERRULED.items():
        if name not in given or request.kind != "generate_until":
            continue
        value, says = given[name], wishes.get(wish, given[name])
        if name == "temperature" and wishes.get("do_sample") is False:
            says = 0.0
        if value != says:
            sampling = ",do_sample=true" if name == "temperature" else ""
            raise UserError(
                f"{WHERE}: {name} {value!r} has no effect on task {task!r}, whose "
                f"generation_kwargs say {says!r} and win; give --gen_kwargs "
                f"{wish}={value}{sampling}"
            )
