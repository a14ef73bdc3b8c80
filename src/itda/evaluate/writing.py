"""How a language is written, as far as scoring must know it: with spaces between words, or without."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Ranges of letters; a script counts as a text's own from this share of its letters on. Technical Korean is
# full of Latin letters, so the share is well below one half.
OWN_SHARE = 0.3
KANA_SHARE = 0.05  # Japanese shows itself by its kana, however many Han characters stand beside them
_LETTERS = {
    "hangul": re.compile("[\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff]"),
    "kana": re.compile("[\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f]"),
    "han": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]"),
    "thai": re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"),
}
_WORD_CHARACTER = re.compile(r"[^\W\d_]")
UNSPACED = ("kana", "han", "thai")


def script_of(texts: Sequence[str]) -> str:
    """Name what the texts are written in: hangul, kana, han, thai (and its like), or spaced for all else."""
    joined = "\n".join(texts)
    letters = max(1, len(_WORD_CHARACTER.findall(joined)))
    share = {name: len(pattern.findall(joined)) / letters for name, pattern in _LETTERS.items()}
    if share["kana"] >= KANA_SHARE and share["kana"] + share["han"] >= OWN_SHARE:
        return "kana"
    best = max(("hangul", "han", "thai"), key=lambda name: share[name])
    return best if share[best] >= OWN_SHARE else "spaced"


def normalized(text: str) -> str:
    """Bring a text to the form in which its characters are counted and compared (NFC)."""
    return unicodedata.normalize("NFC", text)


def length_unit(texts: Sequence[str]) -> str:
    """Choose what the length of these texts is counted in: words, or characters where no spaces part words."""
    return "characters" if script_of(texts) in UNSPACED else "words"


def text_length(text: str, unit: str) -> int:
    """Count the whitespace words of a text, or its characters without the spaces."""
    words = normalized(text).split()
    return len(words) if unit == "words" else sum(map(len, words))
