"""The speed table of both READMEs, from what `speed.py` wrote; `table.py` puts it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from race.standing import NAMES, Standing, standings

START, END = "<!-- speed:start -->", "<!-- speed:end -->"
WORDS = {
    "README.md": {
        "columns": (
            "Work",
            "itda",
            "Fastest peer",
            "Ratio",
            "Bar",
            "Share of the limit",
            "Peak memory (MiB): itda, leanest peer",
        ),
        "names": {},
        "about": "Ratios are medians over rounds in which the sides took turns [least, most]; ✓: the bar is cleared. "
        "A second line of a row is against a peer that ran itda's own weights. The limit: the matrix products of our "
        "side at the machine's best rate for each shape. Made by `benchmarks/table.py` from what "
        "`benchmarks/speed.py --peers` measured.",
        "missing": "Not raced",
        "seconds": "seconds",
    },
    "README.ko.md": {
        "columns": (
            "작업",
            "itda",
            "가장 빠른 상대",
            "비율",
            "기준",
            "한계 대비",
            "최대 메모리(MiB): itda, 가장 적은 상대",
        ),
        "names": {"step by step": "한 스텝씩 도는 코드"},
        "about": "비율은 번갈아 실행한 회차의 중앙값이며 [최소, 최대]입니다. ✓는 기준을 넘었다는 뜻입니다. 같은 "
        "작업의 둘째 줄은 itda와 똑같은 가중치를 실행한 상대와의 비교입니다. 한계는 우리 쪽의 행렬 곱을 이 "
        "컴퓨터가 그 모양에서 낼 수 있는 최고 속도로 했을 때의 시간입니다. `benchmarks/speed.py --peers`가 잰 것에서 "
        "`benchmarks/table.py`가 만듭니다.",
        "missing": "함께 재지 못한 상대",
        "seconds": "초",
    },
}


def render(records: Sequence[Mapping[str, Any]], words: Mapping[str, Any]) -> str:
    """Lay out the table, and the reasons why a peer is not in it; nothing where nothing was measured."""
    if not records:
        return ""
    columns = words["columns"]
    lines = [_row(columns), _row(["---", "--:", "---", "--:", "--:", "--:", "--:"])]
    missing: dict[str, None] = {}
    for record in sorted(records, key=lambda record: record["place"]):
        if record["row"] == "startup":
            lines += [_startup(name, each, words["seconds"]) for name, each in record["commands"].items()]
            continue
        lines += [_line(each, words["names"]) for each in standings(record)]
        missing |= {
            f"{record['title']}: {NAMES.get(name, name)} ({why})": None for name, why in record["missing"].items()
        }
    lines += ["", words["about"]]
    if missing:
        lines += ["", f"{words['missing']}: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _line(found: Standing, names: Mapping[str, str]) -> str:
    peer = NAMES.get(found.peer, found.peer)
    ratio = f"{found.ratio:.2f} [{found.low:.2f}, {found.high:.2f}]"
    return _row([
        found.title,
        f"{found.ours:,.0f} {found.unit}",
        f"{names.get(peer, peer)} {found.theirs:,.0f}",
        ratio,
        f"{found.bar:g}{' ✓' if found.cleared else ''}" if found.bar else "",
        "" if found.share is None else f"{found.share:.0%}",
        f"{found.memory:,.0f}, {found.leanest:,.0f}",
    ])  # fmt: skip


def _startup(name: str, found: Mapping[str, Any], seconds: str) -> str:
    bar = f"{found['bar']:g}{' ✓' if found['median'] <= found['bar'] else ''}"
    return _row([f"`{name}`", f"{found['median']:.2f} {seconds}", "", "", bar, "", f"{found['peak_memory_mib']:,.0f}"])
