"""Rows of an ablation's table: each is a list of overrides, with those that all rows share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lightexp.core.errors import BadInput
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.order import check_order
from lightexp.runner.settings import Settings

_STAGE_OVERRIDE = re.compile(r"pipeline\.stages\.([^.=]+)\.")


@dataclass(frozen=True)
class AblationRow:
    """A row of the table: one configuration, which runs once with each seed.

    Attributes:
        name: The row's name in the table.
        overrides: All overrides, the ablation's `base` included and the seed excluded.
        settings: The settings that they make, with the default seed.
        refused: Why the row cannot run, if the table shows that. Defaults to None: it can run.
        label: How tables and figures name the row. Defaults to a short form of its name.
    """

    name: str
    overrides: tuple[str, ...]
    settings: Settings
    refused: str | None = None
    label: str = ""

    @property
    def identity(self) -> str:
        """Text that is equal for rows with the same runs."""
        settings = self.settings
        return repr((settings.dataset, settings.model, list(settings.stages.items()), settings.waive))


class BaseOverrides:
    """Overrides that all rows share. Those of a stage apply to the rows whose pipeline has it."""

    def __init__(self, overrides: Sequence[str]) -> None:
        """Check nothing yet.

        Args:
            overrides: The shared overrides, in their order.
        """
        self._overrides = list(overrides)
        matches = {text: _STAGE_OVERRIDE.match(text) for text in overrides}
        self._stages = {text: match[1] for text, match in matches.items() if match}
        self._used: set[str] = set()

    def make_row(self, name: str, own: Sequence[str], where: str, refusable: bool = False) -> AblationRow:
        """Make and check a row.

        Args:
            name: The row's name.
            own: The row's own overrides, which come last.
            where: The row's place in the file, for messages.
            refusable: Whether a row whose stages cannot run in their order is made all the same, with the reason.
                Defaults to False.

        Raises:
            BadInput: If the overrides cannot be composed, or the stages cannot run in their order.
        """
        try:
            overrides = [*self._select(own), *own]
            settings = compose_settings(overrides)
        except BadInput as error:
            raise BadInput(f"{where}: {error}") from None
        try:
            check_order(settings)
        except BadInput as error:
            if not refusable:
                raise BadInput(f"{where}: {error}") from None
            return AblationRow(name, tuple(overrides), settings, str(error))
        return AblationRow(name, tuple(overrides), settings)

    def check_used(self) -> None:
        """Raise BadInput for an override of a stage that no row has."""
        for text, stage in self._stages.items():
            if text not in self._used:
                raise BadInput(f"base: {text}: no row's pipeline has a stage '{stage}'. Leave it out.")

    def _select(self, own: Sequence[str]) -> list[str]:
        """Return the shared overrides without those of stages that a row with its own overrides lacks."""
        if not self._stages:
            return self._overrides
        others = [text for text in self._overrides if text not in self._stages]
        stages = compose_config([*others, *own]).pipeline.stages
        self._used |= {text for text, stage in self._stages.items() if stage in stages}
        return [text for text in self._overrides if text not in self._stages or self._stages[text] in stages]
