"""Several opaque squares that are shown together: the trigger of a backdoor with parts."""

from dataclasses import dataclass

from torch import Tensor

from platodef_cli.triggers.triggers import Patch
from platodef_cli.triggers.variant import check, check_pixels, number


@dataclass(frozen=True)
class Patches:
    """Squares of random colours at several places, together (Lin et al. 2020, Composite Backdoor Attack).

    Attributes:
        side: Side of each square as a fraction of the image's side.
        places: Names of :data:`platodef_cli.triggers.variant.PLACES`, joined by ``+``.
        seed: Draws the colours; every square has its own.
    """

    side: float = 5 / 32
    places: str = "top-left+bottom-right"
    seed: int = 0

    def __post_init__(self) -> None:
        given = self.places.split("+")
        check(
            len(set(given)) == len(given) > 1,
            "patches",
            f"places={self.places!r} must be two or more different ones",
        )
        self.parts()

    @property
    def name(self) -> str:
        """``patches-SIDE-PLACES-SEED``."""
        return f"patches-{number(self.side)}-{self.places}-{self.seed}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Paste the squares; see :class:`platodef_cli.features.interface.Variant`."""
        check_pixels(pixels)
        for part in self.parts():
            pixels = part(pixels, seeds)
        return pixels

    def parts(self) -> tuple[Patch, ...]:
        """Return the squares alone."""
        # room between the seeds: neighbours' seeds shall not share squares
        return tuple(
            Patch("random", self.side, place, 1000 * self.seed + position)
            for position, place in enumerate(self.places.split("+"))
        )
