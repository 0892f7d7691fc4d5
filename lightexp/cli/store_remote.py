"""`lightexp store push`, `verify --remote` and `gc --remote`: what a user does with a remote store."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeVar

from lightexp.cli.printing import print_line, report_progress
from lightexp.core import remote_gc
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import BadInput
from lightexp.core.formatting import format_bytes, format_count
from lightexp.core.json_text import parse_json
from lightexp.core.object_storage import ObjectStorage, ObjectTooLarge, StorageUnavailable
from lightexp.core.parallel_requests import request_parallel
from lightexp.core.record import NewerRecord, Record, is_run_id, parse_record
from lightexp.core.remote_store import Fetched, RemoteStore, is_sound
from lightexp.core.store import DRAFTS, Store, make_lock, remove_path
from lightexp.core.store_entry import KEY_CHARS
from lightexp.core.store_gc import StoreItem

if TYPE_CHECKING:
    from lightexp.runner.settings import Settings

_LARGE_BYTES = 1_000_000  # of an entry; larger ones are transferred one after another, each with the whole line
A = TypeVar("A")
T = TypeVar("T")


def open_remote(settings: Settings) -> RemoteStore:
    """Open the remote store of some settings.

    Raises:
        BadInput: If they name none, or it cannot be used by anybody.
        StorageUnavailable: If it does not answer.
    """
    if settings.remote_store is None:
        raise BadInput("This needs a remote store, and none is set. Add store.remote=s3://BUCKET/PREFIX.")
    remote = RemoteStore(ObjectStorage(settings.remote_store))
    remote.connect()
    return remote


def push(remote: RemoteStore, items: list[StoreItem], records: list[Record]) -> int:
    """Upload the entries and records that the remote store lacks, and return the exit code."""
    shared = [record for record in records if is_run_id(record.id)]
    for record in records:
        if not is_run_id(record.id):  # of a stranger: it could become the name of any object
            print_line(f"not uploaded, since its id is no run's: the record of {record.id!r}")

    def write_record(record: Record) -> None:
        remote.write_record(record.id, record.to_json())

    def upload(item: StoreItem) -> tuple[StoreItem, Literal["uploaded", "present", "broken"]]:
        if not is_sound(item.key, item.folder):
            return item, "broken"
        return item, "uploaded" if remote.upload(item.key, item.folder) else "present"

    states = Counter[str]()
    count_record = report_progress(f"of {len(shared):,} records uploaded")
    count_entry = report_progress(f"of {len(items):,} entries looked at")
    try:
        for _ in request_parallel(write_record, shared):  # first, so that `gc` of another host keeps what they name
            count_record()
        for item, state in _transfer(upload, items, [item.bytes for item in items]):
            states[state] += 1
            if state == "broken":
                print_line(f"not uploaded, since broken or of version 0.1: {item.key} {item.kind}")
            elif state == "uploaded":
                print_line(f"{item.key[:KEY_CHARS]}  {item.bytes:>12,}  {item.kind}")
            count_entry()
    except KeyboardInterrupt:
        remaining = len(items) - states.total()
        print_line(f"Interrupted: {states['uploaded']:,} entries were uploaded, {remaining:,} have not been looked at.")
        raise
    print_line(f"{states['uploaded']} entries were uploaded to {remote.url}, {states['present']} were there already.")
    print_line(f"It has the records of {format_count(len(shared), 'run')} of this host.")
    return 1 if states["broken"] or len(shared) < len(records) else 0


def _transfer(function: Callable[[A], T], arguments: Sequence[A], sizes: Iterable[int]) -> Iterator[T]:
    """Call a function for arguments of some sizes in bytes: in parallel for small ones, then one by one."""
    small: list[A] = []
    large: list[A] = []
    for argument, size in zip(arguments, sizes, strict=True):
        (small if size < _LARGE_BYTES else large).append(argument)
    return chain(request_parallel(function, small), map(function, large))


def read_remote_record(remote: RemoteStore, run_id: str) -> Record:
    """Return the record of a run in the remote store.

    Raises:
        BadInput: If there is none, or no sound one.
    """
    if not is_run_id(run_id):
        raise BadInput(f"'{run_id}' is no run's id. Write one as in outputs/runs, such as 2026-11-30_10-00-00-a1b2c3.")
    try:
        record = parse_record(parse_json(remote.read_record(run_id)))
    except FileNotFoundError:
        raise BadInput(f"{remote.url} has no record of the run '{run_id}'.") from None
    except NewerRecord as error:
        raise BadInput(f"{remote.url}: the record of '{run_id}' cannot be read: {error}. Upgrade lightexp.") from None
    except (ValueError, RecursionError, ObjectTooLarge) as error:
        remote.connect()  # raises if a proxy answers everything with its own page
        raise BadInput(
            f"{remote.url}: the record of '{run_id}' cannot be read: {error}. "
            f"This removes it: lightexp store gc --remote --forget {run_id}"
        ) from None
    if record.id != run_id:
        raise BadInput(f"{remote.url}: the record of '{run_id}' is that of {record.id!r}. Push that run again.")
    return record


def verify(store: Store, remote: RemoteStore) -> int:
    """Fetch and verify every entry of the remote store, keep none, and return the exit code."""
    entries = remote.list_entries()
    complete = [key for key, objects in entries.items() if remote_gc.has_manifest(objects)]
    sizes = [sum(stored.bytes for stored in entries[key]) for key in complete]
    draft = store.root / DRAFTS / f"verify-{os.getpid()}"

    def fetch(key: str) -> tuple[str, Fetched]:
        (draft / key).mkdir(parents=True)
        try:
            return key, remote.fetch(key, draft / key)
        finally:
            remove_path(draft / key)

    states = Counter[Fetched]()
    count_checked = report_progress(f"of {len(complete):,} entries checked")
    with explain_disk_errors(store.root), make_lock(store.root, draft.name):  # else `store gc` removes it
        try:
            for key, state in _transfer(fetch, complete, sizes):
                states[state] += 1
                if state == "damaged":
                    print_line(f"damaged: {key}. The next run that needs it makes and replaces it.")
                count_checked()
        except KeyboardInterrupt:
            print_line(f"Interrupted: {states.total():,} of {len(complete):,} entries were checked.")
            raise
        finally:
            remove_path(draft)
    broken, count = states["damaged"], len(complete) - states["absent"]  # those that `gc` has just removed do not count
    print_line(f"{count - broken} of {count} entries in {remote.url} are sound.")
    if incomplete := len(entries) - len(complete):
        print_line(f"{incomplete} more are incomplete: being uploaded, or left by a process that was killed.")
    return 1 if broken else 0


def collect(
    remote: RemoteStore,
    named: set[str],
    older_than: float | None,
    max_size: float | None,
    is_dry: bool,
    forgotten: Sequence[str] = (),
) -> int:
    """Remove what the remote store no longer needs, and return the exit code.

    Args:
        remote: The remote store.
        named: Keys that local records name.
        older_than: See `select_evictable`; what is younger than a day always stays.
        max_size: See `select_evictable`.
        is_dry: Whether only to show what would be removed.
        forgotten: Runs whose records are removed from the remote store first.

    Raises:
        BadInput: If a record cannot be read.
    """
    if absent := set(forgotten).difference(remote.list_records() if forgotten else ()):
        raise BadInput(f"{remote.url} has no record of the runs {sorted(absent)}. Leave out --forget for them.")
    if not is_dry:
        for run_id in forgotten:
            remote.remove_record(run_id)
    read_named = _make_named_reader(remote, named, forgotten)
    now: float | None = time.time()
    if not is_dry:
        try:
            now = remote_gc.read_storage_clock(remote) or now
        except StorageUnavailable as error:  # it may be full, which this command is to change
            now = None
            print_line(f"{str(error).rstrip('.')}. Ages count from its newest entry.")
    garbage = remote_gc.find_garbage(remote, read_named, older_than, max_size, now)
    removed: list[StoreItem] = []
    count_removed = report_progress(f"of {len(garbage.entries):,} entries removed")

    def note_removal(item: StoreItem) -> None:
        removed.append(item)
        count_removed()

    if is_dry:
        removed = [item for item, _ in garbage.entries]
    else:
        remote_gc.remove_garbage(remote, garbage, read_named, note_removal)
    _print_garbage(garbage, removed, is_dry, forgotten)
    return 0


def _make_named_reader(remote: RemoteStore, named: set[str], forgotten: Sequence[str]) -> Callable[[], set[str]]:
    """Return a function that adds the keys of new records to `named`, and returns it."""
    read_ids = set(forgotten)

    def read_named() -> set[str]:
        new = [run_id for run_id in remote.list_records() if run_id not in read_ids]
        count_record = report_progress(f"of {len(new):,} records read")
        for record in request_parallel(partial(read_remote_record, remote), new):
            named.update(record.entry_keys)
            count_record()
        read_ids.update(new)
        return named

    return read_named


def _print_garbage(
    garbage: remote_gc.Garbage, removed: list[StoreItem], is_dry: bool, forgotten: Sequence[str]
) -> None:
    for item in removed:
        print_line(f"{item.key[:KEY_CHARS]}  {item.bytes:>12,}  {item.kind}")
    counts = {
        "records": len(forgotten),
        "files of no entry": len(garbage.files),
        "files of dead processes": len(garbage.leftovers),
        "incomplete uploads": len(garbage.uploads or []),
    }
    others = "".join(f", {count} {name}" for name, count in counts.items() if count)
    size = format_bytes(sum(item.bytes for item in removed))
    print_line(f"{len(removed)} entries ({size}){others} {'would go' if is_dry else 'are gone'}.")
    if garbage.unreadable:
        print_line(
            f"{len(garbage.unreadable)} entries have damaged manifests, and their files stay. These name them: "
            "lightexp store verify --remote"
        )
    if garbage.uploads is None:
        print_line("This storage does not list incomplete uploads; a lifecycle rule of the bucket can remove them.")
