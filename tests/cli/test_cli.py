"""The command line, called in this process and as one of its own."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from cptlite import __version__
from cptlite.cli import app, main
from cptlite.cli.console import progress, show_configuration, some
from cptlite.cli.groups import CommandGroup
from cptlite.cli.train_options import with_training_options
from cptlite.config import known_options
from cptlite.errors import CptliteError, DataError, UsageError
from cptlite.methods.table import METHODS
from cptlite.options import Option
from cptlite.shots import ALL_SHOTS

REPOSITORY = Path(__file__).parents[2]


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def process(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cptlite", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def failing(error: BaseException) -> typer.Typer:
    """Make an app whose one command raises an error."""
    broken = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)

    @broken.callback()
    def options(debug: bool = False) -> None: ...

    @broken.command()
    def work() -> None:
        raise error

    return broken


def test_version() -> None:
    assert call("--version").stdout == f"cptlite {__version__}\n"


def test_every_command_has_help() -> None:
    assert {command.callback.__name__ for command in app.registered_commands if command.callback} >= {
        "datasets",
        "methods",
        "report",
    }
    for command in app.registered_commands:
        assert command.callback is not None
        done = call(command.name or command.callback.__name__, "--help")
        assert done.exit_code == 0
        assert "Usage" in done.stdout


def test_an_unknown_command_names_a_near_one() -> None:
    done = call("dataset")
    assert done.exit_code == 2
    assert "Did you mean 'datasets'" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("wanted a, got b"), 2, "error: wanted a, got b\n"),
        (DataError("no such data"), 3, "error: no such data\n"),
        (CptliteError("failed"), 1, "error: failed\n"),
        (OSError(28, "No space left on device", "x.h5"), 1, "error: No space left on device: x.h5"),
        (KeyboardInterrupt(), 130, "\ninterrupted: the same command goes on where this one stopped\n"),
    ],
)
def test_errors_for_the_user_end_in_one_message(error: BaseException, code: int, message: str) -> None:
    done = CliRunner().invoke(failing(error), ["work"])
    assert done.exit_code == code
    assert done.stderr.startswith(message)
    assert done.stdout == ""


def test_debug_shows_where_an_error_came_from() -> None:
    done = CliRunner().invoke(failing(DataError("no such data")), ["--debug", "work"])
    assert done.exit_code == 3
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: no such data\n")


def test_any_other_error_is_a_bug_and_shows() -> None:
    done = CliRunner().invoke(failing(ZeroDivisionError()), ["work"])
    assert isinstance(done.exception, ZeroDivisionError)


def test_main_returns_the_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cptlite", "datasets", "no-such-dataset"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_as_a_process() -> None:
    done = process("datasets", "no-such-dataset")
    assert done.returncode == 2
    assert done.stderr.startswith("error: dataset 'no-such-dataset'")
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = f"{sys.executable} -m cptlite datasets fgvc --json | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_debug_may_be_set_by_the_environment() -> None:
    done = process("datasets", "no-such-dataset", env={**os.environ, "CPTLITE_DEBUG": "1"})
    assert done.returncode == 2
    assert "Traceback" in done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that moves when it is told to."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("cptlite.cli.console.time", clock)
    return clock


def test_progress_on_a_terminal_shows_stage_count_speed_and_time_left(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    with progress("loading", "steps") as tick:
        for clock.now, done in ((0, 0), (50, 1000), (60, 1100)):  # what comes before the first is no part of the speed
            tick(done, 1300, "drawing", "images")
    assert "drawing" in sys.stderr.getvalue()
    assert "1,100 of 1,300 images, 10.0/s, about 0:20 left" in sys.stderr.getvalue()


def test_progress_without_a_terminal_is_a_line_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("loading", "steps") as tick:
        for clock.now in range(91):
            tick(clock.now, 4000, "training", "steps", said=f"{clock.now // 10} of 33 runs")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 3 of 33 runs, 30 of 4,000 steps, about 1:06:10 left",
        "training: 6 of 33 runs, 60 of 4,000 steps, about 1:05:40 left",
        "training: 9 of 33 runs, 90 of 4,000 steps, about 1:05:10 left",
    ]


def test_progress_of_an_instant_names_no_speed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("training", "runs") as tick:
        for clock.now, done in ((0, 0), (0.0001, 9), (0.0002, 33)):
            tick(done, 33)
    assert "33 of 33 runs" in sys.stderr.getvalue() and "/s" not in sys.stderr.getvalue()


def test_settings_are_summed_up_in_three_lines_of_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    show_configuration("train", ["softcpt on flowers\x1b[0m", "backbone demo", "into " + "folder/" * 30])
    first, second, third = capsys.readouterr().err.splitlines()
    assert (first, second) == ("cptlite train: softcpt on flowers\\x1b[0m", "  backbone demo")
    assert third.startswith("  into folder/") and third.endswith("...") and len(third) == 79
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["leaves", "coins", "shells"], room=20) == "leaves and 2 more"


def test_show_configuration_aligns_names_and_spells_values(capsys: pytest.CaptureFixture[str]) -> None:
    show_configuration("cache", [], {"views": 1, "datasets": ["a", "b"], "flip": False, "init": "", "of": None})
    assert capsys.readouterr().err == (
        "cptlite cache\n  views     1\n  datasets  a, b\n  flip      no\n  init      none\n  of        none\n"
    )


def test_datasets_lists_names_counts_and_what_is_found(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "flowers", classes=2, images=1)
    done = call("datasets", "--root", tmp_path)
    assert done.exit_code == 0
    assert "3334/3333/3333" in done.stdout
    assert "suite general10: caltech101 dtd" in done.stdout
    listed = json.loads(call("datasets", "--root", tmp_path, "--json").stdout)
    by_name = {facts["name"]: facts for facts in listed["results"]}
    assert by_name["fgvc_aircraft"]["aliases"] == ["fgvc"]
    assert by_name["fgvc_aircraft"]["counts"] == [3334, 3333, 3333]
    assert not by_name["fgvc_aircraft"]["found"]
    assert len(listed["suites"]["general10"]) == 10


def test_datasets_of_one_shows_its_tree_and_what_is_missing(tmp_path: Path) -> None:
    done = call("datasets", "fgvc", "--root", tmp_path)
    assert done.exit_code == 0
    assert done.stdout.startswith("fgvc_aircraft (also fgvc)")
    assert "images_variant_train.txt" in done.stdout
    assert str(tmp_path / "fgvc_aircraft/variants.txt") in done.stdout.split("missing:")[1]


def test_datasets_of_one_that_is_there_counts_it(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "leaves", classes=3, images=10)
    (facts,) = json.loads(call("datasets", tmp_path / "leaves", "--json").stdout)["results"]
    assert facts["found"]
    assert facts["read_classes"] == 3
    assert facts["read_counts"] == [15, 6, 9]
    assert "3 classes, train/val/test 15/6/9" in call("datasets", tmp_path / "leaves").stdout


def test_the_root_may_be_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPTLITE_DATA", str(tmp_path))
    assert str(tmp_path) in call("datasets", "fgvc").stdout


def test_methods() -> None:
    said = call("methods").stdout
    assert "softcpt --variant: nata, nats, cata" in said
    row = next(line for line in said.splitlines() if line.startswith("coop-ca "))
    words = ("one context per task", "per task", "random views", "T L W", "Zhou et al., IJCV 2022")
    assert all(word in row for word in words)
    listed = {entry.pop("name"): entry for entry in json.loads(call("methods", "--json").stdout)["results"]}
    assert {"zeroshot", "linear-probe", "prototype", "coop-mt", "coop-ca", "softcpt"} <= listed.keys()
    assert listed["lp++"] == {
        "variants": [],
        "learns": "a linear head blended with the template class by class",
        "multi_task": False,
        "carries_over_to": {"nothing new": []},
        "cached": "all views",
        "sees": ["names", "validation", "descriptions"],
        "cost": "N K D",
        "parameters": "K D + 2 K",
        "source": "Huang et al., CVPR 2024",
        "deviation": METHODS["lp++"].deviation,
    }


def test_report_prints_tables_and_draws(tmp_path: Path) -> None:
    for shots in (1, 4):
        write_results(tmp_path / f"runs/shots{shots}-seed1", shots=shots, suite_score=0.1 * shots)
    done = call("report", tmp_path / "runs", "--tasks", "--out", tmp_path / "plots")
    assert done.exit_code == 0, done.stderr
    assert "40.0" in done.stdout
    assert "mine, 1 task at 4 shots (%)" in done.stdout
    assert (tmp_path / "plots/shots.png").stat().st_size > 1000
    (method,) = {json.loads(path.read_text())["method"] for path in tmp_path.glob("runs/*/results.json")}
    assert call("report", tmp_path / "runs", "--method", f"gda,{method}").stdout.count(f"\n{method}") == 1
    none = call("report", tmp_path / "runs", "--method", "gda")
    assert none.exit_code == 3 and f"wanted runs of gda, found those of {method}" in none.stderr
    assert call("report", tmp_path / "runs", "--method", "gdb").exit_code == 2
    data = json.loads(call("report", tmp_path / "runs", "--json").stdout)
    assert [(each["group"], each["shots"]) for each in data["results"]] == [("mine, 1 task", 1), ("mine, 1 task", 4)]


def test_demo_says_what_came_out_where_it_lies_and_what_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cptlite.demo import DemoPlan, DemoProgress, DemoReport

    write_results(tmp_path / "runs/one")
    results = [json.loads((tmp_path / "runs/one/results.json").read_text())]
    places = {name: tmp_path / name for name in ("data", "caches", "runs", "plot", "example")}

    plans = []

    def run_demo(out: Path, plan: DemoPlan, *, on_progress: Any) -> DemoReport:
        plans.append(plan)
        for stage in ("draw", "cache", "train"):
            on_progress(DemoProgress(stage=stage, done=1, total=2))
        return DemoReport(results=results, **places, seconds={"train": 1.0})

    monkeypatch.setattr("cptlite.demo.run_demo", run_demo)
    monkeypatch.setattr(sys, "argv", ["cptlite"])
    done = call("demo", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "coop-mt" in done.stdout
    for words in (
        *map(str, places.values()),
        "train 1 s",
        f"cptlite report {places['runs']} --tasks",
        "--variant cata",
    ):
        assert words in done.stderr
    assert json.loads(call("demo", "--json", "--all", "--recipe", "paper").stdout)["results"] == results
    assert plans[0] == DemoPlan()
    assert set(plans[0].methods) < set(plans[1].methods)
    assert plans[1].recipe == "paper"
    done = call("demo", "-m", "zeroshot,coop-ca", "-m", "gda", "--shots", "all,2")
    assert done.exit_code == 0 and "2, all shots; 3 seeds" in done.stderr, done.output
    assert plans[2] == DemoPlan(methods=("coop-ca", "gda"), shots=(2, ALL_SHOTS), paper_too=())
    assert plans[0].paper_too == plans[1].paper_too == ("softcpt",)
    for words in (("--all", "-m", "gda"), ("-m", "sofcpt"), ("--shots", "0"), ("--shots", "some")):
        assert call("demo", *words).exit_code == 2
    assert len(plans) == 3, "refused before anything is drawn"


def test_report_of_nothing(tmp_path: Path) -> None:
    done = call("report", tmp_path)
    assert done.exit_code == 3
    assert "cptlite train" in done.stderr


# Flags of train, made from the options


def panels_of(*words: str) -> dict[str, str]:
    """Text of each panel of a help, by its title, with the lines of the frame joined."""
    done = CliRunner().invoke(app, ["train", *words, "--help"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    panels: dict[str, str] = {}
    for line in done.stdout.splitlines():
        if line.startswith("╭─"):
            title = line.strip("╭─╮ ")
            assert title not in panels
            panels[title] = ""
        elif line.startswith("│"):
            panels[title] += " " + " ".join(line.strip("│ ").split())
    return panels


def flag_of(option: Option) -> str:
    return "--template" if option.name == "templates" else f"--{option.flag}"


def panel_with(panels: dict[str, str], flag: str) -> str:
    """Title of the one panel that a flag is in."""
    (found,) = [title for title, text in panels.items() if f" {flag} " in f" {text} "]
    return found


def help_of(panels: dict[str, str], flag: str) -> str:
    """Help of a flag: what stands in its panel until the next flag."""
    return re.split(r" (?=--[a-zA-Z])", panels[panel_with(panels, flag)].partition(f" {flag} ")[2])[0]


def test_help_shows_every_option_of_every_method_in_its_panel() -> None:
    panels = panels_of()
    holders: dict[str, list[str]] = {}
    for name, entry in METHODS.items():
        for part, each in known_options(entry):
            if part == "method":
                holders.setdefault(flag_of(each), []).append(name)
    shared = {each.flag for entry in METHODS.values() for part, each in known_options(entry) if part != "method"}
    for flag, names in holders.items():
        wanted = f"Options of {names[0]}" if len(names) == 1 else "Options of several methods"
        if flag.removeprefix("--") in shared:
            wanted = "Recipe (of methods that learn by gradient steps)"
        assert panel_with(panels, flag) == wanted, flag
    assert holders["--reduction"] == ["cocoop", "tcp"] and {"taskres", "kgcoop", "prograd"} < set(holders["--strength"])
    for name, entry in METHODS.items():
        for part, each in known_options(entry):
            said = help_of(panels, flag_of(each))
            assert each.help in said, (name, each.name)
            if part == "method" and len(holders[flag_of(each)]) > 1:
                assert name in said
            if part == "recipe":
                assert panel_with(panels, flag_of(each)) == "Recipe (of methods that learn by gradient steps)"


def test_help_says_the_usual_default_and_those_of_others() -> None:
    panels = panels_of()
    for flag, words in {  # between those named here stand others
        "--epochs": r"\(default: 50; taskres: 100; cocoop[a-z, -]*: 10[;)]",
        "--optimizer": r"\(default: sgd; taskres: adamw[;)]",
        "--separate": r"\(default: no; taskres, cocoop, kgcoop, prograd, [a-z, -]*plot[a-z, -]*: yes\)",
        "--context-length": r"cocoop, kgcoop[a-z, -]*: Context tokens of a class prompt, L. \(default: 4\)",
    }.items():
        assert re.search(words, help_of(panels, flag)), flag
    own = r"tip-adapter-f[a-z, -]*: Passes over the training rows\. \(default: 20\)"
    assert re.search(own, help_of(panels, "--epochs"))
    assert help_of(panels, "--shots").endswith("Training images per class; all: every one. (default: 16)")


@pytest.mark.parametrize("method", METHODS)
def test_help_of_one_method_shows_its_options_with_its_defaults_and_no_others(method: str) -> None:
    panels = panels_of("--method", method)
    assert panels == panels_of(f"--method={method}") == panels_of("-m", method)
    own = {flag_of(each): each for _, each in known_options(METHODS[method])}
    every = {flag_of(each) for entry in METHODS.values() for _, each in known_options(entry)}
    shown = {flag for flag in every if any(f" {flag} " in f" {text} " for text in panels.values())}
    assert shown == set(own)
    for flag, each in own.items():
        said = help_of(panels, flag)
        assert each.help in said
        if each.default not in (None, "", (), False):
            word = "yes" if each.default is True else each.default
            assert f"(default: {word})" in said
        assert said.count("default:") <= 1
    for part, each in known_options(METHODS[method]):
        if part == "method":
            assert panel_with(panels, flag_of(each)) == f"Options of {method}"


def test_help_of_two_methods_shows_the_options_of_both() -> None:
    panels = panels_of("--method", "kgcoop,taskres")
    assert panels == panels_of("-m", "kgcoop", "--method=taskres")
    assert "kgcoop: Factor on the pull" in help_of(panels, "--strength")
    assert "(default: 50; taskres: 100)" in help_of(panels, "--epochs")
    assert "--reduction" not in " ".join(panels.values())


def test_help_of_kgcoop_and_of_cocoop_in_full() -> None:
    kgcoop = panels_of("--method", "kgcoop")
    flags = re.findall(r" (--[a-z-]+)", kgcoop["Options of kgcoop"])
    template = ["--descriptions", "--template"]
    assert sorted(flags) == sorted(["--context-init", "--context-length", "--position", "--strength", *template])
    assert "Factor on the pull towards the template. (default: 8.0)" in help_of(kgcoop, "--strength")
    assert "(default: a photo of a)" in help_of(kgcoop, "--context-init")
    assert "(default: 50)" in help_of(kgcoop, "--epochs")
    cocoop = panels_of("--method", "cocoop")
    assert "(default: 10)" in help_of(cocoop, "--epochs") and "(default: 1)" in help_of(cocoop, "--batch-size")
    assert "--recipe" not in " ".join(cocoop.values())


HELP_IN_A_PROCESS = """
import sys
from cptlite.cli import main
sys.argv = ["cptlite", "train", *sys.argv[1:], "--help"]
code = main()
print([name for name in ("torch", "numpy", "clip", "sklearn", "h5py", "safetensors") if name in sys.modules], code)
"""


@pytest.mark.parametrize("words", [(), ("--method", "kgcoop"), ("--method", "cocoop")], ids=" ".join)
def test_help_loads_no_torch(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", HELP_IN_A_PROCESS, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
    assert ("--strength" in done.stdout) == ("cocoop" not in words)


def test_training_flags_carry_types_and_no_defaults() -> None:
    seen: dict[str, Any] = {}
    small = typer.Typer()

    @small.command()
    @with_training_options
    def train(*, out: str = "runs", **settings: Any) -> None:
        seen.clear()
        seen.update(settings, out=out)

    assert CliRunner().invoke(small, []).exit_code == 0
    assert seen == {"out": "runs"}, "the defaults are the method's"
    words = ["--lr", "0.5", "--batch-size", "8", "--shots", "1", "--shots", "2", "--strength", "4", "--C", "1"]
    assert CliRunner().invoke(small, [*words, "--no-separate", "--out", "x"]).exit_code == 0
    given = {"lr": 0.5, "batch_size": 8, "shots": [1, 2], "strength": 4.0, "C": 1.0, "separate": False}
    assert seen == {**given, "out": "x"}
    assert CliRunner().invoke(small, ["--template", "a {}.", "--template", "{}!"]).exit_code == 0
    assert seen == {"templates": ["a {}.", "{}!"], "out": "runs"}
    for wrong in (["--batch-size", "many"], ["--num-prompts", "2.5"], ["--eps", "x"]):
        assert CliRunner().invoke(small, wrong).exit_code == 2


def test_the_readme_and_the_justfile_say_the_same() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    justfile = (REPOSITORY / "Justfile").read_text(encoding="utf-8")
    for name in ("demo", "test"):
        block = readme.split(f"<!-- ci:{name} -->\n")[1].split("```")[1]
        command = block.removeprefix("bash").strip()
        assert f"\n{name}:\n    {command}\n" in justfile


def make_class_folders(folder: Path, *, classes: int, images: int) -> None:
    """Draw a folder of class folders of small images that differ."""
    from PIL import Image

    for label in range(classes):
        (folder / f"class {label}").mkdir(parents=True)
        for index in range(images):
            colour = (80 * label % 256, 25 * index % 256, 100)
            Image.new("RGB", (40, 30), colour).save(folder / f"class {label}/{index:02}.png")


def write_results(folder: Path, **changes: Any) -> None:
    scores = {"acc1": 0.5, "mean_per_class_recall": 0.5, "metric": "acc1", "rows": 10}
    result = {"method": "coop-mt", "variant": "", "suite": "mine", "shots": 1, "seed": 1}
    result |= {"tasks": {"leaf": scores}, "suite_score": 0.5, "parameters": 8, "seconds": {"train": 1}}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(result | changes))
