"""Prometheus metrics of a server: requests, tokens, waiting, times. No question, picture or key is in them.

metrics = Metrics({"mine": engine}); metrics.render()
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters and gauges in a registry of their own, so that two servers in one process do not mix."""

    def __init__(self, engines: Mapping[str, Any]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llava_requests", "Chat requests by model and HTTP status", ["model", "status"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "llava_prompt_tokens", "Prompt tokens, pictures included", ["model"], registry=self.registry
        )
        self.completion_tokens = Counter(
            "llava_completion_tokens", "Answered tokens", ["model"], registry=self.registry
        )
        self.first_token = Histogram(
            "llava_first_token_seconds", "Time to the first token", ["model"], buckets=SECONDS, registry=self.registry
        )
        self.seconds = Histogram(
            "llava_answer_seconds", "Time of a whole answer", ["model"], buckets=SECONDS, registry=self.registry
        )
        waiting = Gauge("llava_waiting_requests", "Requests in the queue", ["model"], registry=self.registry)
        running = Gauge("llava_running_requests", "Requests in the batch", ["model"], registry=self.registry)
        largest = Gauge("llava_largest_batch", "Largest batch so far", ["model"], registry=self.registry)
        rate = Gauge("llava_tokens_per_second", "Tokens a second while at work", ["model"], registry=self.registry)
        for name, engine in engines.items():
            rate.labels(name).set_function(partial(_rate, engine))
            waiting.labels(name).set_function(partial(_length, engine, "waiting"))
            running.labels(name).set_function(partial(_length, engine, "rows"))
            largest.labels(name).set_function(partial(getattr, engine, "largest_batch"))

    def refused(self, model: str, status: int) -> None:
        """Count a request that got no answer."""
        self.requests.labels(model, str(status)).inc()

    def answered(self, model: str, done: Any) -> None:
        """Count a finished answer (an `engine.Done`)."""
        self.requests.labels(model, "200").inc()
        self.prompt_tokens.labels(model).inc(done.prompt_tokens)
        self.completion_tokens.labels(model).inc(done.completion_tokens)
        self.first_token.labels(model).observe(done.first_token)
        self.seconds.labels(model).observe(done.seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return bytes(generate_latest(self.registry))


def _rate(engine: Any) -> float:
    return float(engine.tokens / max(engine.seconds, 1e-9))


def _length(engine: Any, name: str) -> int:
    return len(getattr(engine, name))
