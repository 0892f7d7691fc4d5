"""Uploading a study from several processes in turn."""

from __future__ import annotations

import pytest

from lightexp.tracking import stores
from lightexp.tracking.mlflow import Mlflow
from lightexp.tracking.study_payload import StudyPayload, TrialPayload
from lightexp.tracking.study_uploader import PARENT_TAG, TRIAL_TAG


@pytest.fixture
def outputs(tmp_path, copy_database):
    copy_database(tmp_path)
    return tmp_path


def test_mirrors_in_turn_show_each_trial_once(outputs, messages):
    first, second = (Mlflow().open_mirror(outputs, messages.append) for _ in range(2))

    def show(mirror, *numbers, accuracy=0.5):
        trials = [
            TrialPayload(n, True, {"bits": "4"}, {"accuracy/val": accuracy}, {"lightexp.host": "h"}, n, n + 1)
            for n in numbers
        ]
        return mirror.sync_study(
            StudyPayload("an id", "a study", "RUNNING", {"sampler": "tpe"}, [], trials, {}, ["accuracy/val"])
        )

    show(first, 0)
    run_id = show(second, 0, 1)["run_id"]
    assert messages == []
    show(first, 1, 2, accuracy="no number")  # MLflow refuses it when the trial's run has been created already
    assert len(messages) == 1
    client = stores.import_mlflow().MlflowClient(tracking_uri=first.uri)
    experiment_id = client.get_run(run_id).info.experiment_id
    query = f"tags.`{PARENT_TAG}` = '{run_id}'"
    assert len(client.search_runs(experiment_id, query)) == 2  # trials are written together or not at all
    show(first, 1, 2, 3)
    runs = client.search_runs(experiment_id, query)
    assert sorted(run.data.tags[TRIAL_TAG] for run in runs) == ["0", "1", "2", "3"]
    assert all(run.data.metrics == {"accuracy/val": 0.5} and run.data.params == {"bits": "4"} for run in runs)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_study_has_its_table_and_main_metrics_of_trials(outputs, messages):
    trial = TrialPayload(0, True, {}, {"accuracy/val": 0.5, "micro/runs": 1.0}, {"vary/a[0]": "1"}, 1.0, 2.0)
    study = StudyPayload("an id", "a study", "FINISHED", {}, [], [trial], {}, ["accuracy/val"], "| Trial |\n| --- |")
    client = stores.import_mlflow().MlflowClient(tracking_uri=Mlflow().open_mirror(outputs, print).uri)
    for selection, names in [("main", {"accuracy/val"}), ("all", {"accuracy/val", "micro/runs"})]:
        run_id = Mlflow(metrics=selection).open_mirror(outputs, messages.append).sync_study(study)["run_id"]
        run = client.get_run(run_id)
        assert run.data.tags["mlflow.note.content"] == "| Trial |\n| --- |"
        (child,) = client.search_runs(run.info.experiment_id, f"tags.`{PARENT_TAG}` = '{run_id}'")
        assert set(child.data.metrics) == names
        assert [value for name, value in child.data.tags.items() if name.startswith("vary/a_0_")] == ["1"]
    assert messages == []


def test_close_running_shows_a_running_study_as_killed(outputs, messages):
    mirror = Mlflow().open_mirror(outputs, messages.append)
    run_ids = [mirror.sync_study(StudyPayload(status, status, status))["run_id"] for status in ("RUNNING", "FINISHED")]
    mirror.close_running()
    client = stores.import_mlflow().MlflowClient(tracking_uri=mirror.uri)
    assert [client.get_run(run_id).info.status for run_id in run_ids] == ["KILLED", "FINISHED"]
    assert messages == []
