"""Qwen-VL models as embedding models: the last token behind an instruction, as their library computes it."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from platodef_cli.encoders.backends.last_token import PROMPT
from platodef_cli.encoders.geometry import to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UsageError
from tests.contract.encoder_models import randomise
from tests.contract.text_models import clip, made, qwen2_5_vl, qwen3_vl

MAKERS = {"qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", MAKERS)
def test_the_last_token_equals_the_library(kind: str, tmp_path: Path) -> None:
    folder = made(MAKERS[kind], tmp_path / kind)
    network = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    randomise(network)
    network.save_pretrained(folder)
    encoder = open_encoder(str(folder), pooling="last")
    assert (encoder.record.pooling, encoder.dim) == ("last token", 32)
    height, width = encoder.geometry.size
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for _ in range(3)]
    ours = encoder.embed(torch.stack([to_pixels(image, encoder.geometry) for image in images]))
    processor = transformers.AutoProcessor.from_pretrained(folder)
    for image, feature in zip(images, ours, strict=True):
        # the tiny tokenizer of the test puts <s> and </s> around a text, which those of Qwen do not
        inputs = processor(images=[image], text=[PROMPT], return_tensors="pt", add_special_tokens=False)
        with torch.no_grad():
            hidden = network.model(**inputs).last_hidden_state
        assert torch.allclose(feature, hidden[0, -1], atol=1e-4)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_without_the_option_the_vision_tower_is_taken(tmp_path: Path) -> None:
    folder = made(qwen3_vl, tmp_path / "qwen")
    assert open_encoder(str(folder)).record.pooling == "mean of image features"
    with pytest.raises(UsageError, match="only language models that read images"):
        open_encoder(str(made(clip, tmp_path / "clip")), pooling="last")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"lacks tokenizer\.json, which the prompt needs"):
        open_encoder(str(folder), pooling="last")
    assert open_encoder(str(folder)).record.pooling == "mean of image features"
