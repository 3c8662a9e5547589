# Short verbs for what README.md says in full; every recipe is a plain command that works without just.

python := ".venv/bin/python"
cptlite := ".venv/bin/cptlite"

# List the recipes.
default:
    @just --list

# A virtual environment with the package, editable, and every tool of development.
setup:
    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[dev]'

# README's first command.
demo:
    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt '.[plot]' && .venv/bin/cptlite demo

# README's second command.
test:
    python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e '.[test]' && .venv/bin/python -m pytest -n 2 --dist worksteal

# The tests but for the slow ones: two and a half minutes on two cores; needs `just setup`.
test-fast *options:
    {{python}} -m pytest -n 2 --dist worksteal -m "not slow" {{options}}

# Faults injected into every command that writes, a quarter of an hour; the table of tests/README.md is written anew.
faults *options:
    {{python}} tests/faults/inject.py --seed 0 --table tests/README.md {{options}}

# Fuzz one reader of files, or all of them: `just fuzz csv 60`; needs `just setup`, CONTRIBUTING.md says more.
fuzz reader="" seconds="600":
    {{python}} -m pip install -q -c constraints.txt -e '.[fuzz]'
    OMP_NUM_THREADS=1 {{python}} tests/fuzz/run_atheris.py {{reader}} --seconds {{seconds}}

# Style, formatting, types and what bandit finds; needs `just setup`.
lint:
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy
    {{python}} -m bandit --quiet --configfile pyproject.toml --recursive cptlite scripts

# Known weaknesses in the versions of constraints.txt; asks the package index's advisories, so it needs a network.
audit:
    {{python}} -m pip_audit --requirement constraints.txt --no-deps --disable-pip

# Lint before every commit; needs `just setup`.
hooks:
    {{python}} -m pre_commit install

# The sdist and, from it, the wheel, into dist/, and whether a package index would take them; needs `just setup`.
build:
    {{python}} -m build --no-isolation
    {{python}} -m twine check --strict dist/cptlite-*

# Time this machine's processor: five minutes, results in bench/results/; bench/README.md explains them.
bench *options:
    {{cptlite}} bench --device cpu --json bench/results/cpu.json --plot bench/results/cpu.png {{options}}

# What this machine's GPU has to show, nine minutes a call until all is done; scripts/gpu_day.py explains its parts.
gpu-day *options:
    {{python}} scripts/gpu_day.py {{options}}

# Train the small CLIP that the package ships for the demo.
pretrain-demo *options:
    {{python}} scripts/pretrain_demo.py {{options}}

# What CI runs: a fresh environment, README's test command, lint, wheel and sdist, the demo.
ci:
    .ci/run
