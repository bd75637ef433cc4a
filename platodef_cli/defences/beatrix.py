"""Beatrix (Ma et al. 2023): do the channels correlate as they do for clean images of the class?"""

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, Access, ExpectedAuroc, Setup
from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.features.access import ModelAccess, images_of
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

ORDERS = range(1, 9)
CHANNELS = 64  # after a random projection; the Gram matrix has half their square of entries
WIDTH = 10.0  # median absolute deviations between the median and a bound
CLASSES = 10
_FEWEST = 30  # samples per class, the original's number
_MOST = 100
_BLOCK = 64


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
    bank = _FEWEST
    description = "Odd channel correlations for the class: blind where the whole map looks like a clean one."
    published = "30 clean samples per class instead of up to 100, and no guard for bounds near 0"
    expected_auroc = ExpectedAuroc("white square", 0.75)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        from sklearn.cluster import KMeans

        if clean is None or setup.model is None:
            raise NotApplicable("needs images and internals")
        if len(clean) < _FEWEST:
            raise UsageError(f"the beatrix detector needs a bank of at least {_FEWEST} clean samples")
        self._heads, self._model = heads, setup.model
        published = setup.mode == "published"
        images = images_of(clean)
        rows = heads.standardise_source(clean)
        count = max(1, min(CLASSES, len(rows) // (2 * _FEWEST)))
        means = KMeans(count, n_init=4, random_state=setup.seed).fit(rows.double().numpy())
        groups = torch.from_numpy(means.labels_).long()
        self._centres = torch.from_numpy(means.cluster_centers_).float()
        self._projection: Tensor | None = None
        self._seed = setup.seed
        most = _FEWEST if published else _MOST
        bounds = []
        for group in range(count):
            members = torch.nonzero(groups == group).flatten()[:most]
            bounds.append(self._bounds(images[members], guard=not published))
        self._low, self._high, self._scale = (torch.stack(part) for part in zip(*bounds, strict=True))

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        images = images_of(tuples)
        groups = torch.cdist(self._heads.standardise_source(tuples), self._centres).argmin(dim=1)
        scores = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(images), _BLOCK):
            part = slice(start, start + _BLOCK)
            grams, group = self._grams(images[part]), groups[part]
            over = (grams - self._high[group]).clamp_min(0) + (self._low[group] - grams).clamp_min(0)
            scores.append((over / self._scale[group]).double().mean(dim=(1, 2)))
        return torch.cat(scores)

    def _bounds(self, images: Tensor, *, guard: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return lower and upper bounds and what an overshoot is divided by, ``[orders, entries]`` each."""
        grams = torch.cat([self._grams(part) for part in torch.split(images, _BLOCK)])
        middle = grams.median(dim=0).values
        spread = (grams - middle).abs().median(dim=0).values
        scale = middle.abs() + WIDTH * spread
        # an entry that is almost always 0 must not be the loudest
        floor = 0.1 * scale.mean(dim=1, keepdim=True) if guard else torch.tensor(1e-6)
        return middle - WIDTH * spread, middle + WIDTH * spread, scale.clamp_min(floor.clamp_min(1e-12))

    def _grams(self, images: Tensor) -> Tensor:
        """Return the upper triangles of the Gram matrices, ``[B, orders, entries]`` float32."""
        return gram_matrices(self._map(self._model, images))

    def _map(self, model: ModelAccess, images: Tensor) -> Tensor:
        """Return the feature map with at most 64 channels, ``[B, C, L]``."""
        found = model.feature_map(images)
        if found.shape[2] < 2:
            raise NotApplicable("needs a feature map of more than one place; this one is a single vector")
        if found.shape[1] <= CHANNELS:
            return found
        if self._projection is None:
            generator = torch.Generator().manual_seed(self._seed)
            matrix = torch.randn(CHANNELS, found.shape[1], generator=generator)
            self._projection = matrix / found.shape[1] ** 0.5
        return torch.einsum("kc,bcl->bkl", self._projection, found)


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
