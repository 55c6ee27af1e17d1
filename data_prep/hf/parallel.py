"""Local parquet files converted by several processes, in order: each reads rows, writes pictures and makes records.

    with in_processes(functools.partial(convert, layout=layout, store=store, args=args), groups, wanted) as items:
        for item in items: ...

A group of rows goes to one process; the groups go round, and a process waits when its pipe is full: memory does not
grow with the data. Where pages are large, fewer processes fit in 500 MB.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from data_prep.check.scan import num_cores
from data_prep.converters.rows import Row
from data_prep.errors import DataError
from data_prep.hf.footer import Group
from data_prep.hf.parquet import rows_by_group
from data_prep.records.output import Converted, Drop

MAX_PROCESSES = 3
"""More would wait for the disk."""
PIPE_BYTES = 1 << 20
CHUNK = 100

Item = Converted | Drop
Convert = Callable[[Iterable[tuple[int, Row]]], Iterator[Item]]


class Failure(NamedTuple):
    """A DataError of another process."""

    where: str
    problem: str


def most_processes(page: int) -> int:
    """Return how many processes stay below 500 MB together with this one where a page has `page` bytes, at least 1.

    Measured with pages of 1 to 300 MB: each takes 100 MB and four pages, this one 100 MB and three.
    """
    return max(1, min(num_cores(), MAX_PROCESSES, int((400e6 - 3 * page) // (100e6 + 4 * page))))


@contextmanager
def in_processes(
    convert: Convert, groups: Sequence[Group], wanted: Container[int], num_processes: int, most_unpacked: int
) -> Iterator[Iterator[Item]]:
    """Start the processes; the value yields what `convert` makes of the wanted rows, in the order of the groups.

    Raises DataError as `convert` does, and when a process is killed. Leaving the block ends the processes.
    """
    # Not forked: this process has pyarrow's threads, and soon the one that hashes the sources.
    context = multiprocessing.get_context("spawn")
    readers, processes = [], []
    try:
        for number in range(num_processes):
            reader, writer = context.Pipe(duplex=False)
            _widen(writer)
            mine = groups[number::num_processes]
            process = context.Process(target=_serve, args=(writer, convert, mine, wanted, most_unpacked), daemon=True)
            process.start()
            writer.close()
            readers.append(reader)
            processes.append(process)
        yield _in_order(readers, groups)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _widen(pipe: Connection) -> None:
    """Let more than the usual 64 kB wait in a pipe, where the system can: the processes are less in step."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _in_order(readers: Sequence[Connection], groups: Sequence[Group]) -> Iterator[Item]:
    for number, group in enumerate(groups):
        while items := _next_items(readers[number % len(readers)], group):
            yield from items


def _next_items(reader: Connection, group: Group) -> list[Item]:
    """The next items of a group; none at its end."""
    try:
        answer: list[Item] | Failure = reader.recv()
    except EOFError:
        problem = "a process that reads it was killed, mostly because memory ended; the same command goes on from here"
        raise DataError(group.file, problem) from None
    if isinstance(answer, Failure):
        raise DataError(*answer)
    return answer


def _serve(
    pipe: Connection, convert: Convert, groups: Sequence[Group], wanted: Container[int], most_unpacked: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all: the first process ends this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is half-written goes
    try:
        for group, rows in zip(groups, rows_by_group(groups, most_unpacked), strict=True):
            numbered = enumerate(rows, start=group.first)
            items = convert((number, row) for number, row in numbered if number in wanted)
            while some := list(itertools.islice(items, CHUNK)):
                pipe.send(some)
            pipe.send([])
    except DataError as error:
        pipe.send(Failure(error.where, error.problem))
    except BrokenPipeError:
        sys.exit(1)  # the first process is gone
    except Exception as error:
        traceback.print_exc()  # a mistake of ours: who reports it needs the place
        pipe.send(
            Failure(str(groups[0].file), f"a process that reads it failed with {error!r}, our mistake; report it")
        )


def groups_with(groups: Sequence[Group], wanted: Container[int]) -> list[Group]:
    """Return the groups that hold a wanted row."""
    return [one for one in groups if any(number in wanted for number in range(one.first, one.first + one.num_rows))]
