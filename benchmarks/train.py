"""Training speed and memory, ours beside the peers' and upstream's own trainer, on the same work.

Each repetition runs every trainer in turn in a process of its own: same records and order, token ids, labels, starting
weights, batch and precision. The first check is the loss at step 0. Peers get their own environments in build/peers.

    python benchmarks/train.py --quick                     small model, CPU, 2 repetitions (about 20 minutes)
    python benchmarks/train.py --model runs/quickstart/base/language-model --tower runs/quickstart/base/tower
    python benchmarks/train.py --size 7b --batch 16        random weights in LLaVA-1.5-7B's shape, for a GPU

Prints a table of medians and ratios and writes JSON (--output).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # before this folder, whose data_prep.py is not the package
PEERS = ROOT / "build" / "peers"
#: what pip is given beside torch; the last three allow only older releases of transformers, and bring their own
PINS = {
    "trl": [
        "trl==1.16.0",
        "transformers",
        "peft",
        "accelerate",
        "pillow",
        "sentencepiece",
        "-c",
        str(ROOT / "constraints.txt"),
    ],
    "llamafactory": ["llamafactory==0.9.5", "torchvision", "torchaudio"],
    "swift": ["ms-swift==4.6.0"],
    "unsloth": ["unsloth==2026.10.9"],
}
NAMES = {
    "ours": "llava-finetune",
    "upstream": "upstream's trainer",
    "hf": "HF Trainer",
    "trl": "TRL SFTTrainer",
    "llamafactory": "LLaMA-Factory",
    "swift": "ms-swift",
    "unsloth": "unsloth",
}
TRAINERS_HELP = "which, in turn (default: all but unsloth, which refuses models with pictures where no GPU is)"
#: hidden, intermediate, layers, heads, key-value heads, vocabulary of the published language models
SIZES = {"7b": (4096, 11008, 32, 32, 32, 32000), "34b": (7168, 20480, 60, 56, 8, 64000)}
TOLERANCE = 0.02  # bf16: eager and SDPA attention alone differ by 0.3 %


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison. Exit codes: 0 done, 1 the losses at step 0 differ or a trainer failed, 2 wrong use."""
    options = parse(argv)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    job = prepare(options, work)
    (work / "job.json").write_text(json.dumps(job))
    runs = repeat(options, work)
    result = summarize(runs, job, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(options.output)
    print(table(result))
    print(f"written: {options.output}")
    return 0 if result["same_loss_at_step_0"] and not result["failed"] else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 repetitions of 3 measured steps, batch 4")
    parser.add_argument("--trainers", default="ours,trl,hf,llamafactory,swift,upstream", help=TRAINERS_HELP)
    parser.add_argument("--model", type=Path, default=ROOT / "runs/quickstart/base/language-model")
    parser.add_argument("--tower", type=Path, default=ROOT / "runs/quickstart/base/tower")
    parser.add_argument("--records", type=Path, default=ROOT / "runs/quickstart/data/train.json")
    parser.add_argument("--images", type=Path, help="default: easy-VQA's, from its package")
    parser.add_argument("--size", choices=sorted(SIZES), help="random weights of this shape instead of --model")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="measured steps, after one to warm up")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.05, help="of LoRA; upstream's and TRL's default")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--switches", default="", help="further flags of ours, e.g. '--unpadded False'")
    parser.add_argument("--work", type=Path, default=ROOT / "build/benchmarks/train")
    parser.add_argument("--output", type=Path, default=ROOT / "build/benchmarks/train.json")
    options = parser.parse_args(argv)
    if options.quick:
        options.repetitions, options.steps, options.batch = 2, 3, 4
    options.trainers = options.trainers.split(",")
    if unknown := [name for name in options.trainers if name not in NAMES]:
        parser.error(f"--trainers {','.join(unknown)}: expected some of {', '.join(NAMES)}")
    if options.images is None:
        import easy_vqa

        options.images = Path(easy_vqa.__file__).parent / "data"
    for path in (options.tower, options.records, *([] if options.size else [options.model])):
        if not path.exists():
            parser.error(f"{path} is missing; the quickstart makes it (bash scripts/quickstart.sh), or name another")
    return options


def prepare(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """What every trainer starts from: one LLaVA in upstream's layout, its export, the records, ids and labels."""
    number = options.batch * (options.steps + 1)
    records = json.loads(options.records.read_text())[:number]
    (work / "records.json").write_text(json.dumps(records))
    start, exported = work / "start", work / "exported"
    if not (start / "llava_finetune.json").is_file():
        print("building the model that everybody starts from")
        make_start(options, start)
    if set(options.trainers) - {"ours", "upstream"} and not (exported / "config.json").is_file():
        command = ["export", str(start), str(exported), "--vision-tower", str(options.tower)]
        subprocess.run([sys.executable, "-m", "llava_finetune", *command], cwd=ROOT, check=True)
    from llava_finetune.data.masking import encode
    from llava_finetune.model.building import load_tokenizer

    config = json.loads((start / "config.json").read_text())
    template = json.loads((start / "llava_finetune.json").read_text())["conversation"]
    tokenizer = load_tokenizer(str(start), None, 2048)
    encoded = [encode(record["conversations"], template, tokenizer) for record in records]
    (work / "encoded.json").write_text(json.dumps([[item.input_ids, item.labels] for item in encoded]))
    tower = json.loads((options.tower / "config.json").read_text())
    image_tokens = (tower["image_size"] // tower["patch_size"]) ** 2
    return {
        "start": str(start),
        "exported": str(exported),
        "tower": str(options.tower.resolve()),
        "records": str(work / "records.json"),
        "encoded": str(work / "encoded.json"),
        "images": str(options.images),
        "template": template,
        "image_tokens": image_tokens,
        "rank": options.rank,
        "dropout": options.dropout,
        "batch": options.batch,
        "steps": options.steps + 1,
        "output": str(work / "run"),
        "switches": options.switches.split(),
        "tokens": sum(len(item.input_ids) - 1 + image_tokens for item in encoded) / len(encoded),
        "taught": sum(item.num_supervised for item in encoded) / len(encoded),
        "flops_per_sample": flops_per_sample(encoded, image_tokens, config, options.rank),
    }


def flops_per_sample(encoded: Sequence[Any], image_tokens: int, config: dict[str, Any], rank: int) -> float:
    """Operations that LoRA needs, forward and backward, without padding and with the head on taught tokens only.

    A frozen matrix costs 2 operations per weight forward and 2 backward, a trained one 6 in all; attention's products
    cost 2 T^2 H each forward (half of it, being causal) and twice that backward.
    """
    hidden, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    narrow = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = [(hidden, hidden), (hidden, narrow), (hidden, narrow), (hidden, hidden)]
    shapes += [(hidden, wide), (hidden, wide), (wide, hidden)]
    frozen = layers * sum(a * b for a, b in shapes)
    trained = layers * sum(rank * (a + b) for a, b in shapes)
    total = 0.0
    for item in encoded:
        tokens = len(item.input_ids) - 1 + image_tokens
        total += tokens * (4 * frozen + 6 * trained) + layers * 6 * tokens**2 * hidden
        total += 4 * item.num_supervised * hidden * config["vocab_size"]
    return total / len(encoded)


def make_start(options: argparse.Namespace, folder: Path) -> None:
    """A LLaVA in bf16 from the parts, or of a published shape with random weights; its projector is random (seed 0)."""
    import torch

    from llava_finetune.config.arguments import parse as parse_training
    from llava_finetune.model.saving import copy_tokenizer
    from llava_finetune.saved.manifest import write_manifest
    from llava_finetune.training.beginning import prepare
    from llava_finetune.training.model_setup import put_together

    model_path = options.model if options.size is None else random_language_model(options, folder.parent / "random")
    flags = (
        f"--model_name_or_path {model_path} --data_path {options.records} --output_dir {folder} --bf16 True "
        f"--vision_tower {options.tower.resolve()} --mm_vision_select_layer -1 --mm_projector_type mlp2x_gelu "
        "--mm_use_im_patch_token False --image_aspect_ratio pad"
    )
    torch.manual_seed(0)
    with ExitStack() as locks:
        model, tokenizer, writer = put_together(prepare(parse_training(flags.split()), locks))
    model.to(torch.bfloat16)
    model.config._attn_implementation = "sdpa"
    model.save_pretrained(folder)
    copy_tokenizer(str(model_path), folder, tokenizer)
    model.get_vision_tower().image_processor.save_pretrained(folder)
    write_manifest(folder, kind="model", base=None, conversation=writer.template, dtype="bfloat16")


def random_language_model(options: argparse.Namespace, folder: Path) -> Path:
    """A Llama of a published shape with random bf16 weights and the small model's tokenizer."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, wide, layers, heads, groups, vocabulary = SIZES[options.size]
    small = json.loads((options.model / "config.json").read_text())
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=max(vocabulary, small["vocab_size"]),
        max_position_embeddings=4096,
    )
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(options.model / name, folder / name)
    return folder


def environment(name: str) -> tuple[str, dict[str, str]]:
    """The interpreter and variables of one trainer; a peer's environment is made on first use."""
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    variables["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if name in ("ours", "peak"):
        return sys.executable, {**variables, "PYTHONPATH": str(ROOT)}
    if name == "upstream":
        tree = PEERS / "upstream"
        command = ["-m", "patches", "apply", "--only", "stack", "--output", str(tree)]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return sys.executable, {**variables, "PYTHONPATH": f"{tree}{os.pathsep}{ROOT}"}
    name = {"hf": "trl"}.get(name, name)  # TRL brings what the plain Trainer needs
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "complete").is_file():
        print(f"installing {PINS[name][0]} into {folder} (once, about 3 minutes)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", "torch==2.13.0", *PINS[name]], check=True)
        # A package index may have torchvision for CUDA alone: beside a CPU torch it breaks transformers, which can do
        # without it.
        if subprocess.run([str(python), "-c", "import torchvision"], capture_output=True, check=False).returncode:
            subprocess.run([*pip, "uninstall", "-q", "-y", "torchvision"], check=True)
        (folder / "complete").touch()
    return str(python), variables


def repeat(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Every trainer in turn, repeated; a failed run is kept with its last words."""
    runs = []
    for repetition in range(options.repetitions):
        for name in ["peak", *options.trainers]:
            python, variables = environment(name)
            print(f"[{repetition + 1}/{options.repetitions}] {NAMES.get(name, 'matrix products')}", flush=True)
            subprocess.run(["rm", "-rf", str(work / "run")], check=True)
            command = [python, str(ROOT / "benchmarks" / "trainers.py"), name, str(work / "job.json")]
            done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
            if done.returncode:
                runs.append({"trainer": name, "error": done.stderr.strip()[-1500:]})
                print(f"    failed: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}")
                continue
            runs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return runs


def summarize(runs: Sequence[dict[str, Any]], job: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Medians over all measured steps of all repetitions, and what they are relative to ours."""
    peak = max((run["peak"] for run in runs if "peak" in run), default=0.0)
    rows = {}
    for name in options.trainers:
        mine = [run for run in runs if run["trainer"] == name and "error" not in run]
        if mine:
            rows[name] = row(mine, job, peak)
    first = [row["loss_at_step_0"] for row in rows.values()]
    return {
        "same_loss_at_step_0": bool(first) and max(first) - min(first) <= TOLERANCE * max(first),
        "failed": sorted({run["trainer"] for run in runs if "error" in run}),
        "rows": rows,
        "matmul_peak": peak,
        "job": job,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "python": platform.python_version(),
        },
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "runs": list(runs),
    }


def row(mine: Sequence[dict[str, Any]], job: dict[str, Any], peak: float) -> dict[str, Any]:
    """One trainer's medians. The first step warms up and is left out."""
    clock = [seconds for run in mine for seconds in run["seconds"][1:]]
    busy = [seconds for run in mine for seconds in run["cpu_seconds"][1:]]
    step, batch = statistics.median(clock), job["batch"]
    # On CPU the share is of the time that the cores were ours: a shared machine takes them away.
    working = statistics.median(busy) / mine[0]["threads"] if mine[0].get("threads") else step
    return {
        "loss_at_step_0": mine[0]["losses"][0],
        "losses": mine[0]["losses"],
        "samples_per_second": batch / step,
        "samples_per_cpu_second": batch / statistics.median(busy),
        "spread": (max(busy) - min(busy)) / statistics.median(busy),
        "tokens_per_second": batch * job["tokens"] / step,
        "share_of_peak": batch * job["flops_per_sample"] / working / peak if peak else None,
        "peak_memory": statistics.median(run["peak_memory"] for run in mine),
        "evaluation": statistics.median(run["evaluation"]["seconds"] for run in mine),
        "first_step_after": statistics.median(run["first_step_begins"] for run in mine),
        "load": max(run["load_after"] for run in mine),
        "versions": mine[0]["versions"],
    }


def processor() -> str:
    """The processor's name, and the GPU's where there is one."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(result: dict[str, Any]) -> str:
    """The medians as a Markdown table; ratios are ours over the other."""
    rows = result["rows"]
    ours = rows.get("ours")
    head = "| trainer | loss at step 0 | samples/s | tokens/s | samples per CPU second | ours faster by (clock, CPU) "
    head += "| peak memory | ours needs | of matmul peak while running | first step after | evaluation | load |"
    lines = [head, "|---" * 12 + "|"]
    for name, row in rows.items():
        by = memory = ""
        if ours and name != "ours":
            clock = ours["samples_per_second"] / row["samples_per_second"]
            by = f"{clock:.2f}x, {ours['samples_per_cpu_second'] / row['samples_per_cpu_second']:.2f}x"
            memory = f"{ours['peak_memory'] / row['peak_memory']:.2f}x"
        lines.append(
            f"| {NAMES[name]} | {row['loss_at_step_0']:.4f} | {row['samples_per_second']:.2f} "
            f"| {row['tokens_per_second']:.0f} | {row['samples_per_cpu_second']:.2f} +-{row['spread'] / 2:.0%} | {by} "
            f"| {row['peak_memory'] / 1e9:.2f} GB | {memory} | {row['share_of_peak'] or 0:.0%} "
            f"| {row['first_step_after']:.0f} s | {row['evaluation']:.1f} s | {row['load']:.1f} |"
        )
    machine, job = result["machine"], result["job"]
    lines.append(
        f"\n{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; {result['date']}; batch "
        f"{job['batch']}, {job['tokens']:.0f} tokens per sample, {job['taught']:.0f} taught, LoRA r {job['rank']}, "
        f"dropout {job['dropout']}; matmul peak {result['matmul_peak'] / 1e9:.0f} Gop/s"
    )
    same = "the same for everybody" if result["same_loss_at_step_0"] else "NOT the same: the rows do not compare"
    lines.append(f"loss at step 0: {same} (within {TOLERANCE:.0%})")
    lines += [f"failed: {NAMES.get(name, name)} (see the JSON)" for name in result["failed"]]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
