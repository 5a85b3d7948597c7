"""The training loop of user towers: next-item prediction over a log, on Lightning Fabric.

It trains any tower together with an ItemTower, keeps an average of the weights, stops early on validation NDCG@10, and
resumes from checkpoints. Which towers are trained, and how they are blended, is `training.retriever`'s business.
"""

from __future__ import annotations

import atexit
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

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


def train_tower(
    tower: nn.Module,
    items: ItemTower,
    log: InteractionLog,
    validation: Examples,
    *,
    side: SideFeatures | None = None,
    weights: Float32 | None = None,
    window: int = 50,
    epochs: int = 20,
    patience: int = 5,
    batch_tokens: int = 3200,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    warmup_steps: int = 200,
    mask_seen: bool = False,
    mask_validation: bool | None = None,
    negatives: int | None = None,
    ema_decay: float = 0.98,
    ema_every: int = 5,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    accelerator: str = "cpu",
    devices: int = 1,
    show_progress: bool = True,
    title: str = "tower",
) -> TrainingResult:
    """Train `tower` and `items` to predict every event of `log`; leave both with their best weights, in eval mode.

    `side(examples)` gives the side features Float32[E, S] of the events to predict; `weights` Float32[M] weigh the
    log's events as targets (None: all 1). `mask_seen` leaves items already in the window out of the training softmax,
    and items of the history out of the validation ranking (`mask_validation` where the two differ): right where people
    do not repeat items. `negatives` None means the full softmax up to 50,000 items; beyond, and where given, that many
    items drawn uniformly join the targets of each batch in a sampled softmax. A checkpoint in `checkpoint_dir` is
    resumed from.
    """
    if negatives is None and log.n_items > FULL_SOFTMAX_LIMIT:
        negatives = DEFAULT_NEGATIVES
    recipe = _Recipe(
        window=window,
        epochs=epochs,
        patience=patience,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        mask_seen=mask_seen,
        mask_validation=mask_seen if mask_validation is None else mask_validation,
        negatives=negatives,
        ema_decay=ema_decay,
        ema_every=ema_every,
        seed=seed,
        events=len(log),
    )
    torch.manual_seed(seed)
    objective = NextItemObjective(tower, items, log, mask_seen=mask_seen, negatives=negatives)
    fabric = _launch(accelerator, devices)
    training = _Training(fabric, objective, recipe, log, validation, side, weights, checkpoint_dir)
    training.resume()
    with _progress_bar(show_progress and fabric.is_global_zero) as bar:
        training.run(bar, title)
    fabric.barrier()  # nobody leaves while another still waits for what it has to say
    return training.finish()


@dataclass(frozen=True)
class _Recipe:
    """What a checkpoint must agree with."""

    window: int
    epochs: int
    patience: int
    batch_tokens: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    mask_seen: bool
    mask_validation: bool
    negatives: int | None
    ema_decay: float
    ema_every: int
    seed: int
    events: int


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
        recipe: _Recipe,
        log: InteractionLog,
        validation: Examples,
        side: SideFeatures | None,
        weights: Float32 | None,
        folder: Path | None,
    ) -> None:
        self.fabric, self.objective, self.recipe = fabric, objective, recipe
        self.log, self.side, self.weights, self.folder = log, side, weights, folder
        affordable = max(VALIDATION_LEAST, VALIDATION_SCORES // log.n_items)
        self.validation = validation.sample(min(VALIDATION_LIMIT, affordable), recipe.seed)
        self.windows = cut_windows(log, recipe.window)
        self.total_steps = recipe.epochs * len(self.batches(0))
        items = objective.items
        self.optimizers = build_optimizers(
            objective, items, recipe.learning_rate, recipe.weight_decay, betas=(0.9, 0.98)
        )
        self.rates = [optimizer.defaults["lr"] / recipe.learning_rate for optimizer in self.optimizers]
        self.model, *self.wrapped_optimizers = fabric.setup(objective, *self.optimizers)
        self.average = WeightAverage(objective, recipe.ema_decay, {"items.embedding"} if items.by_rows else ())
        self.best = snapshot(objective)
        self.state = _State()

    def batches(self, epoch: int) -> list[Int64]:
        """This process's batches of an epoch: equally many for every process."""
        generator = np.random.default_rng([self.recipe.seed, epoch])
        batches = plan_batches(self.windows.lengths, self.recipe.batch_tokens, generator)
        world, rank = self.fabric.world_size, self.fabric.global_rank
        return batches[: len(batches) // world * world][rank::world]

    def run(self, bar: Progress, title: str) -> None:
        """Train epoch after epoch until the recipe's end, or until validation has long not improved."""
        task = bar.add_task(
            title, total=self.total_steps, completed=self.state.step, ndcg=max(self.state.curve, default=0)
        )
        while self.state.epoch < self.recipe.epochs and not self.exhausted():
            began = time.perf_counter()
            torch.manual_seed(self.recipe.seed * 100_003 + self.state.epoch)
            self.objective.train()
            for index in self.batches(self.state.epoch):
                self.step(index)
                bar.update(task, completed=self.state.step)
            self.validate()
            self.state.seconds += time.perf_counter() - began
            self.save()
            bar.update(task, ndcg=max(self.state.curve))

    def exhausted(self) -> bool:
        return self.state.epoch - 1 - self.state.best >= self.recipe.patience

    def step(self, index: Int64) -> None:
        """One optimiser step on the windows at `index`."""
        rate = _rate(self.recipe, self.state.step, self.total_steps)
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
        if self.state.step % self.recipe.ema_every == 0:
            self.average.update(self.objective)

    def validate(self) -> None:
        """Close an epoch: measure the averaged weights, and keep them if they are the best."""
        with self.average.swapped_in(self.objective):
            tower, items = self.objective.tower, self.objective.items
            recipe = self.recipe
            ndcg = validation_ndcg(tower, items, self.validation, self.side, recipe.window, recipe.mask_validation)
            self.state.curve.append(ndcg)
            self.state.epoch += 1
            if self.state.best == self.state.epoch - 1:
                self.best = snapshot(self.objective)

    def save(self) -> None:
        if self.folder is not None and self.fabric.is_global_zero:
            averages = {"average": self.average.weights, "best": self.best}
            progress = {"settings": asdict(self.recipe), "state": asdict(self.state), "updates": self.average.updates}
            save_checkpoint(self.folder, self.objective, self.optimizers, averages, progress)

    def resume(self) -> None:
        """Go on from the checkpoint in the folder, if there is one."""
        if self.folder is None:
            return
        found = load_checkpoint(self.folder, self.objective, self.optimizers, asdict(self.recipe))
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


def _rate(recipe: _Recipe, step: int, total: int) -> float:
    """Linear warm-up over at most a fifth of the steps, then linear decay to zero."""
    warmup = max(1, min(recipe.warmup_steps, total // 5))
    return recipe.learning_rate * min((step + 1) / warmup, max(0.0, (total - step) / max(1, total - warmup)))


def _on(device: torch.device, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in weights.items()}


def _progress_bar(shown: bool) -> Progress:
    ndcg = TextColumn("best NDCG@10 {task.fields[ndcg]:.4f}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), ndcg)
    times = TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(*columns, *times, console=Console(stderr=True), disable=not shown)
