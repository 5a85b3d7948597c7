"""The training loop of user towers: next-item prediction over a log, on Lightning Fabric.

It trains any tower together with an ItemTower, keeps an average of the weights, stops early on validation NDCG@10, and
resumes from checkpoints. Which towers are trained, and how they are blended, is `training.retriever`'s business.
"""

from __future__ import annotations

import atexit
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from shortlist.data.log import InteractionLog
from shortlist.data.splits import Examples
from shortlist.models.items import ItemTower
from shortlist.training.average import WeightAverage, snapshot
from shortlist.training.checkpoint import load_checkpoint, save_checkpoint
from shortlist.training.objective import NextItemObjective, SideFeatures, make_batch
from shortlist.training.optimizers import build_optimizers
from shortlist.training.validation import validation_ndcg
from shortlist.training.windows import cut_windows, plan_batches
from shortlist.types import Float32, Int64

FULL_SOFTMAX_LIMIT = 50_000
DEFAULT_NEGATIVES = 4096
VALIDATION_LIMIT, VALIDATION_LEAST = 20_000, 2000  # examples; fewer, but not too few, of a large catalogue
VALIDATION_SCORES = 1_000_000_000
MAX_GRADIENT_NORM = 5.0
SMOOTHED = 3  # epochs


@dataclass(frozen=True)
class TrainingResult:
    """How a training went; the trained modules themselves hold the best weights."""

    ndcg: float  # NDCG@10 on validation of the weights kept
    epochs: int
    best_epoch: int  # counted from 1
    seconds: float
    curve: tuple[float, ...]  # NDCG@10 after each epoch


@dataclass(frozen=True)
class TrainingSettings:
    """How a tower is trained. A checkpoint must agree with all of it."""

    window: int = 50  # events of a history
    epochs: int = 20
    patience: int = 5  # epochs without a better one after which training ends
    batch_tokens: int = 3200
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_steps: int = 200
    mask_seen: bool = False  # leave items already in the window out of the training softmax: where people repeat none
    mask_validation: bool | None = None  # and items of the history out of the validation ranking; None: as `mask_seen`
    negatives: int | None = None  # items drawn uniformly for a sampled softmax; None: all items, where they are few
    ema_decay: float = 0.98
    ema_every: int = 5
    seed: int = 0

    def settled(self, n_items: int) -> TrainingSettings:
        """The same with nothing left to decide, for a catalogue of so many items."""
        drawn = DEFAULT_NEGATIVES if self.negatives is None and n_items > FULL_SOFTMAX_LIMIT else self.negatives
        masked = self.mask_seen if self.mask_validation is None else self.mask_validation
        return replace(self, negatives=drawn, mask_validation=masked)


def train_tower(
    tower: nn.Module,
    items: ItemTower,
    log: InteractionLog,
    validation: Examples,
    settings: TrainingSettings,
    *,
    side: SideFeatures | None = None,
    weights: Float32 | None = None,
    checkpoint_dir: Path | None = None,
    accelerator: str = "cpu",
    devices: int = 1,
    show_progress: bool = True,
    title: str = "tower",
) -> TrainingResult:
    """Train `tower` and `items` to predict every event of `log`; leave both with their best weights, in eval mode.

    `side(examples)` gives the side features Float32[E, S] of the events to predict; `weights` Float32[M] weigh the
    log's events as targets (None: all 1). The softmax is over all items up to 50,000; beyond, and where the settings
    have `negatives`, that many items join the targets of each batch. A checkpoint in `checkpoint_dir` is resumed from.
    """
    settings = settings.settled(log.n_items)
    torch.manual_seed(settings.seed)
    objective = NextItemObjective(tower, items, log, mask_seen=settings.mask_seen, negatives=settings.negatives)
    fabric = _launch(accelerator, devices)
    training = _Training(fabric, objective, settings, log, validation, side, weights, checkpoint_dir)
    training.resume()
    with _progress_bar(show_progress and fabric.is_global_zero) as bar:
        training.run(bar, title)
    fabric.barrier()  # nobody leaves while another still waits for what it has to say
    return training.finish()


@dataclass
class _State:
    """Where a training stands."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    curve: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The best epoch so far, from 0; -1 before the first.

        The mean of the last SMOOTHED epochs decides: one lucky measurement on few examples must not.
        """
        means = [np.mean(self.curve[max(0, i + 1 - SMOOTHED) : i + 1]) for i in range(len(self.curve))]
        return int(np.argmax(means)) if means else -1


class _Training:
    """One training under way."""

    def __init__(
        self,
        fabric: Fabric,
        objective: NextItemObjective,
        settings: TrainingSettings,
        log: InteractionLog,
        validation: Examples,
        side: SideFeatures | None,
        weights: Float32 | None,
        folder: Path | None,
    ) -> None:
        self.fabric, self.objective, self.settings = fabric, objective, settings
        self.log, self.side, self.weights, self.folder = log, side, weights, folder
        affordable = max(VALIDATION_LEAST, VALIDATION_SCORES // log.n_items)
        self.validation = validation.sample(min(VALIDATION_LIMIT, affordable), settings.seed)
        self.windows = cut_windows(log, settings.window)
        self.total_steps = settings.epochs * len(self.batches(0))
        items = objective.items
        self.optimizers = build_optimizers(
            objective, items, settings.learning_rate, settings.weight_decay, betas=(0.9, 0.98)
        )
        self.rates = [optimizer.defaults["lr"] / settings.learning_rate for optimizer in self.optimizers]
        self.model, *self.wrapped_optimizers = fabric.setup(objective, *self.optimizers)
        self.average = WeightAverage(objective, settings.ema_decay, {"items.embedding"} if items.by_rows else ())
        self.best = snapshot(objective)
        self.state = _State()

    def batches(self, epoch: int) -> list[Int64]:
        """This process's batches of an epoch: equally many for every process."""
        generator = np.random.default_rng([self.settings.seed, epoch])
        batches = plan_batches(self.windows.lengths, self.settings.batch_tokens, generator)
        world, rank = self.fabric.world_size, self.fabric.global_rank
        return batches[: len(batches) // world * world][rank::world]

    def run(self, bar: Progress, title: str) -> None:
        """Train epoch after epoch until there have been enough, or until validation has long not improved."""
        task = bar.add_task(
            title, total=self.total_steps, completed=self.state.step, ndcg=max(self.state.curve, default=0)
        )
        while self.state.epoch < self.settings.epochs and not self.exhausted():
            began = time.perf_counter()
            torch.manual_seed(self.settings.seed * 100_003 + self.state.epoch)
            self.objective.train()
            for index in self.batches(self.state.epoch):
                self.step(index)
                bar.update(task, completed=self.state.step)
            self.validate()
            self.state.seconds += time.perf_counter() - began
            self.save()
            bar.update(task, ndcg=max(self.state.curve))

    def exhausted(self) -> bool:
        return self.state.epoch - 1 - self.state.best >= self.settings.patience

    def step(self, index: Int64) -> None:
        """One optimiser step on the windows at `index`."""
        rate = _rate(self.settings, self.state.step, self.total_steps)
        for optimizer, factor in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        batch = make_batch(self.log, self.windows, index, self.side, self.weights)
        self.fabric.backward(self.model(*self.fabric.to_device(batch)))
        self.fabric.clip_gradients(self.model, self.wrapped_optimizers[0], max_norm=MAX_GRADIENT_NORM)
        for optimizer in self.wrapped_optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.state.step += 1
        if self.state.step % self.settings.ema_every == 0:
            self.average.update(self.objective)

    def validate(self) -> None:
        """Close an epoch: measure the averaged weights, and keep them if they are the best."""
        with self.average.swapped_in(self.objective):
            tower, items = self.objective.tower, self.objective.items
            masked = bool(self.settings.mask_validation)
            ndcg = validation_ndcg(tower, items, self.validation, self.side, self.settings.window, masked)
            self.state.curve.append(ndcg)
            self.state.epoch += 1
            if self.state.best == self.state.epoch - 1:
                self.best = snapshot(self.objective)

    def save(self) -> None:
        if self.folder is not None and self.fabric.is_global_zero:
            averages = {"average": self.average.weights, "best": self.best}
            progress = {"settings": self.identity(), "state": asdict(self.state), "updates": self.average.updates}
            save_checkpoint(self.folder, self.objective, self.optimizers, averages, progress)

    def identity(self) -> dict[str, Any]:
        """What tells this training from another whose checkpoint lies in the same folder."""
        return {**asdict(self.settings), "events": len(self.log)}

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one."""
        if self.folder is None:
            return
        found = load_checkpoint(self.folder, self.objective, self.optimizers, self.identity())
        if found is not None:
            averages, progress = found
            device = self.fabric.device
            self.average.weights = _on(device, averages["average"])
            self.best = _on(device, averages["best"])
            self.average.updates = progress["updates"]
            self.state = _State(**progress["state"])

    def finish(self) -> TrainingResult:
        """Load the best weights and report."""
        self.objective.load_state_dict(self.best)
        self.objective.eval()
        state = self.state
        return TrainingResult(state.curve[state.best], state.epoch, state.best + 1, state.seconds, tuple(state.curve))


def _launch(accelerator: str, devices: int) -> Fabric:
    strategy = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy)
    fabric.launch()
    if devices > 1:
        atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Take the group of processes apart in order: Gloo's threads abort a process that ends around them."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _rate(settings: TrainingSettings, step: int, total: int) -> float:
    """Linear warm-up over at most a fifth of the steps, then linear decay to zero."""
    warmup = max(1, min(settings.warmup_steps, total // 5))
    return settings.learning_rate * min((step + 1) / warmup, max(0.0, (total - step) / max(1, total - warmup)))


def _on(device: torch.device, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in weights.items()}


def _progress_bar(shown: bool) -> Progress:
    ndcg = TextColumn("best NDCG@10 {task.fields[ndcg]:.4f}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), ndcg)
    times = TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(*columns, *times, console=Console(stderr=True), disable=not shown)
