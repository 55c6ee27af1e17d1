"""Tiny models of every family, an adapter, merged and exported folders, and a running server, each made once."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.tiny import make_tiny_llava

NUM_RECORDS = 100


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A reproducible picture whose every border matters."""
    from llava_finetune.convert.probes import noise as probe_noise

    return probe_noise(width, height, seed)


def sharpen(folder: Path) -> None:
    """Scale a tiny random model's weights so that its greedy answers vary and do not hang on rounding."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    state = load_file(path)
    for name, value in state.items():
        if "vision_tower" not in name and value.ndim == 2:
            state[name] = value * (30 if "lm_head" in name else 4)
    save_file(state, path, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model of a family, by name, made when first asked for."""
    root = tmp_path_factory.mktemp("families")

    def make(name: str) -> Path:
        if not (root / name / "config.json").is_file():
            sharpen(make_tiny_llava(root / name, name))
        return root / name

    return make


def train_adapter(base: Path, out: Path, targets: str | None = None, seed: int = 5) -> Path:
    """An adapter folder as training leaves it, its LoRA and projector moved at random instead of trained."""
    import torch
    from peft import LoraConfig, get_peft_model

    from llava_finetune.model.loading import load
    from llava_finetune.saved.manifest import write_manifest

    loaded = load(str(base), dtype="fp32")
    torch.manual_seed(seed)
    modules = targets or r".*model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    model = get_peft_model(loaded.model, LoraConfig(r=8, lora_alpha=16, target_modules=modules))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
        elif "mm_projector" in name:
            value.data += torch.randn_like(value) * 0.1
    model.save_pretrained(out)
    trained = {name: value.data for name, value in model.named_parameters() if "mm_projector" in name}
    torch.save(trained, out / "non_lora_trainables.bin")
    model.config.save_pretrained(out)
    write_manifest(out, kind="adapter", base=str(base), conversation=loaded.template, dtype="float32")
    return out


@pytest.fixture(scope="session")
def adapter(family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter over the tiny LLaVA-1.5, with its projector."""
    return train_adapter(family("llava-1.5"), tmp_path_factory.mktemp("adapter") / "run")


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 held-out records (records.json) beside their pictures."""
    folder = tmp_path_factory.mktemp("held-out")
    records = []
    for index in range(NUM_RECORDS):
        noise(40 + index % 37, 50 + index % 23, index).save(folder / f"{index}.png")
        turns = [
            {"from": "human", "value": f"<image>\nWhat is in picture {index}?"},
            {"from": "gpt", "value": "a red circle"},
        ]
        records.append({"id": f"r-{index}", "image": f"{index}.png", "conversations": turns})
    (folder / "records.json").write_text(json.dumps(records))
    return folder


@pytest.fixture(scope="session")
def exported(family: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The llava-hf folder of a family, by name, made when first asked for."""
    from llava_finetune.convert.export import export

    root = tmp_path_factory.mktemp("exported")

    def make(name: str) -> Path:
        if not (root / name).is_dir():
            export(str(family(name)), root / name)
        return root / name

    return make


def tensors(folder: Path) -> dict[str, Any]:
    """All tensors of a folder's safetensors files."""
    from safetensors.torch import load_file

    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def transformers_own(folder: Path) -> tuple[Any, Any]:
    """transformers' own processor and model (fp32), as anybody would load them."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoProcessor.from_pretrained(folder), model


def assert_same_answers(loaded: Any, processor: Any, model: Any) -> None:
    """Upstream's code and transformers' give logits within 1e-4 and the same greedy tokens, pictures of all shapes."""
    import torch

    from llava_finetune.convert.parity import forward
    from llava_finetune.serve.prompts import Message, build_prompt

    question = "What is the color of the shape?"
    for size in ((130, 47), (41, 120), (56, 56)):
        picture = noise(*size)
        prompt = build_prompt(loaded, [Message("user", question, (picture,))])
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        ours = forward(loaded, prompt.input_ids, [picture]).logits
        with torch.inference_mode():
            theirs = model(**inputs).logits[0]
            generated = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert theirs.shape[0] == ours.shape[0] == prompt.length
        width = min(theirs.shape[1], ours.shape[1])
        assert (theirs[:, :width] - ours[:, :width]).abs().max() < 1e-4
        images = torch.stack(prompt.pixel_values)
        expected = loaded.model.generate(
            torch.tensor([prompt.input_ids]),
            images=images if images.ndim == 4 else list(prompt.pixel_values),
            image_sizes=prompt.sizes,
            attention_mask=torch.ones(1, len(prompt.input_ids), dtype=torch.long),
            max_new_tokens=12,
            do_sample=False,
        )
        assert generated[0, inputs["input_ids"].shape[1] :].tolist() == expected[0].tolist()


def data_url(image: Image.Image, kind: str = "PNG") -> str:
    """A picture as a data URL."""
    out = io.BytesIO()
    image.save(out, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass
class Running:
    """A server in this process: its address, what it shares with its routes, and its uvicorn server."""

    url: str
    server: Any
    uvicorn: Any


class _Serving:
    """uvicorn in a thread, stopped in order."""

    def __init__(self, server: Any, application: Any) -> None:
        import uvicorn

        from llava_finetune.serve.command import graceful_server, listen

        self.socket = listen("127.0.0.1", 0)
        config = uvicorn.Config(application, log_level="warning", access_log=False, timeout_graceful_shutdown=20)
        self.running = Running(
            f"http://127.0.0.1:{self.socket.getsockname()[1]}", server, graceful_server(config, server)
        )
        self.thread = threading.Thread(target=self.running.uvicorn.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self) -> Running:
        self.thread.start()
        deadline = time.monotonic() + 60
        while not self.running.uvicorn.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        return self.running

    def __exit__(self, *exc: object) -> None:
        self.running.uvicorn.should_exit = True
        self.thread.join(40)
        for engine in self.running.server.engines.values():
            engine.close(5)
        self.socket.close()


def serving(server: Any, application: Any) -> _Serving:
    """Serve an application on a free loopback port inside a `with` block."""
    return _Serving(server, application)


@pytest.fixture(scope="session")
def loaded(adapter: Path) -> Any:
    """The tiny fine-tuned model, loaded (fp32)."""
    from llava_finetune.model.loading import load

    return load(str(adapter), dtype="fp32")


@pytest.fixture(scope="session")
def api(loaded: Any) -> Iterator[Running]:
    """The API over the tiny model, without a page."""
    from llava_finetune.serve.api import Server, build_app
    from llava_finetune.serve.engine import Engine
    from llava_finetune.serve.limits import Limits

    limits = Limits(body_bytes=3_000_000, picture_bytes=1_000_000, pixels=4_000_000, pictures=4)
    server = Server({"tiny": Engine(loaded, max_batch=4, max_queue=8).start()}, limits)
    with serving(server, build_app(server)) as running:
        yield running


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above, for tests."""
    return SimpleNamespace(
        noise=noise,
        tensors=tensors,
        data_url=data_url,
        train_adapter=train_adapter,
        sharpen=sharpen,
        serving=serving,
        transformers_own=transformers_own,
        assert_same_answers=assert_same_answers,
    )
