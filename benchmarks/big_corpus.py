"""Show that `itda train` learns from a corpus larger than memory in a process that the kernel holds to a limit.

    python benchmarks/big_corpus.py --gib 5 --limit-gib 1 --folder SCRATCH [--updates N] [--json FILE]

A seeded generator writes the corpus (kept in the folder and used again). Then `itda train` reads it, learns a
vocabulary, builds the store and trains, with RLIMIT_DATA set: an allocation beyond the limit fails, and with it the
training. Its resident memory is sampled from /proc all the while (anonymous, of files, together).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from machine import circumstances

GIB = 1 << 30
SYLLABLES = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r")]


def write_corpus(path: Path, size: int, seed: int = 1) -> None:
    """Write made-up words with a Zipf-like distribution, targets the same words reversed, until `size` is reached."""
    draw = random.Random(1)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(50_000)]
    weights = [1 / (rank + 10) for rank in range(len(words))]
    draw.seed(seed)
    part, written = path.with_suffix(".part"), 0
    with part.open("wb", buffering=1 << 20) as file:
        while written < size:
            pool = iter(draw.choices(words, weights, k=200_000))
            block = bytearray()
            while len(source := [word for word, _ in zip(pool, range(draw.randint(3, 25)), strict=False)]) >= 3:
                block += f"{' '.join(source)}\t{' '.join(word[::-1] for word in reversed(source))}\n".encode()
            written += file.write(block)
    part.rename(path)


TRAIN = [sys.executable, "-m", "itda.cli.main", "train", "fit", "model.embedding_dim=128", "model.encoder.dim=128"]
TRAIN += [
    "model.decoder.dim=128",
    "train.batch=1000",
    "train.batch_unit=tokens",
    "tokenizer.kind=sentencepiece",
    "--threads",
    "1",
    "--overwrite",
]


def resident(pid: int) -> dict[str, int]:
    """Read the resident bytes of a process: anonymous, of files, all; nothing where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    names = ("RssAnon", "RssFile", "VmRSS", "VmData")
    return {name: int(fields[name].split()[0]) * 1024 for name in names if name in fields}


def train(corpus: Path, valid: Path, folder: Path, limit: int, updates: int) -> dict[str, Any]:
    """Train under the limit, and report the peaks; the exit status is that of `itda train`."""
    command = [*TRAIN, f"data.train={corpus}", f"data.valid={valid}", "--updates", str(updates)]
    command += ["--run", str(folder / "run")]
    environment = os.environ | {"ITDA_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    peaks: dict[str, int] = {}
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    )
    while process.poll() is None:
        for name, value in resident(process.pid).items():
            peaks[name] = max(peaks.get(name, 0), value)
        time.sleep(0.05)
    result = {"status": process.returncode, "minutes": round((time.monotonic() - started) / 60, 1)}
    if process.returncode == 0:
        facts = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
        lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        reports = [json.loads(line) for line in lines]
        losses = [report["nll"] for report in reports if report["kind"] == "update"]
        result |= {"pairs": facts["data"]["train"]["pairs"], "updates": facts["update"]}
        result |= {"first_nll": round(losses[0], 3), "last_nll": round(losses[-1], 3)}
    return result | {f"peak_{name}_gib": round(value / GIB, 3) for name, value in peaks.items()}


def main() -> int:
    """Generate where needed, train in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=5.0, help="size of the corpus")
    parser.add_argument("--limit-gib", type=float, default=1.0, help="limit of the data of the process (RLIMIT_DATA)")
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder; needs about three times the corpus")
    parser.add_argument("--updates", type=int, default=200, help="how long to train")
    parser.add_argument("--json", type=Path, help="write the result here too")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    corpus, valid = asked.folder / f"corpus-{asked.gib:g}.tsv", asked.folder / "valid.tsv"
    for path, size, seed in ((corpus, int(asked.gib * GIB), 1), (valid, 50_000, 2)):
        if not path.exists():
            write_corpus(path, size, seed)
    result = {"gib": asked.gib, "limit_gib": asked.limit_gib, "corpus_bytes": corpus.stat().st_size}
    result |= train(corpus, valid, asked.folder, int(asked.limit_gib * GIB), asked.updates)
    result |= circumstances()
    text = json.dumps(result, indent=1)
    print(text)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    return int(result["status"])


if __name__ == "__main__":
    sys.exit(main())
