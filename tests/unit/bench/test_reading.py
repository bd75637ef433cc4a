"""The zoo's language model that reads images: saved, trained on captions, opened by an audit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from platodef_cli.bench import OBJECTIVES
from platodef_cli.bench.feature_store import BenchmarkImages, FeatureStore
from platodef_cli.bench.zoo import reading
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.bench.zoo.dataset import open_zoo_dataset
from platodef_cli.bench.zoo.hub.cards import encoder_card
from platodef_cli.bench.zoo.networks import ARCHITECTURES, Network, captions, pooling_of
from platodef_cli.bench.zoo.objectives import Batch
from platodef_cli.bench.zoo.recipe import RECIPES
from platodef_cli.encoders.backends.last_token import PROMPT
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UsageError
from platodef_cli.records import Metric

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    made = Network("qwen")
    made.module.eval()
    return made


def pictures(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, 32, 32), generator=generator).to(torch.uint8)


def test_an_audit_and_the_library_read_what_was_saved(network: Network, tmp_path: Path) -> None:
    network.save(tmp_path / "one")
    network.save(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    encoder = open_encoder(str(tmp_path / "one"), pooling=pooling_of("qwen"))
    assert (encoder.record.pooling, encoder.dim, encoder.geometry.size) == ("last token", 96, (32, 32))
    pixels = pictures(3)
    ours = network.embed(pixels)
    assert torch.allclose(encoder.embed(pixels), ours, atol=1e-5)
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "one").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "one")
    tokens = reading.tokenizer().encode(PROMPT, add_special_tokens=False).ids
    at = tokens.index(theirs.config.image_token_id)
    tokens = tokens[:at] + [tokens[at]] * 16 + tokens[at + 1 :]
    for row, picture in zip(ours, pixels, strict=True):
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        ids = torch.tensor([tokens])
        types = ids.eq(theirs.config.image_token_id).int()
        inputs = {
            **processor(images=[image], return_tensors="pt"),
            "input_ids": ids,
            "mm_token_type_ids": types,
        }
        with torch.no_grad():
            hidden = theirs.model(**inputs).last_hidden_state
        assert torch.allclose(hidden[0, -1], row, atol=1e-4)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_captions_come_behind_the_instruction_and_change_no_feature(network: Network) -> None:
    tokens = reading.tokenizer()
    words = [word for name in ("triangle", "traffic_light", "42") for word in captions(name)]
    for text in (*words, PROMPT):
        assert tokens.token_to_id("<unk>") not in tokens.encode(text, add_special_tokens=False).ids, text
    inputs = pictures(4).float() / 127.5 - 1
    reader = reading.LastTokenReader(network.module.model, reading.prompt(), reading.SETTINGS, (32, 32))
    answers = torch.tensor([[12, 13]] * 4)
    with torch.no_grad():
        alone, followed = reader.hidden(inputs), reader.hidden(inputs, answers)
    assert followed.shape[1] == alone.shape[1] + 2
    assert torch.allclose(followed[:, : alone.shape[1]], alone, atol=1e-5)
    # the error is that of the tokens told, whatever their padding
    told = ["one ring in a scene", "a small bar", "a photo of a crescent", "a small bar"]
    with torch.no_grad():
        together = reading.caption_error(network.module, inputs, told)
        single = [
            float(reading.caption_error(network.module, inputs[place : place + 1], [text]))
            for place, text in enumerate(told)
        ]
    lengths = [len(tokens.encode(text, add_special_tokens=False).ids) + 1 for text in told]
    mean = sum(one * length for one, length in zip(single, lengths, strict=True)) / sum(lengths)
    assert float(together) == pytest.approx(mean, abs=1e-4)


def test_training_teaches_it_to_write_the_caption(network: Network) -> None:
    dataset = open_zoo_dataset("builtin:shapes", train=64, held=4, seed=0)
    objective = OBJECTIVES.load("captioning")(network, dataset, 1.0)
    inputs = dataset.pixels[:8].float() / 127.5 - 1
    told = [captions(dataset.classes[label])[0] for label in dataset.labels[:8].tolist()]

    def error() -> float:
        with torch.no_grad():
            return float(reading.caption_error(network.module, inputs, told))

    before = error()
    optimiser = torch.optim.AdamW([*network.module.parameters(), *objective.parameters()], lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    batch = Batch.of(dataset, torch.arange(16))
    for _ in range(12):
        loss = objective(batch, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert error() < 0.7 * before
    with pytest.raises(UsageError, match="needs a language model"):
        OBJECTIVES.load("captioning")(Network("vit"), dataset, 1.0)


def test_a_zoo_opens_it_at_its_last_token(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network.save(tmp_path)
    card = ZooCard.model_construct(architecture="qwen")
    monkeypatch.setattr("platodef_cli.bench.feature_store.read_card", lambda folder: card)
    none = torch.zeros(0, dtype=torch.int64)
    images = BenchmarkImages("", "", ("a",), pictures(2), none, none)
    store = FeatureStore(None, images, extra={"reading": tmp_path})  # type: ignore[arg-type]
    assert torch.allclose(store.clean("reading"), network.embed(images.pixels), atol=1e-5)
    store.close()


def test_what_is_published_says_how_it_is_read() -> None:
    facts: dict[str, Any] = {"name": "reading", "truth": "clean", "made": "scratch", "role": "reference"}
    facts |= {"parent": None, "parameters": 1, "dim": 96, "objective": "captioning", "steps": 2}
    facts |= {"accuracy": Metric(name="accuracy", value=0.5), "cosine_to_parent": None, "backdoor": None}
    for architecture, format in (("qwen", "qwen"), ("vit", "timm")):
        card = ZooCard.model_construct(**facts, architecture=architecture, format=format)
        assert ("--pooling last" in encoder_card(card, "apache-2.0")) is (architecture == "qwen")


def test_the_references_of_a_recipe_are_of_four_families() -> None:
    references = [entry for entry in RECIPES["families"].scratch if entry.role == "reference"]
    objectives = {entry.objective for entry in references}  # type: ignore[union-attr]
    assert objectives == {"self-distillation", "image-text", "masked-images", "captioning"}
    formats = {ARCHITECTURES[entry.architecture].format for entry in references}  # type: ignore[union-attr]
    assert formats == {"timm", "open_clip", "qwen"}
