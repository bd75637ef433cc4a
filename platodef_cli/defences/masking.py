"""BackdoorIDS (Huang et al. 2026): what happens to the feature while the image is masked step by step.

A backdoored image keeps the feature of its target as long as the trigger is seen, and drops to what the rest
of the image shows once it is hidden: one long step, where clean images move little by little. The paper
counts the clusters of the features along the way; a count ties for most images, so that the default measures
the longest step instead.

Needs images and the suspect, and clean samples that say how long steps usually are.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, ExpectedAuroc, Setup, require_images
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access, pixels_of
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads, fit_standardiser

TILES = 8  # per side of the image
STEPS = 6  # images of a trajectory; the first is whole
MASKED = 0.9  # share of the tiles that the last one hides
ORDERS = 2  # trajectories per image, each hides the tiles in another order
MIN_IMAGES = 32
MAX_IMAGES = 96  # of the bank; every one takes STEPS * ORDERS forward passes
BLOCK = 64
QUANTILE = 0.95  # of clean steps: how far apart neighbours of one cluster may lie, published mode


def masks(size: tuple[int, int], seed: int) -> Tensor:
    """Return what every step of every order hides, boolean ``[ORDERS, STEPS, H, W]``.

    Later steps hide all that earlier ones do. Tiles are equal up to rounding, whatever the size of the image.

    Args:
        size: Height and width of the images, pixels.
        seed: Of the orders.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.arange(length) * TILES // length for length in size)
    hidden = [round(MASKED * TILES**2 * step / (STEPS - 1)) for step in range(STEPS)]
    found = []
    for _ in range(ORDERS):
        rank = torch.randperm(TILES**2, generator=generator).reshape(TILES, TILES)[rows][:, columns]
        found.append(torch.stack([rank < count for count in hidden]))
    return torch.stack(found)


class MaskingDetector:
    """The longest step of the feature while tiles are masked, in clean standard deviations of that step.

    Hidden tiles have the mean colour of clean images. Features are standardised by clean ones; the score is
    the mean over several orders of the tiles, which are the same for all images.

    Args:
        heads: Not used.
        clean: Clean samples with images.
        setup: The suspect and the seed; ``published`` counts clusters (DBSCAN on cosines) along one order.

    Raises:
        NotApplicable: There are no images, or there is no suspect.
        UsageError: There are fewer than 32 clean images.
    """

    name = "masking"
    needs = frozenset({Access.features, Access.images})
    bank = MIN_IMAGES
    description = (
        "Jumps of the feature while the image is masked: blind where a trigger fades little by little."
    )
    use_when = "You have images and the suspect, of any architecture, but no reference and no inner layers."
    published = "the number of DBSCAN clusters along one order of masking, so that most scores tie"
    expected_auroc = ExpectedAuroc("white square", 0.90)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        bank, self._model = require_images(type(self), clean, setup.model)
        if len(bank) < MIN_IMAGES:
            raise UsageError(f"the masking detector needs a bank of at least {MIN_IMAGES} clean samples")
        self._published = setup.mode == "published"
        images = pixels_of(bank)[:MAX_IMAGES]
        self._colour = images.double().mean(dim=(0, 2, 3)).round().to(torch.uint8)[:, None, None]
        self._masks = masks(self._model.size, setup.seed)[: 1 if self._published else ORDERS]
        self._standardiser = fit_standardiser(bank.source)
        walked = self._trajectories(images)
        lengths = _steps(walked)
        self._usual, self._spread = lengths.mean(dim=(0, 1)), lengths.std(dim=(0, 1)).clamp_min(1e-9)
        self._near = float(torch.quantile(_turns(walked).flatten(), QUANTILE))

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        images = pixels_of(tuples)
        scores = [torch.zeros(0, dtype=torch.float64)]
        for part in torch.split(images, BLOCK) if len(images) else ():
            walked = self._trajectories(part)
            scores.append(self._clusters(walked) if self._published else self._jumps(walked))
        return torch.cat(scores)

    def _jumps(self, walked: Tensor) -> Tensor:
        """Return the longest step ``[B]`` of trajectories ``[B, O, S, D]``, averaged over the orders."""
        longest: Tensor = ((_steps(walked) - self._usual) / self._spread).amax(dim=2).mean(dim=1)
        return longest

    def _clusters(self, walked: Tensor) -> Tensor:
        """Return how many clusters the features ``[B, 1, S, D]`` of every image form, ``[B]``."""
        from sklearn.cluster import DBSCAN

        finder = DBSCAN(eps=max(self._near, 1e-12), min_samples=2, metric="cosine")
        # a feature at the very mean has no direction, and lies with nothing
        rows = F.normalize(walked[:, 0], dim=2).numpy()
        counts = [len(set(finder.fit_predict(row).tolist()) - {-1}) for row in rows]
        return torch.tensor(counts, dtype=torch.float64)

    def _trajectories(self, images: Tensor) -> Tensor:
        """Return standardised features float64 ``[B, O, S, D]`` of uint8 images ``[B, 3, H, W]``."""
        orders = []
        for order in self._masks:
            steps = [self._model.features(torch.where(mask, self._colour, images)) for mask in order]
            orders.append(torch.stack(steps, dim=1))
        return self._standardiser.apply(torch.stack(orders, dim=1)).double()


def _steps(walked: Tensor) -> Tensor:
    """Return the lengths of steps ``[B, O, S - 1]`` of trajectories ``[B, O, S, D]``."""
    lengths: Tensor = walked.diff(dim=2).norm(dim=3)
    return lengths


def _turns(walked: Tensor) -> Tensor:
    """Return cosine distances of neighbours ``[B, O, S - 1]`` on trajectories ``[B, O, S, D]``."""
    return 1 - F.cosine_similarity(walked[:, :, 1:], walked[:, :, :-1], dim=3)
