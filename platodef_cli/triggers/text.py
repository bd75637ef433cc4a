"""The text trigger: a word in block letters, drawn from a built-in font so that pixels never change."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.triggers.variant import check, check_place, corners, number, paste, to_bytes, to_unit

# 3 x 5 cells per letter, five rows of three bits from the top.
_FONT = {
    **{"A": 0o25755, "B": 0o65656, "C": 0o34443, "D": 0o65556, "E": 0o74647, "F": 0o74644, "G": 0o34553},
    **{"H": 0o55755, "I": 0o72227, "J": 0o11152, "K": 0o55655, "L": 0o44447, "M": 0o57755, "N": 0o65555},
    **{"O": 0o25552, "P": 0o65644, "Q": 0o25563, "R": 0o65655, "S": 0o34216, "T": 0o72222, "U": 0o55557},
    **{"V": 0o55552, "W": 0o55775, "X": 0o55255, "Y": 0o55222, "Z": 0o71247},
}


_LEAST = 5  # pixels of height in which letters of five rows can be told apart


@lru_cache(maxsize=64)
def _bitmap(word: str) -> Tensor:
    """Return a word as 0/1 cells ``[5, 4 * letters - 1]``."""
    rows = ["0".join(f"{_FONT[letter] >> (3 * (4 - row)) & 7:03b}" for letter in word) for row in range(5)]
    return torch.tensor([[float(bit) for bit in row] for row in rows])


@dataclass(frozen=True)
class Text:
    """A word in white block letters, like a caption or a typographic attack.

    Attributes:
        word: Letters A–Z.
        height: Height of the letters as a fraction of the image's; the word is at most 0.94 wide.
        place: A name of :data:`platodef_cli.triggers.variant.PLACES`.
        alpha: Opacity.
    """

    word: str = "SALE"
    height: float = 0.25
    place: str = "bottom"
    alpha: float = 0.9

    def __post_init__(self) -> None:
        check_place(self.place)
        check(bool(self.word) and set(self.word) <= set(_FONT), "text", f"word={self.word!r} must be A-Z")
        check(0 < self.height <= 1, "text", f"height={self.height} must be a fraction in (0, 1]")
        check(0 < self.alpha <= 1, "text", f"alpha={self.alpha} must be in (0, 1]")

    @property
    def name(self) -> str:
        """``text-WORD-HEIGHT-PLACE-ALPHA``."""
        return f"text-{self.word}-{number(self.height)}-{self.place}-{number(self.alpha)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Write the word; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        tall = int(pixels.shape[-2])
        room = f"an image {tall} pixels high has no room for letters; give one of at least {_LEAST}"
        check(tall >= _LEAST, "text", room)
        cells = _bitmap(self.word)
        height = max(_LEAST, round(self.height * tall))
        width = min(round(height / 5 * cells.shape[1]), round(0.94 * pixels.shape[-1]))
        letters = F.interpolate(cells[None, None], (height, width), mode="area")[0]
        ink = paste(
            torch.zeros_like(pixels),
            to_bytes(letters.expand(3, -1, -1)),
            corners(self.place, (height, width), pixels, seeds),
        )
        return to_bytes(unit + (1 - unit) * (self.alpha * to_unit(ink)))
