"""What a store of models offers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StoredFile:
    """One file of a model in a store.

    Attributes:
        size: Bytes; None where the store does not say it.
        identity: What tells its content from another one of the same name: an entity tag, a checksum. Empty
            where the store says nothing of the kind: such a file is downloaded each time.
    """

    size: int | None
    identity: str


class Store(Protocol):
    """A model in a store.

    Attributes:
        uri: Its address; of an alias the version that it stands for now.
    """

    uri: str

    def listed(self) -> dict[str, StoredFile]:
        """Return the files of the model's folder by name, without those of folders in it.

        Raises:
            UsageError: There is no such model.
            IncompleteError: The store does not answer.
        """

    def fetch(self, name: str, target: Path, most: int) -> None:
        """Bring one file here.

        Args:
            name: Of the file.
            target: Where to write it.
            most: Bytes after which it is none of those that were listed.

        Raises:
            IncompleteError: The store does not give it.
            RefusedError: It is longer.
        """
