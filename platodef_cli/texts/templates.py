"""Sentences from class names: CLIP's templates, from the list that open_clip carries."""

from collections.abc import Callable, Sequence

from platodef_cli.errors import UsageError
from platodef_cli.texts.names import check_templates


def class_sentences(classes: Sequence[str], templates: str) -> list[tuple[str, ...]]:
    """Return the sentences of every class.

    Args:
        classes: Class names; ``_`` is read as a space.
        templates: A name of :data:`~platodef_cli.texts.names.TEMPLATES`.

    Raises:
        UsageError: A class has a number in place of a name.
        UnknownNameError: There is no such set of templates.
    """
    check_templates(templates)
    unnamed = next((name for name in classes if not any(map(str.isalpha, name))), None)
    if unnamed is not None:
        raise UsageError(
            f"the class {unnamed!r} has no name that a sentence could say; give images with class names, or "
            "with captions (--captions)"
        )
    write = _writers(templates)
    return [tuple(one(" ".join(name.replace("_", " ").split())) for one in write) for name in classes]


def _writers(templates: str) -> Sequence[Callable[[str], str]]:
    if templates == "photo":
        return (lambda name: f"a photo of a {name}.",)
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    found: Sequence[Callable[[str], str]] = (
        OPENAI_IMAGENET_TEMPLATES if templates == "clip-80" else SIMPLE_IMAGENET_TEMPLATES
    )
    return found
