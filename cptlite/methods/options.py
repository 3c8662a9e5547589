"""What the options of several methods have in common; each method's own stand in its file, derived from these."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cptlite.errors import UsageError
from cptlite.methods.class_texts import TEXT_OPTIONS, as_class_texts
from cptlite.options import Options, option

__all__ = ["MethodOptions", "PinnedRun", "PromptOptions", "ReferenceOptions", "TemplateOptions"]

# 75 of CLIP's 77 positions: one starts a prompt, one ends it.


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """Options of a method, none of its own."""

    def __post_init__(self) -> None:
        # Files of class texts are read once, here: what one says later is another configuration.
        for name in TEXT_OPTIONS:
            if hasattr(self, name):
                object.__setattr__(self, name, as_class_texts(name, getattr(self, name)))
        super().__post_init__()

    @property
    def released_steps(self) -> int:
        """Optimizer steps that its released trainer takes along a batch's gradient."""
        return 1

    def pinned(self) -> Self:
        """Say beside each file that an option names what is in it, so that another content is another configuration."""
        return self


@dataclass(frozen=True)
class PinnedRun:
    """A finished run as an option names it once that is pinned: ``FOLDER@`` and 16 hex digits.

    Attributes
    ----------
    folder : Path
    digest : str
        The first digits of the SHA-256 of what it learned.
    """

    folder: Path
    digest: str

    @classmethod
    def read(cls, text: str) -> PinnedRun | None:
        """Take a text apart; None where it is not pinned."""
        found = re.fullmatch("(.+)@([0-9a-f]{16})", text, re.DOTALL)
        return cls(Path(found[1]), found[2]) if found else None


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(MethodOptions):
    """Options of a method that reads hand-written prompts."""

    templates: tuple[str, ...] = option(
        (), "Zero-shot prompt with {} for the class name, not the dataset's own; several make an ensemble."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for template in self.templates:
            if re.findall(r"\{[^}]*\}?|\}", template) != ["{}"]:
                raise UsageError(f"a template must have one {{}} for the class name, got {template!r}")


@dataclass(frozen=True, kw_only=True)
class TemplateOptions(ReferenceOptions):
    """Options of a method that starts from, or is pulled to, zero-shot class weights."""

    descriptions: str = option(
        "", "JSON file of sentences about classes, a list by class, averaged with the zero-shot prompt."
    )


@dataclass(frozen=True, kw_only=True)
class PromptOptions(MethodOptions):
    """Options of a method that learns a context for class prompts."""

    context_length: int = option(
        16, "Context tokens of a class prompt, L.", least=1, most=75, why="; the text encoder reads 77 tokens"
    )
    context_init: str = option("", "Words to start the class context from, which set its length; else noise.")
    position: str = option("end", "Where the class name stands.", choices=("end", "middle", "front"))
