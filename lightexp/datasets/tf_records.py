"""The data set of a user's TFRecord files."""

from __future__ import annotations

import os
from pathlib import Path

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.datasets.record_dataset import RecordDataset, list_files


@settings_dataclass
class TfRecords(RecordDataset):
    """TFRecord files in a folder, or a single file; see `RecordDataset`.

    A file whose name, or whose folder's, has the word `train`, `val` (`validation`) or `test` belongs to that split,
    and any other to the train split. Files that end in `.gz` are unpacked.

    Attributes:
        path: The folder, or the file.
    """

    path: str | None = None

    def check(self) -> Path:
        """Check that there are files to train on.

        Returns:
            The folder, or the file.

        Raises:
            BadInput: If there are none.
        """
        if self.path is None:
            raise BadInput("dataset=tf_records needs files. Received: none. Set dataset.path=FOLDER")
        path = os.path.expanduser(self.path)
        if not os.path.exists(path):
            raise BadInput(f"dataset.path={self.path} does not exist. Set dataset.path=FOLDER")
        list_files(Path(path))
        return Path(path)
