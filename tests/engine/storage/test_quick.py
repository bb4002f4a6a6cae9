"""A short look at a database: what it says of good, damaged, foreign and newer ones, and that it can be given up."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from engine.storage.faults import UnusableStore
from engine.storage.quick import look, sqlite_version
from engine.storage.tables import MIGRATIONS
from tests.engine.storage.conftest import Store


def never() -> bool:
    return False


def test_a_good_one_beside_its_writer(store: Store) -> None:
    store.session()
    found = look(store.path, never)
    assert (found.schema, found.newest, found.problems) == (len(MIGRATIONS), len(MIGRATIONS), ())


def test_it_can_be_given_up(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("CREATE TABLE filler (text)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 100,)] * 50_000)
        connection.commit()
    asked = 0

    def at_once() -> bool:
        nonlocal asked
        asked += 1
        return True

    assert look(store.path, at_once).problems is None
    assert asked == 1
    assert look(store.path, never).problems == ()


def test_a_damaged_page_is_found(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("CREATE TABLE filler (text)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 1000,)] * 500)
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with open(store.path, "r+b") as file:
        file.seek(-40 * 4096, 2)
        file.write(b"\xff" * 4096)
    problems = look(store.path, never).problems
    assert problems
    assert "malformed" in problems[0] or "page" in problems[0].lower()


def test_what_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableStore, match="no store"):
        look(tmp_path / "greenroom.db", never)
    (tmp_path / "greenroom.db").write_bytes(b"not a database, but long enough to have a head" * 100)
    with pytest.raises(UnusableStore, match="not a database"):
        look(tmp_path / "greenroom.db", never)


def test_one_of_a_newer_program_is_refused(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(UnusableStore, match="newer greenroom"):
        look(store.path, never)


def test_an_older_one_is_told(store: Store) -> None:
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    assert look(store.path, never).schema == 1


def test_the_version_is_the_librarys() -> None:
    assert ".".join(map(str, sqlite_version())) == sqlite3.sqlite_version
