"""What is shared by the searches for something that is added to the whole image."""

from typing import TYPE_CHECKING

from platodef_cli.search.interface import SearchedTrigger

if TYPE_CHECKING:
    from torch import Tensor


class AdditiveTrigger(SearchedTrigger):
    """A change of the whole image; ``values`` are added to pixels in [0, 1]."""

    def __call__(self, pixels: "Tensor", seeds: "Tensor") -> "Tensor":
        """Add the change, scaled to the size of the images."""
        from platodef_cli.triggers.variant import resize, to_bytes, to_unit

        return to_bytes(to_unit(pixels) + resize(self.values, *pixels.shape[-2:]).to(pixels.device))

    def picture(self, height: int, width: int) -> "Tensor":
        """Return the change itself around mid-grey, without the rounding of images."""
        from platodef_cli.triggers.variant import to_bytes

        bound = self.values.abs().max().clamp_min(1e-6)
        return to_bytes(0.5 + 0.5 * self.values[None] / bound)[0]
