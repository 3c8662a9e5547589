"""The catalogue: which datasets and suites there are, and what a user's words stand for."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from cptlite.datasets import tables
from cptlite.datasets.readers import READER_OPTIONS
from cptlite.datasets.specs import DatasetSpec, SuiteSpec
from cptlite.datasets.tables import near_matches
from cptlite.datasets.text_files import read_text, shown
from cptlite.datasets.user import is_manifest, looks_like_path, spec_from_path
from cptlite.errors import DataError, UsageError

__all__ = ["Catalog", "load_catalog"]

CATALOG_FILE = "catalog.toml"


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Every known dataset and suite.

    Attributes
    ----------
    datasets : mapping of str to DatasetSpec
        By name, in the catalogue's order.
    suites : mapping of str to SuiteSpec
        By name.
    """

    datasets: Mapping[str, DatasetSpec]
    suites: Mapping[str, SuiteSpec]
    _tables: Mapping[str, Mapping[str, Any]] = field(repr=False)

    def resolve(self, names: Sequence[str]) -> list[DatasetSpec]:
        """Find what words on the command line stand for.

        Parameters
        ----------
        names : sequence of str
            Dataset names or aliases, suites, folders of class folders, CSVs, manifests. A manifest
            stands for all its datasets, and its tables hold for the other words too.

        Returns
        -------
        list of DatasetSpec
            In the order asked for, each once.

        Raises
        ------
        UsageError
            For a word that is none of these (the message names near ones), a suite without datasets
            and two different datasets of one name.
        """
        catalog, defined = self, {}
        for name in filter(is_manifest, names):
            catalog, defined[name] = catalog._with_manifest(Path(os.path.expanduser(name)))
            if not defined[name]:
                raise UsageError(f"manifest {name!r}: wanted [datasets.NAME] tables, got none; write one per dataset")
        specs: dict[str, DatasetSpec] = {}
        for name in names:
            known = defined.get(name)
            found = catalog._named(known) if known is not None else catalog._resolve_one(name)
            for spec in found:
                if specs.setdefault(spec.name, spec) != spec:
                    raise UsageError(
                        f"dataset {spec.name!r}: wanted distinct names, got two datasets of this one; "
                        "rename a folder, or name them in a manifest"
                    )
        return list(specs.values())

    def canonical(self, name: str) -> str | None:
        """Return the name of the dataset a name or alias means, or None; case and - or _ are one."""
        return self._names().get(_key(name))

    def _names(self) -> dict[str, str]:
        """Names by key; a dataset's own name wins over another's alias."""
        aliases = {_key(alias): spec.name for spec in self.datasets.values() for alias in spec.aliases}
        return aliases | {_key(name): name for name in self.datasets}

    def _resolve_one(self, name: str) -> list[DatasetSpec]:
        """Resolve one word that is no manifest."""
        canonical = self.canonical(name)
        if canonical is not None:
            return [self.datasets[canonical]]
        suite = next((self.suites[key] for key in self.suites if _key(key) == _key(name)), None)
        if suite is not None:
            return self._suite(suite)
        if looks_like_path(name):
            return [spec_from_path(Path(name))]
        known = [*self.datasets, *self._names(), *self.suites]
        raise UsageError(
            f"dataset {name!r}: wanted a known dataset or suite, a folder, a CSV or a manifest, got "
            f"none of them{near_matches(name, known)}; `cptlite datasets` lists the known ones"
        )

    def _suite(self, suite: SuiteSpec) -> list[DatasetSpec]:
        """Datasets of a suite."""
        if not suite.datasets:
            raise UsageError(f"suite {suite.name!r}: wanted datasets, it names none: {suite.note or 'add some'}")
        return self._named(suite.datasets)

    def _named(self, names: Iterable[str]) -> list[DatasetSpec]:
        """Specs of names or aliases that are known to exist."""
        return [self.datasets[canonical] for name in names if (canonical := self.canonical(name))]

    def _with_manifest(self, path: Path) -> tuple[Catalog, list[str]]:
        """Return the catalogue with a manifest's tables over it, and the datasets those stand for."""
        return self._with_tables(_load_toml(path), shown(path), path.resolve().parent)

    def _with_tables(self, content: Mapping[str, Any], source: str, base: Path | None) -> tuple[Catalog, list[str]]:
        """As `_with_manifest`, with tables already read; relative directories lie in ``base``."""
        tables.check_table(content, tables.TOP_KEYS, source)
        raw, datasets, suites = dict(self._tables), dict(self.datasets), dict(self.suites)
        chosen: list[str] = []
        for given, table in content.get("datasets", {}).items():
            name, where = self.canonical(given) or given, f"{source}, [datasets.{shown(given)}]"
            own_files = name not in datasets or tables.has_place(table)
            raw[name] = tables.merged(raw.get(name, {}), table)
            place = base if own_files else datasets[name].base
            datasets[name] = tables.parse_dataset(name, raw[name], where, place, READER_OPTIONS)
            chosen.append(name)
        for name, table in content.get("suites", {}).items():
            suites[name] = tables.parse_suite(name, table, f"{source}, [suites.{shown(name)}]")
            chosen += suites[name].datasets
        catalog = Catalog(datasets=datasets, suites=suites, _tables=raw)
        catalog._check(content, source)
        return catalog, chosen

    def _check(self, content: Mapping[str, Any], source: str) -> None:
        """Refuse suites of unknown datasets and aliases that mean two datasets."""
        for suite in content.get("suites", {}):
            for name in self.suites[suite].datasets:
                if self.canonical(name) is None:
                    raise UsageError(
                        f"{source}, [suites.{suite}]: wanted known datasets, got {name!r}"
                        f"{near_matches(name, self.datasets)}; correct it or add [datasets.{shown(name)}]"
                    )
        for name in content.get("datasets", {}):
            spec = self.datasets[self.canonical(name) or name]
            for alias in spec.aliases:
                if self.canonical(alias) != spec.name:
                    raise UsageError(
                        f"{source}, [datasets.{name}]: wanted aliases of its own, got {alias!r}, which "
                        f"means {self.canonical(alias)!r}; use another"
                    )


def load_catalog(extra_manifest: Path | None = None) -> Catalog:
    """Load the package's catalogue.

    Parameters
    ----------
    extra_manifest : Path or None
        A manifest whose tables are added; one with the name of a known dataset overrides its keys.

    Returns
    -------
    Catalog

    Raises
    ------
    UsageError
        When a table does not have the catalogue's form.
    """
    text = (resources.files("cptlite.datasets") / CATALOG_FILE).read_text(encoding="utf-8")
    empty = Catalog(datasets={}, suites={}, _tables={})
    catalog, _ = empty._with_tables(tomllib.loads(text), CATALOG_FILE, None)
    return catalog if extra_manifest is None else catalog._with_manifest(extra_manifest)[0]


def _key(name: str) -> str:
    """Return what counts of a name: neither case nor the kind of dash."""
    return name.casefold().replace("-", "_")


def _load_toml(path: Path) -> dict[str, Any]:
    """Read a manifest."""
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise UsageError(
            f"manifest {str(path)!r}: wanted a TOML file, cannot read it ({error.strerror}); check the path"
        ) from None
    except RecursionError:
        raise UsageError(f"manifest {str(path)!r}: wanted TOML, got tables nested too deep; correct it") from None
    except (ValueError, DataError) as error:  # TOMLDecodeError, and what `int` says of too many digits
        raise UsageError(
            f"manifest {str(path)!r}: wanted TOML, cannot read it as such ({shown(error)}); correct it"
        ) from None
