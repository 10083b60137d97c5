"""What the wizard says, in the language of whoever asks: the English sentence is the key."""

from __future__ import annotations

from dataclasses import dataclass

from rumi_setup.web.words_ja import JAPANESE

LANGUAGES = ("ja", "en")
_HEADER_LIMIT_CHARACTERS = 200


@dataclass(frozen=True)
class Words:
    """Says sentences in one language."""

    language: str

    def __call__(self, english: str, **values: object) -> str:
        sentence = JAPANESE.get(english, english) if self.language == "ja" else english
        return sentence.format(**values) if values else sentence


def preferred(accept_language: str) -> str | None:
    """`ja` or `en`, whichever the header ranks higher; None when it names neither."""
    best, chosen = 0.0, None
    for item in accept_language[:_HEADER_LIMIT_CHARACTERS].split(","):
        name, _, parameter = item.strip().partition(";")
        language = name.strip().lower().partition("-")[0]
        weight = _weight(parameter)
        if language in LANGUAGES and weight > best:
            best, chosen = weight, language
    return chosen


def _weight(parameter: str) -> float:
    key, _, value = parameter.strip().partition("=")
    if key.strip() != "q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0
