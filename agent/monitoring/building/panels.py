"""The few kinds of panels that our dashboards are made of, and the variables that they ask for.

In a query `$job` is the cluster's scrape job, `$node` and `$image` what was chosen, `$instance` the chosen
gateway's target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

DATASOURCE = model.DataSourceRef("prometheus", "${datasource}")

THIRD, HALF, WHOLE = 8, 12, 24
"""Widths of a panel, of Grafana's 24 columns."""

_ROWS = 8
"""The height of a panel, in Grafana's rows of 30 pixels."""


@dataclass(frozen=True)
class Query:
    """One query of a panel, and what its series are called (Grafana's template over their labels)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Row:
    """A heading with the panels under it."""

    title: str
    panels: tuple[Builder[model.Panel], ...]


def or_none(expr: str, label: str) -> str:
    """The expression, or one series of 0 named `none` where it has no series: nothing went wrong yet."""
    return f'{expr} or label_replace(vector(0), "{label}", "none", "", "")'


def quantile(part: float, histogram: str, by: str = "") -> str:
    """A quantile of a histogram (with its selector) over the rate interval, by further labels."""
    name, brace, selector = histogram.partition("{")
    labels = f"le, {by}" if by else "le"
    rate = f"rate({name}_bucket{brace}{selector}[$__rate_interval])"
    return f"histogram_quantile({part}, sum by ({labels}) ({rate}))"


def mean(histogram: str, window: str, by: str) -> str:
    """The mean of a histogram's observations within a window, by labels."""
    name, brace, selector = histogram.partition("{")
    total, count = (f"sum by ({by}) (increase({name}_{part}{brace}{selector}[{window}]))" for part in ("sum", "count"))
    return f"{total} / {count}"


def curve(title: str, unit: str, *queries: Query, span: int = THIRD, words: str = "") -> timeseries.Panel:
    """Lines over time; `unit` is one of Grafana's (`s`, `Bps`, `ops`, `short`, `percentunit`)."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(common_model.LegendDisplayMode.LIST)
    panel = timeseries.Panel().title(title).description(words).datasource(DATASOURCE).unit(unit).min(0)
    panel.legend(legend.placement(common_model.LegendPlacement.BOTTOM)).fill_opacity(10)
    return (
        panel.tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI))
        .targets(_targets(queries))
        .height(_ROWS)
        .span(span)
    )


def timeline(title: str, *queries: Query, span: int = HALF, words: str = "") -> statetimeline.Panel:
    """A bar for each series, coloured by its value over time: 1 is green, 0 is red."""
    panel = statetimeline.Panel().title(title).description(words).datasource(DATASOURCE).merge_values(True)
    panel.show_value(common_model.VisibilityMode.NEVER).row_height(0.8).mappings([_GOOD_AND_BAD])
    return panel.targets(_targets(queries)).height(_ROWS).span(span)


def number(title: str, unit: str, query: Query, *, span: int = 4, words: str = "") -> stat.Panel:
    """The present value, large."""
    panel = stat.Panel().title(title).description(words).datasource(DATASOURCE).unit(unit)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.graph_mode(common_model.BigValueGraphMode.NONE).color_mode(common_model.BigValueColorMode.NONE)
    return panel.with_target(_target(query).instant()).height(4).span(span)


def word(title: str, query: Query, *, span: int = 4, words: str = "") -> stat.Panel:
    """The names of the series there are now, large."""
    return number(title, "short", query, span=span, words=words).text_mode(common_model.BigValueTextMode.NAME)


def listing(title: str, query: Query, *, span: int = HALF, words: str = "") -> table.Panel:
    """The labels of the series there are now, one row each, with their value."""
    panel = table.Panel().title(title).description(words).datasource(DATASOURCE)
    without_time = model.DataTransformerConfig("organize", options={"excludeByName": {"Time": True}})
    target = _target(query).instant().format(prometheus_model.PromQueryFormat.TABLE)
    return panel.with_target(target).with_transformation(without_time).height(_ROWS).span(span)


def choice(name: str, label: str, values: str) -> dashboard.QueryVariable:
    """A variable that is chosen among values of a label (`label_values(METRIC, LABEL)`)."""
    variable = dashboard.QueryVariable(name).label(label).datasource(DATASOURCE).query(values)
    return variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.ALPHABETICAL_ASC)


def many(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    """The same for any number of values, all of them at first; it fits `=~` only."""
    everything = model.VariableOption(text="All", value="$__all", selected=True)
    return variable.multi(True).include_all(True).all_value(".*").current(everything)


def board(
    uid: str, title: str, words: str, variables: Sequence[dashboard.QueryVariable], rows: Sequence[Row]
) -> model.Dashboard:
    """A dashboard with the data source and the job as its first variables."""
    made = dashboard.Dashboard(title).uid(uid).description(words).tags(["rbdgate"]).readonly().timezone("browser")
    made.tooltip(model.DashboardCursorSync.CROSSHAIR).time("now-6h", "now").refresh("30s")
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    made.with_variable(choice("job", "Cluster (job)", "label_values(rbdgate_agent_info, job)"))
    for variable in variables:
        made.with_variable(variable)
    link = dashboard.DashboardLink("rbdgate").type(model.DashboardLinkType.DASHBOARDS).tags(["rbdgate"])
    made.link(link.as_dropdown(True).include_vars(True).keep_time(True))
    for row in rows:
        made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made.with_panel(panel)
    whole = made.build()
    for number_, panel_ in enumerate(whole.panels or (), 1):
        panel_.id_val = number_
    return whole


_GOOD_AND_BAD = model.ValueMap(
    {
        "0": model.ValueMappingResult(text="no", color="red", index=0),
        "1": model.ValueMappingResult(text="yes", color="green", index=1),
    }
)


def _targets(queries: Sequence[Query]) -> list[Builder[variants.Dataquery]]:
    return [_target(query).range().ref_id(chr(ord("A") + n)) for n, query in enumerate(queries)]


def _target(query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).datasource(DATASOURCE).ref_id("A")
    return target.legend_format(query.legend) if query.legend else target
