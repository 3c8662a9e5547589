"""What is wrong in predictions, counted by hand, and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_bench import make_task

from cptlite.reporting.mistakes import MOST_NAMED, draw_confusion, draw_reliability
from cptlite.runs.mistakes import MOST_PAIRS, describe_mistakes
from cptlite.runs.predictions import TaskPredictions


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def predictions(labels: list[int], predicted: list[int], sure: float = 0.9, classes: int = 4) -> TaskPredictions:
    return TaskPredictions(
        task=make_task("birds", [f"bird {index}" for index in range(classes)]),
        images=tuple(map(str, labels)),
        labels=np.array(labels),
        predicted=np.array(predicted),
        ranks=np.ones(len(labels), int),
        probabilities=np.full(len(labels), sure, np.float32),
    )


def test_pairs_are_counted_and_the_most_confused_come_first() -> None:
    found = describe_mistakes(predictions([0, 0, 0, 0, 1, 1, 2], [1, 1, 2, 0, 1, 0, 2]))
    assert found["class_rows"] == [4, 2, 1, 0]
    assert found["taken_for"] == ["bird 1", "bird 0", None, None]
    assert [(pair["label"], pair["predicted"], pair["rows"], pair["share"]) for pair in found["confused"]] == [
        ("bird 0", "bird 1", 2, 0.5),
        ("bird 0", "bird 2", 1, 0.25),
        ("bird 1", "bird 0", 1, 0.5),
    ]


def test_no_more_pairs_are_listed_than_are_looked_at() -> None:
    count = 3 * MOST_PAIRS
    found = describe_mistakes(predictions(list(range(count)), [0] * count, classes=count))
    assert len(found["confused"]) == MOST_PAIRS


def test_calibration_says_how_much_too_sure_it_is() -> None:
    found = describe_mistakes(predictions([0, 0, 1, 1], [0, 0, 1, 2], sure=0.95))
    assert found["ece"] == pytest.approx(0.2)
    filled = [each for each in found["calibration"] if each["rows"]]
    assert len(found["calibration"]) == 15 and len(filled) == 1
    assert filled[0]["accuracy"] == 0.75 and filled[0]["confidence"] == pytest.approx(0.95)
    assert found["calibration"][0]["accuracy"] is None, "JSON has no NaN"


@pytest.mark.parametrize("draw", [draw_confusion, draw_reliability])
def test_pictures_have_a_panel_for_each_task(tmp_path: Path, draw) -> None:  # type: ignore[no-untyped-def]
    one = predictions([0, 1, 2, 3], [0, 1, 2, 0])
    sizes = [size_of(draw([one] * count, tmp_path / f"{count}.png")) for count in (1, 3, 4)]
    (width, height), three, four = sizes
    assert three == (3 * width, height) and four == (3 * width, 2 * height)


def test_names_of_many_classes_are_left_out_of_the_picture(tmp_path: Path) -> None:
    count = MOST_NAMED + 1
    many = predictions(list(range(count)), [0] * count, classes=count)
    size = size_of(draw_confusion([many], tmp_path / "many.png"))
    few = predictions(list(range(MOST_NAMED)), [0] * MOST_NAMED, classes=MOST_NAMED)
    assert size == size_of(draw_confusion([few], tmp_path / "few.png"))


def test_names_with_signs_of_mathematics_are_drawn_as_they_are(tmp_path: Path) -> None:
    task = make_task("a $b", ["$x^", "\\frac{", "y$"])
    one = predictions([0, 1, 2], [0, 1, 2], classes=3)
    odd = TaskPredictions(**{**vars(one), "task": task})
    assert draw_confusion([odd], tmp_path / "odd.png").exists() and draw_reliability([odd], tmp_path / "r.png").exists()
