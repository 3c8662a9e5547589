"""What the options of several methods have in common; each method's own stand in its file, derived from these."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cptlite.errors import UsageError
from cptlite.methods.descriptions import as_descriptions
from cptlite.options import Options, option

__all__ = ["MethodOptions", "PromptOptions", "TemplateOptions"]

# 75 of CLIP's 77 positions: one starts a prompt, one ends it.


@dataclass(frozen=True, kw_only=True)
class MethodOptions(Options):
    """Options of a method, none of its own."""

    @property
    def released_steps(self) -> int:
        """Optimizer steps that its released trainer takes along a batch's gradient."""
        return 1


@dataclass(frozen=True, kw_only=True)
class TemplateOptions(MethodOptions):
    """Options of a method that starts from, or is pulled to, zero-shot class weights."""

    templates: tuple[str, ...] = option(
        (), "Zero-shot prompt with {} for the class name, not the dataset's own; several make an ensemble."
    )
    descriptions: str = option(
        "", "JSON file of sentences about classes, a list by class, averaged with the zero-shot prompt."
    )

    def __post_init__(self) -> None:
        # Read once, here: what a file says later is another configuration.
        object.__setattr__(self, "descriptions", as_descriptions(self.descriptions))
        super().__post_init__()
        for template in self.templates:
            if re.findall(r"\{[^}]*\}?|\}", template) != ["{}"]:
                raise UsageError(f"a template must have one {{}} for the class name, got {template!r}")


@dataclass(frozen=True, kw_only=True)
class PromptOptions(MethodOptions):
    """Options of a method that learns a context for class prompts."""

    context_length: int = option(
        16, "Context tokens of a class prompt, L.", least=1, most=75, why="; the text encoder reads 77 tokens"
    )
    context_init: str = option("", "Words to start the class context from, which set its length; else noise.")
    position: str = option("end", "Where the class name stands.", choices=("end", "middle", "front"))
