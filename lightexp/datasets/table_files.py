"""Read a CSV or Parquet file of others as columns of numbers and of text, without missing values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput, format_reason
from lightexp.core.regular_files import open_regular
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".txt")
SUFFIXES = (*TEXT, *PARQUET)
_SEPARATORS = ",;\t|"
Columns = Mapping[str, NDArray[Any]]
"""Columns by name: float64 numbers, or strings (dtype object)."""


def read_columns(path: Path, separator: str | None, ignored: list[str], max_gb: float | None) -> Columns:
    """Read the columns of a table in the file's order.

    Args:
        path: Path of the file; its suffix is one of `SUFFIXES`.
        separator: Character between the values of a CSV file; None for the one that its first line holds most of.
        ignored: Names of columns to leave out.
        max_gb: Gigabytes that a Parquet file may unpack to; see `size_limits.compute_size_limit`.

    Raises:
        BadInput: If the file cannot be read as a table, or a value is missing.
    """
    try:
        with open_regular(path) as file:
            frame = _read_parquet(path, file, max_gb) if path.suffix in PARQUET else _read_text(path, file, separator)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {format_reason(error)}.") from None
    names = [str(name) for name in frame.columns]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput(f"{path} holds two columns '{repeated[0]}'. Name each column differently.")
    if unknown := [name for name in ignored if name not in names]:
        raise BadInput(f"dataset.ignore: {path} holds no column '{unknown[0]}'. It holds {', '.join(names)}.")
    if not len(frame):
        raise BadInput(f"{path} holds no rows below its heading.")
    columns = zip(names, (column for _, column in frame.items()), strict=True)
    return {name: _convert(path, name, column) for name, column in columns if name not in ignored}


def _read_text(path: Path, file: BufferedReader, separator: str | None) -> Any:
    import pandas  # takes a second to import
    from pandas.errors import EmptyDataError, ParserError

    try:
        line = file.readline().decode("utf-8-sig")
        if not line.strip():
            raise BadInput(f"{path} has an empty first line. Put the names of the columns there.")
        separator = separator or max(_SEPARATORS, key=line.count)
        file.seek(0)
        # The heading is read as a row, since pandas renames a repeated name, and with the row below it, which pandas
        # would take for an index if it is longer.
        options: dict[str, Any] = {"sep": separator, "encoding": "utf-8-sig", "skipinitialspace": True}
        heading = pandas.read_csv(file, header=None, nrows=2, dtype=str, keep_default_na=False, **options).iloc[0]
        file.seek(0)
        frame = pandas.read_csv(file, header=0, low_memory=False, **options)
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except (ParserError, EmptyDataError) as error:
        raise BadInput(
            f"{path} cannot be read as a table: {str(error).strip()}. Check it, or dataset.separator."
        ) from None
    return frame.set_axis(heading.str.strip(), axis="columns")


def _read_parquet(path: Path, file: BufferedReader, max_gb: float | None) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise BadInput(f"{path}: Parquet files need pyarrow. pip install pyarrow, or save the table as CSV.") from None
    try:
        metadata = parquet.read_metadata(file)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        # Repeated values are stored once, so the stated bytes may be few for many rows.
        unpacked = max(sum(g.total_byte_size for g in groups), 8 * metadata.num_rows * metadata.num_columns)
        check_unpacked_size(path, unpacked, compute_size_limit(path.stat().st_size, max_gb), "dataset.max_gb")
        file.seek(0)
        return parquet.read_table(file).to_pandas(ignore_metadata=True)
    except (ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{path} cannot be read as Parquet: {reason.rstrip('.')}. Save it again.") from None


def _convert(path: Path, name: str, column: Any) -> NDArray[Any]:
    """Return a column's values as float64 or as strings."""
    from pandas.api import types

    if (is_missing := column.isna().to_numpy()).any():
        row = int(np.argmax(is_missing)) + 1
        count = int(is_missing.sum())
        raise BadInput(
            f"{path}: column '{name}' has no value in row {row} below the heading ({count:,} of {len(column):,} rows). "
            f"Fill or delete such rows, or leave the column out: 'dataset.ignore=[{name}]'."
        )
    if types.is_bool_dtype(column) or types.is_numeric_dtype(column):
        return _require_finite(path, name, column.to_numpy(np.float64))
    values = column.to_numpy(object)
    if not all(isinstance(value, str) for value in values):
        kind = next(type(value).__name__ for value in values if not isinstance(value, str))
        raise BadInput(
            f"{path}: column '{name}' holds values of type {kind}. A table's columns are numbers or strings: convert "
            f"it, or leave it out: 'dataset.ignore=[{name}]'."
        )
    return _require_text(path, name, values)


def _require_finite(path: Path, name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    is_broken = ~(np.abs(values) <= np.finfo(np.float32).max)
    if is_broken.any():
        row = int(np.argmax(is_broken))
        raise BadInput(
            f"{path}: column '{name}' holds {values[row]} in row {row + 1} below the heading, which float32 cannot "
            "hold. Clean it first."
        )
    return values


def _require_text(path: Path, name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Check that a column of strings is not one of numbers with a few words among them."""
    import pandas

    is_number = pandas.to_numeric(pandas.Series(values), errors="coerce").notna().to_numpy()
    if 2 * is_number.sum() > len(values):
        row = int(np.argmin(is_number))
        raise BadInput(
            f"{path}: column '{name}' holds numbers, but '{values[row]}' in row {row + 1} below the heading. Correct "
            f"it, or leave the column out: 'dataset.ignore=[{name}]'."
        )
    return values
