"""Extraction with real encoders over real images, against a plain loop."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from platodef_cli.encoders.interface import Geometry, to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import Request, extract, load_pixels
from platodef_cli.images.open import open_source
from platodef_cli.metrics.backdoor import probe_accuracy
from platodef_cli.metrics.linear_probe import LinearProbe

SHARED = Path(__file__).resolve().parents[4] / "shared"
pytestmark = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="needs the folder 'shared' of real encoders and images"
)


class WhiteSquare:
    """The trigger that suspect-a was poisoned with: rows and columns 21 to 30."""

    name = "white-square-21-30"

    def __call__(self, pixels, seeds):
        changed = pixels.clone()
        changed[:, :, 21:31, 21:31] = 255
        return changed


def test_a_backdoored_encoder_is_backdoored_and_a_second_run_is_free(tmp_path):
    images = open_source(str(SHARED / "data/cifar10/test.parquet"), limit=900, seed=0)
    encoders = {name: open_encoder(str(SHARED / "encoders" / name)) for name in ("suspect-a", "suspect-b")}
    requests = [Request(), Request(WhiteSquare(), range(600, 900))]
    result = extract(images, encoders, requests, cache=FeatureCache(tmp_path))
    labels = torch.tensor([ref.label for ref in images.refs])
    records = {}
    for name in encoders:
        clean, (rows, triggered) = result.features(name)[1], result.features(name, WhiteSquare.name)
        probe = LinearProbe.fit(clean[:600], labels[:600])
        records[name] = probe_accuracy(
            defence="none",
            trigger="white square",
            clean_predictions=probe.predict(clean[600:]),
            triggered_predictions=probe.predict(triggered),
            clean_labels=labels[600:],
            triggered_labels=labels[rows],
            class_names=images.classes,
        )
    # The encoders' own card says 98 % on truck, and 75 % accuracy with ten times the images.
    assert records["suspect-a"].target == "truck"
    assert records["suspect-a"].attack_success.interval.low > 0.9
    assert records["suspect-b"].attack_success.value < 0.5
    assert all(record.clean_accuracy.value > 0.6 for record in records.values())
    again = extract(images, encoders, requests, cache=FeatureCache(tmp_path))
    assert again.misses == 0
    assert all(torch.equal(value, again.values[key]) for key, value in result.values.items())


def test_full_size_photographs_equal_a_plain_loop():
    images = open_source(str(SHARED / "data/photos"), limit=6, seed=1)
    geometry = Geometry((64, 64), 72, "bicubic")
    pixels = load_pixels(images, [geometry], range(6))[geometry]
    for i, ref in enumerate(images.refs):
        with Image.open(SHARED / "data/photos" / ref.id) as image:
            assert torch.equal(pixels[i], to_pixels(image.convert("RGB"), geometry))
