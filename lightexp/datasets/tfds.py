"""Data sets that TensorFlow Datasets has prepared, read without that package."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.regular_files import read_text
from lightexp.datasets.record_dataset import RecordDataset

_MAX_AXES = 3  # of an example
_NAME = re.compile(r"(?P<name>\w+(/[\w.-]+)?)(:(?P<version>\d+[.]\d+[.]\d+))?")


@settings_dataclass
class Tfds(RecordDataset):
    """A data set that TensorFlow Datasets has prepared in a folder; see `RecordDataset`.

    Only the folder is read: nothing is downloaded, and the package `tensorflow_datasets` is not needed. Its splits are
    used as they are, and tensors have the shape that its `features.json` states.

    Attributes:
        name: Name as in `tfds.load`: `mnist`, `mnist:3.0.1`, `cats_vs_dogs`, `speech_commands/...`. Without a version,
            the newest one in the folder.
        data_dir: Folder of all data sets. Defaults to None: `TFDS_DATA_DIR`, or `~/tensorflow_datasets`.
    """

    version = 2
    name: str | None = None
    data_dir: str | None = None

    def title(self, path: Path) -> str:
        """Return the name without the version; see `RecordDataset.title`."""
        return str(self.name).partition(":")[0].replace("/", "_")

    def read_shape(self, path: Path, example: str) -> list[int] | None:
        """Return the shape that is set, or that `features.json` states of a tensor; see `RecordDataset`."""
        file = path / "features.json"
        if self.shape is not None or not file.is_file():
            return self.shape
        try:
            feature = json.loads(read_text(file))["featuresDict"]["features"][example]
            shape = [int(length) for length in feature["tensor"]["shape"]["dimensions"]]
        except (KeyError, TypeError, ValueError):  # an image, audio, or a file of another version
            return None
        return shape if 1 <= len(shape) <= _MAX_AXES and min(shape) > 0 else None

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
        newest = versions[max(versions)]
        if any(newest.glob("*.array_record*")) and not any(newest.glob("*.tfrecord*")):
            raise BadInput(
                f"{newest} holds files in the format array_record. Prepare the data as TFRecord files elsewhere: "
                f"tfds.load('{self.name}', data_dir=FOLDER, builder_kwargs={{'file_format': 'tfrecord'}})."
            )
        return newest
