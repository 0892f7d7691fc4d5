"""Data sets that TensorFlow Datasets has prepared, read without that package."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.datasets.record_dataset import RecordDataset

_NAME = re.compile(r"(?P<name>\w+(/[\w.-]+)?)(:(?P<version>\d+[.]\d+[.]\d+))?")


@settings_dataclass
class Tfds(RecordDataset):
    """A data set that TensorFlow Datasets has prepared in a folder; see `RecordDataset`.

    Only the folder is read: nothing is downloaded, and the package `tensorflow_datasets` is not needed. Its splits are
    used as they are.

    Attributes:
        name: Name as in `tfds.load`: `mnist`, `mnist:3.0.1`, `cats_vs_dogs`, `speech_commands/...`. Without a version,
            the newest one in the folder.
        data_dir: Folder of all data sets. Defaults to None: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
    """

    name: str | None = None
    data_dir: str | None = None

    def title(self, path: Path) -> str:
        """Return the name without the version; see `RecordDataset.title`."""
        return path.parent.name

    def check(self) -> Path:
        """Find the data set's folder.

        Returns:
            The folder of its version.

        Raises:
            BadInput: If there is none.
        """
        if self.name is None:
            raise BadInput("dataset=tfds needs a name. Received: none. Set dataset.name=mnist")
        match = _NAME.fullmatch(self.name)
        if match is None:
            raise BadInput(f"dataset.name={self.name} is no name of a data set. Set it as in mnist or mnist:3.0.1")
        data_dir = self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        folder = Path(data_dir).expanduser() / match["name"]
        versions = {
            tuple(map(int, file.parent.name.split("."))): file.parent
            for file in folder.glob("*/dataset_info.json")
            if re.fullmatch(r"\d+[.]\d+[.]\d+", file.parent.name)
        }
        if match["version"]:
            version = tuple(map(int, match["version"].split(".")))
            versions = {known: path for known, path in versions.items() if known == version}
        if not versions:
            raise BadInput(
                f"{folder} holds no prepared data set {self.name}. Prepare it once, with the package "
                f"tensorflow-datasets: tfds.load('{self.name}', data_dir='{data_dir}'); or set dataset.data_dir."
            )
        return versions[max(versions)]
