"""Answers to IFEval that follow every instruction of a prompt, made by rule from its arguments."""

# ruff: noqa: RUF001 (letters that look like others)
from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Each lacks other letters and words, so that one of them has nothing that a prompt forbids.
FILL = (
    "the old man walks along the river and looks at the green land",
    "the little bird sits in the trees all summer and sings",
    "a bold man drinks milk to stay strong and runs far",
    "the children run over the long hill when the sun is warm",
    "the little cat sits at the old door all day",
    "we sing our songs in the dim old room with the children",
    "a dog ran on a map and saw a cow",
)
STOCK = {
    "ar": "ذهب الأولاد إلى المدرسة في الصباح وعادوا إلى البيت في المساء",
    "bg": "децата отидоха на училище сутринта и се върнаха вкъщи вечерта",
    "bn": "ছেলেরা সকালে স্কুলে গিয়েছিল এবং সন্ধ্যায় বাড়ি ফিরে এসেছিল",
    "de": "die Kinder gingen am Morgen in die Schule und kamen am Abend nach Hause",
    "fa": "بچه‌ها صبح به مدرسه رفتند و عصر به خانه برگشتند و شام خوردند",
    "fi": "lapset menivät aamulla kouluun ja tulivat illalla takaisin kotiin",
    "gu": "બાળકો સવારે શાળાએ ગયા અને સાંજે ઘરે પાછા આવ્યા",
    "hi": "बच्चे सुबह स्कूल गए थे और शाम को वे घर वापस आ गए हैं",
    "it": "i bambini sono andati a scuola la mattina e sono tornati a casa la sera",
    "kn": "ಮಕ್ಕಳು ಬೆಳಿಗ್ಗೆ ಶಾಲೆಗೆ ಹೋದರು ಮತ್ತು ಸಂಜೆ ಮನೆಗೆ ಮರಳಿದರು",
    "ko": "아이들은 아침에 학교에 갔다가 저녁에 집으로 돌아왔습니다",
    "mr": "मुले सकाळी शाळेत गेली आणि संध्याकाळी घरी परत आली आहेत",
    "ne": "बच्चाहरू बिहान विद्यालय गए र साँझ घर फर्किए भनेर उनले भनेका छन्",
    "pa": "ਬੱਚੇ ਸਵੇਰੇ ਸਕੂਲ ਗਏ ਅਤੇ ਸ਼ਾਮ ਨੂੰ ਘਰ ਵਾਪਸ ਆਏ",
    "pt": "as crianças foram para a escola de manhã e voltaram para casa à noite",
    "ru": "дети пошли в школу утром и вернулись домой вечером",
    "sw": "watoto walikwenda shule asubuhi na walirudi nyumbani jioni kwa furaha",
    "ta": "குழந்தைகள் காலையில் பள்ளிக்குச் சென்று மாலையில் வீடு திரும்பினார்கள்",
    "te": "పిల్లలు ఉదయం పాఠశాలకు వెళ్లి సాయంత్రం ఇంటికి తిరిగి వచ్చారు",
    "th": "เด็ก ๆ ไปโรงเรียนในตอนเช้าและกลับบ้านในตอนเย็น",
    "ur": "بچے صبح اسکول گئے اور شام کو گھر واپس آئے تھے اور کھانا کھایا",
    "vi": "những đứa trẻ đi học vào buổi sáng và trở về nhà vào buổi tối",
}


def answer(doc: Mapping[str, Any]) -> str:
    """Return an answer to a prompt that follows all its instructions, where one exists."""
    return _Wanted(doc).text()


class _Wanted:
    """What the instructions of a prompt ask for."""

    def __init__(self, doc: Mapping[str, Any]) -> None:
        self.given: list[tuple[str, Mapping[str, Any]]] = [
            (name.partition(":")[2], arguments)
            for name, arguments in zip(doc["instruction_id_list"], doc["kwargs"], strict=True)
        ]
        self.names = [name for name, _ in self.given]

    def of(self, key: str, name: str | None = None) -> list[Any]:
        """Return the arguments of a key, of all instructions or those of one name."""
        of_name = (a for n, a in self.given if name in (n, None))
        return [arguments[key] for arguments in of_name if key in arguments]

    def counts(self, name: str, key: str, relation: str) -> tuple[int, float]:
        """Return the least and the largest number that instructions allow of something."""
        of_name = [a for n, a in self.given if n == name]
        least = [a[key] for a in of_name if a[relation] == "at least"]
        below = [a[key] for a in of_name if a[relation] == "less than"]
        return max(least, default=0), min(below, default=float("inf")) - 1

    def text(self) -> str:
        if "json_format" in self.names:
            return json.dumps({"a": " ".join([*self.words(), self.fill()])})
        text = self.shaped(self.lines())
        if "english_lowercase" in self.names:
            text = text.lower()
        if "english_capital" in self.names:
            text = text.upper()
        return f'"{text}"' if "quotation" in self.names else text

    def fill(self) -> str:
        """Return words that may stand anywhere."""
        avoid = [rf"\b{word}\b" for words in self.of("forbidden_words") for word in words]
        for name, arguments in self.given:
            if "less than" in arguments.values() and name in ("frequency", "letter_frequency"):
                avoid.append(arguments.get("keyword") or arguments["letter"])
        stock = [STOCK[language] for language in self.of("language")] or list(FILL)
        return next((t for t in stock if not any(re.search(a, t, re.I) for a in avoid)), stock[0])

    def words(self) -> list[str]:
        """Return the words, letters and pieces that are counted."""
        words = [word for words in self.of("keywords") for word in words]
        for name, arguments in self.given:
            if name == "frequency" and arguments["relation"] == "at least":
                words += [arguments["keyword"]] * arguments["frequency"]
            if name == "letter_frequency" and arguments["let_relation"] == "at least":
                words.append(arguments["letter"] * arguments["let_frequency"])
        n_capital, _ = self.counts(
            "capital_word_frequency", "capital_frequency", "capital_relation"
        )
        words += ["SUN"] * n_capital
        words += ["[name]"] * max(self.of("num_placeholders"), default=0)
        words += [f"*part {i}*" for i in range(max(self.of("num_highlights"), default=0))]
        return words

    def lines(self) -> list[str]:
        """Return the lines of an answer, each with whatever may stand in it."""
        lines = list(self.of("prompt_to_repeat"))
        lines += ["<<song>>"] * ("title" in self.names)
        lines += ["My answer is yes."] * ("constrained_response" in self.names)
        for marker, n in zip(self.of("section_spliter"), self.of("num_sections"), strict=True):
            lines += [f"{marker} {i + 1}" for i in range(n)]
        lines += [self.fill(), *["- milk"] * max(self.of("num_bullets"), default=0)]
        n_sentences, _ = self.counts("number_sentences", "num_sentences", "relation")
        last = " ".join([*self.words(), *["they run."] * n_sentences])
        least, most = self.counts("number_words", "num_words", "relation")
        # What else there is should not make another language of it.
        enough = max(least, min(6 * _n_words([*lines, last]), most - _n_words([self.fill()])))
        while _n_words([*lines, last]) < enough:
            lines.append(self.fill())
        lines.append(last)
        return lines

    def shaped(self, lines: Sequence[str]) -> str:
        """Return the lines in the paragraphs that are asked for, with an end."""
        ends = [f"{marker} {self.fill()}" for marker in self.of("postscript_marker")]
        end = "\n".join(ends + self.of("end_phrase"))
        parts, between = ["\n".join(lines)], "\n"
        if "two_responses" in self.names:
            parts, between = [*parts, self.fill()], "\n******\n"
        elif first := self.of("first_word"):
            n, nth = self.of("num_paragraphs")[0], self.of("nth_paragraph")[0]
            parts = ["\n".join(lines)] + ["also"] * (n - 1)
            parts[nth - 1] = f"{first[0]} {parts[nth - 1]}"
            between = "\n\n"
        elif n_paragraphs := self.of("num_paragraphs"):
            parts, between = parts + ["also"] * (n_paragraphs[0] - 1), "\n***\n"
        parts[-1] = f"{parts[-1]}\n{end}".strip()
        return between.join(parts)


def _n_words(lines: Sequence[str]) -> int:
    return len(re.findall(r"\w+", " ".join(lines)))
