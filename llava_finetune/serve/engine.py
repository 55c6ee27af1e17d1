"""One thread that answers: takes waiting requests into a batch between two tokens, streams text, drops the abandoned.

engine = Engine(load("runs/mine")); engine.start()
ticket = engine.submit(prompt, Sampling(max_new_tokens=64))
for event in ticket: ...
engine.close()
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from llava_finetune.errors import UserError
from llava_finetune.serve.batch import Batch
from llava_finetune.serve.prompts import Message, Prompt, build_prompt
from llava_finetune.serve.sampling import Sampling, TextStream, choose


class QueueFull(UserError):
    """More requests are waiting than the bound allows."""


class ShuttingDown(UserError):
    """The server finishes what it has and takes nothing new."""


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of an answer. `reason`: stop, length or cancel; `first_token` and `seconds` count from the submission."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    first_token: float
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The answer could not be made; `message` is what happened."""

    message: str


Event = Text | Done | Failed


@dataclass
class Ticket:
    """A request under way: iterate it for its events, `cancel()` it to stop."""

    prompt: Prompt
    sampling: Sampling
    notify: Callable[[Event], None] | None = None
    submitted: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)

    def cancel(self) -> None:
        """Stop the answer at the next token."""
        self.cancelled.set()

    def emit(self, event: Event) -> None:
        """Hand an event to whoever listens."""
        if self.notify is None:
            self.events.put(event)
        else:
            self.notify(event)

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self.events.get()
            yield event
            if not isinstance(event, Text):
                return


@dataclass
class _Row:
    """A ticket in the batch: its text so far, its random numbers, its last token."""

    ticket: Ticket
    stream: TextStream
    generator: torch.Generator | None
    token: int = 0
    count: int = 0
    first_token: float = 0.0
    failure: str | None = None


class Engine:
    """Answers the tickets of one model. `max_batch` rows at a time, `max_queue` waiting at most.

    `tokens` is how many it has made, `seconds` how long it worked at them.
    """

    def __init__(self, loaded: Any, *, max_batch: int = 8, max_queue: int = 32) -> None:
        from llava_finetune.evaluation.generate_answers import stop_ids

        if loaded.family is not None and not loaded.family.serves:
            raise UserError(
                f"{loaded.family.source}: {loaded.family.name} cannot be chatted with or served: its cross-attention "
                "does not fit a batch that others join; ask it with llava-finetune evaluate"
            )
        self.loaded = loaded
        self.max_batch, self.max_queue = max_batch, max_queue
        self.stops = set(stop_ids(loaded))
        self.waiting: deque[Ticket] = deque()
        self.rows: list[_Row] = []
        self.batch = Batch(loaded)
        self.changed = threading.Condition()
        self.closing = False
        self.largest_batch = 0
        self.tokens = 0
        self.seconds = 0.0
        self.thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> Engine:
        """Begin to answer."""
        self.thread.start()
        return self

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The prompt for messages; see `build_prompt` for what it refuses."""
        return build_prompt(self.loaded, messages)

    def submit(self, prompt: Prompt, sampling: Sampling, notify: Callable[[Event], None] | None = None) -> Ticket:
        """Queue a request; its length is cut to what the context has left.

        Raises QueueFull beyond the bound and ShuttingDown while closing.
        """
        room = self.loaded.context_length - prompt.length
        ticket = Ticket(prompt, replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room)), notify)
        with self.changed:
            if self.closing:
                raise ShuttingDown("the server is shutting down; ask again later")
            if len(self.waiting) >= self.max_queue:
                raise QueueFull(f"{len(self.waiting)} requests are waiting already; ask again later")
            self.waiting.append(ticket)
            self.changed.notify()
        return ticket

    @property
    def busy(self) -> int:
        """Requests waiting or under way."""
        return len(self.waiting) + len(self.rows)

    def close(self, grace: float = 60.0) -> bool:
        """Take nothing new and finish what was accepted, for at most `grace` seconds; True when all was finished."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        if self.thread.ident is None:
            return True
        self.thread.join(grace)
        if not self.thread.is_alive():
            return True
        for ticket in [*self.waiting, *(row.ticket for row in self.rows)]:
            ticket.cancel()
        self.thread.join(10)
        return False

    def _run(self) -> None:
        while True:
            with self.changed:
                while not self.waiting and not self.rows and not self.closing:
                    self.changed.wait()
                if self.closing and not self.waiting and not self.rows:
                    return
                room = self.max_batch - len(self.rows)
                joining = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
            start = time.monotonic()
            try:
                self._answer(joining)
            except Exception as error:  # a failure belongs to the answers under way, the server lives on
                self._fail_all(joining, error)
            self.seconds += time.monotonic() - start

    def _answer(self, joining: list[Ticket]) -> None:
        """One token for every row under way, then the first token of those that join."""
        if self.rows:
            self._advance(self.rows, self.batch.step([row.token for row in self.rows]))
            self._leave()
        joining = [ticket for ticket in joining if not self._gone(ticket)]
        if joining:
            self._join(joining)
            self._leave()

    def _join(self, joining: list[Ticket]) -> None:
        logits = self.batch.join([ticket.prompt for ticket in joining])
        rows = [
            _Row(ticket, TextStream(self.loaded.tokenizer, ticket.sampling.stop), self._generator(ticket))
            for ticket in joining
        ]
        self.rows += rows
        self.largest_batch = max(self.largest_batch, len(self.rows))
        self._advance(rows, logits)

    def _generator(self, ticket: Ticket) -> torch.Generator | None:
        if ticket.sampling.is_greedy:
            return None
        generator = torch.Generator(device=self.loaded.device)
        if ticket.sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(ticket.sampling.seed)
        return generator

    def _advance(self, rows: list[_Row], logits: torch.Tensor) -> None:
        """Choose the next token of each row and give out the text that became certain."""
        for row, values in zip(rows, logits, strict=True):
            try:
                row.token = choose(values, row.ticket.sampling, row.generator)
            except RuntimeError as error:  # what one request asked for must not end the answers of the others
                row.failure = describe_failure(error)
                continue
            row.count += 1
            self.tokens += 1
            row.first_token = row.first_token or time.monotonic() - row.ticket.submitted
            if row.token not in self.stops:
                piece = row.stream.push(row.token)
                if piece:
                    row.ticket.emit(Text(piece))

    def _leave(self) -> None:
        """Let finished rows go."""
        kept = []
        for index, row in enumerate(self.rows):
            reason = self._reason(row)
            if reason is None:
                kept.append(index)
            else:
                self._finish(row, reason)
        if len(kept) < len(self.rows):
            self.batch.keep(kept)
            self.rows = [self.rows[index] for index in kept]

    def _reason(self, row: _Row) -> str | None:
        if row.failure is not None:
            return "failure"
        if row.ticket.cancelled.is_set():
            return "cancel"
        if row.token in self.stops or row.stream.stopped:
            return "stop"
        return "length" if row.count >= row.ticket.sampling.max_new_tokens else None

    def _finish(self, row: _Row, reason: str) -> None:
        if row.failure is not None:
            row.ticket.emit(Failed(row.failure))
            return
        rest = row.stream.finish() if reason != "cancel" else ""
        if rest:
            row.ticket.emit(Text(rest))
        count = row.count - (row.token in self.stops)
        seconds = time.monotonic() - row.ticket.submitted
        row.ticket.emit(Done(reason, row.ticket.prompt.length, count, row.first_token, seconds))

    def _gone(self, ticket: Ticket) -> bool:
        """Whether a waiting ticket was abandoned; it then ends at once."""
        if ticket.cancelled.is_set():
            ticket.emit(Done("cancel", ticket.prompt.length, 0, 0.0, time.monotonic() - ticket.submitted))
            return True
        return False

    def _fail_all(self, joining: list[Ticket], error: Exception) -> None:
        message = describe_failure(error)
        tickets = {id(ticket): ticket for ticket in [*joining, *(row.ticket for row in self.rows)]}
        self.rows, self.batch = [], Batch(self.loaded)
        for ticket in tickets.values():
            ticket.emit(Failed(message))


def describe_failure(error: Exception) -> str:
    """What happened, in words for the one who asked."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU ran out of memory; ask with fewer or smaller pictures, or start the server with --bits 4"
    return f"{type(error).__name__}: {error}"
