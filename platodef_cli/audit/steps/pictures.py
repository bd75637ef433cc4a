"""Pictures in a report: the trigger that was found, and the clean images that look most suspicious."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from platodef_cli.audit.state import AuditState
from platodef_cli.defences.calibrate import conformal_pvalues
from platodef_cli.features.extract import load_pixels
from platodef_cli.records import FoundTrigger, SearchRecord, SuspiciousImage
from platodef_cli.search.interface import SearchResult

EXAMPLES = 4  # images that show a found trigger
_SUSPICIOUS = 8  # clean images with the highest scores
_SHOWN = 96  # side that small pictures are enlarged to, pixels
LARGEST = {"example": 160, "thumbnail": 96}  # side that larger pictures are reduced to, pixels


def evidence(result: SearchResult, record: SearchRecord, pixels: Tensor) -> FoundTrigger:
    """Return the found trigger as pictures: alone, and on example images ``[n, 3, H, W]``."""
    originals = pixels[:EXAMPLES]
    examples = result.variant(originals, torch.zeros(len(originals), dtype=torch.int64))
    return FoundTrigger(
        kind=result.variant.kind,
        budget=result.budget,
        place=record.place,
        picture=png(result.variant.picture(*pixels.shape[-2:])),
        examples=tuple(png(image, LARGEST["example"]) for image in examples),
        originals=tuple(png(image, LARGEST["example"]) for image in originals),
    )


def suspicious_images(state: AuditState) -> tuple[SuspiciousImage, ...]:
    """Return the calibration and test images that the deciding detector scores highest, highest first.

    The p-value of a test image is conformal; that of a calibration image leaves the image itself out.
    """
    name = state.defences.deciding
    calibration, test = state.defences.calibration[name], state.defences.clean.scores[name]
    # an image is as high as itself: without it both counts of the fraction are one less
    n = len(calibration)
    own = (conformal_pvalues(calibration, calibration) * (n + 1) - 1) / n
    scores = torch.cat([calibration, test])
    p_values = torch.cat([own, conformal_pvalues(calibration, test)])
    rows = torch.cat([state.features.tuples(state.parts.calibration)[1], state.rows])
    top = scores.argsort(descending=True, stable=True)[:_SUSPICIOUS]
    chosen = [int(row) for row in rows[top]]
    geometry = state.inputs.suspect.geometry
    pixels = load_pixels(state.inputs.images, [geometry], chosen, state.recorder)[geometry]
    return tuple(
        SuspiciousImage(
            id=state.inputs.images.refs[row].id,
            part="calibration" if place < n else "test",
            detector=name,
            score=round(float(scores[place]), 6),
            p_value=round(float(p_values[place]), 6),
            picture=png(image, LARGEST["thumbnail"]),
        )
        for place, row, image in zip(top.tolist(), chosen, pixels, strict=True)
    )


def png(image: Tensor, largest: int | None = None) -> str:
    """Return pixels uint8 ``[3, H, W]`` as PNG in base64.

    Small pictures are enlarged by a whole factor without blurring, those with a side over ``largest``
    reduced to it.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    factor = max(1, _SHOWN // max(picture.size))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if largest is not None:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
