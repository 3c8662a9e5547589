"""Classes and tasks by their names: the weights that training itself makes of names it did not learn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_bench import BACKBONE, DATASETS, RunBench, least

import cptlite
from cptlite.backbones import load_backbone
from cptlite.cache import FeatureCache
from cptlite.classifiers import pack_classifier, unpack_classifier
from cptlite.errors import DataError, UsageError
from cptlite.methods.table import METHODS
from cptlite.runs.by_name import classify_by_name, extend_classifier, name_task
from cptlite.runs.load import FinishedRun, read_run

NAMED = [name for name, entry in METHODS.items() if entry.scope_of((entry.variants or ("",))[0]) != "class"]
LEARNED = [name for name in METHODS if name not in NAMED]
SHARED = [name for name in NAMED if METHODS[name].scope_of((METHODS[name].variants or ("",))[0]) == "everything"]


def features_for(run: FinishedRun) -> torch.Tensor:
    patches = (5,) if run.config.entry.needs_patches else ()
    shape = (4, *patches, run.stored.backbone.embed_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def scores_of(run: FinishedRun, task: str, features: torch.Tensor) -> torch.Tensor:
    return run.stored.classifier.scores(features, run.stored.classes_of(task))


@torch.no_grad()
def check_task(run: FinishedRun, id: str, names: list[str]) -> None:
    """A task's classes by their names have the scores of the classifier that the run ended as."""
    features = features_for(run)
    named = name_task(run, id, names)
    assert named == next(task for task in run.stored.tasks if task.id == id)
    found = classify_by_name(run, named).scores(features)
    torch.testing.assert_close(found, scores_of(run, id, features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", NAMED)
def test_classes_by_name_have_the_weights_that_training_gives_them(bench: RunBench, method: str) -> None:
    run = read_run(bench.train("runs", least(method, classes="base")))  # the second half was not learned from
    for id, names in DATASETS.items():
        check_task(run, id, names)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("kgcoop", {"separate": False}),
        ("plot", {"separate": False}),
        ("coop-mt", {"separate": True}),
        ("coop-mt", {"datasets": ("leaves",)}),
        ("coop-mt", {"context_init": "a photo of a"}),
        ("softcpt", {"variant": "nats"}),
        ("softcpt", {"variant": "cata"}),
        ("softcpt", {"variant": "cats"}),
        ("zeroshot", {"template": ("a drawing of {}.", "a photo of {}.")}),
        ("coop-ca", {"text_path": "plain"}),
    ],
)
def test_whichever_way_they_were_learned(bench: RunBench, method: str, given: dict) -> None:
    if "template" in given:
        given = {"templates": given["template"]}
    run = read_run(bench.train("runs", least(method, **given)))
    for task in run.stored.tasks:
        check_task(run, task.id, list(task.class_names))


@pytest.mark.parametrize("method", SHARED)
def test_a_task_that_was_held_out_is_made_of_its_words(bench: RunBench, method: str) -> None:
    run = read_run(bench.train("runs", least(method, held_out_tasks=("leaves",))))
    check_task(run, "leaves", DATASETS["leaves"])
    known = next(task for task in run.stored.tasks if task.id == "leaves")
    new = replace(run, stored=replace(run.stored, tasks=tuple(each for each in run.stored.tasks if each != known)))
    named = name_task(new, known.name, DATASETS["leaves"])
    assert named.id == named.name == known.name
    features = features_for(run)
    found = classify_by_name(new, named if method != "zeroshot" else replace(named, template=known.template))
    torch.testing.assert_close(found.scores(features), scores_of(run, "leaves", features), rtol=1e-4, atol=1e-4)


def test_softcpt_reads_the_new_task_s_name_and_coop_mt_does_not(bench: RunBench) -> None:
    for method, same in (("softcpt", False), ("coop-mt", True)):
        run = read_run(bench.train("runs", least(method)))
        features = features_for(run)
        tasks = [name_task(run, word, ["cap", "stem"]) for word in ("mushroom", "ship")]
        one, other = (classify_by_name(run, task).scores(features) for task in tasks)
        assert torch.allclose(one, other) is same, method


@pytest.mark.parametrize("method", LEARNED)
def test_methods_that_learn_for_each_class_say_so(bench: RunBench, method: str) -> None:
    run = read_run(bench.train("runs", least(method)))
    with pytest.raises(
        UsageError, match=rf"^{method.replace('+', '[+]')} learns numbers for each class .*\(ash, elm, oak\)"
    ):
        name_task(run, "leaves", ["fir"])


@pytest.mark.parametrize(("method", "given"), [("coop-ca", {}), ("coop-mt", {"separate": True}), ("cocoop", {})])
def test_methods_that_learn_for_each_task_say_so(bench: RunBench, method: str, given: dict) -> None:
    run = read_run(bench.train("runs", least(method, **given)))
    with pytest.raises(
        UsageError, match=f"{method} learned numbers for each task .* new task 'mushroom'.*coins, leaves"
    ):
        name_task(run, "mushroom", ["cap"])


# Extended classifiers


@pytest.mark.parametrize("method", NAMED)
def test_an_extended_task_keeps_its_weights_and_gets_those_of_names(bench: RunBench, method: str) -> None:
    run = read_run(bench.train("runs", least(method)))
    with torch.no_grad():
        check_extended(bench, run)


def check_extended(bench: RunBench, run: FinishedRun) -> None:
    features = features_for(run)
    extended = extend_classifier(run, "leaves", ["fir", "larch"])
    packed = unpack_classifier(pack_classifier(extended), text=bench.text)
    assert packed.tasks == extended.tasks
    assert [len(task.class_names) for task in packed.tasks] == [2, 5, 2]
    for task in DATASETS:
        found = packed.classifier.scores(features, packed.classes_of(task))
        own = scores_of(run, task, features)
        # The weights are the same; a product of another width is rounded otherwise.
        torch.testing.assert_close(found[:, : own.shape[1]], own, rtol=1e-4, atol=1e-4)
    for name, before in run.stored.classifier.tensors().items():
        after = packed.classifier.tensors()[name]
        if len(after) == len(before) + 2 and not name.startswith("1/"):  # of all classes
            after = torch.cat([after[:5], after[7:]])
        if name.startswith("1/") and len(after) != len(before):  # of the task's
            after = after[: len(before)]
        assert torch.equal(after, before), name
    new = classify_by_name(run, name_task(run, "leaves", ["fir", "larch"])).scores(features)
    found = packed.classifier.scores(features, packed.classes_of("leaves"))[:, 3:]
    torch.testing.assert_close(found, new, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", SHARED)
def test_a_new_task_stands_behind_the_others(bench: RunBench, method: str) -> None:
    run = read_run(bench.train("runs", least(method)))
    extended = extend_classifier(run, "mushroom", ["cap", "stem"])
    assert [task.id for task in extended.tasks] == [*DATASETS, "mushroom"]
    assert extended.class_names[-2:] == ("cap", "stem")
    assert torch.equal(extended.classifier.tensors()["weights"][:7], run.stored.classifier.tensors()["weights"])


def test_extended_from_python_it_predicts_images(bench: RunBench, caches: Path, opened: list[FeatureCache]) -> None:
    run = cptlite.load_run(bench.train("runs", least("softcpt")))
    more = run.extend("mushroom", ["cap", "stem"]).extend("leaves", ["fir"])
    images = [caches.parent / "leaves" / path for path in opened[1].paths("test")]
    assert set(more.predict(images, "mushroom")) <= {"cap", "stem"}
    assert more.scores(images, "leaves").shape == (len(images), 4)
    assert np.allclose(more.scores(images, "leaves")[:, :3], run.scores(images, "leaves"), atol=1e-4)
    assert len(run.tasks_) == 3, "the run itself stays as it is"
    fitted = cptlite.FewShotClassifier("coop-mt", bench.backbone, shots=2, epochs=1).fit(opened)
    with pytest.raises(UsageError, match="wanted a run that cptlite.load_run has read"):
        fitted.extend("leaves", ["fir"])


@pytest.mark.parametrize(
    ("word", "names", "message"),
    [
        ("leaves", ["fir", "Oak"], "wanted new classes of task 'leaves', got 'Oak', which it has"),
        ("leaves", ["fir", "fir"], "wanted each class once, got 'fir' again"),
        ("leaves", [], "got none or an empty one"),
        ("leaves", ["fir", " "], "got none or an empty one"),
        (" ", ["fir"], "got none or an empty one"),
        ("leaves", ["word " * 80], "77"),
    ],
)
def test_what_cannot_be_added_is_said(bench: RunBench, word: str, names: list[str], message: str) -> None:
    run = read_run(bench.train("runs", least("coop-mt")))
    with pytest.raises(UsageError, match=message):
        extend_classifier(run, word, names)


def test_lost_or_other_prompts_are_said(bench: RunBench) -> None:
    folder = bench.train("runs", least("coop-mt"))
    run = read_run(folder)
    content = (folder / "prompts.safetensors").read_bytes()
    for damage in (content[:-40], content[:-1] + bytes([content[-1] ^ 1]), None):
        (folder / "prompts.safetensors").unlink()
        if damage:
            (folder / "prompts.safetensors").write_bytes(damage)
        with pytest.raises(DataError, match=r"wanted what the run learned in .*prompts\.safetensors, got none or"):
            classify_by_name(run, name_task(run, "leaves", ["fir"]))
        (folder / "prompts.safetensors").write_bytes(content)


def test_another_backbone_is_refused(bench: RunBench, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(bench.train("runs", least("coop-mt")))
    monkeypatch.setattr(
        "cptlite.runs.load.load_backbone", lambda name, **options: load_backbone(f"{BACKBONE}:1", **options)
    )
    with pytest.raises(DataError, match="put those back"):
        classify_by_name(run, name_task(run, "leaves", ["fir"]))
