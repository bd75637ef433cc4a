"""Files that a text tower or a captioner reads beyond those of an encoder: tokenizers, templates."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from platodef_cli.disk import open_regular, resolve_inside
from platodef_cli.encoders.checks.configuration import check_configuration, parse_json
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.checks.substitutes import refuse_substitute
from platodef_cli.encoders.checks.weights import files_digest
from platodef_cli.encoders.reference import ModelReference, parse
from platodef_cli.encoders.resolve import ResolvedModel, examine, resolve
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.progress import Progress
from platodef_cli.records import FileRecord

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
LIMITS = Limits(json_bytes=96 * 2**20, json_values=8_000_000)
"""Bounds of a tokenizer: that of Gemma has 34 MB."""
_HARMLESS = ("added_tokens_decoder", "model_max_length", "auto_map", "chat_template")
"""Keys of a tokenizer without effect here: numbers of tokens, "no limit" (10 to the 30), code that is never
run; and templates, which run in the sandbox of their library."""
_WORDS = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Files whose keys are words, which mean nothing."""


def resolve_with(
    reference: ModelReference, names: Sequence[str], *, offline: bool, progress: Progress
) -> tuple[ResolvedModel, Preflight]:
    """Return a model on this machine with further files, all of them examined.

    Args:
        reference: The model.
        names: Files that are read where they are there.
        offline: Use only what the cache holds.
        progress: Receives the download.

    Raises:
        HubError: The Hub does not give the model.
        RefusedError: A file is unsafe.
        UsageError: It holds no model.
    """
    resolved = resolve(reference, offline=offline, progress=progress)
    if resolved.commit is not None and resolved.listing is not None:
        wanted = tuple(name for name in names if name in resolved.listing)
        if any(name not in resolved.files for name in wanted):
            from platodef_cli.encoders.hub.hub import download

            download(parse(reference.at(resolved.commit)), offline=offline, progress=progress, files=wanted)
    return resolved, with_files(examine(resolved), names)


def with_files(checked: Preflight, names: Sequence[str]) -> Preflight:
    """Return what was examined together with further files of the folder, where they are there.

    Raises:
        RefusedError: One is too large, no JSON, or holds a forbidden key.
    """
    known = {record.path for record in checked.files}
    found = []
    for name in names:
        if name not in known and os.path.lexists(os.path.join(checked.directory, name)):
            found.append(_examined(checked, name))
    files = tuple(sorted((*checked.files, *found), key=lambda record: record.path))
    return checked.model_copy(update={"files": files, "digest": files_digest(files)})


def _examined(checked: Preflight, name: str) -> FileRecord:
    directory = Path(checked.directory)
    path = resolve_inside(directory, name, follow_links=checked.follow_links)
    if not path.is_file():
        raise RefusedError(f"{directory / name}: not a regular file; do not use this model")
    with open_regular(path) as (descriptor, size):
        if size > LIMITS.json_bytes:
            raise RefusedError(f"{directory / name}: has {size} bytes, more than {LIMITS.json_bytes}")
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            data = stream.read(LIMITS.json_bytes + 1)
    refuse_substitute(data[:256], directory / name)
    if name.endswith(".json"):
        value = parse_json(data, str(directory / name), LIMITS)
        if name not in _WORDS:
            settings = {key: item for key, item in value.items() if key not in _HARMLESS}
            check_configuration(settings, name, LIMITS)
    return FileRecord(path=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def require(checked: Preflight, name: str, why: str) -> None:
    """Raise unless a file was examined.

    Raises:
        UsageError: It is not there; the message says what needs it.
    """
    if not any(record.path == name for record in checked.files):
        raise UsageError(f"{checked.directory}: lacks {name}, which {why}; save the tokenizer as that file")
