"""The pieces that a report for people is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of a grid: numbers are right-aligned and never wrapped."""

    title: str
    numeric: bool = True


@dataclass(frozen=True)
class Grid:
    """A table; ``alarms`` holds the indices of the rows that crossed a limit."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    alarms: frozenset[int] = frozenset()


@dataclass(frozen=True)
class KeyValueTable:
    """Pairs of a label and a text; an empty label continues the pair above."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """Lines of fixed-width text."""

    lines: tuple[str, ...]


Block = Grid | KeyValueTable | Bullets | Drawing


@dataclass(frozen=True)
class Section:
    """A titled part of the report; a section without blocks is left out.

    Attributes:
        title: Heading.
        note: A sentence under it.
        blocks: What it shows.
        key: Stable name by which a format finds the section to add pictures; empty where none does.
    """

    title: str
    note: str
    blocks: tuple[Block, ...]
    key: str = ""
