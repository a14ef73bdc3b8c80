"""Dates in many written forms, Korean and English, with their ISO form and gold alignment.

Every form names its parts without ambiguity: in digits alone the year comes first, and any other order has its
month in letters ("3/5/2024" is no form). Years are 1600-2099; those of two digits mean 1950-2049: 50-99 is 19xx,
00-49 is 20xx. Weekdays are the true ones. The *date* decides the split, so that no form of a test date is ever seen
in training.

Gold alignment, in characters:
- a digit (or a Sino-Korean numeral) that states an ISO digit is its sure link, and its only possible one, but that
  the place word behind a numeral (백 in 구백) is possible, and so is the second digit of a year for the first, which
  it tells too (16 to 20);
- the name of a month states both digits together: each letter is possible for each of the two, none is sure;
- a digit that is inferred (the leading zero of "5", the century of "24", the zeros of 이천오), a hyphen, a weekday
  and punctuation have no links: nothing in the source states the one, nothing in the target states the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from functools import cache
from random import Random

from itda.data.synthetic.example import Example, Generator, split_of
from itda.data.synthetic.numerals import (
    KOREAN_WEEKDAYS,
    MONTHS,
    WEEKDAYS,
    Written,
    in_digits,
    month_name,
    ordinal,
    sino_korean,
    sino_korean_month,
    whole_year,
)

FIRST, LAST = date(1600, 1, 1), date(2099, 12, 31)
SHORT_YEARS = range(1950, 2050)

FORMS = (
    "{Y}년 {m}월 {d}일",
    "{Y}년 {m}월 {d}일 {화}요일",
    "{Y}년 {m}월 {d}일({화})",
    "{Y}년 {mm}월 {dd}일",
    "{y}년 {m}월 {d}일",
    "{Y}. {m}. {d}.",
    "{Y}. {m}. {d}.({화})",
    "{y}. {m}. {d}.",
    "{Y}.{mm}.{dd}",
    "{Y}/{m}/{d}",
    "{Y}{mm}{dd}",
    "{이천}년 {삼}월 {오}일",
    "{March} {d}, {Y}",
    "{March} {5th}, {Y}",
    "{Mar} {d}, {Y}",
    "{Tuesday}, {March} {d}, {Y}",
    "{Tue}, {Mar} {d}, {Y}",
    "{d} {March} {Y}",
    "{d} {Mar} {Y}",
    "{d} {Mar} {y}",
    "{dd}-{Mar}-{Y}",
    "{Tue} {d} {Mar} {Y}",
    "{5th} {March} {Y}",
    "the {5th} of {March} {Y}",
)

# Where each field starts in YYYY-MM-DD.
YEAR, MONTH, DAY = 0, 5, 8
FIELDS: dict[str, tuple[int, Callable[[date], Written]]] = {
    "Y": (YEAR, lambda day: whole_year(day.year)),
    "y": (YEAR, lambda day: in_digits(f"{day.year % 100:02}", 4)),
    "이천": (YEAR, lambda day: sino_korean(day.year, 4)),
    "m": (MONTH, lambda day: in_digits(f"{day.month}", 2)),
    "mm": (MONTH, lambda day: in_digits(f"{day.month:02}", 2)),
    "삼": (MONTH, lambda day: sino_korean_month(day.month)),
    "March": (MONTH, lambda day: month_name(MONTHS[day.month - 1])),
    "Mar": (MONTH, lambda day: month_name(MONTHS[day.month - 1][:3])),
    "d": (DAY, lambda day: in_digits(f"{day.day}", 2)),
    "dd": (DAY, lambda day: in_digits(f"{day.day:02}", 2)),
    "오": (DAY, lambda day: sino_korean(day.day, 2)),
    "5th": (DAY, lambda day: ordinal(day.day)),
}
NAMES: dict[str, Callable[[date], str]] = {
    "Tuesday": lambda day: WEEKDAYS[day.weekday()],
    "Tue": lambda day: WEEKDAYS[day.weekday()][:3],
    "화": lambda day: KOREAN_WEEKDAYS[day.weekday()],
}


@cache
def _pieces(form: str) -> tuple[str, ...]:
    """Split a form into literal, field, literal, field, ..., literal."""
    return tuple(re.split(r"\{(.+?)\}", form))


def write_date(day: date, form: str) -> Example:
    """Write `day` in one of the forms, with its ISO form and the links between the two."""
    assert "{y}" not in form or day.year in SHORT_YEARS, f"{day} cannot be written with a year of two digits"
    src, sure, possible = "", set(), set()
    for number, piece in enumerate(_pieces(form)):
        if number % 2 == 0:
            src += piece
        elif piece in NAMES:
            src += NAMES[piece](day)
        else:
            start, write = FIELDS[piece]
            part = write(day)
            sure |= {(len(src) + i, start + digit) for i, digit in part.sure}
            possible |= {(len(src) + i, start + digit) for i, digit in part.possible}
            src += part.text
    return Example(src, day.isoformat(), frozenset(sure), frozenset(possible))


@cache
def dates_of(split: str) -> tuple[date, ...]:
    """List the dates that belong to a split."""
    days = (FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1))
    return tuple(day for day in days if split_of(day.isoformat()) == split)


@cache
def _writable(form: str, split: str) -> tuple[date, ...]:
    """List the dates of a split that the form can write."""
    return tuple(day for day in dates_of(split) if "{y}" not in form or day.year in SHORT_YEARS)


def _draw(random: Random, split: str) -> Example:
    form = FORMS[random.randrange(len(FORMS))]
    days = _writable(form, split)
    return write_date(days[random.randrange(len(days))], form)


DATES = Generator(
    help="dates in 24 Korean and English forms -> ISO (2024-03-05); aligned",
    pairs={"train": 20000, "valid": 500, "test": 1000},
    # At most half of what there is (two forms may coincide: "May" is its own abbreviation), so that drawing ends soon.
    capacity={"train": 1_000_000, "valid": 100_000, "test": 100_000},
    draw=_draw,
    about=(__doc__ or "") + "\nForms, written for 2024-03-05:\n\n"
    + "\n".join(f"    {write_date(date(2024, 3, 5), form).src}" for form in FORMS) + "\n",
)  # fmt: skip
