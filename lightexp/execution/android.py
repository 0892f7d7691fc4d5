"""Android devices through `adb`, the debug bridge: which are attached, copy files to one, run programs on it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lightexp.core.errors import BadInput, RunFailed, format_reason

_ANSWER_S = 60.0  # for what takes a moment; the first call starts adb's server
_COPY_S = 600.0
_EXIT_CODE = re.compile(r"^lightexp-exit=(\d+)\s*$", re.MULTILINE)
_MEANINGS = {
    "unauthorized": "has not authorized this computer: unlock it, and confirm that USB debugging is allowed",
    "authorizing": "is being authorized: confirm on its screen that USB debugging is allowed",
    "offline": "is offline: plug it in again",
    "no permissions": "may not be used by you: adb's udev rules are missing, or you are not in the group plugdev",
}
"""What to do about a device, by how its state begins."""


class DeviceGone(RunFailed):
    """A device does not answer any more."""


class DeviceTimeout(RunFailed):
    """A program on a device did not end in time."""


class AndroidDevice:
    """An attached Android device that lets this computer run programs on it."""

    def __init__(self, adb: str, serial: str) -> None:
        """Check that the device can be used.

        Args:
            adb: Path or name of the program `adb`.
            serial: The device's serial number, as `adb devices` lists it.

        Raises:
            BadInput: If there is no `adb` or no such device, or the device does not allow it; says which are attached.
            RunFailed: If `adb` does not answer.
        """
        self._adb, self.serial = adb, serial
        states = self._list_devices()
        attached = ", ".join(f"{name} ({state.partition(';')[0]})" for name, state in states.items())
        if serial not in states:
            advice = f"Attached: {attached}." if attached else "None is attached: plug it in, and allow USB debugging."
            raise BadInput(f"--adb={serial}: there is no such device. {advice}")
        state = states[serial]
        if state != "device":
            meaning = next((text for start, text in _MEANINGS.items() if state.startswith(start)), None)
            raise BadInput(f"--adb={serial}: it {meaning or f'is in the state {state}, not running Android'}.")

    def push(self, file: Path, place: str) -> None:
        """Copy a file to the device.

        Args:
            file: The file.
            place: Its path on the device.

        Raises:
            RunFailed: If it cannot be copied.
        """
        code, output = self._call("-s", self.serial, "push", str(file.absolute()), place, timeout=_COPY_S)
        if code:
            raise RunFailed(f"{file} could not be copied to {self.serial}: {_find_last_line(output)}.")

    def run(self, *command: str, timeout: float = _ANSWER_S) -> tuple[int, str]:
        """Run a program on the device.

        Args:
            command: The program and its arguments, each of which the device's shell takes as one word.
            timeout: Limit in seconds.

        Returns:
            Its exit code, and what it has written to standard output and error.

        Raises:
            DeviceGone: If the device does not answer any more.
            DeviceTimeout: If the program does not end in time.
        """
        # `adb shell` joins its arguments into a line for the device's shell, and old ones do not return exit codes.
        line = f"{shlex.join(command)} 2>&1; code=$?; echo; echo lightexp-exit=$code"
        _, output = self._call("-s", self.serial, "shell", line, timeout=timeout)
        codes = _EXIT_CODE.findall(output)
        if not codes:
            raise DeviceGone(f"{self.serial} does not answer any more: {_find_last_line(output)}. Plug it in again.")
        return int(codes[-1]), _EXIT_CODE.sub("", output).strip()

    def read_property(self, name: str) -> str:
        """Return one of Android's properties, such as `ro.product.model`; empty where the device has none."""
        lines = self.run("getprop", name)[1].splitlines()
        value = lines[-1].strip() if lines else ""  # the linker may print warnings before
        return "".join(char for char in value if char.isprintable())

    def _list_devices(self) -> dict[str, str]:
        """Return the state of each attached device by its serial number."""
        code, output = self._call("devices", timeout=_ANSWER_S)
        if code:
            raise RunFailed(f"{self._adb} cannot list devices: {_find_last_line(output)}.")
        listed = output.partition("List of devices attached")[2].splitlines()
        pairs = [line.split(maxsplit=1) for line in listed if line.strip() and not line.startswith("*")]
        return {name: state[0].strip() if state else "" for name, *state in pairs}

    def _call(self, *arguments: str, timeout: float) -> tuple[int, str]:
        command: Sequence[str] = [self._adb, *arguments]
        try:
            finished = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceTimeout(f"{self.serial} did not answer in {timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise BadInput(
                f"--adb-path={self._adb} cannot be started: {format_reason(error)}. Install Android's platform tools, "
                "or give the path of adb."
            ) from None
        return finished.returncode, finished.stdout.decode(errors="replace").replace("\r", "")


def _find_last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1].removeprefix("adb: ").removeprefix("error: ").rstrip(".") if lines else "it says nothing"
