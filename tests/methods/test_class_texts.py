"""Files of class texts: both forms, names as people write them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden_cases import make_task

from cptlite.errors import DataError, UsageError
from cptlite.methods import class_texts as module
from cptlite.methods.class_texts import class_texts, pack_texts

TASKS = (make_task("animal", ["cat", "red_dog"]), make_task("fruit", ["fig"]))
FLAT = {"Red  Dog": ["that barks", "old"], "fig": ["ripe"], "cat": ["schön"], "lime": ["sour"]}
BY_TASK = {"fruit": {"fig": ["ripe"]}, "Animal": {"cat": ["schön"], "red dog": ["that barks", "old"]}}
WANTED = [("schön",), ("that barks", "old"), ("ripe",)]


@pytest.mark.parametrize("table", [FLAT, BY_TASK], ids=["flat", "by task"])
def test_texts_go_to_their_classes(table: dict, tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(table, indent=4, ensure_ascii=False), encoding="utf-8")
    packed = pack_texts("attributes", str(path))
    assert class_texts("attributes", packed, TASKS) == WANTED
    assert packed == pack_texts("attributes", packed) == pack_texts("attributes", json.dumps(table))
    assert packed == pack_texts("attributes", json.dumps(dict(reversed(table.items()))))


def test_nothing_stays_nothing() -> None:
    assert pack_texts("attributes", "") == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "at least one text for each class"),
        ("[]", "at least one text for each class"),
        ('{"cat": []}', "at least one text for each class"),
        ('{"cat": "fur"}', "at least one text for each class"),
        ('{"cat": [1]}', "at least one text for each class"),
        ('{"cat": [" "]}', "at least one text for each class"),
        ('{"cat": ["\\u001b[2J"]}', "at least one text for each class"),
        ('{"cat": ["\\ud800"]}', "at least one text for each class"),
        ('{"animal": {}}', "at least one text for each class"),
        ('{"animal": {"cat": ["fur"]}, "fig": ["ripe"]}', "at least one text for each class"),
        ('{"red_dog": ["old"], "Red dog": ["new"]}', "wanted each name once"),
        ('{"a": {"cat": ["old"], "CAT": ["new"]}}', "wanted each name once"),
        ('{"cat": ["fur"]', "cannot read it|got a text that is not"),
        ('{"cat": [' + "[" * 100_000, "nested too deep|got a text that is not"),
    ],
)
def test_another_form_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as refused:
        pack_texts("attributes", str(path))
    assert str(refused.value).isprintable()
    if content.startswith("{"):
        with pytest.raises(UsageError, match=message):
            pack_texts("attributes", content)


@pytest.mark.parametrize("given", ["nowhere.json", ".", "a\0b", "x" * 5000, "\x1b[2J"])
def test_what_is_no_file_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="attributes must be a file, JSON of the form .* give its path") as refused:
        pack_texts("attributes", given)
    assert str(refused.value).isprintable()


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(FLAT))
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="wanted at most 10 bytes of attributes, got"):
        pack_texts("attributes", str(path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"cat": ["fur"], "fig": ["ripe"]}, "of task 'animal', got none of 'red_dog': give a file"),
        ({"animal": {"cat": ["fur"], "red dog": ["old"]}}, "of task 'fruit', got none of 'fig'"),
    ],
)
def test_a_class_without_texts_is_named(table: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_texts("attributes", pack_texts("attributes", json.dumps(table)), TASKS)


def test_of_many_missing_classes_the_first_are_named() -> None:
    task = make_task("many", [f"class {place}" for place in range(9)])
    packed = pack_texts("attributes", '{"class 0": ["first"]}')
    with pytest.raises(DataError, match="got none of 'class 1', .* 'class 5' and 3 more: give"):
        class_texts("attributes", packed, (task,))
