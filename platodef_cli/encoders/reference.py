"""Ids of encoders: folders, Hub repositories and embedded encoders; and their files on this machine."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from platodef_cli.encoders.stores.address import StoreAddress, parse_address
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.resources import data_dir

_REPOSITORY = re.compile(
    r"^([A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})((?:/[\w-][\w.-]{0,95}){0,8})$", re.ASCII
)

_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?:models/)?([^/?#@]+/[^/?#@]+)(?:@[^/?#]+)?"
    r"(?:/(tree|blob|resolve|raw)/([^/?#]+)(/[^?#]*)?)?"
)
_HOST = re.compile(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/")
_KINDS = ("datasets", "spaces", "models", "collections", "papers")
"""First parts of addresses on the Hub that are no organisation."""

_PREFIXES = {
    "local-dir:": "a folder",
    "hf-hub:": "org/name",
    "hf_hub:": "org/name",
    "hf:": "org/name",
    "huggingface:": "org/name",
}
"""How ids of other tools begin -> what stands behind it."""
_REGISTRIES = {
    "timm": "timm/resnet50.a1_in1k",
    "open_clip": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "torchvision": "timm/resnet50.tv_in1k",
}
"""Libraries that have names of their own -> a repository of the Hub with a model of theirs."""
_ONE_PART = re.compile(r"^[A-Za-z0-9_][\w.-]{0,95}$", re.ASCII)
_FILE = re.compile(r"^file:(?://(?:localhost(?=/))?)?(.+)$")
_REVISION = re.compile(r"^[A-Za-z0-9_][\w./-]{0,199}$")

_HELP = (
    "give a folder, org/name[/folder][@revision], hf://org/name[@revision], s3:// or gs://bucket/folder, "
    "models:/name/version or builtin:NAME"
)
_STATE_DICTS = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar", ".safetensors")

DEFAULT_REFERENCES: tuple[str, ...] = (
    "facebook/dinov2-base@f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    "google/siglip2-base-patch16-224@75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
)
"""References of an audit when none are given: DINOv2-Base and the vision tower of SigLIP2-Base/16."""


@dataclass(frozen=True)
class ModelReference:
    """A parsed id.

    Attributes:
        uri: What the user wrote, with the revision.
        directory: The local folder, or None for what has to be downloaded.
        repository: ``org/name`` on the Hub, or None.
        revision: Branch, tag or commit that was asked for, or None for the default branch.
        subfolder: Folder of the model in the repository; empty for its top.
        store: Address in an object store or registry, or None.
    """

    uri: str
    directory: Path | None
    repository: str | None
    revision: str | None
    subfolder: str = ""
    store: StoreAddress | None = None

    def at(self, commit: str) -> str:
        """Return the id of the same model at a commit."""
        return "/".join(filter(None, (self.repository, self.subfolder))) + f"@{commit}"

    @property
    def short_name(self) -> str:
        """Last part of the id, for tables."""
        if self.store is not None:
            return self.store.name
        return (self.subfolder or self.repository or str(self.directory)).rstrip("/").rpartition("/")[
            2
        ] or "model"


def parse(uri: str, revision: str | None = None) -> ModelReference:
    """Parse the id of an encoder.

    An existing folder wins over a Hub id of the same spelling.

    Raises:
        UsageError: The id has no known form, the folder does not exist, or the revision is given twice.
        UnknownNameError: There is no embedded encoder of that name.
    """
    if not uri or not uri.strip() or "\0" in uri or uri != uri.strip():
        raise UsageError(f"model id {uri!r} is empty or has stray spaces; {_HELP}")
    if uri.startswith("builtin:"):
        return _builtin(uri, revision)
    address = parse_address(uri)
    if address is not None:
        if revision is not None:
            raise UsageError(f"{uri!r} takes no --revision; pin it with @sha256:DIGEST, or by its version")
        return ModelReference(address.pinned, None, None, None, store=address)
    if not uri.startswith("hf://"):
        folder = Path(uri).expanduser()
        if _is_folder(folder):
            return _local(uri, folder, revision)
        _hint(uri, folder)
        if uri.startswith(("/", "./", "../", "~")) or uri in (".", ".."):
            raise UsageError(f"model folder {uri!r} does not exist; {_HELP}")
    elif re.match(r"hf://(datasets|spaces|models)/", uri):
        _hint(uri, Path(uri))
    repository, at, inline = uri.removeprefix("hf://").partition("@")
    repository = repository.rstrip("/")
    if at and revision is not None:
        raise UsageError(f"{uri!r} has a revision and --revision {revision!r} gives another; give only one")
    wanted = inline if at else revision
    matched = _REPOSITORY.match(repository)
    if _ONE_PART.match(repository):
        raise UsageError(
            f"{uri!r} is neither an existing folder nor a Hub id, which has two parts: find the repository "
            f"at https://huggingface.co/models?search={repository} and write it as org/{repository}"
        )
    if not matched or ".." in repository or "--" in repository.partition("/")[2].partition("/")[0]:
        raise UsageError(f"{uri!r} is neither an existing folder nor a Hub id; {_HELP}")
    if wanted is not None and (not _REVISION.match(wanted) or ".." in wanted):
        raise UsageError(
            f"revision {wanted!r} is not a branch, tag or commit; give e.g. main or a full commit"
        )
    uri = f"{repository}@{wanted}" if wanted else repository
    return ModelReference(uri, None, matched[1], wanted, matched[2].strip("/"))


def _hint(uri: str, path: Path) -> None:
    """Say what to do with an id that another tool would take.

    Raises:
        UsageError: It is one.
    """
    for scheme, what in _PREFIXES.items():
        if uri.startswith(scheme) and not uri.startswith("hf://"):
            raise UsageError(f"{uri!r}: write {what} without {scheme!r}, as in {uri.removeprefix(scheme)!r}")
    if uri.startswith("text:"):
        raise UsageError(
            f"{uri!r}: the text tower of a model can be a reference (-r {uri}), not a suspect; write "
            f"{uri.removeprefix('text:')!r} for what it makes of images"
        )
    library, colon, name = uri.partition(":")
    if colon and library in _REGISTRIES:
        raise UsageError(
            f"{uri!r}: names of {library} say nothing of the weights; give the repository of the Hub that "
            f"holds them, as {_REGISTRIES[library]!r}"
            + (f" (search there for 'timm/{name}')" if library == "timm" else "")
        )
    named = _FILE.match(uri)
    if named:
        raise UsageError(f"{uri!r}: write the folder as a plain path, as in {unquote(named[1])!r}")
    colon_revision = re.match(r"^([\w.-]+/[\w.-]+):([\w./-]+)$", uri)
    if colon_revision:
        raise UsageError(f"{uri!r}: a revision follows an @, as in {'@'.join(colon_revision.groups())!r}")
    found = _PAGE.match(uri)
    if found and found[1].partition("/")[0] not in _KINDS:
        raise UsageError(f"{uri!r} is the address of a page; write {_advised(found)!r}")
    bare = uri.removeprefix("hf://").partition("@")[0]
    if re.match(r"(datasets|spaces)/[^/]+/[^/]", re.sub(_HOST, "", bare)):
        raise UsageError(
            f"{uri!r} is no model but one of the Hub's {re.sub(_HOST, '', bare).partition('/')[0]}; {_HELP}"
        )
    if bare.startswith("models/") and bare.count("/") == 2:
        raise UsageError(f"{uri!r}: write it without 'models/', as in {uri.replace('models/', '', 1)!r}")
    if "://" in uri:
        raise UsageError(f"{uri!r}: models are not read from this kind of address; download it and {_HELP}")
    suffix = Path(uri.partition("@")[0]).suffix.lower()
    if suffix in (".npy", ".npz"):
        raise UsageError(f"{uri!r} looks like an array of features, not a model; {_HELP}")
    if suffix in (".onnx", ".tflite", ".pb", ".h5", ".gguf", ".msgpack"):
        raise UsageError(f"{uri!r}: {suffix} models are not supported; {_HELP}")
    if _is_file(path) or (suffix in _STATE_DICTS and uri.count("/") != 1):
        if suffix in _STATE_DICTS:
            raise UsageError(
                f"{uri!r} is a file of weights without an architecture; make a model folder of it with "
                f"'platodef convert {uri} --architecture timm/NAME -o FOLDER', or give the folder with its "
                "config.json"
            )
        raise UsageError(f"{uri!r} is a file; give the folder that holds config.json and the weights")


def _advised(page: re.Match[str]) -> str:
    """Return the id of the model that an address of the Hub shows."""
    folder = (page[4] or "").strip("/")
    if page[2] not in (None, "tree"):
        folder = folder.rpartition("/")[0]  # of a file
    return "/".join(filter(None, (page[1], folder))) + (f"@{page[3]}" if page[3] else "")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _local(uri: str, folder: Path, revision: str | None) -> ModelReference:
    if revision is not None:
        raise UsageError(f"{uri!r} is a folder, which has no revisions; leave --revision out")
    return ModelReference(uri, folder.resolve(), None, None)


def _builtin(uri: str, revision: str | None) -> ModelReference:
    root = data_dir("encoders")
    choices = sorted(entry.name for entry in root.iterdir() if (entry / "config.json").is_file())
    name = uri.removeprefix("builtin:")
    if name not in choices:
        raise UnknownNameError("embedded encoder", name, choices)
    return _local(uri, root / name, revision)
