"""Texts about classes, from a JSON file: descriptions, which speak beside the template, and attributes, for prompts.

Pratt et al., "What Does a Platypus Look Like? Generating Customized Prompts for Zero-Shot Image Classification" (ICCV
2023), CuPL, whose files have the form ``{class: [texts]}``.
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
from cptlite.options import Options

if TYPE_CHECKING:
    from cptlite.datasets.types import Task

__all__ = [
    "TEXT_OPTIONS",
    "ClassTexts",
    "as_class_texts",
    "check_class_texts",
    "lacking_class_texts",
    "read_class_texts",
    "texts_in",
]

TEXT_OPTIONS = ("descriptions", "attributes")
"""Options of methods that hold class texts."""
NEEDED = ("attributes",)  # of these, options that want texts of every class
MOST_BYTES = 64 * 2**20  # CuPL's file for ImageNet has 6 MB
MOST_LETTERS = 10_000  # of a text; the text encoder reads the first 77 tokens
DIGITS = 16
SHOWN = 5  # names in a message
FORM = '{"class": ["a text", ...]}, or {"task": {"class": ["a text", ...]}}'


class ClassTexts(str):
    """Texts by class, for all tasks or for one; as a text, and in ``config.json``, the digest of them all.

    Parameters
    ----------
    option : str
        Which holds them, one of `TEXT_OPTIONS`: named in messages.
    content : mapping
        ``{class: [texts]}``, ``{task: {class: [texts]}}``, or both beside each other: a task is named by its id or its
        name, and what it says of a class comes before what is said for all tasks. Capitals, underscores and the number
        of spaces do not tell names apart.

    Raises
    ------
    UsageError
        It has another form, nothing in it, a name twice, or a text that is empty or has over 10,000 letters.
    """

    option: str
    content: dict[str, Any]

    def __new__(cls, option: str, content: Mapping[str, Any]) -> Self:
        """Check the form of a table and take it over."""
        _check(option, content)
        plain = {name: _plain(value) for name, value in content.items()}
        made = super().__new__(cls, sha256_of(json.dumps(plain, sort_keys=True).encode())[:DIGITS])
        made.option, made.content = option, plain
        made._shared = {name_key(name): value for name, value in plain.items() if isinstance(value, list)}
        made._of_tasks = {
            name_key(task): {name_key(name): value for name, value in table.items()}
            for task, table in plain.items()
            if isinstance(table, dict)
        }
        return made

    _shared: dict[str, list[str]]
    _of_tasks: dict[str, dict[str, list[str]]]

    def __getnewargs__(self) -> tuple[str, dict[str, Any]]:  # type: ignore[override]
        return self.option, self.content

    def __deepcopy__(self, memo: Any) -> ClassTexts:
        return self  # which nothing changes

    def texts(self, task: Task, name: str) -> list[str]:
        """Texts about a class of a task; none where nothing is said of it."""
        key = name_key(name)
        for word in (task.id, task.name):
            if found := self._of_tasks.get(name_key(word), {}).get(key):
                return found
        return self._shared.get(key, [])

    def of_classes(self, tasks: Iterable[Task]) -> list[list[str]]:
        """Texts about each class of all tasks, in their order."""
        return [self.texts(task, name) for task in tasks for name in task.class_names]


def texts_in(options: Options) -> list[ClassTexts]:
    """Class texts that a method's options hold."""
    return [value for value in vars(options).values() if isinstance(value, ClassTexts)]


def as_class_texts(option: str, value: Any) -> Any:
    """Make class texts of a path or a table of them; what is neither stays as it is."""
    if isinstance(value, ClassTexts):
        return value if value.option == option else ClassTexts(option, value.content)
    if isinstance(value, Mapping):
        return ClassTexts(option, value)
    return read_class_texts(option, Path(value)) if value != "" and isinstance(value, str | PathLike) else value


def read_class_texts(option: str, path: Path) -> ClassTexts:
    """Read a JSON file of class texts.

    Raises
    ------
    DataError
        There is none, it has over 64 MiB, or it is not of the form of `ClassTexts`.
    """
    try:
        check_regular(path)
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise DataError(
                f"{shown(path)}: wanted a file of at most {MOST_BYTES >> 20} MiB, got {size / 2**20:.0f} MiB: divide "
                f"it, a file for each dataset perhaps"
            )
        return ClassTexts(option, read_json(path))
    except UsageError as error:
        raise DataError(f"{shown(path)}: {error}") from None
    except DataError as error:
        raise DataError(f"--{option}: {error}") from None
    except (OSError, ValueError) as error:  # the latter of a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"--{option}: wanted a JSON file, cannot read {shown(path)} ({reason}): give its path"
        ) from None


def check_class_texts(texts: ClassTexts, tasks: Iterable[Task]) -> None:
    """Refuse class texts that say nothing of any class of some tasks; attributes, too, where one class has none.

    Raises
    ------
    DataError
        It says which classes were wanted.
    """
    tasks = list(tasks)
    lacking = list(_lacking(texts, tasks))
    names = [name for _, of_task in lacking for name in of_task]
    if names and (texts.option in NEEDED or len(names) == sum(len(task.class_names) for task in tasks)):
        wanted = "every class" if texts.option in NEEDED else "classes"
        raise DataError(
            f"wanted --{texts.option} of {wanted} of {', '.join(shown(task.id) for task, _ in lacking)}, got none of "
            f"{_some(names)} (there are {_some(list(texts.content))}): give a file whose names are those of the classes"
        )


def lacking_class_texts(texts: ClassTexts, tasks: Iterable[Task]) -> list[str]:
    """Say of each task for which classes its template alone speaks, in a line; nothing where all have texts."""
    if texts.option in NEEDED:  # which are refused where one lacks
        return []
    return [
        f"no {texts.option} of {len(names)} of the {len(task.class_names)} classes of {task.id} ({_some(names)}): the "
        f"template alone speaks for them"
        for task, names in _lacking(texts, tasks)
    ]


def _lacking(texts: ClassTexts, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[str]]]:
    for task in tasks:
        names = [name for name in task.class_names if not texts.texts(task, name)]
        if names:
            yield task, names


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _plain(value: Any) -> Any:
    return {name: list(each) for name, each in value.items()} if isinstance(value, Mapping) else list(value)


def _check(option: str, content: Any) -> None:
    """Refuse what is not of the form."""
    if not isinstance(content, Mapping) or not content:
        raise UsageError(f"wanted --{option} as {FORM}, got {_kind(content)}: write them so")
    _check_names(option, content)
    for name, value in content.items():
        if isinstance(value, Mapping):
            _check_names(option, value)
            for inner, texts in value.items():
                _check_texts(option, f"{name}: {inner}", texts)
        else:
            _check_texts(option, name, value)


def _check_names(option: str, table: Mapping[Any, Any]) -> None:
    seen: dict[str, str] = {}
    for name in table:
        if not isinstance(name, str) or not name.strip() or not _is_unicode(name):
            raise UsageError(f"wanted names of classes or tasks in --{option}, got {name!r}: name it")
        if (other := seen.setdefault(name_key(name), name)) != name:
            raise UsageError(f"wanted each class once in --{option}, got {other!r} and {name!r}: put them together")


def _check_texts(option: str, name: str, texts: Any) -> None:
    if not isinstance(texts, list | tuple):
        raise UsageError(f"wanted a list of texts about {name!r} in --{option}, got {_kind(texts)}: write {FORM}")
    for each in texts:
        if not isinstance(each, str) or not each.strip() or len(each) > MOST_LETTERS or not _is_unicode(each):
            got = repr(each) if isinstance(each, str) else _kind(each)
            got = f"one of {len(each):,} letters" if isinstance(each, str) and len(each) > MOST_LETTERS else got
            raise UsageError(
                f"wanted texts of 1 to {MOST_LETTERS:,} letters about {name!r} in --{option}, got {got}: correct it"
            )


def _is_unicode(text: str) -> bool:
    """Whether a text is one: JSON can write halves of a letter."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table with nothing in it" if not value else "a table"
    kinds = {list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}")
