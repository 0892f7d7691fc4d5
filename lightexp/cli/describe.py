"""`lightexp describe`: print what a group or one of its choices is, and every setting of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import print_line
from lightexp.core.errors import BadInput
from lightexp.core.model_files import find_conversion
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from lightexp.runner.config_groups import ConfigGroups, read_purpose, sets_complete_config

if TYPE_CHECKING:
    from lightexp.runner.choice_settings import SettingDescription

_HELP = """Print what a group or one of its choices is: its purpose, and every setting with type, range and default.

  lightexp describe                                    the groups, and the settings that are in no group
  lightexp describe stage                              the choices of a group
  lightexp describe stage/prune                        a choice; of a stage also what may come before and after it
  lightexp describe store                              settings that are in no group, such as store.remote
  lightexp describe --config-dir DIR plugins=[PACKAGE] stage/mine    your own

Exit codes: 0 done, 2 bad input."""

_PURPOSES = {
    "dataset": "where the examples come from",
    "deploy": "devices to check the file against: deploy=[A,B]",
    "experiment": "presets for a complete run",
    "measure": "which metrics are taken of the file of each stage",
    "model": "the network",
    "objective": "the loss of a stage that trains: objective@pipeline.stages.NAME.objective=CHOICE",
    "pipeline": "which stages run, in which order",
    "search": "presets of lightexp search",
    "stage": "one step of a pipeline: +stage@pipeline.stages.NAME=CHOICE and pipeline.order=[...]",
    "task": "what is learnt, and which metric counts",
    "tracking": "where runs are mirrored",
}
_USES = {
    "stage": "+stage@pipeline.stages.NAME={choice} 'pipeline.order=[train,NAME]', then {settings}",
    "objective": "objective@pipeline.stages.NAME.objective={choice}, then {settings}",
    "deploy": "deploy=[{choice}]",
}
_PLUGINS = "plugins="
_MODEL_SUFFIXES = (".keras", ".h5", ".tflite")
_ARXIV = re.compile(r"arXiv:? ?(\d{4}\.\d{4,5})")
_WIDTH, _INDENT = 100, " " * 6  # characters of a line, and before the text of a setting


def make_parser() -> Arguments:
    """Make the parser of `lightexp describe`."""
    usage = "%(prog)s [GROUP[/CHOICE]] [--config-dir DIR] [plugins=[PACKAGE]]"
    parser = Arguments("describe", usage=usage, description=_HELP).add_config_dir()
    parser.add_argument("arguments", metavar="GROUP/CHOICE", nargs="*", help="such as stage or stage/prune")
    shipped = ConfigGroups()
    for group in shipped.list_groups():
        parser.offer([group, *(f"{group}/{choice}" for choice in shipped.list_choices(group))])
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp describe` and return the exit code."""
    options, _ = make_parser().read(argv)
    settings = [argument for argument in options.arguments if argument.startswith(_PLUGINS)]
    names = [argument.replace("=", "/", 1) for argument in options.arguments if argument not in settings]
    if len(names) > 1:
        raise BadInput(f"lightexp describe takes one group or choice. Received: {' '.join(names)}.")
    if names:
        _refuse_file(Path(names[0]))
    configs = ConfigGroups(options.config_dir)
    group, _, choice = "".join(names).strip("/").partition("/")
    if choice:
        _print_choice(configs, group, choice, _read_plugins(settings))
    elif group and (ungrouped := _read_ungrouped_settings(configs, group)):
        _print_pairs(ungrouped.items())
    elif group:
        _print_choices(configs, group)
    else:
        _print_pairs((name, _PURPOSES.get(name, "your own")) for name in configs.list_groups())
        print_line("\nThe choices of a group: lightexp describe GROUP. One of them: lightexp describe GROUP/CHOICE.")
        print_line("\nIn no group:\n")
        _print_pairs(_read_ungrouped_settings(configs).items())
    return 0


def _read_ungrouped_settings(configs: ConfigGroups, place: str = "") -> dict[str, str]:
    """Return the settings of a run that are in no group, each as `name=default`, with what it means.

    Args:
        configs: The groups.
        place: A setting, or what holds some, such as `store`. Defaults to all.
    """
    from lightexp.runner.choice_settings import list_changes, read_comments

    path = find_config_dir() / f"{PRIMARY_CONFIG}.yaml"
    comments = read_comments(path)
    others = {*configs.list_groups(), "hydra"}
    return {
        f"{name}={value}": comments.get(name, "")
        for name, value in list_changes(path).items()
        if "/" not in name
        and name.partition(".")[0] not in others
        and (not place or f"{name}.".startswith(f"{place}."))
    }


def _refuse_file(path: Path) -> None:
    """Raise BadInput, with what to do, if a word is the file of a model."""
    if conversion := find_conversion(path):
        raise BadInput(f"{conversion}. Then lightexp run --plan model=from_file describes what stages do to it.")
    if path.suffix in _MODEL_SUFFIXES:
        command = f"lightexp run --plan model=from_file model.path={path}"
        raise BadInput(f"{path} is a model, no group. See what stages do to its layers: {command}")


def _read_plugins(settings: list[str]) -> list[str]:
    if not settings:
        return []
    from lightexp.runner.compose import compose_config

    return list(compose_config(settings)["plugins"])


def _print_choices(configs: ConfigGroups, group: str) -> None:
    """Print the choices of a group, each with the first line of its file."""
    choices = configs.list_choices(group)
    if group in _PURPOSES:
        print_line(f"{group}: {_PURPOSES[group]}\n")
    _print_pairs((choice, _read_first_line(configs.find_file(group, choice))) for choice in choices)
    print_line(f"\nOne of them: lightexp describe {group}/CHOICE")


def _read_first_line(path: Path) -> str:
    """Return the first line of a choice's purpose; of a file that cannot be read, the reason."""
    try:
        return "".join(read_purpose(path)[:1])
    except BadInput as error:
        return str(error)


def _print_choice(configs: ConfigGroups, group: str, choice: str, plugins: Sequence[str]) -> None:
    """Print all that is known of a choice."""
    from lightexp.runner import choice_settings
    from lightexp.runner.setting_docs import read_docstring

    path = configs.find_file(group, choice)
    purpose = read_purpose(path)
    print_line(f"{group}/{choice}\n")
    if purpose:
        print_line("\n".join([*purpose, ""]))
    is_preset = sets_complete_config(path)
    if is_preset:
        print_line("Sets")
        _print_pairs(choice_settings.list_changes(path).items(), indent=2)
        print_line("")
    if is_preset and group != "search":
        _print_pairs({"Use": f"{group}={choice}", "File": str(path)}.items())
        return
    node = choice_settings.compose_choice(group, path)
    cls = choice_settings.locate_class(node, f"{group}/{choice}", plugins)
    paragraphs = read_docstring(cls).split("\n\n") if cls else []
    for paragraph in filter(None, paragraphs):
        print_line(textwrap.fill(paragraph, _WIDTH) + "\n")
    settings = choice_settings.describe_settings(node, path, plugins)
    place = {"stage": "pipeline.stages.NAME", "objective": "pipeline.stages.NAME.objective"}.get(group, group)
    use = _USES.get(group, "{group}={choice}, then {settings}")
    use = use.format(group=group, choice=choice, settings=f"{place}.SETTING=VALUE")
    facts = {"Use": use if settings else use.partition(", then")[0]}
    if cls:
        facts["Class"] = f"{cls.__module__}.{cls.__qualname__}"
    if papers := _find_papers([*purpose, *paragraphs, *(setting.text for setting in settings)]):
        facts["Papers"] = " ".join(papers)
    facts["File"] = str(path)
    if group == "stage":
        facts |= _describe_order(configs, choice, plugins)
    _print_pairs(facts.items())
    _print_settings(settings)


def _describe_order(configs: ConfigGroups, choice: str, plugins: Sequence[str]) -> dict[str, str]:
    """Return what a stage starts from, makes, and may follow and precede, by headings."""
    from lightexp.runner.stage_neighbors import find_neighbors, load_stages

    names = configs.list_choices("stage")
    stages = load_stages({name: configs.find_file("stage", name) for name in names}, plugins)
    if choice not in stages:
        return {}
    stage, neighbors = stages[choice], find_neighbors(choice, stages)
    established = ", ".join(f"{one.kind} {one.value:g}" if one.value else one.kind for one in stage.establishes())
    facts = {
        "Starts from": " or ".join("nothing" if form == "none" else form for form in stage.accepts),
        "Makes": stage.produces,
        "Establishes": established or "nothing that a later stage could undo",
        "Before it": ", ".join(neighbors.before) or "nothing",
        "After it": ", ".join(neighbors.after) or "nothing",
        "Not before it": _join_reasons(neighbors.refused_before),
        "Not after it": _join_reasons(neighbors.refused_after),
    }
    if untried := [name for name in names if name not in stages]:
        facts["Not tried"] = f"{', '.join(untried)}: their files cannot be used, or need plugins=[PACKAGE]"
    return facts


def _join_reasons(reasons: Mapping[str, str]) -> str:
    """Return reasons with the stages that each holds for; all stages with one reason are named once."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason.removeprefix(f"{name} "), []).append(name)
    return "; ".join(f"{', '.join(group)} ({reason})" for reason, group in names.items()) or "none"


def _find_papers(texts: Iterable[str]) -> list[str]:
    """Return the addresses of the papers that texts name, once each."""
    return [f"https://arxiv.org/abs/{number}" for number in dict.fromkeys(_ARXIV.findall(" ".join(texts)))]


def _print_settings(settings: Sequence[SettingDescription]) -> None:
    if settings:
        print_line("\nSettings")
    for setting in settings:
        kind = f"{setting.type} {setting.bounds}".strip()
        parts = [kind, f"default {setting.default}", f"search {setting.search}" if setting.search else ""]
        print_line(f"\n  {setting.name}: {'; '.join(filter(None, parts))}")
        if setting.text:
            print_line(textwrap.fill(setting.text, _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT))


def _print_pairs(pairs: Iterable[tuple[str, str]], indent: int = 0) -> None:
    """Print names and texts in two columns; a long text goes on below its beginning."""
    rows = list(pairs)
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        start = f"{' ' * indent}{name:<{width}}  "
        lines = textwrap.wrap(text, max(_WIDTH - len(start), 40), break_long_words=False, break_on_hyphens=False)
        separator = "\n" + " " * len(start)
        print_line((start + separator.join(lines)).rstrip())
