"""Rules and dashboards name only what the service measures, and every alert has its line for operators."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from shared.telemetry.instruments import EXPOSED

DEPLOY = Path(__file__).parents[2] / "deploy"
MONITORING = DEPLOY / "monitoring"
EXPORTERS = {
    "node": {"node_cpu_seconds_total", "node_memory_MemAvailable_bytes"},
    "dcgm": {
        "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_DEC_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_POWER_USAGE",
    },
}  # fmt: skip
"""What others measure, by scrape job: names of node_exporter, and of dcgm-exporter's default-counters.csv."""
FOREIGN = set().union(*EXPORTERS.values())
STATES = {"rtembed_workers": {"starting", "ready", "stopping", "unhealthy"}}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """What shows something: all but the headings of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Any]:
    alerts = [pytest.param(rule["expr"], id=rule["alert"]) for rule in rules()]
    shown = [pytest.param(t["expr"], id=panel["title"]) for panel in panels() for t in panel["targets"]]
    return alerts + shown


def selectors(expression: Any) -> Iterator[Any]:
    """Every vector selector of a parsed query."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        part = getattr(expression, name, None)
        if part is not None:
            yield from selectors(part)
    for part in getattr(expression, "args", None) or []:
        yield from selectors(part)


@pytest.mark.parametrize("query", queries())
def test_queries_name_what_exists(query: str) -> None:
    found = list(selectors(promql_parser.parse(query)))
    assert found, "a query without a metric"
    for selector in found:
        if selector.name in FOREIGN:
            continue
        family, _, suffix = selector.name.rpartition("_")
        if suffix in {"bucket", "sum", "count"} and selector.name not in EXPOSED:
            assert EXPOSED[family].kind == "histogram", selector.name
        else:
            assert EXPOSED[selector.name].kind != "histogram", selector.name
        for matcher in selector.matchers.matchers:
            if selector.name in STATES and matcher.name == "state":
                assert matcher.value in STATES[selector.name]


@pytest.mark.parametrize("query", queries())
def test_the_fleet_is_not_counted_once_per_gateway(query: str) -> None:
    """Each gateway shows the whole fleet, so its series are never summed over gateways."""
    if {selector.name for selector in selectors(promql_parser.parse(query))} <= FOREIGN:
        return
    assert query.startswith(("max", "absent", "histogram_quantile(", "sum(max by", "sum by")), query
    if "sum" in query.replace("_sum[", "["):
        assert "(max by (" in query


def test_every_alert_has_its_section_in_the_runbook() -> None:
    manual = (DEPLOY / "runbook.md").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert path == "deploy/runbook.md"
        assert anchor == rule["alert"].lower()
        assert f"## {rule['alert']}\n" in manual, rule["alert"]
    sections = set(re.findall(r"^## (RtEmbed\w+)$", manual, re.MULTILINE))
    assert sections == {rule["alert"] for rule in rules()}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_alerts_fire_on_recorded_series(tmp_path: Path) -> None:
    """Prometheus's own unit tests: series in, alerts out."""
    for name in ("rules.yaml", "rules_test.yaml"):
        shutil.copy(MONITORING / name, tmp_path / name)
    done = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yaml"], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (MONITORING / "rules_test.yaml").read_text()))
    assert tested == {rule["alert"] for rule in rules()}


def test_every_exporter_is_scraped_and_shown() -> None:
    jobs = {
        job["job_name"]
        for job in yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]
    }
    assert jobs == {"rt-embed", *EXPORTERS}
    shown = {
        s.name for p in panels() for t in p["targets"] for s in selectors(promql_parser.parse(t["expr"]))
    }
    assert shown >= FOREIGN


def test_the_collector_has_what_its_pipelines_name() -> None:
    config = yaml.safe_load((MONITORING / "collector.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])


def test_panels_have_places_and_names_of_their_own() -> None:
    shown = dashboard()["panels"]
    places = [
        (column, row)
        for panel in shown
        for place in [panel["gridPos"]]
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(places)) == len(places), "panels overlap"
    assert max(column for column, _ in places) < 24
    assert len({p["title"] for p in shown}) == len({p["id"] for p in shown}) == len(shown)
    rows = [p["title"] for p in shown if p["type"] == "row"]
    assert shown[0]["title"] == rows[0] == "Overview"
    assert [p["type"] for p in panels()[:8]] == ["stat"] * 8


def test_every_panel_asks_the_chosen_data_source() -> None:
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for panel in panels():
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}


def test_every_alert_links_to_a_panel_that_shows_its_metric() -> None:
    by_id = {panel["id"]: panel for panel in panels()}
    for rule in rules():
        address, _, panel = rule["annotations"]["dashboard"].partition("?viewPanel=")
        assert address == f"/d/{dashboard()['uid']}"
        asked = {
            s.name for t in by_id[int(panel)]["targets"] for s in selectors(promql_parser.parse(t["expr"]))
        }
        assert asked & {s.name for s in selectors(promql_parser.parse(rule["expr"]))}, rule["alert"]


def test_what_is_measured_by_facts_of_the_fleet_is_shown() -> None:
    shown = {
        s.name for p in panels() for t in p["targets"] for s in selectors(promql_parser.parse(t["expr"]))
    }
    assert shown >= {name for name in EXPOSED if name.startswith("rtembed_index_") and "seconds" not in name}
    assert shown >= {"rtembed_indexers", "rtembed_index_lag_seconds", "rtembed_search_seconds_bucket"}
