"""Sentences about classes, from a JSON file, that speak for a class beside its template.

Pratt et al., "What Does a Platypus Look Like? Generating Customized Prompts for Zero-Shot Image Classification" (ICCV
2023), CuPL, whose files have the form ``{class: [sentences]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cptlite.datasets.text_files import check_regular, name_key, read_json, shown
from cptlite.errors import DataError, UsageError
from cptlite.files import sha256_of

if TYPE_CHECKING:
    from cptlite.datasets.types import Task

__all__ = ["Descriptions", "as_descriptions", "check_descriptions", "lacking_descriptions", "read_descriptions"]

MOST_BYTES = 64 * 2**20  # CuPL's file for ImageNet has 6 MB
MOST_LETTERS = 10_000  # of a sentence; the text encoder reads the first 77 tokens
DIGITS = 16
SHOWN = 5  # names in a message
FORM = '{"class": ["a sentence", ...]}, or {"task": {"class": ["a sentence", ...]}}'


class Descriptions(str):
    """Sentences by class, for all tasks or for one; as a text, and in ``config.json``, the digest of them all.

    Parameters
    ----------
    content : mapping
        ``{class: [sentences]}``, ``{task: {class: [sentences]}}``, or both beside each other: a task is named by its id
        or its name, and what it says of a class comes before what is said for all tasks. Capitals, underscores and the
        number of spaces do not tell names apart.

    Raises
    ------
    UsageError
        It has another form, nothing in it, a name twice, or a sentence that is empty or has over 10,000 letters.
    """

    content: dict[str, Any]

    def __new__(cls, content: Mapping[str, Any]) -> Self:
        """Check the form of a table and take it over."""
        _check(content)
        plain = {name: _plain(value) for name, value in content.items()}
        made = super().__new__(cls, sha256_of(json.dumps(plain, sort_keys=True).encode())[:DIGITS])
        made.content = plain
        made._shared = {name_key(name): value for name, value in plain.items() if isinstance(value, list)}
        made._of_tasks = {
            name_key(task): {name_key(name): value for name, value in table.items()}
            for task, table in plain.items()
            if isinstance(table, dict)
        }
        return made

    _shared: dict[str, list[str]]
    _of_tasks: dict[str, dict[str, list[str]]]

    def __getnewargs__(self) -> tuple[dict[str, Any]]:  # type: ignore[override]
        return (self.content,)

    def __deepcopy__(self, memo: Any) -> Descriptions:
        return self  # which nothing changes

    def sentences(self, task: Task, name: str) -> list[str]:
        """Sentences about a class of a task; none where nothing is said of it."""
        key = name_key(name)
        for word in (task.id, task.name):
            if found := self._of_tasks.get(name_key(word), {}).get(key):
                return found
        return self._shared.get(key, [])


def as_descriptions(value: Any) -> Any:
    """Make descriptions of a path or a table of them; what is neither stays as it is."""
    if isinstance(value, Descriptions) or value == "":
        return value
    if isinstance(value, Mapping):
        return Descriptions(value)
    return read_descriptions(Path(value)) if isinstance(value, str | PathLike) else value


def read_descriptions(path: Path) -> Descriptions:
    """Read a JSON file of descriptions.

    Raises
    ------
    DataError
        There is none, it has over 64 MiB, or it is not of the form of `Descriptions`.
    """
    try:
        check_regular(path)
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(
                f"descriptions {shown(path)}: wanted a file of at most {MOST_BYTES >> 20} MiB, got {size / 2**20:.0f} "
                f"MiB: divide it, a file for each dataset perhaps"
            )
        return Descriptions(read_json(path))
    except OSError as error:
        raise DataError(
            f"descriptions {shown(path)}: wanted a JSON file, cannot read it ({error.strerror}): check --descriptions"
        ) from None
    except UsageError as error:
        raise DataError(f"{shown(path)}: {error}") from None


def check_descriptions(descriptions: str, tasks: Iterable[Task]) -> None:
    """Refuse descriptions that say nothing of any class of some tasks.

    Raises
    ------
    DataError
        It says which classes were wanted.
    """
    tasks = list(tasks)
    lacking = [names for _, names in _lacking(descriptions, tasks)]
    if lacking and sum(map(len, lacking)) == sum(len(task.class_names) for task in tasks):
        assert isinstance(descriptions, Descriptions)
        raise DataError(
            f"wanted descriptions of classes of {', '.join(task.id for task in tasks)} ({_some(sum(lacking, []))}), "
            f"got none of these (there are {_some(list(descriptions.content))}): give a file whose names are those of "
            f"the classes"
        )


def lacking_descriptions(descriptions: str, tasks: Iterable[Task]) -> list[str]:
    """Say of each task which classes have no sentence, in a line; nothing where all have some."""
    return [
        f"no descriptions of {len(names)} of the {len(task.class_names)} classes of {task.id} ({_some(names)}): the "
        f"template alone speaks for them"
        for task, names in _lacking(descriptions, tasks)
    ]


def _lacking(descriptions: str, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[str]]]:
    if not isinstance(descriptions, Descriptions):  # none were given
        return
    for task in tasks:
        names = [name for name in task.class_names if not descriptions.sentences(task, name)]
        if names:
            yield task, names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


def _plain(value: Any) -> Any:
    return {name: list(each) for name, each in value.items()} if isinstance(value, Mapping) else list(value)


def _check(content: Any) -> None:
    """Refuse what is not of the form."""
    if not isinstance(content, Mapping) or not content:
        raise UsageError(f"wanted descriptions as {FORM}, got {_kind(content)}: write them so")
    _check_names(content)
    for name, value in content.items():
        if isinstance(value, Mapping):
            _check_names(value)
            for inner, sentences in value.items():
                _check_sentences(f"{name}: {inner}", sentences)
        else:
            _check_sentences(name, value)


def _check_names(table: Mapping[Any, Any]) -> None:
    seen: dict[str, str] = {}
    for name in table:
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"wanted names of classes or tasks in descriptions, got {name!r}: name it")
        if (other := seen.setdefault(name_key(name), name)) != name:
            raise UsageError(f"wanted each class once in descriptions, got {other!r} and {name!r}: put them together")


def _check_sentences(name: str, sentences: Any) -> None:
    if not isinstance(sentences, list | tuple):
        raise UsageError(f"wanted a list of sentences about {name!r}, got {_kind(sentences)}: write {FORM}")
    for each in sentences:
        if not isinstance(each, str) or not each.strip() or len(each) > MOST_LETTERS or not _is_unicode(each):
            got = f"one of {len(each):,} letters" if isinstance(each, str) and len(each) > MOST_LETTERS else ascii(each)
            raise UsageError(f"wanted sentences of 1 to {MOST_LETTERS:,} letters about {name!r}, got {got}: correct it")


def _is_unicode(text: str) -> bool:
    """Whether a text is one: JSON can write halves of a letter."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table with nothing in it" if not value else "a table"
    kinds = {list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
