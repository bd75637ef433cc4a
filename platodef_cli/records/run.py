"""How one audit of many ended: what ``platodef audit-many`` keeps beside every report."""

from typing import Literal

from pydantic import Field

from platodef_cli.records.base import Record

RUN_SUFFIX = ".run.json"
"""How the names of files with a :class:`RunRecord` end."""

UNREACHED = ".unreached"
"""Folder beside reports: a file of the first part of their names says that the last run did not get there."""


class InputState(Record):
    """A folder or file that an audit depends on, as it was."""

    path: str
    stamp: str = Field(description="SHA-256 over names, sizes and times; while it stays, nothing is read")
    digest: str = Field(description="SHA-256 over names and contents")


class RunRecord(Record):
    """One finished audit of a list."""

    kind: Literal["platodef-run"] = "platodef-run"
    version: Literal[1] = 1
    name: str = Field(description="first part of the names of its files")
    model: str
    key: str = Field(
        description="SHA-256 of everything that the result depends on; another one is audited again"
    )
    commit: str | None = Field(
        None, description="on the Hub; null for folders, and where it was not asked for"
    )
    exit_code: int
    summary: str = Field(description="its last line on stderr")
    files: dict[str, str] = Field(description="file name -> SHA-256 of the reports that it wrote")
    inputs: tuple[InputState, ...] = ()
    started: str
    seconds: float
    tool_version: str
