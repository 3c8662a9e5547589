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
