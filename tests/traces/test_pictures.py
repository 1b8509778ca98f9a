"""Pictures of traces: their size, their frames, and what changes in them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.traces.record import Trace
from tests.support.made_up_traces import made_up_trace

pytest.importorskip("PIL", reason="pictures need Pillow, of the extra `chat`")
from PIL import Image, ImageChops, ImageFont

from fastdllm.traces import pictures


def trace(**changes: Any) -> Trace:
    return Trace.model_validate_json(json.dumps(made_up_trace(**changes)))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def changed(before: bytes, after: bytes) -> tuple[int, int, int, int] | None:
    """The box in which two pictures differ."""
    return ImageChops.difference(
        opened(before).convert("RGB"), opened(after).convert("RGB")
    ).getbbox()


def test_a_picture_of_each_step_has_the_same_size() -> None:
    shown = [opened(pictures.png([trace()], step=step)) for step in (0, 3, None)]
    assert {image.format for image in shown} == {"PNG"}
    sizes = {image.size for image in shown}
    assert len(sizes) == 1 and sizes.pop()[0] == pictures.WIDTH


def test_steps_colours_and_themes_look_different() -> None:
    last = pictures.png([trace()])
    assert changed(last, pictures.png([trace()])) is None
    assert changed(last, pictures.png([trace()], step=3))
    assert changed(last, pictures.png([trace()], colour="confidence"))
    assert changed(last, pictures.png([trace()], theme="dark"))


def test_a_masked_token_takes_its_colour_in_its_step() -> None:
    two = trace(words=["x", "y"], per_step=1)
    drawn = pictures.Pictures([two])
    image = drawn.draw(2)  # after the prefill, the pass that writes one of the two
    boxes = [placed.box for placed in drawn.columns[0].tokens[:2]]
    colours = [image.getpixel((right - 5, top + 7)) for _, top, right, _ in boxes]
    assert sorted(colours) == [(0x00, 0x22, 0x4E), (0xE7, 0xEA, 0xEF)]


def test_an_animation_has_a_frame_per_step_and_one_before() -> None:
    animation = opened(pictures.gif([trace()], steps_per_s=5))
    assert (animation.format, animation.n_frames) == ("GIF", len(trace().steps) + 1)
    assert animation.info["loop"] == 0 and animation.info["duration"] == 200
    animation.seek(animation.n_frames - 1)
    assert animation.info["duration"] == 3000
    last = opened(pictures.png([trace()]))
    assert animation.size == last.size
    far = ImageChops.difference(animation.convert("RGB"), last.convert("RGB")).getextrema()
    assert max(most for _, most in far) < 40, "all that the frames left unchanged is still there"


def test_the_frames_of_an_animation_are_the_pictures_of_its_steps() -> None:
    drawn = pictures.Pictures([trace(), trace(per_step=5)], theme="dark")
    image = drawn.draw(0)
    for step in range(1, drawn.last + 1):
        drawn.advance(image, step)
        assert ImageChops.difference(image, drawn.draw(step)).getbbox() is None


def test_two_answers_stand_side_by_side_and_differences_are_marked() -> None:
    other = made_up_trace()
    other["answer"]["ids"][20] = 9
    for step in other["steps"]:
        step["tokens"] = [9 if token == 120 else token for token in step["tokens"]]
    both = pictures.png([trace(), Trace.model_validate_json(json.dumps(other))])
    box = changed(both, pictures.png([trace(), trace()]))
    assert opened(both).width == pictures.WIDTH
    assert box is not None and box[0] < pictures.WIDTH // 2 < box[2], "marked in both"


@pytest.mark.parametrize(
    "text",
    [
        "\u7b54\u6848\u662f" * 30,
        "\U0001f34e\u200d\U0001f33e",
        "\ud83c",
        "\x00\x1b[31m",
        "\n\n\t",
        "word" * 200,
        "",
    ],
)
def test_any_text_can_be_drawn(text: str) -> None:
    whole = made_up_trace(words=["a", "b"])
    strange = Trace.model_validate(whole)
    pieces = dict(strange.pieces)
    pieces[100] = pieces[100].model_copy(update={"text": text})
    strange = strange.model_copy(update={"pieces": pieces})
    shown = opened(pictures.png([strange]))
    placed = pictures.Pictures([strange]).columns[0].tokens
    assert all(one.box[0] >= 0 and one.box[2] <= shown.width for one in placed)
    assert all(one.box[3] <= shown.height for one in placed)


def test_an_answer_that_is_too_long_for_a_picture_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "MOST_PIXELS", 1000)
    with pytest.raises(UserError, match="pixels high, more than 1000; write a page"):
        pictures.png([trace(words=["word" * 1_500, "end"])])


def test_of_a_long_prompt_the_last_lines_are_shown() -> None:
    short, long = made_up_trace(), made_up_trace()
    long["prompt"]["text"] = "word " * 200_000 + "the end"
    shown = [pictures.Pictures([Trace.model_validate_json(json.dumps(t))]) for t in (short, long)]
    assert shown[1].columns[0].prompt.endswith("the end")
    assert shown[1].columns[0].prompt.count("\n") == pictures.PROMPT_LINES - 1
    assert 0 < shown[1].height - shown[0].height < 100


def test_where_a_machine_has_no_font_that_of_pillow_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = ImageFont.truetype

    def missing(font: object, *more: Any, **named: Any) -> Any:
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return real(font, *more, **named)  # the one that Pillow brings, which is no file

    with_font = pictures.png([trace()])
    pictures._font.cache_clear()
    monkeypatch.setattr(ImageFont, "truetype", missing)
    try:
        assert pictures.png([trace()]) != with_font
    finally:
        pictures._font.cache_clear()


def test_a_long_word_is_wrapped_whole() -> None:
    word = "".join(chr(ord("a") + i % 26) for i in range(400))
    drawn = pictures.Pictures([trace(words=[word, "end"])])
    lines = drawn.columns[0].tokens[0].lines
    assert len(lines) > 1 and "".join(lines) == word
