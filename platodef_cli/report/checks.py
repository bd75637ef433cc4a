"""The checks whose outcome a report may name: stable ids and meanings, for formats that machines read."""

from dataclasses import dataclass

from platodef_cli.records import Outcome


@dataclass(frozen=True)
class CheckDescription:
    """One kind of check.

    Attributes:
        id: Stable; a reason or finding belongs to the longest id that its own starts with.
        title: What is wrong when the check does not pass.
        meaning: What it means and what to do.
        severity: Score from 0 to 10, as vulnerability scales use it; None where it says nothing about safety.
    """

    id: str
    title: str
    meaning: str
    severity: float | None = None


CHECKS = (
    CheckDescription(
        "battery",
        "A known trigger makes the encoder forget the image",
        "A trigger of the battery collapses the encoder's features far more than any reference and any "
        "harmless change of the same strength. Look at the trigger in the report before you conclude "
        "intent; purify the features, or take another encoder.",
        9.0,
    ),
    CheckDescription(
        "search",
        "A search found a trigger",
        "A small universal change of the images, found with the encoder's weights, collapses its "
        "features far more than the same search does on the references. Look at the picture of the change in "
        "the report; purify the features, or take another encoder.",
        9.0,
    ),
    CheckDescription(
        "trigger",
        "A trigger puts images over the alarm threshold",
        "The calibrated detector raises an alarm on images with this trigger. The report holds the rates.",
        9.0,
    ),
    CheckDescription(
        "alignment",
        "The references do not see what the encoder sees",
        "No reference is aligned with the encoder on these images beyond chance, so none can judge it. "
        "Give references that know this kind of images, or images of the kind that the encoder knows.",
    ),
    CheckDescription(
        "matched",
        "The references cannot judge this encoder",
        "The heads do not tell matched from mismatched features well enough. Give more images, or other "
        "references.",
    ),
    CheckDescription(
        "reference",
        "A reference behaves like a backdoored encoder",
        "The suspect is compared with what the references reach, so a backdoored reference would hide its "
        "backdoor. Audit that reference on its own, or choose another one.",
        7.0,
    ),
    CheckDescription(
        "slice",
        "A group of images is seen differently by the suspect alone",
        "In a group of the given images the encoder departs from what every reference sees, more than chance "
        "allows. Look at what these images share before you conclude intent.",
        5.0,
    ),
    CheckDescription(
        "too-few-images",
        "Too few images for an answer",
        "The confidence intervals of so few images settle nothing. The message says how many are needed.",
    ),
    CheckDescription(
        "limit-used",
        "Only a part of the images was used",
        "An audit with a limit on the images is a trial run, not an answer. Run it without the limit.",
    ),
    CheckDescription(
        "too-little-evidence",
        "Too little evidence for an answer",
        "The audit ended early, without an answer. The message says what is missing.",
    ),
    CheckDescription(
        "refused",
        "The model's files are unsafe",
        "The static checks refused a format, a configuration or a file; nothing of the model was loaded. "
        "Do not load it with other tools either; ask its publisher for safetensors.",
        9.5,
    ),
    CheckDescription(
        "attestation",
        "The attestation does not fit",
        "The attestation is about another report, the files on disk are not those that were audited, or the "
        "signature is not by the given key. Do not load the files; audit them again.",
        9.0,
    ),
    CheckDescription(
        "signature",
        "The publisher's signature does not vouch for the model",
        "The policy asks for a signature (OpenSSF Model Signing) by a trusted signer, or the model has one "
        "that does not fit its files. Do not load the files; get them and the key from their publisher.",
        8.0,
    ),
    CheckDescription(
        "lineage",
        "What the model was made from",
        "Its weights resemble those of a known encoder. Evidence of its origin, never an acquittal: a "
        "planted backdoor often changes its parent little.",
    ),
    CheckDescription(
        "hub",
        "The model hub did not give a model or the images",
        "Network, authorisation or a missing repository. The encoder was not examined: run the audit again.",
    ),
    CheckDescription(
        "incomplete",
        "The audit could not be completed",
        "Memory, time or disk ran out, or the process of the suspect ended. The encoder was not examined.",
    ),
    CheckDescription(
        "memory",
        "Memory ran out",
        "The encoder was not examined. Take a smaller batch, or a machine with more memory.",
    ),
    CheckDescription(
        "crash",
        "The audit ended with an unexpected error",
        "The encoder was not examined. Run again with --debug and report the traceback.",
    ),
    CheckDescription(
        "no-commit",
        "Nothing ties the model to a published commit",
        "The target is a local folder: only the file hashes in the report identify it.",
        2.0,
    ),
    CheckDescription(
        "other-loader",
        "Another loader would load other bytes",
        "The files were examined that one library loads. Another usual library would load others from the "
        "same folder, which nobody examined; load the model with the library that the report names.",
        4.0,
    ),
    CheckDescription(
        "repository-code",
        "The model folder holds code",
        "platodef never runs it; other tools may, with trust_remote_code.",
        3.0,
    ),
    CheckDescription(
        "pickle",
        "The model folder holds pickles",
        "platodef never opens them; loading one runs code of its author.",
        3.0,
    ),
    CheckDescription(
        "disguised-pickle",
        "A pickle hides under another file name",
        "The file is a pickle by content and something else by name. Loading it runs code of its author.",
        8.0,
    ),
    CheckDescription(
        "fail-if",
        "A rule of the policy holds",
        "A rule of the user (--fail-if, fail_if) says that the audit fails. The message names the "
        "measure, its value and the limit.",
        7.0,
    ),
    CheckDescription(
        "check",
        "A check did not pass",
        "The message says what was measured. The report holds the details.",
        5.0,
    ),
)
FALLBACK = CHECKS[-1]

LEVELS: dict[Outcome, str] = {
    "fail": "error",
    "refused": "error",
    "error": "error",
    "inconclusive": "warning",
}
"""Outcome -> level of SARIF; passed checks have none."""


def check_of(name: str) -> CheckDescription:
    """Return the check that a reason or a finding belongs to."""
    fitting = [check for check in CHECKS if name == check.id or name.startswith(f"{check.id}-")]
    return max(fitting, key=lambda check: len(check.id), default=FALLBACK)
