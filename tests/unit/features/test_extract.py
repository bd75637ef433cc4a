import io
import os
import signal
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.encoders.interface import Geometry, to_pixels
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features import keys
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import Request, extract, image_seeds, load_pixels
from tests.unit.features.feature_fakes import MemorySource, Noise, ProjectionEncoder, Recorder, png

REQUESTS = [Request(), Request(Noise(20), [5, 3, 17, 8]), Request(Noise(60))]


def source(count=21, broken=()):
    blobs = [png(i) for i in range(count)]
    for i in broken:
        blobs[i] = blobs[i][: len(blobs[i]) // 2]
    return MemorySource(blobs)


def encoders():
    return {"a": ProjectionEncoder(5, 0), "b": ProjectionEncoder(3, 1), "c": ProjectionEncoder(4, 2, 6, 7)}


def slow_features(images, encoder, variant, indices):
    """One image at a time, decoded and embedded alone."""
    rows = []
    for i in indices:
        pixels = to_pixels(images.open(i), encoder.geometry)[None]
        if variant is not None:
            pixels = variant(pixels, image_seeds([images.refs[i]]))
        rows.append(encoder.embed(pixels)[0])
    return torch.stack(rows)


@pytest.mark.parametrize(("batch_size", "shard_size"), [(64, 256), (3, 8), (1, 1)])
def test_features_equal_the_slow_loop(batch_size, shard_size):
    result = extract(source(), encoders(), REQUESTS, batch_size=batch_size, shard_size=shard_size)
    for name, encoder in encoders().items():
        for request in REQUESTS:
            indices, features = result.features(name, request.name)
            wanted = list(range(21)) if request.indices is None else request.indices
            assert indices.tolist() == wanted
            assert features.dtype == torch.float32
            expected = slow_features(source(), encoder, request.variant, wanted)
            torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_another_device_or_library_is_another_entry(tmp_path, monkeypatch):
    def misses(device="cpu one"):
        used = encoders()
        for encoder in used.values():
            encoder.device = device
        return extract(source(), used, [Request()], cache=FeatureCache(tmp_path)).misses

    assert (misses(), misses(), misses("cuda two"), misses("cuda two")) == (3, 0, 3, 0)
    assert {"torch", "torchvision", "timm", "transformers", "open_clip_torch"} == set(encoding_libraries())
    for library in encoding_libraries():
        changed = {**encoding_libraries(), library: "other"}
        monkeypatch.setattr(keys, "_libraries", lambda versions=changed: versions)
        assert (misses(), misses()) == (3, 0), library


def test_every_image_is_decoded_once_for_everything():
    images = source()
    extract(images, encoders(), REQUESTS, shard_size=8)
    assert images.opened == [1] * 21


def test_features_can_be_trained_on():
    _, features = extract(source(4), encoders(), [Request()]).features("a")
    weight = torch.ones(5, requires_grad=True)
    (features @ weight).sum().backward()
    torch.testing.assert_close(weight.grad, features.sum(0))


def test_two_runs_give_the_same_bytes():
    first, second = (extract(source(), encoders(), REQUESTS, batch_size=4) for _ in range(2))
    for key, value in first.values.items():
        assert torch.equal(value, second.values[key])


def test_a_warm_cache_decodes_and_embeds_nothing(tmp_path):
    cold = extract(source(), encoders(), REQUESTS, cache=FeatureCache(tmp_path), shard_size=8)
    images, again = source(), encoders()
    warm = extract(images, again, REQUESTS, cache=FeatureCache(tmp_path), shard_size=8)
    # 3 shards clean and noisy, and the four images of the subset lie in all three: 9 per encoder.
    assert (cold.hits, cold.misses) == (0, 27)
    assert (warm.hits, warm.misses) == (27, 0)
    assert sum(images.opened) == 0
    assert sum(encoder.embedded for encoder in again.values()) == 0
    assert all(torch.equal(value, warm.values[key]) for key, value in cold.values.items())


def test_only_what_is_missing_is_computed(tmp_path):
    cache = FeatureCache(tmp_path)
    extract(source(), {"a": encoders()["a"]}, [Request()], cache=cache, shard_size=8)
    images, again = source(), encoders()
    result = extract(images, again, [Request(), Request(Noise(20), [1, 2])], cache=cache, shard_size=8)
    assert again["a"].embedded == 2
    assert again["b"].embedded == 21 + 2
    assert (result.hits, result.misses) == (3, 3 * 2 + 3)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "f" * 64},
        {"dtype": "bfloat16"},
        {"resize": 9},
    ],
)
def test_the_key_sees_the_encoder(tmp_path, change):
    cache = FeatureCache(tmp_path)
    extract(source(), {"a": ProjectionEncoder()}, [Request()], cache=cache)
    other = extract(source(), {"a": ProjectionEncoder(**change)}, [Request()], cache=cache)
    assert other.misses == 1


def test_the_key_sees_images_variant_and_batch(tmp_path):
    cache = FeatureCache(tmp_path)
    extract(source(), {"a": ProjectionEncoder()}, [Request(Noise(20))], cache=cache)

    def misses(images, variant, **arguments):
        return extract(
            images, {"a": ProjectionEncoder()}, [Request(variant)], cache=cache, **arguments
        ).misses

    assert misses(source(), Noise(20)) == 0
    assert misses(source(), Noise(21)) == 1
    assert misses(source(20), Noise(20)) == 1
    assert misses(MemorySource([png(i) for i in reversed(range(21))]), Noise(20)) == 1
    assert misses(source(), Noise(20), batch_size=7) == 1


class Interrupting(Noise):
    """Raises KeyboardInterrupt at its n-th batch, as Ctrl-C would."""

    def __init__(self, calls):
        super().__init__(20)
        self._left = calls

    def __call__(self, pixels, seeds):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().__call__(pixels, seeds)


def test_interrupted_run_resumes_to_identical_bytes(tmp_path):
    cache = FeatureCache(tmp_path)
    arguments = {"cache": cache, "shard_size": 4, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        extract(source(), {"a": ProjectionEncoder()}, [Request(Interrupting(9))], **arguments)
    finished = len(cache.entries())
    assert 1 <= finished <= 4
    resumed = extract(source(), {"a": ProjectionEncoder()}, [Request(Noise(20))], **arguments)
    whole = extract(source(), {"a": ProjectionEncoder()}, [Request(Noise(20))], shard_size=4, batch_size=2)
    assert resumed.hits == finished
    assert torch.equal(resumed.values["a", "noise-20"], whole.values["a", "noise-20"])


class Signalling(ProjectionEncoder):
    """Sends the process a real Ctrl-C from its thread, while the main thread waits."""

    def embed(self, pixels):
        if self.embedded == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return super().embed(pixels)


def test_a_real_signal_stops_every_thread_and_keeps_finished_shards(tmp_path):
    cache = FeatureCache(tmp_path)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        extract(source(400), {"a": Signalling()}, [Request()], cache=cache, shard_size=4, batch_size=4)
    assert threading.active_count() == before
    assert len(cache.entries()) >= 3
    assert cache.verify() == []


@pytest.mark.parametrize("warm", [False, True])
def test_broken_images_are_named_counted_and_dropped_everywhere(tmp_path, warm):
    cache = FeatureCache(tmp_path)
    broken = (0, 3, 9, 17)
    if warm:
        extract(source(21, broken), encoders(), REQUESTS, cache=cache, max_broken_share=0.5)
    images, progress = source(21, broken), Recorder()
    result = extract(images, encoders(), REQUESTS, cache=cache, max_broken_share=0.5, progress=progress)
    assert [name for name, _ in result.broken] == [f"image-{i}" for i in broken]
    assert images.skipped == list(result.broken)
    assert len(progress.warnings) == 1
    assert progress.warnings[0].startswith("4 of 21 images cannot be used (image-0: broken: ")
    assert "image-9: broken" in progress.warnings[0]
    assert "image-17" not in progress.warnings[0]
    assert progress.warnings[0].endswith("and 1 more)")
    for name in encoders():
        assert result.features(name, "noise-20")[0].tolist() == [5, 8]
        assert result.features(name)[0].tolist() == [i for i in range(21) if i not in broken]
    good, features = result.features("c", "noise-60")
    expected = slow_features(images, encoders()["c"], Noise(60), good.tolist())
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    if warm:
        assert result.misses == 0


def test_too_many_broken_images_are_an_error():
    with pytest.raises(UsageError, match=r"2 of 21 images cannot be used .*at most 5% may be broken"):
        extract(source(21, (4, 5)), encoders(), [Request()])
    # Images that the source skipped while listing count as well.
    images = source(21, (4,))
    images.skipped.append(("not-listed", "no bytes"))
    with pytest.raises(UsageError, match="2 of 22 images"):
        extract(images, encoders(), [Request()])
    with pytest.raises(UsageError, match="3 of 3 images"):
        extract(source(3, (0, 1, 2)), encoders(), [Request()], max_broken_share=1.0)


def test_broken_images_elsewhere_do_not_count_against_a_later_request():
    images, progress = source(100, (1, 2, 3, 4)), Recorder()
    extract(images, encoders(), [Request()])
    result = extract(images, encoders(), [Request(None, range(50, 60))], progress=progress)
    assert result.features("a")[0].tolist() == list(range(50, 60))
    assert progress.warnings == []
    assert [name for name, _ in images.skipped] == [f"image-{i}" for i in (1, 2, 3, 4)]


def test_a_shard_with_a_vanished_file_is_not_remembered(tmp_path):
    from platodef_cli.images.decode import ImageError

    class Vanishing(MemorySource):
        def open(self, index):
            if index == 2:
                raise ImageError("image-2", "it cannot be read", transient=True)
            return super().open(index)

    cache = FeatureCache(tmp_path)
    blobs = [png(i) for i in range(21)]
    flaky = extract(Vanishing(blobs), {"a": ProjectionEncoder()}, [Request()], cache=cache, shard_size=7)
    assert flaky.features("a")[0].tolist() == [0, 1, *range(3, 21)]
    healed = extract(MemorySource(blobs), {"a": ProjectionEncoder()}, [Request()], cache=cache, shard_size=7)
    assert (healed.hits, healed.misses) == (2, 1)
    assert len(healed.features("a")[0]) == 21


class Failing(ProjectionEncoder):
    def __init__(self, error):
        super().__init__(size=8)
        self._error = error

    def embed(self, pixels):
        if self._error == "nan":
            return super().embed(pixels) * float("nan")
        if self._error == "shape":
            return super().embed(pixels)[:, :2]
        raise RuntimeError("out of\nmemory")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("nan", "'bad' returned NaN or infinite features"),
        ("shape", r"'bad' returned features of shape \[4, 2\], expected \[4, 5\]"),
        ("raise", "encoder bad failed: out of memory"),
    ],
)
def test_a_failing_encoder_is_one_error_and_no_hang(error, message, tmp_path):
    both = {"good": ProjectionEncoder(), "bad": Failing(error)}
    cache = FeatureCache(tmp_path)
    with pytest.raises(IncompleteError, match=message):
        extract(source(60), both, REQUESTS, cache=cache, shard_size=4)
    assert torch.get_num_threads() >= 1
    result = extract(source(60), {"bad": ProjectionEncoder()}, [Request()], cache=cache, shard_size=4)
    assert torch.isfinite(result.features("bad")[1]).all()


def test_bad_requests():
    with pytest.raises(UsageError, match="image 99 of 'clean' is outside the source of 21 images"):
        extract(source(), encoders(), [Request(None, [99])])
    with pytest.raises(UsageError, match="one request per variant"):
        extract(source(), encoders(), [Request(), Request()])
    with pytest.raises(UsageError, match="at least 1"):
        extract(source(), encoders(), [Request()], batch_size=0)


def test_seeds_are_the_first_bits_of_the_digest():
    refs = source(3).refs
    assert image_seeds(refs).tolist() == [int(ref.digest, 16) >> 192 & (2**63 - 1) for ref in refs]


def test_load_pixels_keeps_the_order_and_decodes_once():
    images = source()
    small, large = Geometry((6, 6), 7, "bicubic"), Geometry((9, 9), 9, "bilinear")
    loaded = load_pixels(images, [small, large, small], [4, 0, 20, 4])
    assert set(loaded) == {small, large}
    for geometry, pixels in loaded.items():
        expected = torch.stack([to_pixels(source().open(i), geometry) for i in (4, 0, 20, 4)])
        assert torch.equal(pixels, expected)
    assert sum(images.opened) == 3


def test_load_pixels_refuses_a_broken_image():
    with pytest.raises(UsageError, match="'image-1' cannot be used"):
        load_pixels(source(3, (1,)), [Geometry((6, 6), 7, "bicubic")], [0, 1])


def test_grey_images_go_through():
    buffer = io.BytesIO()
    Image.fromarray(np.arange(144, dtype=np.uint8).reshape(12, 12)).save(buffer, "PNG")
    _, features = extract(MemorySource([buffer.getvalue()]), encoders(), [Request()]).features("a")
    assert features.shape == (1, 5)
