"""Forward passes in bfloat16: where faster and the same, in both processes, told apart in the cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from platodef_cli.audit import precision as choosing
from platodef_cli.audit.inputs import open_inputs
from platodef_cli.audit.precision import choose_precision
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.precision import AUTOCAST, Comparison, compare
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.keys import feature_key
from platodef_cli.features.pipeline import ExtractionJob
from platodef_cli.images.open import open_source
from platodef_cli.progress import SILENT
from platodef_cli.triggers.triggers import Patch
from tests.contract import encoder_models as make
from tests.unit.audit.test_inputs import shapes

PIXELS = torch.randint(0, 256, (6, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny timm ViT."""
    path = tmp_path_factory.mktemp("precision") / "model"
    make.timm_model(path)
    return path


@pytest.fixture
def here(folder: Path) -> Iterator[Encoder]:
    encoder = open_encoder(str(folder), name="tiny")
    yield encoder
    encoder.close()


def test_both_processes_compute_the_same_in_bfloat16_and_say_so(folder: Path, here: Encoder) -> None:
    remote = open_encoder(str(folder), name="tiny", isolate=True, memory_limit_gb=0.5, time_limit_s=120)
    try:
        exact = here.embed(PIXELS)
        assert torch.equal(remote.embed(PIXELS), exact)
        for encoder in (here, remote):
            encoder.tune(forward_dtype="bfloat16")
            assert encoder.record.dtype == AUTOCAST
        rounded = here.embed(PIXELS)
        assert torch.equal(remote.embed(PIXELS), rounded)
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        assert torch.cosine_similarity(rounded, exact).min() > 0.999
        for encoder in (here, remote):
            encoder.tune(forward_dtype="float32")
            assert encoder.record.dtype == "float32"
            assert torch.equal(encoder.embed(PIXELS), exact)
    finally:
        remote.close()


def test_the_cache_tells_precisions_apart(here: Encoder) -> None:
    source = open_source("builtin:shapes?seed=1&count=4", limit=None, seed=0)
    job = ExtractionJob("clean", None, (0, 1), ("tiny",))
    exact = feature_key(source, here, job, 64)
    here.tune(forward_dtype="bfloat16")
    assert feature_key(source, here, job, 64) != exact


class Fake:
    """Features of pixels; in bfloat16 white corners get other features; time passes as it is told."""

    def __init__(self, encoder: Encoder, share: float, differs: float = 0.0):
        self.record, self.geometry, self.dim = encoder.record, encoder.geometry, 3
        self.share, self.differs = share, differs
        self.dtype, self.calls, self.now = "float32", 0, 0.0

    def tune(self, *, forward_dtype: str) -> None:
        self.dtype = forward_dtype

    def embed(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        self.now += self.share if self.dtype == "bfloat16" else 1.0
        features = pixels.float().mean(dim=(2, 3)) + 1
        if self.dtype == "bfloat16":
            white = (pixels[..., 20:28, 20:28] == 255).all(dim=(1, 2, 3)).float()
            features = features + white[:, None] * self.differs * torch.tensor([1.0, 0.0, 0.0])
        return features


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, here: Encoder) -> Iterator[type[Fake]]:
    monkeypatch.setattr(choosing, "may_be_faster", lambda device, geometry: True)

    def make_fake(share: float, differs: float = 0.0) -> Fake:
        made = Fake(here, share, differs)
        monkeypatch.setattr("platodef_cli.encoders.precision.time.perf_counter", lambda: made.now)
        return made

    return make_fake  # type: ignore[return-value]


def choose(encoder: Fake, wanted: str = "auto", **more: object) -> tuple[str, list[str]]:
    warned: list[str] = []
    source = open_source("builtin:shapes?seed=1&count=20", limit=None, seed=0)
    told = choose_precision(
        encoder,
        wanted,
        device="cpu",
        dtype="float32",
        source=source,
        rows=range(20),
        warn=warned.append,
        **more,
    )
    return told, warned


def test_bfloat16_is_taken_where_it_is_faster_and_the_same(fake: type[Fake]) -> None:
    fast = fake(0.4)
    assert choose(fast) == ("", [])
    assert fast.dtype == "bfloat16"
    slow = fake(0.95)
    assert choose(slow) == ("bfloat16 takes 95% of the time", [])
    assert slow.dtype == "float32"


def test_a_network_that_is_another_one_in_bfloat16_is_run_in_float32(fake: type[Fake]) -> None:
    """Also where only a known trigger shows it: a backdoor could hide from the precision of an audit."""
    patch = Patch("white", 0.4, "bottom-right")
    assert choose(fake(0.4, differs=300.0)) == ("", [])
    hiding = fake(0.4, differs=300.0)
    told, warned = choose(hiding, variants=[patch])
    assert told.startswith("bfloat16 gives other features, cosine 0.")
    assert warned == []
    assert hiding.dtype == "float32"
    forced = fake(0.4, differs=300.0)
    told, (warning,) = choose(forced, "bfloat16", variants=[patch])
    assert "gives other features in bfloat16" in warning
    assert forced.dtype == "bfloat16"


def test_the_choice_is_kept(fake: type[Fake], tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    choose(fake(0.4), cache=cache)
    again = fake(0.95)  # a busy moment changes nothing
    choose(again, cache=cache)
    assert (again.calls, again.dtype) == (0, "bfloat16")


def test_float32_and_other_weights_leave_nothing_to_choose(fake: type[Fake]) -> None:
    encoder = fake(0.1)
    assert choose(encoder, "float32") == ("", [])
    assert encoder.calls == 0


def test_a_real_network_is_compared(here: Encoder) -> None:
    found = compare(here, PIXELS)
    assert isinstance(found, Comparison)
    assert found.cosine > 0.99
    assert found.time > 0
    assert not Comparison(float("nan"), 0.1).same


def test_an_audit_opens_its_encoders_in_the_precision_that_is_asked_for() -> None:
    with open_inputs(shapes(400, precision="bfloat16"), SILENT) as inputs:
        assert {encoder.record.dtype for encoder in inputs.encoders.values()} == {AUTOCAST}
    with open_inputs(shapes(400), SILENT) as inputs:  # images of 32 pixels: nothing to win
        assert {encoder.record.dtype for encoder in inputs.encoders.values()} == {"float32"}
