"""Class texts: what a file may be, whose texts are whose, who wants them, and the class weights that they make."""

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
from cptlite.methods import class_texts as module
from cptlite.methods.base import Problem
from cptlite.methods.class_texts import (
    TEXT_OPTIONS,
    ClassTexts,
    check_class_texts,
    lacking_class_texts,
    read_class_texts,
)
from cptlite.methods.options import TemplateOptions
from cptlite.methods.prompts.argue_text import ArgueTextOptions
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
        found = zero_shot_weights(problem(path), descriptions=ClassTexts("descriptions", SENTENCES))
        torch.testing.assert_close(found, F.normalize(torch.stack(wanted), dim=-1), rtol=1e-4, atol=1e-5)


def test_several_templates_and_sentences_are_one_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cptlite.methods.templates.BLOCK", 2)
    templates, descriptions = ("a {}.", "one {}!"), ClassTexts("descriptions", SENTENCES)
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
    table = {"cat": ["for all"], "animal": {"CAT": ["its own"]}, "Fruit": {"fig": ["a fig", "schön"]}, "lime": ["sour"]}
    said = ClassTexts("attributes", table)
    assert said.texts(ANIMAL, "cat") == ["its own"]
    assert said.texts(FRUIT, "cat") == ["for all"]
    assert said.of_classes([FRUIT, ANIMAL]) == [["a fig", "schön"], [], ["its own"], []]


def test_what_is_said_is_what_they_are(tmp_path: Path) -> None:
    """Layout and order of a file do not matter; every word does; copies keep all of it."""
    one, other = (ClassTexts("descriptions", dict(table)) for table in (SENTENCES, reversed(SENTENCES.items())))
    (tmp_path / "a.json").write_text(json.dumps(SENTENCES, indent=3, ensure_ascii=False), encoding="utf-8")
    assert one == other == read_class_texts("descriptions", tmp_path / "a.json")
    assert one == TemplateOptions(descriptions=str(tmp_path / "a.json")).descriptions
    assert one != ClassTexts("descriptions", {**SENTENCES, "cat": ["a cat purrs.", "it has whiskers"]})
    for twin in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert twin == one and twin.option == "descriptions" and twin.texts(ANIMAL, "Big dog") == ["a dog barks."]
    assert json.loads(json.dumps(one)) == str(one) and len(one) == 16


@pytest.mark.parametrize("given", [SENTENCES, ClassTexts("descriptions", SENTENCES)], ids=["table", "texts"])
def test_an_option_takes_a_table_and_another_ones_texts(given: Any) -> None:
    found = ArgueTextOptions(attributes=given).attributes
    assert isinstance(found, ClassTexts) and found.option == "attributes" and found.content == SENTENCES
    assert ArgueTextOptions(attributes=found).attributes is found
    assert ArgueTextOptions().attributes == "" == TemplateOptions().descriptions


@pytest.mark.parametrize("option", TEXT_OPTIONS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "a table with nothing in it"),
        ([], "got a list"),
        ("cat", "got a text"),
        (3, "got a number"),
        (None, "got nothing"),
        ({"cat": "one"}, "list of texts about 'cat' in --{}, got a text"),
        ({"cat": None}, "list of texts about 'cat' in --{}, got nothing"),
        ({"cat": [1]}, "about 'cat' in --{}, got a number"),
        ({"cat": ["a", " "]}, "about 'cat' in --{}, got ' '"),
        ({"cat": ["a" * 10_001]}, "got one of 10,001 letters"),
        ({"cat": ["\ud800"]}, r"got '\\ud800'"),
        ({"\ud800": ["a"]}, r"names of classes or tasks in --{}, got '\\ud800'"),
        ({"t": {"cat": {"x": ["y"]}}}, "about 't: cat' in --{}, got a table"),
        ({"": ["a"]}, "names of classes or tasks in --{}"),
        ({"Cat": ["a"], "cat_": ["b"]}, "got 'Cat' and 'cat_'"),
        ({"t": {"a b": ["a"], "a_b": ["b"]}}, "got 'a b' and 'a_b'"),
        ({"a\x1b[2J": 1}, r"about 'a\\x1b\[2J'"),
    ],
)
def test_another_form_is_refused(tmp_path: Path, option: str, content: Any, said: str) -> None:
    said = said.replace("{}", option)
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=said) as error:
        read_class_texts(option, tmp_path / "a.json")
    assert "a.json" in str(error.value) and f"--{option}" in str(error.value) and str(error.value).isprintable()
    with pytest.raises(UsageError, match=said):
        ClassTexts(option, content)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="^--descriptions: wanted a JSON file, .*No such file.*: give its path"):
        TemplateOptions(descriptions=str(tmp_path / "none.json"))
    for given in ("a\0b", "x" * 5000, "\x1b[2J", '{"cat": ["fur"]}'):
        with pytest.raises(DataError, match="^--attributes: wanted a JSON file, cannot read ") as error:
            ArgueTextOptions(attributes=given)
        assert str(error.value).isprintable()
    with pytest.raises(DataError, match="^--attributes: .* got a folder"):
        ArgueTextOptions(attributes=str(tmp_path))
    for content, said in (("{", "wanted a JSON file"), ('{"cat": [' + "[" * 100_000, "nested too deep")):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DataError, match=f"^--descriptions: .*{said}"):
            read_class_texts("descriptions", tmp_path / "a.json")
    monkeypatch.setattr(module, "MOST_BYTES", 0)
    with pytest.raises(DataError, match="^--attributes: .* of at most 0 MiB"):
        read_class_texts("attributes", tmp_path / "a.json")
    options: dict[str, Any] = {"descriptions": 3}
    with pytest.raises(UsageError, match="descriptions must be a text, got 3"):
        TemplateOptions(**options)


def test_classes_without_descriptions_are_told() -> None:
    said = ClassTexts("descriptions", {**SENTENCES, "kiwi": []})
    assert lacking_class_texts(said, [ANIMAL]) == []
    [line] = lacking_class_texts(said, [ANIMAL, FRUIT])
    assert line.startswith("no descriptions of 2 of the 2 classes of fruit ('fig', 'kiwi')")
    check_class_texts(said, [ANIMAL, FRUIT])
    with pytest.raises(
        DataError, match=r"wanted --descriptions of classes of fruit, got none of 'fig', 'kiwi' \(there are 'cat'"
    ):
        check_class_texts(said, [FRUIT])


def test_classes_without_attributes_are_refused() -> None:
    said = ClassTexts("attributes", {**SENTENCES, "fruit": {"fig": ["ripe"], "kiwi": []}})
    check_class_texts(said, [ANIMAL])
    assert lacking_class_texts(said, [ANIMAL, FRUIT]) == []
    with pytest.raises(DataError, match=r"wanted --attributes of every class of fruit, got none of 'kiwi' \(there"):
        check_class_texts(said, [ANIMAL, FRUIT])
    many = make_task("many", ["cat", *(f"class {place}" for place in range(7))])
    with pytest.raises(DataError, match=r"of many, got none of 'class 0', .* 'class 4' and 2 more \(there"):
        check_class_texts(said, [many])


@pytest.mark.parametrize("name", ["kgcoop", "prograd", "taskres"])
def test_prompt_methods_are_pulled_to_them(name: str) -> None:
    """What they hold of the zero-shot weights is what these are with descriptions."""
    entry, descriptions = find_method(name), ClassTexts("descriptions", SENTENCES)
    method = entry.method(problem(), entry.new_options(descriptions=descriptions))
    if name == "taskres":
        torch.testing.assert_close(method._texts, mean_text_features(problem(), (), descriptions))
    else:
        torch.testing.assert_close(method._anchors, zero_shot_weights(problem(), (), descriptions))
