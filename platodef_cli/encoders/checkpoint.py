"""Whose weights a research checkpoint holds: what stands before their names, and whose names they are.

Training scripts wrap networks (``module.``, ``_orig_mod.``), keep several in one file (queries and keys,
student and teacher, averages), and name layers in their own way. Every weight of the network that is asked
for has to be found in one of these ways, with its shape; nothing is resampled or made up.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from platodef_cli.encoders.checks.weights import INTEGER_BUFFER
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

COUNTER = "num_batches_tracked"
ORDER = "by their order and shape"
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|module)\."
)
"""Parts of names that come from torch.compile, sharding, checkpointing and parallel training."""
_AVERAGES = re.compile(r"(^|[._])(ema|teacher)($|[._])")
_SLOW = re.compile(r"(^|[._])(momentum|target|encoder_k|key_encoder|keys?)($|[._])")
_LEAVES = ("weight", "bias", "running_mean", "running_var")
_LEFT_ALONE = re.compile(r"(attn_mask|relative_position_index|relative_coords_table|mask_token)$")
"""Buffers of other versions of a network, and a token that only masked training uses."""
_MOST_PREFIXES = 200
_NUMBERS = re.compile(r"\d+")

State = Mapping[str, "Tensor"]
Renames = Sequence[tuple[str, str]]
_CHUNKS: Renames = ((r"(^|\.)blocks\.\d+\.(\d+)\.", r"\1blocks.\2."), (r"(^|\.)shortcut\.", r"\1downsample."))
"""DINOv2 shards blocks in chunks; ResNets for small images call the short way so."""
_TORCHVISION_VIT: Renames = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"^encoder\.ln\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:linear_1|0)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:linear_2|3)\.", ".mlp.fc2."),
)
_OPENMMLAB_VIT: Renames = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^(?:ln1|norm1)\.", "norm."),
    (r"\.(?:ln|norm)([12])\.", r".norm\1."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.gamma([12])\.weight$", r".ls\1.gamma"),
)
_TABLES = {
    "those of chunks and short ways": _CHUNKS,
    "torchvision's": _TORCHVISION_VIT,
    "OpenMMLab's": _OPENMMLAB_VIT,
}


@dataclass(frozen=True)
class Matched:
    """Weights of a network in a checkpoint.

    Attributes:
        prefix: What stands before their names.
        weights: Every weight of the network.
        names: Whose names they had, in words; empty where they are the network's own.
        left: Names in the checkpoint of what was not taken, behind the prefix where they have it.
        others: Further prefixes under which a whole network of this kind is.
    """

    prefix: str
    weights: dict[str, "Tensor"]
    names: str
    left: tuple[str, ...]
    others: tuple[str, ...]


def match(
    network: "nn.Module", state: State, prefix: str | None, where: str, name: str, *, by_order: bool = False
) -> Matched:
    """Find every weight of a network in a checkpoint.

    Where several whole networks are in it, an average or teacher comes first, as timm and the authors of
    self-distillation load it; a momentum copy (keys, targets) comes last.

    Args:
        network: Without memory; its names and shapes.
        state: The checkpoint, in its order.
        prefix: What stands before the names; None looks for it.
        where: The file, for messages.
        name: The network, for messages.
        by_order: Also where names say nothing: weights of the same shapes in the same order.

    Raises:
        UsageError: It is another network, or of another size; the message says which weight tells.
    """
    plain = _without_wrappers(state)
    for names in (state, plain):
        found = _found(network, names, prefix, where, name, by_order)
        if found is not None:
            return found
    raise UsageError(_why_not(network, plain if prefix is None else state, prefix, where, name))


def _found(
    network: "nn.Module", state: State, prefix: str | None, where: str, name: str, ordered: bool
) -> Matched | None:
    """Return the weights under one prefix and in one naming, the plainest naming first."""
    own = _wanted(network)
    places = [prefix] if prefix is not None else _prefixes(state, len(own))
    inside = {place: _under(state, place) for place in places}
    for names, rename in _namings(network, own, ordered):
        fitting = {}
        for place, part in inside.items():
            renamed = rename(part)
            if renamed is not None and _fits(own, renamed):
                fitting[place] = renamed
        if fitting:
            chosen = min(fitting, key=lambda each: (_rank(each), len(each)))
            _check_rest(network, fitting[chosen], where, name)
            weights = {key: fitting[chosen][key] for key in own}
            used = _used(inside[chosen], weights, rename, own)
            left = [key for key in inside[chosen] if key not in used]
            left += [key for key in state if not key.startswith(chosen)]
            others = [place for place in fitting if not _same(fitting[place], weights)]
            return Matched(chosen, weights, names, tuple(left), tuple(others))
    return None


def _wanted(network: "nn.Module") -> dict[str, "Tensor"]:
    return {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTER)}


def _prefixes(state: State, wanted: int) -> list[str]:
    """Return what may stand before the names of a network with so many weights, the shortest first."""
    counts: Counter[str] = Counter()
    for key in state:
        counts.update(["", *(f"{part}." for part in accumulate(key.split(".")[:-1], "{}.{}".format))])
    enough = [place for place, count in counts.items() if 2 * count >= wanted]
    return sorted(enough, key=len)[:_MOST_PREFIXES]


def _under(state: State, prefix: str) -> dict[str, "Tensor"]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _rank(prefix: str) -> int:
    if _AVERAGES.search(prefix):
        return 0
    return 2 if _SLOW.search(prefix) else 1


def _same(first: State, second: State) -> bool:
    """Tell that a place holds the numbers of another one: the same network, saved twice."""
    return all(
        first[key].dtype == value.dtype and bool((first[key] == value).all()) for key, value in second.items()
    )


def _fits(own: State, given: State) -> bool:
    return all(key in given and given[key].shape == value.shape for key, value in own.items())


Rename = Callable[[State], State | None]


def _namings(network: "nn.Module", own: State, ordered: bool) -> Iterator[tuple[str, Rename]]:
    """Yield whose names weights may have, and what gives them the network's."""
    yield "", lambda part: part
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        yield (
            "those of the network's authors, as timm reads them",
            lambda part: _by_timm(convert, part, network),
        )
    for whose, table in _TABLES.items():
        yield whose, lambda part, table=table: _renamed(part, table)  # type: ignore[misc]
        if convert is not None and whose.startswith("those"):
            yield (
                "those of the network's authors, as timm reads them",
                lambda part, table=table: _by_timm(convert, _renamed(part, table), network),  # type: ignore[misc]
            )
    yield "numbers of layers", lambda part: _by_number(part, own)
    if ordered:
        yield ORDER, lambda part: _by_order(part, own)


def _by_timm(convert: Any, part: State, network: "nn.Module") -> State | None:
    """Rename with the architecture's own filter, which may not resample."""
    try:
        converted: State = convert(dict(part), network)
    except Exception:
        return None  # made for other names
    odd = any(key in part and part[key].numel() != value.numel() for key, value in converted.items())
    return None if odd else converted


def _renamed(part: State, table: Renames) -> State:
    renamed = {}
    for key, value in part.items():
        for pattern, own in table:
            key = re.sub(pattern, own, key)
        renamed[key] = value
    return renamed if len(renamed) == len(part) else part


def _by_number(part: State, own: State) -> State | None:
    """Rename ``0.weight`` of a sequence of a network's layers to ``conv1.weight``: the nth with weights."""
    numbers = sorted({int(key.partition(".")[0]) for key in part if key.partition(".")[0].isdecimal()})
    tops = list(dict.fromkeys(key.partition(".")[0] for key in own))
    if len(numbers) < len(tops):
        return None
    new = dict(zip(map(str, numbers), tops, strict=False))
    named = ((key.partition("."), value) for key, value in part.items())
    return {f"{new.get(top, top)}.{rest}": value for (top, _, rest), value in named}


def _by_order(part: State, own: State) -> State | None:
    """Pair weights with those of the network as they follow each other; kinds of weights have to agree.

    None where others like them follow: the network in the file is deeper.
    """
    given = [(key, value) for key, value in part.items() if not key.endswith(COUNTER)]
    pairs = list(zip(given, own.items(), strict=False))
    for (key, value), (mine, wanted) in pairs:
        leaf, expected = key.rpartition(".")[2], mine.rpartition(".")[2]
        if value.shape != wanted.shape or (leaf in _LEAVES and leaf != expected):
            return None
    kinds = {(_NUMBERS.sub("#", key), value.shape) for (key, value), _ in pairs}
    more = any((_NUMBERS.sub("#", key), value.shape) in kinds for key, value in given[len(pairs) :])
    return None if len(pairs) < len(own) or more else {mine: value for (_, value), (mine, _) in pairs}


def _used(part: State, weights: State, rename: Rename, own: State) -> set[str]:
    """Return the names in the checkpoint of the weights that were taken."""
    places = {value.data_ptr() for value in weights.values() if value.numel()}
    used = {key for key, value in part.items() if value.numel() and value.data_ptr() in places}
    for key in set(part) - used:  # joined from several: without one of them the network is not whole
        if key.endswith(COUNTER) or _LEFT_ALONE.search(key):
            used.add(key)
        elif len(part) < 2000:
            less = rename({other: value for other, value in part.items() if other != key})
            if less is None or not _fits(own, less) or not _same(less, weights):
                used.add(key)
    return used


def _check_rest(network: "nn.Module", renamed: State, where: str, name: str) -> None:
    """Refuse weights in the middle of a network that this network has not: more layers, gates, scales.

    Raises:
        UsageError: There are.
    """
    own = network.state_dict()
    tops = {key.partition(".")[0] for key in own if key.count(".") > 1}
    for key in renamed:
        inner = key not in own and key.partition(".")[0] in tops and not key.endswith(COUNTER)
        if inner and not INTEGER_BUFFER.search(key) and not _LEFT_ALONE.search(key):
            raise UsageError(
                f"{where}: holds {key!r}, which {name} has not; it is another architecture (a deeper one, or "
                "with further parts in its layers); give its name in timm"
            )


def _why_not(network: "nn.Module", state: State, prefix: str | None, where: str, name: str) -> str:
    """Say what is missing, or of another shape, where most of the network is."""
    own = _wanted(network)
    if prefix is None:
        counts = Counter(k[: -len(m)] for k in state for m in own if k == m or k.endswith(f".{m}"))
        prefix = max(counts, key=lambda each: (counts[each], -len(each))) if counts else ""
    given = _under(state, prefix)
    missing = [key for key in own if key not in given]
    shaped = [key for key in own if key in given and given[key].shape != own[key].shape]
    if shaped and len(missing) < len(own) / 2:
        key = shaped[0]
        more = "; it is another architecture"
        side = _side(given, key)
        if side:
            more = f"; it was trained at {side} pixels: give --input-size {side}"
        return (
            f"{where}: weight {prefix + key!r} has shape {list(given[key].shape)}, and {name} has "
            f"{list(own[key].shape)} there{more}"
        )
    share = f"{len(own) - len(missing)} of {len(own)} weights are there"
    return (
        f"{where}: does not fit {name}: with the prefix {prefix!r} {share}, {missing[0]!r} is missing; it "
        f"has names such as {next(iter(state))!r}{_hint(state)}; give another --architecture or --prefix"
    )


def _side(given: State, key: str) -> int | None:
    """Return the side of the images, pixels, that position embeddings of another length are for."""
    patch = given.get("patch_embed.proj.weight")
    if not key.endswith("pos_embed") or patch is None or patch.ndim != 4 or given[key].ndim != 3:
        return None
    for tokens in (1, 0, 2, 5):
        grid = int(round(max(0, int(given[key].shape[1]) - tokens) ** 0.5))
        if grid and grid**2 == given[key].shape[1] - tokens:
            return grid * int(patch.shape[-1])
    return None


def _hint(state: Collection[str]) -> str:
    """Say what names of another library mean."""
    if any(".encoder.layer.0." in f".{key}" and "attention" in key for key in state):
        return (
            " (those of transformers: load it there, save it with save_pretrained(FOLDER), which writes "
            "safetensors, and give that folder)"
        )
    return ""


def _without_wrappers(state: State) -> State:
    """Return names without the parts that wrappers of training add, where they stay different."""
    plain = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    return plain if len(plain) == len(state) else state
