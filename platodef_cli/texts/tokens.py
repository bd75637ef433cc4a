"""Sentences become token numbers, by ``tokenizer.json`` alone: no code and no pickle of a repository."""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import one_line
from platodef_cli.errors import RefusedError

_PADDED = ("siglip", "siglip2")
"""Model types that were trained on texts of one length, padded, without an attention mask."""
_SHIFTED = ("roberta", "xlm-roberta", "altclip")
"""Text networks whose positions start behind the number of the padding token."""
_ENDS = re.compile(r"Gemma|Llama|Siglip2")
"""Tokenizers whose settings, not their file, say which tokens stand at the ends."""
_MOST = 4096


class Words:
    """Turns sentences into token numbers as the library of a model does.

    Args:
        bundle: Holds ``tokenizer.json`` and, where there is one, ``tokenizer_config.json``.
        config: Configuration object of transformers.

    Raises:
        RefusedError: The tokenizer is malformed, or has more tokens than the network has rows.
    """

    def __init__(self, bundle: Bundle, config: Any):
        self._where = f"{bundle.directory}/tokenizer.json"
        settings = bundle.json("tokenizer_config.json") if bundle.has("tokenizer_config.json") else {}
        try:
            self._tokenizer = Tokenizer.from_buffer(bytes(bundle.read("tokenizer.json")))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            self._set_ends(settings)
        except RefusedError:
            raise
        except Exception as error:
            raise RefusedError(f"{self._where}: malformed ({one_line(error)}); do not use it") from None
        text = config.get_text_config()
        self._kind = str(config.model_type)
        self.padded = self._kind in _PADDED
        self._left = settings.get("padding_side") == "left"
        positions = getattr(text, "max_position_embeddings", None)
        self.length = min(_MOST, positions if isinstance(positions, int) and positions > 0 else 512)
        pad = self._number(settings.get("pad_token"))
        stated = getattr(text, "pad_token_id", None)
        self._pad = pad if pad is not None else stated if isinstance(stated, int) else 0
        if str(getattr(text, "model_type", "")).startswith(_SHIFTED):
            self.length -= self._pad + 1
        rows = getattr(text, "vocab_size", None)
        if isinstance(rows, int) and self._tokenizer.get_vocab_size() > rows:
            raise RefusedError(f"{self._where}: has more tokens than the network has rows ({rows})")
        # the tokens at the ends survive the cut
        self._tokenizer.enable_truncation(self.length)

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of every text; of one length where the model was trained so."""
        found = [entry.ids for entry in self._tokenizer.encode_batch([self._plain(text) for text in texts])]
        if not self.padded:
            return found
        fill = [[self._pad] * (self.length - len(ids)) for ids in found]
        if self._left:
            return [more + ids for more, ids in zip(fill, found, strict=True)]
        return [ids + more for more, ids in zip(fill, found, strict=True)]

    def _plain(self, text: str) -> str:
        """Write a text as the model's own processor does before it looks for tokens."""
        if self._kind == "siglip":
            text = text.translate(str.maketrans("", "", string.punctuation))
            text = " ".join(text.split())
        return text.lower() if self.padded else text

    def _set_ends(self, settings: Mapping[str, Any]) -> None:
        """Put the tokens at the ends that the settings ask for."""
        flags = {name: settings.get(f"add_{name}_token") for name in ("bos", "eos")}
        kind = str(settings.get("tokenizer_class", ""))
        if not _ENDS.search(kind) or all(flag is None for flag in flags.values()):
            return
        tokens = {name: _content(settings.get(f"{name}_token")) for name, flag in flags.items() if flag}
        special = [(text, self._number(text)) for text in tokens.values()]
        if any(number is None for _, number in special):
            raise RefusedError(f"{self._where}: lacks a token that tokenizer_config.json puts at the ends")
        before, after = tokens.get("bos"), tokens.get("eos")
        single = " ".join(part for part in (before, "$A", after) if part)
        self._tokenizer.post_processor = TemplateProcessing(
            single=single, pair=f"{single} $B", special_tokens=special
        )

    def _number(self, token: Any) -> int | None:
        text = _content(token)
        return None if text is None else self._tokenizer.token_to_id(text)


def _content(token: Any) -> str | None:
    """Return the text of a token: itself, or a record with its ``content``."""
    value = token.get("content") if isinstance(token, dict) else token
    return value if isinstance(value, str) else None
