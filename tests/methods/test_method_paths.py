"""Every prompt method through both text paths: class weights and the gradient of every learnable.

`test_text` compares the paths on one layout; here the methods put several on top of one another. The measure is the
largest difference as a share of the largest magnitude, float32.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from cptlite.backbones.clip import Backbone
from cptlite.datasets.types import Task
from cptlite.methods.base import Problem, PromptMethod, PromptOptions
from cptlite.methods.prompts.class_weights import ClassWeightMethod
from cptlite.methods.prompts.cocoop import CoCoOp
from cptlite.methods.prompts.plot import Plot
from cptlite.methods.prompts.softcpt import SUB_NETWORKS, VARIANTS
from cptlite.methods.table import METHODS
from cptlite.text.encoder import TEXT_PATHS, TextEncoder
from cptlite.text.layout import POSITIONS

TOLERANCE = 1e-5
EMBED_DIM = 64  # CoCoOp has a 16th of it for hidden units; the gradient of one alone cancels to noise
PLACES = 5
ONE_CHUNK_A_PROMPT = 1e-9  # GiB

KINDS = [(name, "", "") for name in ("coop-mt", "coop-ca", "coop-cs", "cocoop", "kgcoop", "prograd", "plot")]
KINDS += [
    ("softcpt", variant, sub_network)
    for variant, (class_features, *_) in VARIANTS.items()
    for sub_network in (SUB_NETWORKS if class_features else ("lin",))
]
"""Method, variant and sub-network."""


@cache
def tiny_backbone() -> Backbone:
    """Two layers of text, untrained, with embeddings large enough for the tokens to matter."""
    from clip.model import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = {"image_resolution": 16, "vision_layers": 1, "vision_width": 64, "vision_patch_size": 16}
        text = {"transformer_width": 32, "transformer_heads": 2, "transformer_layers": 2}
        model = CLIP(embed_dim=EMBED_DIM, context_length=77, vocab_size=49408, **vision, **text)
        model.token_embedding.weight.data *= 10
        model.positional_embedding.data *= 10
    return Backbone(name="tiny", weights_sha256="", precision="float32", model=model.requires_grad_(False).eval())


@dataclass(frozen=True)
class Case:
    """Tasks as (name, class names), and context lengths L, M and Mc."""

    tasks: tuple[tuple[str, tuple[str, ...]], ...]
    lengths: tuple[int, int, int] = (4, 2, 3)


PETS = (("pet", ("cat", "red dog", "dog")), ("fruit", ("fig", "kiwi")))
CASES = {
    "one class": Case((("pet", ("cat",)),)),
    "one class in each task": Case((("pet", ("cat",)), ("fruit", ("fig",)), ("tool", ("saw",)))),
    "one task": Case((("fruit", ("fig", "kiwi", "plum")),)),
    "names that begin alike": Case((("dog", ("dog", "dog house", "dog house keeper")), ("dog house", ("dog", "do")))),
    "equal names in two tasks": Case((("pet", ("dog", "cat")), ("pet", ("cat", "dog")))),
    "equal names in one task": Case((("pet", ("dog", "dog", "cat")),)),
    "no task and class-feature context": Case(PETS, (4, 0, 0)),
    "one context token": Case(PETS, (1, 1, 1)),
    "60 tokens": Case((("pet", (" ".join(["word"] * 60), "cat")), (" ".join(["word"] * 60), ("fig",)))),
    "beyond ASCII": Case(
        (("Bäume", ("オーク", "Traubeneiche", "дуб", "🌳 🌲")), ("x_y", ("über_den_Wolken", "St. 737-200"))),
    ),
}

WORDS = ["a", "dog", "dog house", "red", "red panda", "737-200", "737-300", "St.", "über", "x_y", "オーク"]
NAMES = st.one_of(st.sampled_from(WORDS), st.text(string.ascii_letters + "_-. üж犬🐕", min_size=1, max_size=9))
DRAWN = st.builds(
    Case,
    st.lists(st.tuples(NAMES, st.lists(NAMES, min_size=1, max_size=4).map(tuple)), min_size=1, max_size=3).map(tuple),
    st.tuples(st.integers(1, 9), st.integers(0, 5), st.integers(0, 5)),
)


def make_method(
    kind: tuple[str, str, str], case: Case, path: str, position: str = "end", memory: float = 8.0, runs: int = 0
) -> PromptMethod:
    """Make a method whose learnables are the same whatever the path; of several runs where ``runs`` is given."""
    name, variant, sub_network = kind
    tasks = tuple(
        Task(id=str(index), name=task, class_names=classes, template="a photo of a {}.", metric="acc1")
        for index, (task, classes) in enumerate(case.tasks[:1] if name == "cocoop" else case.tasks)
    )
    text = TextEncoder(tiny_backbone().text_tower, tiny_backbone().tokenizer, path, memory=memory)
    length, task_length, class_length = case.lengths
    options = PromptOptions(
        context_length=length, task_context_length=task_length, class_context_length=class_length, position=position
    )
    build = METHODS[name].prompts
    assert build is not None
    method = build(Problem(tasks=tasks, text=text), replace(options, sub_network=sub_network or "lin"), variant)
    generator = torch.Generator().manual_seed(0)
    for value in method.parameters():
        value.data = torch.randn((runs, *value.shape) if runs else value.shape, generator=generator) * 0.2
    return method


def class_weights(method: PromptMethod) -> Tensor:
    """Class weights of a method, or what comes nearest: those of three images, or of every prompt."""
    if isinstance(method, ClassWeightMethod):
        return method.class_weights()
    if isinstance(method, Plot):
        return method.prompt_weights()
    assert isinstance(method, CoCoOp)
    runs = method.context.shape[:-3]
    images = torch.randn((*runs, 3, EMBED_DIM), generator=torch.Generator().manual_seed(3))
    return method.image_weights(images)


def weights_and_gradients(method: PromptMethod) -> dict[str, Tensor]:
    """Class weights, and each learnable's gradient of a random mix of them."""
    weights = class_weights(method)
    (weights * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {"class weights": weights.detach(), **gradients(method)}


def draw_images(method: PromptMethod, batch: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pooled features (..., B, D), or local ones (..., B, M, D) for a method of these."""
    shape = (PLACES, EMBED_DIM) if isinstance(method, Plot) else (EMBED_DIM,)
    return torch.randn((*batch, *shape), generator=generator)


def loss_and_step(method: PromptMethod, runs: int = 0) -> dict[str, Tensor]:
    """Loss on a batch and the gradients that training steps along."""
    generator = torch.Generator().manual_seed(2)
    batch = (runs, 6) if runs else (6,)
    images = draw_images(method, batch, generator)
    labels = torch.randint(len(method.problem.class_names), batch, generator=generator)
    return {"loss": method.backward(images, labels), **gradients(method)}


def gradients(method: PromptMethod) -> dict[str, Tensor]:
    """Gradient of every learnable; zeros for one that has no part in the weights (lincls: the task context)."""
    return {
        name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in method.named_parameters()
    }


def assert_agree(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert one.keys() == other.keys()
    for name, wanted in one.items():
        if wanted.numel():
            difference = float((wanted - other[name]).abs().max())
            assert difference <= tolerance * float(wanted.abs().max()), (name, difference, float(wanted.abs().max()))
        assert wanted.shape == other[name].shape


@pytest.mark.slow
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
@settings(max_examples=4, deadline=None)
@given(case=DRAWN)
@example(case=CASES["one class"])
@example(case=CASES["one class in each task"])
@example(case=CASES["one task"])
@example(case=CASES["names that begin alike"])
@example(case=CASES["equal names in two tasks"])
@example(case=CASES["equal names in one task"])
@example(case=CASES["no task and class-feature context"])
@example(case=CASES["one context token"])
@example(case=CASES["60 tokens"])
@example(case=CASES["beyond ASCII"])
def test_paths_agree(kind: tuple[str, str, str], position: str, case: Case) -> None:
    plain, fused = (weights_and_gradients(make_method(kind, case, path, position)) for path in ("plain", "fused"))
    assert_agree(plain, fused)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_paths_step_alike(kind: tuple[str, str, str]) -> None:
    """The loss's own gradient: KgCoOp's pull and ProGrad's projection included."""
    for case in (CASES["names that begin alike"], CASES["no task and class-feature context"]):
        plain, fused = (loss_and_step(make_method(kind, case, path)) for path in ("plain", "fused"))
        assert_agree(plain, fused)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_paths_agree_on_several_runs(kind: tuple[str, str, str], position: str) -> None:
    for case in (Case(PETS), CASES["equal names in two tasks"]):
        plain, fused = (
            weights_and_gradients(make_method(kind, case, path, position, runs=3)) for path in ("plain", "fused")
        )
        assert_agree(plain, fused)
        assert plain["class weights"].shape[0] == 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_a_run_among_others_steps_as_alone(kind: tuple[str, str, str]) -> None:
    together = make_method(kind, Case(PETS), "fused", runs=3)
    generator = torch.Generator().manual_seed(2)
    images = draw_images(together, (3, 6), generator)
    labels = torch.randint(len(together.problem.class_names), (3, 6), generator=generator)
    losses = together.backward(images, labels)
    for run in range(3):
        alone = make_method(kind, Case(PETS), "plain")
        for own, all_runs in zip(alone.parameters(), together.parameters(), strict=True):
            own.data = all_runs.data[run].clone()
        loss = alone.backward(images[run], labels[run])
        own = {name: gradient[run] for name, gradient in gradients(together).items()}
        assert_agree({"loss": loss, **gradients(alone)}, {"loss": losses[run], **own})


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_chunks_change_nothing(kind: tuple[str, str, str], path: str) -> None:
    few = make_method(kind, Case(PETS), path)
    whole, chunked = (
        weights_and_gradients(make_method(kind, Case(PETS), path, memory=memory))
        for memory in (8.0, ONE_CHUNK_A_PROMPT)
    )
    assert_agree(whole, chunked)
    assert_agree(loss_and_step(few), loss_and_step(make_method(kind, Case(PETS), path, memory=ONE_CHUNK_A_PROMPT)))


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize(
    "kind",
    [("coop-ca", "", ""), ("cocoop", "", ""), ("prograd", "", ""), ("plot", "", ""), ("softcpt", "csts", "lin")],
    ids=str,
)
def test_chunks_change_nothing_of_several_runs(kind: tuple[str, str, str], path: str) -> None:
    for memory in (2e-4, ONE_CHUNK_A_PROMPT):
        whole, chunked = (
            loss_and_step(make_method(kind, Case(PETS), path, memory=bound, runs=2), runs=2) for bound in (8.0, memory)
        )
        assert_agree(whole, chunked)


@pytest.mark.parametrize("path", TEXT_PATHS)
def test_a_small_memory_does_make_chunks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    prepare = TEXT_PATHS[path].prepare

    def watched(tower: object, layout: object) -> object:
        sizes.append(len(layout))  # type: ignore[arg-type]
        return prepare(tower, layout)  # type: ignore[arg-type]

    monkeypatch.setitem(TEXT_PATHS, path, replace(TEXT_PATHS[path], prepare=watched))
    make_method(("coop-mt", "", ""), Case(PETS), path, memory=ONE_CHUNK_A_PROMPT).classifier()
    assert sizes == [1] * 5
