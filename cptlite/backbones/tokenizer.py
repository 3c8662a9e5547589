"""What prompts need of a tokenizer, and CLIP's byte-pair tokenizer."""

from __future__ import annotations

from typing import Protocol

from cptlite.backbones.clip import SimpleTokenizer

__all__ = ["TokenSource", "Tokenizer"]


class TokenSource(Protocol):
    """What prompts need of a tokenizer.

    Attributes
    ----------
    sos, eos : int
        Ids of the start and end tokens; a vocabulary may have no start.
    pad : int
        What fills a text up.
    """

    @property
    def sos(self) -> int | None:
        """Start token."""

    @property
    def eos(self) -> int:
        """End token."""

    @property
    def pad(self) -> int:
        """Token behind the end."""

    def encode(self, text: str) -> list[int]:
        """Token ids without start and end."""

    def word(self, token: int) -> str:
        """Text of a token, for people."""


class Tokenizer:
    """CLIP's byte-pair tokenizer, without the start and end tokens.

    Attributes
    ----------
    sos, eos : int
        Ids of the start and end tokens.
    pad : int
        What fills a text up.
    """

    pad = 0

    def __init__(self) -> None:
        self._bpe = SimpleTokenizer()
        self.sos: int = self._bpe.encoder["<|startoftext|>"]
        self.eos: int = self._bpe.encoder["<|endoftext|>"]

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; lower-cased and cleaned as CLIP does."""
        return list(self._bpe.encode(text))

    def word(self, token: int) -> str:
        r"""Text of a token: with ``-`` behind it where a word goes on, and ``\xff`` for a byte that is no letter."""
        text: str = self._bpe.decoder[token]
        content = bytes(self._bpe.byte_decoder[letter] for letter in text.removesuffix("</w>"))
        return content.decode(errors="backslashreplace") + "-" * (not text.endswith("</w>"))
