"""Many audits: what there is to do, one process for each, and how each ended."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import BUILTIN, BUILTIN_REFERENCES
from platodef_cli.audit.policy.sources import effective_policy
from platodef_cli.disk import canonical_json, explaining, write_atomically
from platodef_cli.errors import (
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    EXIT_REFUSED,
    IncompleteError,
)
from platodef_cli.features.cache import key_digest
from platodef_cli.jobs.inputs import States, file_digest, local_inputs, pinned_id
from platodef_cli.jobs.manifest import Manifest, Suspect
from platodef_cli.jobs.process import Ended
from platodef_cli.records.run import RUN_SUFFIX, UNREACHED, InputState, RunRecord
from platodef_cli.version import __version__

FINISHED = (EXIT_PASS, EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_REFUSED)
"""Exit codes of audits that are not repeated: their answer would be the same."""
_SUFFIXES = {"markdown": "md", "junit": "xml", "terminal": "txt"}
_LARGEST_RECORD = 2**20


@dataclass(frozen=True)
class Place:
    """Where the results of many audits go.

    Attributes:
        folder: The folder.
        formats: Formats of reports; JSON is written always.
    """

    folder: Path
    formats: tuple[str, ...] = ()

    def outputs(self, name: str) -> dict[str, str]:
        """Return format -> name of the file of one suspect, JSON first."""
        wanted = dict.fromkeys(("json", *self.formats))
        return {form: f"{name}.{_SUFFIXES.get(form, form)}" for form in wanted}

    def record(self, name: str) -> Path:
        """Return the path of the record of one suspect."""
        return self.folder / f"{name}{RUN_SUFFIX}"

    def log(self, name: str) -> Path:
        """Return where stderr of the audit of one suspect is kept."""
        return self.folder / f"{name}.log"

    def unreached(self, name: str) -> Path:
        """Return the path of the mark that what lies there of one suspect is an earlier run's."""
        return self.folder / UNREACHED / name

    def files(self, name: str) -> list[Path]:
        """Return the paths of all that a run may leave of one suspect."""
        reports = (self.folder / file for file in self.outputs(name).values())
        return [self.record(name), self.log(name), *reports]


@dataclass(frozen=True)
class Task:
    """One audit.

    Attributes:
        suspect: What is audited.
        words: The words after ``platodef``, without those about outputs and the model.
        model: Id of the model, at its commit where that is known.
        commit: On the Hub, or None.
        key: Everything that the result depends on, as a digest.
        inputs: The folders and files among it.
        note: What the user should know, or empty.
    """

    suspect: Suspect
    words: tuple[str, ...]
    model: str
    commit: str | None
    key: str
    inputs: tuple[InputState, ...]
    note: str = ""


def option_words(options: Mapping[str, object]) -> list[str]:
    """Return the words of the command line for keywords of an audit."""
    words: list[str] = []
    for entry in fields(AuditConfig):
        if not entry.metadata or entry.name not in options or entry.metadata["option"].argument:
            continue
        option, value = entry.metadata["option"], options[entry.name]
        flag = option.flags[0] if option.flags else f"--{entry.name.replace('_', '-')}"
        if value is None or isinstance(value, bool):
            words += [flag] if value is not None and value != option.switches_off else []
        elif option.several:
            several = [value] if isinstance(value, str) else value
            assert isinstance(several, Sequence)
            words += [word for part in several for word in (flag, str(part))]
        else:
            words += [flag, str(value)]
    return words


def plan(
    manifest: Manifest, suspect: Suspect, place: Place, extra: Mapping[str, object], states: States
) -> Task:
    """Return what the audit of one suspect is, and what its result depends on.

    Args:
        manifest: The whole list.
        suspect: One of it.
        place: Where results go; records of an earlier run there save reading what did not change.
        extra: Keywords of an audit from the command line; they win.
        states: What folders and files hold.

    Raises:
        UsageError: The policy or a file cannot be read.
    """
    options = {**suspect.options, **extra}
    before = read_record(place.record(suspect.name))
    revision = options.pop("revision", None)
    offline = bool(options.get("offline"))
    model, commit, note = pinned_id(
        suspect.model, None if revision is None else str(revision), offline=offline
    )
    if note and before is not None and before.commit is not None:
        commit = before.commit
        note += f"; what was found at commit {commit[:12]} stays"
    files = {"waivers": manifest.waivers, "baseline": suspect.baseline}
    judging = {name: path for name, path in files.items() if path is not None}
    policy = effective_policy(
        file=manifest.policy,
        overrides=manifest.set,
        rules=manifest.fail_if,
        environment=os.environ,
        folder=Path(),
        models=[suspect.model],
    ).policy
    references = options.get("references") or (
        BUILTIN_REFERENCES if suspect.model.startswith(BUILTIN) else ()
    )
    texts = {
        "model": suspect.model,
        "images": str(options.get("images", "")),
        "head": str(options.get("head", "")),
    }
    texts |= {f"reference {number}": str(text) for number, text in enumerate(references)}
    known = () if before is None else before.inputs
    paths = {**local_inputs({name: text for name, text in texts.items() if text}), **judging}
    found = {name: states.of(path, known) for name, path in paths.items()}
    result = {
        name: value for name, value in options.items() if name not in ("cache_dir", "use_cache", "offline")
    }
    key = {
        "version": __version__,
        "model": [suspect.model, commit],
        "options": json.loads(json.dumps(result, default=str)),
        "policy": policy.to_json(),
        "inputs": {name: state.digest for name, state in found.items()},
        "formats": list(place.outputs("")),
    }
    words = ["audit", *option_words(options)]
    words += [] if manifest.policy is None else ["--policy", str(manifest.policy)]
    words += [word for entry in manifest.set for word in ("--set", entry)]
    words += [word for rule in manifest.fail_if for word in ("--fail-if", rule)]
    words += [word for name, path in judging.items() for word in (f"--{name}", str(path))]
    return Task(suspect, tuple(words), model, commit, key_digest(key), tuple(found.values()), note)


def read_record(path: Path) -> RunRecord | None:
    """Return the record of an earlier run, or None where there is none that can be read."""
    try:
        if path.is_symlink() or path.stat().st_size > _LARGEST_RECORD:
            return None
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ValueError):
        return None


def finished(task: Task, place: Place) -> RunRecord | None:
    """Return the record of an earlier run of the same task that ended with an answer, its files unharmed."""
    record = read_record(place.record(task.suspect.name))
    if record is None or record.key != task.key or record.exit_code not in FINISHED:
        return None
    if set(record.files) != set(place.outputs(task.suspect.name).values()):
        return None
    try:
        whole = all(file_digest(place.folder / name) == digest for name, digest in record.files.items())
    except OSError:
        return None
    return record if whole else None


def forget(task: Task, place: Place) -> None:
    """Remove what an earlier run left of a task: a report of other inputs shall not stand for the new one.

    Raises:
        IncompleteError: It cannot be removed.
    """
    name = task.suspect.name
    with explaining(f"cannot replace the results of {name!r} in {place.folder}", IncompleteError):
        for path in place.files(name):
            path.unlink(missing_ok=True)


def mark_earlier(suspects: Sequence[Suspect], place: Place) -> None:
    """Mark what earlier runs left of suspects: until a run gets to them, it is not that run's.

    Raises:
        IncompleteError: A mark cannot be written.
    """
    with explaining(f"cannot write to {place.folder}", IncompleteError):
        (place.folder / UNREACHED).mkdir(exist_ok=True)
        for suspect in suspects:
            if any(os.path.lexists(path) for path in place.files(suspect.name)):
                place.unreached(suspect.name).touch()


def mark_reached(task: Task, place: Place) -> None:
    """Take the mark of one suspect away: what lies there is what this run would leave, or nothing does.

    Raises:
        IncompleteError: It cannot be removed.
    """
    with explaining(f"cannot write to {place.folder}", IncompleteError):
        place.unreached(task.suspect.name).unlink(missing_ok=True)


def keep(task: Task, place: Place, ended: Ended) -> RunRecord | None:
    """Write the record of a run, the last of its files; nothing for one that was interrupted.

    Raises:
        IncompleteError: It cannot be written.
    """
    if ended.interrupted:
        return None
    name = task.suspect.name
    with explaining(f"cannot write the results of {name!r} in {place.folder}", IncompleteError):
        files = {
            file: file_digest(place.folder / file)
            for file in place.outputs(name).values()
            if (place.folder / file).is_file()
        }
        record = RunRecord(
            name=name,
            model=task.suspect.model,
            key=task.key,
            commit=task.commit,
            exit_code=ended.code,
            summary=ended.summary,
            files=files,
            inputs=task.inputs,
            started=datetime.fromtimestamp(time.time() - ended.seconds, UTC).isoformat(timespec="seconds"),
            seconds=round(ended.seconds, 3),
            tool_version=__version__,
        )
        text = canonical_json(record.model_dump(mode="json")) + "\n"
        write_atomically(place.record(name), text.encode())
    return record
