"""How the parts of a date are written, each with the ISO digits that its characters express."""

from __future__ import annotations

from dataclasses import dataclass

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
KOREAN_WEEKDAYS = "월화수목금토일"
SINO_KOREAN = "영일이삼사오육칠팔구"
SINO_KOREAN_PLACES = {1000: "천", 100: "백", 10: "십"}
# June and October lose their last consonant before 월; the regular form is a spelling mistake.
SINO_KOREAN_MONTHS = {6: "유", 10: "시"}


@dataclass(frozen=True)
class Written:
    """A part of a date as written; links are (character of `text`, digit of the ISO field), as in `Example`."""

    text: str
    sure: frozenset[tuple[int, int]]
    possible: frozenset[tuple[int, int]] = frozenset()


def in_digits(text: str, width: int) -> Written:
    """Align a number in digits with a field of `width`; leading digits that it leaves out have no links."""
    return Written(text, frozenset((i, width - len(text) + i) for i in range(len(text))))


def whole_year(value: int) -> Written:
    """Align a year in four digits; where years are 1600 to 2099, the second digit tells the first as well."""
    return Written(f"{value}", in_digits(f"{value}", 4).sure, frozenset({(1, 0)}))


def ordinal(value: int) -> Written:
    """Write a day as 1st, 2nd, 3rd, 4th; only its digits are aligned."""
    suffix = "th" if value in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    return Written(f"{value}{suffix}", in_digits(str(value), 2).sure)


def month_name(text: str) -> Written:
    """Align a month's name: no letter stands for one digit, each may be where both come from."""
    return Written(text, frozenset(), frozenset((i, digit) for i in range(len(text)) for digit in (0, 1)))


def sino_korean(value: int, width: int) -> Written:
    """Write a number below 10000 in Sino-Korean words (2024: 이천이십사), each digit aligned to its own syllable.

    The place word behind it (천, 백, 십) is possible too. A 1 before it is not said, so there the place word itself
    stands for the digit; a zero is not said at all.
    """
    text, sure, possible = "", set(), set()
    for digit, place in enumerate(10 ** (width - 1 - k) for k in range(width)):
        figure = value // place % 10
        if figure == 0:
            continue
        sure.add((len(text), digit))
        said = SINO_KOREAN[figure] if figure > 1 or place == 1 else ""
        spoken = said + SINO_KOREAN_PLACES.get(place, "")
        possible |= {(len(text) + i, digit) for i in range(len(spoken))}
        text += spoken
    return Written(text, frozenset(sure), frozenset(possible))


def sino_korean_month(value: int) -> Written:
    """Write a month before 월: 일, 이, ... 유, ... 시, 십일, 십이."""
    if value not in SINO_KOREAN_MONTHS:
        return sino_korean(value, 2)
    return Written(SINO_KOREAN_MONTHS[value], frozenset({(0, 1 if value < 10 else 0)}))
