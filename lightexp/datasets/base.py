"""What all sources of data share: the settings of how raw examples become inputs."""

from __future__ import annotations

from dataclasses import field

from lightexp.core.config import settings_dataclass
from lightexp.core.data import Data, Split
from lightexp.core.preprocessing import Augment, Scaling
from lightexp.core.protocols import Dataset


@settings_dataclass
class InputDataset(Dataset):
    """A source of data with its scaling and augmentation.

    Attributes:
        scaling: From raw values to inputs.
        augment: Of the examples that are trained on.
    """

    scaling: Scaling = field(default_factory=Scaling, kw_only=True)
    augment: Augment = field(default_factory=Augment, kw_only=True)

    def make_data(self, name: str, train: Split, val: Split, test: Split, classes: int, top: float | None) -> Data:
        """The data set of three splits.

        Args:
            name: The data set's name, for people.
            train: See `Data`.
            val: See `Data`.
            test: See `Data`.
            classes: Number of classes.
            top: The largest raw value there can be (255 for bytes); None where raw values are floats.

        Raises:
            BadInput: If the scaling or the augmentation does not fit the examples.
        """
        shape = tuple(train.x.shape[1:])
        self.augment.check(shape)
        scale, offset = self.scaling.factors(top, shape)
        return Data(name, train, val, test, classes, scale, offset, self.augment)
