"""Descriptors: clients never take those that the rest of the daemon needs."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from actors._descriptors import BESIDE, raise_limit, shares
from tests.e2e.wire import daemon

INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        (INFINITY, (1024, 64)),
        (1_000_000, (1024, 64)),
        (1024 + BESIDE + 64, (1024, 64)),
        (1024 + BESIDE + 63, (1023, 64)),  # one less, one client less
        (1024, (512, 64)),
        (256, (128, 32)),
        (60, (30, 7)),
    ],
)
def test_half_of_them_at_least_are_not_for_clients(
    monkeypatch: pytest.MonkeyPatch, soft: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    sockets, told = shares(1024, 64)
    assert (sockets, told) == expected
    assert soft == INFINITY or sockets + told <= soft * 5 // 8 or soft - sockets - told >= BESIDE
    assert shares(2, 64)[0] == 2


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, INFINITY, 1600 + BESIDE),
        (1024, 20_000, 1600 + BESIDE),
        (1024, 1500, 1500),
        (1024, 1024, None),
        (1600 + BESIDE, 20_000, None),
        (INFINITY, INFINITY, None),
    ],
)
def test_as_many_as_are_needed_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    raise_limit(1600)
    assert asked == ([] if wanted is None else [(wanted, hard)])


def test_a_daemon_takes_what_it_may_have(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = 256
    if hard != INFINITY and hard < 2048:
        pytest.skip("no more may be had here")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))  # what a program that is started now begins with
        with daemon(tmp_path / "data") as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0] == 1024 + 64 + BESIDE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
