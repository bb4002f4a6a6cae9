"""The runs that wait in one session, first in first out, as their watchers see them."""

from __future__ import annotations

import attrs

from actors._feed import RunFeed


class Queue:
    """Each waiting run's record has its position, 1 for the next to begin."""

    def __init__(self) -> None:
        self._feeds: dict[str, RunFeed] = {}  # by run id, in order

    def __len__(self) -> int:
        return len(self._feeds)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._feeds

    @property
    def head(self) -> RunFeed | None:
        """The run that begins next."""
        return next(iter(self._feeds.values()), None)

    def get(self, run_id: str) -> RunFeed | None:
        return self._feeds.get(run_id)

    def add(self, feed: RunFeed) -> None:
        """At the end."""
        self._feeds[feed.run.id] = feed
        self._number()

    def take(self, run_id: str) -> RunFeed:
        """Remove a run that waits: it begins, or was cancelled."""
        feed = self._feeds.pop(run_id)
        feed.run = attrs.evolve(feed.run, position=None)
        self._number()
        return feed

    def _number(self) -> None:
        for position, feed in enumerate(self._feeds.values(), 1):
            if feed.run.position != position:
                feed.run = attrs.evolve(feed.run, position=position)
