"""What a reader of published heads needs to know about them."""

from platodef_cli.records import EncoderRecord, Record


class HeadCard(Record):
    """What a reader of a published head needs to know.

    Attributes:
        name: Name of the head.
        source: The suspect that the heads judge.
        references: The references, in the order of the heads.
        trained_on: The images, in words, with a digest where there is one.
        licence: SPDX identifier of the head's licence.
        notes: Anything else: intended use, limits, the command that made it.
    """

    name: str
    source: EncoderRecord
    references: tuple[EncoderRecord, ...]
    trained_on: str
    licence: str = "Apache-2.0"
    notes: str = ""
