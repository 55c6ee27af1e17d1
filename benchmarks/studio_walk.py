"""The studio's thirty-minute walk: HEIC photographs and a CSV to a tuned, certified model, by clicks alone.

A real Chromium drives a real `llava-finetune studio` process; the photographs are rendered chess pieces. Each step is
timed and its screen is kept. Not a test: it trains a real model for as long as the machine needs.

    python benchmarks/studio_walk.py --model runs/quickstart/merged --output build/studio-walk
    python benchmarks/studio_walk.py --model FOLDER --output build/studio-walk --max-steps 20 --until train

Writes OUTPUT/walk.json (steps with their seconds, and what was answered) and a picture of each screen. Exit code 1
where a step did not come to its end; what was reached by then is written all the same.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.data_prep import chess

STEPS = ("bring", "take", "prepare", "train", "merge", "export", "certify", "ask")
QUESTION = "Which chess piece is it?"
RUN = "run-1"
PATIENCE = {"prepare": 600, "train": 3600, "merge": 1200, "export": 1200, "certify": 2400, "ask": 1200}
"""Seconds that a step may take."""


class Walk:
    """One walk: the window, the files that are brought, and what was seen on the way."""

    def __init__(self, window: Any, files: Path, output: Path, max_steps: int | None) -> None:
        self.window, self.files, self.output, self.max_steps = window, files, output, max_steps
        self.seen: list[dict[str, Any]] = []

    def step(self, name: str) -> None:
        """Take one step, time it, and keep its screen."""
        began = time.monotonic()
        self.window.set_default_timeout(1000 * PATIENCE.get(name, 120))
        act: Callable[[], object] = getattr(self, name)
        try:
            said = act()
        finally:
            self.window.screenshot(path=self.output / f"{len(self.seen) + 1}-{name}.png", full_page=True)
        self.seen.append({"step": name, "seconds": round(time.monotonic() - began, 1), "said": said})
        print(f"{name}: {self.seen[-1]['seconds']} s  {said or ''}", flush=True)

    def bring(self) -> str:
        """Choose the folder of photographs, then the table."""
        self.window.wait_for_selector("#choose-folder")
        self.window.set_input_files("#choose-folder-input", self.files / "photos")
        self.window.wait_for_selector(".preview h3:has-text('photos')")
        self.window.set_input_files("#choose-files-input", self.files / "pieces.csv")
        self.window.wait_for_selector(".preview h3:has-text('pieces.csv')")
        return str(self.window.inner_text(".preview h3"))

    def take(self) -> str:
        """Take the table's rows with one question for all."""
        self.window.fill("#question", QUESTION)
        self.window.click("#take")
        self.window.wait_for_selector(".row img")
        return str(self.window.inner_text(".about"))

    def prepare(self) -> str:
        """Check and split."""
        self.window.click("#prepare")
        self.window.wait_for_selector(".next a")
        return str(self.window.inner_text(".about"))

    def train(self) -> str:
        """Start a training with the usual settings, and wait for its end."""
        self.window.click(".next a")
        self.window.wait_for_selector("#how-long")
        if self.max_steps:
            self.window.click("form summary >> nth=0")
            self.window.fill("[data-flag='--max_steps']", str(self.max_steps))
            self.window.press("[data-flag='--max_steps']", "Tab")
        self.window.screenshot(path=self.output / "before-training.png", full_page=True)
        self.window.click("#start")
        self.window.wait_for_selector("#stand .pill:is(.done, .failed, .killed, .stopped)")
        self._require(self.window.inner_text("#stand .pill") == "done", "#stand")
        return str(self.window.inner_text("#stand .lead"))

    def merge(self) -> str:
        """One model of base and adapter."""
        self.window.click("#use")
        return self._make("merge")

    def export(self) -> str:
        """The layout that other programs read."""
        return self._make("export")

    def certify(self) -> str:
        """Which installed programs answer as the model does."""
        return self._make("certify")

    def ask(self) -> str:
        """A new photograph, asked about beside the base."""
        self.window.click("#load")
        self.window.wait_for_selector("#choose-picture")
        self.window.set_input_files("#new-picture", self.files / "new.heic")
        self.window.wait_for_selector(".shown img")
        self.window.fill("#ask", QUESTION)
        self.window.press("#ask", "Enter")
        self.window.wait_for_selector("#answers dl")
        said = str(self.window.inner_text("#answers dl"))
        self.window.click("#unload")
        return " | ".join(said.splitlines())

    def _make(self, kind: str) -> str:
        item = f"#products li:has([data-make={kind}], .path)"
        self.window.click(f"[data-make={kind}]")
        self.window.wait_for_timeout(3000)
        self.window.wait_for_selector("#products li .pill:is(.running, .waiting)", state="detached")
        self._require(not self.window.locator("#products .pill.failed").count(), "#products")
        return str(self.window.locator(item).filter(has=self.window.locator(".path")).last.inner_text())

    def _require(self, is_right: bool, place: str) -> None:
        if not is_right:
            raise RuntimeError(self.window.inner_text(place))


def main() -> int:
    """Make the files, start the studio, walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the model to begin with")
    parser.add_argument("--output", type=Path, required=True, help="folder for workspace, screens and walk.json")
    parser.add_argument("--each", type=int, default=8, help="photographs of each piece and colour (default: 8)")
    parser.add_argument("--max-steps", type=int, help="end the training early")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="the last step to take")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    files = photographs(options.output / "files", options.each)
    command = [sys.executable, "-m", "llava_finetune", "studio", str(options.output / "workspace"), "--port", "0"]
    with subprocess.Popen([*command, "--model", str(options.model)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip().rpartition(" ")[2]
            return walk(address, files, options)
        finally:
            server.terminate()


def photographs(folder: Path, each: int) -> Path:
    """HEIC photographs in photos/, their table beside it, and a new photograph that is in neither."""
    chess.main([str(folder / "drawn"), "--each", str(each)])
    drawn = sorted((folder / "drawn").rglob("train/*.heic"))
    (folder / "photos").mkdir(exist_ok=True)
    lines = ["image,answer"]
    for path in drawn[1:]:
        path.replace(folder / "photos" / path.name)
        lines.append(f"{path.name},{' '.join(path.stem.split('-')[:2])}")
    drawn[0].replace(folder / "new.heic")
    (folder / "pieces.csv").write_text("\n".join(lines) + "\n")
    return folder


def walk(address: str, files: Path, options: argparse.Namespace) -> int:
    """All steps up to the last wanted one."""
    from playwright.sync_api import sync_playwright

    browser = subprocess.run(["bash", "scripts/browser.sh"], capture_output=True, text=True, check=True).stdout.strip()
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        window = instance.new_page(viewport={"width": 1280, "height": 860}, locale="en-GB")
        window.goto(address)
        taken = Walk(window, files, options.output, options.max_steps)
        code = 0
        try:
            for name in STEPS[: STEPS.index(options.until) + 1]:
                taken.step(name)
        except Exception as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            code = 1
        total = round(sum(one["seconds"] for one in taken.seen), 1)
        (options.output / "walk.json").write_text(json.dumps({"seconds": total, "steps": taken.seen}, indent=2) + "\n")
        print(f"{len(taken.seen)} of {len(STEPS)} steps in {total} s", flush=True)
        return code


if __name__ == "__main__":
    sys.exit(main())
