"""The house plan, kept: imports point up, files and functions stay short, help comes at once."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cptlite"

# Rooms from the ground up: a module may import from its own room and from those above it, not beside it.
HOUSE = (
    ("__init__", "errors", "files", "options", "process"),
    ("metrics", "shots", "splits", "environment"),
    ("drawings", "datasets"),
    ("backbones", "download"),
    ("cache", "text"),
    ("classifiers",),
    ("methods",),
    ("training",),
    ("config",),
    ("runs",),
    ("api", "reporting"),
    ("timing", "demo", "doctor"),
    ("reproduction",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(HOUSE) for room in rooms}

# The files of each room, from the ground up as well: one imports from those on earlier lines alone. ANY stands for
# those that are not named: methods, one beside the other.
ANY = "*"
ORDER = {
    "api": ("fitted", "few_shot"),
    "backbones": (
        "absent architectures clip pickles",
        "archives configs layouts linear names patches tokenizer weights",
        "checkpoints",
        "backbone",
        "images openclip",
        "load",
    ),
    "backbones.openclip": ("library", "tokens towers weights", "backbone"),
    "cache": (
        "arrays format",
        "columns parts structure",
        "read sources",
        "labelled layers shards verify write",
        "folder",
        "encode_pass imported prune",
        "encode",
        "sharded",
    ),
    "classifiers": (
        "base",
        "state",
        "image_conditioned linear projected tip transport two_headed two_prototypes",
        "ape tip_x",
        "joined",
        "stored",
        "store",
    ),
    "cli": (
        "console groups options",
        "report_options",
        "bench cache caches choose datasets doctor download import_features methods report train_options",
        "demo eval export predict sweep_given sweep_shown train",
        "extend interpret reproduce sweep",
    ),
    "datasets": (
        "specs text_files types views",
        "images listed matlab partition tables user",
        "checks",
        "drafts",
        "class_folders split_files",
        "csv_files image_paths imagenet lists task_folders torchvision_layouts",
        "readers",
        "catalog locate",
        "status suites",
    ),
    "doctor": ("findings importing", "contents device folders packages"),
    "download": ("fetch sources unpack", "dataset"),
    "drawings": ("scenes", "captions render", "suite"),
    "methods": (
        "batches class_texts",
        "options",
        "base",
        "templates",
        "probes prompts",
        "entry",
        "probe_table prompt_table",
        "table",
    ),
    "methods.probes": (
        "choosing",
        "estimator projection",
        "search view_batches",
        "ape_channels",
        ANY,
        "per_task zero_shot",
    ),
    "methods.prompts": ("class_terms class_weights", "coop", "text_to_text", ANY),
    "reporting": (
        "checks",
        "long_form",
        "figures results",
        "configurations",
        "folds",
        "summaries",
        "choosing comparing plots",
        "panels tables",
        "comparison_tables formats interpreted mistakes page paper predicted records rendering",
        "paper_tables",
    ),
    "reporting.page": ("libraries markup sources", "charts confusion", "group", "provenance sections", "write"),
    "reproduction": ("plan target", "needs", "cost"),
    "runs": (
        "files folders guards image_features label_noise matching predictions progress seen",
        "evaluate mistakes prompts",
        "sources",
        "rows",
        "support",
        "learn load predict transductive",
        "by_name card class_images contexts execute onnx_model reevaluate",
        "estimate export interpret reuse workers",
        "pools",
        "engines sweep",
        "sweep_choice sweep_plan sweep_run",
    ),
    "text": ("blocks layout", "layers plan", "trunk", "fused picked", "plain", "paths", "picking", "encoder", "parted"),
    "timing": ("clock figure pictures report sizes tasks", "ways", "cache probe text train", "bench"),
    "training": ("recipe", "checkpoint graph sampling", "state", "loop"),
}

SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "torchvision", "clip", "sklearn", "scipy", "h5py", "matplotlib", "safetensors")
LIGHT_ROOMS = ("__init__", "errors", "config", "metrics", "splits", "cli", "__main__")
MAX_FILE_LINES = 300
MAX_TOP_FILES = 14
MAX_FUNCTION_LINES = 50


def module_name(path: Path) -> str:
    """``cptlite.datasets.types`` for its file; a package goes by its folder's name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_name(path): path for path in SOURCES}


def room(module: str) -> str:
    """Return the folder or top file that a module stands in."""
    return module.split(".")[1]


def place(module: str, folder: str) -> int:
    """Line of a module, or of its folder, in the order of a room."""
    name = module.removeprefix(f"cptlite.{folder}.").split(".")[0]
    lines = [line for line, names in enumerate(ORDER[folder]) if name in names.split()]
    lines += [line for line, names in enumerate(ORDER[folder]) if names == ANY]
    assert lines, f"give {module} a line in ORDER[{folder!r}]"
    return lines[0]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every absolute module name imported anywhere in the tree, names of ``from`` imports too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}; write it in full"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, lazily or not.

    The package's own file names rooms for type checkers alone; tests/test_api.py shows that it loads none.
    """
    found: set[str] = set()
    if path == MODULES["cptlite.__init__"]:
        return found
    for name in imported(parse(path)):
        if name.split(".")[0] != "cptlite":
            continue
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name or "cptlite.__init__")
    return found


def module_level(path: Path) -> Iterator[str]:
    """Top packages imported when the module is: not those inside functions or TYPE_CHECKING."""
    todo: list[ast.AST] = [parse(path)]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from (name.split(".")[0] for name in imported(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                continue
            else:
                todo.append(node)


def function_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its docstring left out."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_every_module_has_its_room() -> None:
    homeless = sorted(name for name in MODULES if room(name) not in FLOOR)
    assert not homeless, f"give each of these a line in HOUSE: {homeless}"
    assert len([path for path in SOURCES if path.parent == PACKAGE]) <= MAX_TOP_FILES


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_up(module: str) -> None:
    own = FLOOR[room(module)]
    others = {name for name in imported_modules(MODULES[module]) if room(name) != room(module)}
    down = sorted(name for name in others if FLOOR[room(name)] > own or (FLOOR[room(name)] == own and own > 1))
    assert not down, f"{module} imports from rooms below or beside its own: {down}"


@pytest.mark.parametrize("folder", sorted(ORDER))
def test_files_of_a_room_are_ordered(folder: str) -> None:
    inside = [name for name in MODULES if name.startswith(f"cptlite.{folder}.")]
    for module in inside:
        needed = {name for name in imported_modules(MODULES[module]) if name in inside and name != module}
        own = place(module, folder)
        same = [name for name in needed if place(name, folder) == own]
        assert all(place(name, folder) <= own for name in needed), f"{module} imports from files below it: {needed}"
        # A folder in a room, such as methods/probes, has an order of its own.
        assert all(name.split(".")[:3] == module.split(".")[:3] and name.count(".") > 2 for name in same), same


def test_no_import_cycles() -> None:
    waiting = {name: imported_modules(path) - {name} for name, path in MODULES.items()}
    while waiting:
        free = {name for name, needs in waiting.items() if not needs & waiting.keys()}
        assert free, f"these import each other in a circle (or lie behind one): {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in free}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_and_functions_are_short(module: str) -> None:
    path = MODULES[module]
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES
    functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if function_lines(f) > MAX_FUNCTION_LINES]
    assert not long, f"over {MAX_FUNCTION_LINES} lines in {module}: {long}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_one_file_knows_clip(module: str) -> None:
    if module != "cptlite.backbones.clip":
        assert "clip" not in {name.split(".")[0] for name in imported(parse(MODULES[module]))}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_one_file_knows_open_clip(module: str) -> None:
    if module != "cptlite.backbones.openclip.library":
        assert "open_clip" not in {name.split(".")[0] for name in imported(parse(MODULES[module]))}
    else:
        assert "open_clip" not in set(module_level(MODULES[module]))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_command_line_prints(module: str) -> None:
    if room(module) == "cli":
        return
    calls = [node for node in ast.walk(parse(MODULES[module])) if isinstance(node, ast.Call)]
    prints = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not prints, f"{module} prints in lines {prints}; report through a callback"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if room(name) in LIGHT_ROOMS))
def test_light_rooms_import_nothing_heavy(module: str) -> None:
    heavy = sorted(set(module_level(MODULES[module])) & set(HEAVY))
    assert not heavy, f"{module} imports {heavy} when it is imported; do it inside the function"


def test_the_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, cptlite.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "cptlite", "--help"], capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "train" in done.stdout
    # 0.25 s on an idle core; the bound leaves room for a busy machine, not for an import of torch.
    assert min(seconds) < 2.0, f"cptlite --help took {min(seconds):.2f} s"
