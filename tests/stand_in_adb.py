"""A program that answers like `adb` with a phone attached, records what it is asked and keeps what it is given."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

SERIAL = "R5CT90';reboot#"  # a network device's may hold anything but spaces
TIMES = """INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Loaded model /data/local/tmp/model.tflite
INFO: Initialized TensorFlow Lite runtime.
{extra}INFO: The input model file size (MB): 0.028
INFO: Initialized session in 0.896ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=9 first=871 curr=516 min=516 max=871 avg=581.4 std=114 p5=516 median=519 p95=871

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=1000 first=521 curr=497 min=490 max=6861 avg={mean} std=60 p5=496 median=519 p95=685

INFO: Inference timings in us: Init: 896, First inference: 871, Warmup (avg): 581.4, Inference (avg): {mean}
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual \
memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=5.54961 overall=7.25
"""
APPLIED = "INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.\n"
NOT_EXECUTED = (
    "INFO: NNAPI accelerators available: [nnapi-reference]\nINFO: Created TensorFlow Lite delegate for NNAPI.\n"
    "INFO: Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.\n"
)
_SCRIPT = """#!{python} -IS
import json, shutil, shlex, sys, time
from pathlib import Path

root = Path({root!r})
words = sys.argv[1:]
with (root / "asked.jsonl").open("a") as file:
    file.write(json.dumps(words) + "\\n")
phone = json.loads((root / "phone.json").read_text())
if words == ["devices"]:
    print("* daemon not running; starting now at tcp:5037\\n* daemon started successfully")
    print("List of devices attached")
    for serial, state in phone["devices"].items():
        print(serial + "\\t" + state)
    print()
    sys.exit(0)
flag, serial, action, *rest = words
assert flag == "-s"
if (root / "gone").exists():
    sys.exit(f"adb: device '{{serial}}' not found")
place = lambda name: root / "files" / name.lstrip("/")
if action == "push":
    if phone["full"]:
        sys.exit("adb: error: failed to copy: remote couldn't create file: No space left on device")
    shutil.copyfile(rest[0], place(rest[1]))
    print("1 file pushed, 0 skipped.")
    sys.exit(0)
[line] = rest
command, _, end = line.partition(" 2>&1; ")
assert end == "code=$?; echo; echo lightexp-exit=$code"
program, *arguments = shlex.split(command)
code, output = 0, ""
if program == "getprop":
    output = phone["properties"].get(arguments[0], "")
elif program == "mkdir":
    place(arguments[0]).mkdir(parents=True)
elif program == "rm":
    shutil.rmtree(place(arguments[1]))
elif program not in ("chmod", "pkill"):
    shutil.copytree(place(program).parent, root / "seen", dirs_exist_ok=True)
    for flag, answer in phone["answers"].items():
        if flag in arguments:
            code, output = answer
    if output == "hang":
        time.sleep(30)
    if output == "unplugged":
        (root / "gone").touch()
        sys.exit("error: device went away")
print(output + "\\r\\n\\r\\nlightexp-exit=" + str(code) + "\\r")
"""


@dataclass
class StandInAdb:
    """The program and the phone that it shows.

    Attributes:
        root: Folder of the program `adb`, of what it was asked, and of the phone's files.
        devices: State of each attached device by its serial number.
        properties: Android's properties.
        answers: Exit code and output of `benchmark_model` by one of its arguments; of several the last.
        full: Whether the phone has no space.
    """

    root: Path
    devices: dict[str, str] = field(default_factory=lambda: {SERIAL: "device", "emulator-5554": "unauthorized"})
    properties: dict[str, str] = field(
        default_factory=lambda: {
            "ro.product.model": "Pixel 6 Pro",
            "ro.build.version.release": "14",
            "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
        }
    )
    answers: dict[str, tuple[int, str]] = field(
        default_factory=lambda: {
            "--num_threads=1": (0, TIMES.format(mean="637.2", extra="")),
            "--num_threads=2": (0, TIMES.format(mean="1.2e+06", extra="")),
            "--num_threads=4": (0, TIMES.format(mean="nan", extra="")),
            "--use_gpu=true": (0, TIMES.format(mean="99", extra=APPLIED)),
            "--use_nnapi=true": (0, TIMES.format(mean="700", extra=NOT_EXECUTED)),
        }
    )
    full: bool = False

    def install(self) -> str:
        """Write the program, which shows the phone as it is now, and return its path."""
        (self.root / "files" / "data/local/tmp").mkdir(parents=True, exist_ok=True)
        phone = {name: getattr(self, name) for name in ("devices", "properties", "answers", "full")}
        (self.root / "phone.json").write_text(json.dumps(phone))
        path = self.root / "adb"
        path.write_text(_SCRIPT.format(python=sys.executable, root=str(self.root)))
        path.chmod(0o755)
        return str(path)

    @property
    def asked(self) -> list[list[str]]:
        """The arguments of each call, the first one first."""
        return [json.loads(line) for line in (self.root / "asked.jsonl").read_text().splitlines()]

    @property
    def left_files(self) -> list[Path]:
        """What is still on the phone."""
        return list((self.root / "files/data/local/tmp").iterdir())
