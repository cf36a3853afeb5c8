"""A table of plain text -> Markdown, LaTeX, HTML, terminal. Everything that comes in is escaped here, and only here."""

import html as stdlib_html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

STYLE = """<style>
.results { border-collapse: collapse; margin: 0.5em 0; font-variant-numeric: tabular-nums; }
.results caption { text-align: left; padding: 0.3em 0; }
.results th, .results td { padding: 0.25em 0.7em; text-align: left; }
.results .number { text-align: right; }
.results thead th { border-top: 2px solid; border-bottom: 1px solid; }
.results tbody { border-bottom: 1px solid; }
.results .published { opacity: 0.65; }
.results tfoot td { font-size: 85%; }
</style>
"""

LONG = 200
"""Rows from which on a table for the terminal is not folded into its width."""

_MARKDOWN = str.maketrans({letter: f"\\{letter}" for letter in r"\`*[]|~$#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_LATEX = str.maketrans(
    {letter: f"\\{letter}" for letter in "{}$&#_%"}
    | {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
        ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}",
        "±": r"$\pm$", "–": "--", "★": r"$\star$", "◆": r"$\diamond$", "·": r"$\cdot$",
    }
)  # fmt: skip


class Column(NamedTuple):
    """Head of a column; numbers stand to the right."""

    title: str
    is_number: bool = False


class Entry(NamedTuple):
    """One entry of a row."""

    text: str
    is_bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table before it is written in any format; all text is plain."""

    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]
    published: Sequence[Sequence[Entry]] = ()
    """Rows that were not measured here."""
    notes: Sequence[str] = ()


def clean(text: str) -> str:
    """One line without control characters, terminal escapes and invisible letters that change what is read."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.split())


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, under a heading."""
    lines = [f"### {_markdown(table.title)}", "", _markdown(table.caption), ""]
    lines.append(_line(_markdown(column.title) for column in table.columns))
    lines.append(_line("--:" if column.is_number else ":--" for column in table.columns))
    for row in [*table.rows, *table.published]:
        lines.append(_line(f"**{_markdown(e.text)}**" if e.is_bold else _markdown(e.text) for e in row))
    lines += ["", *(f"- {_markdown(note)}" for note in table.notes)]
    return "\n".join(lines).rstrip() + "\n"


def latex(table: Table) -> str:
    """The table for LaTeX with the package booktabs."""
    body = [_latex_row(row) for row in table.rows]
    if table.published:
        body += [r"\midrule", *(_latex_row(row) for row in table.published)]
    notes = [rf"\par\smallskip\footnotesize {_latex(note)}" for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}. {_latex(table.caption)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if column.is_number else 'l' for column in table.columns)}}}",
            r"\toprule",
            _latex_row([Entry(column.title) for column in table.columns]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


def html(table: Table) -> str:
    """The table as an HTML element that needs `STYLE` once on its page, and nothing else."""
    classes = [' class="number"' if column.is_number else "" for column in table.columns]
    head = "".join(f"<th{c}>{_html(column.title)}</th>" for c, column in zip(classes, table.columns, strict=True))
    body = [f"<tr>{_html_row(row, classes)}</tr>" for row in table.rows]
    body += [f'<tr class="published">{_html_row(row, classes)}</tr>' for row in table.published]
    notes = [f'<tr><td colspan="{len(classes)}">{_html(note)}</td></tr>' for note in table.notes]
    return "\n".join(
        [
            '<table class="results">',
            f"<caption><strong>{_html(table.title)}</strong><br>{_html(table.caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *body,
            "</tbody>",
            *(["<tfoot>", *notes, "</tfoot>"] if notes else []),
            "</table>",
            "",
        ]
    )


def terminal(table: Table) -> RenderableType:
    """The table for rich; a long one in lines that do not fold, which rich would take seconds to lay out."""
    if len(table.rows) + len(table.published) > LONG:
        return Text(_lines(table), no_wrap=True, overflow="ignore")
    shown = rich.table.Table(
        title=Text(clean(table.title), "bold"), caption=Text(clean(table.caption)), title_justify="left",
        caption_justify="left", box=rich.box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip
    for place, column in enumerate(table.columns):
        widest = max((len(row[place].text) for row in [*table.rows, *table.published]), default=0)
        shown.add_column(
            Text(clean(column.title)),
            justify="right" if column.is_number else "left",
            overflow="fold",
            min_width=widest if column.is_number else None,
        )
    for row in table.rows:
        shown.add_row(*(Text(clean(entry.text), "bold" if entry.is_bold else "") for entry in row))
    if table.published:
        shown.add_section()
    for row in table.published:
        shown.add_row(*(Text(clean(entry.text)) for entry in row), style="dim")
    return Group(shown, *(Text(f"  {clean(note)}", "dim") for note in table.notes))


def _lines(table: Table) -> str:
    """The table in columns of one width each, for any width of a terminal."""
    heads = [clean(column.title) for column in table.columns]
    parts = [[[clean(entry.text) for entry in row] for row in part] for part in (table.rows, table.published)]
    widths = [max(map(cell_len, texts)) for texts in zip(heads, *parts[0], *parts[1], strict=True)]

    def line(texts: Sequence[str]) -> str:
        spaces = (" " * (width - cell_len(text)) for text, width in zip(texts, widths, strict=True))
        padded = (
            space + text if column.is_number else text + space
            for text, space, column in zip(texts, spaces, table.columns, strict=True)
        )
        return "  ".join(padded).rstrip()

    body = [[line(row) for row in part] for part in parts]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    quoted = [rule, *body[1]] if body[1] else []
    notes = [f"  {clean(note)}" for note in table.notes]
    return "\n".join([clean(table.title), "", line(heads), rule, *body[0], *quoted, "", clean(table.caption), *notes])


def _markdown(text: str) -> str:
    # An underscore between letters is never emphasis; leaving it alone keeps `v_threshold` readable.
    return re.sub(r"(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])", r"\\_", clean(text).translate(_MARKDOWN))


def _latex(text: str) -> str:
    return clean(text).translate(_LATEX)


def _html(text: str) -> str:
    return stdlib_html.escape(clean(text))


def _line(entries: Iterable[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _latex_row(row: Sequence[Entry]) -> str:
    return " & ".join(rf"\textbf{{{_latex(e.text)}}}" if e.is_bold else _latex(e.text) for e in row) + r" \\"


def _html_row(row: Sequence[Entry], classes: Sequence[str]) -> str:
    texts = [f"<strong>{_html(entry.text)}</strong>" if entry.is_bold else _html(entry.text) for entry in row]
    return "".join(f"<td{c}>{text}</td>" for c, text in zip(classes, texts, strict=True))
