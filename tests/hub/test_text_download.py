"""Text towers and captioners from the Hub: their tokenizers and templates come with the weights."""

from pathlib import Path

import pytest
from PIL import Image

from platodef_cli.errors import HubError
from platodef_cli.texts.captioner import open_captioner
from platodef_cli.texts.tower import open_text
from tests.contract.text_models import clip, made, qwen3_vl
from tests.hub.server import HubServer

pytestmark = pytest.mark.filterwarnings("ignore")


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_text_tower_comes_with_its_tokenizer(hub: HubServer, tmp_path: Path) -> None:
    files = files_of(made(clip, tmp_path / "clip"))
    more = {"pytorch_model.bin": b"\x80\x02 a pickle", "tokenizer.model": b"unread"}
    commit = hub.commit("org/both", {**files, **more})
    tower = open_text("text:org/both")
    assert (tower.record.commit, tower.record.uri) == (commit, "text:org/both")
    read = {record.path for record in tower.record.files}
    assert read >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not any(".bin" in path or "tokenizer.model" in path for _, path in hub.requests)
    asked = len(hub.requests)
    again = open_text(f"text:org/both@{commit}", offline=True)
    assert again.record.digest == tower.record.digest
    assert len(hub.requests) == asked
    assert again.embed(["a star"]).equal(tower.embed(["a star"]))


def test_folders_of_a_repository_and_what_is_not_cached(hub: HubServer, tmp_path: Path) -> None:
    files = files_of(made(clip, tmp_path / "clip"), "inner/")
    hub.commit("org/deep", files)
    assert open_text("text:org/deep/inner").record.name == "inner-text"
    with pytest.raises(HubError, match="not completely in the local cache"):
        open_text("text:org/other", offline=True)


def test_a_captioner_comes_with_its_template(hub: HubServer, tmp_path: Path) -> None:
    files = files_of(made(qwen3_vl, tmp_path / "qwen"))
    assert "chat_template.jinja" in files
    commit = hub.commit("org/writer", files)
    captioner = open_captioner("org/writer")
    assert captioner.commit == commit
    assert commit in captioner.statement
    assert captioner.digest == open_captioner(str(tmp_path / "qwen")).digest
    assert captioner.caption([Image.new("RGB", (40, 40))]) != [""]
