"""The pixels that an encoder is given are those of its library's own processor, to 1e-4."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES

from platodef_cli.encoders.backends.processors import PATCHED, PLAIN, Preprocessing, read_preprocessing
from platodef_cli.encoders.backends.transformers_models import LEFT_OUT
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.interface import to_levels, to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import PlatodefError, RefusedError, UnsupportedError
from platodef_cli.features.extract import Request, extract, load_pixels
from platodef_cli.images.folder import FolderSource
from platodef_cli.records import FileRecord

SQUARE = {"size": {"height": 48, "width": 48}}
CROPPED = {"size": {"shortest_edge": 52}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True}
RESAMPLES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def photographs() -> list[Image.Image]:
    """Return pictures of odd sizes with edges and noise, smaller and larger than the inputs."""
    generator = np.random.default_rng(5)
    pictures = []
    for width, height in ((61, 47), (33, 95), (641, 427)):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
        smooth[height // 3 : height // 2, width // 4 : width // 2] = (250, 5, 60)
        noisy = smooth + generator.normal(0, 12, smooth.shape)
        pictures.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return pictures


def preprocessing(processor: Any, folder: Path, kind: str = "vit") -> Preprocessing:
    """Read the file that a processor saves."""
    processor.save_pretrained(folder)
    (path,) = folder.glob("*processor_config.json")
    data = path.read_bytes()
    record = FileRecord(path=path.name, sha256=sha256(data).hexdigest(), bytes=len(data))
    return read_preprocessing(Bundle(folder, (record,), 0), kind)


def inputs(read: Preprocessing, image: Image.Image) -> Tensor:
    """Return what the network is given, float32 ``[3, H, W]``."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (read.mean, read.std))
    pixels = to_pixels(image, read.geometry)
    units = pixels / 255 if pixels.dtype == torch.uint8 else pixels
    normal = (units - mean) / std
    return normal.flip(0) if read.flipped else normal


def check(processor: Any, folder: Path, kind: str = "vit") -> Preprocessing:
    """Compare the inputs of all pictures with the library's own."""
    read = preprocessing(processor, folder, kind)
    for image in photographs():
        theirs = processor(images=image, return_tensors="pt")["pixel_values"][0].float()
        torch.testing.assert_close(inputs(read, image), theirs, rtol=0, atol=1e-4)
    return read


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("shape", ["square", "cropped"])
@pytest.mark.parametrize("name", PLAIN)
def test_plain_processors(name: str, shape: str, resample: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = SQUARE if shape == "square" else CROPPED
    if name == "ConvNextImageProcessor":
        settings = {"size": {"shortest_edge": 48 if shape == "square" else 384}}
    read = check(getattr(transformers, name)(**settings, resample=RESAMPLES[resample]), tmp_path)
    assert read.geometry.floats == (name == "DINOv3ViTImageProcessor" and resample != "nearest")
    assert read.geometry.kernel == resample


def test_numbers_that_are_not_normalised(tmp_path: Path) -> None:
    assert check(transformers.DINOv3ViTImageProcessor(**SQUARE, do_normalize=False), tmp_path).geometry.floats


def test_what_the_library_itself_cannot_do_is_refused(tmp_path: Path) -> None:
    levels = transformers.DINOv3ViTImageProcessor(**SQUARE, do_rescale=False)
    with pytest.raises(TypeError, match="float tensor"):
        levels(images=photographs()[0], return_tensors="pt")
    with pytest.raises(RefusedError, match="float tensor"):
        preprocessing(levels, tmp_path)


def names_of(kinds: Any) -> dict[str, str]:
    """Return the processors of types of models, each with one of the types."""
    known: Any = IMAGE_PROCESSOR_MAPPING_NAMES
    found = {}
    for kind in kinds:
        name = known.get(kind, {}).get("torchvision") or known.get(kind, {}).get("pil")
        if name and name not in (*PATCHED, "TimmWrapperImageProcessor"):
            found.setdefault(name, kind)
    return found


SUPPORTED = names_of(sorted(MODEL_FOR_IMAGE_MAPPING_NAMES.keys() - LEFT_OUT.keys()))


@pytest.mark.parametrize("name", SUPPORTED)
def test_processors_of_supported_types_as_they_are(name: str, tmp_path: Path) -> None:
    check(getattr(transformers, name)(), tmp_path, SUPPORTED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", names_of(sorted(IMAGE_PROCESSOR_MAPPING_NAMES)))
def test_every_processor_is_reproduced_or_refused(name: str, tmp_path: Path) -> None:
    made = getattr(transformers, name)()
    try:
        preprocessing(made, tmp_path)
    except PlatodefError:
        return
    check(made, tmp_path)


def test_tiles_of_large_images_are_not_overlooked(tmp_path: Path) -> None:
    tiling = transformers.GotOcr2ImageProcessor(**SQUARE, crop_to_patches=True)
    with pytest.raises(UnsupportedError, match="turns an image into"):
        preprocessing(tiling, tmp_path)


def dinov3(folder: Path) -> tuple[Any, Any]:
    """Save a tiny random DINOv3 as its library does."""
    torch.manual_seed(2)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.DINOv3ViTConfig(**small, image_size=48, patch_size=16, num_register_tokens=2)
    network = transformers.DINOv3ViTModel(config).eval()
    processor = transformers.DINOv3ViTImageProcessor(**SQUARE)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network, processor


class Inverted:
    """Turns the upper left quarter to its negative; leaves the rest alone."""

    name = "inverted"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        changed = pixels.clone()
        changed[..., :24, :24] = 255 - changed[..., :24, :24]
        return changed


@pytest.mark.parametrize("isolate", [False, True])
def test_extracted_features_of_a_network_that_takes_numbers(isolate: bool, tmp_path: Path) -> None:
    network, processor = dinov3(tmp_path / "model")
    (tmp_path / "images").mkdir()
    for number, picture in enumerate(photographs()):
        picture.save(tmp_path / "images" / f"{number}.png")
    source = FolderSource(tmp_path / "images")
    values = torch.cat(
        [processor(images=picture, return_tensors="pt")["pixel_values"] for picture in photographs()]
    )
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (processor.image_mean, processor.image_std))
    with open_encoder(str(tmp_path / "model"), isolate=isolate) as encoder, torch.inference_mode():
        requests = [Request(None, range(3)), Request(Inverted(), range(3))]
        extraction = extract(source, {"x": encoder}, requests, cache=None)
        _, clean = extraction.features("x")
        torch.testing.assert_close(clean, network(values).pooler_output, rtol=0, atol=1e-4)
        units = values * std + mean
        units[..., :24, :24] = (255 - (units[..., :24, :24] * 255).round()) / 255
        _, changed = extraction.features("x", "inverted")
        torch.testing.assert_close(changed, network((units - mean) / std).pooler_output, rtol=0, atol=1e-4)
        assert (changed - clean).abs().max() > 0.01
        levels = load_pixels(source, [encoder.geometry], range(3))[encoder.geometry]
        assert torch.equal(levels, to_levels(values * std + mean))
        # what detectors and searches look at are images of 8 bits
        assert (encoder.embed(levels) - clean).abs().max() < 0.05
