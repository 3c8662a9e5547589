"""Tables in Markdown and LaTeX: whatever a name holds, it stays a word in its cell."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cptlite.reporting import Table, latex_table, markdown_table

COMMANDS = {
    *("begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "textbf", "pm", "times", "Delta"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar", "textasciigrave"),
    *("textendash", "textemdash", "ldots", "ss", "ae", "AE", "oe", "OE", "o", "O", "l", "L", "i", "j"),
    *("{", "}", "$", "&", "#", "%", "_", "\\", "'", "^", "~", "=", "u", ".", '"', "r", "H", "v", "c", "`"),
}
"""What pdfTeX with booktabs has."""

NAMES = st.text(max_size=20) | st.text(alphabet='\\{}$&#%_^~<>|"`[]*-±éßłžşÅ漢\n', max_size=12)


def of_words(*words: str, best: frozenset[tuple[int, int]] = frozenset()) -> Table:
    rows = tuple((word, "-1.5 ± 0.2") for word in words)
    return Table(title="Scores (%)", columns=("name", "1 shot"), rows=rows, best=best, caption="one\ntwo")


def test_markdown() -> None:
    table = of_words("coop-mt", "demo_shapes", best=frozenset({(1, 1)}))
    assert markdown_table(table) == (
        "| Scores (%) | 1 shot |\n|---|--:|\n| coop-mt | -1.5 ± 0.2 |\n| demo_shapes | **-1.5 ± 0.2** |\n\none two\n"
    )


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("a|b", r"a\|b"),
        ("*bold* _no_ a_b", r"\*bold\* \_no\_ a_b"),
        ("<b>[x](y)`z`", r"\<b\>\[x\](y)\`z\`"),
        ("$x$ ~~y~~", r"\$x\$ \~\~y\~\~"),
        ("&lt; & co", "&amp;lt; & co"),
        ("two\nlines", r"two\\nlines"),
        ("\x1b[31m", r"\\x1b\[31m"),
    ],
)
def test_markdown_keeps_words_as_words(word: str, written: str) -> None:
    assert f"| {written} | -1.5" in markdown_table(of_words(word))


@given(NAMES)
def test_markdown_has_a_cell_for_each_word(name: str) -> None:
    lines = markdown_table(of_words(name, name)).split("\n")
    assert len(lines) == 7, "a name is on one line"
    for row in lines[2:4]:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3, "and in one cell"


def test_latex() -> None:
    table = of_words("coop-mt", "lr_0.5", best=frozenset({(1, 1)}))
    assert latex_table(table) == (
        "\\begin{table}\n\\centering\n\\caption{Scores (\\%). one two}\n\\begin{tabular}{lr}\n\\toprule\n"
        "name & 1 shot \\\\\n\\midrule\ncoop-mt & $-$1.5 $\\pm$ 0.2 \\\\\n"
        "lr\\_0.5 & \\textbf{$-$1.5 $\\pm$ 0.2} \\\\\n\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("a & b", r"a \& b"),
        ("100% #1 $x_y^z$", r"100\% \#1 \$x\_y\textasciicircum{}z\$"),
        (r"\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        ("[2em]", "{[}2em{]}"),
        ("*", "{*}"),
        ("---", "-{}-{}-"),
        ('<a|b>~`"', r"\textless{}a\textbar{}b\textgreater{}\textasciitilde{}\textasciigrave{}{''}"),
        ("é ü č ï ş Å", r"\'{e} \"{u} \v{c} \"{\i} \c{s} \r{A}"),
        ("naïve e\u0301", r"na\"{\i}ve \'{e}"),
        ("ß ł œ", r"\ss{} \l{} \oe{}"),
        ("漢", "{[}U+6F22{]}"),
        ("two\nlines\x1b", r"two\textbackslash{}nlines\textbackslash{}x1b"),
    ],
)
def test_latex_keeps_words_as_words(word: str, written: str) -> None:
    assert f"\n{written} & $-$1.5" in latex_table(of_words(word))


@given(NAMES)
def test_latex_is_ascii_balanced_and_of_known_commands(name: str) -> None:
    text = latex_table(of_words(name, name))
    assert text.isascii() and all(line.isprintable() for line in text.split("\n"))
    tokens = re.findall(r"\\(?:[A-Za-z]+|.)|.", text)
    assert {token[1:] for token in tokens if token.startswith("\\")} <= COMMANDS
    depth = 0
    for token in tokens:
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
    assert depth == 0
    assert tokens.count("$") == 2 * sum(text.count(sign) for sign in (r"$\pm$", r"$-$", r"$\times$", r"$\Delta$"))
    assert not {"#", "%", "_", "^", "~"} & set(tokens), "each is escaped"
    rows = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(rows) == 2, "a name is on one line"
    for row in rows:
        assert re.findall(r"\\(?:[A-Za-z]+|.)|.", row).count("&") == 1, "and in one cell"
        assert row.endswith(" \\\\") and not row.startswith(("[", "*"))
