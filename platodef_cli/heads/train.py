"""One training loop for every head: AdamW, cosine with warm-up, clipping, EMA, early stop, exact resume."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.heads.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from platodef_cli.progress import SILENT, Progress


@dataclass(frozen=True)
class TrainConfig:
    """Hyper-parameters of one run.

    Attributes:
        epochs: Largest number of passes over the training rows.
        warmup_epochs: Epochs of linear warm-up before the cosine.
        batch_size: Rows per optimiser step.
        micro_batch_size: Rows per backward pass; gradients accumulate up to ``batch_size``.
        peak_lr: Learning rate after the warm-up.
        min_lr: Learning rate at the end.
        weight_decay: AdamW weight decay of matrices (vectors and scalars are not decayed).
        clip: Largest gradient norm.
        ema_decay: Decay of the weight average used for evaluation and inference; 0 switches it off.
        patience: Stop after this many epochs without a better held-out metric; 0 never stops.
        precision: ``float32``, ``bfloat16`` (autocast), or ``auto``: bfloat16 on GPUs that have it.
    """

    epochs: int = 12
    warmup_epochs: float = 1.0
    batch_size: int = 256
    micro_batch_size: int = 256
    peak_lr: float = 1e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.05
    clip: float = 1.0
    ema_decay: float = 0.999
    patience: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        if min(self.epochs, self.batch_size, self.micro_batch_size) < 1:
            raise UsageError("epochs, batch_size and micro_batch_size must be at least 1")
        if not (0 <= self.ema_decay < 1 and self.peak_lr > 0 and self.min_lr >= 0 and self.clip > 0):
            raise UsageError("ema_decay must lie in [0, 1), peak_lr and clip above 0, min_lr at least 0")


class HeadObjective(Protocol):
    """What is trained.

    Attributes:
        module: The network whose parameters with ``requires_grad`` are trained.
        count: Number of training rows.
    """

    @property
    def module(self) -> nn.Module:
        """The network."""

    @property
    def count(self) -> int:
        """Number of training rows."""

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean loss over training ``rows`` ``[B]``."""

    def held_out(self) -> float:
        """Return the held-out metric of the module as it is now; lower is better; deterministic."""

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs besides the weights."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over :meth:`state`."""


@dataclass(frozen=True)
class TrainResult:
    """How a run went.

    Attributes:
        epochs: Epochs really run.
        best_epoch: The epoch whose weights were kept, from 1.
        held_out: Its held-out metric.
        losses: Mean training loss of every epoch.
    """

    epochs: int
    best_epoch: int
    held_out: float
    losses: tuple[float, ...]


def learning_rate(step: int, per_epoch: int, config: TrainConfig) -> float:
    """Return the learning rate of optimiser step ``step`` (from 0): linear warm-up, then cosine."""
    warmup = round(config.warmup_epochs * per_epoch)
    if step < warmup:
        return config.peak_lr * (step + 1) / warmup
    share = (step - warmup) / max(1, config.epochs * per_epoch - warmup)
    return config.min_lr + 0.5 * (config.peak_lr - config.min_lr) * (1.0 + math.cos(math.pi * share))


def fingerprint(*parts: object) -> str:
    """Return a digest of JSON-able parts and tensors, used to tie a checkpoint to its run."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(str(tuple(part.shape)).encode())
            digest.update(part.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()


class Trainer:
    """Runs one objective to its best held-out weights.

    Args:
        objective: What is trained.
        config: Hyper-parameters.
        seed: Seed of shuffling and of the objective's randomness.
        device: Where the module lives.
        checkpoint: File to write after every epoch and to resume from, or None.
        run: Digest of everything that the result depends on besides ``config`` and ``seed``.
    """

    def __init__(
        self,
        objective: HeadObjective,
        config: TrainConfig,
        *,
        seed: int,
        device: torch.device,
        checkpoint: Path | None = None,
        run: str = "",
    ):
        self.objective, self.config, self.seed, self.device = objective, config, seed, device
        self.path, self.run = checkpoint, fingerprint(asdict(config), seed, run)
        named = [(n, p) for n, p in objective.module.named_parameters() if p.requires_grad]
        self.names, self.parameters = [n for n, _ in named], [p for _, p in named]
        matrices = [p for p in self.parameters if p.ndim >= 2]
        rest = [p for p in self.parameters if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, 0.95), fused=True)
        self.average = [p.detach().clone() for p in self.parameters]
        self.best = [p.detach().clone() for p in self.parameters]
        self.step = self.epoch = self.best_epoch = 0
        self.best_metric = math.inf
        self.losses: list[float] = []

    def train(self, *, title: str = "training", progress: Progress = SILENT) -> TrainResult:
        """Train, put the best averaged weights into the module and return how it went.

        Raises:
            IncompleteError: The loss is no longer finite.
        """
        self._resume()
        per_epoch = max(1, math.ceil(self.objective.count / self.config.batch_size))
        with progress.step(title, self.config.epochs) as task:
            task.advance(self.epoch)
            while self.epoch < self.config.epochs and not self._stalled():
                loss = self._one_epoch(per_epoch)
                self.epoch += 1
                metric = self._evaluate()
                if metric < self.best_metric:
                    self.best_metric, self.best_epoch = metric, self.epoch
                    chosen = self.average if self.config.ema_decay else self.parameters
                    self.best = [p.detach().clone() for p in chosen]
                self._save()
                task.advance(note=f"loss {loss:.4f}, held-out {metric:.4f}")
        self._load(self.best)
        return TrainResult(self.epoch, self.best_epoch, self.best_metric, tuple(self.losses))

    def _stalled(self) -> bool:
        return bool(self.config.patience) and self.epoch - self.best_epoch >= self.config.patience > 0

    def _one_epoch(self, per_epoch: int) -> float:
        # one generator per epoch: a resumed run draws what the uninterrupted one would have drawn
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.objective.count, generator=generator)
        self.objective.module.train()
        total = torch.zeros((), device=self.device)
        for batch in order.tensor_split(per_epoch):
            rate = learning_rate(self.step, per_epoch, self.config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            total += self._one_step(batch, generator) * len(batch)
            self.step += 1
        loss = float(total) / self.objective.count
        if not math.isfinite(loss):
            raise IncompleteError(
                f"training diverged in epoch {self.epoch + 1} (loss {loss}); lower the learning rate"
            )
        self.losses.append(loss)
        return loss

    def _one_step(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        pieces = batch.tensor_split(max(1, math.ceil(len(batch) / self.config.micro_batch_size)))
        total = torch.zeros((), device=self.device)
        for rows in pieces:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16()):
                loss = self.objective.loss(rows, generator) * (len(rows) / len(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.config.ema_decay:
            # a short run must forget its random start, so the decay warms up
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - decay)
        return total

    def _bfloat16(self) -> bool:
        if self.config.precision == "auto":
            return self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.config.precision == "bfloat16"

    def _evaluate(self) -> float:
        self.objective.module.eval()
        live = [p.detach().clone() for p in self.parameters]
        if self.config.ema_decay:
            self._load(self.average)
        with torch.no_grad():
            metric = self.objective.held_out()
        self._load(live)
        return metric

    def _load(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def _save(self) -> None:
        if self.path is None:
            return
        tensors: dict[str, Tensor] = {}
        for name, parameter, mean, best in zip(
            self.names, self.parameters, self.average, self.best, strict=True
        ):
            tensors |= {f"live.{name}": parameter.detach(), f"mean.{name}": mean, f"best.{name}": best}
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"adam.{key}.{name}"] = value
        tensors |= {f"objective.{key}": value for key, value in self.objective.state().items()}
        state: dict[str, object] = {
            "step": self.step,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_metric": self.best_metric,
            "losses": self.losses,
        }
        write_checkpoint(self.path, Checkpoint({k: v.cpu() for k, v in tensors.items()}, state), self.run)

    def _resume(self) -> None:
        found = None if self.path is None else read_checkpoint(self.path, self.run)
        if found is None:
            return
        get = {key: value.to(self.device) for key, value in found.tensors.items()}
        self._load([get[f"live.{name}"] for name in self.names])
        self.average = [get[f"mean.{name}"] for name in self.names]
        self.best = [get[f"best.{name}"] for name in self.names]
        for name, parameter in zip(self.names, self.parameters, strict=True):
            keys = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[parameter] = {key: get[f"adam.{key}.{name}"] for key in keys}
        own = {k.removeprefix("objective."): v for k, v in get.items() if k.startswith("objective.")}
        self.objective.restore(own)
        state = found.state
        self.step, self.epoch = int(str(state["step"])), int(str(state["epoch"]))
        self.best_epoch, self.best_metric = int(str(state["best_epoch"])), float(str(state["best_metric"]))
        self.losses = list(state["losses"])  # type: ignore[call-overload]
