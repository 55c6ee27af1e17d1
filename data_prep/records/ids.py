"""Ids of records made unique, in memory that does not grow with their number.

The ids seen stand in a temporary database of SQLite's (2 MB of memory, the rest in the system's temporary folder,
removed by the system when the process ends): a dict takes 92 bytes an id.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing

from data_prep.errors import DataError
from data_prep.records.record import Record


def unique_ids(records: Iterable[Record]) -> Iterator[Record]:
    """Yield the records with ids made unique: the second "a" becomes "a-2"; ids already unique stay,
    and so does a record without one.

    Raises DataError when the temporary folder is full.
    """
    try:
        with closing(sqlite3.connect("", isolation_level=None)) as database:
            database.execute("pragma journal_mode = off")
            database.execute("create table seen (id blob primary key, count integer) without rowid")
            database.execute("begin")
            for record in records:
                if "id" not in record:
                    yield record
                    continue
                base = name = str(record["id"])
                while not _is_new(database, name):
                    name = f"{base}-{_counted(database, base)}"
                yield {**record, "id": name} if name != record["id"] else record
    except sqlite3.Error as error:
        problem = f"the list of ids cannot be kept there ({error}); free some space, or name a folder in SQLITE_TMPDIR"
        raise DataError("the temporary folder", problem) from None


def _is_new(database: sqlite3.Connection, name: str) -> bool:
    return database.execute("insert or ignore into seen values (?, 1)", [_key(name)]).rowcount == 1


def _counted(database: sqlite3.Connection, name: str) -> int:
    """Count one more of an id; return how many there were with it."""
    database.execute("update seen set count = count + 1 where id = ?", [_key(name)])
    return int(database.execute("select count from seen where id = ?", [_key(name)]).fetchone()[0])


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # JSON may hold half a character
