"""Which versions of a registered model get the aliases, and the table of all versions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lightexp.core.record import Record
from lightexp.tracking import stores
from lightexp.tracking.client import UnusableAnswer
from lightexp.tracking.registry import (
    ModelVersion,
    RegistryClient,
    build_version_tags,
    choose_aliases,
    render_versions,
)
from tests import stand_in_servers


def make_version(
    number: int, value: float, size: float, primary: str = "accuracy", direction: str = "max"
) -> ModelVersion:
    tags = {"lightexp.primary": primary, "lightexp.direction": direction, "lightexp.name": f"run {number}"}
    return ModelVersion(number, {**tags, f"{primary}/val": repr(value), "size/file_bytes": repr(size)})


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], {}),
        ([make_version(1, 0.9, 100)], {"champion": 1, "smallest": 1}),
        ([make_version(1, 0.9, 200), make_version(2, 0.8, 100)], {"champion": 1, "smallest": 2}),
        ([make_version(1, 0.9, 100), make_version(2, 0.9, 100)], {"champion": 1, "smallest": 1}),
        ([make_version(n, e, 9, "rmse", "min") for n, e in ((1, 2.0), (2, 1.0))], {"champion": 2, "smallest": 1}),
        ([make_version(1, 0.9, 1), make_version(2, 5.0, 9, "rmse", "min")], {"champion": 2, "smallest": 2}),
        ([ModelVersion(1, {"made by": "somebody else"})], {}),
    ],
)
def test_choose_aliases_takes_the_best_and_the_smallest(versions: list[ModelVersion], expected: dict[str, int]) -> None:
    assert choose_aliases(versions) == expected


def test_version_tags_are_the_run_its_data_and_main_metrics(make_record: Callable[..., Record]) -> None:
    record = make_record(status="done", tags={"row": "prune+qat"})
    tags = build_version_tags(record)
    assert (tags["lightexp.run_id"], tags["lightexp.name"]) == (record.id, "prune+qat · seed 3")
    assert (tags["lightexp.primary"], tags["lightexp.direction"], tags["lightexp.row"]) == (
        "accuracy",
        "max",
        "prune+qat",
    )
    assert tags["lightexp.val_digest"] == record.dataset["splits"]["val"]["digest"]
    version = ModelVersion(1, tags)
    assert version.metrics["accuracy/val"] == 0.96
    assert version.metrics["size/file_bytes"] == 28_240
    table = render_versions([version], {"champion": 1, "smallest": 1})
    assert "| 1 (champion) (smallest): prune+qat · seed 3 | 96.00% | 95.00% | 28,240 | 4.0x |" in table


def test_list_versions_reads_every_page() -> None:
    pages = [{"model_versions": [{"name": "m", "version": str(n)}]} for n in (3, 2, 1)]
    with stand_in_servers.serve() as server, stores.bound_retries(10, 0):
        client = RegistryClient(server.url, 10.0)
        answers = iter([{**page, "next_page_token": "more"} for page in pages[:2]] + pages[2:])
        server.answers["model-versions/search"] = lambda answer: next(answers)
        assert [version.number for version in client.list_versions("m")] == [1, 2, 3]
        server.answers["model-versions/search"] = lambda answer: {**pages[0], "next_page_token": "more"}
        with pytest.raises(UnusableAnswer, match="no further versions"):
            client.list_versions("m")
