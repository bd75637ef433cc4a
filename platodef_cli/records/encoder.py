"""What was examined: files, encoders, images."""

from typing import Literal

from pydantic import Field

from platodef_cli.records.base import Record


class FileRecord(Record):
    """One file whose bytes were really read."""

    path: str = Field(description="path inside the model folder, with forward slashes")
    sha256: str
    bytes: int


class TransformRecord(Record):
    """Preprocessing of an encoder, completely; its JSON is hashed into the feature cache key."""

    size: tuple[int, int] = Field(description="input height and width, pixels")
    resize: tuple[int, int] | int = Field(description="(height, width), or the shorter side before the crop")
    interpolation: str
    fill: int | tuple[int, int, int] = 0
    fit: Literal["exact", "cover", "contain"] = Field(
        "exact", description="stretched to a pair `resize`, or aspect ratio kept"
    )
    crop: Literal["round", "floor"] = Field("round", description="where an odd margin of the crop goes")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


TEXT_TOWER = "text tower"
"""Pooling of an encoder that reads sentences about images in place of their pixels."""


class EncoderRecord(Record):
    """Identity and provenance of an encoder."""

    name: str = Field(description="short name used in tables and feature files")
    uri: str = Field(description="what the user asked for, e.g. org/name@revision or a folder")
    backend: str = Field(description="timm, open_clip or transformers")
    architecture: str
    commit: str | None = Field(description="Hub commit, or None for a local folder")
    dim: int
    parameters: int
    pooling: str
    dtype: str
    transform: TransformRecord
    files: tuple[FileRecord, ...]
    digest: str = Field(description="SHA-256 over the sorted (path, sha256) pairs of all files read")
    isolated: bool = Field(description="ran in a child process with a memory limit and without a token")

    @property
    def reads_text(self) -> bool:
        """Whether it reads sentences about images in place of their pixels."""
        return self.pooling == TEXT_TOWER


class ImageSetRecord(Record):
    """The images of an audit."""

    uri: str
    count: int
    classes: tuple[str, ...] | None
    digest: str = Field(description="SHA-256 over the image digests in order")
    skipped: tuple[tuple[str, str], ...] = Field(description="(image id, reason) of unusable images")
    fit: int = Field(0, description="images that the heads were fitted on (0 with a ready head)")
    calibration: int = 0
    test: int = 0
