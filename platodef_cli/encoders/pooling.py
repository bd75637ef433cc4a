"""What a user may say about the pooling of encoders that give tokens, and for which encoder."""

from collections.abc import Collection, Sequence

from platodef_cli.errors import UnknownNameError, UsageError

AUTO = "auto"
CLASS_TOKEN = "class token"
MEAN = "mean of patches"
LAST = "last token"
POOLINGS = {AUTO: "", "mean": MEAN, "class": CLASS_TOKEN, "last": LAST}
"""What ``--pooling`` takes -> the pooling that an encoder's record then names."""
TAKEN = "pooling: "
"""How the note of an encoder begins whose pooling the user may choose."""


def taken(why: str, pooling: str) -> str:
    """Return the note that says what was taken for the feature of an image, and how to choose where one can.

    Args:
        why: What the files say, or do not.
        pooling: What was taken.
    """
    choice = "; --pooling mean or class chooses" if pooling == CLASS_TOKEN else ""
    return f"{TAKEN}{why}, so the {pooling} is taken{choice}"


def check_poolings(values: Sequence[str]) -> None:
    """Check what ``--pooling`` was given: ``mean``, or ``ID=mean``.

    Raises:
        UnknownNameError: A value names no pooling.
    """
    for value in values:
        choice = value.rpartition("=")[2]
        if choice not in POOLINGS:
            raise UnknownNameError("pooling", choice, tuple(POOLINGS))


def poolings_of(values: Sequence[str], model: str, others: Collection[str]) -> dict[str, str]:
    """Return the choice for every encoder of a run.

    Args:
        values: From ``--pooling``; one without an id is for the model.
        model: The id of the suspect or the source.
        others: The ids of the references.

    Returns:
        Id -> a key of :data:`POOLINGS`; ``auto`` where nothing is said.

    Raises:
        UnknownNameError: A value names no pooling.
        UsageError: An id is that of no encoder of the run, or two values are for one.
    """
    check_poolings(values)
    choices: dict[str, str] = {}
    for value in values:
        uri, _, choice = value.rpartition("=")
        uri = uri or model
        if uri != model and uri not in others:
            raise UsageError(
                f"--pooling {value}: no encoder of this run is called {uri!r}; write the id as it was given, "
                f"one of {', '.join((model, *others))}"
            )
        if uri in choices:
            raise UsageError(f"--pooling says twice how {uri!r} is pooled; give it once")
        choices[uri] = choice
    return {uri: choices.get(uri, AUTO) for uri in (model, *others)}


def check_pooled(where: str, wanted: str, used: str) -> None:
    """Check that an encoder is pooled as the user asked.

    Args:
        where: Its folder, for the message.
        wanted: A key of :data:`POOLINGS`.
        used: What the encoder's record names.

    Raises:
        UsageError: It is not: it pools itself, or has no class token.
    """
    if wanted == AUTO or POOLINGS[wanted] == used:
        return
    why = f"the feature of this model is already one vector per image ({used})"
    if used == MEAN:
        why = "this model has no class token"
    if wanted == "last":
        why = "only language models that read images (Qwen-VL) have a last token that is their feature"
    raise UsageError(f"{where}: --pooling {wanted} does not apply, because {why}; leave the option out")
