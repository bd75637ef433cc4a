"""Reading what the package carries for audits: measurements that its own commands wrote."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from platodef_cli.errors import IncompleteError
from platodef_cli.records.base import Record

R = TypeVar("R", bound=Record)


def read_packaged(path: Path, kind: type[R]) -> tuple[R, bytes] | None:
    """Return a record and its bytes; None where this installation carries none.

    Raises:
        IncompleteError: It cannot be read, or is damaged.
    """
    try:
        content = path.read_bytes()
        return kind.model_validate_json(content), content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IncompleteError(f"{path} cannot be read ({error.strerror}); reinstall platodef") from None
    except ValidationError as error:
        count = error.error_count()
        raise IncompleteError(f"{path} is damaged ({count} errors); reinstall platodef") from None
