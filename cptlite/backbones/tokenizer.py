"""CLIP's byte-pair tokenizer."""

from __future__ import annotations

from cptlite.backbones.clip import SimpleTokenizer

__all__ = ["Tokenizer"]


class Tokenizer:
    """CLIP's byte-pair tokenizer, without the start and end tokens.

    Attributes
    ----------
    sos, eos : int
        Ids of the start and end tokens.
    """

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
