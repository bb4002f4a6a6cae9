"""Tables of Markdown: rows of cells to lines with columns that fit.

Widths of columns are those of the rows that are known when the table is laid out; what does not fit is wrapped within
its column. Where columns would be narrower than COLUMN_MIN, rows are shown as text.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import attrs

from engine.rendering.cells import width, wrap
from engine.rendering.inline import inline
from engine.rendering.styles import Attr, Role, Run, Theme, attributes_of, style

COLUMN_MIN: Final = 3  # cells
COLUMNS_MAX: Final = 64  # a row of more is text
# What is taken is not given back (`*+`): a line of a thousand spaces is read once.
DELIMITER: Final = re.compile(r"\|?\s*+:?-++:?\s*+(?:\|\s*+:?-++:?\s*+)*+\|?\s*+$")

Align = Literal["left", "right", "middle"]


@attrs.frozen(slots=True, kw_only=True)
class Layout:
    """Widths of the columns in cells; none if the rows are shown as text."""

    widths: tuple[int, ...]
    aligns: tuple[Align, ...]


def cells_of(line: str) -> list[str]:
    """The cells of a row; `\\|` is a bar within one, and so is a bar within code."""
    line = line.strip()
    line = line[1:] if line.startswith("|") else line
    cells, current, at, code = [], [], 0, False
    while at < len(line):
        sign = line[at]
        if sign == "\\" and line[at + 1 : at + 2] == "|":
            current.append("|")
            at += 2
            continue
        if sign == "`":
            code = not code and "`" in line[at + 1 :]
        if sign == "|" and not code:
            cells.append("".join(current).strip())
            current = []
        else:
            current.append(sign)
        at += 1
    rest = "".join(current).strip()
    return [*cells, rest] if rest or not cells or not line.endswith("|") else cells


def aligns_of(line: str) -> tuple[Align, ...]:
    found: list[Align] = []
    for cell in cells_of(line):
        right = cell.endswith(":")
        found.append("middle" if right and cell.startswith(":") else "right" if right else "left")
    return tuple(found)


def lay_out(rows: list[list[str]], aligns: tuple[Align, ...], cells: int) -> Layout:
    """Columns for these rows in a line of so many cells."""
    count = len(aligns)
    room = cells - 3 * (count - 1)
    if room < count * COLUMN_MIN:
        return Layout(widths=(), aligns=aligns)
    wanted = [COLUMN_MIN] * count
    for row in rows:
        for number, text in enumerate(row[:count]):
            wanted[number] = max(wanted[number], sum(width(piece) for piece, _ in inline(text, 0)))
    over = sum(wanted) - room
    if over > 0:
        # The widest columns give, all down to the same width: short ones stay whole.
        cap = max(wanted)
        low, high = COLUMN_MIN, cap
        while low < high:
            middle = (low + high + 1) // 2
            if sum(min(each, middle) for each in wanted) <= room:
                low = middle
            else:
                high = middle - 1
        wanted = [min(each, low) for each in wanted]
    return Layout(widths=tuple(wanted), aligns=aligns)


def row_lines(row: list[str], layout: Layout, theme: Theme, cells: int, base: int, *, head: bool) -> list[list[Run]]:
    """The lines of one row; missing cells are empty, those beyond the columns are left out."""
    value = base | Attr.BOLD if head else base
    count = len(layout.aligns)
    bar = (f" {theme.bar} ", style(Role.RULE))
    if not layout.widths:
        runs: list[Run] = []
        for number, text in enumerate(row[:count]):
            runs += [bar] if number else []
            runs += inline(text, value)
        return wrap(runs, cells)
    columns = [
        wrap(inline(text, value), layout.widths[number]) if text else [] for number, text in enumerate(row[:count])
    ]
    lines: list[list[Run]] = []
    for level in range(max(map(len, columns), default=0) or 1):  # a row of nothing is a line, too
        line: list[Run] = []
        for number in range(count):
            column = columns[number] if number < len(columns) else []
            piece = column[level] if level < len(column) else []
            room = layout.widths[number] - sum(width(text) for text, _ in piece)
            before = {"left": 0, "right": room, "middle": room // 2}[layout.aligns[number]]
            last = number == count - 1
            line += [bar] if number else []
            line += [(" " * before, base), *piece, ("" if last else " " * (room - before), base)]
        lines.append(line)
    return lines


def rule_line(layout: Layout, theme: Theme) -> list[Run]:
    """Between the head and the rows."""
    cross = theme.rule + theme.cross + theme.rule
    return [(cross.join(theme.rule * each for each in layout.widths), style(Role.RULE, attributes_of(0)))]
