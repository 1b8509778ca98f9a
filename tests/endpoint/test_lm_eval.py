"""lm-eval, which asks the endpoint as any other, scores what the workflow scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdllm import DecodingSettings, Request, generate
from fastdllm.model.tokenizer import prompt_ids
from fastdllm.records.bits import unpacked
from fastdllm.tasks.generation import AnswerText
from tests.endpoint.running import Running

pytestmark = pytest.mark.slow

TASK, ITEMS = "word_problems", 50
PUBLISHED = Path("artifacts/00_baseline") / TASK / "k1_first" / "summary.json"


def test_lm_eval_has_the_answers_of_generate_and_the_score_of_the_workflow(server: Running) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    result = simple_evaluate(
        "local-chat-completions",
        model_args={
            "model": "tiny",
            "base_url": f"{server.url}/chat/completions",
            "num_concurrent": 8,
        },
        tasks=[TASK],
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
        limit=ITEMS,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    assert result is not None
    samples = sorted(result["samples"][TASK], key=lambda sample: sample["doc_id"])
    tokenizer = server.served.tokenizer
    requests = [Request(prompt_ids(tokenizer, sample["doc"]["question"])) for sample in samples]
    answers = generate(server.served.model, requests, DecodingSettings(max_new_tokens=96))
    text = AnswerText(tokenizer, until="<|im_end|>").text
    assert [sample["resps"][0][0] for sample in samples] == [
        text(answer.token_ids, finish_reason=answer.finish_reason) for answer in answers
    ]
    right = [sample["exact_match"] == 1 for sample in samples]
    summary = json.loads(PUBLISHED.read_text())
    assert right == unpacked(summary["items"]["n"], summary["items"]["correct_bits"])[:ITEMS]
    assert 0 < result["results"][TASK]["exact_match,final-number"] == sum(right) / ITEMS
