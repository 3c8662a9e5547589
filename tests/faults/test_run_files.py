"""A run's folder is attacked: bits are flipped, files cut and lost, disks full, processes killed and doubled.

Each attempt ends in one message that says what to do, or in the bytes of an undisturbed run; never in others.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from run_bench import BACKBONE, RunBench, configure, encode_datasets, least, results_of
from safetensors.torch import load_file, save_file
from training_fakes import Killed, ResidualMethod, learned, new_state, raise_at, rows_of
from typer.testing import CliRunner

from cptlite import files
from cptlite.backbones import load_backbone
from cptlite.cache import CacheFolder
from cptlite.cli import app
from cptlite.config import RunConfig
from cptlite.errors import CptliteError, DataError
from cptlite.runs.execute import execute_runs
from cptlite.runs.files import writing_run
from cptlite.runs.folders import run_folder
from cptlite.runs.prompts import read_prompts, write_prompts
from cptlite.training.checkpoint import write_log
from cptlite.training.loop import train
from cptlite.training.recipe import Recipe

RECIPES = {"sgd": Recipe(epochs=4, batch_size=8), "adamw": Recipe(epochs=4, batch_size=8, optimizer="adamw")}
SEED = 7


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> RunBench:
    """Caches that tests copy before they change them."""
    folder, backbone = tmp_path_factory.mktemp("shelf"), load_backbone(BACKBONE, device="cpu")
    return RunBench(backbone, encode_datasets(backbone, folder), folder)


@pytest.fixture
def bench(shelf: RunBench, tmp_path: Path) -> RunBench:
    return RunBench(shelf.backbone, shelf.caches, tmp_path)


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep one after each epoch."""
    monkeypatch.setattr("cptlite.training.state.CHECKPOINT_SECONDS", 0.0)


def places(size: int, count: int) -> list[int]:
    """Bits of a file to flip: those of its first and last bytes, and others drawn from all."""
    drawn = np.random.default_rng(SEED).choice(8 * size, min(count, 8 * size), replace=False)
    return sorted({0, 5, 8 * size - 1, *map(int, drawn)})


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def learned_in(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in content_of(folder).items() if name.endswith(".safetensors")}


def stop(bench: RunBench, config: RunConfig, out: str = "runs", epoch: int = 2) -> Path:
    """Kill a run after an epoch of its first task; its folder."""
    with pytest.raises(Killed):
        bench.train(out, config, raise_at_least(epoch))
    return run_folder(bench.folder / out, config)


def raise_at_least(done: float) -> Callable[[float, float], None]:
    def kill(epochs: float, _: float) -> None:
        if epochs >= done:
            raise Killed

    return kill


def train_forced(bench: RunBench, config: RunConfig, out: str = "runs", **options: Any) -> Path:
    with CacheFolder(bench.caches) as folder:
        caches = folder.open(bench.backbone, config.datasets)
        execute_runs([config], bench.backbone, caches, out=bench.folder / out, **{"force": True, **options})
    return run_folder(bench.folder / out, config)


# Damage


@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_flipped_bit_in_a_checkpoint_never_trains_on(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(ResidualMethod(), [new_state(recipe, rows_of(20), folder=tmp_path, on_epoch=raise_at(2))])
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    for bit in [*range(8 * header), *places(len(content), 300)]:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(DataError, match="checkpoint of this run .*--force"):
            new_state(recipe, rows_of(20), folder=tmp_path)
    for size in (0, 1, header - 1, header, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="checkpoint of this run .*--force"):
            new_state(recipe, rows_of(20), folder=tmp_path)
    path.write_bytes(content)
    assert new_state(recipe, rows_of(20), folder=tmp_path).epochs_done == 2


@pytest.mark.usefixtures("checkpoints")
def test_a_flipped_bit_or_a_lost_line_in_the_log_of_a_stopped_run_is_said(tmp_path: Path) -> None:
    recipe = RECIPES["sgd"]
    with pytest.raises(Killed):
        train(ResidualMethod(), [new_state(recipe, rows_of(20), folder=tmp_path, on_epoch=raise_at(2))])
    log = tmp_path / "log.jsonl"
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    lost = [b"", b"".join(lines[:-1]), b"".join(lines[1:]), content[:-1], lines[0] + lines[0] + b"".join(lines[2:])]
    damaged = [flipped(content, bit) for bit in places(len(content), 300)]
    for each in [*damaged, *lost]:
        log.write_bytes(each)
        with pytest.raises(DataError, match=r"log\.jsonl.*--force"):
            new_state(recipe, rows_of(20), folder=tmp_path)
        assert log.read_bytes() == each, "what is there is left for whoever wants to look"
    log.unlink()
    with pytest.raises(DataError, match=r"log\.jsonl.*0 lines for 4 steps"):
        new_state(recipe, rows_of(20), folder=tmp_path)


def test_a_flipped_bit_in_prompts_is_never_read(tmp_path: Path) -> None:
    state = new_state(RECIPES["sgd"], rows_of(20), folder=tmp_path)
    train(ResidualMethod(), [state])
    write_prompts(tmp_path, state.learnables)
    path = tmp_path / "prompts.safetensors"
    content = path.read_bytes()
    before = learned(state)
    size = 8 + int.from_bytes(content[:8], "little")
    for bit in [*range(8 * size), *places(len(content), 300)]:
        path.write_bytes(flipped(content, bit))
        with pytest.raises(DataError, match="prompts .*--force"):
            read_prompts(tmp_path, state.learnables)
        assert learned(state) == before
    path.write_bytes(content)
    assert read_prompts(tmp_path, state.learnables) is not None


@pytest.mark.slow
def test_a_damaged_or_lost_file_of_a_finished_run_is_said_and_force_trains_anew(bench: RunBench) -> None:
    config = least("softcpt", separate=True)
    folder = bench.train("runs", config)
    whole = content_of(folder)
    assert len(whole) == 11, "config, prompts, classifier, predictions, results, and a log and prompts of each task"
    for name, content in whole.items():
        for damaged in [flipped(content, bit) for bit in places(len(content), 6)] + [content[:-1], b"", None]:
            if damaged is None:
                (folder / name).unlink()
                if name in ("results.json", "config.json"):  # there it is no finished run, and is gone on with
                    (folder / name).write_bytes(content)
                    continue
            else:
                (folder / name).write_bytes(damaged)
            before = content_of(folder)
            if name == "results.json" and json_of(damaged) == json_of(content):
                continue  # a space of the layout became another
            with pytest.raises(DataError, match="damaged file.*--force"):
                bench.train("runs", config)
            assert content_of(folder) == before
            (folder / name).write_bytes(content)
    (folder / "classifier.safetensors").write_bytes(b"garbage")
    train_forced(bench, config)
    assert learned_in(folder) == {name: each for name, each in whole.items() if name.endswith(".safetensors")}


def json_of(content: bytes | None) -> Any:
    try:
        return json.loads(content or b"")
    except ValueError:
        return None


@pytest.mark.usefixtures("checkpoints")
def test_folders_of_earlier_versions_are_read(bench: RunBench) -> None:
    config = configure("coop-mt", epochs=4)
    undisturbed = learned_in(bench.train("undisturbed", config))
    folder = stop(bench, config)
    content = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(content[content.index(b"\n") + 1 :])
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["crc32"]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told: list[float] = []
    assert learned_in(bench.train("runs", config, lambda done, _: told.append(done))) == undisturbed
    assert told == [3, 4]
    save_file(load_file(folder / "prompts.safetensors"), folder / "prompts.safetensors")
    (folder / "results.json").unlink()
    told.clear()
    bench.train("runs", config, lambda done, _: told.append(done))
    assert not told
    results = results_of(folder)
    assert results.pop("files") and results.pop("sha256")
    (folder / "results.json").write_text(json.dumps(results))
    bench.train("runs", config, lambda done, _: told.append(done))
    assert not told and results_of(folder) == results


# Two writers

HOLDER = "import sys; from pathlib import Path; from cptlite.runs.files import writing_run\n"
HOLDER += "with writing_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"


@contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds a run's folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("checkpoints")
def test_the_second_of_two_writers_is_told_who_is_at_it(bench: RunBench) -> None:
    config = configure("coop-mt", epochs=4)
    undisturbed = learned_in(bench.train("undisturbed", config))
    folder = stop(bench, config)
    before = content_of(folder)
    with held(folder) as child:
        who = rf"process {child.pid} on {socket.gethostname()}\) is writing .*{folder.name}: wait"
        for _ in range(2):
            with pytest.raises(CptliteError, match=who):
                bench.train("runs", config)
            with pytest.raises(CptliteError, match=who):
                train_forced(bench, config)
        assert {name: each for name, each in content_of(folder).items() if name != ".run.lock"} == before
    assert (folder / ".run.lock").exists(), "of a killed process: it holds nobody up"
    assert learned_in(bench.train("runs", config)) == undisturbed
    assert not (folder / ".run.lock").exists()


@pytest.mark.slow
def test_a_finished_run_is_returned_while_its_folder_is_held(bench: RunBench) -> None:
    config = least("prototype")
    folder = bench.train("runs", config)
    with held(folder):
        bench.train("runs", config)


@pytest.mark.slow
def test_a_held_folder_does_not_look_begun_and_goes_where_nothing_is_written(tmp_path: Path, bench: RunBench) -> None:
    with writing_run(tmp_path / "a/b"):
        assert [path.name for path in (tmp_path / "a/b").iterdir()] == [".run.lock"]
    assert not (tmp_path / "a").exists()
    config = least("prototype")
    folder = run_folder(bench.folder / "runs", config)
    with held(folder) as child:
        child.kill()
    bench.train("runs", config)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(bench: RunBench, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    config = least("prototype")
    with pytest.raises(CptliteError, match="file system without locks .*--no-lock"):
        bench.train("runs", config)
    assert not (bench.folder / "runs").exists()
    folder = train_forced(bench, config, force=False, lock=False)
    assert sorted(content_of(folder)) == ["classifier.safetensors", "config.json", "predictions.csv", "results.json"]
    words = ["train", "--method", "prototype", "--shots", "2", "--cache-dir", str(bench.caches), "--out"]
    words.append(str(bench.folder / "typed"))
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "--no-lock" in done.stderr
    assert CliRunner().invoke(app, [*words, "--no-lock"]).exit_code == 0


# A full disk


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: the kernel refuses as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("method", ["softcpt", "kgcoop", "linear-probe"])
def test_a_full_disk_is_one_message_and_the_run_goes_on_afterwards(bench: RunBench, method: str) -> None:
    config = configure(method)
    whole = content_of(bench.train("undisturbed", config))
    folder = run_folder(bench.folder / "runs", config)
    sizes = sorted({len(content) for content in whole.values()})
    failed = 0
    for size in sorted(
        {0, *(share * each // 4 for each in sizes for share in (1, 2, 3)), *(each - 1 for each in sizes)}
    ):
        with files_up_to(size), pytest.raises(CptliteError, match="no space left in .*same command again") as caught:
            bench.train("runs", config)
        failed += caught.value.exit_code
        left = content_of(folder) if folder.exists() else {}
        assert not [name for name in left if name.endswith((".tmp", ".lock")) or name == "results.json"]
    assert failed >= 6
    assert learned_in(bench.train("runs", config)) == {
        name: content for name, content in whole.items() if name.endswith(".safetensors")
    }
    assert content_of(folder).keys() == whole.keys()


def test_a_full_disk_leaves_no_half_line_in_the_log(tmp_path: Path) -> None:
    step = {"step": 0, "epoch": 0, "loss": 1.5, "lr": 0.1, "seconds": 0.5}
    write_log(tmp_path, [step])
    content = (tmp_path / "log.jsonl").read_bytes()
    with files_up_to(len(content) + 10), pytest.raises(CptliteError, match="no space left"):
        write_log(tmp_path, [{**step, "step": 1}])
    assert (tmp_path / "log.jsonl").read_bytes() == content


@pytest.mark.parametrize("code", files.NO_SPACE)
def test_every_error_of_a_full_disk_is_that(tmp_path: Path, code: int) -> None:
    with pytest.raises(CptliteError, match="no space left"), files.naming_full_disk(tmp_path):
        raise OSError(code, os.strerror(code))
    with pytest.raises(PermissionError), files.naming_full_disk(tmp_path):
        raise OSError(errno.EACCES, "another matter")


# Kills and what they leave


@pytest.mark.usefixtures("checkpoints")
def test_a_kill_while_the_log_is_rewritten_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES["sgd"]
    with pytest.raises(Killed):
        train(ResidualMethod(), [new_state(recipe, rows_of(20), folder=tmp_path, on_epoch=raise_at(2))])
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4')
    content = (tmp_path / "log.jsonl").read_bytes()

    def kill(*_: Any) -> None:
        raise Killed

    for module, name in ((os, "fsync"), (Path, "replace"), (Path, "write_bytes")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(module, name, kill)
            new_state(recipe, rows_of(20), folder=tmp_path)
        assert (tmp_path / "log.jsonl").read_bytes() == content
    new_state(recipe, rows_of(20), folder=tmp_path)
    assert content.startswith((tmp_path / "log.jsonl").read_bytes())


def test_what_killed_runs_leave_is_tidied(bench: RunBench) -> None:
    config = least("softcpt", separate=True)
    folder = bench.train("runs", config)
    whole = content_of(folder)
    leftovers = (".results.json.17.tmp", "checkpoint.pt", "tasks/coins/checkpoint.pt", "tasks/coins/.log.jsonl.9.tmp")
    for name in leftovers:
        (folder / name).write_bytes(b"half")
        told: list[float] = []
        bench.train("runs", config, lambda done, _, told=told: told.append(done))
        assert content_of(folder) == whole and not told
    (folder / "results.json").unlink()
    (folder / leftovers[0]).write_bytes(b"half")
    bench.train("runs", config)
    assert content_of(folder).keys() == whole.keys()


@pytest.mark.skipif(not hasattr(os, "umask"), reason="permissions are POSIX's")
@pytest.mark.usefixtures("checkpoints")
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_of_new_files(bench: RunBench, mask: int) -> None:
    before = os.umask(mask)
    try:
        stopped = stop(bench, configure("coop-mt"), "stopped")
        folders = [stopped, *(bench.train("runs", least(method)) for method in ("coop-ca", "tip-adapter"))]
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for each in folders for path in each.rglob("*") if path.is_file()}
    assert set(modes.values()) == {0o666 & ~mask}
    assert len(modes) == 7


# Found out early


def drop_rows(task: int) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        group = file["test"]
        kept = group["tasks"][:] != task
        for name in list(group):
            old, values = group[name], group[name][:][kept]
            settings = {"chunks": old.chunks, "dtype": old.dtype, "maxshape": (None, *old.shape[1:])}
            del group[name]
            group.create_dataset(name, data=values, fletcher32=True, **settings)

    return change


def put(split: str, name: str, value: int) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[split][name][1] = value

    return change


EARLY = {
    "a task without test rows": (drop_rows(0), "leaves.h5 has no test rows"),
    **{
        f"{name} {value} in {split}": (put(split, name, value), rf"row 1 of split '{split}'")
        for split in ("train", "val", "test")
        for name, value in (("labels", -1), ("labels", 3), ("labels", 10**6), ("tasks", -1), ("tasks", 1))
    },
}


@pytest.mark.parametrize("method", ["softcpt", "linear-probe", "zeroshot"])
@pytest.mark.parametrize(("change", "says"), EARLY.values(), ids=EARLY)
def test_bad_rows_are_found_out_before_anything_is_trained_or_removed(
    bench: RunBench, monkeypatch: pytest.MonkeyPatch, method: str, change: Callable[[h5py.File], None], says: str
) -> None:
    config = least(method)
    folder = bench.train("runs", config)
    before = content_of(folder)
    bench.caches = Path(shutil.copytree(bench.caches, bench.folder / "cache"))
    (path,) = bench.caches.rglob("leaves.h5")
    with h5py.File(path, "r+", locking=False) as file:
        change(file)
    monkeypatch.setattr("cptlite.runs.execute.learn_runs", lambda *_: pytest.fail("something was learned"))
    with pytest.raises(DataError, match=says):
        bench.train("other", config)
    assert not (bench.folder / "other").exists()
    with pytest.raises(DataError, match=says):
        train_forced(bench, config)
    assert content_of(folder) == before


@pytest.mark.parametrize("name", ["checkpoint.pt", "log.jsonl", "prompts.safetensors"])
def test_a_pipe_in_place_of_a_runs_file_is_not_waited_for(bench: RunBench, name: str) -> None:
    config = least("softcpt")
    folder = run_folder(bench.folder / "runs", config)
    folder.mkdir(parents=True)
    os.mkfifo(folder / name)
    with pytest.raises(DataError, match=f"wanted a file at .*{name}, got a pipe: move it away"):
        bench.train("runs", config)
