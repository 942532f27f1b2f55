#!/usr/bin/env python3
"""Runs the tests of this folder: Python clients over the real binary.

Usage: run.py PATH-TO-taffrail [WORD]...      only the tests whose names contain one of the words

Every public function of a test module is a test; its name is the fact it holds. One broker serves
them all, each test makes topics of its own; what stops or starts brokers does so by itself.
"""

import importlib
import inspect
import pathlib
import signal
import sys
import time
import traceback

import broker as brokers

TEST_SECONDS = 60


def tests():
    """Every test as `(module, name, function)`."""
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name, function in list(vars(module).items()):
            ours = inspect.isfunction(function) and function.__module__ == module.__name__
            if ours and not name.startswith("_"):
                yield path.stem, name, function


def passes(function, broker, binary):
    """Runs one test within its time."""

    def late(*_):
        raise TimeoutError(f"not done after {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(TEST_SECONDS)
    known = {"broker": broker, "binary": binary}
    try:
        function(**{name: known[name] for name in inspect.signature(function).parameters})
        return True
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return False
    finally:
        signal.alarm(0)


def main():
    if len(sys.argv) < 2 or not pathlib.Path(sys.argv[1]).is_file():
        raise SystemExit(__doc__)
    binary, words = str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2:]
    passed = failed = 0
    with brokers.running(binary) as broker:
        for module, name, function in tests():
            if words and not any(word in name for word in words):
                continue
            start = time.monotonic()
            ok = passes(function, broker, binary)
            word = "ok    " if ok else "FAILED"
            print(f"{word} {module}.{name} ({time.monotonic() - start:.2f} s)", flush=True)
            passed, failed = passed + ok, failed + (not ok)
        if failed:
            print(f"\nthe broker said:\n{broker.said()[-4000:]}")
    print(f"\n{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
