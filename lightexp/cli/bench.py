"""`lightexp bench`: measure the latency of a run's model again, on this machine or on an Android phone."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import make_console, print_error, print_line
from lightexp.core.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from lightexp.core.metrics import Metric, Note
    from lightexp.core.record import Record
    from lightexp.runner.phone_bench import PhoneConfiguration, PhoneTimings

_HELP = """Measure the latency of a run's model again, while nothing else of lightexp computes here, and compare it with
the record. With --adb on an Android phone instead, by Google's program benchmark_model: what it measures goes into the
run's record as phone/MODEL/cpu1_us, gpu_us, nnapi_us and so on, and to MLflow where the run is shown there.

  lightexp bench outputs/runs/RUN                                    on this machine
  lightexp bench outputs/runs/RUN --operators                        and the time of each operator
  lightexp bench outputs/runs/RUN --adb SERIAL --benchmark-model android_aarch64_benchmark_model

RUN is a run's folder, or a .tflite file, of which nothing is recorded. On a phone, without --threads, --gpu and
--nnapi, all are measured: 1, 2 and 4 threads, the GPU and NNAPI. What the phone does not offer is a dash with the
reason.

Exit codes: 0 done, 1 the phone failed, 2 bad input, 130 interrupted."""
_PHONE_FLAGS = ("benchmark_model", "adb_path", "threads", "gpu", "nnapi", "runs", "warmup", "timeout")
_THREADS = (1, 2, 4)
_RUNS, _WARMUP, _TIMEOUT_S = 50, 5, 300.0
_MAX_THREADS, _MAX_RUNS = 64, 100_000
_HOST_ROWS = {
    "latency/p50_us": ("p50 µs", "{:,.2f}"),
    "latency/p95_us": ("p95 µs", "{:,.2f}"),
    "latency/spread": ("spread of batches", "{:.1%}"),
    "latency/load": ("load of a processor", "{:.2f}"),
}
_PHONE_COLUMNS = {
    "us": ("mean µs", "{:,.1f}"),
    "std_us": ("± std", "{:,.1f}"),
    "first_us": ("first µs", "{:,.0f}"),
    "init_us": ("start µs", "{:,.0f}"),
    "memory_mb": ("memory MB", "{:,.1f}"),
}


@dataclass(frozen=True)
class _Target:
    """A model to measure, and the run that it is of.

    Attributes:
        model: The `.tflite`.
        folder: The run's folder; None for a file without a run.
        record: The run's record, if any.
    """

    model: Path
    folder: Path | None = None
    record: Record | None = None


def make_parser() -> Arguments:
    """Make the parser of `lightexp bench`."""
    parser = Arguments("bench", description=_HELP)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or a .tflite file")
    parser.add_argument("--operators", action="store_true", help="also the time of each operator, into the record")
    parser.add_argument("--adb", metavar="SERIAL", help="measure on this phone, as `adb devices` lists it")
    parser.add_argument("--benchmark-model", type=Path, metavar="PATH", help="Google's benchmark_model for Android")
    parser.add_argument("--adb-path", metavar="PATH", help="the program adb (default: the one on PATH)")
    parser.add_argument("--threads", metavar="N,N", help="numbers of CPU threads (default: 1,2,4)")
    parser.add_argument("--gpu", action="store_true", default=None, help="the phone's GPU")
    parser.add_argument("--nnapi", action="store_true", default=None, help="Android's NNAPI")
    parser.add_argument("--runs", metavar="N", help=f"timed runs, at least (default: {_RUNS})")
    parser.add_argument("--warmup", metavar="N", help=f"runs before those, at least (default: {_WARMUP})")
    parser.add_argument("--timeout", metavar="S", help=f"seconds for each measurement (default: {_TIMEOUT_S:g})")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp bench` and return the exit code.

    Args:
        argv: The command line after `bench`.

    Raises:
        BadInput: If there is no such model, phone or program, or they do not fit together.
        RunFailed: If the phone fails; what was measured before is in the record.
    """
    options = make_parser().parse_args(argv)
    if options.adb is None:
        if given := [name for name in _PHONE_FLAGS if getattr(options, name) is not None]:
            flag = f"--{given[0].replace('_', '-')}"
            raise BadInput(f"{flag} is about a phone. Name one with --adb SERIAL, or leave {flag} out.")
        target = _find_target(options.run)
        _bench_host(target)
        if options.operators:
            _bench_operators(target)
        return 0
    if options.operators:
        raise BadInput("--operators times them on this machine. Leave it out, or --adb.")
    if options.benchmark_model is None:
        raise BadInput("--adb needs --benchmark-model PATH: Google's benchmark_model for Android, on this machine.")
    return _bench_phone(_find_target(options.run), options)


def _find_target(path: Path) -> _Target:
    """Return the model of a run, or a file.

    Raises:
        BadInput: If the run ships no model, or the file is missing.
    """
    from lightexp.core.record import read_run

    if path.suffix == ".tflite":
        if not path.is_file():
            raise BadInput(f"{path} is not a file. Give a run's folder, or a .tflite file.")
        return _Target(path)
    if not path.is_dir():
        raise BadInput(f"{path} is neither a folder nor a .tflite file. Give a run's folder, or a .tflite file.")
    record = read_run(path)
    model = record.locate_model(path)
    if not model.is_file():
        raise BadInput(f"{model} is missing. Run the pipeline again.")
    return _Target(model, path, record)


def _bench_host(target: _Target) -> None:
    """Measure on this machine, and show it with what is recorded."""
    from lightexp.core.columns import MISSING
    from lightexp.core.latency_quality import MARK, list_doubts
    from lightexp.core.metrics import Metric, Note
    from lightexp.metrics.latency import Latency
    from lightexp.report.table import Table, TableColumn, print_table

    measured = Latency().time_zeros(target.model)
    now = {item.name: item.value for item in measured if isinstance(item, Metric)}
    recorded = target.record.metrics if target.record else {}
    rows = [
        [heading, number.format(recorded[name]) if name in recorded else MISSING, number.format(now[name])]
        for name, (heading, number) in _HOST_ROWS.items()
    ]
    doubts = {"recorded": list_doubts(recorded), "now": list_doubts(now)}
    headings = [TableColumn(name + (MARK if reasons else "")) for name, reasons in doubts.items()]
    print_table(make_console(), Table.from_text(["", *headings], rows))
    for name, reasons in doubts.items():
        if reasons:
            print_line(f"{MARK} doubtful, {name}: {', '.join(reasons)}")
    for note in (item.text for item in measured if isinstance(item, Note)):
        print_line(note)
    if target.record and "latency/p50_us" in recorded:
        environment = target.record.environment
        print_line(f"Recorded on {environment.get('timed_on', environment.get('host', 'an unknown host'))}.")


def _bench_operators(target: _Target) -> None:
    """Measure the operators on this machine, show them, and enter them in the record."""
    from lightexp.backend.operator_profile import profile_operators
    from lightexp.core.columns import MISSING
    from lightexp.core.disk_errors import explain_disk_errors
    from lightexp.core.record import read_run
    from lightexp.execution.locks import host_lock
    from lightexp.report.table import Table, TableColumn, print_table

    with host_lock():
        operators = profile_operators(target.model)
    total = sum(operator.us for operator in operators) or 1.0
    rows = [
        [operator.name, operator.layer or MISSING, f"{operator.us:,.1f}", f"{operator.us / total:.0%}"]
        for operator in operators
    ]
    columns: list[str | TableColumn] = ["Operator", "Layer", TableColumn("µs"), TableColumn("Share")]
    print_table(make_console(), Table.from_text(columns, rows))
    print_line("Each time is rounded down to microseconds, so that operators below one count as 0.")
    if target.folder:
        record = read_run(target.folder)
        record.stages[-1].facts["operators"] = [asdict(operator) for operator in operators]
        with explain_disk_errors(target.folder):
            record.write(target.folder)
        print_line(f"Recorded in {target.folder}")


def _bench_phone(target: _Target, options: argparse.Namespace) -> int:
    """Measure on a phone, show it and enter it in the record, also what was measured before the phone failed."""
    from lightexp.execution.android import AndroidDevice
    from lightexp.runner.phone_bench import check_program, name_phone, open_benchmark

    configurations = _select_configurations(options)
    runs, warmup = _parse_count(options, "runs", _RUNS), _parse_count(options, "warmup", _WARMUP)
    seconds = _parse_timeout(options.timeout)
    check_program(options.benchmark_model)
    device = AndroidDevice(options.adb_path or "adb", options.adb)
    names = {
        name: device.read_property(f"ro.{name}") or "unknown" for name in ("product.model", "build.version.release")
    }
    phone, results, failure = name_phone(names["product.model"]), {}, None
    try:
        with open_benchmark(device, target.model, options.benchmark_model) as benchmark:
            for configuration in configurations:
                print_error(f"{phone}: {configuration.name}", sys.stderr)
                results[configuration] = benchmark.measure(configuration, runs, warmup, seconds)
    except RunFailed as error:
        if not results:
            raise
        failure = error
    print_line(f"{names['product.model']}, Android {names['build.version.release']}")
    _print_phone(results)
    if target.folder:
        from lightexp.core.fingerprint import hash_file

        facts: dict[str, str | int] = {
            "model": names["product.model"],
            "android": names["build.version.release"],
            "benchmark_model": hash_file(options.benchmark_model),
            "runs": runs,
            "warmup": warmup,
        }
        measured = [item for one, timings in results.items() for item in timings.make_metrics(phone, one)]
        _record(target.folder, measured, phone, facts)
    if failure:
        raise failure
    return 0


def _select_configurations(options: argparse.Namespace) -> list[PhoneConfiguration]:
    """Return what is measured: what the flags name, or everything.

    Raises:
        BadInput: If a number of threads is wrong.
    """
    from lightexp.runner.phone_bench import GPU, NNAPI, make_cpu_configuration

    everything = not (options.threads or options.gpu or options.nnapi)
    threads = list(_THREADS) if everything else []
    for text in (options.threads or "").split(",") if options.threads is not None else ():
        if not text.strip().isdecimal() or not 1 <= int(text) <= _MAX_THREADS:
            raise BadInput(
                f"--threads={options.threads}: give numbers from 1 to {_MAX_THREADS}, such as --threads 1,2,4."
            )
        threads.append(int(text))
    configurations = [make_cpu_configuration(count) for count in dict.fromkeys(threads)]
    if everything or options.gpu:
        configurations.append(GPU)
    if everything or options.nnapi:
        configurations.append(NNAPI)
    return configurations


def _parse_count(options: argparse.Namespace, name: str, default: int) -> int:
    text = getattr(options, name)
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_RUNS:
        raise BadInput(f"--{name}={text}: give a number from 1 to {_MAX_RUNS:,}.")
    return int(text)


def _parse_timeout(text: str | None) -> float:
    if text is None:
        return _TIMEOUT_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise BadInput(f"--timeout={text}: give seconds, such as --timeout {_TIMEOUT_S:g}.")
    return seconds


def _print_phone(results: dict[PhoneConfiguration, PhoneTimings]) -> None:
    from lightexp.core.columns import MISSING
    from lightexp.report.table import Table, TableColumn, print_table

    rows = [
        [
            configuration.name,
            *(
                number.format(timings.values[name]) if name in timings.values else MISSING
                for name, (_, number) in _PHONE_COLUMNS.items()
            ),
        ]
        for configuration, timings in results.items()
    ]
    columns: list[str | TableColumn] = ["", *(TableColumn(heading) for heading, _ in _PHONE_COLUMNS.values())]
    print_table(make_console(), Table.from_text(columns, rows))
    for configuration, timings in results.items():
        if timings.note:
            print_line(f"{configuration.name}: {timings.note}")


def _record(folder: Path, measured: list[Metric | Note], phone: str, facts: dict[str, str | int]) -> None:
    """Enter a phone's times in a run's record, and where MLflow shows the run.

    Args:
        folder: The run's folder, whose record may have changed while the phone was measured.
        measured: The phone's metrics and notes.
        phone: The phone's model, as metrics have it.
        facts: What else to record of the phone.
    """
    from lightexp.core.disk_errors import explain_disk_errors
    from lightexp.core.record import read_run
    from lightexp.runner.compose import compose_settings
    from lightexp.runner.run import describe_mirror
    from lightexp.tracking.remote_mirror import RemoteMirror

    record = read_run(folder)
    record.stages[-1].replace(measured)
    record.environment.setdefault("phones", {})[phone] = facts
    with explain_disk_errors(folder):
        record.write(folder)
        print_line(f"Recorded in {folder}")
        if "run_id" not in record.mlflow:
            return
        mirror = replace(describe_mirror(compose_settings([])), outputs=str(folder.absolute().parents[1]))
        result = RemoteMirror(lambda line: print_error(line, sys.stderr)).sync(folder, record, mirror, create=False)
        if result.changed:
            record.write(folder)
        if "missing" in result.place:
            print_line(f"MLflow does not show it yet ({result.place['missing']}): lightexp track sync --to-recorded")
