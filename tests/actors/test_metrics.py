"""The text of the figures, read back by the library's own parsers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from actors._tally import Histogram, Tally
from actors.metrics import METRICS, PROCESS_METRICS, Exposition, Figures, tallied


def everything() -> Figures:
    """A figure for each metric, with one sample each."""
    histogram = Histogram((0.1, 1.0))
    histogram.observe(0.5)
    figures: dict[str, object] = {}
    for metric in METRICS:
        value = histogram if metric.kind == "histogram" else 7
        figures[metric.name] = {tuple("x" for _ in metric.labels): value} if metric.labels else value
    return figures  # type: ignore[return-value]


async def test_every_metric_has_its_type_and_help() -> None:
    text, kind = await Exposition().text(everything, "")
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse(text.decode())}
    for metric in METRICS:
        family = families.pop(metric.name.removesuffix("_total"))
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels)
            assert sample.name == metric.name or metric.kind == "histogram"
    told = {sample.name for family in families.values() for sample in family.samples}
    assert told == set(PROCESS_METRICS)


async def test_a_histogram_is_cumulated() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.5, 0.5, 20.0):
        histogram.observe(seconds)
    text, _ = await Exposition().text(lambda: {"greenroom_store_commit_duration_seconds": histogram}, "")
    name = "greenroom_store_commit_duration_seconds"
    (family,) = [family for family in parse(text.decode()) if family.name == name]
    shown = [(sample.name.removeprefix(name), sample.labels.get("le"), sample.value) for sample in family.samples]
    assert shown == [
        ("_bucket", "0.1", 1),
        ("_bucket", "1.0", 3),
        ("_bucket", "+Inf", 4),
        ("_count", None, 4),
        ("_sum", None, 21.05),
    ]


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text",
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
        "application/openmetrics-text; version=9.9.9\r\nx: y; escaping=allow-utf-8",
    ],
)
async def test_openmetrics_for_who_asks(accept: str) -> None:
    text, kind = await Exposition().text(everything, accept)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert {metric.name.removesuffix("_total") for metric in METRICS} <= {
        family.name for family in parse_openmetrics(text.decode())
    }


async def test_what_has_no_figure_is_left_out() -> None:
    text, _ = await Exposition().text(lambda: {"greenroom_ready": True}, "text/html")
    assert [line for line in text.decode().splitlines() if line.startswith("greenroom_")] == ["greenroom_ready 1.0"]


async def test_scrapes_at_the_same_time_do_not_mix_and_nothing_is_kept() -> None:
    exposition = Exposition()
    texts: dict[int, bytes] = {}

    async def scrape(number: int) -> None:
        texts[number], _ = await exposition.text(lambda: {"greenroom_sessions": number}, "")

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(scrape, number)
    assert all(f"\ngreenroom_sessions {number}.0\n".encode() in text for number, text in texts.items())
    assert len(texts) == 20 and not exposition._figures


async def test_the_registry_of_the_process_has_no_part_in_it() -> None:
    before = set(REGISTRY._names_to_collectors)
    await Exposition().text(everything, "")
    await Exposition().text(everything, "")
    assert set(REGISTRY._names_to_collectors) == before


def test_a_tally_is_shown_whole_under_known_names() -> None:
    tally = Tally()
    tally.runs_started = tally.deltas = tally.runs_evicted = 3
    tally.runs_ended["completed"] += 2
    tally.model_calls["local"] += 5
    tally.model_failures["local", "provider_error"] += 1
    tally.model_retries["local", "provider_error"] += 1
    tally.compactions["local", "completed"] += 1
    tally.model_tokens["local", "input"] += 9
    tally.model_cost["local"] += 0.5
    tally.model_seconds["local"].observe(0.5)
    tally.tool_calls["files", "error"] += 1
    tally.tool_seconds["files"].observe(0.5)
    shown = tallied(tally)
    labels = {metric.name: len(metric.labels) for metric in METRICS}
    for name, figure in shown.items():
        assert figure, name
        if isinstance(figure, dict):
            assert {len(key) for key in figure} == {labels[name]}, name
        else:
            assert labels[name] == 0, name
    tally.model_calls["local"] += 1
    tally.model_seconds["local"].observe(0.5)
    assert shown["greenroom_model_calls_total"] == {("local",): 5}
    assert sum(shown["greenroom_model_call_duration_seconds"]["local",].counts) == 1  # type: ignore[index]


def test_the_document_has_every_name() -> None:
    document = (Path(__file__).parents[2] / "actors" / "METRICS.md").read_text()
    rows = re.findall(r"^\| `(greenroom_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", document, re.MULTILINE)
    assert [(name, kind, labels, says) for name, kind, labels, says in rows] == [
        (metric.name, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    (process,) = re.findall(r"as prometheus-client names them: (.+)\.$", document, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", process)) == PROCESS_METRICS
    labels = {label for metric in METRICS for label in metric.labels}
    explained = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [^|]+ \|$", document, re.MULTILINE)
    assert {label for row in explained for label in re.findall(r"`(\w+)`", row)} == labels
    names = {metric.name for metric in METRICS} | set(PROCESS_METRICS)
    for name in re.findall(r"(?:greenroom|process)_\w+", document):
        assert name in names or name.removesuffix("_bucket") in names, name
