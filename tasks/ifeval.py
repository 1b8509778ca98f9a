"""Scores answers to IFEval by lm-eval's own checks, offline and the same on every machine.

Three things differ from lm-eval's task. Sentences are found by nltk's Punkt with parameters that
stand here, not with its data `punkt_tab`, which lm-eval downloads when it is imported. Languages
are detected with a seed. And where a row asks for a letter such as `#`, that letter is counted,
where lm-eval draws another one at random.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import langdetect
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer


def _lm_eval_checks() -> tuple[Any, Any]:
    """Import lm-eval's checks and their registry, of which only rank 0 downloads data of nltk."""
    rank = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "1"
    try:
        from lm_eval.tasks.ifeval import instructions, instructions_registry
    finally:
        del os.environ["LOCAL_RANK"]
        if rank is not None:
            os.environ["LOCAL_RANK"] = rank
    return instructions, instructions_registry


_CHECKS, _REGISTRY = _lm_eval_checks()
_RELATIONS = ("less than", "at least")
_PATTERNS = ("keyword", "keywords", "forbidden_words", "postscript_marker", "section_spliter")

# Abbreviations at which Punkt's English model ends no sentence. It knows neither "e.g." nor "i.e.",
# "etc.", "Rev." or "No.".
_ABBREVIATIONS = """
    mr mrs ms messrs dr prof gen col maj lt adm sen rep reps jr sr st ph.d
    jan feb aug sep sept oct nov dec tues wed fri
    ala ariz calif colo conn fla ga ill kan ky mich minn nev okla ore pa tenn va vt wash wis
    n.c n.d n.h n.j n.m n.y s.c w.va
    u.s u.k u.n u.s.a u.s.s.r d.c l.a
    inc ltd corp co cos bros cie vs ave ft a.m p.m yr mg
    c d e f g h k l m n p r s t v w
"""
# Words that begin a new sentence even after an abbreviation or an ellipsis.
_STARTERS = """
    although among but despite even he however i if in indeed instead it many meanwhile moreover
    most nevertheless nonetheless separately similarly since so some such the there these they this
    though thus under what when while yet
"""
# Other words that are no names where they have a capital: "vitamin B. Which" is two sentences,
# "B. Franklin" is none.
_NO_NAMES = """
    a after all also an and another any are as at because before being by can consider could did do
    does each every for from had has have her here his how its let may more my no not now of on
    once one only or other our over perhaps please she should suppose that their then those to two
    until was we were where whether which who whose why will with would you your
"""
# In Punkt's terms: was seen in lower case, and also with a capital within a sentence.
_LOWER_AND_UPPER_WITHIN = 32 + 4


@cache
def _sentence_tokenizer() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(_ABBREVIATIONS.split())
    parameters.sent_starters = set(_STARTERS.split())
    for word in (_STARTERS + _NO_NAMES).split():
        parameters.ortho_context[word] = _LOWER_AND_UPPER_WITHIN
    return PunktSentenceTokenizer(parameters)


def sentences(text: str) -> list[str]:
    """Split a text into sentences, as nltk's `sent_tokenize` does with nearly the same results."""
    return list(_sentence_tokenizer().tokenize(text))


class _NumberOfSentences(_CHECKS.NumberOfSentences):  # type: ignore[misc]
    """lm-eval's check, which would take its sentences from `punkt_tab`."""

    def check_following(self, value: str) -> bool:
        n_sentences, threshold = len(sentences(value)), self._num_sentences_threshold
        is_less = n_sentences < threshold
        return is_less if self._comparison_relation == _RELATIONS[0] else not is_less


class _CapitalWords(_CHECKS.CapitalWordFrequencyChecker):  # type: ignore[misc]
    """lm-eval's check, which splits a text into sentences before it splits those into words."""

    def check_following(self, value: str) -> bool:
        split = NLTKWordTokenizer().tokenize
        n_words = sum(word.isupper() for part in sentences(value) for word in split(part))
        is_less = n_words < self._frequency
        return is_less if self._comparison_relation == _RELATIONS[0] else not is_less


class _AnyLetter(_CHECKS.LetterFrequencyChecker):  # type: ignore[misc]
    """lm-eval's check, which draws a letter at random in place of one that is not from a to z."""

    def build_description(self, *, letter: str, **others: Any) -> None:
        super().build_description(letter="a", **others)
        self._letter = letter.lower()


_CLASSES = _REGISTRY.INSTRUCTION_DICT | {
    "length_constraints:number_sentences": _NumberOfSentences,
    "change_case:capital_word_frequency": _CapitalWords,
    "keywords:letter_frequency": _AnyLetter,
}


def question(doc: Mapping[str, Any]) -> str:
    """Return the prompt of an item.

    Raises:
        ValueError: the item is malformed, so that its answer could not be scored.
    """
    for column in ("key", "prompt", "instruction_id_list", "kwargs"):
        if doc.get(column) in (None, "", []):
            raise ValueError(f"column {column!r} is missing or empty")
    names, arguments = doc["instruction_id_list"], doc["kwargs"]
    if not isinstance(doc["prompt"], str) or not _is_list(names, str):
        raise ValueError("prompt should be a text, and instruction_id_list a list of names")
    if not _is_list(arguments, dict | None):
        raise ValueError("kwargs should be a list, of the arguments of each instruction")
    if len(names) != len(arguments):
        raise ValueError(f"{len(names)} instructions, but kwargs for {len(arguments)}")
    for name, given in _instructions(doc):
        if name not in _CLASSES:
            raise ValueError(f"unknown instruction {name!r}; known: {', '.join(_CLASSES)}")
        wanted = _CLASSES[name](name).get_instruction_args_keys()
        if sorted(given) != sorted(wanted):
            have, want = (", ".join(sorted(keys)) or "none" for keys in (given, wanted))
            raise ValueError(f"kwargs of {name!r} are {have}; they should be {want}")
        for key, value in given.items():
            if not _is_allowed(key, value):
                raise ValueError(f"kwargs of {name!r}: {key} {value!r} is not allowed")
        if given.get("nth_paragraph", 0) > given.get("num_paragraphs", 0):
            raise ValueError(f"kwargs of {name!r}: nth_paragraph is beyond num_paragraphs")
    return doc["prompt"]


def _is_allowed(key: str, value: Any) -> bool:
    """Whether lm-eval's check can use an argument; it draws another one at random for some."""
    if "frequency" in key or "num_" in key or key == "nth_paragraph":
        return type(value) is int and value >= (key == "nth_paragraph")
    if "relation" in key:
        return value in _RELATIONS
    if key == "language":
        return value in list(_CHECKS.instructions_util.LANGUAGE_CODES)
    texts = value if key in ("keywords", "forbidden_words") else [value]
    if not _is_list(texts, str) or not all(map(str.strip, texts)):
        return False
    of_length = len(value) == 1 if key == "letter" else bool(texts)
    return of_length and (key not in _PATTERNS or all(map(_is_pattern, texts)))


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and all(isinstance(inner, kind) for inner in value)


def _is_pattern(text: str) -> bool:
    """Whether a text is a regular expression, as which lm-eval looks for it."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _instructions(doc: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the instructions of an item with their arguments; on the hub, others are null."""
    for name, given in zip(doc["instruction_id_list"], doc["kwargs"], strict=True):
        yield name, {key: value for key, value in (given or {}).items() if value is not None}


def instructions_text(doc: Mapping[str, Any]) -> str:
    """Return the instructions of an item, one a line, for samples.jsonl."""
    return "\n".join(f"{name} {json.dumps(given)}" for name, given in _instructions(doc))


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score one answer.

    Strict: as it is. Loose: an instruction also counts as followed if it is without the first or
    the last line, or without asterisks.
    """
    langdetect.DetectorFactory.seed = 0
    (answer,) = results
    checks = list(map(_check, *zip(*_instructions(doc), strict=True)))
    variants = dict.fromkeys(_variants(answer))
    strict = [_follows(check, answer) for check in checks]
    loose = [any(_follows(check, text) for text in variants) for check in checks]
    return {
        "prompt_level_strict_acc": all(strict),
        "prompt_level_loose_acc": all(loose),
        "inst_level_strict_acc": strict,
        "inst_level_loose_acc": loose,
    }


def _check(name: str, arguments: Mapping[str, Any]) -> Any:
    check = _CLASSES[name](name)
    check.build_description(**arguments)
    return check


def _follows(check: Any, text: str) -> bool:
    """Whether a text follows an instruction; an empty one follows none."""
    try:
        return bool(text.strip() and check.check_following(text))
    except RecursionError:  # of json, by brackets within brackets a thousand times
        return False


def _variants(answer: str) -> Iterator[str]:
    lines = answer.split("\n")
    parts = ("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))
    for text in (answer, *parts):
        yield from (text, text.replace("*", ""))


def share_followed(items: Sequence[Sequence[bool]]) -> float:
    """Return the share of all instructions that are followed, each counted alike."""
    followed = [one for item in items for one in item]
    return sum(followed) / len(followed)
