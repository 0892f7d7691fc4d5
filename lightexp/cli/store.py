"""`lightexp store`: list the store of artifacts, verify its digests, and remove what is not needed."""

from __future__ import annotations

import math
import random
import re
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.cli.arguments import Arguments
from lightexp.cli.garbage_collection import pause_garbage_collection
from lightexp.cli.printing import make_console, print_line, report_progress
from lightexp.cli.store_list import iterate_records, list_entries
from lightexp.core import store_gc
from lightexp.core.errors import BadInput
from lightexp.core.formatting import format_bytes
from lightexp.core.record import Record, read_record
from lightexp.core.records import limit_complaints, read_folders
from lightexp.core.store import Store
from lightexp.core.store_entry import ENTRIES, KEY_CHARS
from lightexp.core.store_gc import StoreItem
from lightexp.report.table import Table, build_rich_table

if TYPE_CHECKING:
    from lightexp.runner.settings import Settings

_HELP = """Everything that was trained or made is stored once, in outputs/store, for every run that needs it again.

  lightexp store ls                                    entries used last, the runs that name them, size and age
  lightexp store ls --largest                          those of most bytes; --all lists every entry
  lightexp store verify                                checks every digest; broken entries are quarantined
  lightexp store verify --deep                         also makes one entry in ten again and compares the bytes
  lightexp store gc --older-than 30d --dry-run         shows which entries have not been used for 30 days
  lightexp store gc --unreferenced                     removes what no record in outputs/runs names
  lightexp store gc --max-size 2G                      removes the least recently used until 2 GB are left
  lightexp store ls paths.outputs=FOLDER               another outputs folder

With a remote store, by store.remote=s3://BUCKET/PREFIX:

  lightexp store push store.remote=URL                 uploads the entries and records that it lacks
  lightexp store pull RUN store.remote=URL             fetches a run of another host: record, entries and file
  lightexp store verify --remote store.remote=URL      fetches and checks every entry of the remote store
  lightexp store gc --remote store.remote=URL          removes there what no record names, here or there

An entry is removed only if every given rule allows it, and never while a run uses it. What was removed is made again
by the run that needs it. Exit codes: 0 done, 1 something broken or different (verify), 2 bad input, 130 interrupted."""

_VERIFY_HELP = """Check every digest; broken entries are quarantined.

--deep also makes entries again, chosen at random, and compares every file and fact. Each is made with the settings, the
seed and the threads of the run that made it; what it depends on is taken from the store. Where only runs that used it
have records, it is made with their threads, and may differ for that reason. Plugins run only if plugins=[NAME] names
them here, since a record may be somebody else's. What is made again is not kept."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_EVERY = 10


def make_parser() -> Arguments:
    """Make the parser of `lightexp store`."""
    usage = "%(prog)s COMMAND [--config-dir DIR] [setting=value ...]"
    parser = Arguments("store", usage=usage, description=_HELP).add_config_dir()
    ls = parser.add_command("ls", "list the entries", "List the entries that were used last, the latest at the end.")
    ls.add_config_dir()
    ls.add_argument("--all", action="store_true", help="every entry, one a line")
    ls.add_argument("--largest", action="store_true", help="the largest instead, the very largest at the end")
    verify = parser.add_command("verify", "check every digest", _VERIFY_HELP).add_config_dir()
    verify.add_argument("--deep", action="store_true", help="make entries again and compare the bytes")
    verify.add_argument(
        "--every", type=_parse_count, metavar="N", help="with --deep: one entry in N (default 10; 1: all)"
    )
    verify.add_argument("--remote", action="store_true", help="check the entries of the remote store")
    push = "Upload the entries and records that the remote store lacks."
    parser.add_command("push", "upload to the remote store", push).add_config_dir()
    pull = parser.add_command("pull", "fetch a run", "Fetch a run's record, entries and file from the remote store.")
    pull.add_config_dir().add_argument("run", metavar="RUN", help="the run's id, such as 2026-11-30_10-00-00-a1b2c3")
    gc = parser.add_command("gc", "remove entries", "Remove the entries that every given rule allows to remove.")
    gc.add_config_dir()
    gc.add_argument("--older-than", type=_parse_age, metavar="AGE", help="not used for so long: 90m, 12h, 30d, 2w")
    gc.add_argument("--max-size", type=_parse_size, metavar="SIZE", help="until no more than this is left: 500M, 2G")
    gc.add_argument("--unreferenced", action="store_true", help="not named by any record in outputs/runs")
    gc.add_argument("--remote", action="store_true", help="in the remote store: what no record names, older than a day")
    text = "with --remote: also remove the record of this run there, and so what it alone names"
    gc.add_argument("--forget", action="append", default=[], metavar="RUN", help=text)
    gc.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp store` and return the exit code."""
    from lightexp.runner.compose import compose_settings

    options, overrides = make_parser().read(argv)
    is_remote = getattr(options, "remote", False)
    only_reads = options.command == "ls" or (options.command == "verify" and not options.deep)
    only_reads = only_reads or getattr(options, "dry_run", False)
    settings = compose_settings(overrides, writes=not only_reads)
    outputs = settings.outputs
    store = Store(outputs / "store")
    if options.command == "pull" or is_remote:
        return _run_remote(store, settings, options)
    if not store.root.is_dir():
        raise BadInput(f"{outputs} holds no store, as nothing has been run into it. Set paths.outputs=FOLDER.")
    on_read = report_progress("entries read that the index of the store lacked")
    with pause_garbage_collection():
        items = store_gc.list_items(store.root, options.command == "gc", on_read)
    if options.command == "ls":
        return list_entries(outputs, items, options.all, options.largest)
    if options.command == "push":
        return _push(settings, items)
    if options.command == "verify":
        return _verify(store, items, options, settings.plain["plugins"])
    if options.forget:
        raise BadInput(f"--forget is for the records of the remote store. Add --remote. Received: {options.forget}.")
    if options.older_than is None and options.max_size is None and not options.unreferenced:
        raise BadInput("store gc needs a rule: --older-than AGE, --max-size SIZE or --unreferenced. Received: none.")
    return _collect(outputs, store.root, items, options)


def _run_remote(store: Store, settings: Settings, options: Namespace) -> int:
    """Fetch a run from the remote store, verify that store, or remove entries of it."""
    from lightexp.cli import store_pull, store_remote  # they import NumPy, which the local commands do not need

    if options.command == "pull":
        return store_pull.pull(store, store_remote.open_remote(settings), options.run, settings.outputs)
    if options.command == "verify":
        if options.deep or options.every is not None:
            raise BadInput("--deep and --every are for the local store. Leave them or --remote out.")
        return store_remote.verify(store, store_remote.open_remote(settings))
    named = _find_named_keys(settings.outputs) if settings.outputs.is_dir() else set()
    limits = options.older_than, options.max_size
    return store_remote.collect(store_remote.open_remote(settings), named, *limits, options.dry_run, options.forget)


def _push(settings: Settings, items: list[StoreItem]) -> int:
    """Upload what the remote store lacks, and name the records that cannot be read."""
    from lightexp.cli import store_remote

    remote = store_remote.open_remote(settings)
    records, complaints = _read_all_records(settings.outputs)
    for complaint in limit_complaints(complaints):
        print_line(f"not uploaded: {complaint}")
    code = store_remote.push(remote, [item for item in items if item.state != "quarantined"], records)
    return 1 if complaints else code


def _verify(store: Store, items: list[StoreItem], options: Namespace, plugins: list[str]) -> int:
    """Verify every entry, print the broken ones, and make some again if that is asked for."""
    if options.every is not None and not options.deep:
        raise BadInput(
            f"--every {options.every} is for --deep, which makes entries again. Add --deep, or leave it out."
        )
    entries = [item for item in items if item.state != "quarantined"]
    verdicts: dict[str, store_gc.Verdict] = {}
    count_checked = report_progress(f"of {len(entries):,} entries checked")
    try:
        for item in entries:
            verdicts[item.key] = store_gc.verify_item(store, item)
            if verdicts[item.key] == "broken":
                print_line(f"broken, quarantined: {item.key} {item.kind}")
            count_checked()
    except KeyboardInterrupt:
        print_line(f"Interrupted: {len(verdicts):,} of {len(entries):,} entries were checked.")
        raise
    counts = Counter(verdicts.values())
    sound = [item for item in entries if verdicts[item.key] != "broken"]
    print_line(f"{len(sound)} of {len(entries)} entries are sound, {_format_total(entries)} read.")
    if undigested := counts["facts without digest"]:
        print_line(
            f"{undigested} of version 0.1: no digest of their facts, so a change of these goes unnoticed. Their files "
            "are sound."
        )
    all_equal = _verify_deep(store, sound, options, plugins) if options.deep else True
    return 0 if all_equal and not counts["broken"] else 1


def _verify_deep(store: Store, items: list[StoreItem], options: Namespace, plugins: list[str]) -> bool:
    """Make some entries again, print how each compares, and return whether all are equal."""
    from lightexp.cli.terminal import choose_width
    from lightexp.runner.recompute import find_recipes, recompute_entries  # no need to wait for it before this

    records, complaints = _read_all_records(store.root.parent)
    recipes, reasons = find_recipes((item.key for item in items), records, plugins)
    for complaint in limit_complaints(complaints):
        print_line(f"Not read: {complaint}")
    every = options.every or _EVERY
    selected = random.sample(recipes, math.ceil(len(recipes) / every))
    kinds = {item.key: item.kind for item in items}
    print_line(f"Making {len(selected)} of {len(recipes)} entries again, {'all' if every == 1 else f'one in {every}'}:")
    rows, failed = [], 0
    for number, result in enumerate(recompute_entries(store.root, selected, options.config_dir), start=1):
        state = f"not made: {result.failure}" if result.failure else "differs" if result.differences else "equal"
        print_line(f"{number:>5}  {result.key[:KEY_CHARS]}  {kinds[result.key]}: {state}")
        failed += result.failure is not None
        for difference in result.differences:
            rows.append([result.key[:KEY_CHARS], difference.what, difference.stored, difference.again])
    differing = {row[0] for row in rows}
    if rows:
        table = Table.from_text(["Key", "What differs", "In the store", "Made again"], rows)
        make_console(width=choose_width(sys.stdout)).print(build_rich_table(table))
        print_line(f"The store's own are in {store.root / ENTRIES}: move one elsewhere to have it made again.")
    print_line(f"{len(selected) - failed - len(differing)} equal, {len(differing)} different, {failed} not made.")
    for reason, count in Counter(reasons.values()).most_common():
        print_line(f"{count} of {len(items)} entries cannot be made again: {reason}.")
    return not differing


def _collect(outputs: Path, root: Path, items: list[StoreItem], options: Namespace) -> int:
    """Remove the entries that every rule allows to remove, or show them."""
    # The items came first: what a run makes that ends meanwhile is in use in the list, or named by the run's record.
    named = _find_named_keys(outputs) if options.unreferenced else None
    removed = store_gc.select_evictable(items, time.time(), options.older_than, options.max_size, named)
    if not options.dry_run:
        removed = [item for item in removed if store_gc.remove_item(root, item)]
        store_gc.sweep_orphans(root)
    for item in removed:
        print_line(f"{item.key[:KEY_CHARS]}  {item.bytes:>12,}  {item.kind}")
    removed_folders = {(item.parent, item.name) for item in removed}
    remaining = [item for item in items if (item.parent, item.name) not in removed_folders]
    counts = Counter(item.state for item in remaining)
    remaining_states = ", ".join(f"{counts[state]} {state}" for state in ("in use", "read-only") if counts[state])
    print_line(
        f"{len(removed)} of {len(items)} entries {'would go' if options.dry_run else 'are gone'}, "
        f"{_format_total(removed)}; {_format_total(remaining)} left"
        + (f" ({remaining_states})." if remaining_states else ".")
    )
    return 0


def _find_named_keys(outputs: Path) -> set[str]:
    """Return the keys that records of runs and trials name.

    Raises:
        BadInput: If a record cannot be read.
    """
    keys: set[str] = set()
    count_record = report_progress("records read")
    for _, folder in iterate_records(outputs):
        count_record()
        try:
            record = read_record(folder)
        except BadInput as error:
            raise BadInput(
                f"gc needs to read every record, and cannot: {error} Move that folder elsewhere first."
            ) from None
        keys.update(record.entry_keys)
    return keys


def _read_all_records(outputs: Path) -> tuple[list[Record], list[str]]:
    """Return the records of runs and trials, and a line for each that cannot be read."""
    return read_folders(folder for _, folder in iterate_records(outputs))


def _parse_age(text: str) -> float:
    """Return an age such as `30d` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise ArgumentTypeError(f"'{text}' is no age: write a number and s, m, h, d or w, such as 30d")
    return float(match[1]) * _SECONDS[match[2]]


def _parse_count(text: str) -> int:
    """Return a positive whole number."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ArgumentTypeError(f"'{text}' is no number of entries: write a whole number such as 10, or 1 for all")
    return int(text)


def _parse_size(text: str) -> float:
    """Return a size such as `2G` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text)
    if match is None:
        raise ArgumentTypeError(f"'{text}' is no size: write bytes, or a number and K, M, G or T, such as 2G")
    return float(match[1]) * _BYTES[match[2]]


def _format_total(items: list[StoreItem]) -> str:
    return format_bytes(sum(item.bytes for item in items))
