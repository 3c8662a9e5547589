from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cptlite.drawings import ROWS_PER_CLASS, TASKS, draw_suite
from cptlite.drawings.captions import ATTRIBUTES, HELD_OUT, attributes, caption, training_choices
from cptlite.drawings.render import CLEAN, SKETCH, render
from cptlite.drawings.scenes import (
    ARRANGEMENTS,
    COLOURS,
    PATTERNS,
    SHAPES,
    SIDE,
    Choices,
    sample_scene,
)
from cptlite.drawings.suite import draw_image, suite_images

ASSET = Path(__file__).parents[2] / "cptlite" / "assets" / "demo_clip.safetensors"
DRAWN = tuple(folder for folder in TASKS if folder != "digits")
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    draw_suite(root)
    return root


def pngs(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.png"))}


def scenes_with_captions(count: int) -> Iterator[tuple[str, str, str]]:
    """Caption, shape and arrangement of training scenes."""
    rng, choices = np.random.default_rng(7), training_choices()
    for _ in range(count):
        scene = sample_scene(rng, choices)
        yield caption(scene, rng).text, scene.shape, scene.arrangement


def test_six_tasks_of_about_fifty_classes() -> None:
    assert list(TASKS) == ["shapes", "colours", "patterns", "counts", "arrangements", "digits"]
    assert sum(len(task.class_names) for task in TASKS.values()) == 52
    for folder, task in TASKS.items():
        assert task.folder == folder
        assert task.template.count("{}") == 1
        assert len(set(task.class_names)) == len(task.class_names)


@pytest.mark.slow
def test_tree_holds_every_row_as_a_small_rgb_png(suite: Path) -> None:
    for folder, task in TASKS.items():
        for split, count in ROWS_PER_CLASS.items():
            place = suite / "demo" / folder / split
            assert sorted(p.name for p in place.iterdir()) == sorted(task.class_names)
            for name in task.class_names:
                files = sorted(p.name for p in (place / name).iterdir())
                assert files == [f"{row:03d}.png" for row in range(count)]
    for path in (suite / "demo").rglob("000.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
            assert np.asarray(image).std() > 0


@pytest.mark.slow
def test_no_image_appears_twice(suite: Path) -> None:
    for folder in TASKS:
        content = list(pngs(suite / "demo" / folder).values())
        assert len(set(content)) == len(content)


@pytest.mark.slow
def test_drawing_again_gives_the_same_images_and_reports_progress(suite: Path) -> None:
    before = pngs(suite)
    (suite / "demo" / "suite.json").unlink()
    seen: list[tuple[int, int]] = []
    draw_suite(suite, on_progress=lambda done, total: seen.append((done, total)))
    assert pngs(suite) == before
    assert seen[0] == (1, len(before))
    assert seen[-1] == (len(before), len(before))


@pytest.mark.slow
def test_a_complete_tree_is_left_alone(suite: Path) -> None:
    path = suite / "demo" / "digits" / "val" / "two" / "003.png"
    changed = path.stat().st_mtime_ns
    calls: list[int] = []
    draw_suite(suite, on_progress=lambda done, total: calls.append(done))
    assert not calls
    assert path.stat().st_mtime_ns == changed


def test_images_depend_on_seed_split_and_row() -> None:
    first = draw_image("shapes", "train", 0, 0)
    assert first.shape == (SIDE, SIDE, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw_image("shapes", "train", 0, 0))
    for other in (
        draw_image("shapes", "train", 0, 0, seed=1),
        draw_image("shapes", "test", 0, 0),
        draw_image("shapes", "train", 0, 1),
        draw_image("shapes", "train", 1, 0),
    ):
        assert (first != other).any()


def test_digits_are_real_samples_each_used_once() -> None:
    images = [image.tobytes() for *_, image in suite_images("digits")]
    assert len(set(images)) == len(images) == 10 * sum(ROWS_PER_CLASS.values())
    other = [image.tobytes() for *_, image in suite_images("digits", seed=1)]
    assert images != other


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_objects_lie_inside_and_apart(name: str) -> None:
    rng = np.random.default_rng(3)
    choices = Choices(arrangements=(name,), counts=ARRANGEMENTS[name])
    for _ in range(100):
        scene = sample_scene(rng, choices)
        assert scene.arrangement == name
        assert scene.count in ARRANGEMENTS[name]
        assert scene.centres.min() >= scene.radius
        assert scene.centres.max() <= SIDE - scene.radius
        gaps = np.linalg.norm(scene.centres[:, None] - scene.centres, axis=-1)
        assert gaps[~np.eye(scene.count, dtype=bool)].min() > 1.5 * scene.radius


@pytest.mark.parametrize("count", range(1, 9))
def test_counts_are_kept(count: int) -> None:
    rng = np.random.default_rng(4)
    for _ in range(30):
        assert sample_scene(rng, Choices(counts=(count,))).count == count


def test_colour_differs_from_background() -> None:
    rng = np.random.default_rng(5)
    choices = Choices(colours=("red",), backgrounds=("red", "blue"))
    for _ in range(30):
        scene = sample_scene(rng, choices)
        assert scene.colour == "red" != scene.background


@pytest.mark.parametrize("attribute, words", [("shapes", SHAPES), ("patterns", PATTERNS)])
def test_classes_look_different(attribute: str, words: tuple[str, ...]) -> None:
    def draw(word: str) -> np.ndarray:
        fixed: dict[str, tuple[str, ...]] = {"patterns": ("plain",), attribute: (word,)}
        choices = Choices(
            **{"shapes": ("circle",), "colours": ("red",), "backgrounds": ("white",), **fixed},
            counts=(1,),
            radii=(20.0, 20.0),
        )
        rng = np.random.default_rng(6)
        return render(sample_scene(rng, choices), CLEAN, rng).astype(float)

    images = [draw(word) for word in words]
    for i, first in enumerate(images):
        for second in images[i + 1 :]:
            assert np.abs(first - second).mean() > 2.0


def test_the_suite_has_a_style_of_its_own() -> None:
    def roughness(style: object) -> float:
        rng = np.random.default_rng(8)
        images = [render(sample_scene(rng, Choices()), style, rng) for _ in range(20)]  # type: ignore[arg-type]
        return float(np.mean([np.abs(np.diff(i.astype(float), axis=1)).mean() for i in images]))

    assert roughness(SKETCH) > 1.2 * roughness(CLEAN)


def test_a_quarter_of_the_drawn_classes_is_held_out() -> None:
    assert set(HELD_OUT) == set(DRAWN)
    for folder, words in HELD_OUT.items():
        assert set(words) < set(TASKS[folder].class_names)
    share = sum(map(len, HELD_OUT.values())) / sum(len(TASKS[f].class_names) for f in DRAWN)
    assert 0.2 <= share <= 0.3


def test_held_out_words_are_never_drawn_nor_captioned() -> None:
    held = [word.split()[-1] for words in HELD_OUT.values() for word in words]
    pattern = re.compile(rf"\b({'|'.join(held)})(es|s)?\b|digit|zero|nine")
    for text, shape, arrangement in scenes_with_captions(3000):
        assert not pattern.search(text), text
        assert shape not in HELD_OUT["shapes"]
        assert arrangement not in HELD_OUT["arrangements"]


def test_every_other_class_is_captioned() -> None:
    texts = " | ".join(text for text, *_ in scenes_with_captions(3000))
    for folder, words in HELD_OUT.items():
        for word in set(TASKS[folder].class_names) - set(words):
            assert re.search(rf"\b{word}(es|s)?\b", texts), word


def test_captions_are_true_and_varied() -> None:
    rng = np.random.default_rng(9)
    scene = sample_scene(rng, training_choices())
    texts = {caption(scene, rng).text for _ in range(200)}
    assert len(texts) > 40
    others = (set(COLOURS) | set(SHAPES)) - {scene.colour, scene.background, scene.shape}
    words = {word.strip(".,").removesuffix("s") for text in texts for word in text.split()}
    assert not words & others


def test_the_shipped_weights_are_small_and_load(block_network: Callable[[], None]) -> None:
    from cptlite.backbones import load_backbone

    assert ASSET.stat().st_size < 8 * MEBIBYTE
    block_network()
    backbone = load_backbone("demo", device="cpu")
    assert backbone.resolution == SIDE
    assert backbone.text_tower.width % 64 == 0


def test_a_caption_holds_what_it_claims_to_say() -> None:
    rng, choices = np.random.default_rng(10), training_choices()
    for _ in range(500):
        scene = sample_scene(rng, choices)
        words, said = attributes(scene), caption(scene, rng)
        assert set(words) == set(ATTRIBUTES)
        assert said.says
        for name in said.says - {"number"}:
            assert words[name] and words[name] in said.text, said
        mentioned = set(said.text.strip(".").split())
        if "shape" not in said.says:
            assert words["shape"] not in mentioned, said


@pytest.fixture
def block_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the demo's weights must need no network")

    return lambda: monkeypatch.setattr(socket.socket, "connect", refuse)
