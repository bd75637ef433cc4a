"""Image-text-to-text models of transformers that describe an image in a sentence.

A captioner is trusted like a reference: one with a backdoor writes what its attacker wants of an image with
the trigger. Its weights are read by the rules of encoders: safetensors, strict keys, no code of a repository.
Its processor is that of transformers, built from the examined files alone; its chat template, if any, is
rendered by transformers in jinja's sandbox.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import SecurityError
from PIL import Image

from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.guards import memory_guard
from platodef_cli.encoders.load import usable_device
from platodef_cli.encoders.local import DTYPES, freeze, one_line
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.strict import check_keys
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError, UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.temporary import TemporaryFolder
from platodef_cli.texts.files import LIMITS, resolve_with

PROMPT = "Describe this image in one short sentence."
"""The paper's prompt (section 5.2)."""
MOST_TOKENS = 48
PROCESSOR = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip
"""What a processor and its tokenizer may read; nothing else of a repository is put before them."""
_WHOLE = ("blip", "blip-2", "instructblip", "git")
"""Model types whose answer does not begin with the prompt's tokens, or that caption without a prompt."""
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


class Captioner:
    """A frozen image-text-to-text model with its processor.

    Attributes:
        uri: What the user asked for, with the revision.
        name: Short name.
        commit: Full commit on the Hub, or None for a folder.
        digest: SHA-256 over the files that were read.
        architecture: Class of transformers.
        prompt: What it is asked; empty where it describes images unasked.
        dtype: Of its weights.
        device: Where it runs.
    """

    def __init__(
        self, network: Any, processor: Any, prompt: str | None, checked: Preflight, device: torch.device
    ):
        self._network, self._processor = network, processor
        self._chat = bool(getattr(processor, "chat_template", None))
        self.prompt = (PROMPT if self._chat else "") if prompt is None else prompt
        self.architecture = type(network).__name__
        self.digest, self.device = checked.digest, device
        self.dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
        self.uri = self.name = checked.directory
        self.commit: str | None = None

    @property
    def statement(self) -> str:
        """Who wrote the captions, for reports: part of what a verdict has to trust."""
        at = f" at {self.commit}" if self.commit else ""
        asked = f", asked {self.prompt!r}" if self.prompt else ", not asked anything"
        return f"{self.uri}{at} ({self.architecture}, digest {self.digest[:12]}{asked})"

    @torch.no_grad()
    def caption(self, images: Sequence[Image.Image]) -> list[str]:
        """Return one sentence per RGB image, decoded greedily; nothing is random.

        Raises:
            IncompleteError: The model fails on these images.
            RefusedError: Its chat template wants more than a template may.
        """
        if not images:
            return []
        try:
            inputs = self._inputs(images)
            length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
            moved = {
                key: value.to(self.device, self._network.dtype)
                if torch.is_floating_point(value)
                else value.to(self.device)
                for key, value in inputs.items()
            }
            tokens = self._network.generate(
                **moved, max_new_tokens=MOST_TOKENS, do_sample=False, num_beams=1, use_cache=True
            )
            whole = str(self._network.config.model_type) in _WHOLE or self._network.config.is_encoder_decoder
            answers = tokens if whole else tokens[:, length:]
            texts = self._processor.batch_decode(answers.cpu(), skip_special_tokens=True)
        except PlatodefError:
            raise
        except SecurityError as error:
            raise RefusedError(
                f"captioner {self.name}: its chat template leaves the sandbox of templates "
                f"({one_line(error)}); do not use this model"
            ) from error
        except Exception as error:  # a template and a processor can fail in more ways than can be listed
            if any(text in str(error) for text in ("allocate memory", "bad_alloc", "out of memory")):
                raise IncompleteError(
                    f"captioner {self.name}: memory ran out; give a smaller --batch-size or model"
                ) from error
            raise IncompleteError(
                f"captioner {self.name} failed ({type(error).__name__}: {one_line(error)})"
            ) from error
        return [" ".join(text.split()) for text in texts]

    def _inputs(self, images: Sequence[Image.Image]) -> Mapping[str, Any]:
        """Return the tensors of a batch, padded on the left where its prompts differ in length."""
        if not self._chat:
            text = {"text": [self.prompt] * len(images)} if self.prompt else {}
            found: Mapping[str, Any] = self._processor(images=list(images), return_tensors="pt", **text)
            return found
        asked = {"type": "text", "text": self.prompt}
        chats = [[{"role": "user", "content": [{"type": "image"}, asked]}] for _ in images]
        texts = [self._processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        tokenizer = self._processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        begin = tokenizer.bos_token
        # the template has written the first token; the tokenizer would write it once more
        special = {"add_special_tokens": False} if begin and texts[0].startswith(begin) else {}
        found = self._processor(
            images=[[image] for image in images], text=texts, padding=True, return_tensors="pt", **special
        )
        return found


def open_captioner(
    uri: str,
    *,
    prompt: str | None = None,
    offline: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress = SILENT,
) -> Captioner:
    """Resolve, check and load a captioner.

    Args:
        uri: A folder, or ``org/name[@revision]``.
        prompt: What it is asked; None for the paper's prompt, or none where the model has no chat template.
        offline: Use only what the cache holds.
        device: Where it runs.
        dtype: ``float32`` or ``bfloat16``.
        progress: Receives the steps.

    Raises:
        UsageError: The id is wrong, or a file of its processor is missing.
        UnsupportedError: It is no image-text-to-text model of transformers.
        RefusedError: It is unsafe.
    """
    reference = parse(uri)
    resolved, checked = resolve_with(reference, PROCESSOR, offline=offline, progress=progress)
    with progress.step(f"loading {reference.short_name}"):
        where = usable_device(device)
        try:
            captioner = _load(checked, prompt, where, DTYPES[dtype])
        except PlatodefError:
            raise
        except Exception as error:
            raise RefusedError(
                f"{checked.directory}: transformers cannot run it as a captioner "
                f"({type(error).__name__}: {one_line(error)}); do not use this model"
            ) from error
    captioner.uri, captioner.name = resolved.uri, reference.short_name
    captioner.commit = resolved.commit
    return captioner


def _load(checked: Preflight, prompt: str | None, device: torch.device, dtype: torch.dtype) -> Captioner:
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    from platodef_cli.encoders.backends.transformers_loading import configuration, load

    bundle = Bundle(Path(checked.directory), checked.files, checked.parameters, LIMITS)
    raw = bundle.json("config.json") if checked.backend == "transformers" else {}
    kind = _network_class(raw, checked.directory)
    processor = _processor(bundle)
    with memory_guard(checked.directory, "give a smaller model"), torch.inference_mode(False):
        config = configuration(bundle, raw, "sdpa" if kind._supports_sdpa else "eager")
        state = {
            key: value for key, value in bundle.state_dict().items() if not key.endswith(".position_ids")
        }
        loaded = load(bundle, kind, config, state, {}, [])
        check_keys(checked.directory, missing=loaded.missing, unexpected=loaded.dropped)
        network: Any = freeze(loaded.network, device, dtype, channels_last=False)
    _set_generation(network, bundle)
    return Captioner(network, processor, prompt, checked, device)


def _network_class(raw: Mapping[str, Any], where: str) -> Any:
    """Return the class that a configuration names, if it makes text of images.

    Raises:
        UnsupportedError: It does not.
    """
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    kinds = set(NAMES.values()) | {"BlipForConditionalGeneration"}
    for name in raw.get("architectures") or ():
        if name in kinds:
            return getattr(transformers, str(name))
    raise UnsupportedError(
        f"{where}: {raw.get('model_type')!r} is no image-text-to-text model of transformers; give one such "
        "as Qwen/Qwen3-VL-4B-Instruct"
    )


def _processor(bundle: Bundle) -> Any:
    """Build the processor of transformers from the examined files, in a folder that holds nothing else.

    Raises:
        RefusedError: It would have to run code of the repository.
        UsageError: A file is missing, or a library.
    """
    import transformers

    with TemporaryFolder("processor") as folder:
        for name in ("config.json", *PROCESSOR):
            if bundle.has(name):
                (folder / name).write_bytes(bundle.read(name))
        try:
            processor: Any = transformers.AutoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise RefusedError(
                    f"{bundle.directory}: auto_map: its processor is code of the repository; it is never run"
                ) from None
            raise UsageError(
                f"{bundle.directory}: its processor cannot be built from its files (tokenizer.json, "
                f"processor_config.json, preprocessor_config.json): {type(error).__name__}: {one_line(error)}"
            ) from None
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UsageError(
            f"{bundle.directory}: lacks the files of an image processor and a tokenizer together"
        )
    return processor


def _set_generation(network: Any, bundle: Bundle) -> None:
    """Take which tokens begin and end an answer; everything else of the settings is ours: greedy."""
    import transformers

    settings = bundle.json("generation_config.json") if bundle.has("generation_config.json") else {}
    own = network.generation_config
    kept = {name: settings.get(name, getattr(own, name, None)) for name in _TOKENS}
    text = network.config.get_text_config()
    kept = {name: value if value is not None else getattr(text, name, None) for name, value in kept.items()}
    if kept["pad_token_id"] is None:
        ends = kept["eos_token_id"]
        kept["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
    network.generation_config = transformers.GenerationConfig(**kept)
