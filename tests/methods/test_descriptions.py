"""Descriptions: what a file may be, whose sentences are whose, and the class weights that they make."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_cases import make_task, text_encoder

from cptlite.errors import DataError, UsageError
from cptlite.methods import descriptions as module
from cptlite.methods.base import Problem
from cptlite.methods.descriptions import (
    Descriptions,
    check_descriptions,
    lacking_descriptions,
    read_descriptions,
)
from cptlite.methods.options import TemplateOptions
from cptlite.methods.table import find_method
from cptlite.methods.templates import mean_text_features, zero_shot_weights

ANIMAL, FRUIT = make_task("animal", ["cat", "Big_dog"]), make_task("fruit", ["fig", "kiwi"], "{} fruit.")
SENTENCES = {"cat": ["a cat purrs.", "it has whiskers."], "big  dog": ["a dog barks."]}


def problem(path: str = "fused") -> Problem:
    return Problem(tasks=(ANIMAL, FRUIT), text=text_encoder(path))


def units(*texts: str) -> torch.Tensor:
    return F.normalize(text_encoder("plain").encode_texts(texts), dim=-1)


def test_a_class_is_the_mean_of_its_texts() -> None:
    """Of unit length each, before they are averaged and after; a class without sentences is its template."""
    wanted = [
        units("a photo of a cat.", *SENTENCES["cat"]).mean(dim=0),
        units("a photo of a Big dog.", "a dog barks.").mean(dim=0),
        units("fig fruit.")[0],
        units("kiwi fruit.")[0],
    ]
    for path in ("fused", "plain"):
        found = zero_shot_weights(problem(path), descriptions=Descriptions(SENTENCES))
        torch.testing.assert_close(found, F.normalize(torch.stack(wanted), dim=-1), rtol=1e-4, atol=1e-5)


def test_several_templates_and_sentences_are_one_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.methods.templates.BLOCK", 2)
    templates, descriptions = ("a {}.", "one {}!"), Descriptions(SENTENCES)
    cat = units("a cat.", "one cat!", *SENTENCES["cat"]).mean(dim=0)
    found = zero_shot_weights(problem(), templates, descriptions)
    torch.testing.assert_close(found[0], F.normalize(cat, dim=0), rtol=1e-4, atol=1e-5)
    raw = text_encoder("plain").encode_texts(["a cat.", "one cat!", *SENTENCES["cat"]]).mean(dim=0)
    torch.testing.assert_close(mean_text_features(problem(), templates, descriptions)[0], raw, rtol=1e-4, atol=1e-4)


def test_a_sentence_is_cut_where_the_encoder_ends() -> None:
    """As CLIP's tokenizer cuts: the first 75 tokens, then the end."""
    text = text_encoder("fused")
    words = ["cat"] * 100
    assert len(text.tokenizer.encode(" ".join(words))) == 100
    with pytest.raises(UsageError, match="has 102 tokens"):
        text.encode_texts([" ".join(words)])
    found = text.encode_texts([" ".join(words)], truncate=True)
    torch.testing.assert_close(found, text.encode_texts([" ".join(words[:75])]))


def test_a_task_of_its_own_comes_before_what_is_said_for_all() -> None:
    said = Descriptions({"cat": ["for all"], "animal": {"CAT": ["its own"]}, "Fruit": {"fig": ["a fig"]}})
    assert said.sentences(ANIMAL, "cat") == ["its own"]
    assert said.sentences(FRUIT, "cat") == ["for all"]
    assert said.sentences(FRUIT, "fig") == ["a fig"] and said.sentences(ANIMAL, "fig") == []


def test_what_is_said_is_what_they_are(tmp_path: Path) -> None:
    """Layout and order of a file do not matter; every word does; copies keep all of it."""
    one, other = Descriptions(SENTENCES), Descriptions(dict(reversed(SENTENCES.items())))
    (tmp_path / "a.json").write_text(json.dumps(SENTENCES, indent=3))
    assert (
        one
        == other
        == read_descriptions(tmp_path / "a.json")
        == TemplateOptions(descriptions=str(tmp_path / "a.json")).descriptions
    )
    assert one != Descriptions({**SENTENCES, "cat": ["a cat purrs.", "it has whiskers"]})
    for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert twin == one and twin.sentences(ANIMAL, "Big dog") == ["a dog barks."]
    assert json.loads(json.dumps(one)) == str(one) and len(one) == 16


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "a table with nothing in it"),
        ([], "got a list"),
        ("cat", "got a text"),
        (3, "got a number"),
        (None, "got nothing"),
        ({"cat": "one"}, "list of sentences about 'cat', got a text"),
        ({"cat": None}, "list of sentences about 'cat', got nothing"),
        ({"cat": [1]}, "about 'cat', got 1"),
        ({"cat": ["a", " "]}, "about 'cat', got ' '"),
        ({"cat": ["a" * 10_001]}, "got one of 10,001 letters"),
        ({"cat": ["\ud800"]}, r"got '\\ud800'"),
        ({"t": {"cat": {"x": ["y"]}}}, "about 't: cat', got a table"),
        ({"": ["a"]}, "names of classes or tasks"),
        ({"Cat": ["a"], "cat_": ["b"]}, "got 'Cat' and 'cat_'"),
        ({"t": {"a b": ["a"], "a_b": ["b"]}}, "got 'a b' and 'a_b'"),
        ({"a\x1b[2J": 1}, r"about 'a\\x1b\[2J'"),
    ],
)
def test_what_is_no_descriptions_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=said) as error:
        read_descriptions(tmp_path / "a.json")
    assert "a.json" in str(error.value) and str(error.value).isprintable()
    with pytest.raises(UsageError, match=said):
        Descriptions(content)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="No such file"):
        TemplateOptions(descriptions=str(tmp_path / "none.json"))
    with pytest.raises(DataError, match="got a folder"):
        read_descriptions(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(DataError, match="wanted a JSON file"):
        read_descriptions(tmp_path / "a.json")
    monkeypatch.setattr(module, "MOST_BYTES", 0)
    with pytest.raises(DataError, match="of at most 0 MiB"):
        read_descriptions(tmp_path / "a.json")
    options: dict[str, Any] = {"descriptions": 3}
    with pytest.raises(UsageError, match="descriptions must be a text, got 3"):
        TemplateOptions(**options)


def test_classes_without_sentences_are_told() -> None:
    said = Descriptions({**SENTENCES, "kiwi": []})
    assert lacking_descriptions(said, [ANIMAL]) == []
    [line] = lacking_descriptions(said, [ANIMAL, FRUIT])
    assert line.startswith("no descriptions of 2 of the 2 classes of fruit ('fig', 'kiwi')")
    check_descriptions(said, [ANIMAL, FRUIT])
    with pytest.raises(DataError, match=r"classes of fruit \('fig', 'kiwi'\), got none of these \(there are 'cat'"):
        check_descriptions(said, [FRUIT])
    check_descriptions("", [FRUIT])
    assert lacking_descriptions("", [FRUIT]) == []


@pytest.mark.parametrize("name", ["kgcoop", "prograd", "taskres"])
def test_prompt_methods_are_pulled_to_them(name: str) -> None:
    """What they hold of the zero-shot weights is what these are with descriptions."""
    entry, descriptions = find_method(name), Descriptions(SENTENCES)
    method = entry.method(problem(), entry.new_options(descriptions=descriptions))
    if name == "taskres":
        torch.testing.assert_close(method._texts, mean_text_features(problem(), (), descriptions))
    else:
        torch.testing.assert_close(method._anchors, zero_shot_weights(problem(), (), descriptions))
