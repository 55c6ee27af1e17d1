"""Boxes on the quickstart's model: it learns where the shape of easy-VQA's pictures is, and what it forgets meanwhile.

    python benchmarks/boxes_walk.py --quickstart runs/quickstart --output runs/boxes

The boxes are measured on the pictures themselves (a shape on a plain ground), written as a COCO file, and converted by
`data_prep coco-boxes`. The quickstart's merged model, which answers easy-VQA's questions and has never seen a box, is
trained on them, without and with `--replay` of such questions. Prints a line for the model before and one for each
training: IoU and accuracy at 0.5 on pictures of the test split, and exact match on its questions, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.quickstart_parts import ask, easy_vqa_pictures, run, with_interval  # noqa: E402

SHAPES = ("circle", "rectangle", "triangle")


def box(path: Path) -> list[int]:
    """[x, y, width, height] in pixels of what differs from the picture's corner by more than its noise."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    ys, xs = np.nonzero(np.abs(pixels - pixels[0, 0]).sum(-1) > 30)
    return [int(value) for value in (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)]


def coco(split: str, number: int, output: Path) -> Path:
    """The first `number` pictures of a split as records with boxes."""
    pictures = easy_vqa_pictures()
    asked = json.loads((pictures / split / "questions.json").read_text(encoding="utf-8"))
    shapes = {picture: answer for _, answer, picture in asked if answer in SHAPES}
    names = [name for name in sorted(shapes) if (pictures / split / f"images/{name}.png").is_file()][:number]
    boxes = {name: box(pictures / split / f"images/{name}.png") for name in names}
    made = {
        "images": [
            {"id": name, "file_name": f"{split}/images/{name}.png", "width": 64, "height": 64} for name in names
        ],
        "categories": [{"id": index, "name": shape} for index, shape in enumerate(SHAPES)],
        "annotations": [
            {"id": name, "image_id": name, "category_id": SHAPES.index(shapes[name]), "bbox": at, "area": at[2] * at[3]}
            for name, at in boxes.items()
        ],
    }
    instances, records = output / f"instances-{split}.json", output / f"{split}.json"
    instances.write_text(json.dumps(made), encoding="utf-8")
    run(
        sys.executable, "-m", "data_prep", "coco-boxes", str(instances), "--images", str(pictures), "--to", "square",
        "--decimals", "2", "--ask", "where", "--output", str(records),
    )  # fmt: skip
    return records


def train(options: argparse.Namespace, records: Path, output: Path, *flags: str) -> None:
    """LoRA, projector and tower on the boxes."""
    run(
        "bash", "scripts/finetune_lora.sh", "--version", "chatml_direct", "--gradient_checkpointing", "False",
        "--dataloader_num_workers", "0", "--lora_targets", "language,vision", "--lora_dropout", "0",
        "--learning_rate", "5e-4", "--mm_projector_lr", "5e-4", "--num_train_epochs", "1", "--save_strategy", "no",
        *flags, *options.flags,
        MODEL=str(options.quickstart / "merged"), DATA=str(records), IMAGES=str(easy_vqa_pictures()),
        OUTPUT=str(output), GLOBAL_BATCH="8", PER_GPU_BATCH="4", NUM_GPUS="2",
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Train, ask, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, default=Path("runs/quickstart"), help="folder of its run")
    parser.add_argument("--output", type=Path, required=True, help="a folder")
    parser.add_argument("--records", type=int, default=2000, help="training pictures")
    parser.add_argument("--replay", nargs="+", default=["0", "0.3"], help="shares of replayed questions, a run each")
    parser.add_argument("--test", type=int, default=300, help="held-out pictures, and held-out questions")
    parser.add_argument("flags", nargs="*", help="of the training, behind --: -- --learning_rate 2e-4")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    data = options.quickstart / "data"
    records, held = coco("train", options.records, options.output), coco("test", options.test, options.output)
    print("| model | IoU | boxes at 0.5 | questions right |\n|---|---|---|---|")
    models = {"before": options.quickstart / "merged"}
    for share in options.replay:
        name = f"boxes, --replay {share}" if float(share) else "boxes"
        models[name] = options.output / f"replay-{share}"
        flags = ["--replay", f"{data / 'train.json'}:{share}"] if float(share) else []
        train(options, records, models[name], *flags)
    for name, model in models.items():
        folder = options.output / f"scores-{model.name}"
        boxes = ask(model, held, folder, "boxes", options.test, max_new_tokens=40)
        kept = ask(model, data / "test.json", folder, "questions", options.test)
        low, high = boxes["box_iou_interval"]
        cells = (
            f"{boxes['box_iou']:.3f} ({low:.3f} to {high:.3f})",
            with_interval(boxes["box_accuracy"], boxes["box_accuracy_interval"]),
            with_interval(kept["exact_match"], kept["interval"]),
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
