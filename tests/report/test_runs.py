"""Runs read from records: rows, and records that cannot be used."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.report.runs import RunReader, flatten_settings, iterate_records, name_rows
from tests.synthetic import synthesize_record, synthesize_records, write_records


def test_name_rows_separates_settings_and_keeps_the_latest() -> None:
    runs = name_rows(
        [
            synthesize_record("x", 0),
            synthesize_record("x", 0, sparsity=0.5, number=1),
            synthesize_record("x", 0, lost=0.1, number=2),
        ]
    )
    assert {(run.row, run.id[-1]) for run in runs} == {("x", "2"), ("x (2)", "1")}


def test_name_rows_uses_overrides_without_a_tag() -> None:
    runs = name_rows([synthesize_record(tags={"row": " "}), synthesize_record(tags={}, varied=[], seed=1)])
    assert [run.row for run in runs] == ["pipeline=prune_quantize"] * 2


def test_run_reader_shares_equal_settings() -> None:
    reader = RunReader()
    first, second = reader.run(synthesize_record(seed=0), "x"), reader.run(synthesize_record(seed=1), "x")
    assert first.settings is second.settings
    assert first.environment is second.environment
    assert first.control["size/file_bytes"] == 112_960
    assert [stage.name for stage in first.stages] == ["train", "prune", "quantize"]
    assert first.stages[0].history["loss"][0] == 1.0


_configs = st.dictionaries(
    st.sampled_from(("seed", "model", "store", "a")),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers()),
        lambda children: st.dictionaries(st.sampled_from(("b", "c", "_target_")), children),
        max_leaves=6,
    ).map(lambda value: value if value is None or isinstance(value, dict) else {"c": value}),
)


@given(configs=st.lists(_configs, min_size=1, max_size=4))
def test_run_reader_shares_what_flatten_settings_returns(configs: list[dict[str, Any]]) -> None:
    reader = RunReader()
    records = [synthesize_record("row", 0, config={**config, "seed": 0}) for config in configs]
    settings = [reader.run(record, "row").settings for record in records]
    expected = [flatten_settings(record.config) for record in records]
    assert settings == expected
    for first, second in itertools.combinations(range(len(configs)), 2):
        assert (settings[first] is settings[second]) == (expected[first] == expected[second])


def test_run_reader_keeps_equal_parts_of_runs_once() -> None:
    first, second, other = name_rows(
        [
            synthesize_record("x", sparsity=0.5),
            synthesize_record("y", sparsity=0.6, lost=0.1),
            synthesize_record("z", 1),
        ]
    )
    assert first.control is first.stages[0].metrics is second.control  # the same training
    assert first.stages[0].history is second.stages[0].history
    assert first.metrics is first.stages[-1].metrics is not second.metrics
    assert first.control is not other.control
    assert all(a is b for a, b in zip(first.metrics, other.metrics, strict=True))  # names
    assert first.data is other.data


def test_run_reader_keeps_epochs_without_a_value() -> None:
    record = synthesize_record()
    record.stages[0].facts["history"] = {"loss": [0.5, None, 0.25]}
    assert str(list(RunReader().run(record, "x").stages[0].history["loss"])) == "[0.5, nan, 0.25]"


def test_iterate_records_reports_unusable_ones(tmp_path: Path) -> None:
    write_records(tmp_path, synthesize_records(2))
    folders = sorted((tmp_path / "runs").iterdir())
    (folders[0] / "record.json").write_text('{"format": 1, "id"')
    values = json.loads((folders[1] / "record.json").read_text())
    (folders[1] / "record.json").write_text(json.dumps({**values, "format": 99}))
    (folders[2] / "record.json").write_text(json.dumps({**values, "status": "failed", "reason": "NaN"}))
    (folders[3] / "record.json").write_text(json.dumps({**values, "stages": []}))
    problems: list[str] = []
    assert len(list(iterate_records([tmp_path, tmp_path / "runs"], problems))) == 6
    assert len(problems) == 4
    assert "is not a record" in problems[0]
    assert "is of format 99" in problems[1]
    assert "is left out, it is failed: NaN" in problems[2]
    assert "nothing was measured" in problems[3]


def test_iterate_records_names_records_that_links_hide(tmp_path: Path) -> None:
    write_records(tmp_path, (synthesize_record(number=number) for number in range(3)))
    good, file, loop = sorted((tmp_path / "runs").iterdir())
    (file / "record.json").unlink()
    (file / "record.json").symlink_to("record.json")
    shutil.rmtree(loop)
    loop.symlink_to(loop.name)
    (tmp_path / "runs" / "without a record").mkdir()
    problems: list[str] = []
    assert [record.id for record in iterate_records([tmp_path], problems)] == [good.name]
    reason = "is not a record: Too many levels of symbolic links. Run it again, or leave its folder out."
    assert problems == [f"{folder / 'record.json'} {reason}" for folder in (file, loop)]
    assert list(iterate_records([file, loop], problems)) == [] and problems[2:] == problems[:2]


def test_iterate_records_refuses_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        list(iterate_records([tmp_path / "nowhere"], []))
