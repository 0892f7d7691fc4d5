"""A worker for tests: answers, reports, prints, sleeps or dies, as each request says."""

from __future__ import annotations

import os
import signal
import time
from importlib import import_module

from lightexp.execution.process import ParentConnection


def main() -> None:
    parent = ParentConnection()
    while (request := parent.receive()) is not None:
        if "ignores_sigterm" in request.content:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("printed by a library")
        for number in range(request.content.get("events", 0)):
            parent.send_event(number=number)
        if "import" in request.content:
            import_module(request.content["import"])
        if "exit" in request.content:
            os._exit(request.content["exit"])
        if "until_stopped" in request.content:
            while not parent.wait_for_stop(0.05):
                pass
        time.sleep(request.content.get("sleep", 0))
        parent.reply(request.content, request.array)
        time.sleep(request.content.get("sleep_after", 0))


if __name__ == "__main__":
    main()
