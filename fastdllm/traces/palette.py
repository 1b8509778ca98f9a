"""Colours of the denoising view, on the page and in pictures: by step, by confidence, by theme.

A level is 0 to 6. Both scales go from dark to light or from one hue to another in a way that
colour-blind readers can follow (the first has the hues of cividis: Nunez, Anderton and Renslow,
2018), and a token always shows its step or confidence as a number as well.
"""

from __future__ import annotations

BY_STEP = ("#00224e", "#2a4470", "#575d6d", "#7d7c78", "#a59c74", "#d2c060", "#fee838")
BY_CONFIDENCE = ("#a50f15", "#de5b3c", "#f7a06a", "#fbd9a6", "#bcd7ea", "#6aa9d2", "#1f6fb0")
LEVELS = len(BY_STEP)
# Lower edges of the levels 1 to 6 of a confidence.
CONFIDENCE_EDGES = (0.5, 0.7, 0.9, 0.95, 0.99, 0.999)
THEMES = {
    "light": {
        **{"ground": "#f5f6f8", "card": "#ffffff", "ink": "#1c2330", "soft": "#5a6372"},
        **{"line": "#c9cfd8", "accent": "#0b62a8", "mask": "#e7eaef", "plain": "#ffffff"},
    },
    "dark": {
        **{"ground": "#0e1218", "card": "#151a22", "ink": "#e8ebf0", "soft": "#a3acba"},
        **{"line": "#3a4452", "accent": "#7cc4f7", "mask": "#232b36", "plain": "#151a22"},
    },
}


def ink_on(colour: str) -> str:
    """Return black or white, whichever is easier to read on a colour (#rrggbb); at least 4.5:1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if (luminance + 0.05) ** 2 > 0.05 * 1.05 else "#ffffff"


def confidence_level(probability: float) -> int:
    """Return the level, 0 to 6, of a confidence."""
    return sum(probability >= edge for edge in CONFIDENCE_EDGES)


def css_variables(dark: str | None = None) -> str:
    """Return the colours as CSS custom properties of `.dn`, the root of the view.

    dark: selector of an ancestor that has it where the page is dark; default: as the system is.
    """

    def rule(theme: str) -> str:
        return ".dn{" + "".join(f"--dn-{k}:{v};" for k, v in THEMES[theme].items()) + "}\n"

    levels = [
        f".dn-by-{scale} [data-level='{level}']{{background:{colour};color:{ink_on(colour)}}}\n"
        for scale, colours in (("step", BY_STEP), ("confidence", BY_CONFIDENCE))
        for level, colour in enumerate(colours)
    ]
    in_dark = f"@media (prefers-color-scheme:dark){{{rule('dark')}}}\n"
    if dark is not None:
        in_dark = f"{dark} {rule('dark')}"
    return rule("light") + in_dark + "".join(levels)
