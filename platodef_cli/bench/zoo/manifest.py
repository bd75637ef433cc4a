"""A built zoo on disk: its manifest and its finished encoders."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from platodef_cli.bench.zoo.card import ZooCard, read_card
from platodef_cli.bench.zoo.making import encoder_folder
from platodef_cli.disk import write_atomically
from platodef_cli.errors import UsageError
from platodef_cli.records import Record

MANIFEST = "zoo.json"


class Planned(Record):
    """One encoder of the plan."""

    name: str
    truth: Literal["clean", "backdoored"]
    digest: str = Field(description="see ZooCard.digest")


class Manifest(Record):
    """``zoo.json``."""

    schema_version: str = "1.0"
    recipe: str
    images: str
    seed: int
    device: str = "cpu"
    classes: tuple[str, ...]
    encoders: tuple[Planned, ...]


@dataclass(frozen=True)
class Zoo:
    """The finished encoders of a folder.

    Attributes:
        root: The folder.
        manifest: What was planned.
        cards: Finished encoders by name, in the order of the plan.
    """

    root: Path
    manifest: Manifest
    cards: dict[str, ZooCard]

    def folder(self, name: str) -> Path:
        """Return the folder of an encoder."""
        return encoder_folder(self.root, name)

    @property
    def references(self) -> list[ZooCard]:
        """The trusted encoders."""
        return [card for card in self.cards.values() if card.role == "reference"]

    @property
    def planted(self) -> list[ZooCard]:
        """The backdoored encoders."""
        return [card for card in self.cards.values() if card.truth == "backdoored"]


def open_zoo(root: Path) -> Zoo:
    """Open a zoo; encoders that are not finished are left out.

    Raises:
        UsageError: There is no zoo, its manifest is damaged, or no encoder is finished.
    """
    manifest = read_manifest(root)
    if manifest is None:
        raise UsageError(
            f"{root} holds no zoo ({MANIFEST} is missing); build one with platodef bench zoo build"
        )
    cards = {}
    for planned in manifest.encoders:
        folder = encoder_folder(root, planned.name)
        if folder.is_dir():
            card = read_card(folder)
            if card.digest == planned.digest:
                cards[planned.name] = card
    if not cards:
        raise UsageError(f"{root} holds no finished encoder; finish it with platodef bench zoo build")
    return Zoo(root, manifest, cards)


def read_manifest(root: Path) -> Manifest | None:
    """Return the manifest of a folder, or None where there is none.

    Raises:
        UsageError: It is damaged.
    """
    path = root / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise UsageError(
            f"{path} is damaged ({error.error_count()} errors); build into another folder"
        ) from None


def manifest_text(manifest: Manifest) -> str:
    """Return ``zoo.json``."""
    return json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest."""
    write_atomically(root / MANIFEST, manifest_text(manifest).encode())
