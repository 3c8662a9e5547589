"""Files that are no stored classifiers, or damaged ones: each refused with one message, none read as something else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from classifier_cases import CASES, make_stored, put_together, take_apart
from golden_cases import text_encoder
from safetensors.torch import save_file

from cptlite.classifiers import StoredClassifier, load_classifier, save_classifier
from cptlite.errors import DataError

Change = Callable[[dict[str, Any], dict[str, Any]], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "classifier.safetensors"


def refuse(path: Path, reason: str | None = None) -> None:
    """The file is refused in one line that says wanted, got and what to do."""
    with pytest.raises(DataError, match=reason) as caught:
        load_classifier(path, text=text_encoder("fused"))
    message = str(caught.value)
    assert message.startswith(f"wanted a classifier that cptlite stored at {path}, got ")
    assert message.endswith(": train it anew, or give the path of another")
    assert message.isprintable() and len(message) < 1000


def test_no_file(path: Path) -> None:
    refuse(path, "got no file")
    path.mkdir()
    refuse(path, "got something that is not a file")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 8, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}", pickle.dumps({"weights": [1.0]}), b"PK\3\4 classifier"],
    ids=["empty", "zeros", "ones", "no tensors", "pickle", "zip"],
)
def test_other_files(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    refuse(path)


def test_other_files_of_tensors(path: Path) -> None:
    torch.save({"weights": torch.ones(4, 32)}, path)
    refuse(path, "cannot be read")
    save_file({"context": torch.ones(4, 8)}, path)
    refuse(path, "got a safetensors file of something else")
    save_file({"weights": torch.ones(4, 32)}, path, metadata={"format": "pt"})
    refuse(path, "got a safetensors file of something else")


@pytest.mark.parametrize("case", ["linear", "mixed"])
def test_cut_files(case: str, path: Path) -> None:
    save_classifier(path, make_stored(case))
    whole = path.read_bytes()
    for length in (1, 7, 8, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refuse(path)
    path.write_bytes(whole + b"\0")
    refuse(path)


def test_every_flipped_byte_is_noticed(path: Path) -> None:
    stored = make_stored("one class")
    save_classifier(path, stored)
    whole, same = path.read_bytes(), []
    assert len(whole) < 2000
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            again = load_classifier(path)
        except DataError:
            continue
        same.append(place)  # A letter of an escape, in the other case.
        assert_alike(again, stored)
    assert len(same) < 10


def assert_alike(again: StoredClassifier, stored: StoredClassifier) -> None:
    assert (again.tasks, again.backbone) == (stored.tasks, stored.backbone)
    assert again.classifier.values() == stored.classifier.values()
    for name, tensor in stored.classifier.tensors().items():
        assert torch.equal(again.classifier.tensors()[name], tensor)


@pytest.mark.parametrize("case", CASES)
def test_a_file_made_by_hand_as_the_format_says_is_read(case: str, path: Path) -> None:
    """So that the refusals below are not for the checksum."""
    stored = make_stored(case)
    save_classifier(path, stored)
    put_together(path, *take_apart(path))
    assert_alike(load_classifier(path, text=text_encoder("fused")), stored)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "JSONDecodeError"),
        ("{'format': 1}", "JSONDecodeError"),
        ("\x1b[31m", "JSONDecodeError"),
        ("[1]", "a header that is no table with a format"),
        ("{}", "a header that is no table with a format"),
        ('{"format": 2}', "format 2 where this version of cptlite reads 1"),
        ('{"format": "\\u001b[31m"}', r"format '\\x1b\[31m' where"),
        ('{"format": 1}', "whose checksum is not that of its content"),
        ('{"format": 1' + "0" * 10000 + "}", "ValueError"),
        ('{"format": 1, "x": ' + "[" * 200000 + "]" * 200000 + "}", "a header nested too deep"),
    ],
    ids=lambda value: value[:20],
)
def test_headers_that_are_none(text: str, reason: str, path: Path) -> None:
    save_file({"weights": torch.ones(1)}, path, metadata={"cptlite": text})
    refuse(path, reason)


HEADERS: dict[str, tuple[str, Change, str]] = {
    "no classifier": ("linear", lambda h, t: h.pop("classifier"), "'kind' None in the header where str belongs"),
    "classifier of text": ("linear", lambda h, t: h.update(classifier="linear"), "'kind' None"),
    "unknown kind": (
        "linear",
        lambda h, t: h["classifier"].update(kind="\x1b]0;x"),
        r"kind '\\x1b\]0;x' where this version",
    ),
    "long kind": ("linear", lambda h, t: h["classifier"].update(kind="x" * 100000), r"x\.\.\. where this version"),
    "kind of a number": ("linear", lambda h, t: h["classifier"].update(kind=1), "'kind' 1 in the header"),
    "other kind": ("linear", lambda h, t: h["classifier"].update(kind="tip"), r"tensors \['bias', 'weights'\]"),
    "scale of text": ("linear", lambda h, t: h["classifier"].update(logit_scale="\n"), r"'logit_scale' '\\n' where"),
    "scale of no number": ("tip", lambda h, t: h["classifier"].update(logit_scale=float("nan")), "'logit_scale' nan"),
    "scale without end": ("tip", lambda h, t: h["classifier"].update(logit_scale=float("inf")), "'logit_scale' inf"),
    "no temperature": ("x-tip", lambda h, t: h["classifier"].update(temperature=0.0), "'temperature' 0.0 where"),
    "scale of a long number": ("tip", lambda h, t: h["classifier"].update(logit_scale=10**400), "'logit_scale' 1000"),
    "no scale": ("linear", lambda h, t: h["classifier"].pop("logit_scale"), r"values \['unit_length'\] where"),
    "one value more": (
        "linear",
        lambda h, t: h["classifier"].update(x=1),
        r"values \['logit_scale', 'unit_length', 'x",
    ),
    "flag of a number": ("linear", lambda h, t: h["classifier"].update(unit_length=1), "'unit_length' 1 where bool"),
    "steps of a flag": ("transport", lambda h, t: h["classifier"].update(iterations=True), "'iterations' True"),
    "position": ("image-conditioned", lambda h, t: h["classifier"].update(position="left"), "'position' 'left' where"),
    "no tasks": ("linear", lambda h, t: h.pop("tasks"), "'tasks' None in the header where list belongs"),
    "empty tasks": ("linear", lambda h, t: h.update(tasks=[]), "of 0 classes"),
    "task of text": ("linear", lambda h, t: h.update(tasks=["fruit"]), "'class_names' None"),
    "one task less": ("linear", lambda h, t: h["tasks"].pop(), r"'weights' of shape \(4, 32\)"),
    "one task less, parts": ("joined", lambda h, t: h["tasks"].pop(), "parts of 4 classes .* the tasks have 1"),
    "names of numbers": ("linear", lambda h, t: h["tasks"][0].update(class_names=[1]), "class names are text"),
    "metric": ("linear", lambda h, t: h["tasks"][0].update(metric="f1"), "the metric is one of"),
    "template": ("linear", lambda h, t: h["tasks"][0].update(template=None), "'template' None"),
    "no backbone": ("linear", lambda h, t: h.pop("backbone"), "'backbone' None"),
    "dimension of text": ("linear", lambda h, t: h["backbone"].update(embed_dim="32"), "'embed_dim' '32'"),
    "other dimension": ("linear", lambda h, t: h["backbone"].update(embed_dim=16), r"are \{'K': 4, 'D': 16\}"),
    "weights": ("linear", lambda h, t: h["backbone"].pop("weights_sha256"), "'weights_sha256' None"),
    "preprocess": ("linear", lambda h, t: h["backbone"].update(preprocess="none"), "'preprocess' 'none'"),
    "parts of text": ("joined", lambda h, t: h["classifier"].update(parts="01"), "'parts' '01'"),
    "no parts": ("joined", lambda h, t: h["classifier"].update(parts=[]), "belongs to none of 0 parts"),
    "one part more": ("joined", lambda h, t: h["classifier"]["parts"].append(h["classifier"]["parts"][0]), "tensors"),
    "part of nothing": ("joined", lambda h, t: h["classifier"]["parts"].__setitem__(0, None), "'kind' None"),
    "part of no classes": ("joined", lambda h, t: h["classifier"]["parts"][0].update(num_classes=0), "of 0 classes"),
    "part of fewer": ("joined", lambda h, t: h["classifier"]["parts"][1].update(num_classes=2), "'K': 2"),
    "part that is joined": ("joined", lambda h, t: h["classifier"]["parts"][0].update(kind="joined"), "kind 'joined'"),
}

TENSORS: dict[str, tuple[str, Change, str]] = {
    "one less": ("linear", lambda h, t: t.pop("bias"), r"tensors \['weights'\] where kind 'linear' has"),
    "one more": ("linear", lambda h, t: t.update({"x\x07": torch.ones(1)}), r"'x\\x07'\] where kind 'linear' has"),
    "none": ("tip", lambda h, t: t.clear(), r"tensors \[\] where"),
    "fewer classes": ("linear", lambda h, t: t.update(bias=t["bias"][:3]), r"'bias' of shape \(3,\)"),
    "more axes": ("linear", lambda h, t: t.update(bias=t["bias"][None]), r"'bias' of shape \(1, 4\)"),
    "fewer axes": ("linear", lambda h, t: t.update(weights=t["weights"][0]), r"'weights' of shape \(32,\)"),
    "no axes": ("linear", lambda h, t: t.update(bias=torch.tensor(1.0)), r"'bias' of shape \(\)"),
    "other dimension": ("transport", lambda h, t: t.update(prompts=t["prompts"][..., :9]), r"\(4, 2, 9\)"),
    "keys without labels": ("tip", lambda h, t: t.update(keys=t["keys"][:5]), r"'key_labels' of shape \(12,\)"),
    "units that differ": ("image-conditioned", lambda h, t: t.update(hidden_bias=torch.ones(3)), "'hidden_bias'"),
    "two contexts": ("image-conditioned", lambda h, t: t.update(context=torch.ones(2, 4, 128)), r"\(2, 4, 128\)"),
    "whole numbers": ("linear", lambda h, t: t.update(bias=t["bias"][:4] > 0), "numbers of torch.bool, torch.float32"),
    "half": ("linear", lambda h, t: t.update({n: v.half() for n, v in t.items()}), "numbers of torch.float16"),
    "double": ("transport", lambda h, t: t.update(prompts=t["prompts"].double()), "numbers of torch.float64 where"),
    "mixed": ("tip", lambda h, t: t.update(alpha=t["alpha"].double()), "torch.float32, torch.float64 where"),
    "labels below": ("tip", lambda h, t: t["key_labels"].__setitem__(3, -1), "'key_labels' of torch.int64 where whole"),
    "labels above": ("tip", lambda h, t: t["key_labels"].__setitem__(3, 4), r"whole numbers \(int64\) below 4"),
    "channels above": ("ape", lambda h, t: t["channels"].__setitem__(3, 32), r"'channels' .* \(int64\) below 32"),
    "channels of keys": ("ape", lambda h, t: t.update(keys=t["keys"][:, :9]), r"'channels' of shape \(16,\)"),
    "labels of int32": ("tip", lambda h, t: t.update(key_labels=t["key_labels"].int()), "'key_labels' of torch.int32"),
    "of no part": ("joined", lambda h, t: t.update({"2/bias": torch.ones(1)}), "'2/bias' that belongs to none of 2"),
    "of no number": ("joined", lambda h, t: t.update({"bias": torch.ones(1)}), "'bias' that belongs to none of 2"),
    "part without": ("joined", lambda h, t: t.pop("1/bias"), r"tensors \['weights'\] where kind 'linear' has"),
}


@pytest.mark.parametrize(("case", "change", "reason"), HEADERS.values(), ids=HEADERS)
def test_headers_of_no_classifier(case: str, change: Change, reason: str, path: Path) -> None:
    save_classifier(path, make_stored(case))
    header, tensors = take_apart(path)
    change(header, tensors)
    put_together(path, json.loads(json.dumps(header)), tensors)
    refuse(path, reason)


@pytest.mark.parametrize(("case", "change", "reason"), TENSORS.values(), ids=TENSORS)
def test_tensors_of_no_classifier(case: str, change: Change, reason: str, path: Path) -> None:
    save_classifier(path, make_stored(case))
    header, tensors = take_apart(path)
    change(header, tensors)
    put_together(path, header, {name: tensor.clone() for name, tensor in tensors.items()})
    refuse(path, reason)
