"""How long it takes until itda is there: `import itda` and `itda --help`, each in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from race.turns import clean_environment, our_side

COMMANDS = {  # what is run, and the seconds that it may take
    "import itda": (("-c", "import itda"), 0.3),
    "itda --help": (("-m", "itda.cli.main", "--help"), 0.5),
}
TIMES = 10
PEAK = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, check=True)
seconds = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
open(sys.argv[1], "w").write(json.dumps([seconds, peak]))
"""


def startup(threads: int, through: tuple[str, ...] = ()) -> dict[str, Any]:
    """Measure each command: the median of fresh processes (the first, which fills the disk's cache, dropped)."""
    environment = clean_environment(threads) | dict(our_side().variables)
    found = {}
    for name, (arguments, bar) in COMMANDS.items():
        runs = []
        for _ in range(TIMES + 1):
            with tempfile.TemporaryDirectory() as folder:
                result = Path(folder) / "result.json"
                command = [*through, sys.executable, "-c", PEAK, str(result), sys.executable, *arguments]
                subprocess.run(command, env=environment, cwd=folder, check=True)
                runs.append(json.loads(result.read_text(encoding="utf-8")))
        seconds = [each[0] for each in runs[1:]]
        found[name] = {
            "median": round(statistics.median(seconds), 3),
            "min": round(min(seconds), 3),
            "max": round(max(seconds), 3),
            "bar": bar,
            "peak_memory_mib": round(max(each[1] for each in runs) / 2**20, 1),
        }
    return {"kind": "speed", "row": "startup", "title": "import itda; itda --help", "place": 99, "commands": found}
