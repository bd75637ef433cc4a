"""Types of transformers without a row: run by the common rule, and equal to the library's own outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES

from platodef_cli.encoders.backends.transformers_catalogue import ALSO_TESTED, NOT_COMPARED, catalogue
from platodef_cli.encoders.backends.transformers_models import FAMILIES, family_of
from platodef_cli.encoders.interface import to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.pooling import CLASS_TOKEN
from tests.contract import common_models as make
from tests.contract import tower_models
from tests.contract.encoder_models import photographs, randomise
from tests.contract.tower_models import TEXT, VISION


def expected(network: Any, pixels: Tensor, pooling: str) -> Tensor:
    """Return the feature that the documented rule names, from the library's own outputs."""
    if hasattr(network, "get_image_features"):
        output = network.get_image_features(pixel_values=pixels)
        found = output if isinstance(output, Tensor) else output.pooler_output
        if pooling.startswith("mean"):
            return torch.stack([tokens.reshape(-1, tokens.shape[-1]).mean(0) for tokens in found])
        return found
    output = network(pixel_values=pixels)
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    tokens = output.last_hidden_state
    if pooling == CLASS_TOKEN:
        return tokens[:, 0]
    return tokens.mean(1) if tokens.ndim == 3 else tokens.flatten(2).mean(2)


@pytest.mark.parametrize("kind", make.KINDS)
def test_features_equal_the_librarys_own(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = getattr(transformers, family_of(kind, ()).network)(make.tiny(kind)).float().eval()
    randomise(network)
    processor = make.processor(kind)
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    images = photographs()
    with open_encoder(str(tmp_path)) as encoder:
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in images])
        features, record = encoder.embed(pixels), encoder.record
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (record.transform.mean, record.transform.std)
    )
    equal = ((pixels / 255 if pixels.dtype == torch.uint8 else pixels) - mean) / std
    with torch.inference_mode():
        theirs = expected(network, equal, record.pooling)
    torch.testing.assert_close(features, theirs, rtol=1e-4, atol=1e-4)
    own = torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in images])
    torch.testing.assert_close(equal, own, rtol=0, atol=1e-4)
    assert record.pooling == ALSO_TESTED[kind]
    assert float(features.std(0).max()) > 0


def test_every_type_that_loads_is_compared_or_has_a_reason() -> None:
    known = catalogue()
    tested = {*MODEL_FOR_IMAGE_MAPPING_NAMES, *FAMILIES, *tower_models.MAKERS, *make.KINDS}
    assert {*ALSO_TESTED} <= tested
    assert {*make.KINDS} <= {*ALSO_TESTED}
    assert not {*known.untested} & tested
    assert all(known.untested.values())
    if transformers.__version__ == "5.24.0":
        assert known.untested.keys() == NOT_COMPARED.keys()


@pytest.mark.parametrize("task", ["ConditionalGeneration", "QuestionAnswering", "ImageTextRetrieval"])
def test_captioners_without_a_projection_give_the_pooled_output_of_their_tower(
    task: str, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    config = transformers.BlipConfig(
        vision_config={**VISION, "projection_dim": 24},
        text_config={**TEXT, "is_decoder": True},
        image_text_hidden_size=24,
    )
    network = getattr(transformers, f"BlipFor{task}")(config).eval()
    network.save_pretrained(tmp_path)
    transformers.BlipImageProcessor(size=tower_models.SQUARE).save_pretrained(tmp_path)
    compare(tmp_path, network.vision_model, "pooler_output of the vision tower")


@pytest.mark.parametrize(
    "name", ["AlignVision", "BlipVision", "MetaClip2Vision", "CLIPSegVision", "GroupViTVision"]
)
def test_towers_that_no_mapping_of_the_library_has(name: str, tmp_path: Path) -> None:
    torch.manual_seed(6)
    narrow = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 64}
    stages = {"depths": [1, 1], "num_group_tokens": [2, 0], "num_output_groups": [2, 2]}
    own = {"AlignVision": narrow, "GroupViTVision": {**VISION, **stages}}.get(name, VISION)
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**own)).eval()
    network.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size=tower_models.SQUARE).save_pretrained(tmp_path)
    compare(tmp_path, network, "pooler_output")


def test_heads_that_the_library_saves_under_older_names_are_dropped(tmp_path: Path) -> None:
    torch.manual_seed(6)
    stages = {"hidden_sizes": [8, 16, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]}
    network = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**stages)).eval()
    network.save_pretrained(tmp_path)
    transformers.SegformerImageProcessor(size=tower_models.SQUARE).save_pretrained(tmp_path)
    notes = compare(tmp_path, network.segformer, "mean of patches")
    assert any("not part of the encoder: decode_head" in note for note in notes)


def compare(folder: Path, tower: Any, pooling: str) -> tuple[str, ...]:
    """Hold the features of a folder to the outputs of the library's tower, and return the notes."""
    with open_encoder(str(folder)) as encoder:
        assert encoder.record.pooling == pooling
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in photographs()])
        transform = encoder.record.transform
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (transform.mean, transform.std))
        with torch.inference_mode():
            output = tower(pixel_values=(pixels / 255 - mean) / std)
        last = output.last_hidden_state
        theirs = last.flatten(2).mean(2) if pooling.startswith("mean") else output.pooler_output.flatten(1)
        torch.testing.assert_close(encoder.embed(pixels), theirs, rtol=1e-4, atol=1e-4)
        notes: tuple[str, ...] = encoder.notes  # type: ignore[attr-defined]
        return notes
