"""The web page: a chat with pictures, streamed, with the base model beside the fine-tuned one.

Why in this process: the page shows the error itself when something fails; there is no worker and no port between.
Nothing is fetched from or sent to anywhere else: fonts are the system's, analytics are off.

    mount(app, server, Example.from_records(...), described)
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from llava_finetune.errors import UserError
from llava_finetune.serve.api import Server
from llava_finetune.serve.engine import Done, Event, Failed, Text
from llava_finetune.serve.pictures import KINDS, picture_from_bytes, shown_file
from llava_finetune.serve.prompts import Message
from llava_finetune.serve.sampling import Sampling
from llava_finetune.serve.talk import Talk, Visitor

CSS = """
.gradio-container {width: 100% !important; max-width: 1100px !important; margin: auto !important}
footer {display: none !important}
.chat-window button[aria-label="Share"], .chat-window button[aria-label="Clear"],
.chat-window .download-link {display: none !important}
.chat-window .message-buttons,
.chat-window .icon-button-wrapper:not(.top-panel):not(:has(button:not([aria-label="Share"]))) {display: none !important}
#title p {margin: 0; opacity: .75; overflow-wrap: anywhere}
@media (max-width: 640px) {
  .chat-window {height: 36vh !important; min-height: 220px !important}
  .gradio-container main {padding: 8px !important}
}
"""


class Page:
    """The handlers of the page, apart from its looks."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.models = list(server.engines)

    def ask(
        self, sent: dict[str, Any], visitor: Visitor, temperature: float, top_p: float, length: float, compare: bool
    ) -> Iterator[list[Any]]:
        """Answer a message; yields (visitor, one chat per model) as the text grows."""
        talk = visitor.talk
        text, paths = (sent or {}).get("text") or "", list((sent or {}).get("files") or [])
        if not text.strip() and not paths:
            yield self._view(visitor)
            return
        if talk.errors:  # the failed question is shown until the next one comes
            talk.drop_last()
        try:
            message = self._message(text, paths)
        except UserError as error:
            talk.errors = {model: str(error) for model in self.models}
            talk.questions.append(Message("user", text))
            talk.files.append([])
            yield self._view(visitor)
            return
        talk.questions.append(message)
        talk.files.append([shown_file(*pair) for pair in zip(paths, message.pictures, strict=True)])
        yield from self._answer(visitor, talk, Sampling(int(length), float(temperature), float(top_p)), compare)

    def retry(
        self, visitor: Visitor, temperature: float, top_p: float, length: float, compare: bool
    ) -> Iterator[list[Any]]:
        """Answer the last question again."""
        talk = visitor.talk
        last = talk.drop_last()
        if last is not None:
            talk.questions.append(last[0])
            talk.files.append(last[1])
            yield from self._answer(visitor, talk, Sampling(int(length), float(temperature), float(top_p)), compare)
        else:
            yield self._view(visitor)

    def clear(self, visitor: Visitor) -> list[Any]:
        """Stop, and begin a new conversation."""
        visitor.leave()
        return self._view(visitor)

    def settle(self, visitor: Visitor) -> list[Any]:
        """The new conversation once more, behind what was sent last of the old one: that can come after `clear`."""
        visitor.left.ended.wait(timeout=10)
        return self._view(visitor)

    def _view(self, visitor: Visitor) -> list[Any]:
        """The visitor, and what each model's chat window shows."""
        return [visitor, *(visitor.talk.shown(model) for model in self.models)]

    def _message(self, text: str, paths: Sequence[str]) -> Message:
        limits = self.server.limits
        if len(paths) > limits.pictures:
            raise UserError(f"{len(paths)} pictures in one message, at most {limits.pictures} are taken")
        pictures: list[Any] = []
        for path in paths:
            file = Path(path)
            if file.stat().st_size > limits.picture_bytes:
                raise UserError(
                    f"{file.name} has {file.stat().st_size:,} bytes, at most {limits.picture_bytes:,} are taken"
                )
            left = limits.pixels - sum(picture.width * picture.height for picture in pictures)
            pictures.append(picture_from_bytes(file.read_bytes(), replace(limits, pixels=left), file.name))
        return Message("user", text, tuple(pictures))

    def _answer(self, visitor: Visitor, talk: Talk, sampling: Sampling, compare: bool) -> Iterator[list[Any]]:
        models = self.models if compare else self.models[:1]
        waiting = set()
        talk.tickets, talk.errors = [], {}
        events = talk.events = queue.SimpleQueue()
        number = len(talk.questions)
        for model in models:
            talk.answers[model] = [*[*talk.answers.get(model, []), *[""] * number][: number - 1], ""]
            try:
                engine = self.server.engines[model]
                prompt = engine.prompt(talk.messages(model))
                ticket = engine.submit(prompt, sampling, partial(self._heard, events, model))
                talk.tickets.append(ticket)
                waiting.add(model)
            except UserError as error:
                talk.errors[model] = str(error)
        talk.ended.clear()
        try:
            while visitor.talk is talk:
                yield self._view(visitor)
                if not waiting:
                    return
                heard = [events.get()]
                while not events.empty():
                    heard.append(events.get())
                for event in filter(None, heard):
                    self._take(talk, waiting, *event)
        finally:
            talk.stop()
            talk.ended.set()

    def _heard(self, events: queue.SimpleQueue[tuple[str, Event] | None], model: str, event: Event) -> None:
        if isinstance(event, Failed):
            self.server.metrics.refused(model, 500)
        elif isinstance(event, Done):
            self.server.metrics.answered(model, event)
        events.put((model, event))

    def _take(self, talk: Talk, waiting: set[str], model: str, event: Event) -> None:
        if isinstance(event, Text):
            talk.answers[model][-1] += event.text
            return
        waiting.discard(model)
        if isinstance(event, Failed):
            talk.errors[model] = event.message
        elif isinstance(event, Done) and event.reason == "cancel":
            talk.answers[model][-1] += " [stopped]"


def build_page(server: Server, examples: Sequence[tuple[str, list[str]]], about: str) -> gr.Blocks:
    """The page: a chat window per model, one line to type or paste into, settings, examples."""
    page = Page(server)
    compares = len(page.models) > 1
    with gr.Blocks(analytics_enabled=False, title="llava-finetune", delete_cache=(600, 3600)) as blocks:
        gr.Markdown(f"## {page.models[0]}\n{about}", elem_id="title")
        visitor = gr.State(Visitor(), delete_callback=lambda value: value.talk.stop())
        compare = gr.Checkbox(compares, label="Base model beside it", visible=compares, elem_id="compare")
        with gr.Row():
            chats = [_chat_window(name, index) for index, name in enumerate(page.models)]
        message = gr.MultimodalTextbox(
            file_count="multiple",
            file_types=sorted(KINDS | {".jpeg"}),
            placeholder="Ask about a picture: paste, drop or upload it here",
            show_label=False,
            max_plain_text_length=100_000,
            max_lines=8,
            elem_id="message",
        )
        with gr.Row():
            stop = gr.Button("Stop", elem_id="stop", min_width=80, size="sm")
            retry = gr.Button("Retry", elem_id="retry", min_width=80, size="sm")
            clear = gr.Button("New chat", elem_id="clear", min_width=80, size="sm")
        settings = _settings(server)
        if examples:
            gr.Examples(
                [[{"text": text, "files": files}] for text, files in examples], message, label="From the evaluation set"
            )
        outputs = [visitor, *chats]
        _wire(page, message, visitor, [*settings, compare], outputs, stop, retry, clear)
        if compares:
            compare.change(lambda on: gr.Chatbot(visible=on), compare, chats[1], api_visibility="private")
    blocks.queue(default_concurrency_limit=64, max_size=256)
    return blocks


def _chat_window(name: str, index: int) -> gr.Chatbot:
    return gr.Chatbot(
        label=name,
        height=420,
        min_width=280,
        elem_id=f"chat-{index}",
        elem_classes=["chat-window"],
        feedback_options=None,
        buttons=[],
        allow_tags=False,
        group_consecutive_messages=True,
    )


def _settings(server: Server) -> list[Any]:
    longest = min(engine.loaded.context_length for engine in server.engines.values())
    with gr.Accordion("Settings", open=False):
        temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature (0: the likeliest words)", elem_id="temperature")
        top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", elem_id="top-p")
        length = gr.Slider(1, longest, min(512, longest), step=1, label="Longest answer, in tokens", elem_id="length")
    return [temperature, top_p, length]


def _wire(
    page: Page, message: Any, visitor: Any, settings: list[Any], outputs: list[Any], stop: Any, retry: Any, clear: Any
) -> None:
    """Connect what is clicked to what is done. The message is kept in a state so that the line is free at once."""
    sent = gr.State()
    private = {"api_visibility": "private", "show_progress": "hidden"}
    taken = message.submit(lambda value: (value, None), message, [sent, message], queue=False, **private)
    taken.then(page.ask, [sent, visitor, *settings], outputs, **private)
    retry.click(page.retry, [visitor, *settings], outputs, **private)
    stop.click(lambda value: value.talk.stop(), visitor, None, queue=False, **private)
    clear.click(page.clear, visitor, outputs, queue=False, **private).then(page.settle, visitor, outputs, **private)


def mount(app: Any, server: Server, examples: Sequence[tuple[str, list[str]]], about: str) -> Any:
    """Put the page at / of the API's application."""
    access = server.access
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return gr.mount_gradio_app(
        app,
        build_page(server, examples, about),
        path="/",
        auth=access.admits_login if access.password else None,
        auth_message="Sign in" if access.password else None,
        max_file_size=server.limits.picture_bytes,
        show_error=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=CSS,
    )
