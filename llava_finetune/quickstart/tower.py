"""Train a small CLIP vision tower on captioned pictures: an ordinary `CLIPVisionModel` folder comes out.

The tower learns to name its captions' words from the mean of its patch features, by their conditional loss over the
words that tell captions apart (Joulin et al. 2016, "Learning visual features from large weakly supervised data").
The words' head is dropped: stage 1 aligns the patch features to the language model.

    train_tower(Path("captions_train.json"), Path("pictures"), Path("runs/base/tower"), epochs=32)
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from data_prep.records.record import images_of, open_image, read_records, resolve_image
from llava_finetune.errors import UserError
from llava_finetune.quickstart.muon import Muon

SIDE = 64
MAX_SHIFT = 16
BATCH = 64
LEARNING_RATE = 2e-3
VALIDATION_SHARE = 0.05
SHARE_FILE = "training.json"
SIGLIP = "siglip_vision_model"


def _processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def _load(captions: Path, image_folder: Path, processor: Any) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Pixels (N x 3 x 64 x 64), word targets (N x words, float 0/1) and the words, rarest-first order dropped."""
    records = read_records(captions)
    pictures, texts = [], []
    for record in records:
        name = images_of(record)[0]
        picture = open_image(resolve_image(image_folder, name))
        pictures.append(processor.preprocess(picture, return_tensors="pt")["pixel_values"][0])
        texts.append(set(re.findall(r"[a-z]+", record["conversations"][-1]["value"].lower())))
    if not texts:
        raise UserError(f"{captions}: no captions; the tower has nothing to learn from")
    everywhere = set.intersection(*texts)
    words = sorted(set().union(*texts) - everywhere)
    if not words:
        raise UserError(f"{captions}: all captions have the same words; the tower has nothing to tell apart")
    targets = torch.tensor([[float(word in text) for word in words] for text in texts])
    return torch.stack(pictures), targets, words


def _shifted(pixels: torch.Tensor) -> torch.Tensor:
    """Random mirror, and random shifts of up to 16 pixels with the border repeated."""
    padded = functional.pad(pixels, (MAX_SHIFT,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * MAX_SHIFT + 1, (len(pixels), 2)).tolist()
    mirrored = (torch.rand(len(pixels)) < 0.5).tolist()
    shifted = torch.empty_like(pixels)
    for out, picture, (row, column), mirror in zip(shifted, padded, offsets, mirrored, strict=True):
        part = picture[:, row : row + SIDE, column : column + SIDE]
        out.copy_(part.flip(2) if mirror else part)
    return shifted


def _loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each caption word against the words that are not in the caption, summed over its words.

    A word competes with absent words only, so that two words of one caption never push each other down.
    """
    absent = logits.masked_fill(targets.bool(), float("-inf")).logsumexp(1, keepdim=True)
    per_word = functional.softplus(absent - logits) * targets
    return per_word.sum(1).mean()


def _accuracy(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Share of pictures whose top words are exactly their caption's words."""
    counts = targets.sum(1).long()
    ranked = logits.argsort(1, descending=True)
    hits = [
        set(row[:count].tolist()) == set(target.nonzero()[:, 0].tolist())
        for row, count, target in zip(ranked, counts, targets, strict=True)
    ]
    return sum(hits) / len(hits)


class _Patches(torch.nn.Module):
    """The patch convolution as one product over the same weight: a CPU's convolution backward is 8 times slower."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features (N x hidden x rows x columns) of pictures N x 3 x height x width."""
        side = self.weight.shape[-1]
        patches = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return functional.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _features(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Features of the patches, N x 16 x 192, of pictures N x 3 x 64 x 64: what LLaVA reads at its layer -1, and SmolVLM
    behind the last norm."""
    if tower.config.model_type == SIGLIP:
        return tower(pixels).last_hidden_state  # type: ignore[no-any-return]
    features: torch.Tensor = tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    return features


def _new_tower(start: Path | None) -> Any:
    """A CLIP tower; with `start` a SigLIP tower that has the layers, patches and positions of that CLIP tower."""
    shape = {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 512,
        "image_size": SIDE,
        "patch_size": 16,
    }
    if start is None:
        return CLIPVisionModel._from_config(CLIPVisionConfig(**shape, projection_dim=192), attn_implementation="eager")
    clip = CLIPVisionModel.from_pretrained(start)
    config = SiglipVisionConfig(**shape, hidden_act=clip.config.hidden_act, vision_use_head=False)
    tower = SiglipVisionModel._from_config(config, attn_implementation="eager")
    taken = {name: value for name, value in clip.state_dict().items() if name in tower.state_dict()}
    taken["embeddings.position_embedding.weight"] = clip.embeddings.position_embedding.weight[1:]
    absent, _ = tower.load_state_dict(taken, strict=False)
    assert absent == ["embeddings.patch_embedding.bias"], absent  # CLIP's has none; all else begins as it was
    return tower


class _Words(torch.nn.Module):
    def __init__(self, num_words: int, bf16: bool, start: Path | None) -> None:
        super().__init__()
        self.bf16 = bf16
        self.tower = _new_tower(start)
        embeddings = self.tower.embeddings
        embeddings.patch_embedding = _Patches(embeddings.patch_embedding)
        self.head = torch.nn.Linear(192, num_words)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.bf16):
            return self.head(_features(self.tower, pixels).mean(1)).float()  # type: ignore[no-any-return]


def train_tower(
    captions: Path,
    image_folder: Path,
    output: Path,
    epochs: int,
    seed: int = 0,
    processes: int = 1,
    start: Path | None = None,
) -> float:
    """Train the tower and save it with its image processor. Returns the share of held-out captions named exactly.

    A twentieth of the given pictures is held out to measure; no other pictures are looked at. On a CPU each of
    `processes` takes its part of every batch: at this size two processes are twice as fast, two threads are not.
    `start` is a CLIP tower of before: a SigLIP tower comes out, which begins with its layers.
    """
    processor = _processor()
    pixels, targets, words = _load(captions, image_folder, processor)
    print(f"vision tower: {len(pixels)} pictures, {len(words)} words ({', '.join(words[:12])}), {epochs} epochs")
    with tempfile.TemporaryDirectory() as meeting:
        job = (processes, f"file://{meeting}/ranks", pixels, targets, epochs, seed, processor, output, start)
        if processes == 1 or torch.cuda.is_available():
            _train(0, 1, *job[1:])
        else:
            torch.multiprocessing.spawn(_train, job, nprocs=processes)
    return float(json.loads((output / SHARE_FILE).read_text(encoding="utf-8"))["held_out_captions_named"])


def _train(
    rank: int,
    world: int,
    meeting: str,
    pixels: torch.Tensor,
    targets: torch.Tensor,
    epochs: int,
    seed: int,
    processor: Any,
    output: Path,
    start: Path | None,
) -> None:
    from llava_finetune.config.precision import cpu_has_bf16

    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    order = torch.randperm(len(pixels))
    num_held = max(1, int(len(pixels) * VALIDATION_SHARE))
    held, train = order[:num_held], order[num_held:]
    model = _Words(targets.shape[1], device == "cuda" or cpu_has_bf16(), start).to(device)
    steps = max(1, len(train) // BATCH)
    optimizers = _optimizers(model)
    total = steps * epochs
    schedules = [OneCycleLR(each, LEARNING_RATE, total, pct_start=0.15, cycle_momentum=False) for each in optimizers]
    began = time.monotonic()
    for epoch in range(1, epochs + 1):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed + epoch))
        loss = 0.0
        for chosen in train[order[: steps * BATCH]].split(BATCH):
            mine = chosen[rank::world]
            loss += _step(model, pixels[mine].to(device), targets[mine].to(device), optimizers, world) / steps
            for schedule in schedules:
                schedule.step()
        if rank == 0 and (epoch % 4 == 0 or epoch == epochs):
            share = _share(model, pixels[held].to(device), targets[held])
            left = (time.monotonic() - began) / epoch * (epochs - epoch)
            said = f"  epoch {epoch}/{epochs}  loss {loss:.4f}  held-out captions named {share:.1%}"
            print(f"{said}  {left:.0f} s left", flush=True)
    if rank == 0:
        if start is None:
            _scale_features(model.tower, pixels[held].to(device))
        _save(model.tower, processor, share, output)
    if world > 1:
        torch.distributed.destroy_process_group()


def _optimizers(model: _Words) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest: by AdamW alone, 54 epochs name fewer held-out captions.

    torch's Muon computes in bf16, which `model.bf16` says is fast here.
    """
    matrices: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (matrices if name.startswith("tower.encoder.") and parameter.ndim == 2 else rest).append(parameter)
    muon: torch.optim.Optimizer = (
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        if model.bf16
        else Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05)
    )
    return [muon, torch.optim.AdamW(rest, lr=LEARNING_RATE, weight_decay=0.05, fused=True)]


def _step(
    model: _Words, pixels: torch.Tensor, targets: torch.Tensor, optimizers: list[torch.optim.Optimizer], world: int
) -> float:
    """One step on this process's part of a batch; the gradients are averaged over the processes."""
    loss = _loss(model(_shifted(pixels)), targets)
    model.zero_grad()
    loss.backward()
    if world > 1:
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.nn.utils.parameters_to_vector(grads)
        torch.distributed.all_reduce(flat)
        torch.nn.utils.vector_to_parameters(flat / world, grads)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def _share(model: _Words, pixels: torch.Tensor, targets: torch.Tensor) -> float:
    with torch.no_grad():
        return _accuracy(model(pixels).cpu(), targets)


def _scale_features(tower: Any, pixels: torch.Tensor) -> None:
    """Give the patch features a root mean square of 1, about CLIP's: a projector starts badly on larger ones.

    The stream between the layers scales with all that writes into it; what reads it normalizes it first.
    """
    with torch.no_grad():
        factor = _features(tower, pixels).square().mean().rsqrt()
        writers = [part for layer in tower.encoder.layers for part in (layer.self_attn.out_proj, layer.mlp.fc2)]
        for part in (tower.pre_layrnorm, *writers):
            part.weight.mul_(factor)
            part.bias.mul_(factor)


def _save(tower: Any, processor: Any, share: float, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=output.parent, prefix=".tower-"))
    tower.save_pretrained(work)
    processor.save_pretrained(work)
    (work / SHARE_FILE).write_text(json.dumps({"held_out_captions_named": share}) + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    work.replace(output)
    output.chmod(0o755)
    print(f"vision tower: {sum(p.numel() for p in tower.parameters()) / 1e6:.2f} M parameters in {output}")
