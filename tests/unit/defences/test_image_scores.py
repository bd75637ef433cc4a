"""Decomp, DeDe, Beatrix, BackdoorIDS, DECREE and SSL-Cleanse against loops and analytic cases."""

import math

import pytest
import torch
from torch import Tensor

from platodef_cli.defences.beatrix import gram_matrices
from platodef_cli.defences.decomp import DecompDetector, HeadPrototypes
from platodef_cli.defences.decree import pairwise
from platodef_cli.defences.dede import DecoderConfig, MaskedDecoder, fit_masked_decoder
from platodef_cli.defences.interface import Setup
from platodef_cli.defences.masking import MASKED, MAX_IMAGES, ORDERS, STEPS, TILES, MaskingDetector, masks
from platodef_cli.defences.ssl_cleanse import anomaly_index
from platodef_cli.errors import UsageError
from platodef_cli.heads.heads import Heads
from platodef_cli.metrics.detection import auroc
from tests.toy_model import HEADS, ToyModel, pictures, samples, triggered


def test_prototypes_limits_and_repair_by_hand() -> None:
    model, images = ToyModel(), pictures(80, 1)
    result = HeadPrototypes.fit(model, images)
    terms = model.head_terms(images)
    length = terms.terms.sum(dim=1).norm(dim=1)
    heads = terms.terms[:, 1 : 1 + HEADS] / length[:, None, None]
    for head in range(HEADS):
        prototype = heads[:, head].mean(dim=0)
        torch.testing.assert_close(result.prototypes[head], prototype)
        products = sorted(float(row @ prototype) for row in heads[:, head])
        assert products[1] <= float(result.limits[head]) <= products[2]  # the 2 % quantile of 80
    attacked = triggered(pictures(5, 2))
    seen = result.examine(attacked)
    own = model.head_terms(attacked)
    for row in range(5):
        total = own.terms[row].sum(dim=0)
        repaired = total.clone()
        for head in range(HEADS):
            term = own.terms[row, 1 + head]
            if float(term / total.norm() @ result.prototypes[head]) < float(result.limits[head]):
                repaired += result.prototypes[head] * total.norm() - term
        torch.testing.assert_close(seen.repaired[row], repaired, atol=1e-4, rtol=1e-4)


def test_decomp_counts_heads_and_breaks_ties_below_one(small_heads: Heads) -> None:
    model, bank = ToyModel(), samples(ToyModel(), pictures(80, 1))
    test = samples(model, pictures(40, 3))
    exact = DecompDetector(small_heads, bank, Setup(mode="published", model=model)).score(test)
    assert torch.equal(exact, exact.round())
    prototypes = HeadPrototypes.fit(model, bank.images)  # type: ignore[arg-type]
    counts = prototypes.examine(test.images).infected  # type: ignore[arg-type]
    broken = DecompDetector(small_heads, bank, Setup(model=model)).score(test)
    assert torch.equal(broken.floor().long(), counts)
    assert len(broken.unique()) > len(counts.unique())
    with pytest.raises(UsageError, match="at least 32"):
        HeadPrototypes.fit(model, pictures(10, 1))


@pytest.mark.parametrize(("share", "visible"), [(0.99, 1), (0.9, 6), (0.5, 32)])
def test_masks_hide_their_share_and_leave_a_patch(share: float, visible: int) -> None:
    decoder = MaskedDecoder(8, DecoderConfig())
    generator = torch.Generator().manual_seed(0)
    for mask in (decoder.mask(share, generator)[None], decoder.mask(share, generator, 7)):
        assert (~mask).sum(dim=1).tolist() == [visible] * len(mask)
    rows = decoder.mask(share, generator, 50)
    assert len({tuple(row.tolist()) for row in rows}) > 10  # they differ


def test_patches_are_pixels_and_errors_count_masked_ones_only() -> None:
    decoder = MaskedDecoder(8, DecoderConfig(side=16, patch=4)).requires_grad_(False)
    images = pictures(3, 1)
    patches = decoder.to_patches(images)
    assert patches.shape == (3, 16, 48)
    torch.testing.assert_close(patches[1, 5].reshape(3, 4, 4), images[1, :, 4:8, 4:8].float() / 127.5 - 1)
    features = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    mask = decoder.mask(0.75, torch.Generator().manual_seed(1))
    drawn = decoder(features, patches, mask)
    result = decoder.errors(features, patches, mask)
    for row in range(3):
        hidden = [p for p in range(16) if bool(mask[p])]
        squares = [float((drawn[row, p, v] - patches[row, p, v]) ** 2) for p in hidden for v in range(48)]
        assert result[row].item() == pytest.approx(sum(squares) / len(squares), rel=1e-4)
    # hidden pixels must not leak into the drawing
    other = torch.where(mask[:, None], torch.rand_like(patches), patches)
    torch.testing.assert_close(decoder(features, other, mask), drawn)


def test_larger_images_are_averaged_down() -> None:
    decoder = MaskedDecoder(8, DecoderConfig(side=16))
    flat = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    torch.testing.assert_close(decoder.to_patches(flat), torch.ones(1, 16, 48))


def test_the_decoder_uses_the_feature(small_heads: Heads) -> None:
    """A feature of another image draws the wrong one: the error rises on nearly all images."""
    images = pictures(400, 1)
    features = ToyModel(False).features(images)
    features = (features - features.mean(dim=0)) / features.std(dim=0)
    decoder = fit_masked_decoder(features[:300], images[:300], DecoderConfig(side=16, depth=1, steps=200))
    masks = [decoder.mask(0.99, torch.Generator().manual_seed(0))]
    matched = decoder.score(features[300:], images[300:], masks)
    swapped = decoder.score(features[300:].roll(1, 0), images[300:], masks)
    assert float((swapped > matched).double().mean()) > 0.85
    with pytest.raises(UsageError, match="at least 64"):
        fit_masked_decoder(features[:10], images[:10])


def test_gram_matrices_by_loops() -> None:
    maps = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    result = gram_matrices(maps)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    scale = maps.abs().amax(dim=(1, 2))
    for row in range(2):
        for order in range(1, 9):
            for place, (i, j) in enumerate(pairs):
                unit = (maps[row] / scale[row]).tolist()
                power = [[math.copysign(abs(v) ** order, v) for v in unit[c]] for c in (i, j)]
                total = sum(a * b for a, b in zip(power[0], power[1], strict=True))
                root = math.copysign(abs(total) ** (1 / order), total)
                expected = root * float(scale[row]) ** 2
                assert result[row, order - 1, place].item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_pairwise_cosine_and_anomaly_index_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert float(pairwise(rows)) == pytest.approx((0 - 1 + 0) / 3)
    areas: Tensor = torch.tensor([0.02, 0.3, 0.32, 0.34, 1.0], dtype=torch.float64)
    assert anomaly_index(areas) == pytest.approx((0.32 - 0.02) / (0.02 * 1.4826))
    assert anomaly_index(torch.ones(5, dtype=torch.float64)) == 0.0  # every inversion failed


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (224, 224), (48, 30)])
def test_every_step_of_masking_hides_what_earlier_ones_did_and_equal_shares(size: tuple[int, int]) -> None:
    hidden = masks(size, seed=1)
    assert hidden.shape == (ORDERS, STEPS, *size)
    assert not hidden[:, 0].any()
    assert bool((hidden[:, 1:] | ~hidden[:, :-1]).all())
    shares = hidden.double().mean(dim=(0, 2, 3))
    even = torch.linspace(0, MASKED, STEPS, dtype=torch.float64)
    torch.testing.assert_close(shares, even, atol=0.03, rtol=0)
    assert not torch.equal(hidden[0], hidden[1])  # orders differ
    assert torch.equal(masks(size, seed=1), hidden)
    if size == (16, 16):
        tiles = hidden.reshape(ORDERS, STEPS, TILES, 2, TILES, 2)
        assert bool((tiles == tiles[:, :, :, :1, :, :1]).all())


def test_masking_by_hand(small_heads: Heads) -> None:
    model, bank = ToyModel(), samples(ToyModel(), pictures(40, 1))
    detector = MaskingDetector(small_heads, bank, Setup(model=model))
    colour = bank.images.double().mean(dim=(0, 2, 3)).round()  # type: ignore[union-attr]
    mean, std = bank.source.double().mean(dim=0), bank.source.double().std(dim=0)

    def steps_of(image: Tensor) -> Tensor:
        walked = []
        for order in masks((16, 16), 0):
            seen = []
            for mask in order:
                shown = image.clone()
                for channel in range(3):
                    shown[channel][mask] = int(colour[channel])
                seen.append((model.features(shown[None])[0].double() - mean) / std)
            walked.append([(b - a).norm() for a, b in zip(seen, seen[1:], strict=False)])
        return torch.tensor(walked)

    usual = torch.stack([steps_of(image) for image in bank.images])  # type: ignore[union-attr]
    attacked = triggered(pictures(6, 2))
    own = torch.stack([steps_of(image) for image in attacked])
    expected = ((own - usual.mean(dim=(0, 1))) / usual.std(dim=(0, 1))).amax(dim=2).mean(dim=1)
    torch.testing.assert_close(detector.score(samples(model, attacked)), expected, atol=1e-4, rtol=1e-4)


def test_masking_sees_a_backdoor_more_than_the_square_itself(small_heads: Heads) -> None:
    """The square is the brightest thing in these images, and features are linear: it makes a step anyway."""
    images, middle, areas = pictures(60, 3), [], []
    for backdoored in (True, False):
        model = ToyModel(backdoored)
        detector = MaskingDetector(small_heads, samples(model, pictures(80, 1)), Setup(model=model))
        clean, changed = (detector.score(samples(model, each)) for each in (images, triggered(images)))
        areas.append(auroc(clean, changed))
        middle.append(float(changed.median()))
    assert areas[0] > 0.99
    assert areas[0] > areas[1]
    assert middle[0] > 3 * middle[1]


def test_masking_scores_follow_their_rows_and_its_published_mode_counts(small_heads: Heads) -> None:
    model, bank = ToyModel(), samples(ToyModel(), pictures(MAX_IMAGES + 10, 1))
    test = samples(model, torch.cat([pictures(40, 3), triggered(pictures(40, 4))]))
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    for mode in ("default", "published"):
        detector = MaskingDetector(small_heads, bank, Setup(mode=mode, model=model))  # type: ignore[arg-type]
        whole = detector.score(test)
        assert whole.dtype == torch.float64
        assert torch.allclose(whole[order], detector.score(test.select(order)), atol=1e-6)
        assert detector.score(test.select(torch.arange(0))).shape == (0,)
    assert torch.equal(whole, whole.round())
    assert bool((whole >= 0).all() & (whole <= STEPS / 2).all())  # a cluster has two steps or more
    assert whole[40:].mean() > whole[:40].mean()
    with pytest.raises(UsageError, match="at least 32"):
        MaskingDetector(small_heads, samples(model, pictures(10, 1)), Setup(model=model))
