"""Beatrix (Ma et al. 2023): do the channels correlate as they do for clean images of the class?

Needs images and the suspect's feature map, and clean samples of every kind of image.
"""

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, ExpectedAuroc, Setup, require_images
from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.features.access import Access, pixels_of
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

ORDERS = range(1, 9)
CHANNELS = 64  # after a random projection; the Gram matrix has half their square of entries
WIDTH = 10.0  # median absolute deviations between the median and a bound
MAX_CLASSES = 10
MIN_PER_CLASS = 30  # the original's number of samples
MAX_PER_CLASS = 100
BLOCK = 64  # images per call: feature maps and Gram matrices are large


def gram_matrices(maps: Tensor) -> Tensor:
    """Return ``(F^p (F^p)')^(1/p)`` of orders 1 to 8 as upper triangles ``[B, 8, C (C + 1) / 2]``.

    Args:
        maps: ``[B, C, L]``. Powers of negative values keep their sign, and so do roots.
    """
    scale = maps.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)  # keeps eighth powers in range
    unit = maps.double() / scale
    rows, columns = torch.triu_indices(maps.shape[1], maps.shape[1])
    results = []
    for order in ORDERS:
        power = unit.sign() * unit.abs() ** order
        gram = (power @ power.transpose(1, 2))[:, rows, columns]
        root = gram.sign() * gram.abs() ** (1.0 / order)
        results.append((root * scale[:, :, 0].double() ** 2).float())
    return torch.stack(results, dim=1)


class BeatrixDetector:
    """Mean relative overshoot of Gram matrices of order 1 to 8 over bounds of the sample's pseudo-class.

    ``G_p = (F^p (F^p)')^(1/p)`` for the map F ``[C, L]``; a bound is the clean median -+ 10 MAD. The classes
    are k-means clusters of the clean features.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: Clean samples with images.
        setup: The suspect and the seed; ``published`` takes 30 clean samples per class and
            divides by bare bounds.

    Raises:
        NotApplicable: The suspect has no feature map, or there are no images.
        UsageError: There are fewer than 30 clean samples.
    """

    name = "beatrix"
    needs = frozenset({Access.features, Access.images, Access.internals})
    bank = MIN_PER_CLASS
    description = "Odd channel correlations for the class: blind where the whole map looks like a clean one."
    use_when = "You have images and the suspect itself, but no reference encoder."
    published = "30 clean samples per class instead of up to 100, and no guard for bounds near 0"
    expected_auroc = ExpectedAuroc("white square", 0.75)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        from sklearn.cluster import KMeans

        bank, self._model = require_images(type(self), clean, setup.model)
        if len(bank) < MIN_PER_CLASS:
            raise UsageError(f"the beatrix detector needs a bank of at least {MIN_PER_CLASS} clean samples")
        self._heads, self._seed = heads, setup.seed
        published = setup.mode == "published"
        images = pixels_of(bank)
        rows = heads.standardise_source(bank)
        count = max(1, min(MAX_CLASSES, len(rows) // (2 * MIN_PER_CLASS)))
        means = KMeans(count, n_init=4, random_state=setup.seed).fit(rows.double().numpy())
        groups = torch.from_numpy(means.labels_).long()
        self._centres = torch.from_numpy(means.cluster_centers_).float()
        most = MIN_PER_CLASS if published else MAX_PER_CLASS
        bounds = []
        for group in range(count):
            members = torch.nonzero(groups == group).flatten()[:most]
            bounds.append(self._bounds(images[members], guard=not published))
        self._low, self._high, self._scale = (torch.stack(part) for part in zip(*bounds, strict=True))

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        images = pixels_of(tuples)
        groups = torch.cdist(self._heads.standardise_source(tuples), self._centres).argmin(dim=1)
        scores = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(images), BLOCK):
            part = slice(start, start + BLOCK)
            grams, group = self._grams(images[part]), groups[part]
            over = (grams - self._high[group]).clamp_min(0) + (self._low[group] - grams).clamp_min(0)
            scores.append((over / self._scale[group]).double().mean(dim=(1, 2)))
        return torch.cat(scores)

    def _bounds(self, images: Tensor, *, guard: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return lower and upper bounds and what an overshoot is divided by, ``[orders, entries]`` each."""
        grams = torch.cat([self._grams(part) for part in torch.split(images, BLOCK)])
        middle = grams.median(dim=0).values
        spread = (grams - middle).abs().median(dim=0).values
        scale = middle.abs() + WIDTH * spread
        # an entry that is almost always 0 must not be the loudest
        floor = 0.1 * scale.mean(dim=1, keepdim=True) if guard else torch.tensor(1e-6)
        return middle - WIDTH * spread, middle + WIDTH * spread, scale.clamp_min(floor.clamp_min(1e-12))

    def _grams(self, images: Tensor) -> Tensor:
        """Return the Gram matrices of feature maps with at most 64 channels, ``[B, orders, entries]``."""
        maps = self._model.feature_map(images)
        if maps.shape[2] < 2:
            raise NotApplicable("needs a feature map of more than one place; this one is a single vector")
        if maps.shape[1] > CHANNELS:
            generator = torch.Generator().manual_seed(self._seed)
            projection = torch.randn(CHANNELS, maps.shape[1], generator=generator) / maps.shape[1] ** 0.5
            maps = torch.einsum("kc,bcl->bkl", projection, maps)
        return gram_matrices(maps)
