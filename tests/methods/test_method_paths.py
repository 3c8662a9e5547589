"""Every prompt method through both text paths: class weights and the gradient of every learnable.

`tests/text` compares the paths on one layout; here the methods put several on top of one another. The measure is the
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

from cptlite.backbones import Backbone
from cptlite.datasets.types import Task
from cptlite.methods.base import Problem, PromptMethod
from cptlite.methods.batches import Batch
from cptlite.methods.prompts.class_weights import ClassWeightMethod
from cptlite.methods.prompts.cocoop import CoCoOp
from cptlite.methods.prompts.plot import Plot
from cptlite.methods.prompts.softcpt import VARIANTS
from cptlite.methods.table import METHODS, find_method
from cptlite.text.encoder import TEXT_PATHS, TextEncoder
from cptlite.text.layout import POSITIONS

TOLERANCE = 1e-5
EMBED_DIM = 64  # CoCoOp has a 16th of it for hidden units; the gradient of one alone cancels to noise
PLACES = 5
ONE_CHUNK_A_PROMPT = 1e-9  # GiB

# TaskRes learns no prompt.
PROMPTED = [name for name, entry in METHODS.items() if entry.stepped and name != "taskres"]
KINDS = [(name, "", "") for name in PROMPTED if name != "softcpt"]
KINDS += [
    ("softcpt", variant, sub_network)
    for variant, (class_features, *_) in VARIANTS.items()
    for sub_network in (("lin", "linmean", "lincls") if class_features else ("lin",))
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


@dataclass(frozen=True)
class Runs:
    """A method and the learnables of R runs, leaves; the same whatever the text path."""

    method: PromptMethod
    learnables: dict[str, Tensor]

    @property
    def count(self) -> int:
        return len(next(iter(self.learnables.values())))

    def pick(self, run: int, method: PromptMethod) -> Runs:
        """One of the runs alone, in another method."""
        values = {name: value.detach()[run : run + 1].requires_grad_() for name, value in self.learnables.items()}
        return Runs(method, values)


def make_runs(
    kind: tuple[str, str, str], case: Case, path: str, position: str = "end", memory: float = 8.0, count: int = 1
) -> Runs:
    """Make a method and drawn learnables of some runs."""
    name, variant, sub_network = kind
    tasks = tuple(
        Task(id=str(index), name=task, class_names=classes, template="a photo of a {}.", metric="acc1")
        for index, (task, classes) in enumerate(case.tasks[:1] if name == "cocoop" else case.tasks)
    )
    text = TextEncoder(tiny_backbone().text_tower, tiny_backbone().tokenizer, path, memory=memory)
    length, task_length, class_length = case.lengths
    given = {
        "context_length": length,
        "context_init": "",
        "task_context_length": task_length,
        "class_context_length": class_length,
        "position": position,
        **({"variant": variant, "sub_network": sub_network} if variant else {}),
    }
    entry = find_method(name)
    known = {each.name for each in entry.list_options()}
    options = entry.new_options(**{option: value for option, value in given.items() if option in known})
    method = entry.method(Problem(tasks=tasks, text=text), options, runs=count)
    generator = torch.Generator().manual_seed(0)
    learnables = {
        key: (torch.randn((count, *value.shape), generator=generator) * 0.2).requires_grad_()
        for key, value in method.start(generator).items()
    }
    return Runs(method, learnables)


def class_weights(runs: Runs) -> Tensor:
    """Class weights (R, ...) of a method, or what comes nearest: those of three images, or of every prompt."""
    method = runs.method
    if isinstance(method, ClassWeightMethod):
        return method.class_weights(runs.learnables)
    if isinstance(method, Plot):
        return method.prompt_weights(runs.learnables)
    assert isinstance(method, CoCoOp)
    images = torch.randn((runs.count, 3, EMBED_DIM), generator=torch.Generator().manual_seed(3))
    return method._classifier(runs.learnables).weights(images)


def weights_and_gradients(runs: Runs) -> dict[str, Tensor]:
    """Class weights, and each learnable's gradient of a random mix of them; zeros for one without a part in them."""
    weights = class_weights(runs)
    mix = (weights * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))).sum()
    found = torch.autograd.grad(mix, list(runs.learnables.values()), allow_unused=True, materialize_grads=True)
    return {"class weights": weights.detach(), **dict(zip(runs.learnables, found, strict=True))}


def draw_batch(runs: Runs) -> Batch:
    """Six rows of pooled features, or of patches for a method of these."""
    generator = torch.Generator().manual_seed(2)
    shape = (PLACES, EMBED_DIM) if isinstance(runs.method, Plot) else (EMBED_DIM,)
    images = torch.randn((runs.count, 6, *shape), generator=generator)
    labels = torch.randint(len(runs.method.problem.class_names), (runs.count, 6), generator=generator)
    return Batch(images=images, labels=labels)


def loss_and_step(runs: Runs) -> dict[str, Tensor]:
    """Losses of a batch and the gradients that training steps along; one of no numbers may be there or not."""
    loss, found = runs.method.gradients(runs.learnables, draw_batch(runs))
    return {"loss": loss, **{name: gradient for name, gradient in found.items() if gradient.numel()}}


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
    plain, fused = (weights_and_gradients(make_runs(kind, case, path, position)) for path in ("plain", "fused"))
    assert_agree(plain, fused)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_paths_step_alike(kind: tuple[str, str, str]) -> None:
    """The loss's own gradient: KgCoOp's pull and ProGrad's projection included."""
    for case in (CASES["names that begin alike"], CASES["no task and class-feature context"]):
        plain, fused = (loss_and_step(make_runs(kind, case, path)) for path in ("plain", "fused"))
        assert_agree(plain, fused)
        learned = {name for name, value in make_runs(kind, case, "fused").learnables.items() if value.numel()}
        assert fused.keys() == {"loss", *learned} - ({"task_context"} if kind[2] == "lincls" else set())


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_paths_agree_on_several_runs(kind: tuple[str, str, str], position: str) -> None:
    for case in (Case(PETS), CASES["equal names in two tasks"]):
        plain, fused = (
            weights_and_gradients(make_runs(kind, case, path, position, count=3)) for path in ("plain", "fused")
        )
        assert_agree(plain, fused)
        assert plain["class weights"].shape[0] == 3


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_a_run_among_others_steps_as_alone(kind: tuple[str, str, str]) -> None:
    together = make_runs(kind, Case(PETS), "fused", count=3)
    batch = draw_batch(together)
    losses, gradients = together.method.gradients(together.learnables, batch)
    for run in range(3):
        alone = together.pick(run, make_runs(kind, Case(PETS), "plain").method)
        of_run = batch.map(lambda tensor, run=run: tensor[run : run + 1])
        loss, own = alone.method.gradients(alone.learnables, of_run)
        among = {name: gradient[run : run + 1] for name, gradient in gradients.items()}
        assert_agree({"loss": loss, **own}, {"loss": losses[run : run + 1], **among})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_a_method_planned_for_one_run_takes_several(kind: tuple[str, str, str]) -> None:
    """And the other way round: what was planned for is no bound."""
    three, one = (make_runs(kind, Case(PETS), "fused", count=count) for count in (3, 1))
    assert_agree(loss_and_step(three), loss_and_step(Runs(one.method, three.learnables)))
    assert_agree(loss_and_step(three.pick(1, one.method)), loss_and_step(three.pick(1, three.method)))


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(filter(None, kind)))
def test_chunks_change_nothing(kind: tuple[str, str, str], path: str) -> None:
    whole, chunked = (make_runs(kind, Case(PETS), path, memory=memory) for memory in (8.0, ONE_CHUNK_A_PROMPT))
    assert_agree(weights_and_gradients(whole), weights_and_gradients(chunked))
    assert_agree(loss_and_step(whole), loss_and_step(chunked))


@pytest.mark.parametrize("path", TEXT_PATHS)
@pytest.mark.parametrize(
    "kind",
    [("coop-ca", "", ""), ("cocoop", "", ""), ("prograd", "", ""), ("plot", "", ""), ("softcpt", "csts", "lin")],
    ids=str,
)
def test_chunks_change_nothing_of_several_runs(kind: tuple[str, str, str], path: str) -> None:
    for memory in (2e-4, ONE_CHUNK_A_PROMPT):
        whole, chunked = (
            loss_and_step(make_runs(kind, Case(PETS), path, memory=bound, count=3)) for bound in (8.0, memory)
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
    for count in (1, 3):
        sizes.clear()
        make_runs(("coop-mt", "", ""), Case(PETS), path, memory=ONE_CHUNK_A_PROMPT, count=count)
        assert sizes == [1] * 5 * count
