"""The lecture's program, 1,000 epochs of two random series: our training against the loop that everybody writes first.

    python benchmarks/lecture.py --rounds 5

Both train an LSTM encoder-decoder of 128 features on the same two pairs (5 positions of 10 numbers) with Adam, and
feed the decoder its own prediction where a coin for the step says so. Ours runs through a session, as `itda train`
does, with its metrics file, validation and checkpoint inside the time. The two run in turn in one process; what counts
is the ratio of their times within a round. Little of this work is arithmetic: it measures what an update costs beside.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, circumstances
from torch import Tensor, nn

from itda.config import Config, load
from itda.data.vectors import load_vectors
from itda.training.loop import UpdateReport
from itda.training.session import open_session

RECIPE = ROOT / "recipes" / "lecture-vectors.toml"
RESULT = ROOT / "benchmarks" / "results" / "lecture.json"


class StepLoop(nn.Module):
    """The tutorials' model: torch's LSTM called for one position at a time, scheduled sampling in Python."""

    def __init__(self, src_dim: int, tgt_dim: int, dim: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(src_dim, dim, batch_first=True)
        self.decoder = nn.LSTM(tgt_dim, dim, batch_first=True)
        self.output = nn.Linear(dim, tgt_dim)

    def forward(self, src: Tensor, tgt: Tensor, ratio: float) -> Tensor:
        """Predict all of `tgt`; position t + 1 is fed the reference where the coin says so, else the prediction."""
        _, state = self.encoder(src)
        fed, outputs = torch.zeros_like(tgt[:, :1]), []
        for position in range(tgt.shape[1]):
            hidden, state = self.decoder(fed, state)
            outputs.append(self.output(hidden))
            fed = tgt[:, position : position + 1] if random.random() < ratio else outputs[-1]
        return torch.cat(outputs, dim=1)


def step_loop(config: Config) -> tuple[float, float]:
    """Train the tutorials' way; seconds of the loop, and the last loss."""
    random.seed(config.train.seed)
    torch.manual_seed(config.train.seed)
    pairs = load_vectors(config.data.train, config.data)
    src, tgt = (torch.stack([torch.from_numpy(one) for one in side]) for side in (pairs.src, pairs.tgt))
    model = StepLoop(config.data.src_dim, config.data.tgt_dim, config.model.decoder.dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.learning_rate)
    criterion = nn.MSELoss()
    loss = torch.zeros(())
    began = time.perf_counter()
    for epoch in range(int(config.train.epochs)):
        optimizer.zero_grad()
        loss = criterion(model(src, tgt, config.train.teacher_forcing.ratio), tgt)
        loss.backward()
        optimizer.step()
        if (epoch + 1) % config.train.report_every == 0:
            loss.item()
    return time.perf_counter() - began, loss.item()


def ours(config: Config) -> tuple[float, float]:
    """Train through a session; seconds of the loop with validation and checkpoint, and the last loss."""
    loss = 0.0
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(config, Path(folder) / "run")
        began = time.perf_counter()
        for report in session.reports():
            loss = report.loss if isinstance(report, UpdateReport) else loss
        seconds = time.perf_counter() - began
        session.close()
    return seconds, loss


SIDES: dict[str, Callable[[Config], tuple[float, float]]] = {"itda": ours, "step loop": step_loop}


def measure(rounds: int, config: Config) -> dict[str, Any]:
    """Run both in turn, each once shortly before it counts; the side that begins changes from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    losses: dict[str, float] = {}
    for side in SIDES.values():
        side(replace(config, train=replace(config.train, epochs=50)))
    for number in range(rounds):
        for name in sorted(SIDES, reverse=bool(number % 2)):
            taken, losses[name] = SIDES[name](config)
            seconds[name].append(taken)
    ratios = [slow / quick for quick, slow in zip(seconds["itda"], seconds["step loop"], strict=True)]
    return {
        "work": "the lecture's own program",
        "updates": int(config.train.epochs),
        "rounds": rounds,
        "seconds": seconds,
        "last_loss": losses,
        "ratio": spread(ratios),
        "ratios": ratios,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Smallest, middle and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each side runs (default 5)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides (default 1)")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = measure(options.rounds, load(RECIPE)) | circumstances()
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    ratio, middle = result["ratio"], {name: statistics.median(all_) for name, all_ in result["seconds"].items()}
    print(f"step loop {middle['step loop']:.2f} s, itda {middle['itda']:.2f} s", end="; ")
    print(f"ratio {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, {options.rounds} rounds)")


if __name__ == "__main__":
    main()
