"""A trained run of itda as it is served: lines of text in, lines of text out, by `Seq2Seq.generate`."""

from __future__ import annotations

import statistics
import sys
import time

from itda.seq2seq import Seq2Seq
from race.child import Job, Result, run


def serving(job: Job) -> Result:
    """Translate all lines a few times, with the settings of the job."""
    model = Seq2Seq.load(job["run"], int8=job.get("int8", False))
    asked = {"attention": False, "beam_size": job["beam"], "shortlist": job.get("shortlist", "off")}
    texts: list[str] = job["texts"]
    model.generate(texts[:40], **asked)
    seconds, outputs = [], []
    for _ in range(job["passes"]):
        start = time.perf_counter()
        outputs = [found.text for found in model.generate(texts, **asked)]
        seconds.append(time.perf_counter() - start)
    return {"seconds": [statistics.median(seconds)], "sentences": len(texts), "texts": outputs}


if __name__ == "__main__":
    run({"serving": serving}, sys.argv[1])
