"""Pictures of a report: what they show is what was found."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from platodef_cli.audit.steps.pictures import evidence, png, suspicious_images
from platodef_cli.audit.steps.scoring import Scored
from platodef_cli.encoders.interface import Geometry
from platodef_cli.images.interface import ImageRef
from platodef_cli.progress import SILENT
from platodef_cli.records import SearchRecord
from platodef_cli.search.additive import AdditiveTrigger
from platodef_cli.search.interface import SearchResult
from platodef_cli.search.patch import PatchTrigger
from platodef_cli.search.statistics import Effect

RECORD = SearchRecord(
    encoder="s", role="suspect", kind="patch", budget="2px", place="y 0%", steps=1, collapse=0.9, score=2.0
)


def pixels(text: str) -> torch.Tensor:
    """Return a picture of a report as uint8 ``[H, W, 3]``."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")))


def test_found_patch_beside_the_same_images_without_it() -> None:
    images = torch.randint(0, 256, (6, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    variant = PatchTrigger("patch", torch.ones(3, 2, 2), side=0.25, place=(0.0, 0.0))
    shown = evidence(SearchResult(variant, "2px", 1, Effect(0.9, 0.1, 1.0)), RECORD, images)
    assert len(shown.examples) == len(shown.originals) == 4
    trigger = pixels(shown.picture)
    assert trigger.shape == (96, 96, 3)
    assert (trigger[:24, :24] == 255).all()
    assert (trigger[24:, 24:] == 128).all()
    for image, original, changed in zip(images, shown.originals, shown.examples, strict=False):
        enlarged = image.permute(1, 2, 0).repeat_interleave(12, 0).repeat_interleave(12, 1)
        assert torch.equal(pixels(original), enlarged)
        assert (pixels(changed)[:24, :24] == 255).all()
        assert torch.equal(pixels(changed)[24:], enlarged[24:])


def test_what_is_added_to_the_whole_image_is_stretched_to_the_full_range() -> None:
    values = torch.zeros(3, 8, 8)
    values[:, 0], values[:, 1] = 2 / 255, -1 / 255
    variant = AdditiveTrigger("universal", values)
    record = RECORD.model_copy(update={"place": variant.place_text()})
    assert record.place is None
    drawn = pixels(
        evidence(
            SearchResult(variant, "2/255", 1, Effect(0.9, 0.1, 1.0)),
            record,
            torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        ).picture
    )
    assert [int(drawn[row, 0, 0]) for row in (0, 12, 24)] == [255, 64, 128]


def test_large_pictures_are_reduced_only_where_asked() -> None:
    image = torch.zeros(3, 224, 112, dtype=torch.uint8)
    assert pixels(png(image)).shape == (224, 112, 3)
    assert pixels(png(image, 96)).shape == (96, 48, 3)


class Source:
    """Images whose colour is their row."""

    classes = None
    uri = "memory"
    skipped: list[tuple[str, str]] = []
    refs = [ImageRef(id=f"image {row}", digest=f"{row:064x}", label=None) for row in range(20)]

    def open(self, index: int) -> Image.Image:
        return Image.new("RGB", (8, 8), (index, 0, 0))


def test_most_suspicious_images_with_conformal_p_values() -> None:
    calibration, test = torch.tensor([0.0, 5.0, 3.0, 3.0]), torch.tensor([9.0, 4.0, -1.0, 3.0])
    rows = {"calibration": torch.tensor([10, 11, 12, 13]), "test": torch.tensor([4, 5, 6, 7])}
    state = SimpleNamespace(
        defences=SimpleNamespace(
            deciding="platonic",
            calibration={"platonic": calibration},
            clean=Scored({"platonic": test}, test > 4),
        ),
        features=SimpleNamespace(tuples=lambda part: (None, rows[part])),
        parts=SimpleNamespace(calibration="calibration"),
        rows=rows["test"],
        inputs=SimpleNamespace(
            images=Source(), suspect=SimpleNamespace(geometry=Geometry((8, 8), 8, "bilinear"))
        ),
        recorder=SILENT,
    )
    shown = suspicious_images(state)  # type: ignore[arg-type]
    assert [(image.id, image.part) for image in shown[:3]] == [
        ("image 4", "test"), ("image 11", "calibration"), ("image 5", "test")
    ]  # fmt: skip
    # of four calibration scores none reaches 9 and one reaches 4; of the three others none reaches 5
    assert [image.p_value for image in shown[:3]] == pytest.approx([1 / 5, 1 / 4, 2 / 5])
    # equal scores: two of three others, or three of four, are as high
    assert sorted(image.p_value for image in shown if image.score == 3) == pytest.approx(
        [3 / 4, 3 / 4, 4 / 5]
    )
    for image in shown:
        assert int(pixels(image.picture)[0, 0, 0]) == int(image.id.removeprefix("image "))
    assert len(shown) == 8
