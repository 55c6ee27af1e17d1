"""Conversations of the web page: what was asked, what each model has answered, and the browser that they belong to.

talk = Talk()
talk.questions.append(Message("user", "What is this?"))
talk.messages("runs/mine")      # as the model is asked
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from llava_finetune.serve.engine import Event, Ticket
from llava_finetune.serve.prompts import Message


class Talk:
    """One conversation: what was asked, each model's answers, and the answers under way."""

    def __init__(self) -> None:
        self.questions: list[Message] = []
        self.files: list[list[str]] = []
        self.answers: dict[str, list[str]] = {}
        self.errors: dict[str, str] = {}
        self.tickets: list[Ticket] = []
        self.events: queue.SimpleQueue[tuple[str, Event] | None] = queue.SimpleQueue()
        self.ended = threading.Event()  # no answer is being shown
        self.ended.set()

    def stop(self) -> None:
        """Stop the answers under way; what is there stays."""
        for ticket in self.tickets:
            ticket.cancel()

    def messages(self, model: str) -> list[Message]:
        """The conversation as `model` has it, ending with the last question."""
        out: list[Message] = []
        for question, answer in zip(self.questions, [*self.answers.get(model, []), ""], strict=False):
            out += [question, Message("assistant", answer)]
        return out[:-1]

    def shown(self, model: str) -> list[dict[str, Any]]:
        """The conversation for a chat window."""
        out: list[dict[str, Any]] = []
        answers = self.answers.get(model, [])
        for index, question in enumerate(self.questions):
            out += [{"role": "user", "content": {"path": path}} for path in self.files[index]]
            out.append({"role": "user", "content": question.text})
            if index < len(answers) and answers[index]:
                out.append({"role": "assistant", "content": answers[index]})
        if model in self.errors:
            out.append({"role": "assistant", "content": f"**Error:** {self.errors[model]}"})
        return out

    def drop_last(self) -> tuple[Message, list[str]] | None:
        """Take the last question back, with its answers."""
        self.errors = {}
        if not self.questions:
            return None
        count = len(self.questions) - 1
        self.answers = {model: answers[:count] for model, answers in self.answers.items()}
        return self.questions.pop(), self.files.pop()


class Visitor:
    """One browser: the conversation that it is in, and the one that it left last.

    The same object for as long as the page is open: a state that the answer under way handed back with every piece of
    text could put a left conversation back. A plain class, because Gradio copies dataclasses on their way.
    """

    def __init__(self) -> None:
        self.talk = self.left = Talk()

    def __deepcopy__(self, memo: dict[int, Any]) -> Visitor:
        return Visitor()  # Gradio copies a state's first value for every browser

    def leave(self) -> None:
        """Begin a new conversation; whoever shows an answer of the old one is woken and ends."""
        self.left, self.talk = self.talk, Talk()
        self.left.stop()
        self.left.events.put(None)
