"""`llava-finetune studio`: one page on this machine, from a folder of pictures to a tuned model.

llava-finetune studio my-pictures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_prep.numbers import whole
from llava_finetune.errors import UserError
from llava_finetune.flags import command_parser
from llava_finetune.serve.command import access_of, require_packages
from llava_finetune.serve.http_server import configuration, listen
from llava_finetune.studio.workspace import Workspace

EXAMPLES = """examples:
  llava-finetune studio my-pictures                 a workspace in my-pictures, on http://127.0.0.1:8010
  llava-finetune studio my-pictures --model ~/models/llava-v1.5-7b
  LLAVA_SERVE_PASSWORD=... llava-finetune studio my-pictures --host 0.0.0.0 --user me

Everything lies in the workspace as plain files, and what runs goes on when the page or this command ends.
On another address than loopback the page asks for --user and LLAVA_SERVE_PASSWORD.
exit codes: 0 stopped, 1 failed, 2 wrong use"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    out = command_parser("studio", "From a folder of pictures to a tuned model in the browser.", EXAMPLES)
    out.add_argument("workspace", type=Path, nargs="?", default=Path(), help="folder to work in (default: this one)")
    out.add_argument("--model", type=Path, action="append", default=[], help="a folder with a model, to begin with")
    out.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    out.add_argument("--port", type=whole(0, 65535), default=8010, help="0 takes a free one (default: 8010)")
    out.add_argument("--user", help="user name that the page asks for; the password is read from LLAVA_SERVE_PASSWORD")
    out.set_defaults(api_key_file=None)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until SIGINT or SIGTERM; what was started goes on."""
    arguments = parser().parse_args(argv)
    require_packages(page=False)
    access = access_of(arguments)
    space = Workspace.open(arguments.workspace)
    _allow(space, arguments.model)
    import uvicorn

    from llava_finetune.studio.app import build_app
    from llava_finetune.studio.shared import Studio

    listening = listen(arguments.host, arguments.port)
    with listening:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"studio of {space.folder} on http://{shown}:{port}", flush=True)
        print("what you start there goes on when you close the page or end this command (Ctrl-C)", flush=True)
        uvicorn.Server(configuration(build_app(Studio(space, access)), 2)).run(sockets=[listening])
    print("stopped", flush=True)
    return 0


def _allow(space: Workspace, folders: Sequence[Path]) -> None:
    """Keep the folders of models that may be begun with. Raises UserError for one that holds no model."""
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise UserError(f"--model {folder}: no config.json in it; name a folder with a model")
    if folders:
        before = [one for one in space.settings().get("models", []) if isinstance(one, str)]
        space.keep(models=list(dict.fromkeys([*(str(one.resolve()) for one in folders), *before])))
