"""Defences: detectors of samples, detectors of encoders, and purifiers of features.

One file per method holds its network or statistics, its detector and its purifier. Scores are higher where
something is more suspicious; what a method cannot look at is ``NotApplicable``, never a made-up score.
"""

from typing import TYPE_CHECKING, Any, cast

from platodef_cli.errors import UsageError
from platodef_cli.plugins import blaming
from platodef_cli.registry import Registry

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from platodef_cli.defences.interface import (
        Detector,
        EncoderDetector,
        Mode,
        Purifier,
        PurifyOptions,
    )
    from platodef_cli.features.access import ModelAccess
    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.heads.heads import Heads
    from platodef_cli.progress import Progress

DETECTORS = Registry(
    "detector",
    {
        "platonic": "platodef_cli.defences.platonic:PlatonicDetector",
        "energy": "platodef_cli.defences.platonic:EnergyDetector",
        "gaussian": "platodef_cli.defences.platonic:GaussianDetector",
        "ridge": "platodef_cli.defences.platonic:RidgeDetector",
        "robust": "platodef_cli.defences.platonic:RobustDetector",
        "denoiser": "platodef_cli.defences.platonic:DenoiserDetector",
        "mahalanobis": "platodef_cli.defences.mahalanobis:MahalanobisDetector",
        "knn": "platodef_cli.defences.knn:KnnDetector",
        "lof": "platodef_cli.defences.lof:LofDetector",
        "iforest": "platodef_cli.defences.iforest:IsolationForestDetector",
        "dao": "platodef_cli.defences.local_density:DaoDetector",
        "slof": "platodef_cli.defences.local_density:SlofDetector",
        "kdist": "platodef_cli.defences.local_density:KDistanceDetector",
        "lid": "platodef_cli.defences.local_density:LidDetector",
        "clipscore": "platodef_cli.defences.clipscore:ClipScoreDetector",
        "decomp": "platodef_cli.defences.decomp:DecompDetector",
        "dede": "platodef_cli.defences.dede:DedeDetector",
        "beatrix": "platodef_cli.defences.beatrix:BeatrixDetector",
        "masking": "platodef_cli.defences.masking:MaskingDetector",
    },
    group="platodef.detectors",
    requires=(
        "name: str",
        "needs: set",
        "bank: int",
        "description: str",
        "published: str",
        "expected_auroc",
        "(heads, clean, setup)",
        "score(tuples)",
    ),
    named=True,
)
"""Per sample; rows implement :class:`platodef_cli.defences.interface.Detector`."""

ENCODER_DETECTORS = Registry(
    "encoder detector",
    {
        "decree": "platodef_cli.defences.decree:DecreeDetector",
        "ssl-cleanse": "platodef_cli.defences.ssl_cleanse:SslCleanseDetector",
    },
    group="platodef.encoder_detectors",
    requires=(
        "name: str",
        "needs: set",
        "description: str",
        "published: str",
        "statistic: str",
        "(setup)",
        "examine(model, images)",
    ),
    named=True,
)
"""Per encoder; rows implement :class:`platodef_cli.defences.interface.EncoderDetector`."""


PURIFIERS = Registry(
    "purifier",
    {
        "mean": "platodef_cli.defences.diffusion:MeanPurifier",
        "average": "platodef_cli.defences.diffusion:AveragePurifier",
        "heun": "platodef_cli.defences.diffusion:HeunPurifier",
        "euler": "platodef_cli.defences.diffusion:EulerPurifier",
        "dpmpp": "platodef_cli.defences.diffusion:DpmppPurifier",
        "langevin": "platodef_cli.defences.diffusion:LangevinPurifier",
        "gaussian": "platodef_cli.defences.diffusion:GaussianPurifier",
        "ridge": "platodef_cli.defences.diffusion:RidgePurifier",
        "decomp": "platodef_cli.defences.decomp:DecompPurifier",
        "dede": "platodef_cli.defences.dede:DedePurifier",
        "zip": "platodef_cli.defences.zip:ZipPurifier",
    },
    group="platodef.purifiers",
    requires=("name: str", "needs: set", "description: str", "purify(tuples, *, generator)"),
    named=True,
    fault="platodef_cli.defences.interface:purifier_fault",
)
"""Per feature; rows implement :class:`platodef_cli.defences.interface.Purifier`."""

DEFAULT_DETECTOR = "platonic"
DEFAULT_PURIFIER = "mean"


def make_detector(
    name: str,
    heads: "Heads",
    clean: "FeatureTuples | None" = None,
    *,
    mode: "Mode" = "default",
    seed: int = 0,
    model: "ModelAccess | None" = None,
    progress: "Progress | None" = None,
) -> "Detector":
    """Return the detector called ``name``.

    Args:
        name: A row of :data:`DETECTORS`.
        heads: Fitted heads.
        clean: Clean samples as a reference bank, where the detector needs one; with images (``Samples``)
            where it needs those.
        mode: ``default``, or ``published`` for the choices of the original.
        seed: Seed of its random choices.
        model: The suspect, for detectors that look at images, internals or gradients.
        progress: Receives the steps of a detector that has to be fitted.

    Raises:
        UnknownNameError: No such detector or mode; the message lists the choices.
        NotApplicable: What is given does not hold what the detector needs.
        UsageError: The detector needs clean tuples and there are none, or too few.
    """
    kind: Any = DETECTORS.load(name)
    from platodef_cli.defences.interface import Setup, check_mode, require_bank
    from platodef_cli.features.access import check_access, granted_by
    from platodef_cli.progress import SILENT

    check_mode(mode)
    check_access(kind, granted_by(clean, model))
    if mode == "default" and kind.bank:
        require_bank(name, clean, kind.bank)
    plugin = DETECTORS.plugin(name)
    with blaming(plugin):
        detector: Detector = kind(heads, clean, Setup(mode, seed, model, progress or SILENT))
    if plugin is None:
        return detector
    from platodef_cli.defences.guarded import GuardedDetector

    return cast("Detector", GuardedDetector(detector, plugin))


def make_encoder_detector(
    name: str,
    *,
    mode: "Mode" = "default",
    seed: int = 0,
    progress: "Progress | None" = None,
) -> "EncoderDetector":
    """Return the encoder-level detector called ``name``, a row of :data:`ENCODER_DETECTORS`.

    Raises:
        UnknownNameError: No such detector or mode; the message lists the choices.
    """
    kind: Any = ENCODER_DETECTORS.load(name)
    from platodef_cli.defences.interface import Setup, check_mode
    from platodef_cli.progress import SILENT

    check_mode(mode)
    plugin = ENCODER_DETECTORS.plugin(name)
    with blaming(plugin):
        detector: EncoderDetector = kind(Setup(mode, seed, None, progress or SILENT))
    if plugin is None:
        return detector
    from platodef_cli.defences.guarded import GuardedEncoderDetector

    return cast("EncoderDetector", GuardedEncoderDetector(detector, plugin))


def make_purifier(
    name: str,
    heads: "Heads",
    options: "PurifyOptions | None" = None,
    *,
    clean: "FeatureTuples | None" = None,
    model: "ModelAccess | None" = None,
    seed: int = 0,
    diffusion: Any = None,
    progress: "Progress | None" = None,
) -> "Purifier":
    """Return the purifier called ``name``.

    Args:
        name: A row of :data:`PURIFIERS`.
        heads: Fitted heads.
        options: Steps, guidance and the like; None takes their defaults.
        clean: Clean samples with images (``Samples``), for purifiers that look at images or internals.
        model: The suspect, for those purifiers.
        seed: Seed of what those purifiers fit.
        diffusion: Image diffusion model for ``zip``; None trains a small one on the clean images.
        progress: Receives the steps of a purifier that has to be fitted.

    Raises:
        UnknownNameError: No such purifier; the message lists the choices.
        NotApplicable: What is given does not hold what the purifier needs.
        UsageError: The purifier cannot work with one of the options.
    """
    kind: Any = PURIFIERS.load(name)
    from platodef_cli.defences.interface import PurifierInputs, PurifyOptions, require_images
    from platodef_cli.features.access import Access, check_access, granted_by
    from platodef_cli.progress import SILENT

    arguments: tuple[Any, ...] = (heads, options or PurifyOptions())
    if Access.images in kind.needs:
        bank, suspect = require_images(kind, clean, model)
        arguments += (PurifierInputs(bank, suspect, seed, diffusion, progress or SILENT),)
    else:
        check_access(kind, granted_by(clean, model))
    plugin = PURIFIERS.plugin(name)
    with blaming(plugin):
        purifier: Purifier = kind(*arguments)
    if plugin is None:
        return purifier
    from platodef_cli.defences.guarded import GuardedPurifier

    return cast("Purifier", GuardedPurifier(purifier, plugin))


def purify_flagged(
    purifier: "Purifier", tuples: "FeatureTuples", flagged: "Tensor", generator: "Generator"
) -> "Tensor":
    """Return source features ``[N, D_s]`` float32 with the flagged rows purified and the others untouched.

    Args:
        purifier: Any purifier.
        tuples: N feature tuples.
        flagged: Boolean ``[N]``.
        generator: Source of randomness.

    Raises:
        UsageError: ``flagged`` is not a boolean mask with one entry per tuple.
    """
    import torch

    if flagged.dtype != torch.bool or flagged.shape != (len(tuples),):
        raise UsageError(
            f"flagged must be a boolean mask of {len(tuples)} entries, "
            f"not {flagged.dtype} of shape {tuple(flagged.shape)}"
        )
    result = tuples.source.float().clone()
    if bool(flagged.any()):
        result[flagged] = purifier.purify(tuples.select(flagged), generator=generator)
    return result
