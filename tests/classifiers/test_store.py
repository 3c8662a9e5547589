"""A classifier of every kind, written and read back: the same to the bit, here and in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from classifier_cases import CASES, DIM, FACTS, draw_features, make_classifier, make_linear, make_stored, make_tip
from golden_cases import golden_backbone, make_task, text_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

import cptlite
from cptlite.classifiers import (
    BackboneFacts,
    JoinedClassifier,
    LinearClassifier,
    StoredClassifier,
    load_classifier,
    save_classifier,
)
from cptlite.classifiers.store import KINDS
from cptlite.datasets.types import METRICS, Task
from cptlite.errors import DataError, UsageError
from cptlite.text.encoder import TextEncoder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "classifier.safetensors"


def save_new(path: Path, case: str) -> StoredClassifier:
    stored = make_stored(case)
    save_classifier(path, stored)
    return stored


def test_kinds_are_named_as_they_name_themselves() -> None:
    assert {name: kind.kind for name, kind in KINDS.items()} == {name: name for name in KINDS}
    assert {make_classifier(case).kind for case in CASES} == {*KINDS, "joined"}


@pytest.mark.parametrize("case", CASES)
def test_round_trip(case: str, path: Path) -> None:
    stored, features = save_new(path, case), draw_features(case)
    again = load_classifier(path, text=text_encoder("fused"))
    path.write_bytes(b"")  # what was read stands on its own
    assert type(again.classifier) is type(stored.classifier)
    assert again.tasks == stored.tasks and again.class_names == stored.class_names and again.backbone == FACTS
    assert again.classifier.values() == stored.classifier.values()  # floats with all their digits
    there, before = again.classifier.tensors(), stored.classifier.tensors()
    assert there.keys() == before.keys()
    for name, tensor in before.items():
        assert there[name].dtype == tensor.dtype and torch.equal(there[name], tensor), name
    wanted = stored.classifier.scores(features)
    scores = again.classifier.scores(features)
    assert scores.dtype == wanted.dtype and torch.equal(scores, wanted)


@pytest.mark.parametrize("case", CASES)
def test_same_classifier_same_bytes(case: str, path: Path) -> None:
    stored = save_new(path, case)
    first = path.read_bytes()
    save_classifier(path, stored)
    assert path.read_bytes() == first
    save_classifier(path, load_classifier(path, text=text_encoder("fused")))
    assert path.read_bytes() == first


@pytest.mark.slow
def test_a_new_process_scores_to_the_bit(path: Path, tmp_path: Path) -> None:
    stored, features = save_new(path, "mixed"), draw_features("mixed")
    np.save(tmp_path / "features.npy", features)
    code = (
        f"import sys, numpy as np, torch; torch.set_num_threads({torch.get_num_threads()})\n"
        "from pathlib import Path\n"
        "from cptlite.classifiers import load_classifier\n"
        "def text(facts):\n"
        "    sys.path.append('tests')\n"
        "    from golden_cases import text_encoder\n"
        "    return text_encoder('fused')\n"
        "folder = Path(sys.argv[1])\n"
        "stored = load_classifier(folder / 'classifier.safetensors', text=text)\n"
        "np.save(folder / 'scores.npy', stored.classifier.scores(torch.from_numpy(np.load(folder / 'features.npy'))))\n"
        "print(ascii(stored.tasks))\n"
    )
    checkout = Path(cptlite.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ascii(stored.tasks)
    scores, wanted = np.load(tmp_path / "scores.npy"), stored.classifier.scores(features).numpy()
    assert scores.dtype == wanted.dtype and scores.tobytes() == wanted.tobytes()


TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # half of a surrogate pair too


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.lists(TEXTS, min_size=1, max_size=3), min_size=1, max_size=3),
    words=st.tuples(TEXTS, TEXTS, TEXTS),
    metric=st.sampled_from(METRICS),
    scale=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_names_and_any_scale_come_back(
    names: list[list[str]],
    words: tuple[str, str, str],
    metric: str,
    scale: float,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    task_id, name, template = words
    tasks = tuple(
        Task(id=task_id, name=name, class_names=tuple(own), template=template, metric=metric) for own in names
    )
    classifier = LinearClassifier.from_prompts(torch.randn(sum(map(len, names)), DIM), scale)
    save_classifier(path, StoredClassifier(classifier=classifier, tasks=tasks, backbone=FACTS))
    again = load_classifier(path)
    assert again.tasks == tasks
    assert again.classifier.values() == {"logit_scale": scale, "unit_length": True}


def test_facts_are_those_of_the_backbone() -> None:
    backbone = golden_backbone()
    facts = BackboneFacts.of(backbone)
    assert (facts.name, facts.weights_sha256, facts.precision) == ("golden", backbone.weights_sha256, "float32")
    assert facts.embed_dim == DIM and facts.preprocess == backbone.preprocess_spec


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["CrossModal", "LPPlusPlus", "LinearProbe", "PrototypeClassifier", "TipAdapter", "TipAdapterF"]
)
def test_probes_of_either_number_type_can_be_stored(name: str, dtype: type, path: Path) -> None:
    kind = getattr(cptlite, name)
    given_text = {"text_weights": np.random.randn(3, DIM).astype(dtype)} if kind.needs_text else {}
    short = {"CrossModal": {"steps": 4}, "LPPlusPlus": {"epochs": 3}, "TipAdapterF": {"epochs": 1}}
    labels = np.arange(12) % 3
    rows = (4 * np.eye(3, DIM)[labels] + np.random.randn(12, DIM)).astype(dtype)
    probe = kind(**given_text, **short.get(name, {})).fit(rows, labels, rows[:6], labels[:6])
    tasks = (make_task("fruit", ["fig", "kiwi", "plum"]),)
    save_classifier(path, StoredClassifier(classifier=probe.classifier_, tasks=tasks, backbone=FACTS))
    scores = load_classifier(path).classifier.scores(torch.from_numpy(rows))
    assert scores.dtype == torch.from_numpy(rows).dtype
    assert torch.equal(scores, probe.classifier_.scores(torch.from_numpy(rows)))


def test_a_scale_of_numpys_is_one_of_pythons(path: Path) -> None:
    tip, features = make_tip(4), draw_features("tip")
    tip = type(tip)(**{**tip.tensors(), "logit_scale": np.float64(tip.logit_scale)})
    stored = StoredClassifier(classifier=tip, tasks=make_stored("tip").tasks, backbone=FACTS)
    save_classifier(path, stored)
    assert torch.equal(load_classifier(path).classifier.scores(features), tip.scores(features))


def test_learnables_and_shared_memory_are_stored(path: Path) -> None:
    part = LinearClassifier(
        weights=torch.randn(DIM, 2).T.requires_grad_(), bias=torch.zeros(1).expand(2), logit_scale=0.0, unit_length=True
    )
    tasks = make_stored("joined").tasks
    both = JoinedClassifier(parts=(part, part), sizes=(2, 2))
    save_classifier(path, StoredClassifier(classifier=both, tasks=tasks, backbone=FACTS))
    there = load_classifier(path).classifier.tensors()
    assert torch.equal(there["0/weights"], part.weights) and torch.equal(there["1/weights"], part.weights)
    assert not there["1/weights"].requires_grad


def test_text_is_asked_for_once_and_only_where_it_is_needed(path: Path) -> None:
    asked: list[int] = []

    def give(facts: BackboneFacts) -> TextEncoder:
        asked.append(0)
        return text_encoder("fused")

    save_new(path, "joined")
    load_classifier(path, text=give)
    assert not asked
    tasks = make_stored("mixed").tasks
    parts = (make_classifier("image-conditioned"), make_linear(1), make_classifier("image-conditioned"))
    many = JoinedClassifier(parts=parts, sizes=(4, 1, 4))
    tasks = (make_task("a", ["x"] * 4), make_task("b", ["y"]), make_task("c", ["z"] * 4))
    save_classifier(path, StoredClassifier(classifier=many, tasks=tasks, backbone=FACTS))
    load_classifier(path, text=give)
    assert len(asked) == 1


def test_a_text_encoder_is_wanted_and_one_that_fits(path: Path) -> None:
    save_new(path, "image-conditioned")
    with pytest.raises(UsageError, match=r"wants a text encoder, got none: give that of backbone 'random:ViT-B/32'"):
        load_classifier(path)
    classifier = make_classifier("image-conditioned")
    narrow = {**classifier.tensors(), "context": torch.zeros(1, 4, 8), "shift_weight": torch.zeros(8, 2)}
    other = type(classifier)(
        **{**narrow, "shift_bias": torch.zeros(8)}, **classifier.values(), encode=classifier.encode, num_classes=4
    )
    save_classifier(path, StoredClassifier(classifier=other, tasks=make_stored("tip").tasks, backbone=FACTS))
    with pytest.raises(UsageError, match=r"wanted the text encoder .* width 8, .* got width 128"):
        load_classifier(path, text=text_encoder("fused"))


def with_scale(scale: float) -> LinearClassifier:
    return LinearClassifier.from_prompts(torch.randn(4, DIM), scale)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (make_linear(3), r"'weights' of shape \(3, 32\) where its axes \(K D\) are \{'K': 4, 'D': 32\}"),
        (LinearClassifier.from_prompts(torch.ones(4, 8), 1.0), r"of shape \(4, 8\)"),
        (make_linear(4, torch.float16), r"numbers of torch.float16 where all are torch.float32 or torch.float64"),
        (with_scale(float("nan")), "'logit_scale' nan where float belongs"),
        (JoinedClassifier(parts=(make_linear(4),), sizes=(3,)), r"'weights' of shape \(4, 32\)"),
        (JoinedClassifier(parts=(make_linear(3),), sizes=(3,)), "parts of 3 classes together where the tasks have 4"),
        (
            JoinedClassifier(parts=(JoinedClassifier(parts=(make_linear(4),), sizes=(4,)),), sizes=(4,)),
            "kind 'joined' where this version of cptlite knows linear",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_could_not_be_read_back_is_not_written(
    classifier: LinearClassifier | JoinedClassifier, message: str, path: Path
) -> None:
    old = save_new(path, "linear")
    with pytest.raises(DataError, match=message):
        save_classifier(path, StoredClassifier(classifier=classifier, tasks=old.tasks, backbone=FACTS))
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert torch.equal(load_classifier(path).classifier.tensors()["weights"], old.classifier.tensors()["weights"])


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["linear64", "tip", "transport", "joined"])
def test_stored_from_one_device_and_read_to_another(case: str, path: Path) -> None:
    stored, features = save_new(path, case), draw_features(case)
    on_gpu = load_classifier(path, device="cuda")
    assert {tensor.device.type for tensor in on_gpu.classifier.tensors().values()} == {"cuda"}
    assert on_gpu.classifier.scores(features.cuda()).is_cuda
    before = path.read_bytes()
    save_classifier(path, on_gpu)
    assert path.read_bytes() == before
    again = load_classifier(path)
    assert torch.equal(again.classifier.scores(features), stored.classifier.scores(features))
