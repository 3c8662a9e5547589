r"""Tables drawn for a page: Markdown as GitHub reads it, and LaTeX with booktabs.

Names in tables are other people's words: what either language would read as its own is escaped, and LaTeX gets ASCII
alone, so that it compiles with pdfTeX in any encoding: ``\usepackage{booktabs}`` is all that a document needs.
"""

from __future__ import annotations

import re
import unicodedata

from cptlite.datasets.text_files import shown
from cptlite.reporting.tables import Table

__all__ = ["latex_table", "markdown_table"]

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{''}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after a row's end it would begin an argument, as * would
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "Δ": r"$\Delta$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "’": "'",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}


def markdown_table(table: Table) -> str:
    """Draw a table in Markdown.

    Parameters
    ----------
    table : Table

    Returns
    -------
    str
        The table, whose first heading is the title, an empty line and the caption as one line; words that are best are
        bold. Ends in a newline.
    """
    headings = [shown(word) for word in table.columns]
    lines = [_row([_markdown(word) for word in (table.title, *headings[1:])])]
    lines.append("|" + "|".join("---" if place in table.words else "--:" for place in range(len(headings))) + "|")
    for row, words in enumerate(table.rows):
        cells = [_markdown(word) for word in words]
        lines.append(_row([f"**{cell}**" if (row, place) in table.best else cell for place, cell in enumerate(cells)]))
    if table.caption:
        lines += ["", _markdown(" ".join(table.caption.split("\n")))]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(word: str) -> str:
    """Escape what could mark words up; an underscore within a word, as in ``demo_shapes``, could not."""
    word = re.sub(r"([\\`*|\[\]<>$~]|(?<!\w)_|_(?!\w))", r"\\\1", shown(word))
    return re.sub(r"&(?=#?\w+;)", "&amp;", word)


def latex_table(table: Table) -> str:
    r"""Draw a table in LaTeX, as a float with a caption, for ``\usepackage{booktabs}``.

    Parameters
    ----------
    table : Table

    Returns
    -------
    str
        ASCII; letters that pdfTeX has not by itself are written as their number. Ends in a newline.
    """
    kinds = "".join("l" if place in table.words else "r" for place in range(len(table.columns)))
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row([_latex(word) for word in table.columns])]
    lines.append(r"\midrule")
    for row, words in enumerate(table.rows):
        cells = [_latex(word) if place in table.words else _figure(word) for place, word in enumerate(words)]
        best = [(row, place) in table.best for place in range(len(cells))]
        stressed = (rf"\textbf{{{cell}}}" if bold else cell for cell, bold in zip(cells, best, strict=True))
        lines.append(_latex_row(list(stressed)))
    lines += [r"\bottomrule", r"\end{tabular}"]
    said = ". ".join(part for part in (table.title, " ".join(table.caption.split("\n"))) if part)
    return "\n".join([r"\begin{table}", r"\centering", rf"\caption{{{_latex(said)}}}", *lines, r"\end{table}"]) + "\n"


def _latex_row(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _figure(word: str) -> str:
    """Write a figure: what is below zero with a minus."""
    return _latex(re.sub(r"(?<![\w.])-(?=\d)", "−", word))


def _latex(word: str) -> str:
    letters = "".join(map(_letter, unicodedata.normalize("NFC", shown(word))))
    return re.sub("-(?=-)", "-{}", letters)  # two would be a dash


def _letter(letter: str) -> str:
    """Write a letter in ASCII: by name, by its accent, or by its number."""
    if letter in LATEX:
        return LATEX[letter]
    if letter.isascii():
        return letter
    base, *accents = list(unicodedata.normalize("NFD", letter))
    if base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in ACCENTS:
        stem = {"i": r"\i", "j": r"\j"}.get(base, base) if accents[0] != "\u0327" else base
        return rf"\{ACCENTS[accents[0]]}{{{stem}}}"
    return f"{{[}}U+{ord(letter):04X}{{]}}"
