"""`lightexp register`: put a run's model, or the best of a study's front, into MLflow's model registry."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.cli.arguments import Arguments, is_setting
from lightexp.cli.printing import print_line
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.regular_files import read_text

if TYPE_CHECKING:
    from lightexp.core.record import Record
    from lightexp.tracking.mlflow import Mlflow
    from lightexp.tracking.registry import RegistryClient

_USAGE = """lightexp register RUN NAME [setting=value ...]
       lightexp register --front STUDY NAME [setting=value ...]"""
_HELP = """Put a run's model, or the picks of a study's front (best, knee, smallest), into MLflow's model registry as
versions of the model NAME. Two aliases move with each call: champion (the best primary metric on validation) and
smallest (the fewest bytes). Both compare the versions that were measured on the same data. A run is registered once.

  lightexp register outputs/runs/ID keywords            a run, by its folder or its id
  lightexp register --front NAME keywords               a study that has ended, by its name or folder
  lightexp register ID keywords tracking.uri=http://HOST:PORT    in the registry of a server

Then: mlflow.pyfunc.load_model("models:/keywords@champion"), mlflow models serve -m models:/keywords@champion; see
lightexp guide serve_and_deploy. Exit codes: 0 done, 1 MLflow could not be used, 2 bad input."""
_NAME = re.compile(r"[\w][\w .-]{0,199}")


def make_parser() -> Arguments:
    """Make the parser of `lightexp register`."""
    parser = Arguments("register", usage=_USAGE, description=_HELP).add_config_dir()
    parser.add_argument("arguments", nargs="*", metavar="RUN NAME", help="a run's folder or id, and the model's name")
    parser.add_argument("--front", metavar="STUDY", help="a study, whose front is registered")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp register` and return the exit code.

    Args:
        argv: The command line after `register`.

    Raises:
        BadInput: If there is no such run or study, or the name cannot be used.
        RunFailed: If MLflow cannot be used.
    """
    options, rest = make_parser().read(argv)
    names = [argument for argument in options.arguments if not is_setting(argument) or Path(argument).exists()]
    overrides = [argument for argument in options.arguments if argument not in names] + rest
    if len(names) != (1 if options.front else 2):
        expected = "NAME after --front STUDY" if options.front else "RUN NAME"
        raise BadInput(f"register takes {expected}. Received: {' '.join(names) or 'nothing'}.")
    if not _NAME.fullmatch(names[-1]):
        raise BadInput(f"NAME is of letters, digits, '_', '-', '.' and spaces. Received: {names[-1]!r}.")
    from lightexp.core.records import FRONT_FILE
    from lightexp.runner.compose import compose_settings
    from lightexp.tracking import stores
    from lightexp.tracking.mlflow import Mlflow

    settings = compose_settings(overrides)
    if not isinstance(settings.tracking, Mlflow):
        raise BadInput("register uses MLflow. Received: tracking=none. Leave it out, or set tracking.uri=URI.")
    tracking = replace(settings.tracking, uri=stores.resolve_uri(settings.tracking.uri, settings.outputs), model=True)
    if options.front:
        with _copy_front(_find_folder(options.front, settings.outputs / "searches", FRONT_FILE)) as folders:
            _register(folders, names[-1], tracking, settings.outputs)
    else:
        folder = _find_folder(names[0], settings.outputs / "runs", "record.json")
        _register([folder], names[-1], tracking, settings.outputs)
    return 0


def _find_folder(name: str, parent: Path, content: str) -> Path:
    """Return the folder of a run or study by its path or name."""
    for folder in (Path(name), parent / name):
        if (folder / content).is_file():
            return folder.absolute()
        if (folder / "trials").is_dir():
            raise BadInput(
                f"the front of {folder} is not tested yet. Let its search end, or add search.test=now to it."
            )
    existing = sorted((path.parent.name for path in parent.glob(f"*/{content}")), reverse=True)[:3]
    latest = f" The last are: {', '.join(existing)}." if existing else ""
    raise BadInput(f"neither {name} nor {parent / name} holds a {content}.{latest} Set paths.outputs=FOLDER.")


@contextmanager
def _copy_front(study: Path) -> Iterator[list[Path]]:
    """Provide the picks of a study's front (best, knee, smallest) as folders of runs, which are named by their ids."""
    from lightexp.core.record import read_record
    from lightexp.core.records import FRONT_FILE

    try:
        points = json.loads(read_text(study / FRONT_FILE))["front"]
        trials = [int(point["trial"]) for point in points if point["picks"]]
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or written before fronts named picks
        raise BadInput(f"{study / FRONT_FILE} names no picks of a front. Run the study's search again.") from None
    if not trials:
        raise BadInput(f"{study} has no feasible trial. Relax its constraints, or register a run.")
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for trial in trials:
            source = study / "front" / f"trial_{trial:04d}"
            record = read_record(source)
            copies.append(Path(folder) / "runs" / record.id)
            shutil.copytree(source, copies[-1])
            record.tags = {**record.tags, "row": f"{study.name} trial {trial}"}
            record.write(copies[-1])
        yield copies


def _register(folders: list[Path], name: str, tracking: Mlflow, outputs: Path) -> None:
    """Log the models of some runs if needed, register them, move the aliases, and print the versions."""
    from lightexp.tracking import stores
    from lightexp.tracking.mlflow import summarize_mlflow_error
    from lightexp.tracking.registry import RegistryClient, read_data_digest

    records = [_log_model(folder, tracking, outputs) for folder in folders]
    try:
        with stores.bound_retries(timeout=30, retries=2):
            client = RegistryClient(str(tracking.uri), tracking.timeout_s)
            known = {version.run_id for version in client.list_versions(name)}
            for record, run_id in records:
                if record.id not in known:
                    _add_version(client, name, record, run_id)
            data = read_data_digest(records[0][0])
            versions, aliases = client.assign_aliases(name, data)
    except (BadInput, RunFailed):
        raise
    except Exception as error:  # MLflow and its libraries raise anything
        raise RunFailed(f"MLflow at {tracking.uri} cannot be used: {summarize_mlflow_error(error)}.") from None
    registered = {record.id for record, _ in records}
    for version in versions:
        if version.run_id in registered:
            names = ", ".join(alias for alias, number in aliases.items() if number == version.number)
            print_line(f"{name} version {version.number}{f' ({names})' if names else ''}: run {version.run_id}")
    if others := sum(version.tags.get("lightexp.val_digest") != data for version in versions):
        print_line(f"{others} versions were measured on other data, and are not compared.")
    command = f"mlflow models serve --env-manager local -m 'models:/{name}@champion'"
    print_line(f"Serve   MLFLOW_TRACKING_URI={tracking.uri} {command}")


def _add_version(client: RegistryClient, name: str, record: Record, run_id: str) -> None:
    run = client.get_run(run_id)
    if not run.model_ids or run.lifecycle_stage == "deleted":
        raise RunFailed(f"MLflow's run {run_id} has no model or was deleted. Restore it, or run the pipeline again.")
    client.add_version(name, run, record)


def _log_model(folder: Path, tracking: Mlflow, outputs: Path) -> tuple[Record, str]:
    """Bring a run with its model into MLflow, and return its record and MLflow's id of it."""
    from lightexp.core.record import read_run
    from lightexp.tracking.mlflow_model import find_model

    record = read_run(folder)
    if not find_model(record, folder):
        record.locate_model(folder)  # says why, if the record does
        raise BadInput(f"{folder} is {record.status} and ships no model. Give the folder of a run that is done.")
    complaints: list[str] = []
    result = tracking.open_mirror(outputs, complaints.append).sync(folder)
    if result.note_in(record):
        record.write(folder)
    if "missing" in result.place:
        raise RunFailed(complaints[0] if complaints else result.place["missing"])
    return record, result.place["run_id"]
