import math
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.heads.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from platodef_cli.heads.train import TrainConfig, Trainer, fingerprint, learning_rate
from platodef_cli.progress import SilentProgress


class Regression:
    """Fits a small network to fixed data; its state makes a wrong resume visible in the weights."""

    def __init__(self, held_out: list[float] | None = None):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(60, 4, generator=generator)
        self.targets = self.inputs.square().sum(dim=1, keepdim=True)
        self.count = 60
        self.calls = torch.zeros(1)
        self.scripted = held_out

    def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        self.calls += 1
        jitter = 0.01 * torch.randn(len(rows), 4, generator=generator)
        error = self.module(self.inputs[rows] + jitter) - self.targets[rows]
        return error.square().mean() * (1 + 0.001 * self.calls.item())

    def held_out(self) -> float:
        if self.scripted is not None:
            return self.scripted.pop(0)
        return float((self.module(self.inputs) - self.targets).square().mean())

    def state(self) -> dict[str, Tensor]:
        return {"calls": self.calls}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.calls = state["calls"].clone()


class Killed(Exception):
    pass


class KillAfter(SilentProgress):
    """Dies when the third epoch is reported, after its checkpoint was written."""

    @contextmanager
    def step(self, title, total=None):  # type: ignore[no-untyped-def]
        class Task:
            reports = 0

            def advance(self, amount: int = 1, *, note: str = "") -> None:
                if note:
                    self.reports += 1
                    if self.reports == 3:
                        raise Killed

        yield Task()


def trained(
    objective: Regression, config: TrainConfig, path: Path | None = None, **options: object
) -> Trainer:
    trainer = Trainer(objective, config, seed=3, device=torch.device("cpu"), checkpoint=path, **options)  # type: ignore[arg-type]
    trainer.train()
    return trainer


CONFIG = TrainConfig(epochs=6, batch_size=16, micro_batch_size=16, peak_lr=0.01)


def weights(objective: Regression) -> Tensor:
    return torch.cat([p.detach().flatten() for p in objective.module.parameters()])


def test_resume_after_a_kill_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = Regression()
    expected = trained(whole, CONFIG)
    killed = Regression()
    trainer = Trainer(killed, CONFIG, seed=3, device=torch.device("cpu"), checkpoint=tmp_path / "c")
    with pytest.raises(Killed):
        trainer.train(progress=KillAfter())
    resumed = Regression()
    again = Trainer(resumed, CONFIG, seed=3, device=torch.device("cpu"), checkpoint=tmp_path / "c")
    result = again.train()
    assert torch.equal(weights(resumed), weights(whole))
    assert again.losses == expected.losses
    assert result.epochs == 6
    assert not torch.equal(weights(killed), weights(whole))


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, second = Regression(), Regression()
    trained(first, CONFIG, tmp_path / "c")
    trained(second, CONFIG, tmp_path / "c")
    assert torch.equal(weights(first), weights(second))
    assert second.calls.item() == first.calls.item()  # restored, not counted up again


def test_checkpoint_of_another_run_or_a_damaged_one_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "c"
    write_checkpoint(path, Checkpoint({"a": torch.ones(2)}, {"epoch": 1}), "one")
    found = read_checkpoint(path, "one")
    assert found is not None
    assert found.state == {"epoch": 1}
    assert torch.equal(found.tensors["a"], torch.ones(2))
    assert read_checkpoint(path, "two") is None
    path.write_bytes(path.read_bytes()[:-3])
    assert read_checkpoint(path, "one") is None
    assert read_checkpoint(tmp_path / "none", "one") is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_learning_rate_warms_up_linearly_and_ends_at_the_minimum() -> None:
    config = TrainConfig(epochs=5, warmup_epochs=1, peak_lr=1.0, min_lr=0.1)
    rates = [learning_rate(step, 10, config) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[30] == pytest.approx(0.55)  # half-way down
    assert rates[49] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 39 / 40)))
    assert learning_rate(50, 10, config) == pytest.approx(0.1)


def test_accumulated_gradients_equal_the_whole_batch() -> None:
    class Quiet(Regression):
        def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
            return (self.module(self.inputs[rows]) - self.targets[rows]).square().mean()

    whole, pieces = Quiet(), Quiet()
    trained(whole, TrainConfig(epochs=2, batch_size=30, micro_batch_size=30, peak_lr=0.01))
    trained(pieces, TrainConfig(epochs=2, batch_size=30, micro_batch_size=7, peak_lr=0.01))
    assert torch.allclose(weights(whole), weights(pieces), atol=1e-5)


def test_average_follows_its_recurrence() -> None:
    objective = Regression()
    trainer = Trainer(
        objective, TrainConfig(epochs=1, batch_size=20, ema_decay=0.6), seed=0, device=torch.device("cpu")
    )
    mean = weights(objective)
    original = trainer.optimizer.step

    def record(*arguments: object) -> None:
        nonlocal mean
        original()
        step = trainer.step
        decay = min(0.6, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights(objective)

    trainer.optimizer.step = record  # type: ignore[method-assign, assignment]
    trainer.train()
    assert torch.allclose(weights(objective), mean, atol=1e-6)  # inference uses the average


def test_best_epoch_is_kept_and_training_stops_early() -> None:
    objective = Regression(held_out=[5.0, 3.0, 4.0, 4.0, 9.0, 9.0])
    trainer = Trainer(
        objective,
        TrainConfig(epochs=6, batch_size=60, patience=2, ema_decay=0),
        seed=0,
        device=torch.device("cpu"),
    )
    snapshots = []
    original = trainer._evaluate
    trainer._evaluate = lambda: (snapshots.append(weights(objective)), original())[1]  # type: ignore[method-assign]
    result = trainer.train()
    assert (result.epochs, result.best_epoch, result.held_out) == (4, 2, 3.0)
    assert torch.equal(weights(objective), snapshots[1])


def test_only_matrices_decay() -> None:
    trainer = Trainer(Regression(), TrainConfig(weight_decay=0.3), seed=0, device=torch.device("cpu"))
    matrices, vectors = trainer.optimizer.param_groups
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)


def test_divergence_is_named() -> None:
    class Broken(Regression):
        def loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
            return self.module(self.inputs[rows]).mean() * float("nan")

    with pytest.raises(IncompleteError, match="diverged in epoch 1"):
        trained(Broken(), CONFIG)


def test_fingerprint_sees_values_shapes_and_tensors() -> None:
    base = fingerprint({"a": 1}, torch.zeros(2, 3))
    assert base == fingerprint({"a": 1}, torch.zeros(2, 3))
    assert base != fingerprint({"a": 2}, torch.zeros(2, 3))
    assert base != fingerprint({"a": 1}, torch.zeros(3, 2))
    assert base != fingerprint({"a": 1}, torch.ones(2, 3))


def test_wrong_values_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        TrainConfig(epochs=0)
    with pytest.raises(UsageError, match="ema_decay"):
        TrainConfig(ema_decay=1.0)
