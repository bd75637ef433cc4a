"""The page about encoders: what loads, and which output is the feature."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import open_clip
import timm
import transformers

from platodef_cli.encoders.backends.processors import PLAIN
from platodef_cli.encoders.backends.transformers_catalogue import Catalogue, SupportedType, catalogue

COMMAND = "platodef bench encoders -o examples/ENCODERS.md"
_WIDTH = 118

_RULE = """
One rule: the projected image embedding where there is one (`get_image_features`, `image_embeds`; where
the library gives one per patch, their mean); else the pooled output, if its weights are in the files;
else the class token; else the mean of the patches. The report names which (`pooling`). Weights of the
head of a task are left out and named; weights that the feature needs may not be absent. Weights are
safetensors, and no code of a repository is run.
"""
_PIXELS = """
Pixels are those of the library's own processor to 1e-4, where it resizes, crops and normalises to a fixed
size ({names} and all others that do the same). Networks of any input size run on one square, which the
report notes.
"""
_TIMM = """
Any of the {count} architectures of `timm.list_models()` that takes three channels: the network without
its classifier, pooled as `global_pool` of the folder or the architecture itself says (average, class
token, attention pooling). Where a folder asks for no pooling (`global_pool: ""`), that is the class
token, else the mean of the patches, with a warning; `--pooling` chooses.
"""
_OPEN_CLIP = """
The {count} configurations of `open_clip.list_models()`: `encode_image`, not normalised (CoCa's is). Where
the text tower is another repository's architecture (`hf_model_name`), the vision tower is built alone.
"""
_UNTESTED = """
Run by the same rule, but not compared with the library (exit code 2 where something is refused):
"""


def versions() -> str:
    """Return the libraries that the page is about, with their versions."""
    made_by = (("transformers", transformers), ("timm", timm), ("open_clip_torch", open_clip))
    return ", ".join(f"{name} {module.__version__}" for name, module in made_by)


def draw() -> str:
    """Return the page as Markdown; every name on it is asked of the installed libraries."""
    known = catalogue()
    lines = [
        "# Encoders that load",
        "",
        *_paragraph(f"Of {versions()}; made by `{COMMAND}`."),
        "## Which output is the feature",
        "",
        *_paragraph(_RULE),
        *_paragraph(_PIXELS.format(names=_listed(PLAIN))),
        "## transformers",
        "",
        *_transformers(known),
        "## timm",
        "",
        *_paragraph(_TIMM.format(count=len(timm.list_models(exclude_filters=["*_cifar"])))),
        "## open_clip",
        "",
        *_paragraph(_OPEN_CLIP.format(count=len(open_clip.list_models()))),
    ]
    return "\n".join(lines)


def _transformers(known: Catalogue) -> Iterable[str]:
    """Yield the tables of model types."""
    mapped = [row for row in known.supported if row.mapped]
    others = [row for row in known.supported if not row.mapped]
    yield from (f"{len(mapped)} types of the library's mapping of image features:", "")
    yield from _table(mapped)
    yield from ("", "`timm_wrapper` is read as the timm folder that it holds.", "")
    yield from (f"{len(others)} more, towers and whole models:", "")
    yield from _table(others)
    yield ""
    yield from _paragraph(_UNTESTED)
    yield from _reasons(known.untested)
    yield from ("", "### What is left out", "")
    yield from _reasons(known.left_out)
    yield ""


def _reasons(kinds: Mapping[str, str]) -> Iterable[str]:
    """Yield a table of reasons."""
    yield from ("| why | types |", "|---|---|")
    for why, some in sorted(_by_reason(kinds).items()):
        yield f"| {why} | {_listed(some)} |"


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the types of each reason."""
    reasons: dict[str, list[str]] = {}
    for kind, why in sorted(left_out.items()):
        reasons.setdefault(why, []).append(kind)
    return reasons


def _table(rows: Sequence[SupportedType]) -> Iterable[str]:
    """Yield a table of types."""
    yield "| type | class | feature | where its weights are absent |"
    yield "|---|---|---|---|"
    for row in rows:
        feature = f"(needs the library {row.needs})" if row.needs and not row.pooling else row.pooling
        yield f"| `{row.kind}` | `{row.network}` | {feature} | {row.otherwise or '–'} |"


def _paragraph(text: str) -> list[str]:
    """Return the lines of a paragraph and an empty one."""
    words = " ".join(text.split())
    return [*textwrap.wrap(words, _WIDTH, break_long_words=False, break_on_hyphens=False), ""]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
