"""Unicode normalisation: the only change that a tokenizer may make to a text, stated and repeatable."""

from __future__ import annotations

import re
import unicodedata

FORMS = ("nfc", "nfd", "nfkc", "none")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def normalize(text: str, form: str) -> str:
    """Apply a Unicode normal form; a lone surrogate, which no file can hold, becomes U+FFFD in every form."""
    assert form in FORMS, form
    if not text.isascii():
        text = _LONE_SURROGATE.sub("\ufffd", text)
        if form != "none":
            text = unicodedata.normalize(form.upper(), text)  # type: ignore[arg-type]
    return text
