"""What a service's figures say, read as Prometheus reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from support.service import Service


class Figures:
    """One scrape of a real service."""

    def __init__(self, service: Service) -> None:
        response = service.response("GET", "/metrics")
        assert response.status_code == 200, response.text
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }

    def of(self, name: str, **labels: str) -> float:
        """0 for what has not happened yet."""
        return self._samples.get((f"stillframe_{name}", frozenset(labels.items())), 0.0)

    def has(self, name: str) -> bool:
        return any(found == f"stillframe_{name}" for found, _ in self._samples)


def rise(before: Figures, after: Figures, name: str, **labels: str) -> float:
    """By how much a counter has gone up."""
    return after.of(name, **labels) - before.of(name, **labels)
