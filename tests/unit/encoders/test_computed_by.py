"""What computes is named alike where it computes alike."""

from importlib.metadata import PackageNotFoundError, version

import torch

from platodef_cli.encoders import computed_by
from platodef_cli.encoders.computed_by import device_kind, encoding_libraries
from platodef_cli.encoders.load import open_encoder
from platodef_cli.resources import data_dir


def test_devices_of_one_kind_have_one_name(monkeypatch):
    kinds = {0: "NVIDIA A", 1: "NVIDIA A", 2: "NVIDIA B"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: kinds[device.index])
    assert device_kind("cuda:0") == device_kind(torch.device("cuda", 1)) == "cuda NVIDIA A"
    assert device_kind("cuda:2") == "cuda NVIDIA B"
    assert device_kind("cpu").startswith("cpu ")
    assert torch.backends.cpu.get_cpu_capability() in device_kind("cpu")
    assert device_kind("mps").startswith("mps ")


def test_encoders_here_and_in_a_child_name_their_device():
    folder = str(data_dir("encoders") / "clean")
    for isolate in (False, True):
        encoder = open_encoder(folder, isolate=isolate)
        assert encoder.device == device_kind("cpu")
        encoder.close()


def test_a_missing_library_is_no_failure(monkeypatch):
    def missing(name):
        if name == "torchvision":
            raise PackageNotFoundError(name)
        return version(name)

    encoding_libraries.cache_clear()
    monkeypatch.setattr(computed_by, "version", missing)
    assert encoding_libraries()["torchvision"] == ""
    assert encoding_libraries()["torch"] == version("torch")
    encoding_libraries.cache_clear()
