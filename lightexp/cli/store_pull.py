"""`lightexp store pull`: fetch a run of another host from the remote store."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from lightexp.cli.printing import print_line
from lightexp.cli.store_remote import read_remote_record
from lightexp.core.artifact import TFLITE
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE, Record, read_record
from lightexp.core.records import RUNS
from lightexp.core.remote_store import RemoteStore
from lightexp.core.secrets import list_environment_names
from lightexp.core.store import Store
from lightexp.runner.primary_config import write_primary_config
from lightexp.runner.run_lock import is_alive

_CONFIG_FILE = "repeat.yaml"


def pull(store: Store, remote: RemoteStore, run_id: str, outputs: Path) -> int:
    """Fetch a run's record, entries and file, and return the exit code.

    Raises:
        BadInput: If the remote store has no sound record of it.
    """
    record = read_remote_record(remote, run_id)
    with explain_disk_errors(outputs):
        return _pull(store, remote, record, outputs)


def _pull(store: Store, remote: RemoteStore, record: Record, outputs: Path) -> int:
    keys, fetched, missing = record.entry_keys, 0, []
    for key in keys:
        if store.load(key) is None:
            if store.fetch(key, remote):
                fetched += 1
            else:
                missing.append(key)
    for key in missing:
        print_line(f"not in {remote.url}, or damaged there: {key}")
    folder = outputs / RUNS / record.id
    if _is_behind(folder, record):
        _write_run(store, record, folder)
    if record.status == "running":
        print_line("It has not ended, or its process was killed. Pull it again later.")
    print_line(f"{fetched} of {len(keys)} entries were fetched; {len(missing)} are missing. The run is in {folder}.")
    if record.config:
        print_line(f"Again   {_write_config(record, remote, folder, outputs)}")
        if notes := _list_reach(record):  # it may be a stranger's
            print_line(f"Check   That command {'; '.join(notes)}.")
    return 1 if missing else 0


def _is_behind(folder: Path, record: Record) -> bool:
    """Check whether the folder of a run lacks what a record of the remote store says."""
    try:
        local = read_record(folder)
    except BadInput:  # there is none, or no sound one
        return True
    if local.status == "running":
        return record.status != "running" and not is_alive(folder.parent, folder.name)
    return local.status == record.status == "done" and "model" not in local.files


def _write_run(store: Store, record: Record, folder: Path) -> None:
    """Write the folder of a run of another host: the record and the file that ships."""
    record.files = {}
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Below another folder, since one with a record would be taken for a run if this process is killed.
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix="."), folder.name)
    draft.mkdir()
    try:
        model = store.folder(record.stages[-1].key) / TFLITE if record.stages else None
        if model is not None and model.is_file():
            shutil.copyfile(model, draft / TFLITE)
            record.files = {"model": TFLITE}
        record.write(draft)
        if not folder.exists():
            draft.rename(folder)
        else:  # of an earlier pull
            for name in (*record.files.values(), RECORD_FILE):
                (draft / name).replace(folder / name)
    finally:
        shutil.rmtree(draft.parent, ignore_errors=True)


def _list_reach(record: Record) -> list[str]:
    """List what a run's config makes use of besides this program: where it logs, variables and plugins."""
    uri = (record.config.get("tracking") or {}).get("uri")
    names, plugins = list_environment_names(record.config), record.config.get("plugins")
    return [
        *([f"logs to {uri}"] if uri else []),
        *([f"takes {', '.join(names)} from the environment"] if names else []),
        *([f"runs the plugins {', '.join(plugins)}"] if plugins else []),
    ]


def _write_config(record: Record, remote: RemoteStore, folder: Path, outputs: Path) -> str:
    """Write the config of a pulled run, which keeps its outputs here, and return the command that runs it."""
    places = {"paths": {"outputs": str(outputs)}, "store": {"remote": remote.url}}
    return write_primary_config(folder.absolute() / _CONFIG_FILE, {**record.config, **places}, record.name)
