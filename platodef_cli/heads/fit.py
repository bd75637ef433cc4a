"""Fit heads on clean feature tuples: closed forms, and the networks that a configuration asks for."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.closed_form import ClosedForm, closed_form_steps, fit_closed_form
from platodef_cli.heads.config import FitConfig, preset
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.energy import EnergyHead
from platodef_cli.heads.evaluate import MISMATCHES, component_scores, held_out_metrics
from platodef_cli.heads.heads import Heads, Standardiser, fit_standardiser
from platodef_cli.heads.mismatch import MismatchSampler, nearest_rows
from platodef_cli.heads.objectives import DenoiserObjective, EnergyObjective, JointObjective, Rows
from platodef_cli.heads.presets import PRESETS
from platodef_cli.heads.ridge import Ridge, fit_ridge
from platodef_cli.heads.train import HeadObjective, TrainConfig, Trainer, TrainResult, fingerprint
from platodef_cli.progress import SILENT, Progress

__all__ = ["PRESETS", "FitConfig", "Heads", "fit_heads", "preset", "split_rows"]

_ROUNDING = 1e-6  # of float32, with room for a few operations
FEWEST_ROWS = 100  # below it a held-out tenth says nothing
CENTRE_ROWS = 2  # nearest rows averaged with a row to make the centre of a synthetic attack


def fit_heads(
    tuples: FeatureTuples,
    config: FitConfig | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
) -> Heads:
    """Fit all heads on clean tuples; the same tuples, configuration and seed give the same bytes.

    Args:
        tuples: Clean features of N images by the suspect and M references; labels are not used.
        config: Hyper-parameters; None takes the defaults.
        seed: Seed of the held-out split, the initial weights, and all training randomness.
        device: Where to train; the heads stay there.
        checkpoint: Folder for checkpoints; a run that was killed resumes from it exactly.
        progress: Receives the steps with loss and held-out metric.

    Raises:
        UsageError: Too few rows, no reference, values that are not finite, or a reference whose features
            are the same for every image.
        IncompleteError: Training diverged.
    """
    config = FitConfig() if config is None else config
    _check(tuples)
    place = torch.device(device)
    fit_rows, held_rows = split_rows(len(tuples), config, seed)
    fitted, held = tuples.select(fit_rows), tuples.select(held_rows)
    source = fit_standardiser(fitted.source)
    standardisers = tuple(fit_standardiser(values) for values in fitted.references.values())
    training = _rows(fitted, source, standardisers, place)
    with progress.step("fitting closed forms", 1 + closed_form_steps(len(standardisers))) as task:
        on_cpu = [values.cpu() for values in training.references]
        ridge = fit_ridge(training.source.cpu(), on_cpu)
        task.advance()
        closed_form, leverage = fit_closed_form(
            training.source.cpu(), on_cpu, features=config.lift_features, seed=seed, advance=task.advance
        )
    names = tuple(tuples.references)
    heads = new_heads(config, seed, names, source, standardisers, ridge, closed_form, place)
    if heads.energy is not None and heads.denoiser is not None:
        if config.gaussian_start:
            training.leverage = {mask: values.to(place) for mask, values in leverage.items()}
        run = fingerprint(config.to_json(), seed, fitted.source, *fitted.references.values())
        _train(heads, training, _rows(held, source, standardisers, place), seed, checkpoint, run, progress)
        heads.energy.eval()
        heads.denoiser.eval()
    with progress.step("measuring held-out images", min(MISMATCHES, len(held) - 1) + 2) as task:
        metrics = held_out_metrics(heads, held, task.advance)
        scores = component_scores(heads, held)
        task.advance()
    return replace(heads, metrics=metrics, clean_scores=scores, rows=len(tuples))


def new_heads(
    config: FitConfig,
    seed: int,
    names: tuple[str, ...],
    source: Standardiser,
    references: tuple[Standardiser, ...],
    ridge: Ridge,
    closed_form: ClosedForm,
    device: torch.device,
) -> Heads:
    """Return heads with fresh networks, initialised from ``seed`` only; none where none are configured."""
    source_dim = int(source.mean.shape[0])
    dims = [int(entry.mean.shape[0]) for entry in references]
    energy: EnergyHead | None = None
    denoiser: Denoiser | None = None
    if config.backbone is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            start = closed_form if config.gaussian_start else None
            energy = EnergyHead(
                source_dim, dims, config.backbone, negatives=config.mismatch.negatives, closed_form=start
            )
            denoiser = Denoiser(source_dim, dims, config.backbone, closed_form=start)
        if config.mode == "joint":
            denoiser.backbone, denoiser.references = energy.backbone, energy.references
        energy, denoiser = energy.to(device).eval(), denoiser.to(device).eval()
    return Heads(
        config=config,
        seed=seed,
        reference_names=names,
        source_standardiser=source,
        reference_standardisers=references,
        ridge=ridge,
        closed_form=closed_form.to(device),
        energy=energy,
        denoiser=denoiser,
        metrics={},
    )


def _check(tuples: FeatureTuples) -> None:
    if len(tuples) < FEWEST_ROWS:
        raise UsageError(
            f"{len(tuples)} clean tuples are too few to fit heads on; give at least {FEWEST_ROWS}"
        )
    if not tuples.references:
        raise UsageError("heads need at least one reference")
    for name, values in {"source": tuples.source, **tuples.references}.items():
        if values.ndim != 2 or len(values) != len(tuples):
            raise UsageError(
                f"features {name!r} have shape {tuple(values.shape)}, expected [{len(tuples)}, D]"
            )
        if not bool(torch.isfinite(values).all()):
            raise UsageError(f"features {name!r} contain NaN or infinity; extract them again")
    for name, values in tuples.references.items():
        check_varied(name, values)


def check_varied(name: str, values: Tensor) -> None:
    """Check that features ``[N, D]`` differ between images, beyond the rounding of float32.

    Raises:
        UsageError: They do not.
    """
    spread = values.double().amax(dim=0) - values.double().amin(dim=0)
    if float(spread.max()) <= _ROUNDING * float(values.abs().max()):
        raise UsageError(
            f"features {name!r} are the same for every image, so nothing can be fitted to them; extract "
            "features of different images with an encoder that tells them apart"
        )


def split_rows(count: int, config: FitConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Return the row numbers ``(fit, held out)`` that :func:`fit_heads` uses, each ascending."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = max(20, min(config.held_out_most, round(count * config.held_out)))
    return order[held:].sort().values, order[:held].sort().values


def _rows(
    tuples: FeatureTuples, source: Standardiser, references: tuple[Standardiser, ...], device: torch.device
) -> Rows:
    pairs = zip(references, tuples.references.values(), strict=True)
    return Rows(
        source.apply(tuples.source).to(device),
        [entry.apply(values).to(device) for entry, values in pairs],
        {},
    )


def _train(
    heads: Heads, rows: Rows, held: Rows, seed: int, checkpoint: Path | None, run: str, progress: Progress
) -> None:
    """Train both networks of ``heads`` in place, in the order and way of the configured mode."""
    config = heads.config
    _, denoiser = heads.networks
    energy_objective = _energy_objective(heads, rows, held)
    denoiser_objective = DenoiserObjective(
        denoiser,
        rows,
        held,
        (config.sigma_min, config.sigma_max),
        config.reference_drop,
        config.subset_drop,
    )

    def run_one(name: str, objective: HeadObjective, train: TrainConfig) -> TrainResult:
        path = None if checkpoint is None else checkpoint / f"{name}.safetensors"
        trainer = Trainer(
            objective, train, seed=seed, device=heads.device, checkpoint=path, run=f"{name} {run}"
        )
        return trainer.train(title=f"training {name}", progress=progress)

    if config.mode == "joint":
        run_one("both heads", JointObjective(energy_objective, denoiser_objective), config.denoiser)
        return
    energy_first = config.mode in ("separate", "denoiser-from-energy", "denoiser-on-energy")
    frozen = config.mode in ("energy-on-denoiser", "denoiser-on-energy")
    steps: list[tuple[str, HeadObjective, TrainConfig]] = [
        ("energy", energy_objective, config.energy),
        ("denoiser", denoiser_objective, config.denoiser),
    ]
    first, second = steps if energy_first else steps[::-1]
    run_one(*first)
    if config.mode != "separate":
        _share(first[1].module, second[1].module, frozen)
    run_one(*second)


def _share(giver: nn.Module, taker: nn.Module, frozen: bool) -> None:
    """Copy backbone and reference projections from ``giver`` to ``taker`` and freeze them if ``frozen``."""
    for part in ("backbone", "references"):
        module = taker.get_submodule(part)
        module.load_state_dict(giver.get_submodule(part).state_dict())
        module.requires_grad_(not frozen)


def _energy_objective(heads: Heads, rows: Rows, held: Rows) -> EnergyObjective:
    config, count = heads.config, len(heads.reference_names)
    mismatch = config.mismatch
    neighbours = None
    if mismatch.neighbour or mismatch.collapsed:
        neighbours = nearest_rows(rows.source, max(mismatch.neighbours, CENTRE_ROWS)).cpu()
    if neighbours is not None and mismatch.collapsed:
        near = rows.source[neighbours[:, :CENTRE_ROWS].to(rows.source.device)]
        rows.centres = (rows.source + near.sum(dim=1)) / (1 + CENTRE_ROWS)
    plain = replace(mismatch, full=0.0, source=1.0, partial=0.0, neighbour=0.0, collapsed=0.0, queue=0)
    return EnergyObjective(
        heads.networks[0],
        rows,
        held,
        MismatchSampler(mismatch, count, neighbours),
        MismatchSampler(plain, count),
        config.subset_drop,
    )
