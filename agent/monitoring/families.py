"""How a figure is written: a family of samples, with its name, its help and its labels in one place."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

Samples = Iterable[tuple[tuple[str, ...], float]]
"""The values of the labels in their order, and the figure."""


def gauge(name: str, what: str, labels: tuple[str, ...], samples: Samples) -> GaugeMetricFamily:
    """A figure that goes up and down."""
    family = GaugeMetricFamily(f"rbdgate_{name}", what, labels=labels)
    for values, figure in samples:
        family.add_metric(values, figure)
    return family


def counter(name: str, what: str, labels: tuple[str, ...], samples: Samples) -> CounterMetricFamily:
    """A figure that only goes up; `_total` is added to its name."""
    family = CounterMetricFamily(f"rbdgate_{name}", what, labels=labels)
    for values, figure in samples:
        family.add_metric(values, figure)
    return family


def one(name: str, what: str, figure: float | None) -> GaugeMetricFamily:
    """A figure without labels; None is unknown, and no sample."""
    return gauge(name, what, (), () if figure is None else (((), figure),))


def total(name: str, what: str, figure: float) -> CounterMetricFamily:
    """A counter without labels."""
    return counter(name, what, (), (((), figure),))


def histogram(name: str, what: str, buckets: list[tuple[str, float]], seconds: float) -> HistogramMetricFamily:
    """Durations, counted elsewhere."""
    return HistogramMetricFamily(f"rbdgate_{name}_seconds", what, buckets=buckets, sum_value=seconds)
