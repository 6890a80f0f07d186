"""Numbers from a CSV file, with the line and column of whatever is no number."""

from __future__ import annotations

import csv
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from enclaveml.errors import Fault, JobError


@dataclass(frozen=True)
class CsvTable:
    """names: columns in order (their numbers from 0 without a header); values (N, columns) float64."""

    names: tuple[str, ...]
    values: np.ndarray
    has_header: bool


def read_csv(path: Path) -> CsvTable:
    """Read a CSV file (``.tsv``: tab-separated), UTF-8, all cells numbers; the first line may be a header.

    A first line of which no cell is a number is the header. Blank lines are passed over. NaN and
    infinity are read here and refused when rows are read. Raises JobError with the line.
    """
    values, names, width, first = array("d"), None, 0, True
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            for cells in reader:
                line = reader.line_num
                if not cells or cells == [""]:
                    continue
                if first:
                    first, width = False, len(cells)
                    names = _header(path, cells, line)
                    if names is not None:
                        continue
                if len(cells) != width:
                    raise _error(path, line, f"has {len(cells)} values, the first line has {width}")
                for column, cell in enumerate(cells):
                    number = _number(cell)
                    if number is None:
                        what = f"{cell!r} is no number" if cell.strip() else "a value is missing"
                        name = f" ({names[column]})" if names else ""
                        raise _error(path, line, f"column {column}{name}: {what}")
                    values.append(number)
    except UnicodeDecodeError as error:
        raise JobError(Fault(str(path), "input.path", f"is no UTF-8 text: {error.reason}")) from error
    except csv.Error as error:
        raise JobError(Fault(str(path), "input.path", f"is no CSV file: {error}")) from error
    if first:
        raise JobError(Fault(str(path), "input.path", "is empty"))
    if not values:
        raise JobError(Fault(str(path), "input.path", "has a header line and no rows"))
    table = np.frombuffer(values, np.float64).reshape(-1, width)
    return CsvTable(names or tuple(map(str, range(width))), table, names is not None)


def _header(path: Path, cells: list[str], line: int) -> tuple[str, ...] | None:
    """The names if the first line is a header, None if it is data; JobError where it could be either."""
    names = tuple(cell.strip() for cell in cells)
    numbers = [_number(cell) for cell in cells]
    if all(number is not None for number in numbers):
        if len(names) > 2 and names == tuple(map(str, range(len(names)))):
            raise _error(
                path,
                line,
                "is 0, 1, 2, ...: if these are column numbers, give the columns names; "
                "if they are data, add a header line before them",
            )
        return None
    if any(number is not None for number in numbers):
        column = next(i for i, number in enumerate(numbers) if number is None)
        raise _error(
            path,
            line,
            f"column {column}: {cells[column]!r} is no number, but others in this line are "
            "(a header may not hold numbers)",
        )
    for column, name in enumerate(names):
        if not name:
            raise _error(
                path, line, f"column {column} has no name (an index written by pandas? use index=False)"
            )
        if name in names[:column]:
            raise _error(path, line, f"column {column}: the name {name!r} is there twice")
    return names


def _number(cell: str) -> float | None:
    if "_" in cell:  # float() would read 1_000
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _error(path: Path, line: int, message: str) -> JobError:
    return JobError(Fault(f"{path}:{line}", "input.path", message))
