import hashlib

import numpy as np
import pytest

from platodef_cli.errors import UsageError
from platodef_cli.images.counter import uniform
from platodef_cli.images.shapes import CLASSES, TEXTURES, ShapesSource, _distance, render, scenes


def splitmix64(state: int) -> int:
    """Reference in plain integers (Steele et al. 2014)."""
    mask = 2**64 - 1
    z = state & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_uniform_equals_plain_integer_arithmetic():
    golden, seed, key = 0x9E3779B97F4A7C15, 11, 2**40 + 3
    row = splitmix64(splitmix64(seed + golden) + key * golden)
    expected = [(splitmix64(row + (j + 1) * golden) >> 40) * 2.0**-24 for j in range(5, 9)]
    assert uniform(seed, np.array([key]), 4, start=5)[0].tolist() == expected


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform(0, np.arange(40_000), 4)
    assert np.abs(u.mean(0) - 0.5).max() < 0.01
    assert np.abs(u.std(0) - 12**-0.5).max() < 0.01
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.02
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.02


def test_an_image_depends_on_seed_and_index_only():
    together, labels = render(3, np.arange(300))
    order = np.random.default_rng(0).permutation(300)
    shuffled, shuffled_labels = render(3, order)
    np.testing.assert_array_equal(shuffled, together[order])
    np.testing.assert_array_equal(shuffled_labels, labels[order])
    for i in (0, 7, 299):
        np.testing.assert_array_equal(render(3, [i])[0][0], together[i])
    assert not np.array_equal(render(4, [0])[0], render(3, [0])[0])


def test_pixels_of_this_version_are_pinned():
    pixels, labels = render(0, np.arange(16))
    # Rounding of transcendental functions may differ by one step between machines: compare coarsely.
    coarse = (pixels.reshape(16, 3, 4, 8, 4, 8).mean((3, 5)) / 8).round().astype(int)
    assert labels.tolist() == LABELS
    assert coarse[0, :, 0].tolist() == COARSE


LABELS = [4, 1, 2, 0, 9, 9, 2, 3, 8, 9, 0, 2, 9, 2, 5, 3]
COARSE = [[2, 5, 4, 6], [0, 2, 0, 1], [8, 11, 11, 13]]


def test_every_class_and_texture_is_about_equally_frequent():
    scene = scenes(1, np.arange(12_000))
    for values, names in ((scene.label, CLASSES), (scene.texture, TEXTURES)):
        counts = np.bincount(values, minlength=len(names))
        assert len(counts) == len(names)
        expected = 12_000 / len(names)
        assert (((counts - expected) ** 2) / expected).sum() < 30  # chi-squared, 11 degrees: p = 0.002


@pytest.mark.parametrize("label", range(len(CLASSES)), ids=CLASSES)
def test_distance_is_negative_near_the_unit_circle_only(label):
    line = np.linspace(-2, 2, 401, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    inside = _distance(label, x, y) < 0
    area = inside.sum() * 0.01**2
    assert 0.5 < area < 3
    assert np.hypot(x, y)[inside].max() < 1.2


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("circle", np.pi * 0.85**2),
        ("ring", np.pi * (0.93**2 - 0.55**2)),
        ("square", 1.48**2),
        ("frame", 1.66**2 - 0.98**2),
        ("triangle", 3 * 3**0.5 / 4),
        ("star", 5 * 0.42 * np.sin(np.pi / 5)),
        ("cross", 4 * (2 * 0.95 * 0.27) - 4 * 0.27**2),
        ("bar", 4 * 0.27),
        ("ell", 4 * 0.26 * 0.9 + 4 * 0.66 * 0.26 - 0.52 * 0.52),
        ("pair", 2 * np.pi * 0.4**2),
        ("semicircle", np.pi / 2),
    ],
)
def test_areas_are_those_of_geometry(name, area):
    line = (np.arange(1200, dtype=np.float32) + 0.5) / 500 - 1.2
    x, y = np.meshgrid(line, line)
    measured = (_distance(CLASSES.index(name), x, y) < 0).sum() / 500**2
    assert measured == pytest.approx(area, rel=0.01)


def test_object_differs_from_its_background():
    scene = scenes(0, np.arange(5000))
    assert np.abs(scene.colour.mean(1) - scene.background.mean(1)).min() > 0.1
    assert np.abs(scene.centre).max() + 0.8 * scene.radius.min() < 1


def test_a_larger_image_shows_the_same_scene():
    small = render(5, np.arange(40), 32)[0].astype(float)
    large = render(5, np.arange(40), 128)[0].astype(float).reshape(40, 3, 32, 4, 32, 4).mean((3, 5))
    for a, b in zip(small, large, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_raw_pixels_are_not_linearly_separable():
    pixels, labels = render(8, np.arange(3000))
    x = pixels.reshape(3000, 3, 16, 2, 16, 2).mean((3, 5)).reshape(3000, -1) / 255
    x = np.concatenate([x - x[:2400].mean(0), np.ones((3000, 1))], axis=1)
    y = np.eye(len(CLASSES))[labels]
    weight = np.linalg.solve(x[:2400].T @ x[:2400] + 30 * np.eye(x.shape[1]), x[:2400].T @ y[:2400])
    assert ((x[2400:] @ weight).argmax(1) == labels[2400:]).mean() < 0.4


def test_source_lists_and_opens_images():
    source = ShapesSource(seed=3, count=10, size=40)
    assert source.uri == "builtin:shapes?seed=3&count=10&size=40"
    assert source.classes == CLASSES
    assert not source.skipped
    pixels, labels = render(3, np.arange(10), 40)
    assert [ref.label for ref in source.refs] == labels.tolist()
    assert [ref.id for ref in source.refs[2:4]] == ["shape-000002", "shape-000003"]
    image = source.open(9)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), pixels[9].transpose(1, 2, 0))
    with pytest.raises(IndexError):
        source.open(10)


def test_digest_is_that_of_the_recipe_and_independent_of_count():
    one, many = ShapesSource(seed=3, count=5), ShapesSource(seed=3, count=10**9)
    assert list(one.refs) == many.refs[:5]
    expected = hashlib.sha256(b"platodef shapes v1; seed=3; index=4; size=32").hexdigest()
    assert one.refs[-1].digest == expected
    assert one.refs[4].digest != ShapesSource(seed=3, count=5, size=64).refs[4].digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"count": -4}, "count=-4"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"size": 4}, "size=4"),
        ({"size": 100_000}, "size=100000"),
        ({"count": 2**63}, "count=9223372036854775808"),
    ],
)
def test_bad_parameters_are_usage_errors(arguments, message):
    with pytest.raises(UsageError, match=message):
        ShapesSource(**arguments)
