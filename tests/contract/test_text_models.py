"""Text towers and captioners give what their own library gives, and unsafe ones are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from platodef_cli.errors import RefusedError, UnsupportedError, UsageError
from platodef_cli.features.text_references import described
from platodef_cli.images.shapes import ShapesSource
from platodef_cli.texts.caption_store import CaptionStore, read_lines
from platodef_cli.texts.captioner import PROMPT, Captioner, open_captioner
from platodef_cli.texts.tower import open_text
from tests.contract.encoder_models import open_clip_model
from tests.contract.text_models import CAPTIONERS, TOWERS, made

SENTENCES = ["A photo of a circle", "the star is big, and red", "a red square on the left of it all!"]
LONG = "the star is big " * 40

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("text")
    return {name: made(make, root / name) for name, make in {**TOWERS, **CAPTIONERS}.items()}


@pytest.mark.parametrize("name", TOWERS)
def test_text_towers_equal_their_library(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    tower = open_text(f"text:{folder}")
    assert (tower.record.name, tower.record.reads_text) == (f"{name}-text", True)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padded, length = name != "clip", 24 if name == "clip" else 64
    for sentence in (*SENTENCES, LONG):
        # what the processors of SigLIP do to a text before they look for tokens
        text = sentence.lower() if padded else sentence
        text = "".join(c for c in text if name != "siglip" or c not in ",!.")
        found = tokenizer(
            text,
            return_tensors="pt",
            padding="max_length" if padded else False,
            max_length=length,
            truncation=True,
        )
        wanted = {"input_ids": found["input_ids"]}
        if not padded:
            wanted["attention_mask"] = found["attention_mask"]
        with torch.no_grad():
            features = model.get_text_features(**wanted)
        features = features if isinstance(features, torch.Tensor) else features.pooler_output
        expected = torch.nn.functional.normalize(features, dim=1)
        assert torch.allclose(tower.embed([sentence]), expected, atol=1e-5)
    together = tower.embed([*SENTENCES, LONG])
    assert torch.allclose(
        together, torch.cat([tower.embed([text]) for text in (*SENTENCES, LONG)]), atol=1e-6
    )
    assert together.norm(dim=1).allclose(torch.ones(4))


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("name", CAPTIONERS)
def test_captioners_equal_their_library_alone_and_in_batches(folders: dict[str, Path], name: str) -> None:
    folder = folders[name]
    captioner = open_captioner(str(folder))
    images = pictures()
    alone = [captioner.caption([image])[0] for image in images]
    assert captioner.caption(images) == alone
    assert captioner.prompt == ("" if name == "blip" else PROMPT)
    assert captioner.digest[:12] in captioner.statement
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    for image, ours in zip(images, alone, strict=True):
        start = 0
        if name == "blip":
            inputs = processor(images=[image], return_tensors="pt")
        else:
            asked = [{"type": "image", "image": image}, {"type": "text", "text": PROMPT}]
            inputs = processor.apply_chat_template(
                [{"role": "user", "content": asked}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
            start = inputs["input_ids"].shape[1]
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        theirs = processor.batch_decode(tokens[:, start:], skip_special_tokens=True)[0]
        assert ours == " ".join(theirs.split())


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_unsafe_or_unfit_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="has no text tower"):
        open_text(f"text:{folders['mllama']}")
    with pytest.raises(UnsupportedError, match="no image-text-to-text model"):
        open_captioner(str(folders["clip"]))
    bare = copied(folders["clip"], tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"lacks tokenizer\.json"):
        open_text(f"text:{bare}")
    broken = copied(folders["clip"], tmp_path / "broken")
    (broken / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(RefusedError, match=r"tokenizer\.json: malformed"):
        open_text(f"text:{broken}")
    lacking = copied(folders["clip"], tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    weights.pop("text_model.final_layer_norm.weight")
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(RefusedError, match="lacks the weight 'text_model.final_layer_norm.weight'"):
        open_text(f"text:{lacking}")
    pickled = copied(folders["blip"], tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(RefusedError, match="a format that can run code"):
        open_captioner(str(pickled))
    code = copied(folders["gemma3"], tmp_path / "code")
    config = json.loads((code / "processor_config.json").read_text())
    config["auto_map"] = {"AutoProcessor": "evil.Evil"}
    (code / "processor_config.json").write_text(json.dumps(config))
    (code / "evil.py").write_text("raise SystemExit('ran')")
    open_captioner(str(code))  # transformers has the class itself: nothing of the code is needed, or runs
    config["processor_class"] = "EvilProcessor"
    (code / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="auto_map"):
        open_captioner(str(code))


def test_a_chat_template_runs_in_the_sandbox(folders: dict[str, Path], tmp_path: Path) -> None:
    evil = copied(folders["gemma3"], tmp_path / "evil")
    mark = tmp_path / "ran"
    (evil / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch "
        + str(mark)
        + "') }}"
    )
    with pytest.raises(RefusedError, match="leaves the sandbox of templates"):
        open_captioner(str(evil)).caption(pictures(1))
    assert not mark.exists()


class Counted:
    """A captioner that counts, and may fail."""

    def __init__(self, captioner: Captioner, most: int):
        self._captioner, self.left = captioner, most
        self.name, self.statement = captioner.name, captioner.statement

    def caption(self, images: list[Image.Image]) -> list[str]:
        if self.left < len(images):
            raise KeyboardInterrupt
        self.left -= len(images)
        return self._captioner.caption(images)


def test_an_interrupted_run_goes_on_where_it_stopped(folders: dict[str, Path], tmp_path: Path) -> None:
    captioner, source = open_captioner(str(folders["blip"])), ShapesSource(seed=3, count=10)
    path = tmp_path / "captions" / "x.jsonl"
    with pytest.raises(KeyboardInterrupt):
        described(source, CaptionStore(Counted(captioner, 7), path), batch_size=2)
    assert len(read_lines(path)) == 6
    with path.open("ab") as stream:
        stream.write(b'{"caption": "cut sho')  # as a killed process leaves it
    rest = Counted(captioner, 4)
    found = described(source, CaptionStore(rest, path), batch_size=2)
    assert rest.left == 0
    assert found.rows == described(source, CaptionStore(captioner, None), batch_size=3).rows
    assert captioner.statement in found.origin


@pytest.mark.parametrize("custom", [False, True])
def test_text_towers_of_open_clip_equal_encode_text(tmp_path: Path, custom: bool) -> None:
    import open_clip

    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    folder = tmp_path / "clip"
    open_clip_model(folder, text_cfg=text, custom_text=custom)
    tower = open_text(f"text:{folder}")
    network = open_clip.create_model_from_pretrained(f"local-dir:{folder}", weights_only=True)[0].eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([*SENTENCES, LONG])
    with torch.no_grad():
        expected = network.encode_text(tokens, normalize=True)
    assert torch.allclose(tower.embed([*SENTENCES, LONG]), expected, atol=1e-5)
    assert tower.record.parameters < sum(p.numel() for p in network.parameters())
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "org/name"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="needs 'org/name'"):
        open_text(f"text:{folder}")
