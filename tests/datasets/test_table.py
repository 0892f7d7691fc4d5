"""Tests of tables: encoding of columns, targets, kinds of files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from lightexp.core.errors import BadInput
from lightexp.core.preprocessing import Scaling
from lightexp.datasets.table import TableDataset
from lightexp.tasks.multilabel import Multilabel
from lightexp.tasks.reconstruction import Reconstruction

COLUMNS: dict[str, list[Any]] = {
    "id": list(range(20)),
    "age": [20.5 + n for n in range(20)],
    "city": [["Rome", "Bonn", "Oslo"][n % 3] for n in range(20)],
    "member": [n % 2 == 0 for n in range(20)],
    "floor": [[1, 2, 10][n % 3] for n in range(20)],
    "price": [100.0 + 3 * n for n in range(20)],
    "bought": [["no", "yes"][n // 5 % 2] for n in range(20)],
}


def write_csv(path: Path, columns: dict[str, list[Any]] | None = None, **options: Any) -> str:
    pandas.DataFrame(columns or COLUMNS).to_csv(path, index=False, **options)
    return str(path)


@pytest.fixture
def csv(tmp_path: Path) -> str:
    """Return the path of a table of all kinds of columns."""
    return write_csv(tmp_path / "shop.csv")


def collect(table: TableDataset) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the rows of all splits in the order of the column `age`."""
    splits = table.load().splits.values()
    x, y = (np.concatenate([getattr(split, name) for split in splits]) for name in "xy")
    order = np.argsort(x[:, 0])
    return x[order], y[order]


def test_columns_become_features_in_order(csv: str) -> None:
    table = TableDataset(csv, target="bought", ignore=["id"], categories=["floor"], split_seed=3)
    data = table.load()
    assert data.notes[-1] == (
        "The model's inputs are age, city=Bonn, city=Oslo, city=Rome, member, floor=1, floor=2, floor=10, price."
    )
    x, y = collect(table)
    assert x[:2].tolist() == [[20.5, 0, 0, 1, 1, 1, 0, 0, 100], [21.5, 1, 0, 0, 0, 0, 1, 0, 103]]
    assert (data.classes, data.names) == (2, ("no", "yes"))
    assert y[:10].tolist() == [0] * 5 + [1] * 5
    assert [len(split) for split in data.splits.values()] == [13, 3, 4]
    inputs = data.inputs(data.train.x)
    np.testing.assert_allclose(inputs[:, [0, 4, 8]].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs[:, [0, 4, 8]].std(axis=0), 1, rtol=1e-4)
    assert set(inputs[:, 1].tolist()) == {0.0, 1.0}  # categories stay as they are


def test_several_numbers_are_learnt(csv: str) -> None:
    table = TableDataset(csv, target=["price", "age"], ignore=["id", "bought"], targets="numbers")
    x, y = collect(table)
    assert (table.load().classes, x.shape[1], y.shape) == (0, 5, (20, 2))
    assert sorted(y.tolist())[0] == [100.0, 20.5]


def test_anomalies_need_no_target(csv: str) -> None:
    table = TableDataset(csv, ignore=["id"]).serve(Reconstruction())
    data = Reconstruction().prepare(table.load())
    assert (data.classes, data.shape) == (0, (9,))
    assert data.notes[0] == "All columns are inputs. dataset.target=NAME names one that tells anomalous rows."
    labelled = TableDataset(csv, target="bought", ignore=["id"]).serve(Reconstruction())
    prepared = Reconstruction(normal=["no"]).prepare(labelled.load())
    assert prepared.shape == (7,) and prepared.test.y.any() and not prepared.train.y.any()


def test_last_column_is_the_default_and_said(csv: str) -> None:
    data = TableDataset(csv, scaling=Scaling(std=2.0)).load()
    assert data.notes[0] == "The column 'bought' is learnt, the last one. dataset.target=NAME names another."
    assert data.scale == 0.5


@pytest.mark.parametrize(
    ("grades", "classes", "note"),
    [([10, 3, 3, 8], ("3", "8", "10"), "numbers 3, 8, 10 of column 'y'"), ([2, 1, 1, 2], ("1", "2"), "go from 1 to 2")],
)
def test_numbers_of_classes_are_their_names(grades: list[int], classes: Any, note: str, tmp_path: Path) -> None:
    data = TableDataset(write_csv(tmp_path / "wine.csv", {"a": [1.5, 2, 3, 4] * 5, "y": grades * 5})).load()
    assert data.names == classes and note in data.notes[1]
    raised = {float(x): classes[y] for x, y in zip(data.train.x[:, 0], data.train.y, strict=True)}
    assert raised == {1.5: str(grades[0]), 2: str(grades[1]), 3: str(grades[2]), 4: str(grades[3])}


@pytest.mark.parametrize("options", [{"sep": ";"}, {"sep": "\t"}, {"sep": "|", "encoding": "utf-8-sig"}])
def test_separators_and_marks_are_recognised(tmp_path: Path, options: dict[str, str], csv: str) -> None:
    path = write_csv(tmp_path / "shop.tsv", **options)
    np.testing.assert_array_equal(TableDataset(path).load().train.x, TableDataset(csv).load().train.x)


def test_parquet_equals_csv(tmp_path: Path, csv: str) -> None:
    frame = pandas.DataFrame(COLUMNS).astype({"city": "category"})
    frame.to_parquet(tmp_path / "shop.parquet")
    from_parquet, from_csv = TableDataset(str(tmp_path / "shop.parquet")).load(), TableDataset(csv).load()
    for name, split in from_parquet.splits.items():
        np.testing.assert_array_equal(split.x, from_csv.splits[name].x)
        np.testing.assert_array_equal(split.y, from_csv.splits[name].y)
    assert from_parquet.notes == from_csv.notes


BROKEN: dict[str, tuple[dict[str, list[Any]], dict[str, Any], str]] = {
    "missing": ({"age": [1, 2, None, None], "y": list("abab")}, {}, "column 'age' has no value in row 3 .*2 of 4 rows"),
    "missing text": ({"a": ["x", "NA", "z"], "y": [0, 1, 0]}, {}, r"column 'a' has no value in row 2 .*ignore=\[a\]"),
    "missing target": ({"a": [1, 2], "y": ["b", None]}, {}, "column 'y' has no value in row 2 below the heading"),
    "a word": ({"a": ["1", "2", "?"], "y": [0, 1, 0]}, {}, "column 'a' holds numbers, but '\\?' in row 3"),
    "infinite": ({"a": [1.0, float("inf")], "y": [0, 1]}, {}, "column 'a' holds inf in row 2 below the heading"),
    "too large": ({"a": [1.0, 1e39], "y": [0, 1]}, {}, r"column 'a' holds 1e\+39 in row 2"),
    "names": ({"n": [f"person {n}" for n in range(200)], "y": [0, 1] * 100}, {}, "200 different values, such as"),
    "no features": ({"y": [0, 1]}, {}, "no column besides the target"),
    "no rows": ({"a": [], "y": []}, {}, "holds no rows below its heading"),
    "too few": ({"a": [1], "y": [0.5]}, {"targets": "numbers"}, "too few examples to be split"),
    "target": (COLUMNS, {"target": "prise"}, "dataset.target: .* holds no column 'prise': .*price"),
    "no target": (COLUMNS, {"target": []}, "names no column to learn"),
    "ignore": (COLUMNS, {"ignore": ["nr"]}, "dataset.ignore: .* holds no column 'nr'. It holds id, age"),
    "categories": (COLUMNS, {"categories": ["flor"]}, "dataset.categories: .* has no feature 'flor': .*floor"),
    "two classes": (COLUMNS, {"target": ["city", "bought"]}, "names 2 columns, but one holds the class"),
    "numbers": (COLUMNS, {"target": "age"}, "column 'age' holds 20.5.*say task=regression"),
    "many numbers": ({"a": [1.0, 2.0] * 60, "y": list(range(7, 127))}, {}, "120 different numbers.*say task=regress"),
    "strings": (COLUMNS, {"target": "city", "targets": "numbers"}, "column 'city' holds strings, but task=regression"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unusable_table_is_refused(kind: str, tmp_path: Path) -> None:
    columns, settings, message = BROKEN[kind]
    path = write_csv(tmp_path / "broken.csv", columns)
    with pytest.raises(BadInput, match=message):
        TableDataset(path, **settings).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has an empty first line"),
        (b"a,a,y\n1,2,3\n", "holds two columns 'a'"),
        (b"a,y\n1,2,3\n4,5,6\n", "Expected 2 fields in line 2, saw 3"),
        (b"a,y\n1,2\n4,5,6\n", "cannot be read as a table: .*Expected 2 fields in line 3, saw 3"),
        (b"a,y\n\xff\xfe,1\n", "is not UTF-8 text"),
    ],
)
def test_unusable_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.csv").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        TableDataset(str(tmp_path / "broken.csv")).load()


def test_unusable_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        TableDataset(str(path)).load()
    pandas.DataFrame({"when": pandas.to_datetime(["2026-01-01", "2026-01-02"]), "y": [0, 1]}).to_parquet(path)
    with pytest.raises(BadInput, match=r"column 'when' holds values of type Timestamp.*ignore=\[when\]"):
        TableDataset(str(path)).load()
    pandas.DataFrame({"a": np.zeros(1_000_000), "y": [0, 1] * 500_000}).to_parquet(path)
    with pytest.raises(BadInput, match=r"unpacks to .*set dataset\.max_gb=GIGABYTES"):
        TableDataset(str(path), max_gb=0.001).load()


def test_path_of_another_kind_is_refused(tmp_path: Path) -> None:
    for path, message in ((None, "Received: none"), ("gone.csv", "not a file"), (__file__, "is no table")):
        with pytest.raises(BadInput, match=message):
            TableDataset(path).check()


def test_columns_of_labels_are_learnt(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"x": [*range(20)], "warm": [0, 1] * 10, "wet": [1, 1, 0, 1] * 5}
    path = write_csv(tmp_path / "tags.csv", columns)
    data = TableDataset(path, target=["warm", "wet"]).serve(Multilabel()).load()
    assert (data.names, data.classes, data.train.y.shape[1:]) == (("warm", "wet"), 0, (2,))
    columns["wet"][3] = 2
    with pytest.raises(BadInput, match=r"\[1\.0, 2\.0\] in row 3\. task=multilabel takes a 0 or 1"):
        TableDataset(write_csv(tmp_path / "no.csv", columns), target=["warm", "wet"], targets="indicators").load()
