"""The training loop: one generator that yields a report after each update and each validation.

Everything random in an update is drawn from generators keyed by (seed, step), so that a resumed run needs no
generator state: it draws what the uninterrupted run drew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from itda.allocator import keep_freed_memory
from itda.batch import Batch
from itda.config import TrainConfig
from itda.errors import ItdaError
from itda.nn.encoder_decoder import EncoderDecoder
from itda.training.objective import Objective
from itda.training.schedule import learning_rate


@dataclass(frozen=True)
class Update:
    """One optimizer update: its micro-batches and the number of target positions in all of them."""

    batches: tuple[Batch, ...]
    num_targets: int


@dataclass(frozen=True)
class UpdateReport:
    """What an update did. `loss` is the objective and `nll` the likelihood, both a target position, in nats.

    `parts` are what an objective adds up besides the likelihood (`Sums.parts`), a target position too.
    """

    step: int
    epoch: int
    loss: float
    nll: float
    num_targets: int
    learning_rate: float
    grad_norm: float
    seconds: float
    minutes: float
    progress: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationReport:
    """Metrics on the validation pairs after update `step`; `best` says whether the watched one is the best so far."""

    step: int
    epoch: int
    metrics: dict[str, float]
    best: bool
    minutes: float


@dataclass
class Standing:
    """Where training stands: what a resume needs besides weights and optimizer, all of it plain JSON."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # updates taken in this epoch
    best_step: int = 0
    best_metric: float | None = None
    best_loss: float = math.inf  # at the best metric: where two are equal, the lower loss is the better one
    worse: int = 0  # validations since the best one
    plateau_scale: float = 1.0
    plateau_worse: int = 0
    seconds: float = 0.0
    stopped: str = ""
    validated: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """What the loop works with; `epoch_updates(epoch, start)` yields that epoch's updates from number `start` on."""

    config: TrainConfig
    model: EncoderDecoder
    optimizer: torch.optim.Optimizer
    objective: Objective
    epoch_updates: Callable[[int, int], Iterator[Update]]
    updates_in: Callable[[int], int]
    validate: Callable[[], dict[str, float]]
    save: Callable[[Standing], None]
    device: torch.device
    started: float  # time.monotonic() of the moment that the budget in minutes counts from
    interrupted: Callable[[], bool] = lambda: False
    follow: Callable[[int], None] = lambda step: None  # who averages the weights looks at them after each update


HIGHER_IS_BETTER = {"token_accuracy", "bleu", "chrf", "exact_match"}


def train(work: Work, standing: Standing) -> Iterator[UpdateReport | ValidationReport]:
    """Train from `standing` until the budget is used, patience is lost or somebody interrupts; saves after validations.

    An interrupted training has an empty `standing.stopped`: it can go on as if nothing had happened.
    """
    config = work.config
    clock = Clock(work.started, standing.seconds)
    standing.stopped = standing.stopped or _budget_used(work, standing)  # by an earlier session with a larger budget
    if standing.stopped:
        return
    if work.device.type == "cpu":
        keep_freed_memory()
    for update in _updates(work, standing):
        report = _apply(work, standing, update, clock)
        standing.step, standing.position = standing.step + 1, standing.position + 1
        standing.seconds = clock.seconds()
        yield report
        used_up = _budget_used(work, standing)
        if used_up or standing.step % config.validate_every == 0:
            validation = _validate(work, standing, clock)
            standing.stopped = used_up or _patience_lost(config, standing)
            yield validation
            work.save(standing)
            leave = bool(standing.stopped) or work.interrupted()
        elif leave := work.interrupted():  # asked once: whoever leaves here has saved
            work.save(standing)
        if leave:
            return


@dataclass(frozen=True)
class Clock:
    """Seconds of training so far, those before a resume included."""

    started: float
    before: float

    def seconds(self) -> float:
        """Seconds since the start of the first session, pauses between sessions left out."""
        return self.before + time.monotonic() - self.started


def progress(work: Work, standing: Standing) -> float:
    """The share of the budget that is used: the largest share where several budgets are given."""
    config = work.config
    shares = [0.0]
    if config.updates:
        shares.append(standing.step / config.updates)
    if config.epochs:
        shares.append((standing.epoch + standing.position / work.updates_in(standing.epoch)) / config.epochs)
    if config.minutes:
        shares.append(standing.seconds / 60 / config.minutes)
    return min(1.0, max(shares))


def _updates(work: Work, standing: Standing) -> Iterator[Update]:
    while True:
        yield from work.epoch_updates(standing.epoch, standing.position)
        standing.epoch, standing.position = standing.epoch + 1, 0


def _apply(work: Work, standing: Standing, update: Update, clock: Clock) -> UpdateReport:
    config, began = work.config, time.monotonic()
    coins = key_generators(config.seed, standing.step, work.device)
    used = progress(work, standing)
    rate = learning_rate(config, standing.step, used, standing.plateau_scale)
    for group in work.optimizer.param_groups:
        group["lr"] = rate
    if not work.model.training:  # asked first: setting it visits each module
        work.model.train()
    work.optimizer.zero_grad(set_to_none=True)
    loss: Tensor | float = 0.0
    nll: Tensor | float = 0.0
    parts: dict[str, Tensor | float] = {}
    for batch in update.batches:
        with precision(config, work.device):
            sums = work.objective(work.model, batch.to(work.device), standing.step, used, coins)
        sums.objective.backward(torch.full_like(sums.objective, 1 / update.num_targets))  # quicker than to divide first
        loss, nll = loss + sums.objective.detach(), nll + sums.nll.detach()
        parts = {name: parts.get(name, 0.0) + value.detach() for name, value in sums.parts.items()}
    norm = clip_gradients(work.optimizer, config.clip_norm)
    if not math.isfinite(float(loss) + float(norm)):
        raise ItdaError(
            f"training diverged at update {standing.step + 1}: the loss is {float(loss) / update.num_targets:g}, "
            f"the gradient norm {float(norm):g}; checkpoints before it are kept; lower train.learning_rate (now "
            f"{config.learning_rate:g}) or set train.clip_norm, and begin anew with --overwrite."
        )
    work.optimizer.step()
    work.follow(standing.step)
    return UpdateReport(
        step=standing.step + 1,
        epoch=standing.epoch,
        loss=float(loss) / update.num_targets,
        nll=float(nll) / update.num_targets,
        num_targets=update.num_targets,
        learning_rate=rate,
        grad_norm=float(norm),
        seconds=time.monotonic() - began,
        minutes=clock.seconds() / 60,
        progress=used,
        parts={name: float(value) / update.num_targets for name, value in parts.items()},
    )


def precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    """Compute in the precision of the recipe; where that is the weights' own, torch's context costs without use."""
    return torch.autocast(device.type, torch.bfloat16) if config.autocast == "bfloat16" else nullcontext()


def clip_gradients(optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
    """Return the norm of all gradients as one vector; where it is over `limit` (0: none), scale it down to that.

    What `torch.nn.utils.clip_grad_norm_` computes, bit for bit, at half of its price where there is no limit.
    """
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    if limit:
        torch._foreach_mul_(grads, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def key_generators(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Seed torch's global generator (dropout) for this update, and return the generator of its coins."""
    key = (seed * 1_000_003 + step) % 2**63
    torch.default_generator.manual_seed(key)
    if device.type != "cpu":  # torch's own manual_seed takes half a millisecond where there is no GPU
        torch.manual_seed(key)
    return torch.Generator().manual_seed(key ^ 0x17DA)


def _budget_used(work: Work, standing: Standing) -> str:
    """Which budget this update used up, or an empty string."""
    config = work.config
    if config.updates and standing.step >= config.updates:
        return f"budget of {config.updates} updates used"
    if config.epochs and standing.epoch + standing.position / work.updates_in(standing.epoch) >= config.epochs:
        return f"budget of {config.epochs:g} epochs used"
    if config.minutes and standing.seconds / 60 >= config.minutes:
        return f"budget of {config.minutes:g} minutes used at update {standing.step}"
    return ""


def _patience_lost(config: TrainConfig, standing: Standing) -> str:
    if config.patience and standing.worse >= config.patience:
        return f"no better {config.metric} in {standing.worse} validations"
    return ""


def _validate(work: Work, standing: Standing, clock: Clock) -> ValidationReport:
    config = work.config
    work.model.eval()
    metrics = work.validate()
    watched = metrics.get(config.metric)
    best = watched is not None and is_better(config.metric, watched, metrics["loss"], standing)
    if best or watched is None:
        standing.best_metric, standing.best_loss = watched, metrics.get("loss", math.inf)
        standing.best_step, standing.worse, standing.plateau_worse = standing.step, 0, 0
    else:
        standing.worse, standing.plateau_worse = standing.worse + 1, standing.plateau_worse + 1
        if standing.plateau_worse >= config.plateau_patience:
            standing.plateau_scale, standing.plateau_worse = standing.plateau_scale * config.plateau_factor, 0
    standing.validated.append(standing.step)
    standing.seconds = clock.seconds()
    return ValidationReport(standing.step, standing.epoch, metrics, best, standing.seconds / 60)


def is_better(metric: str, value: float, loss: float, standing: Standing) -> bool:
    """Whether a validation beats the best so far: by the watched metric, and by the loss where that is equal."""
    if not math.isfinite(value):
        return False
    if standing.best_metric is None:
        return True
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    return (sign * value, -loss) > (sign * standing.best_metric, -standing.best_loss)
