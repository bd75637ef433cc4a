"""Bounds that a model folder has to stay within before anything of it is built."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of :func:`platodef_cli.encoders.checks.preflight.preflight` and of the meta build.

    Attributes:
        total_bytes: All files that would be read, together.
        files: Entries in the folder.
        json_bytes: One configuration file.
        json_values: Objects, lists and separators of one configuration file.
        json_depth: Nesting of one configuration file.
        header_bytes: Header of one safetensors file.
        tensors: Tensors in all weight files together.
        parameters: Elements of all tensors together.
        layers: Depth that a configuration may ask for, and the longest stack of a built model.
        dimension: Widths, heads, channels, patch sizes.
        image_size: Side of the input or of a resize, pixels.
        vocabulary: Sizes of vocabularies, position tables and label sets.
        standard_deviation: Smallest and largest value of the normalisation's ``std``, as a share of
            the pixel range.
    """

    total_bytes: int = 40 * 2**30
    files: int = 2000
    json_bytes: int = 16 * 2**20
    json_values: int = 1_000_000
    json_depth: int = 24
    header_bytes: int = 16 * 2**20
    tensors: int = 20_000
    parameters: int = 12_000_000_000
    layers: int = 200
    dimension: int = 65_536
    image_size: int = 4096
    vocabulary: int = 2_000_000
    standard_deviation: tuple[float, float] = (1e-3, 1e3)
