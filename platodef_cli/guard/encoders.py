"""The suspect and its references, opened for a guard: images become the features that its heads know."""

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from platodef_cli.encoders.interface import Encoder, Geometry, to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.pooling import POOLINGS
from platodef_cli.encoders.precision import AUTOCAST
from platodef_cli.encoders.reference import parse
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import check_match
from platodef_cli.images.decode import decode
from platodef_cli.records import EncoderRecord

Picture = Image.Image | Tensor | bytes | str | Path
"""A picture of Pillow, uint8 ``[3, H, W]``, an encoded image, or the path of one."""


class GuardEncoders:
    """The encoders of some heads.

    Args:
        suspect: The encoder that the heads judge.
        references: Name -> reference.
    """

    def __init__(self, suspect: Encoder, references: Mapping[str, Encoder]):
        self.suspect, self.references = suspect, dict(references)
        self._locks = {id(encoder): threading.Lock() for encoder in (suspect, *references.values())}

    @classmethod
    def open(
        cls,
        heads: Heads,
        *,
        suspect: str | None = None,
        references: Mapping[str, str] | None = None,
        isolate: bool = True,
        device: str = "cpu",
        **options: Any,
    ) -> "GuardEncoders":
        """Open the encoders that heads were fitted for, and check that they are those.

        Args:
            heads: Loaded heads; their card names the encoders.
            suspect: Where the suspect is; None takes the id on the card.
            references: Name -> where a reference is, for those that are elsewhere than the card says.
            isolate: Run the suspect in a process of its own, without network and token.
            device: Of all encoders.
            options: Further ones of :func:`platodef_cli.encoders.load.open_encoder`.

        Raises:
            UsageError: The heads do not say whose they are, or an encoder is another one.
            PlatodefError: An encoder cannot be opened.
        """
        if heads.card is None:
            raise UsageError("these heads do not name their encoders; give features instead of images")
        records = {record.name: record for record in heads.card.references}
        unknown = sorted(set(references or {}) - set(records))
        if unknown:
            raise UsageError(f"these heads have no reference {unknown[0]!r}; they have {', '.join(records)}")
        opened: dict[str, Encoder] = {}
        judged: Encoder | None = None
        try:
            for name, record in records.items():
                place = (references or {}).get(name) or _pinned(record)
                opened[name] = _open(place, record, device=device, **options)
            source = heads.card.source
            judged = _open(suspect or _pinned(source), source, device=device, isolate=isolate, **options)
            check_match(heads, judged.record, [encoder.record for encoder in opened.values()])
        except BaseException:
            for encoder in (*opened.values(), *([] if judged is None else [judged])):
                encoder.close()
            raise
        return cls(judged, opened)

    def features(self, pictures: Sequence[Picture] | Tensor) -> FeatureTuples:
        """Return the features of pictures; each is decoded once, and resized once for every geometry.

        Raises:
            ImageError: A picture cannot be used.
            UsageError: Something is no picture.
            IncompleteError: An encoder failed.
        """
        images = [as_image(picture, number) for number, picture in enumerate(pictures)]
        pixels: dict[Geometry, Tensor] = {}
        rows: dict[str, Tensor] = {}
        for name, encoder in {"": self.suspect, **self.references}.items():
            if not images:
                rows[name] = torch.zeros(0, encoder.dim)
                continue
            if encoder.geometry not in pixels:
                pixels[encoder.geometry] = torch.stack(
                    [to_pixels(image, encoder.geometry) for image in images]
                )
            # an encoder talks to its process, or fills buffers, for one caller at a time
            with self._locks[id(encoder)]:
                rows[name] = encoder.embed(pixels[encoder.geometry]).float()
            if rows[name].shape != (len(images), encoder.dim):
                raise IncompleteError(
                    f"encoder {encoder.record.name!r} gave features {list(rows[name].shape)}"
                )
        return FeatureTuples(rows.pop(""), rows)

    def close(self) -> None:
        """Free the encoders, and the process of the suspect."""
        for encoder in (self.suspect, *self.references.values()):
            encoder.close()


def _open(place: str, record: EncoderRecord, **options: Any) -> Encoder:
    """Open an encoder as it was when the heads were fitted: in its precision, with its pooling."""
    options |= {"name": record.name, "dtype": "float32" if record.dtype == AUTOCAST else record.dtype}
    encoder = open_encoder(place, **options)
    chosen = {pooling: name for name, pooling in POOLINGS.items() if pooling}.get(record.pooling)
    if encoder.record.pooling != record.pooling and chosen is not None:
        # what an encoder without a pooling of its own gives was chosen by --pooling
        encoder.close()
        encoder = open_encoder(place, pooling=chosen, **options)
    if record.dtype == AUTOCAST:
        encoder.tune(forward_dtype="bfloat16")
    return encoder


def _pinned(record: EncoderRecord) -> str:
    """Return the id of an encoder at the commit at which the heads were fitted."""
    if record.commit is None:
        return record.uri
    return parse(record.uri.partition("@")[0]).at(record.commit)


def as_image(picture: Picture, number: int = 0) -> Image.Image:
    """Return a picture in RGB.

    Raises:
        ImageError: It cannot be decoded.
        UsageError: It is no picture, or its file cannot be read.
    """
    name = f"picture {number}"
    if isinstance(picture, Image.Image):
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    if isinstance(picture, str | Path):
        try:
            return decode(Path(picture).read_bytes(), str(picture))
        except OSError as error:
            raise UsageError(f"cannot read the image {picture}: {error.strerror or error}") from None
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode(bytes(picture), name)
    if isinstance(picture, Tensor):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape:
            kind = f"{picture.dtype} {list(picture.shape)}"
            raise UsageError(f"{name} is {kind}; give uint8 [3, H, W], before any normalisation")
        return Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    if isinstance(picture, io.IOBase):
        return decode(picture.read(), name)
    raise UsageError(
        f"{name} is a {type(picture).__name__}; give pictures of Pillow, uint8 tensors, bytes or paths"
    )
