"""A loopback hub with one tiny timm model, and the client's environment."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.hub.server import HubServer

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 0,
    "model_args": {
        "img_size": 32,
        "patch_size": 8,
        "depth": 1,
        "embed_dim": 16,
        "num_heads": 2,
        "num_classes": 0,
    },
    "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 0, "fixed_input_size": True},
}


@pytest.fixture(scope="session")
def model_files() -> dict[str, bytes]:
    """A complete repository, with a README and a pickle beside the weights."""
    import timm

    torch.manual_seed(5)
    network = timm.create_model(CONFIG["architecture"], **CONFIG["model_args"])
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": save({k: v.contiguous() for k, v in network.state_dict().items()}),
        "README.md": b"# a model\n",
        "pytorch_model.bin": b"\x80\x02 a pickle that nobody may fetch",
        "sub/model.safetensors": b"weights of something else",
    }


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client with an empty cache and no token, which may use the network and does not sleep."""
    for name in (
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HUGGING_FACE_HUB_TOKEN",
        "http_proxy",
        "HTTP_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    # read once at import, which another test of this process may have done offline
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # huggingface_hub pauses for whole seconds between its own attempts.
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def hub(client: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A running hub, and the client that asks it."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
