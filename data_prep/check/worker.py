"""The process that inspects pictures for a check: requests on standard input, facts on standard output.

It is a plain process of its own, not a fork: a fork of a training process would take its threads' locks along, and
a spawned one would run its main module again. A decoder that crashes kills this process only.

    python -m data_prep.check.worker
"""

from __future__ import annotations

import pickle
import signal
import sys

from data_prep.check.inspect import inspect_picture


def main() -> int:
    """Answer requests (folder, [names]) with lists of Facts until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            folder, names = pickle.load(incoming)
        except EOFError:
            return 0
        pickle.dump([inspect_picture(folder, name) for name in names], outgoing, pickle.HIGHEST_PROTOCOL)
        outgoing.flush()


if __name__ == "__main__":
    sys.exit(main())
