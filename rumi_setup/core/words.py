"""What the setup core says to the operator, in English and Japanese.

The English sentence is the key, so a sentence without a translation is still said. Which language: RUMI_LANG, else the
usual variables of the locale, else, where those say nothing, the system's own setting.
"""

from __future__ import annotations

import locale
import os

from rumi_setup.core.words_ja import JAPANESE


def language() -> str:
    """`ja` or `en`."""
    for name in ("RUMI_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "ja" if value.lower().startswith("ja") else "en"
    try:
        system = locale.getlocale()[0] or ""
    except ValueError:
        system = ""
    return "ja" if system.lower().startswith(("ja", "japanese")) else "en"


def say(english: str, **values: object) -> str:
    """The sentence in the operator's language with its places filled in."""
    sentence = JAPANESE.get(english, english) if language() == "ja" else english
    return sentence.format(**values) if values else sentence
