"""`lightexp store`: what the store of artifacts holds, whether it is whole, and what may go."""

from __future__ import annotations

import re
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from lightexp.cli.arguments import Arguments
from lightexp.cli.terminal import width
from lightexp.core import store_gc
from lightexp.core.columns import MISSING
from lightexp.core.errors import BadInput
from lightexp.core.formatting import format_age, format_bytes
from lightexp.core.records import load_records
from lightexp.core.store import Store
from lightexp.core.store_gc import StoreItem
from lightexp.report.table import Table, TableColumn, build_rich_table
from lightexp.runner.compose import compose_settings

_HELP = """Everything that was trained or made is kept once, in outputs/store, for every run that needs it again.

  lightexp store ls                                    what is there, which runs name it, how large, how old
  lightexp store verify                                checks every digest; broken entries are set aside
  lightexp store gc --older-than 30d --dry-run         what would go of what has not been used for 30 days
  lightexp store gc --unreferenced                     takes away what no record in outputs/runs names
  lightexp store gc --max-size 2G                      takes away the least recently used until 2 GB are left
  lightexp store ls paths.outputs=FOLDER               another folder of outputs

An entry goes only if every rule that is given lets it go, and never while a run uses it. What is gone is made again by
the run that needs it. Exit codes: 0 done, 1 something was broken (verify), 2 bad input, 130 interrupted."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def make_parser() -> Arguments:
    """The command's flags."""
    made = Arguments("store", description=_HELP).add_config_dir()
    made.add_command("ls", "list the entries", "Lists the entries, the least recently used first.").add_config_dir()
    made.add_command(
        "verify", "check every digest", "Checks every digest; broken entries are set aside."
    ).add_config_dir()
    gc = made.add_command("gc", "remove entries", "Removes the entries that every given rule lets go.").add_config_dir()
    gc.add_argument("--older-than", type=_age, metavar="AGE", help="not used for so long: 90m, 12h, 30d, 2w")
    gc.add_argument("--max-size", type=_size, metavar="SIZE", help="until no more than this is left: 500M, 2G")
    gc.add_argument("--unreferenced", action="store_true", help="not named by any record in outputs/runs")
    gc.add_argument("--dry-run", action="store_true", help="only shows what would go")
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp store` and returns the exit code."""
    flags, overrides = make_parser().read(words)
    outputs = compose_settings(overrides).outputs
    store = Store(outputs / "store")
    if not store.root.is_dir():
        raise BadInput(f"{outputs} holds no store, as nothing has been run into it. Set paths.outputs=FOLDER.")
    if flags.command == "ls":
        return _list(outputs, store_gc.list_items(store.root))
    if flags.command == "verify":
        return _verify(store, store_gc.list_items(store.root))
    if flags.older_than is None and flags.max_size is None and not flags.unreferenced:
        raise BadInput("store gc needs a rule: --older-than AGE, --max-size SIZE or --unreferenced. Received: none.")
    return _collect(outputs, store.root, flags)


def _list(outputs: Path, items: list[StoreItem]) -> int:
    named, words = _named(outputs)
    now = time.time()
    headings: list[TableColumn | str] = [
        "Key",
        "What",
        *map(TableColumn, ("Bytes", "Made", "Used")),
        "Runs that name it",
        "",
    ]
    rows = []
    for item in items:
        runs = named.get(item.key, []) if item.state != "set aside" else []
        whose = MISSING if not runs else runs[-1] + (f" and {len(runs) - 1} more" if len(runs) > 1 else "")
        ages = (format_age(now - item.made), format_age(now - item.used))
        state = "" if item.state == "idle" else item.state
        rows.append([item.key[:12], item.kind, f"{item.bytes:,}", *ages, whose, state])
    console = Console(width=width(sys.stdout), highlight=False)
    console.print(build_rich_table(Table.from_text(headings, rows)))
    console.print(f"{len(items)} entries, {_format_total(items)}.")
    for line in words:
        console.print(escape(f"Not counted: {line}"), soft_wrap=True)
    return 0


def _verify(store: Store, items: list[StoreItem]) -> int:
    entries = [item for item in items if item.state != "set aside"]
    broken = []
    for item in track(
        entries, "verifying", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ):
        if not store_gc.verify_item(store, item):
            broken.append(item)
            print(f"broken, set aside: {item.key} {item.kind}")
    print(f"{len(entries) - len(broken)} of {len(entries)} entries are whole, {_format_total(entries)} read.")
    return 1 if broken else 0


def _collect(outputs: Path, root: Path, flags: Namespace) -> int:
    # The order counts: what a run made that ends meanwhile is in use in the list, or named by the record it has left.
    items = store_gc.list_items(root)
    named, words = _named(outputs) if flags.unreferenced else (None, [])
    if words:
        raise BadInput(
            f"--unreferenced needs to read every record, and cannot: {words[0]} Move that folder elsewhere first."
        )
    chosen = store_gc.select_evictable(items, time.time(), flags.older_than, flags.max_size, named)
    if flags.dry_run:
        gone = chosen
    else:
        gone = [item for item in chosen if store_gc.remove_item(root, item)]
        store_gc.sweep_orphans(root)
    for item in gone:
        print(f"{item.key[:12]}  {item.bytes:>12,}  {item.kind}")
    kept = [item for item in items if item not in gone]
    busy = sum(item.state == "in use" for item in kept)
    print(
        f"{len(gone)} of {len(items)} entries {'would go' if flags.dry_run else 'are gone'}, {_format_total(gone)}; "
        f"{_format_total(kept)} left" + (f" ({busy} in use)." if busy else ".")
    )
    return 0


def _named(outputs: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The runs and the searches' trials that name each key; and a line for each record that cannot be read."""
    records, words = load_records(outputs)
    of = [(record, record.id) for record in records]
    for trials in sorted(outputs.glob("searches/*/trials")):
        sound, broken = load_records(trials)
        of += [(record, f"search {trials.parent.name}") for record in sound]
        words += broken
    named = defaultdict[str, list[str]](list)
    for record, name in of:
        for key in {*record.keys, *(stage.key for stage in record.stages)}:
            if name not in named[key]:
                named[key].append(name)
    return named, words


def _age(text: str) -> float:
    if not (parts := re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)):
        raise ArgumentTypeError(f"'{text}' is no age: write a number and s, m, h, d or w, such as 30d")
    return float(parts[1]) * _UNITS[parts[2]]


def _size(text: str) -> float:
    if not (parts := re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text)):
        raise ArgumentTypeError(f"'{text}' is no size: write bytes, or a number and K, M, G or T, such as 2G")
    return float(parts[1]) * _SIZES[parts[2]]


def _format_total(items: list[StoreItem]) -> str:
    return format_bytes(sum(item.bytes for item in items))
