"""The Prometheus metrics at /metrics. Names begin with `linly_`; times are in seconds.

Replies of the page and the API are counted when they end; the engine's state is read at each
scrape. docs/grafana.json is a dashboard.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from model.serving.manager import ModelManager
from model.types import CompletedRequest
from web.health_checks import HealthChecks

FIRST_TOKEN = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
BASE = "base"  # the label of replies without an adapter
KIND_LABELS = {"prefill": "reading"}  # dashboards know it by the older word


class Metrics:
    """The counters of one program."""

    def __init__(self, manager: ModelManager, checks: HealthChecks) -> None:
        registry = CollectorRegistry(auto_describe=True)
        self._registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_EngineCollector(manager, checks))
        by = ["adapter"]
        self._requests = Counter(
            "linly_requests", "Completed requests by their end: stop, length, abort, error, or the "
            "code of a refusal.", ["kind", "adapter", "ended"], registry=registry,
        )  # fmt: skip
        self._prompt = Counter("linly_prompt_tokens", "Tokens of prompts.", by, registry=registry)
        self._cached = Counter(
            "linly_cached_tokens", "Tokens of prompts that the prefix cache had.", by,
            registry=registry,
        )  # fmt: skip
        self._completion = Counter(
            "linly_completion_tokens", "Tokens of replies.", by, registry=registry
        )
        self._first = Histogram(
            "linly_first_token_seconds", "Time from a request to its first token.", by,
            buckets=FIRST_TOKEN, registry=registry,
        )  # fmt: skip
        self._token = Histogram(
            "linly_token_seconds", "Time per token of a reply after its first token.", by,
            buckets=PER_TOKEN, registry=registry,
        )  # fmt: skip
        self._queue = Histogram(
            "linly_queue_seconds", "Time from a request to its first step.", buckets=FIRST_TOKEN,
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def count(self, completed: CompletedRequest) -> None:
        """Counts a request that has ended or was refused."""
        stats = completed.stats
        # A refused request can name any adapter, and would create a new label value.
        adapter = (stats.adapter or BASE) if stats else ""
        ended = completed.reason.value if completed.reason else completed.code
        kind = KIND_LABELS.get(completed.kind, completed.kind)
        self._requests.labels(kind, adapter, ended).inc()
        if stats is None:
            return
        self._prompt.labels(adapter).inc(stats.prompt_tokens)
        self._cached.labels(adapter).inc(stats.cached_tokens)
        self._completion.labels(adapter).inc(stats.completion_tokens)
        self._queue.observe(stats.queue_seconds)
        if stats.completion_tokens:
            self._first.labels(adapter).observe(stats.first_token_seconds)
        if stats.completion_tokens > 1:
            self._token.labels(adapter).observe(
                stats.decode_seconds / (stats.completion_tokens - 1)
            )


class _EngineCollector(Collector):
    """Reads the manager's status and counts at each scrape."""

    def __init__(self, manager: ModelManager, checks: HealthChecks) -> None:
        self._manager = manager
        self._checks = checks

    def collect(self) -> Iterable[Metric]:
        status, counts = self._manager.status(), self._manager.counts()
        info = {
            "base_model": status.base_model, "engine": status.engine,
            "device": status.device, "quantization": status.quantization,
        }  # fmt: skip
        yield InfoMetricFamily("linly_model", "The model that generates the replies.", value=info)
        ready = status.ready and self._checks.wait_for_problem() is None
        yield _gauge("linly_ready", "1 if /health is 200.", float(ready))
        yield _gauge("linly_running", "Replies that are being generated.", status.running)
        yield _gauge("linly_waiting", "Requests in the queue.", status.waiting)
        yield _gauge("linly_adapters_loaded", "Adapters in memory.", len(counts.adapters))
        yield _gauge("linly_adapter_bytes", "Memory of adapters.", counts.adapter_bytes)
        yield _gauge("linly_cache_bytes", "Memory of the KV cache.", counts.cache_bytes)
        if counts.cache_budget is not None:
            yield _gauge(
                "linly_cache_budget_bytes", "Memory limit of the KV cache.", counts.cache_budget
            )
        for name, help_text, value in (
            ("linly_adapter_loads", "Adapters that were read into memory.", counts.adapter_loads),
            (
                "linly_adapter_evictions",
                "Adapters that were removed from memory.",
                counts.adapter_evictions,
            ),
            (
                "linly_preemptions",
                "Replies that were preempted because memory was short.",
                counts.preemptions,
            ),
        ):
            yield CounterMetricFamily(name, help_text, value=value)
        yield _batches(counts.decode_steps)


def _gauge(name: str, help_text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=value)


def _batches(steps: Mapping[int, int]) -> HistogramMetricFamily:
    """Returns a histogram of batch sizes, from the number of steps of each size."""
    buckets = [(str(size), sum(n for rows, n in steps.items() if rows <= size)) for size in BATCHES]
    return HistogramMetricFamily(
        "linly_batch_size",
        "Replies in a decode step.",
        buckets=[*buckets, ("+Inf", sum(steps.values()))],
        sum_value=sum(rows * n for rows, n in steps.items()),
    )
