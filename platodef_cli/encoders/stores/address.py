"""Addresses of models in stores, and the digest that pins one."""

import re
from dataclasses import dataclass
from typing import Literal

from platodef_cli.errors import UsageError

_BUCKET = re.compile(r"(s3|gs|gcs)://([A-Za-z0-9][\w.-]{1,221})((?:/[^/@?#*\[\]\0]+)*)/?", re.ASCII)
_MLFLOW = re.compile(r"models:/{1,3}([^/@\0]+)(?:/([^/@\0]+)|@([\w-]+))((?:/[\w-][\w.-]*)*)")
_PIN = re.compile(r"(.*)@sha256:([0-9A-Fa-f]*)", re.DOTALL)
SCHEMES = ("s3://", "gs://", "gcs://", "models:/")
FORMS = "s3://bucket/folder, gs://bucket/folder or models:/name/version, each with @sha256:DIGEST to pin it"


@dataclass(frozen=True)
class StoreAddress:
    """Where a model lies.

    Attributes:
        kind: Which store.
        uri: Address without the pin.
        name: Of the model in MLflow's registry; else the last folder.
        version: In MLflow's registry: a number, or an alias behind an @.
        folder: Of the model's files, inside the version.
        pin: SHA-256 that the model must have (as reports name it), hex; None: any.
    """

    kind: Literal["bucket", "mlflow"]
    uri: str
    name: str
    version: str = ""
    folder: str = ""
    pin: str | None = None

    @property
    def pinned(self) -> str:
        """The address as it was given."""
        return self.uri if self.pin is None else f"{self.uri}@sha256:{self.pin}"


def parse_address(uri: str) -> StoreAddress | None:
    """Return the address of a model in a store; None for ids of other kinds.

    Raises:
        UsageError: It begins like one, and is malformed.
    """
    if not uri.startswith(SCHEMES):
        return None
    pinned = _PIN.fullmatch(uri)
    bare, pin = (pinned[1], pinned[2].lower()) if pinned else (uri, None)
    if pin is not None and len(pin) != 64:
        raise UsageError(f"{uri!r}: a digest has 64 hex digits; give the sha256 of a report on this model")
    bucket, registry = _BUCKET.fullmatch(bare), _MLFLOW.fullmatch(bare)
    if bucket is not None and not _leads_out(bucket[3]):
        folders = bucket[3].strip("/").split("/")
        return StoreAddress("bucket", bare.rstrip("/"), folders[-1] or bucket[2], pin=pin)
    if registry is not None and not _leads_out(registry[4]):
        version = registry[2] or f"@{registry[3]}"
        return StoreAddress("mlflow", bare, registry[1], version, registry[4].strip("/"), pin)
    raise UsageError(f"{uri!r} is no address of a model in a store; give {FORMS}")


def _leads_out(path: str) -> bool:
    return any(part in ("", ".", "..") for part in path.strip("/").split("/") if path.strip("/"))
