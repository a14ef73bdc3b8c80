"""A trainer on one page: the real run folder, checkpoints and log around a tiny model.

It takes the options of `itda train` that kill_resume.py gives, and lets the driver and the files be tested by
themselves. FORGET in the environment names a part of the state that it shall not restore.
"""

import os
import sys
import time
from pathlib import Path

import torch

from itda.run import MetricsLog, RunFolder
from itda.training import checkpoint
from itda.training.checkpoint import Keep


def main(words: list[str]) -> None:
    path, forget = Path(words[words.index("--run") + 1]), os.environ.get("FORGET", "")
    settings = dict(word.split("=") for word in words if "=" in word)
    began, updates = time.monotonic(), int(settings["updates"])
    with RunFolder.resume(path) if "--resume" in words else RunFolder.create(path) as run:
        if not run.has("config.toml"):
            run.write_config(f"updates = {updates}\n")
        if not run.has("tokenizer"):
            with run.writing("tokenizer"):
                run.tokenizer_path.mkdir(exist_ok=True)
                (run.tokenizer_path / "pieces").write_text("abc")
        torch.manual_seed(1)
        model = torch.nn.Linear(8, 8)
        optimizer = torch.optim.Adam(model.parameters())
        saved = checkpoint.load_latest(run.checkpoints)
        step, length, before = 0, 0, 0.0
        if saved:
            step, length, before = saved.step, saved.state["metrics_bytes"], saved.state["seconds"]
            saved.load_model(model)
            if forget != "optimizer":
                saved.load_optimizer(optimizer)
            if forget == "metrics":
                length = run.metrics_path.stat().st_size
        log = MetricsLog(run.metrics_path, length)
        run.update(status="training")
        while step < updates:
            step += 1
            generator = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            loss = (model(torch.randn(4, 8, generator=generator)) - 1).square().mean()
            loss.backward()
            optimizer.step()
            seconds = before + time.monotonic() - began
            log.append({"update": step, "loss": loss.item(), "seconds": seconds})
            time.sleep(0.005)
            if step % 10 == 0:
                state = {"metrics_bytes": log.sync(), "seconds": seconds}
                checkpoint.save(run.checkpoints, step, model.state_dict(), optimizer, state, Keep(last=2, best=10))
                run.update(update=step)
        log.close()
        run.finish(model.state_dict(), update=step, minutes=(time.monotonic() - began) / 60)


main(sys.argv[1:])
