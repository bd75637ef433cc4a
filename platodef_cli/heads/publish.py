"""A folder of heads that can be uploaded to a model hub as it is."""

import hashlib
import json
import re
from pathlib import Path

from platodef_cli.disk import explaining, write_atomically
from platodef_cli.errors import IncompleteError
from platodef_cli.heads.card import CARD, WEIGHTS, HeadCard, card_text
from platodef_cli.heads.find import DESCRIPTION
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import read_description, save_heads
from platodef_cli.records import EncoderRecord

README, SUMS, ATTRIBUTES = "README.md", "SHA256SUMS", ".gitattributes"
# the folders of a path on this machine, not those of hf://datasets/org/name
_LOCAL_FOLDER = re.compile(r"(?<![\w:/])(?:~|\.{1,2})?/(?:[^\s/]+/)*")


def publish_heads(directory: Path, heads: Heads, *, card: HeadCard) -> None:
    """Lay out a publishable folder: the heads, a model card with metadata, hashes, and LFS attributes.

    Names of local folders are left out of the card: they tell about the publisher's machine, and
    the digests identify the encoders.

    Args:
        directory: Folder to make or to fill; files of other names in it are left alone.
        heads: Fitted heads.
        card: What the card says of them.

    Raises:
        UsageError: The card describes other encoders than the heads were fitted on.
        IncompleteError: The folder cannot be written.
    """
    public = card.model_copy(
        update={
            "source": _without_path(card.source),
            "references": tuple(_without_path(record) for record in card.references),
            "trained_on": _LOCAL_FOLDER.sub("", card.trained_on),
        }
    )
    save_heads(directory, heads, card=public)
    description = read_description(directory)
    _write(directory / README, _metadata(public) + card_text(description) + _usage(public))
    _write(directory / ATTRIBUTES, "*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
    sums = (
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n"
        for name in (CARD, README, DESCRIPTION, WEIGHTS)
    )
    _write(directory / SUMS, "".join(sums))


def _without_path(record: EncoderRecord) -> EncoderRecord:
    """Return the record under its short name, unless it names a Hub repository or an embedded encoder."""
    if record.commit is not None or record.uri.startswith("builtin:"):
        return record
    return record.model_copy(update={"uri": record.name})


def _metadata(card: HeadCard) -> str:
    """Return the YAML front matter that model hubs read; JSON strings are valid YAML."""
    bases = [record.uri.partition("@")[0] for record in (card.source, *card.references) if record.commit]
    lines = ["---", f"license: {json.dumps(card.licence.lower())}", "library_name: platodef", "tags:"]
    lines += [f"- {tag}" for tag in ("backdoor-detection", "vision-encoder", "safetensors")]
    if bases:
        lines += ["base_model:", *(f"- {json.dumps(name)}" for name in bases)]
    return "\n".join([*lines, "---", "", ""])


def _usage(card: HeadCard) -> str:
    suspect = json.dumps(card.source.uri)
    return (
        "\n## Use\n\n```bash\nplatodef heads pull hf://ORG/NAME@COMMIT   # downloads and verifies\n"
        f"platodef audit {suspect} --head ORG/NAME@COMMIT\n```\n"
    )


def _write(path: Path, text: str) -> None:
    with explaining(f"cannot write {path}", IncompleteError):
        write_atomically(path, text.encode())
