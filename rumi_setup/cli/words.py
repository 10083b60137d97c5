"""What the command says, in the operator's language: the English sentence is the key."""

from __future__ import annotations

from rumi_setup.cli.words_ja import JAPANESE
from rumi_setup.core.words import language


def say(english: str, **values: object) -> str:
    """The sentence in the operator's language with its places filled in."""
    sentence = JAPANESE.get(english, english) if language() == "ja" else english
    return sentence.format(**values) if values else sentence
