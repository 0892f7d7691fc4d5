"""Tests of data sets in TFRecord files, which TensorFlow writes here."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lightexp.core.data import Split
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.streamed_array import StreamedArray
from lightexp.datasets import record_index, tfrecord_files
from lightexp.datasets.record_parsing import LabelColumn
from lightexp.datasets.tf_records import TfRecords
from lightexp.datasets.tfds import Tfds

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (30, 6, 5, 3), np.uint8)
LABELS = np.arange(30) % 3


def encode_png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_example(**features: Any) -> bytes:
    import tensorflow as tf

    def make(value: Any) -> Any:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        values = np.atleast_1d(value)
        if values.dtype.kind == "f":
            return tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel()))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values.ravel()))

    named = {name.replace("__", "/"): make(value) for name, value in features.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString())


def write(path: Path, records: list[bytes], compression: str = "") -> Path:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path


def write_images(path: Path, rows: slice = slice(None), **options: Any) -> Path:
    pairs = zip(PIXELS[rows], LABELS[rows], strict=True)
    return write(path, [make_example(image=encode_png(x), label=y) for x, y in pairs], **options)


def refusal(load: Callable[[], Any]) -> str:
    with pytest.raises(BadInput) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_are_split_by_file_names(tensorflow: None, tmp_path: Path) -> None:
    write_images(tmp_path / "pets-train.tfrecord-00000-of-00002", slice(0, 10))
    write_images(tmp_path / "pets-train.tfrecord-00001-of-00002", slice(10, 18))
    write_images(tmp_path / "pets-validation.tfrecord-00000-of-00001", slice(18, 24))
    write_images(tmp_path / "test" / "a.tfrecord.gz", slice(24, 30), compression="GZIP")
    (tmp_path / "dataset_info.json").write_text("{}")
    data = TfRecords(path=str(tmp_path)).load()
    assert [len(split) for split in data.splits.values()] == [18, 6, 6]
    assert np.array_equal(np.concatenate([split.x for split in data.splits.values()]), PIXELS)
    assert np.array_equal(np.concatenate([split.y for split in data.splits.values()]), LABELS)
    assert (data.classes, data.scale) == (3, 1 / 255)
    grey = TfRecords(path=str(tmp_path), channels=1, size=[4, 4]).load()
    assert grey.shape == (4, 4, 1)


def test_memory_does_not_change_the_data(tensorflow: None, tmp_path: Path) -> None:
    rows = [make_example(x=RNG.random(9000), y=n % 2) for n in range(60)]
    path = write(tmp_path / "wide.tfrecord", rows)
    memory, disk = TfRecords(path=str(path)).load(), TfRecords(path=str(path), memory_mb=1).load()
    assert [len(split) for split in memory.splits.values()] == [38, 10, 12]
    assert disk.train.on_disk
    assert not memory.train.on_disk
    assert (disk.key, disk.test.digest) == (memory.key, memory.test.digest)
    assert TfRecords(path=str(path), split_seed=1).load().key != memory.key
    assert "set dataset.max_gb" in refusal(TfRecords(path=str(path), max_gb=0.001).load)


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_without_room_on_disk_are_decoded_again(
    in_memory: bool, tensorflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr(record_index, "MAX_INDEX_BYTES", 0)  # the index is on disk, too
    tall = PIXELS.repeat(40, 1).repeat(40, 2)  # more than a megabyte
    for name, rows in (("a.tfrecord", slice(0, 11)), ("b.tfrecord", slice(11, 30))):
        pairs = zip(tall[rows], LABELS[rows], strict=True)
        write(tmp_path / name, [make_example(image=encode_png(x), label=y) for x, y in pairs])
    memory, stream = (
        TfRecords(path=str(tmp_path)).load(),
        TfRecords(path=str(tmp_path), memory_mb=1, disk_gb=1e-6).load(),
    )
    assert isinstance(stream.train.x, StreamedArray)
    assert (stream.key, stream.test.digest) == (memory.key, memory.test.digest)
    rows = np.array([17, 2, 3, 11])
    assert np.array_equal(stream.train.x[rows], memory.train.x[rows])
    assert Split(stream.train.x.select(rows), LABELS[:4]).digest == Split(memory.train.x[rows], LABELS[:4]).digest
    (tmp_path / "b.tfrecord").touch()
    with pytest.raises(RunFailed, match=r"b\.tfrecord has changed since it was read first"):
        stream.train.x[:]


@pytest.mark.parametrize("kind", ["bytes", "float_bytes", "floats", "integers"])
def test_arrays_of_every_kind(kind: str, tensorflow: None, tmp_path: Path) -> None:
    encode: dict[str, Callable[[Any], Any]] = {
        "bytes": lambda x: x.tobytes(),
        "float_bytes": lambda x: x.astype(np.float32).tobytes(),
        "floats": lambda x: x.astype(np.float32) - 300,
        "integers": lambda x: x.astype(np.int64) - 300,
    }
    rows = [
        make_example(wave=encode[kind](x), kind=str("abc"[y]).encode()) for x, y in zip(PIXELS, LABELS, strict=True)
    ]
    path = write(tmp_path / "a.tfrecord", rows)
    data = TfRecords(path=str(path), example="wave", label="kind", shape=[6, 15]).load()
    assert (data.shape, data.names) == ((6, 15), ("a", "b", "c"))
    assert data.train.x.dtype == (np.uint8 if kind == "bytes" else np.float32)
    lowered = 300 if kind in ("floats", "integers") else 0
    found = {(row + lowered).astype(np.uint8).tobytes() for split in data.splits.values() for row in split.x}
    assert found == {x.tobytes() for x in PIXELS}


def test_tfds_folder_is_read_without_the_package(tensorflow: None, tmp_path: Path) -> None:
    for version, rows in (("1.0.0", slice(0, 12)), ("3.0.10", slice(0, 24)), ("3.0.9", slice(0, 12))):
        folder = tmp_path / "pets" / version
        write_images(folder / "pets-train.tfrecord-00000-of-00001", rows)
        write_images(folder / "pets-test.tfrecord-00000-of-00001", slice(24, 30))
        (folder / "dataset_info.json").write_text("{}")
        (folder / "label.labels.txt").write_text("cat\ndog\nemu\nfox\n")
    newest = Tfds(name="pets", data_dir=str(tmp_path))
    assert newest.check() == tmp_path / "pets" / "3.0.10"
    data = newest.load()
    assert data.name == "pets"
    assert (data.classes, data.names) == (4, ("cat", "dog", "emu", "fox"))
    assert np.array_equal(data.test.x, PIXELS[24:])
    assert (len(data.train), len(data.val)) == (19, 5)
    assert len(Tfds(name="pets:1.0.0", data_dir=str(tmp_path)).load().train) == 10
    for name in ("pets:9.0.0", "cats"):
        assert f"tfds.load('{name}'" in refusal(Tfds(name=name, data_dir=str(tmp_path)).check)
    assert "dataset.name=../x is no name" in refusal(Tfds(name="../x").check)
    assert "Set dataset.name=" in refusal(Tfds().check)
    folder = tmp_path / "arrays/1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "arrays-train.array_record-00000-of-00001").write_bytes(b"")
    assert "builder_kwargs={'file_format': 'tfrecord'}" in refusal(Tfds(name="arrays", data_dir=str(tmp_path)).check)


def test_folder_of_tensorflow_datasets_states_shapes(tmp_path: Path) -> None:
    source = Path(__file__).with_name("tfds_files")  # made by the package itself
    data = Tfds(name="tiny_series/short", data_dir=str(source)).load()
    assert (data.name, data.shape, data.names) == ("tiny_series_short", (4, 2), ("a", "b", "c"))
    assert [len(split) for split in data.splits.values()] == [10, 3, 2]  # no test split: a fifth is held out
    assert np.array_equal(np.sort(data.val.x[:, 3, 1]), [7, 107, 207])
    flat = Tfds(name="tiny_series/short", data_dir=str(source), shape=[8]).load()
    assert flat.shape == (8,)
    copy = shutil.copytree(source / "tiny_series", tmp_path / "tiny_series")
    (copy / "short/2.1.0/features.json").write_text("{}")
    assert Tfds(name="tiny_series/short", data_dir=str(tmp_path)).load().shape == (8,)


def test_unusable_files_are_refused(tensorflow: None, tmp_path: Path) -> None:
    assert "Set dataset.path=FOLDER" in refusal(TfRecords().check)
    assert "does not exist" in refusal(TfRecords(path=str(tmp_path / "none")).check)
    assert "holds no file to train on" in refusal(TfRecords(path=str(tmp_path)).check)
    path = write(tmp_path / "a.tfrecord", [make_example(picture=encode_png(PIXELS[0]), label=0)])
    assert "holds the features label, picture. Set dataset.example" in refusal(TfRecords(path=str(path)).load)
    assert "did you mean 'picture'?" in refusal(TfRecords(path=str(path), example="pictur").load)
    write(path, [make_example(image=PIXELS[0].tobytes(), label=0)])
    assert "If it holds numbers, set dataset.shape=[HEIGHT,WIDTH,CHANNELS]" in refusal(TfRecords(path=str(path)).load)
    write(path, [make_example(x=np.ones(3), label=0), make_example(x=np.ones(4), label=0)])
    assert "record 1 cannot be used: cannot reshape" in refusal(TfRecords(path=str(path)).load)
    write(path, [make_example(x=np.ones(3), label=0), make_example(x=np.ones(3))])
    assert "record 1 cannot be used: has no feature 'label'" in refusal(TfRecords(path=str(path)).load)
    write(path, [make_example(image=encode_png(x), label=n % 2) for n, x in enumerate([*PIXELS[:8], PIXELS[0, :3]])])
    assert "image of record 8 is 3 pixels high and 5 wide," in refusal(TfRecords(path=str(path)).load)
    write(path, [])
    assert "holds no record of train" in refusal(TfRecords(path=str(path)).load)


def test_altered_bytes_are_refused(tensorflow: None, tmp_path: Path) -> None:
    path = write_images(tmp_path / "a.tfrecord", slice(0, 6))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(100):
        altered = bytearray(content)
        altered[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        line = refusal(TfRecords(path=str(path)).load)
        assert "damaged" in line or "ends within record" in line
        path.write_bytes(content[: rng.integers(1, len(content) - 1)])
        refusal(TfRecords(path=str(path)).load)


def test_checksum_is_that_of_the_format() -> None:
    checksum = 0xE3069283  # CRC-32C of the digits, the usual check value
    masked = (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF
    assert tfrecord_files.compute_checksums([b"", b"123456789", b"1"])[1] == masked


@pytest.mark.parametrize("value", [[0, 1, 127, 128, 300, -1, 2**62, -(2**63)], [5], []])
def test_integers_are_decoded(value: list[int], tensorflow: None) -> None:
    features = tfrecord_files.split_features(make_example(y=np.array(value, np.int64)))
    assert np.asarray(tfrecord_files.decode_feature(features["y"])).tolist() == value


def test_random_bytes_are_no_example() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = rng.bytes(int(rng.integers(1, 40)))
        try:
            for feature in tfrecord_files.split_features(content).values():
                tfrecord_files.decode_feature(feature)
        except ValueError:
            pass


def test_records_that_come_while_files_are_read_are_refused(
    tensorflow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_images(tmp_path / "a.tfrecord")
    monkeypatch.setattr(tfrecord_files, "count_records", lambda path: 29)
    assert "has changed while it was read" in refusal(TfRecords(path=str(path)).load)


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [([3, 2**31 - 1], np.int32), ([0, 2**31], np.int64), ([0, -(2**63)], np.int64), (["a", "bc"], "<U2")],
)
def test_labels_take_four_bytes_where_they_fit(labels: list[Any], dtype: Any) -> None:
    column = LabelColumn(len(labels))
    for label in labels:
        column.append(label)
    assert column.to_array().dtype == dtype
    assert column.to_array().tolist() == labels
