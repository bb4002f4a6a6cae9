"""The figures of /metrics: their names, and their text as Prometheus reads it.

METRICS is the contract: dashboards and alerts are written against these names, so that a change of one is a break.
A label's values are names of the configuration or codes of this program, never ids or what a client sent: the number
of series is bounded by the configuration and does not grow with use.

Nothing is counted here: whoever has a figure gives it at each scrape. Taking the figures is done on the loop, in
well under a millisecond; turning them into text in a worker thread, where prometheus-client is imported by the first
scrape. That library's registry of the whole process is not used: two daemons in a process do not share figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import trio

from actors._tally import Histogram, Tally

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

Number = int | float
# One figure: without labels, or by a tuple of the values of its labels in the order of `Metric.labels`. One that takes
# time is a function, called in the thread that makes the text.
Figure = Number | Histogram | Mapping[Any, Number] | Mapping[Any, Histogram] | Callable[[], Number]
Figures = Mapping[str, Figure]  # by the name in METRICS

_OPENMETRICS: Final = "application/openmetrics-text"


@attrs.frozen(slots=True)
class Metric:
    """`name` as it is scraped; a histogram's series have `_bucket`, `_sum` and `_count` behind it."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"greenroom_{name}", "gauge", help, labels)


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"greenroom_{name}_total", "counter", help, labels)


def _histogram(name: str, help: str, *labels: str) -> Metric:
    return Metric(f"greenroom_{name}_seconds", "histogram", help, labels)


METRICS: Final = (
    # --- the daemon
    _gauge("build_info", "Always 1; the version of greenroom is its label.", "version"),
    _gauge("ready", "1 while /readyz says ready."),
    _gauge("draining", "1 from the first signal to end on."),
    _counter("defects", "Requests and sockets that failed by a defect of the daemon; each is in the log."),
    _counter("log_lines_dropped", "Lines of the log that were lost because nobody read standard error."),
    _histogram("loop_tick_duration", "Turns of the event loop: how long whatever is due may wait."),
    # --- memory
    _gauge("memory_owned_bytes", "Memory by the part that owns it; the rest of the process has no owner.", "owner"),
    _gauge("memory_state", "1 at the present state: below the soft limit, above it, above the hard one.", "state"),
    _counter("memory_releases", "Times that free pages were given back to the system."),
    _counter("memory_shed_bytes", "Events of ended runs that were dropped because memory was above the soft limit."),
    # --- sessions and runs
    _gauge("sessions", "Sessions in memory; those in the store alone are not counted."),
    _gauge("runs", "Runs in memory: active, waiting in a queue, kept after their end.", "state"),
    _counter("runs_started", "Runs that began to work."),
    _counter("runs_ended", "Runs that ended, by their terminal status.", "status"),
    _counter("runs_evicted", "Ended runs whose events left memory."),
    _counter("deltas", "Pieces of text and reasoning that came from models."),
    # --- models
    _gauge("model_calls_open", "Calls of models under way."),
    _counter("model_calls", "Calls of models, each attempt counted.", "model"),
    _counter("model_call_failures", "Calls of models that failed, by code.", "model", "code"),
    _counter("model_call_retries", "Calls of models that were repeated, by the code of what failed.", "model", "code"),
    _counter("compactions", "Summaries of conversations, by whether one was stored.", "model", "outcome"),
    _counter("model_tokens", "Tokens as the services counted them.", "model", "kind"),
    _counter("model_cost", "Cost of calls by the configured prices, in the configured currency.", "model"),
    _histogram("model_call_duration", "Calls of models, from the request to the end of the answer.", "model"),
    # --- tools
    _counter("tool_calls", "Calls of tools, by how they ended.", "toolset", "outcome"),
    _histogram("tool_call_duration", "Calls of tools, the wait for a place not counted.", "toolset"),
    # --- child processes
    _gauge("programs", "Tool servers and shell commands that are there now."),
    _counter("programs_started", "Tool servers and shell commands that were started."),
    _gauge("child_processes", "Processes below the daemon: the guard with its keepers, programs and what they made."),
    _gauge("child_processes_resident_bytes", "Their resident memory; pages that they share count in each."),
    # --- the port
    _gauge("sockets", "Sockets at the port, HTTP and WebSocket together."),
    _gauge("connections", "WebSocket connections."),
    _gauge("watches", "Watches of all connections."),
    _counter("connections_accepted", "WebSocket connections since the start."),
    _counter("connections_refused", "Sockets that were refused because the port had as many as it may."),
    _counter("clients_aborted", "Connections that were cut: the peer took nothing, or said nothing.", "reason"),
    _counter("http_requests", "HTTP requests, upgrades to WebSocket among them."),
    _counter("requests", "Requests over WebSocket, by method and by the code of the answer (ok).", "method", "code"),
    _counter("notifications", "Notifications over WebSocket."),
    _counter("malformed_messages", "Messages over WebSocket that were no request."),
    _counter("frames_sent", "Frames over WebSocket."),
    _counter("gaps_sent", "Gaps that watchers were told of: they came back too late, or fell behind."),
    _counter("sent_bytes", "Bytes that left through the port."),
    _counter("received_bytes", "Bytes that came in through the port."),
    # --- the store
    _counter("store_commits", "Commits of the database."),
    _counter("store_writes", "Writes that shared these commits."),
    _counter("store_reads", "Reads of the database."),
    _gauge("store_waiting_operations", "Reads and writes that wait for the disk."),
    _gauge("store_unsaved_bytes", "What runs have written and no commit has taken yet."),
    _gauge("store_log_bytes", "The database's log on the disk, as of the last commit."),
    _histogram("store_commit_duration", "Commits, from the begin of the transaction on."),
    _gauge("row_cache_entries", "Decoded messages that are kept for the next step; their bytes are the owner rows."),
    _counter("row_cache_hits", "Messages of windows that were decoded before."),
    _counter("row_cache_misses", "Messages of windows that were read from the store, or looked at."),
    _counter("row_cache_evictions", "Decoded messages that had to go for others."),
    _gauge("replay_log_bytes", "Events of all runs that are kept for watchers."),
)  # fmt: skip

# What prometheus-client tells of any process and of Python; listed for the documentation's sake.
PROCESS_METRICS: Final = (
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "python_info",
    "python_gc_objects_collected_total",
    "python_gc_objects_uncollectable_total",
    "python_gc_collections_total",
)


def tallied(tally: Tally) -> dict[str, Figure]:
    """A tally's figures by name, copied: the tally goes on."""
    return {
        "greenroom_runs_started_total": tally.runs_started,
        "greenroom_runs_ended_total": {(status,): count for status, count in tally.runs_ended.items()},
        "greenroom_runs_evicted_total": tally.runs_evicted,
        "greenroom_deltas_total": tally.deltas,
        "greenroom_model_calls_total": {(model,): count for model, count in tally.model_calls.items()},
        "greenroom_model_call_failures_total": dict(tally.model_failures),
        "greenroom_model_call_retries_total": dict(tally.model_retries),
        "greenroom_compactions_total": dict(tally.compactions),
        "greenroom_model_tokens_total": dict(tally.model_tokens),
        "greenroom_model_cost_total": {(model,): cost for model, cost in tally.model_cost.items()},
        "greenroom_model_call_duration_seconds": {(model,): each.copy() for model, each in tally.model_seconds.items()},
        "greenroom_tool_calls_total": dict(tally.tool_calls),
        "greenroom_tool_call_duration_seconds": {(name,): each.copy() for name, each in tally.tool_seconds.items()},
    }


class Exposition:
    """The text of figures, one scrape after the other."""

    def __init__(self) -> None:
        self._registry: CollectorRegistry | None = None
        self._figures: Figures = {}
        self._thread = trio.CapacityLimiter(1)  # the registry holds the figures of one scrape

    async def text(self, figures: Callable[[], Figures], accept: str) -> tuple[bytes, str]:
        """The text and its content type, of what `figures` gives when it is this scrape's turn. OpenMetrics if the
        Accept header names it, else the Prometheus text format."""
        async with self._thread:
            self._figures = figures()
            try:
                # The library reads version and escaping from the header too: a client has no say in those.
                return await trio.to_thread.run_sync(self._encode, _OPENMETRICS if _OPENMETRICS in accept else "")
            finally:
                self._figures = {}

    def _encode(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            self._registry = _registry(self)
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def collect(self) -> Iterator[Family]:
        """For the library: each metric that there is a figure of. A part that is being restarted has none."""
        for metric in METRICS:
            figure = self._figures.get(metric.name)
            if figure is not None:
                yield _family(metric, figure)


def _registry(collector: Any) -> CollectorRegistry:
    from prometheus_client.gc_collector import GCCollector
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _family(metric: Metric, figure: Figure) -> Family:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    if callable(figure):
        figure = figure()
    samples: Iterable[tuple[tuple[str, ...], Any]] = figure.items() if isinstance(figure, Mapping) else [((), figure)]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, value in samples:
            histogram.add_metric(labels, _buckets(value), value.sum)
        return histogram
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulated, as the format wants them."""
    below = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound is None else repr(float(bound)), below))
    return buckets
