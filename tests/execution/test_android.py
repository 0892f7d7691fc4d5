"""Android devices through a stand-in of `adb`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.errors import BadInput, RunFailed
from lightexp.execution.android import AndroidDevice, DeviceTimeout
from tests.stand_in_adb import SERIAL, StandInAdb


@pytest.fixture
def adb(tmp_path: Path) -> StandInAdb:
    return StandInAdb(tmp_path)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ({}, "there is no such device. None is attached: plug it in"),
        ({"A": "device", "B": "offline"}, r"no such device. Attached: A \(device\), B \(offline\)\."),
        ({SERIAL: "unauthorized"}, "has not authorized this computer: unlock it"),
        ({SERIAL: "offline"}, "is offline: plug it in again"),
        ({SERIAL: "no permissions (user in plugdev group); see [http://x]"}, "udev rules are missing"),
        ({SERIAL: "recovery"}, "it is in the state recovery, not running Android"),
    ],
)
def test_device_that_cannot_be_used_is_refused(devices: dict[str, str], message: str, adb: StandInAdb) -> None:
    adb.devices = devices
    with pytest.raises(BadInput, match=message) as caught:
        AndroidDevice(adb.install(), SERIAL)
    assert "\n" not in str(caught.value)


def test_missing_adb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for path in ("absent", "text"):
        with pytest.raises(BadInput, match=r"--adb-path=.* cannot be started: .* Install Android's platform tools"):
            AndroidDevice(str(tmp_path / path), "x")


def test_arguments_reach_the_device_as_they_are(adb: StandInAdb) -> None:
    adb.devices = {"a'b;c": "device"}
    device = AndroidDevice(adb.install(), "a'b;c")
    name = "/data/local/tmp/$(reboot) 'x' \"y\";é"
    assert device.run("mkdir", name) == (0, "")
    assert [path.name for path in adb.left_files] == [name.rpartition("/")[2]]
    assert adb.asked[-1][:3] == ["-s", "a'b;c", "shell"]
    assert device.read_property("ro.product.model") == "Pixel 6 Pro"


def test_program_that_does_not_end_is_given_up(adb: StandInAdb) -> None:
    adb.devices = {"x": "device"}
    adb.answers = {"--forever": (0, "hang")}
    device = AndroidDevice(adb.install(), "x")
    device.run("mkdir", "/data/local/tmp/here")
    with pytest.raises(DeviceTimeout, match=r"x did not answer in 0\.3 s"):
        device.run("/data/local/tmp/here/program", "--forever", timeout=0.3)


def test_push_to_a_full_device_fails(adb: StandInAdb, tmp_path: Path) -> None:
    adb.devices, adb.full = {"x": "device"}, True
    with pytest.raises(RunFailed, match=r"could not be copied to x: .*No space left on device\."):
        AndroidDevice(adb.install(), "x").push(tmp_path / "phone.json", "/data/local/tmp/y")
