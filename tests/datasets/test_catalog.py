"""Tests of the catalogue, users' manifests and what words on the command line stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import draw_classes

from cptlite.datasets import METRICS, Catalog, load_catalog, read_dataset
from cptlite.datasets.readers import READERS
from cptlite.errors import DataError, UsageError

CATALOG = load_catalog()

GENERAL10 = (
    "caltech101 dtd eurosat fgvc_aircraft food101 oxford_flowers oxford_pets stanford_cars sun397 ucf101".split()
)
PLANT6 = "fruit_vegetable kaggle_flower kaggle_mushroom kaggle_vegetable plant_seedling plant_village".split()


def names(*words: str, catalog: Catalog = CATALOG) -> list[str]:
    return [spec.name for spec in catalog.resolve(words)]


def test_suites() -> None:
    assert names("general10") == GENERAL10
    assert names("plant6") == PLANT6
    assert names("fashion20") == ["fashion20"]
    assert names("demo") == [f"demo_{t}" for t in "shapes colours patterns counts arrangements digits".split()]
    assert sum(CATALOG.datasets[name].num_classes or 0 for name in GENERAL10) == 1191


def test_facts_of_the_catalogue() -> None:
    for spec in CATALOG.datasets.values():
        assert spec.template.count("{}") == 1
        assert spec.metric in METRICS
        assert spec.layout.reader in READERS
        assert spec.base is None
    by_class = {name for name, spec in CATALOG.datasets.items() if spec.metric == "mean_per_class_recall"}
    assert by_class == {"caltech101", "fgvc_aircraft", "oxford_flowers", "oxford_pets", "fashion20"}
    dtd = CATALOG.datasets["dtd"]
    assert (dtd.task_name, dtd.template, dtd.counts) == ("texture", "{} texture.", (2820, 1128, 1692))
    assert CATALOG.datasets["imagenet"].counts == (1_281_167, 0, 50_000)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("fgvc", "fgvc_aircraft"),
        ("FGVC", "fgvc_aircraft"),
        ("flowers102", "oxford_flowers"),
        ("pets", "oxford_pets"),
        ("cars", "stanford_cars"),
        ("Stanford-Cars", "stanford_cars"),
        ("DTD", "dtd"),
    ],
)
def test_aliases(word: str, name: str) -> None:
    assert names(word) == [name]


def test_each_dataset_once_in_the_order_asked_for() -> None:
    assert names("pets", "general10", "oxford_pets")[:3] == ["oxford_pets", "caltech101", "dtd"]
    assert names() == []


def test_a_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dtd").mkdir()
    (tmp_path / "mine").mkdir()
    assert CATALOG.resolve(["dtd"]) == [CATALOG.datasets["dtd"]]
    assert CATALOG.resolve(["./dtd"])[0].layout.directory == str(tmp_path / "dtd")
    assert names("mine") == ["mine"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("fgcv", r"dataset 'fgcv': wanted a known dataset or suite.*\(did you mean 'fgvc'"),
        ("general", r"did you mean 'general10'"),
        ("zzzz", "got none of them; `cptlite datasets` lists"),
        ("nowhere/birds", "wanted a folder, a CSV or a manifest there, found nothing; check the path"),
        ("birds.csv", "found nothing"),
        ("birds.toml", "manifest 'birds.toml': wanted a TOML file, cannot read it"),
        ("rs8", "suite 'rs8': wanted datasets, it names none: the paper's eight remote-sensing tasks"),
    ],
)
def test_unknown_words(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CATALOG.resolve([word])


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text("{}")
    with pytest.raises(UsageError, match='name a split file in a manifest: split = "FILE"'):
        CATALOG.resolve([str(tmp_path / "split.json")])


def test_two_datasets_of_one_name(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "birds").mkdir(parents=True)
    with pytest.raises(UsageError, match="'birds': wanted distinct names, got two datasets of this one"):
        CATALOG.resolve([str(tmp_path / "a" / "birds"), str(tmp_path / "b" / "birds")])


MANIFEST = """
[datasets.my_leaves]
directory = "leaves"
task = "leaf disease"
template = "a photo of a {} leaf."
metric = "mean_per_class_recall"
aliases = ["leaves"]
class_names = { n01 = "rust", n02 = "scab" }

[datasets.my_birds]
split = "birds.csv"

[datasets.dtd]
task = "surface"

[datasets.fashion20.tasks]
pants-type = { task = "kind of trousers" }

[suites.mine]
datasets = ["leaves", "fgvc"]

[suites.rs8]
datasets = ["my_birds"]
"""


def manifest(folder: Path, text: str = MANIFEST) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    for name in ("n01", "n02"):
        (folder / "leaves" / name).mkdir(parents=True, exist_ok=True)
        for index in range(4):
            (folder / "leaves" / name / f"{index}.png").touch()
    (folder / "birds.csv").write_text("path,label\n1.jpg,tit\n2.jpg,tit\n3.jpg,auk\n4.jpg,auk\n")
    return path


def test_a_manifest_of_several_datasets(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    specs = CATALOG.resolve([str(path)])
    assert [s.name for s in specs] == ["my_leaves", "my_birds", "dtd", "fashion20", "fgvc_aircraft"]
    leaves = read_dataset(specs[0], Path("nowhere"))
    (task,) = leaves.tasks
    assert (task.name, task.template, task.metric) == (
        "leaf disease",
        "a photo of a {} leaf.",
        "mean_per_class_recall",
    )
    assert task.class_names == ("rust", "scab")
    assert leaves.image_root == tmp_path / "leaves"
    birds = read_dataset(specs[1], Path("nowhere"))
    assert (birds.tasks[0].name, birds.tasks[0].class_names) == ("my birds", ("auk", "tit"))
    assert birds.tasks[0].metric == "acc1"


def test_a_manifests_names_hold_for_the_other_words(tmp_path: Path) -> None:
    path = manifest(tmp_path)
    assert names(str(path), "rs8")[-1] == "fgvc_aircraft"
    catalog = load_catalog(path)
    assert names("rs8", catalog=catalog) == ["my_birds"]
    assert names("leaves", "mine", catalog=catalog) == ["my_leaves", "fgvc_aircraft"]
    assert names("general10", catalog=catalog) == GENERAL10
    assert "my_leaves" not in CATALOG.datasets


def test_words_of_a_known_dataset_can_be_overridden(tmp_path: Path) -> None:
    catalog = load_catalog(manifest(tmp_path))
    mine, known = catalog.datasets["dtd"], CATALOG.datasets["dtd"]
    assert (mine.task_name, mine.template) == ("surface", known.template)
    assert (mine.layout, mine.torchvision, mine.base) == (known.layout, known.torchvision, None)
    words = catalog.datasets["fashion20"].tasks
    assert words["pants-type"].name == "kind of trousers"


def test_other_files_keep_only_the_words(tmp_path: Path) -> None:
    catalog = load_catalog(manifest(tmp_path, '[datasets.fgvc]\ndirectory = "leaves"\n'))
    spec = catalog.datasets["fgvc_aircraft"]
    assert (spec.task_name, spec.metric, spec.aliases) == ("aircraft model", "mean_per_class_recall", ("fgvc",))
    assert (spec.layout.reader, spec.torchvision, spec.counts, spec.base) == ("folders", None, None, tmp_path)
    assert read_dataset(spec, Path("nowhere")).tasks[0].class_names == ("n01", "n02")


def test_a_manifests_directory_may_lie_under_the_root(tmp_path: Path) -> None:
    for folder in ("here", "data"):
        (tmp_path / folder).mkdir()
    manifest(tmp_path / "data")
    path = tmp_path / "here" / "mine.toml"
    path.write_text('[datasets.x]\ndirectory = "leaves"\n[datasets.y]\ndirectory = "absent"\n')
    found, absent = CATALOG.resolve([str(path)])
    assert read_dataset(found, tmp_path / "data").image_root == tmp_path / "data" / "leaves"
    with pytest.raises(DataError) as caught:
        read_dataset(absent, tmp_path / "data")
    for folder in ("here", "data"):
        assert f"missing  {tmp_path / folder / 'absent'}" in str(caught.value)


def test_an_absolute_directory(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    manifest(tmp_path / "data")
    text = f'[datasets.x]\ndirectory = "{(tmp_path / "data" / "leaves").as_posix()}"\n'
    (spec,) = CATALOG.resolve([str(manifest(tmp_path, text))])
    assert read_dataset(spec, Path("nowhere")).image_root == tmp_path / "data" / "leaves"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[datasets.x", "wanted TOML, cannot read it as such"),
        ("[dataset.x]\n", r"wanted keys among datasets, suites, got 'dataset' \(did you mean 'datasets'\?\)"),
        ("[datasets]\nx = 1\n", r"\[datasets.x\]: wanted a table, got 1"),
        ("[datasets.x]\ntemplte = 'a {}'\n", r"got 'templte' \(did you mean 'template'"),
        ("[datasets.x]\ntemplate = 'a photo'\n", "wanted template to be a text with one {} for the class name"),
        ("[datasets.x]\ntemplate = '{} or {}'\n", "one {} for the class name, got '{} or {}'"),
        ("[datasets.x]\ntemplate = 'a {name}'\n", "one {} for the class name"),
        ("[datasets.x]\nmetric = 'f1'\n", "wanted metric to be one of acc1, mean_per_class_recall, got 'f1'"),
        ("[datasets.x]\naliases = 'y'\n", "wanted aliases to be a list of texts"),
        ("[datasets.x]\ntask = ' '\n", "wanted task to be a text, got ' '"),
        ("[datasets.x]\nclasses = true\n", "wanted classes to be a whole number"),
        ("[datasets.x]\ncounts = [1, 2]\n", "three whole numbers"),
        ("[datasets.x]\nreader = 'class_folder'\n", r"wanted reader to be one of .*\(did you mean 'class_folders'"),
        ("[datasets.x]\nreader = 'csv'\n", "reader 'csv' wants split"),
        ("[datasets.x]\nsplit = 'x.txt'\n", "wanted reader to be one of"),
        ("[datasets.x]\nmixed = true\n", "reader 'folders' takes no 'mixed'"),
        ("[datasets.'a/b']\n", "wanted a name of letters, digits, '_', '-' and '.', got 'a/b'"),
        ("[datasets.x]\naliases = ['fgvc']\n[datasets.y]\naliases = ['dtd']\n", "got 'dtd', which means 'dtd'"),
        ("[datasets.x.tasks]\n0 = { name = 'y' }\n", "tasks.0: wanted keys among metric, task, template, got 'name'"),
        ("[datasets.x.torchvision]\nimage = 'y'\n", r"torchvision: wanted keys among .*did you mean 'images'"),
        ("[suites.s]\ndatasets = ['dtdd']\n", r"wanted known datasets, got 'dtdd' \(did you mean 'dtd'"),
        ("[suites.s]\nmembers = []\n", "wanted keys among datasets, note, got 'members'"),
        ("[datasets.x]\ndirectory = 'leaves'\nclass_names = { n03 = 'mould' }\n", "wanted class_names to rename"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        for spec in CATALOG.resolve([str(manifest(tmp_path, text))]):
            read_dataset(spec, tmp_path)
    assert "mine.toml" in str(caught.value) or "class_names" in message


def test_words_for_a_task_that_is_not_there(tmp_path: Path) -> None:
    text = '[datasets.fashion20.tasks]\npant-type = { task = "trousers" }\n'
    (spec,) = CATALOG.resolve([str(manifest(tmp_path, text))])
    (tmp_path / "fashion20" / "images" / "0" / "0").mkdir(parents=True)
    (tmp_path / "fashion20" / "images" / "0" / "1").mkdir()
    for label in (0, 1):
        (tmp_path / "fashion20" / "images" / "0" / str(label) / "x.jpg").touch()
    rows = "id\ta\tb\tc\n0\tpants type\t-\tjeans,shorts\n"
    (tmp_path / "fashion20" / "task_info.csv").write_text(rows + "1\thats\t-\tcap,hood\n")
    with pytest.raises(DataError, match="images/1/0"):
        read_dataset(spec, tmp_path)
    (tmp_path / "fashion20" / "task_info.csv").write_text(rows)
    with pytest.raises(UsageError, match=r"got words for 'pant-type' \(did you mean 'pants-type'"):
        read_dataset(spec, tmp_path)


def test_a_manifest_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes('[datasets.x]\ntask = "Bärlauch"\n'.encode("latin-1"))
    with pytest.raises(UsageError, match="save the file as UTF-8"):
        CATALOG.resolve([str(path)])


def test_the_template_of_eight_remote_sensing_sets_reads_them(tmp_path: Path) -> None:
    template = Path(__file__).parents[2] / "docs" / "rs8.toml"
    specs = CATALOG.resolve([str(template)])
    assert len(specs) == len({spec.task_name for spec in specs}) == 8
    for spec in specs:
        draw_classes(tmp_path / spec.layout.directory / spec.layout.images, ["airport", "dense_forest"], images=10)
        dataset = read_dataset(spec, tmp_path)
        assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 10, "val": 4, "test": 6}
        assert dataset.tasks[0].class_names == ("airport", "dense_forest")
