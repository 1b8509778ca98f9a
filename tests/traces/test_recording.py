"""A recording tells what the decoder did: its tokens, passes and texts, for every setting."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict

import pytest

from fastdllm import DecodingSettings, Request, decode, generate, load_model
from fastdllm.cli import main
from fastdllm.decoding.decoder import Decoder
from fastdllm.decoding.prefixes import PrefixStore
from fastdllm.model.config import EMBEDDED_MODEL
from fastdllm.model.tokenizer import load_tokenizer, prompt_ids
from fastdllm.policy import PassKind, default_policy
from fastdllm.tasks.generation import AnswerText
from fastdllm.traces.pieces import Pieces
from fastdllm.traces.record import read_trace, trace_of, trace_text
from fastdllm.traces.recording import TraceRecorder

QUESTION = "Tom has 12 apples. He buys 5 apples. How many apples does Tom have now?"
SETTINGS = {
    "published": {},
    "one by one": {"threshold": 1.0, "use_block_cache": False},
    "reuse": {"reuse_k": 3, "layer_subset": "middle", "threshold": 0.5},
    "look-ahead": {"lookahead_depth": 2, "lookahead_threshold": 0.5},
    "sampled": {"temperature": 1.3, "top_p": 1.0, "seed": 5, "reuse_k": 2, "layer_subset": "last"},
    "truncated": {"max_new_tokens": 7},
}


@pytest.fixture(scope="module")
def recorder():
    path = str(EMBEDDED_MODEL)
    return TraceRecorder(load_model(path, device="cpu"), load_tokenizer(path), path)


def traced(recorder, request, policy):
    """Trace one request; what is known meanwhile is a trace as well."""
    recording = recorder.start(request, policy)
    for number, step in enumerate(decode(recorder.model, [request], policy), start=1):
        recording.add(step, seconds=number / 8)
        meanwhile = recording.trace()
        assert len(meanwhile.steps) == number
        if step.finished is None:
            assert meanwhile.answer.finish_reason == "unfinished"
    assert trace_of(trace_text(meanwhile).encode(), "here") == meanwhile
    return meanwhile


@pytest.mark.parametrize("question", [QUESTION, QUESTION * 3, ""], ids=["one", "three", "none"])
@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_a_trace_has_the_tokens_of_generate(recorder, changes, question):
    settings = DecodingSettings(**changes)
    policy = default_policy(settings, recorder.model.config.num_layers)
    ids = prompt_ids(recorder.tokenizer, question, chat_template=bool(question))
    trace = traced(recorder, Request(ids, runners_up=3), policy)
    expected = generate(recorder.model, [ids], settings)[0]
    assert list(trace.answer.ids) == expected.token_ids
    assert trace.answer.finish_reason == expected.finish_reason
    assert trace.passes.model_dump() == asdict(expected.passes)
    assert trace.tokens_per_forward == expected.tokens_per_forward
    assert trace.settings == settings
    assert (trace.model.name, trace.device, trace.dtype) == ("tiny", "cpu", "float32")
    text = AnswerText(recorder.tokenizer, until=None).text
    answer = text(expected.token_ids, finish_reason=expected.finish_reason)
    assert trace.answer.text == answer
    shown = [trace.pieces[token] for token in trace.answer.ids]
    assert "".join(piece.text for piece in shown if not piece.is_special) == answer
    for step in trace.steps:
        assert all(len(group) == 3 for group in step.runners_up or ())


def test_what_a_request_sets_itself_is_what_the_trace_says(recorder):
    policy = default_policy(DecodingSettings(), recorder.model.config.num_layers)
    ids = prompt_ids(recorder.tokenizer, QUESTION)
    request = Request(ids, 5, temperature=0.5, stop_when=lambda ids: len(ids) == 3, runners_up=1)
    trace = traced(recorder, request, policy)
    assert trace.settings == DecodingSettings(max_new_tokens=5, temperature=0.5)
    assert (len(trace.answer.ids), trace.answer.finish_reason) == (3, "stop_when")


@pytest.mark.parametrize(
    "text", ["plain", " two  spaces\n", "naïve", "漢字かな", "👩‍🚀🇩🇪", "\x00\t"]
)
def test_pieces_that_are_parts_of_characters_join_to_the_text(recorder, text):
    pieces = Pieces(recorder.tokenizer)
    own = [
        pieces[token] for token in recorder.tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    joined = b"".join(bytes.fromhex(p.bytes) if p.bytes else p.text.encode() for p in own)
    assert joined.decode() == text


def test_special_tokens_and_rows_without_a_token_have_pieces_too(recorder):
    pieces = Pieces(recorder.tokenizer)
    stop = recorder.model.config.stop_tokens[0]
    assert (pieces[stop].text, pieces[stop].is_special) == ("<|im_end|>", True)
    assert (pieces[511].text, pieces[511].is_special) == ("<511>", True)


def test_generate_writes_a_trace_and_answers_the_same(tmp_path, capsys):
    path = tmp_path / "new" / "tom.json"
    assert main(["generate", QUESTION]) == 0
    plain = capsys.readouterr().out.splitlines()[:-1]
    assert main(["generate", QUESTION, "--trace", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == plain
    trace = read_trace(path)
    assert trace.answer.text.splitlines() == plain
    assert QUESTION in trace.prompt.text


def test_a_place_that_cannot_be_written_is_refused_before_decoding(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for place in ("file/tom.json", "folder.json"):
        assert main(["generate", QUESTION, "--trace", str(tmp_path / place)]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert place in error and error.count("\n") == 1


def test_a_trace_that_cannot_be_written_is_one_line(tmp_path, capsys, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["generate", QUESTION, "--trace", str(tmp_path / "tom.json")]) == 2
    out, error = capsys.readouterr()
    assert "####" in out
    assert "tom.json" in error and error.count("\n") == 1


def test_turns_that_keep_a_prefix_and_cancelled_requests_have_traces(recorder):
    """Such a prefill runs only what is new; a request may end before its first pass."""
    policy = default_policy(DecodingSettings(), recorder.model.config.num_layers)
    ids = prompt_ids(recorder.tokenizer, QUESTION * 4)
    decoder = Decoder.live(recorder.model, policy, slots=2, prefixes=PrefixStore(budget=2**24))

    def trace_of_turn(prompt, cancelled_after=None):
        request = Request(prompt, runners_up=2)
        recording, steps = recorder.start(request, policy), []
        index = decoder.add(request)
        while not steps or steps[-1].finished is None:
            if len(steps) == cancelled_after:
                decoder.cancel(index)
            steps += decoder.tick()
        for number, step in enumerate(steps):
            recording.add(step, number / 8)
        trace = recording.trace()
        assert trace_of(trace_text(trace).encode(), "here") == trace
        return trace

    first = trace_of_turn(ids)
    whole = len(ids) // 32 * 32
    for prompt in (ids, ids[:whole], (*ids[:whole], *ids)):
        again = trace_of_turn(prompt)
        assert list(again.answer.ids) == generate(recorder.model, [prompt])[0].token_ids
        prefills = [step.rows for step in again.steps if step.kind is PassKind.PREFILL]
        assert sum(prefills) <= len(prompt) - whole + 32
    assert first.steps[0].rows == whole
    for count in (0, 1, 3):
        stopped = trace_of_turn(ids[5:], cancelled_after=count)
        assert (stopped.answer.finish_reason, len(stopped.steps)) == ("cancelled", count)
    decoder.close()
