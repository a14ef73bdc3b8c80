"""Show that a corpus larger than memory is read, learned from, stored and iterated within a limit of resident memory.

    python benchmarks/big_corpus.py --gib 5 --limit-gib 1 --folder SCRATCH [--updates N] [--json FILE]

A seeded generator writes the corpus (kept in the folder and used again); a process of its own then does what training
does with the data: vocabulary, store, one epoch of updates by token budget. Its resident memory is sampled from
/proc (anonymous, of files, and its peak); the exit code is 1 where the anonymous part ever passed the limit.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 1 << 30
SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r")]


def write_corpus(path: Path, size: int, seed: int = 1) -> None:
    """Write made-up words with a Zipf-like distribution, targets the same words reversed, until `size` is reached."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(50_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    part, written = path.with_suffix(".part"), 0
    with part.open("wb", buffering=1 << 20) as file:
        while written < size:
            pool = iter(draw.choices(words, weights, k=200_000))
            block = bytearray()
            while len(source := [word for word, _ in zip(pool, range(draw.randint(3, 25)), strict=False)]) >= 3:
                block += f"{' '.join(source)}\t{' '.join(word[::-1] for word in reversed(source))}\n".encode()
            written += file.write(block)
    part.rename(path)


def resident() -> dict[str, int]:
    """Read the resident bytes of this process: anonymous, of files, all."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile", "VmRSS", "VmHWM")}


class Watch:
    """Samples the resident memory of this process and keeps the peaks of each stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, Any]] = {}
        self._name, self._done = "start", threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            peaks = self.stages.setdefault(self._name, {"seconds": 0.0})
            for key, value in resident().items():
                peaks[key] = max(peaks.get(key, 0), value)

    def stage(self, name: str) -> None:
        now = time.monotonic()
        if self._name in self.stages:
            self.stages[self._name]["seconds"] = round(now - self._since, 1)
        self._name, self._since = name, now
        self.stages[name] = {"seconds": 0.0, **resident()}

    _since = time.monotonic()

    def close(self) -> dict[str, dict[str, Any]]:
        self.stage("end")
        self._done.set()
        self._thread.join()
        return self.stages


def measure(corpus: Path, folder: Path, updates: int) -> dict[str, Any]:
    """Do with the data what training does, and report the peaks."""
    from itda.config import DataConfig, TokenizerConfig
    from itda.data.catalog import locate
    from itda.data.corpus import read_pairs
    from itda.data.plan import plan_for
    from itda.data.store import build_store
    from itda.text.tokenizer import train_tokenizers

    watch, files = Watch(), locate(str(corpus))

    def pairs() -> Iterator[tuple[str, str]]:
        return ((pair.src, pair.tgt) for pair in read_pairs(files))

    watch.stage("tokenizer")
    tokenizers = train_tokenizers(TokenizerConfig(), pairs, seed=1)
    watch.stage("store")
    store = build_store(files, tokenizers, DataConfig(), folder / "stores", lambda n: say(f"{n} pairs stored"))
    watch.stage("epoch")
    plan = plan_for(store, tokenizers, batch=8000, batch_unit="tokens", accumulate=1, seed=1)
    count = targets = seen = 0
    for update in plan.epoch(0):
        for src, _, _ in update.sides(store):
            seen += len(src)
        count, targets = count + 1, targets + update.num_targets
        if count == updates:
            break
    stages = watch.close()
    assert count == updates or seen == len(store)
    result = {"pairs": len(store), "updates": count, "targets": targets, "corpus_bytes": corpus.stat().st_size}
    return result | {"stages": stages, "python": platform.python_version(), "machine": platform.machine()}


def say(line: str) -> None:
    """Show progress where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{line}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Generate where needed, measure in a process of its own, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=5.0, help="size of the corpus")
    parser.add_argument("--limit-gib", type=float, default=1.0, help="limit of anonymous resident memory")
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder; needs about three times the corpus")
    parser.add_argument("--updates", type=int, default=0, help="stop the epoch after so many updates; 0: a whole epoch")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure, asked.folder, asked.updates)))
        return 0
    asked.folder.mkdir(parents=True, exist_ok=True)
    corpus = asked.folder / f"corpus-{asked.gib:g}.tsv"
    if not corpus.exists():
        write_corpus(corpus, int(asked.gib * GIB))
    command = [
        sys.executable,
        __file__,
        "--measure",
        str(corpus),
        "--folder",
        str(asked.folder),
        "--updates",
        str(asked.updates),
    ]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    peak = max(stage["RssAnon"] for stage in result["stages"].values())
    result |= {"gib": asked.gib, "limit_gib": asked.limit_gib, "peak_anonymous_gib": round(peak / GIB, 3)}
    result["peak_resident_gib"] = round(max(stage["VmRSS"] for stage in result["stages"].values()) / GIB, 3)
    result["date"] = time.strftime("%Y-%m-%d")
    text = json.dumps(result, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    return 0 if peak <= asked.limit_gib * GIB else 1


if __name__ == "__main__":
    sys.exit(main())
