"""45 faults of a Hub, with weights of some kilobytes and of 5 MB: one line, no wrong byte kept, healed after.

Large files take other ways through huggingface_hub than small ones: parts, resumed transfers, other bars.
"""

import json
import random
from collections.abc import Mapping
from copy import copy
from pathlib import Path

import pytest

from platodef_cli.encoders.hub.hub import download
from platodef_cli.encoders.reference import parse
from platodef_cli.errors import HubError, RefusedError
from platodef_cli.progress import SILENT
from tests.hub.server import Fault, HubServer

Files = Mapping[str, bytes]
PLACES = {
    "the commit": ("/api/models/org/model$", None),
    "the listing": ("/tree/", None),
    "the configuration": (r"/resolve/.*/config\.json", None),
    "the weights' address": (r"/resolve/.*safetensors", "HEAD"),
    "the weights": ("/lfs/", "GET"),
}
KINDS: dict[str, dict[str, object]] = {
    "denied": {"status": 401},
    "gated": {"status": 403, "code": "GatedRepo"},
    "gone": {"status": 404},
    "too many": {"status": 429},
    "down": {"status": 503},
    "cut at once": {"cut": 0},
    "cut later": {"cut": 700},
    "other bytes": {"body": b"<html>" + b"x" * 5000},
    "without an end": {"body": b"z" * 2**18, "endless": True},
}
SIZES = {"kilobytes": 40_000, "5 MB": 5_000_000}


def get() -> Path:
    return download(parse("org/model"), progress=SILENT, sleep=lambda _: None)[0]


@pytest.fixture(scope="module", params=SIZES)
def files(request: pytest.FixtureRequest, model_files: Files) -> Files:
    """A repository whose weights have this size."""
    weights = random.Random(request.param).randbytes(SIZES[request.param])
    return {"config.json": model_files["config.json"], "model.safetensors": weights}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_fault_is_one_line_and_heals(place: str, kind: str, hub: HubServer, files: Files) -> None:
    hub.commit("org/model", files)
    path, method = PLACES[place]
    hub.faults = [Fault(path, method=method, **KINDS[kind])]  # type: ignore[arg-type]
    try:
        folder: Path | None = get()
    except (HubError, RefusedError) as error:
        folder = None
        message = str(error)
        assert message.startswith(("org/model", "127.0.0.1", "localhost"))
        assert "\n" not in message
        assert len(message) < 400
        assert "hf_xet" not in message
    if folder is not None:  # it did not matter
        assert {name: (folder / name).read_bytes() for name in files} == dict(files)
    hub.faults = []
    folder = get()
    assert {name: (folder / name).read_bytes() for name in files} == dict(files)


@pytest.mark.parametrize("place", ["the commit", "the weights' address", "the weights"])
@pytest.mark.parametrize("kind", ["too many", "down", "cut later"])
def test_a_fault_that_passes_costs_attempts_only(place: str, kind: str, hub: HubServer, files: Files) -> None:
    hub.commit("org/model", files)
    path, method = PLACES[place]
    fault = Fault(path, method=method, times=2, **KINDS[kind])  # type: ignore[arg-type]
    hub.faults = [copy(fault)]
    folder = get()
    assert {name: (folder / name).read_bytes() for name in files} == dict(files)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "own", "auto_map": {"AutoModel": "code.Model"}}, "would run Python code"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "other loading code"),
        ({"num_hidden_layers": 10**9}, "layers"),
    ],
)
def test_what_the_small_files_tell_is_refused_before_the_weights(
    config: dict[str, object], word: str, hub: HubServer, files: Files
) -> None:
    vit = {"model_type": "vit", "architectures": ["ViTModel"], "hidden_size": 32, **config}
    hub.commit("org/model", {**files, "config.json": json.dumps(vit).encode(), "code.py": b"x = 1"})
    with pytest.raises(RefusedError, match=f"org/model.*{word}"):
        get()
    assert not any("/lfs/" in path for _, path in hub.requests)


def test_a_size_that_no_disk_holds_is_refused_from_the_listing(hub: HubServer, files: Files) -> None:
    sha = hub.commit("org/model", files)
    siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
    siblings[1]["size"] = 2**52
    listing = {"id": "org/model", "sha": sha, "siblings": siblings}
    hub.faults = [Fault("/api/models/org/model$", body=json.dumps(listing).encode())]
    with pytest.raises(RefusedError, match="would download .* GiB, more than .*; nothing") as caught:
        get()
    assert "hf_xet" not in str(caught.value)
    assert not any("/lfs/" in path for _, path in hub.requests)
