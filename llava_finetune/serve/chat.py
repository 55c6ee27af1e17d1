"""`llava-finetune chat`: talk to a model in the terminal, with pictures, streaming and several turns.

Why: the shortest way from a run to an answer. Plain text, so that it reads the same without colour and in a log.

    llava-finetune chat runs/mine --image dog.jpg --once "What is this?"
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from data_prep.numbers import real, seed, whole
from data_prep.records.marks import IMAGE_TOKEN
from data_prep.records.pixels import add_pixel_option, allow_pixels
from llava_finetune.errors import UsageError, UserError
from llava_finetune.flags import command_parser
from llava_finetune.model.costs import loaded_line, rate_text
from llava_finetune.serve.models import add_model_flags, choice_of, load_model

HELP = """/image PATH ...  attach pictures to the next message
/reset           forget the conversation
/retry           answer the last question again
/history         show the conversation
/save FILE       write the conversation as a record (.json or .jsonl; see docs/data.md)
/help            this list
/quit            leave (also Ctrl-D); Ctrl-C stops an answer"""

COLDEST = 0.001
"""Below it the likeliest token is certain, and dividing by it leaves the range of a float."""

EXAMPLES = """examples:
  llava-finetune chat runs/mine
  llava-finetune chat runs/mine --image dog.jpg --once "What animal is this?"
  llava-finetune chat runs/mine --bits 4 --image a.png --image b.png
  echo "What is this?" | llava-finetune chat runs/mine --image dog.jpg --once -

commands inside:
""" + "\n".join("  " + line for line in HELP.splitlines())


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    out = command_parser(
        "chat",
        "Talk to a model in the terminal.",
        EXAMPLES,
    )
    add_model_flags(out)
    out.add_argument(
        "--image", "--images", action="append", default=[], metavar="PATH",
        help="picture for the first message; repeatable",
    )  # fmt: skip
    out.add_argument(
        "--once", metavar="QUESTION", help="answer one question on stdout and leave; - reads it from stdin"
    )
    out.add_argument("--system", help="system text instead of the training's own")
    out.add_argument("--temperature", type=real(0, 100), default=0.0, help="0 is greedy (default: 0)")
    out.add_argument("--top-p", type=real(0, 1, above=True), default=1.0, help="share of likely tokens (default: 1)")
    out.add_argument("--max-new-tokens", type=whole(1), default=512, help="tokens of an answer (default: 512)")
    out.add_argument("--seed", type=seed, help="the same seed draws the same answers")
    add_pixel_option(out)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Chat until the end of input, or answer once. 0 done, 1 failed, 2 wrong use."""
    arguments = parser().parse_args(argv)
    if 0 < arguments.temperature < COLDEST:
        raise UsageError(f"--temperature {arguments.temperature}: expected 0 (greedy) or {COLDEST} to 100")
    choice = choice_of(arguments)
    allow_pixels(arguments.max_pixels)
    pictures = [_picture(path) for path in arguments.image]
    from llava_finetune.serve.engine import Engine
    from llava_finetune.serve.sampling import Sampling

    loaded = load_model(choice)
    print(loaded_line(loaded, choice.model, choice.bits), file=sys.stderr)
    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_p, arguments.seed)
    engine = Engine(loaded, max_batch=1).start()
    chat = Chat(engine, sampling, arguments.system)
    chat.attach(arguments.image, pictures)
    try:
        if arguments.once is not None:
            chat.say(_piped(loaded.context_length) if arguments.once == "-" else arguments.once)
            return 0
        return converse(chat)
    finally:
        engine.close(5)


def _piped(context_length: int) -> str:
    """The question on stdin, and no more of it than the model could read: a device has no end."""
    from llava_finetune.serve.prompts import CHARACTERS_PER_TOKEN

    try:
        return sys.stdin.read(context_length * CHARACTERS_PER_TOKEN + 1)
    except UnicodeDecodeError as error:
        raise UserError(
            f"the question on stdin is no text in {error.encoding} ({error.reason}); send it as that"
        ) from None


def _picture(path: str) -> Any:
    from data_prep.errors import PictureError, PictureFault
    from data_prep.records.near_names import near_file
    from data_prep.records.picture import open_image

    try:
        return open_image(path)
    except PictureError as error:
        near = near_file(path) if error.fault is PictureFault.MISSING else None
        raise UserError(f"{error}; did you mean {near}?" if near else str(error)) from error


class Chat:
    """A conversation with one engine: messages so far, pictures waiting for the next one."""

    def __init__(self, engine: Any, sampling: Any, system: str | None = None, out: TextIO | None = None) -> None:
        self.engine, self.sampling, self.system = engine, sampling, system
        self.out = out or sys.stdout
        self.messages: list[Any] = []
        self.names: list[str] = []
        self.waiting: list[tuple[str, Any]] = []

    def attach(self, paths: Sequence[str], pictures: Sequence[Any]) -> None:
        """Pictures for the next message, with the paths they came from."""
        self.waiting += list(zip(paths, pictures, strict=True))

    def reset(self) -> None:
        """Forget messages and waiting pictures."""
        self.messages, self.names, self.waiting = [], [], []

    def say(self, text: str) -> None:
        """Send a message and print the answer as it comes; the numbers go to stderr. A failed message is forgotten."""
        from llava_finetune.serve.prompts import Message

        message = Message("user", text, tuple(picture for _, picture in self.waiting))
        self.messages.append(message)
        try:
            self._answer()
        except UserError:
            self.messages.pop()
            raise
        self.names += [name for name, _ in self.waiting]
        self.waiting = []

    def retry(self) -> None:
        """Answer the last question again."""
        if not self.messages:
            raise UserError("nothing was asked yet")
        if self.messages[-1].role == "assistant":
            self.messages.pop()
        self._answer()

    def _answer(self) -> None:
        from llava_finetune.serve.engine import Done, Failed, Text
        from llava_finetune.serve.prompts import Message

        system = [Message("system", self.system)] if self.system is not None else []
        prompt = self.engine.prompt([*system, *self.messages])
        ticket = self.engine.submit(prompt, self.sampling)
        answer, events = "", iter(ticket)
        while True:
            try:
                event = next(events)
            except KeyboardInterrupt:
                ticket.cancel()
                continue
            if isinstance(event, Text):
                answer += event.text
                print(event.text, end="", flush=True, file=self.out)
            elif isinstance(event, Failed):
                print(file=self.out)
                raise UserError(event.message)
            elif isinstance(event, Done):
                print(flush=True, file=self.out)
                self.messages.append(Message("assistant", answer))
                rate = rate_text(event.completion_tokens, event.seconds)
                print(
                    f"[{event.prompt_tokens} + {event.completion_tokens} tokens, "
                    f"first after {event.first_token:.2f} s, {rate}, ended by {event.reason}]",
                    file=sys.stderr,
                )
                return

    def record(self, name: str) -> dict[str, Any]:
        """The conversation as a record that training reads."""
        turns = []
        for message in self.messages:
            marks = f"{IMAGE_TOKEN}\n" * len(message.pictures)
            turns.append({"from": "human" if message.role == "user" else "gpt", "value": marks + message.text})
        out: dict[str, Any] = {"id": name, "conversations": turns}
        if self.names:
            out["image"] = self.names[0] if len(self.names) == 1 else self.names
        return out


def converse(chat: Chat) -> int:
    """Read lines until the end of input."""
    print("Type a question; /image PATH attaches a picture, /help lists the commands.", file=chat.out)
    with line_history():
        while True:
            try:
                line = input("you> ").strip()
            except EOFError:
                print(file=chat.out)
                return 0
            except KeyboardInterrupt:
                print(file=chat.out)
                continue
            except UnicodeDecodeError as error:
                print(f"error: no text in {error.encoding} ({error.reason})", file=chat.out)
                continue
            if not line:
                continue
            if line in ("/quit", "/exit"):
                return 0
            try:
                if line.startswith("/"):
                    run_command(chat, line)
                else:
                    print("model> ", end="", flush=True, file=chat.out)
                    chat.say(line)
            except (UserError, OSError, RuntimeError) as error:  # the last: ~ of somebody who is not here
                print(f"error: {error}", file=chat.out)


def run_command(chat: Chat, line: str) -> None:
    """Run one `/command`. Raises UserError for an unknown or incomplete one."""
    try:
        name, *rest = shlex.split(line)
    except ValueError as error:
        raise UserError(f"{line}: {error}; put a path with spaces between quotes") from None
    if name == "/image" and rest:
        paths = [str(Path(path).expanduser()) for path in rest]
        chat.attach(paths, [_picture(path) for path in paths])
        print(f"{len(chat.waiting)} picture(s) for the next message", file=chat.out)
    elif name == "/reset":
        chat.reset()
        print("conversation forgotten", file=chat.out)
    elif name == "/retry":
        print("model> ", end="", flush=True, file=chat.out)
        chat.retry()
    elif name == "/history":
        for message in chat.messages:
            pictures = f" [{len(message.pictures)} picture(s)]" if message.pictures else ""
            print(f"{'you' if message.role == 'user' else 'model'}>{pictures} {message.text}", file=chat.out)
    elif name == "/save" and len(rest) == 1:
        save(chat, Path(rest[0]).expanduser())
    elif name == "/help":
        print(HELP, file=chat.out)
    else:
        raise UserError(f"{line}: no such command, or something is missing after it; /help lists the commands")


def save(chat: Chat, path: Path) -> None:
    """Write the conversation as the one record of a new file."""
    from data_prep.records.record import write_records

    if not chat.messages:
        raise UserError("nothing to save yet")
    if path.exists():
        raise UserError(f"{path} exists; give another name")
    write_records(path, [chat.record(path.stem)])
    print(f"saved {len(chat.messages)} messages to {path}", file=chat.out)


@contextlib.contextmanager
def line_history() -> Any:
    """Arrow keys and the lines of earlier sessions, where the terminal has readline; the file is the user's alone."""
    try:
        import readline
    except ImportError:
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "llava-finetune"
    path = state / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            state.mkdir(parents=True, exist_ok=True)
            readline.set_history_length(1000)
            path.touch(mode=0o600)
            readline.write_history_file(path)
