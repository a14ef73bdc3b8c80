"""A training session: from a recipe and a run folder to the loop, and from its end to a finished run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from itda import config as recipes
from itda.build import build_model
from itda.config import Config
from itda.errors import UserError
from itda.nn.encoder_decoder import EncoderDecoder
from itda.run import FACTS, MetricsLog, RunFolder
from itda.seq2seq import Seq2Seq
from itda.text.tokenizer import TokenizerPair
from itda.training import checkpoint
from itda.training.adam import Adam, AdamW
from itda.training.dataset import Dataset
from itda.training.frozen import Frozen, freeze
from itda.training.loop import HIGHER_IS_BETTER, Standing, UpdateReport, ValidationReport, Work, train
from itda.training.material import Material, gather
from itda.training.objective import make_objective
from itda.training.shadow import Shadow
from itda.training.start import Start, same_start
from itda.training.validation import DECODED_METRICS, decoded_metrics, likelihood_metrics

Report = UpdateReport | ValidationReport
BUDGET = ("updates", "epochs", "minutes")


@dataclass
class Session:
    """A training that is ready to go on from where its run folder stands."""

    run: RunFolder
    config: Config
    seq2seq: Seq2Seq
    dataset: Dataset
    optimizer: torch.optim.Optimizer
    standing: Standing
    log: MetricsLog
    valid_pairs: list[tuple[str, str]]
    started: float
    notices: list[str] = field(default_factory=list)
    interrupted: Callable[[], bool] = lambda: False
    off_schedule: set[int] = field(default_factory=set)  # checkpoints of interruptions
    shadow: Shadow | None = None  # train.ema: what is validated and saved in place of the weights
    ended: float = 0.0  # when the loop ended: what follows counts as time too

    def reports(self) -> Iterator[Report]:
        """Run the loop; every report is in metrics.jsonl before it is handed on."""
        config, tokenizers = self.config.train, self.seq2seq.tokenizers
        work = Work(
            config=config,
            model=self.seq2seq.model,
            optimizer=self.optimizer,
            objective=make_objective(config, self.config.decode, tokenizers.tgt if tokenizers else None),
            epoch_updates=self.dataset.update,
            updates_in=functools.cache(self.dataset.plan.updates_per_epoch),
            validate=self.validate,
            save=self.save,
            device=self.seq2seq.device,
            started=self.started,
            interrupted=self.interrupted,
            follow=self.shadow.follow if self.shadow else lambda step: None,
        )
        for report in train(work, self.standing):
            kind = "update" if isinstance(report, UpdateReport) else "validation"
            self.log.append({"kind": kind, **vars(report)})
            yield report
        self.ended = time.monotonic()

    def validate(self) -> dict[str, float]:
        """All metrics that the recipe asks for, of the weights that would be kept."""
        with self._kept_weights():
            return self.measure()

    def _kept_weights(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Put the average of the weights in their place, where there is one; the block is given what they were."""
        return self.shadow.shown() if self.shadow else nullcontext(dict[str, Tensor]())

    def measure(self) -> dict[str, float]:
        """All metrics that the recipe asks for, of the weights that the model has."""
        metrics = likelihood_metrics(self.seq2seq, self.dataset.validation())
        if self.valid_pairs and self.config.train.metric in DECODED_METRICS:
            metrics |= decoded_metrics(self.seq2seq, self.valid_pairs)
        return metrics

    def save(self, standing: Standing) -> None:
        """Write a checkpoint, then note in run.json how far training is."""
        old, self.off_schedule = self.off_schedule, set() if standing.step in standing.validated else {standing.step}
        state = standing.to_json() | {"metrics_bytes": self.log.sync(), "off_schedule": sorted(self.off_schedule)}
        state["budget"] = budget(self.config)
        best = standing.best_step or None
        keep = checkpoint.Keep(
            self.config.train.keep, self.config.train.average, best, frozenset(old | self.off_schedule)
        )
        with self._kept_weights() as own:
            state |= {"own_weights": own} if own else {}
            model = self.seq2seq.model.state_dict()
            checkpoint.save(self.run.checkpoints, standing.step, model, self.optimizer, state, keep)
        self.run.update(status="training", update=standing.step, best=self.best(), minutes=standing.seconds / 60)

    def best(self) -> dict[str, Any]:
        """The watched metric at its best, and when that was."""
        standing, name = self.standing, self.config.train.metric
        return {
            "metric": name,
            "value": standing.best_metric,
            "update": standing.best_step,
            "higher_is_better": name in HIGHER_IS_BETTER,
        }

    def finish(self) -> None:
        """Choose the final weights (averaged, or the best), measure them, and write them into the run folder."""
        standing, folder = self.standing, self.run.checkpoints
        last = standing.validated[-self.config.train.average :]
        if self.config.train.average > 1:
            weights = checkpoint.average([folder / f"{step:08d}" for step in last])
        else:
            weights = checkpoint.read(folder / f"{standing.best_step or standing.step:08d}").weights()
        self.seq2seq.model.load_state_dict(weights)
        self.run.finish(
            self.seq2seq.model.state_dict(),
            update=standing.step,
            epoch=standing.epoch + standing.position / self.dataset.plan.updates_per_epoch(standing.epoch),
            stopped=standing.stopped,
            averaged=last if self.config.train.average > 1 else [standing.best_step or standing.step],
            best=self.best(),
            final=self.measure(),
            minutes=(standing.seconds + time.monotonic() - self.ended) / 60,
        )

    def close(self) -> None:
        """Release the run folder."""
        self.log.close()
        self.run.close()


def open_session(
    config: Config,
    path: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    tokenizers: TokenizerPair | None = None,
) -> Session:
    """Prepare a session: data, tokenizers, stores, model, optimizer and what the last checkpoint holds.

    `tokenizers` are those of a group of runs that share them; without them, a new run learns or inherits its own.
    All that can fail is done before the run folder is touched: a mistake in a setting costs no older run, and leaves
    no folder that bars the way of the corrected command.
    """
    started = time.monotonic()
    device = torch.device(device)
    run = RunFolder.resume(path) if resume and (path / FACTS).exists() else RunFolder.claim(path, overwrite)
    try:
        parts = _prepare(run, config, device, tokenizers)
        if not run.begun:
            run.begin()
        return _start(run, config, parts, device, started)
    except BaseException:
        run.close()
        raise


@dataclass
class Parts:
    """What a session is made of, before anything of it stands in the run folder."""

    material: Material
    facts: dict[str, Any]
    model: EncoderDecoder
    optimizer: torch.optim.Optimizer
    notices: list[str]
    frozen: Frozen
    shadow: Shadow | None = None
    standing: Standing = field(default_factory=Standing)
    metrics_bytes: int = 0
    off_schedule: set[int] = field(default_factory=set)
    warm: bool = False  # whether the weights are another run's, and in no checkpoint yet


def _prepare(run: RunFolder, config: Config, device: torch.device, tokenizers: TokenizerPair | None) -> Parts:
    """Read, check and build; a run that was only claimed is left as it is."""
    _check_config(run, config)
    start = _start_of(run, config)
    material = gather(run, config, start, tokenizers)
    torch.manual_seed(config.train.seed)
    model = build_model(config, *material.sizes()).to(device)
    shadow = Shadow(model, config.train.ema) if config.train.ema else None
    frozen = freeze(model, config.train.freeze)
    notices = [*material.notices, *frozen.notices]
    optimizer = make_optimizer(config, model)
    parts = Parts(material, {"data": material.facts}, model, optimizer, notices, frozen, shadow)
    if run.begun:
        _restore(run, config, parts)
    if start is not None:
        _warm_start(start, config, parts)
    return parts


def _start_of(run: RunFolder, config: Config) -> Start | None:
    """Open the run that this one starts from; one that has a checkpoint needs it no more."""
    if not config.train.start_from or (run.begun and (run.facts.get("update") or checkpoint.steps(run.checkpoints))):
        return None
    start = Start.open(Path(config.train.start_from), run.path)
    same_start(run.facts, start, run.path)
    return start


def _warm_start(start: Start, config: Config, parts: Parts) -> None:
    """Give the model the weights that it starts from, and note whose they are."""
    grown = start.give_weights(parts.model, parts.material.tokenizers, config.train.seed)
    parts.facts["started_from"] = start.facts() | ({"vocabulary": grown} if grown else {})
    parts.notices += [
        f"{side}: the vocabulary grows from {old} to {new} entries"
        + ("; its new rows are frozen as they start" if "embedding" in config.train.freeze else "")
        for side, (old, new) in grown.items()
    ]
    if parts.shadow:  # it begins with what the model begins with
        parts.shadow = Shadow(parts.model, config.train.ema)
    parts.warm = True


def _restore(run: RunFolder, config: Config, parts: Parts) -> None:
    """Take up what the last checkpoint holds; a run that got further than its checkpoints is never begun anew."""
    saved = checkpoint.load_latest(run.checkpoints)
    if saved is None:
        if run.facts.get("update") or run.weights_path.exists():
            raise UserError(
                f"{run.path} stands at update {run.facts.get('update')}, but its checkpoints are gone: there is "
                "nothing to go on from; copy the whole run folder again, or begin anew with --overwrite."
            )
        return
    parts.notices += saved.notices
    saved.load_model(parts.model)
    saved.load_optimizer(parts.optimizer)
    state = dict(saved.state)
    parts.metrics_bytes, parts.off_schedule = state.pop("metrics_bytes"), set(state.pop("off_schedule"))
    old_budget, own = state.pop("budget"), state.pop("own_weights", {})
    if parts.shadow:  # what a checkpoint has for the model's weights are the averaged ones
        parts.shadow.resume(own)
    parts.standing = Standing(**state)
    if old_budget != budget(config):  # of the checkpoint, not of config.toml: a kill may lie between the two
        parts.standing.stopped = ""


def _start(run: RunFolder, config: Config, parts: Parts, device: torch.device, started: float) -> Session:
    """Write into the run folder what it lacks, and say in run.json that training goes on."""
    if not run.has("config.toml") or _recipe_of(run) != config:
        run.write_config(recipes.dumps(config))
    tokenizers = parts.material.tokenizers
    if tokenizers is not None and not run.has("tokenizer"):
        with run.writing("tokenizer"):
            tokenizers.save(run.tokenizer_path)
    run.update(
        status="training",
        name=config.name,
        parameters=parts.frozen.total,
        trained_parameters=parts.frozen.trained,
        threads=torch.get_num_threads(),
        device=str(device),
        **parts.facts,
    )
    session = Session(
        run,
        config,
        Seq2Seq(config, parts.model, tokenizers, run.path, device),
        parts.material.dataset,
        parts.optimizer,
        parts.standing,
        MetricsLog(run.metrics_path, parts.metrics_bytes),
        parts.material.valid_pairs,
        started,
        parts.notices,
        off_schedule=parts.off_schedule,
        shadow=parts.shadow,
    )
    if parts.warm:  # from here on the run is complete in itself: it can go on where the other one is gone
        session.save(session.standing)
    return session


def make_optimizer(config: Config, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters that are not frozen."""
    train = config.train
    kind = AdamW if train.optimizer == "adamw" else Adam
    decay = train.weight_decay if train.optimizer == "adamw" else 0.0
    return kind(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        weight_decay=decay,
        fused=True,
    )


def budget(config: Config) -> list[float]:
    """How long training may go on."""
    return [getattr(config.train, name) for name in BUDGET]


def _recipe_of(run: RunFolder) -> Config:
    return recipes.parse(run.read_config(), source=str(run.config_path))


def _check_config(run: RunFolder, config: Config) -> None:
    """Hold the recipe against the one that a run was begun with: only its budget may have changed."""
    if not run.has("config.toml"):
        return
    old = _recipe_of(run)
    kept: dict[str, Any] = dict(zip(BUDGET, budget(old), strict=True))
    same_budget = replace(config, train=replace(config.train, **kept))
    if same_budget != old:
        raise UserError(
            f"{run.path} was begun with another recipe (now {_first_change(old, same_budget)}); "
            "only the budget may change with --resume: use the same recipe, or another --run folder."
        )


def _first_change(old: Config, new: Config) -> str:
    """The first setting that differs, with its section: the same line may stand in several."""
    section = ""
    for before, now in zip(recipes.dumps(old).splitlines(), recipes.dumps(new).splitlines(), strict=True):
        section = now.strip("[]") + "." if now.startswith("[") else section
        if before != now:
            return section + now
    raise AssertionError("two recipes that differ are written differently")
