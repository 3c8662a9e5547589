"""What is read of a run's contexts: whose they are, where they started, what is near them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from run_bench import DATASETS, RunBench, configure, encode_datasets, least

from cptlite.backbones import Backbone, load_backbone
from cptlite.classifiers import JoinedClassifier, LinearClassifier
from cptlite.errors import DataError, UsageError
from cptlite.runs.class_images import find_class, pick_images
from cptlite.runs.contexts import GENERATED, Context, compare_tasks, nearest_words, read_contexts
from cptlite.runs.load import FinishedRun, read_run
from cptlite.runs.predictions import unpack_predictions

STILL = {"lr": 1e-30, "warmup_lr": 0.0}
"""Steps that no float32 number shows."""
CLASSES = [(task, name) for task, names in DATASETS.items() for name in names]
OWNERS: dict[str, list[tuple[str | None, str | None, int | None]]] = {
    "all": [(None, None, None)],
    "task": [(task, None, None) for task in DATASETS],
    "class": [(task, name, None) for task, name in CLASSES],
    "prompt": [(task, None, prompt) for task in DATASETS for prompt in (1, 2, 3, 4)],
}
CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "coop-mt": ({}, {"context": "all"}),
    "coop-mt, separate": ({"separate": True}, {"context": "task"}),
    "coop-ca": ({}, {"context": "task"}),
    "coop-cs": ({}, {"context": "class"}),
    "coop-cs, separate": ({"separate": True}, {"context": "class"}),
    "kgcoop": ({}, {"context": "task"}),
    "kgcoop, base": ({"classes": "base"}, {"context": "task"}),
    "prograd": ({}, {"context": "task"}),
    "dapt-text": ({}, {"context": "task"}),
    "lasp-text": ({}, {"context": "task"}),
    "kron-ctx": ({}, {"context": "task"}),
    "kron-ctx, joint": ({"separate": False}, {"context": "task"}),
    "cocoop": ({}, {"context": "task"}),
    "plot": ({}, {"context": "prompt"}),
    "softcpt": ({}, {"task_context": "all", GENERATED: "task"}),
    "softcpt, nats": ({"variant": "nats"}, {"task_context": "task", GENERATED: "task"}),
    "softcpt, cata": ({"variant": "cata"}, {"task_context": "all", "class_context": "all", GENERATED: "class"}),
    "softcpt, csts": ({"variant": "csts"}, {"task_context": "task", "class_context": "class", GENERATED: "class"}),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("random:demo", device="cpu")


@pytest.fixture(scope="module")
def bench(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> RunBench:
    caches = encode_datasets(backbone, tmp_path_factory.mktemp("shelf"))
    return RunBench(backbone, caches, tmp_path_factory.mktemp("runs"))


def encode_around(bench: RunBench, context: Context, name: str) -> torch.Tensor:
    """Unit-length text feature of a class's prompt around a context."""
    prompts = bench.text.prompts([name], context_length=len(context.vectors))
    return F.normalize(prompts(context.vectors[None, None])[0, 0], dim=-1)


def weights_of(run: FinishedRun) -> torch.Tensor | None:
    """Class weights, if each class has one."""
    found = run.stored.classifier
    parts = found.parts if isinstance(found, JoinedClassifier) else [found]
    linear = [part.weights for part in parts if isinstance(part, LinearClassifier)]
    return torch.cat(linear) if linear else None


@pytest.mark.parametrize("case", CASES)
def test_contexts_are_those_of_the_classifier_and_began_at_the_start(bench: RunBench, case: str) -> None:
    given, owners = CASES[case]
    run = read_run(bench.train("still", least(case.partition(",")[0], seed=2, **STILL, **given)))
    contexts = read_contexts(run)
    assert {moved for context in contexts for moved in context.moved} == {0.0}
    found = [(each.kind, each.task, each.class_name, each.prompt) for each in contexts]
    assert found == [(kind, *words) for kind, owner in owners.items() for words in OWNERS[owner]]
    weights = weights_of(run)
    assert (weights is None) == (case in ("cocoop", "plot"))
    encoding = [each for each in contexts if each.kind in ("context", GENERATED)]
    for place, (task, name) in enumerate(CLASSES):
        around = [each for each in encoding if each.is_for(task, name)]
        assert len(around) == (4 if case == "plot" else 1)
        if weights is not None:
            assert (encode_around(bench, around[0], name) - weights[place]).abs().max() < 1e-5 * weights.abs().max()


def test_drift_is_the_way_from_the_start_over_its_length(bench: RunBench) -> None:
    run = read_run(bench.train("moved", configure("kgcoop", lr=0.1, context_init="a photo of a")))
    words = bench.text.word_vectors("a photo of a")
    for context in read_contexts(run):
        wanted = (context.vectors - words).norm(dim=-1) / words.norm(dim=-1)
        assert context.moved == pytest.approx(wanted.tolist()) and min(context.moved) > 1e-4  # type: ignore[type-var]


@pytest.mark.parametrize("given", [{"held_out_tasks": ("shells",)}, {"classes": "base"}])
def test_what_was_not_learned_from_has_generated_contexts_too(bench: RunBench, given: dict[str, Any]) -> None:
    run = read_run(bench.train("unseen", least("softcpt", variant="cata", **given)))
    generated = [each for each in read_contexts(run) if each.kind == GENERATED]
    assert [(each.task, each.class_name) for each in generated] == CLASSES
    weights = weights_of(run)
    assert weights is not None
    for context, weight in zip(generated, weights, strict=True):
        assert (encode_around(bench, context, context.class_name or "") - weight).abs().max() < 1e-5


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_words_are_the_nearest_of_the_whole_vocabulary(bench: RunBench, measure: str) -> None:
    tower, tokens = bench.text.tower, bench.text.tokenizer
    table = tower.token_embedding.detach().double()
    drawn = torch.randn(300, tower.width, generator=torch.Generator().manual_seed(0)) * table.std()  # several blocks
    vectors = torch.cat([drawn.float(), 2 * table[[320, tokens.sos]].float()])
    words = table if measure == "euclidean" else F.normalize(table, dim=-1)
    found = nearest_words(bench.text, vectors, top=4, measure=measure)
    for place in (0, 1, 255, 256, 299, 300, 301):
        vector = vectors[place].double()
        if measure == "euclidean":
            distances = (words - vector).norm(dim=-1)
        else:
            distances = 1 - words @ F.normalize(vector, dim=-1)
        distances[[tokens.sos, tokens.eos]] = torch.inf
        nearest = distances.topk(4, largest=False)
        assert [each.token for each in found[place]] == nearest.indices.tolist()
        assert [each.distance for each in found[place]] == pytest.approx(nearest.values.tolist(), abs=1e-12)
    (near,) = nearest_words(bench.text, table[[320]].float(), measure=measure)
    assert near[0] == ("a", 320, 0.0)


def test_words_steer_no_terminal(bench: RunBench) -> None:
    tokenizer, table = bench.text.tokenizer, bench.text.tower.token_embedding
    bare = [token for token in range(tokenizer.sos) if not tokenizer.word(token).isprintable()]
    assert bare
    found = nearest_words(bench.text, table[bare].detach().float(), top=1)
    assert [near[0].token for near in found] == bare
    assert all(near[0].word.isprintable() for near in found)


@pytest.mark.parametrize(("token", "word"), [(320, "a"), (64, "a-"), (1125, "photo"), (188, "\x00-"), (222, "\\x80-")])
def test_a_token_is_said_as_a_word_or_as_a_part_of_one(bench: RunBench, token: int, word: str) -> None:
    assert bench.text.tokenizer.word(token) == word


def test_tasks_are_compared_by_the_mean_of_their_contexts() -> None:
    def context(task: str | None, *numbers: float, kind: str = "context") -> Context:
        vectors = torch.tensor(numbers).view(2, 1)
        return Context(kind=kind, vectors=vectors, start=vectors, task=task)

    found = compare_tasks("coop-cs", [context("a", 1, 0), context("a", 1, 2), context("b", -2, 0), context("c", 0, 5)])
    half = 0.5**0.5
    assert found.tasks == ("a", "b", "c")
    assert found.cosines.tolist() == [pytest.approx(row) for row in ([1, -half, half], [-half, 1, 0], [half, 0, 1])]
    made = [context(task, 1, at, kind=GENERATED) for at, task in enumerate("ab")]
    assert compare_tasks("softcpt", [context(None, 1, 1), *made]).cosines[0, 1] == pytest.approx(half)
    for contexts, reason in (
        ([context(None, 1, 1)], "coop-mt has one context"),
        ([context("a", 1, 1)], "has one task"),
    ):
        with pytest.raises(UsageError, match=reason):
            compare_tasks("coop-mt", contexts)


PREDICTED = """task,image,label,predicted,probability,rank
leaves,one,oak,oak,0.9000,1
leaves,two,oak,oak,0.5000,1
leaves,three,oak,ash,0.8000,2
leaves,four,oak,ash,0.7000,3
leaves,five,elm,oak,0.9900,2
leaves,six,oak,elm,0.4500,2
leaves,seven,oak,oak,0.4000,1
coins,eight,penny,penny,0.9900,1
"""


def test_images_of_a_class_are_picked_by_its_probability(bench: RunBench, tmp_path: Path) -> None:
    run = replace(read_run(bench.train("picked", least("coop-mt"))), folder=tmp_path)
    task, name = find_class(run.stored.tasks, "OAK")
    with pytest.raises(DataError, match="without --no-predictions"):
        pick_images(run, task, name)
    (tmp_path / "predictions.csv").write_text(PREDICTED)
    found = pick_images(run, task, name)
    assert found.count == 6
    assert [row.image for row in found.nearest] == ["one", "two", "seven"]
    assert [(row.image, round(row.own_at_most, 3)) for row in found.hardest] == [
        ("four", 0.15),
        ("three", 0.2),
        ("six", 0.45),
    ]
    few = pick_images(run, task, name, most=1)
    assert [row.image for row in (*few.nearest, *few.hardest)] == ["one", "four"]
    with pytest.raises(DataError, match="found none: give another class"):
        pick_images(run, task, "ash")
    for damage in (
        PREDICTED.replace("0.9000", "1.9"),
        PREDICTED.replace("rank", "place"),
        PREDICTED + f"leaves,x,oak,ash,0.5,1{400 * '0'}\n",
        PREDICTED + "leaves,x\n",
    ):
        (tmp_path / "predictions.csv").write_text(damage)
        with pytest.raises(DataError, match="damaged"):
            pick_images(run, task, name)


def test_predictions_are_read_as_they_were_written(bench: RunBench) -> None:
    folder = bench.train("picked", least("coop-mt"))
    rows = unpack_predictions((folder / "predictions.csv").read_bytes())
    tasks = read_run(folder).results["tasks"]
    for task, scores in tasks.items():
        own = [row for row in rows if row.task == task]
        assert len(own) == scores["rows"]
        assert sum(row.rank == 1 for row in own) / len(own) == pytest.approx(scores["acc1"])
        assert all((row.rank == 1) == (row.label == row.predicted) for row in own)


def test_a_class_of_several_tasks_wants_a_task(bench: RunBench) -> None:
    leaves, coins = (replace(each, class_names=(*each.class_names, "other")) for each in find_tasks(bench))
    assert find_class([leaves, coins], "other", "coins") == (coins, "other")
    for words, reason in ((("other",), "give --task, one of leaves, coins"), (("oka",), "did you mean 'oak'")):
        with pytest.raises(UsageError, match=reason):
            find_class([leaves, coins], *words)
    with pytest.raises(UsageError, match="unknown task 'birds'"):
        find_class([leaves, coins], "oak", "birds")


def find_tasks(bench: RunBench) -> list[Any]:
    tasks = {task.id: task for task in read_run(bench.train("picked", least("coop-mt"))).stored.tasks}
    return [tasks["leaves"], tasks["coins"]]
