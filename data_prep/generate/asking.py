"""Ask for everything that the journal does not hold, several at a time, within the limits; keep every answer.

spent = asyncio.run(Asking(endpoint, journal, Limits(concurrency=8), progress).run(tasks))
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from data_prep.errors import DataError
from data_prep.generate.endpoint import Endpoint, NotNow, Pace, Refused
from data_prep.generate.journal import Entry, Journal
from data_prep.generate.validate import Invalid, turns_of
from data_prep.progress import Progress

MAX_FAILURES = 5
"""Requests in a row without an answer after which the run stops: the endpoint is down or out of credit."""


class Task(NamedTuple):
    """One request: what is asked, about which picture, and the journal's key of its answer."""

    key: str
    image: str
    style: str
    messages: list[dict[str, str]]
    question: str
    tokens: int


@dataclass(frozen=True)
class Limits:
    """How much at once, how fast, how often again, and for how much money (prices per million tokens)."""

    concurrency: int = 8
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    attempts: int = 2
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float | None = None


@dataclass
class Spending:
    """Tokens used so far in this run."""

    tokens_in: int = 0
    tokens_out: int = 0

    def cost(self, limits: Limits) -> float:
        """Return what they cost at the given prices."""
        return (self.tokens_in * limits.price_in + self.tokens_out * limits.price_out) / 1e6


class Asking:
    """One run over the tasks: workers that share an iterator, the pace, the journal and the purse."""

    def __init__(self, endpoint: Endpoint, journal: Journal, limits: Limits, progress: Progress) -> None:
        """Keep the parts; nothing is sent yet."""
        self.endpoint, self.journal, self.limits, self.progress = endpoint, journal, limits, progress
        self.spent = Spending()
        self._pace = Pace(limits.requests_per_minute, limits.tokens_per_minute)
        self._failures = 0

    async def run(self, tasks: Sequence[Task]) -> Spending:
        """Ask all tasks; raise DataError when the endpoint, the key or the budget stops the run."""
        waiting = iter(tasks)
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(min(self.limits.concurrency, len(tasks)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self.endpoint.close()
        return self.spent

    async def _work(self, waiting: Iterator[Task]) -> None:
        for task in waiting:
            try:
                self.journal.add(await self._answer(task))
                self._failures = 0
            except NotNow as error:
                self._failures += 1
                if self._failures >= MAX_FAILURES:
                    advice = "what was answered is kept: the same command goes on"
                    problem = f"{MAX_FAILURES} requests in a row without an answer ({error}); {advice}"
                    raise DataError(self.journal.path, problem) from None
            self.progress.advance(1)

    async def _answer(self, task: Task) -> Entry:
        """Return the journal's entry: valid turns, or what is wrong with the last of the attempts."""
        entry: Entry = {"key": task.key, "image": task.image, "style": task.style, "model": self.endpoint.model}
        for _ in range(max(self.limits.attempts, 1)):
            self._watch_budget()
            await self._pace.turn(task.tokens)
            try:
                reply = await self.endpoint.ask(task.messages)
            except Refused as error:
                return {**entry, "turns": None, "problem": str(error)}
            self.spent.tokens_in += reply.tokens_in
            self.spent.tokens_out += reply.tokens_out
            result = turns_of(reply.text, task.style, reply.finish, task.question)
            entry |= {"text": reply.text, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
            if not isinstance(result, Invalid):
                return {**entry, "turns": result, "problem": None}
            entry |= {"turns": None, "problem": result.reason}
        return entry

    def _watch_budget(self) -> None:
        cost = self.spent.cost(self.limits)
        if self.limits.budget is not None and cost >= self.limits.budget:
            problem = f"the budget of {self.limits.budget:g} is spent ({cost:.2f})"
            advice = "what was answered is kept: the same command goes on with a new budget"
            raise DataError(self.journal.path, f"{problem}; {advice}")
