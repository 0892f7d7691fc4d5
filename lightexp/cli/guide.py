"""`lightexp guide`: list the guides that ship with lightexp, or show one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import make_console, print_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import Markdown

FOLDER = Path(__file__).parents[1] / "guides"
_HELP = """Show a guide: a task from its first command to its result.

  lightexp guide                                       the topics
  lightexp guide keras                                 one of them
  lightexp guide keras > keras.md                      its Markdown

Topics:
{topics}"""

_CODE_BLOCK = re.compile(r"^```\w*\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_MAX_WIDTH = 100  # characters; longer lines are hard to read


def make_parser() -> Arguments:
    """Make the parser of `lightexp guide`."""
    titles = read_titles()
    width = max(map(len, titles))
    topics = "\n".join(f"  {topic:<{width}}  {title}" for topic, title in titles.items())
    parser = Arguments("guide", description=_HELP.format(topics=topics))
    parser.add_argument("topic", metavar="TOPIC", nargs="?", choices=list(titles), help="what the guide is about")
    return parser


def read_titles() -> dict[str, str]:
    """Return the title of each guide by its topic."""
    titles = {}
    for path in sorted(FOLDER.glob("*.md")):
        with path.open(encoding="utf-8") as file:
            titles[path.stem] = file.readline().lstrip("# ").rstrip()
    return titles


def run(argv: list[str]) -> int:
    """Run `lightexp guide` and return the exit code."""
    parser = make_parser()
    options, settings = parser.read(argv)
    if settings:
        parser.error(f"unrecognized arguments: {settings[0]}")
    if options.topic is None:
        titles = read_titles()
        width = max(map(len, titles))
        for topic, title in titles.items():
            print_line(f"{topic:<{width}}  {title}")
        print_line("\nShow one: lightexp guide TOPIC")
        return 0
    text = _COMMENT.sub("", (FOLDER / f"{options.topic}.md").read_text(encoding="utf-8"))
    console = make_console()
    if console.is_terminal:
        render(console, text)
    else:
        print_line(text.rstrip())
    return 0


def render(console: Console, text: str) -> None:
    """Render Markdown; code is printed as it is, so that a command can be copied from more than one line."""
    from rich.text import Text

    width = min(console.width, _MAX_WIDTH)
    for number, part in enumerate(_CODE_BLOCK.split(text)):
        if number % 2:
            console.print(Text(part, style="cyan"), soft_wrap=True)
        elif part.strip():
            console.print(_make_markdown(part), width=width)  # their targets are files
            console.print()


def _make_markdown(text: str) -> Markdown:
    """Return Markdown whose tables break long words over lines; rich cuts them off."""
    from rich.markdown import Markdown, TableElement
    from rich.table import Table

    class FoldedTable(TableElement):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for part in super().__rich_console__(console, options):
                if isinstance(part, Table):
                    for column in part.columns:
                        column.overflow = "fold"
                yield part

    class FoldedMarkdown(Markdown):
        elements: ClassVar = {**Markdown.elements, "table_open": FoldedTable}

    return FoldedMarkdown(text, hyperlinks=False)
