"""A script's process before and after it uses lightexp: everything that a library must leave alone."""

SNAPSHOT = """
import asyncio, contextlib, gc, locale, logging, os, signal, socket, sys, threading, warnings

def take_snapshot():
    loggers = {name: (logger.level, len(logger.handlers), logger.disabled, logger.propagate)
               for name, logger in logging.root.manager.loggerDict.items() if isinstance(logger, logging.Logger)}
    loggers.pop("lightexp", None), loggers.pop("concurrent.futures", None), loggers.pop("asyncio", None)
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "path": list(sys.path),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook),
        "streams": (sys.stdin, sys.stdout, sys.stderr, [os.fstat(number).st_ino for number in (0, 1, 2)]),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "garbage": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "warnings": list(warnings.filters),
        "loggers": loggers,
        "root": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "library": (logging.getLogger("lightexp").level, logging.getLogger("lightexp").handlers),
        "timeout": socket.getdefaulttimeout(),
        "locale": locale.setlocale(locale.LC_ALL),
        "recursion": sys.getrecursionlimit(),
    }

def list_foreign_modules(known):
    names = {name.partition(".")[0] for name in set(sys.modules) - known}
    return sorted(names - sys.stdlib_module_names - {"lightexp"})
"""
