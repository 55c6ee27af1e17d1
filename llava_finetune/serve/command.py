"""`llava-finetune serve`: the web page and the OpenAI-compatible API of a model, in one process.

llava-finetune serve runs/mine --port 8000
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import getpass
import ipaddress
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.numbers import real, whole
from data_prep.picture_folder import add_images_option
from data_prep.records.json_text import require_regular
from data_prep.records.pixels import add_pixel_option, allow_pixels
from llava_finetune.errors import UsageError, UserError
from llava_finetune.flags import command_parser
from llava_finetune.model.costs import loaded_line, rate_text
from llava_finetune.serve.http_server import listen, run
from llava_finetune.serve.models import ModelChoice, add_model_flags, base_model_of, choice_of, load_model

EXAMPLES = """examples:
  llava-finetune serve runs/mine                      page and API on http://127.0.0.1:8000
  llava-finetune serve runs/mine --bits 4 --no-compare
  LLAVA_SERVE_PASSWORD=... llava-finetune serve runs/mine --host 0.0.0.0 --user me
  curl http://127.0.0.1:8000/v1/models

The page shows the base beside the fine-tuned model: the one that the manifest names, or the stage-1 model before it.
API: /v1/chat/completions, /v1/models, /health, /metrics. LLAVA_API_KEY (or --api-key-file) asks API callers for a
bearer key.
On another address than loopback the page asks for --user and LLAVA_SERVE_PASSWORD, and so does the API.
exit codes: 0 stopped, 1 failed, 2 wrong use"""

LONGEST_KEY = 4096
"""Bytes of a key's file that are read: a header with more is refused."""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    out = command_parser(
        "serve",
        "A web page and an OpenAI-compatible API for a model.",
        EXAMPLES,
    )
    add_model_flags(out)
    out.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    out.add_argument("--port", type=whole(0, 65535), default=8000, help="0 takes a free one (default: 8000)")
    out.add_argument("--name", help="model name in the API (default: the folder's name)")
    out.add_argument("--compare", metavar="MODEL", help="the model shown beside it (default: the base, see above)")
    out.add_argument("--no-compare", action="store_true", help="do not load the base model")
    out.add_argument("--no-page", action="store_true", help="only the API")
    out.add_argument(
        "--user", help="user name that page and API ask for; the password is read from LLAVA_SERVE_PASSWORD"
    )
    out.add_argument("--api-key-file", type=Path, help="file with the API's bearer key (else LLAVA_API_KEY)")
    out.add_argument(
        "--allow-remote", action="append", default=[], metavar="HOST", help="fetch pictures from this public host"
    )
    out.add_argument("--max-batch", type=whole(1, 1024), default=8, help="answers at the same time (default: 8)")
    out.add_argument(
        "--max-queue", type=whole(0), default=32, help="requests waiting at most, 429 beyond (default: 32)"
    )
    out.add_argument(
        "--max-picture-mb", type=real(0, 1e5, above=True), default=10, help="megabytes of a picture (default: 10)"
    )
    add_pixel_option(out)
    out.add_argument("--max-pictures", type=whole(0, 1000), default=8, help="pictures of a request (default: 8)")
    out.add_argument(
        "--grace", type=real(0, 86400), default=60, help="seconds to finish answers when stopped (default: 60)"
    )
    out.add_argument(
        "--records", type=Path, help="records for the page's examples (default: the run's evaluation file)"
    )
    add_images_option(out, "picture folder of --records", dest="images")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; answers under way are finished."""
    arguments = parser().parse_args(argv)
    choice = choice_of(arguments)
    require_packages(page=not arguments.no_page)
    access = access_of(arguments)
    listening = listen(arguments.host, arguments.port)
    with listening, _scratch() as scratch:
        loaded = load_model(choice)
        server, about = build_server(arguments, access, loaded, choice)
        application = build_application(arguments, server, about, scratch)
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(
            f"page and API on http://{shown}:{port}" if not arguments.no_page else f"API on http://{shown}:{port}/v1",
            flush=True,
        )
        try:
            run(application, server, listening, arguments.grace)
        finally:
            for engine in server.engines.values():
                engine.close(1)
    for name, engine in server.engines.items():
        print(f"{name}: {engine.tokens} tokens answered, {rate_text(engine.tokens, engine.seconds)}", flush=True)
    print("stopped", flush=True)
    return 0


def access_of(arguments: argparse.Namespace) -> Any:
    """Who may ask. Raises UsageError when others could reach the server and nothing asks who they are."""
    from llava_finetune.serve.guards import LOOPBACK, Access

    key = os.environ.get("LLAVA_API_KEY") or None
    if arguments.api_key_file:
        key = _key_in(arguments.api_key_file)
    password = os.environ.get("LLAVA_SERVE_PASSWORD") or None
    if arguments.user and not password and sys.stdin.isatty():
        password = getpass.getpass(f"password for {arguments.user}: ") or None
    if arguments.user and not password and is_loopback(arguments.host):
        raise UsageError(f"--user {arguments.user}: there is no password; put it into LLAVA_SERVE_PASSWORD")
    if is_loopback(arguments.host):
        user = arguments.user if password else None
        return Access(key, user, password if user else None, LOOPBACK | {arguments.host})
    if not arguments.user or not password:
        raise UsageError(
            f"--host {arguments.host} can be reached by others: give --user NAME and the password in "
            "LLAVA_SERVE_PASSWORD (or listen on 127.0.0.1 and use an SSH tunnel)"
        )
    return Access(key, arguments.user, password, None)


def _key_in(path: Path) -> str:
    """The bearer key in a file. Raises DataError for what is no file, UsageError for what no header can hold."""
    with require_regular(path).open("rb") as stream:
        key = stream.read(LONGEST_KEY).strip()
    if not key or not all(32 < byte < 127 for byte in key):
        what = "empty" if not key else "a key is one word of ASCII characters, and this is none"
        raise UsageError(f"{path}: {what}; put the key into it")
    return key.decode("ascii")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def build_server(arguments: argparse.Namespace, access: Any, loaded: Any, choice: ModelChoice) -> tuple[Any, str]:
    """Engines (the base's too, when it can answer) and what the page says about them."""
    from llava_finetune.serve.api import Server
    from llava_finetune.serve.limits import Limits

    allow_pixels(arguments.max_pixels)
    limits = Limits(
        picture_bytes=int(arguments.max_picture_mb * 1e6),
        body_bytes=int(arguments.max_picture_mb * 1e6 * 1.4 * min(arguments.max_pictures, 4)) + 1_000_000,
        pictures=arguments.max_pictures,
        remote_hosts=frozenset(host.lower() for host in arguments.allow_remote),
    )
    queueing = {"max_batch": arguments.max_batch, "max_queue": arguments.max_queue}
    name = arguments.name or Path(choice.model).resolve().name
    engines = {name: start_engine(loaded, choice, queueing)}
    about = loaded_line(loaded, choice.model, choice.bits).split(": ", 1)[1]
    base = None if arguments.no_compare else arguments.compare or base_model_of(loaded, choice)
    if base is None and not arguments.no_compare:
        print("nothing to compare with: no base that sees pictures is known; name one with --compare", flush=True)
    if base is not None:
        base_choice = ModelChoice(base, None, choice.dtype, choice.device, choice.bits, choice.vision_tower)
        # Both are asked in the same words: a projector's own template is stage 1's, which drops the question.
        base_loaded = dataclasses.replace(load_model(base_choice), template=loaded.template)
        engines[f"{Path(base).name} (base)"] = start_engine(base_loaded, base_choice, queueing)
    return Server(engines, limits, access), about


def start_engine(loaded: Any, choice: ModelChoice, queueing: dict[str, int]) -> Any:
    """An engine that has answered once: what it costs is printed, and a model that cannot answer fails here."""
    from llava_finetune.serve.engine import Engine, Failed
    from llava_finetune.serve.prompts import Message
    from llava_finetune.serve.sampling import Sampling

    engine = Engine(loaded, **queueing).start()
    *_, end = engine.submit(engine.prompt([Message("user", "Hello")]), Sampling(max_new_tokens=8))
    if isinstance(end, Failed):
        raise UserError(f"{choice.model} does not answer: {end.message}")
    line = loaded_line(loaded, choice.model, choice.bits)
    print(f"{line}, {rate_text(engine.tokens, engine.seconds)} for one answer", flush=True)
    return engine


def build_application(arguments: argparse.Namespace, server: Any, about: str, scratch: Path) -> Any:
    """API, and the page unless it is not wanted."""
    from llava_finetune.serve.api import build_app

    app = build_app(server)
    if arguments.no_page:
        return app
    os.environ["GRADIO_TEMP_DIR"] = str(scratch)
    from llava_finetune.serve.examples import load_examples
    from llava_finetune.serve.page import mount

    examples = load_examples(Path(arguments.model), arguments.records, arguments.images, scratch / "examples")
    if not examples and arguments.records is None:
        known = f"{arguments.model} names no evaluation records"
        print(f"no examples on the page: {known}; name some with --records and --images", flush=True)
    return mount(app, server, examples, about)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A private folder for uploads, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="llava-serve-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_packages(*, page: bool) -> None:
    """Raise UserError where the environment lacks what serves; before a module is imported that needs it."""
    import importlib.util

    wanted = ["fastapi", "uvicorn", "prometheus_client", *(["gradio"] if page else [])]
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} missing: pip install -c constraints.txt -e '.[serve]'")
