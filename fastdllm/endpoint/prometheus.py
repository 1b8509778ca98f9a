"""The figures of the service as Prometheus reads them; a registry per app shares nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastdllm.policy import PassKind
from fastdllm.serving.service import Service


class ServiceCollector(Collector):
    """Reads the figures of a service when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """Yield all figures of one moment."""
        figures = self._service.figures()
        yield _counter("tokens", "Generated tokens, of answers that have ended.", figures.tokens)
        passes = CounterMetricFamily(
            "fastdllm_passes", "Passes of single sequences, by kind.", labels=["kind"]
        )
        for kind in PassKind:
            passes.add_metric([kind.value], figures.passes.get(kind, 0))
        yield passes
        yield _counter(
            "engine_passes",
            "Passes of the engine, which run the rows of all sequences at once.",
            figures.engine_passes,
        )
        answers = CounterMetricFamily(
            "fastdllm_answers", "Answers that have ended, by finish reason.", labels=["reason"]
        )
        for reason, count in figures.answers.items():
            answers.add_metric([reason], count)
        yield answers
        yield _counter("failed", "Requests that an error ended.", figures.failed)
        for name, text, value in (
            ("decoding", "Requests that decode now.", figures.decoding),
            ("waiting", "Requests that wait now.", figures.waiting),
            ("slots", "Slots of the open lanes.", figures.slots),
            ("lanes", "Open lanes; requests in one share passes.", figures.lanes),
            ("kept_prefix_bytes", "Memory of prefixes that are kept.", figures.kept_bytes),
        ):
            yield GaugeMetricFamily(f"fastdllm_{name}", text, value=value)


def registry_of(service: Service) -> CollectorRegistry:
    """Return a registry that holds the figures of a service."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServiceCollector(service))
    return registry


def metrics_text(registry: CollectorRegistry) -> bytes:
    """Return the figures of a registry in Prometheus's text format."""
    return generate_latest(registry)


def _counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"fastdllm_{name}", text, value=value)
