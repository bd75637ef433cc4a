"""From measurements to a verdict with reasons. Pure functions of records: no torch, no files, no clock."""

from platodef_cli.audit.verdict.judge import Gate, judge, judge_again
from platodef_cli.audit.verdict.measurements import Measurements

__all__ = ["Gate", "Measurements", "judge", "judge_again"]
