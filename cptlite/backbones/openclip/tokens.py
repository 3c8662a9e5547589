"""Tokenizers of open_clip's models: CLIP's own, or one of the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from cptlite.backbones.openclip.library import load_tokenizer
from cptlite.backbones.tokenizer import Tokenizer, TokenSource
from cptlite.datasets.text_files import shown
from cptlite.errors import DataError

__all__ = ["HubTokenizer", "find_tokenizer"]


def find_tokenizer(model: str, config: Mapping[str, Any]) -> TokenSource:
    """Find the tokenizer of a model; one of the hub is not loaded yet."""
    source = config["text_cfg"].get("hf_tokenizer_name")
    return HubTokenizer(model, source) if source else Tokenizer()


class HubTokenizer:
    """A tokenizer that open_clip gets from the Hugging Face Hub, when it is first asked for anything.

    Parameters
    ----------
    model : str
    source : str
        Its name in the hub.
    """

    def __init__(self, model: str, source: str) -> None:
        self._model, self._source = model, source

    @cached_property
    def _loaded(self) -> Any:
        try:
            return load_tokenizer(self._model)
        except (
            Exception
        ) as error:  # transformers, sentencepiece, tokenizers, a network, a cache: each fails its own way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"wanted the tokenizer {self._source!r} of {self._model}, which open_clip gets from the Hugging Face "
                f"Hub, and it could not be loaded ({shown(reason)}): pip install transformers sentencepiece, and fetch "
                f"it where there is a network; image features, and probes on them, do without"
            ) from None

    @cached_property
    def _specials(self) -> list[int]:
        """What stands around a text: start and end, or the end alone."""
        found: list[int] = self._loaded.tokenizer("").input_ids
        if len(found) not in (1, 2):
            raise DataError(f"wanted a tokenizer that puts a start and an end around a text, got {len(found)} tokens")
        return found

    @property
    def sos(self) -> int | None:
        """Start token, where there is one."""
        return self._specials[0] if len(self._specials) == 2 else None

    @property
    def eos(self) -> int:
        """End token; 0 where open_clip strikes it out."""
        return 0 if getattr(self._loaded, "strip_sep_token", False) else self._specials[-1]

    @property
    def pad(self) -> int:
        """Token behind the end."""
        return int(self._loaded.tokenizer.pad_token_id or 0)

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end, of the text as open_clip cleans it."""
        clean = self._loaded.clean_fn(text)
        return list(self._loaded.tokenizer(clean, add_special_tokens=False).input_ids)

    def word(self, token: int) -> str:
        """Piece of text that a token stands for."""
        return str(self._loaded.tokenizer.convert_ids_to_tokens(token))
