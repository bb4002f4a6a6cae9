"""What the port tells of itself at /metrics."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse

from actors.metrics import METRICS
from tests.actors.gateway.fakes import FakeRun, Served, serve
from tests.actors.gateway.test_http import BEARER, browser

KNOWN = {metric.name for metric in METRICS}


async def scrape(served: Served) -> dict[tuple[Any, ...], float]:
    """The greenroom_ samples by name and values of labels, which the text has in alphabetical order."""
    page = await browser(served)
    async with page.stream:
        response = await page.get("/metrics", BEARER)
        assert response.status == 200
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        families = list(parse(response.body.decode()))
    for family in families:
        assert not family.name.startswith("greenroom") or {family.name, f"{family.name}_total"} & KNOWN
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if family.name.startswith("greenroom_")
    }


async def test_connections_and_requests_are_counted_by_method_and_code() -> None:
    async with serve() as served, served.connect() as wire:
        served.registry.add(FakeRun()).start()
        await wire.request("run.watch", run_id="run_1")
        await wire.error("run.get", run_id="nothing")
        await wire.error("run.get", run_id=3)
        await wire.error("run.nothing")
        await wire.error("x" * 64)
        served.registry.failure = ZeroDivisionError()
        await wire.error("run.get", run_id="run_1")
        await wire.socket.send_message('{"jsonrpc":"2.0","method":"ping"}')
        await wire.socket.send_message("{")
        await wire.receive()
        figures = await scrape(served)
        assert figures["greenroom_ready",] == 1 and figures["greenroom_draining",] == 0
        assert figures["greenroom_sockets",] == 2
        assert figures["greenroom_connections",] == figures["greenroom_connections_accepted_total",] == 1
        assert figures["greenroom_watches",] == 1
        assert figures["greenroom_malformed_messages_total",] == figures["greenroom_notifications_total",] == 1
        assert figures["greenroom_defects_total",] == 1
        requests = {key[:0:-1]: value for key, value in figures.items() if key[0] == "greenroom_requests_total"}
        assert requests == {
            ("initialize", "ok"): 1,
            ("run.watch", "ok"): 1,
            ("run.get", "unknown_run"): 1,
            ("run.get", "invalid_params"): 1,
            ("run.get", "internal"): 1,
            ("unknown", "unknown_method"): 2,
        }
        assert figures["greenroom_sent_bytes_total",] > 0 and figures["greenroom_received_bytes_total",] > 0
        assert figures["greenroom_loop_tick_duration_seconds_count",] > 0
        again = await scrape(served)
        assert again["greenroom_http_requests_total",] == figures["greenroom_http_requests_total",] + 1
        served.ref.drain()
        assert (await scrape(served))["greenroom_draining",] == 1


async def test_openmetrics_by_the_accept_header() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get("/metrics", BEARER, "Accept: application/openmetrics-text;version=1.0.0")
            assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            assert response.body.endswith(b"# EOF\n")
            # The connection goes on, and a head has no body.
            assert (await page.get("/metrics", BEARER, method="HEAD")).status == 200
            assert (await page.get("/healthz")).body == b"ok\n"
