"""One trainer, one run, one JSON line: what `benchmarks/train.py` starts in each trainer's own environment.

Every trainer gets the same records in the same order, the same token ids and labels, the same starting weights in bf16,
LoRA on the same layers, a trained projector, a frozen tower, AdamW. Nothing here is imported by the project.

    python benchmarks/trainers.py ours job.json
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib import metadata
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

STARTED = time.time()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # before this folder, whose data_prep.py is no package
MADE: list[Any] = []  # the trainer of this run
IGNORE, IMAGE = -100, -200
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "llamafactory", "ms_swift", "unsloth")
LAYERS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def cpu_seconds() -> float:
    """Processor time of this process so far; on a shared machine steadier than the clock."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timer(facts: dict[str, Any]) -> Any:
    """A callback that keeps the clock and processor seconds of every step, and its loss."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            facts.setdefault("first_step_begins", time.time() - STARTED)
            self.mark = (time.perf_counter(), cpu_seconds())

        def on_step_end(self, args: Any, state: Any, control: Any, **keywords: Any) -> None:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            facts.setdefault("seconds", []).append(time.perf_counter() - self.mark[0])
            facts.setdefault("cpu_seconds", []).append(cpu_seconds() - self.mark[1])
            facts.setdefault("first_step_ends", time.time() - STARTED)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **keywords: Any) -> None:
            if "loss" in (logs or {}):
                facts.setdefault("losses", []).append(float(logs["loss"]))

    return Timer()


def in_order(cls: Any, facts: dict[str, Any]) -> None:
    """Let a Trainer class read its records in the order of the file, and be timed."""
    from torch.utils.data import SequentialSampler

    begin = cls.__init__

    def init(self: Any, *arguments: Any, **keywords: Any) -> None:
        begin(self, *arguments, **keywords)
        self.add_callback(timer(facts))
        MADE.append(self)

    cls.__init__ = init
    cls._get_train_sampler = lambda self, dataset=None: SequentialSampler(self.train_dataset)


def common(job: dict[str, Any]) -> list[str]:
    """The flags that ours and upstream's trainer share."""
    words = (
        f"--data_path {job['records']} --image_folder {job['images']} --lora_enable True --lora_r {job['rank']} "
        f"--lora_alpha {2 * job['rank']} --lora_dropout {job['dropout']} --per_device_train_batch_size {job['batch']} "
        f"--max_steps {job['steps']} --learning_rate 2e-4 --lr_scheduler_type constant --save_strategy no "
        f"--model_name_or_path {job['start']} --vision_tower {job['tower']} --mm_vision_select_layer -1 "
        f"--mm_projector_type mlp2x_gelu --mm_use_im_patch_token False --image_aspect_ratio pad --logging_steps 1 "
        f"--report_to none --optim adamw_torch --bf16 True --dataloader_num_workers 0"
    )
    return words.split()


def ours(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """llava_finetune's trainer, as its command line runs it."""
    from llava_finetune.config.arguments import parse
    from llava_finetune.training import trainer
    from llava_finetune.training.train import train

    in_order(trainer.RunTrainer, facts)
    extra = ["--output_dir", job["output"], "--version", job["template"], "--check_data", "False", *job["switches"]]
    train(parse([*common(job), *extra]))


def upstream(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """Upstream's own trainer with only the patches that today's stack forces."""
    from llava.train import llava_trainer
    from llava.train import train as script

    in_order(llava_trainer.LLaVATrainer, facts)
    encoded = encoded_by_turns(job)
    import torch

    # Upstream's masker does not know the small model's tokenizer: it gets the same ids and labels as the others.
    def preprocess(sources: Any, tokenizer: Any, has_image: bool = False) -> dict[str, Any]:
        ids, labels = encoded[json.dumps([turn["value"] for turn in sources[0]])]
        return {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}

    script.preprocess = preprocess
    cpu = [] if torch.cuda.is_available() else ["--use_cpu", "True"]
    sys.argv = [
        "train",
        *common(job),
        *cpu,
        "--output_dir",
        job["output"],
        "--version",
        "v1",
        "--lazy_preprocess",
        "True",
    ]
    sys.argv += ["--model_max_length", "2048", "--gradient_checkpointing", "False"]
    script.train(attn_implementation="sdpa")


def encoded_by_turns(job: dict[str, Any]) -> dict[str, Any]:
    """Ids and labels by what upstream's masker is handed."""
    encoded = json.loads(Path(job["encoded"]).read_text())
    records = json.loads(Path(job["records"]).read_text())
    out = {}
    for record, pair in zip(records, encoded, strict=True):
        out[json.dumps([turn["value"] for turn in record["conversations"]])] = pair
    return out


def numbers(job: dict[str, Any]) -> Any:
    """A data set of the records' numbers: the collator looks the rest up."""
    from datasets import Dataset

    return Dataset.from_list([{"number": number} for number in range(job["batch"] * job["steps"])])


def collator(job: dict[str, Any]) -> Any:
    """Batches for llava-hf models: placeholders spread out, labels on the answers, pictures by its own processor."""
    import torch
    from PIL import Image
    from transformers import AutoConfig, AutoProcessor

    image = AutoConfig.from_pretrained(job["exported"]).image_token_id
    processor = AutoProcessor.from_pretrained(job["exported"]).image_processor
    encoded = json.loads(Path(job["encoded"]).read_text())
    records = json.loads(Path(job["records"]).read_text())
    tokens = job["image_tokens"]
    pad = torch.nn.utils.rnn.pad_sequence

    def spread(values: list[int], ids: list[int], filler: int) -> Any:
        pairs = zip(values, ids, strict=True)
        return torch.tensor([x for value, token in pairs for x in ([filler] * tokens if token == IMAGE else [value])])

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        chosen = [encoded[example["number"]] for example in examples]
        rows = [spread(ids, ids, image) for ids, _ in chosen]
        labels = [spread(marks, ids, IGNORE) for ids, marks in chosen]
        files = [Path(job["images"]) / records[example["number"]]["image"] for example in examples]
        images = [Image.open(file).convert("RGB") for file in files]
        return {
            "input_ids": pad(rows, True, 0),
            "attention_mask": pad([torch.ones_like(row) for row in rows], True, 0),
            "labels": pad(labels, True, IGNORE),
            "pixel_values": processor(images, return_tensors="pt")["pixel_values"],
        }

    return collate


def adapted(job: dict[str, Any]) -> Any:
    """transformers' LLaVA in bf16 with the same adapters and a trained projector."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(job["exported"], dtype=torch.bfloat16)
    model.config.use_cache = False
    rank = job["rank"]
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=job["dropout"], target_modules=LAYERS)
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "multi_modal_projector" in name:
            parameter.data = parameter.data.float()
            parameter.requires_grad = True
    return model


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """transformers' TrainingArguments for a llava-hf run."""
    import torch

    return {
        "output_dir": job["output"],
        "per_device_train_batch_size": job["batch"],
        "gradient_accumulation_steps": 1,  # ms-swift's own default makes sixteen records a step
        "max_steps": job["steps"],
        "learning_rate": 2e-4,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "optim": "adamw_torch",
        "bf16": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
    }


def plain(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """Hugging Face's Trainer on transformers' LLaVA."""
    from transformers import Trainer, TrainingArguments

    in_order(Trainer, facts)
    made = Trainer(
        model=adapted(job),
        args=TrainingArguments(**settings(job)),
        train_dataset=numbers(job),
        data_collator=collator(job),
    )
    made.train()


def trl(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """TRL's SFTTrainer on transformers' LLaVA."""
    from transformers import AutoTokenizer

    tune(job, facts, adapted(job), AutoTokenizer.from_pretrained(job["exported"]))


def unsloth(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """unsloth's FastVisionModel under TRL's SFTTrainer, which it patches. It refuses pictures without a GPU."""
    import torch
    from unsloth import FastVisionModel

    model, processor = FastVisionModel.from_pretrained(
        job["exported"], load_in_4bit=False, dtype=torch.bfloat16, use_gradient_checkpointing=False
    )
    rank = job["rank"]
    model = FastVisionModel.get_peft_model(
        model, finetune_vision_layers=False, r=rank, lora_alpha=2 * rank, lora_dropout=job["dropout"],
        modules_to_save=["multi_modal_projector"],
    )  # fmt: skip
    tune(job, facts, FastVisionModel.for_training(model), processor.tokenizer)


def tune(job: dict[str, Any], facts: dict[str, Any], model: Any, tokenizer: Any) -> None:
    """Train a llava-hf model that has its adapters with SFTTrainer."""
    from trl import SFTConfig, SFTTrainer

    in_order(SFTTrainer, facts)
    config = SFTConfig(**settings(job), dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    made = SFTTrainer(
        model=model,
        args=config,
        train_dataset=numbers(job),
        data_collator=collator(job),
        processing_class=tokenizer,
    )
    made.train()


def llamafactory(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """LLaMA-Factory's `run_sft`: its loading, adapters and trainer. Its data set and collator give way to the job's."""
    try:
        import torchaudio  # noqa: F401  its package index has the CUDA build alone, which a CPU torch cannot load
    except OSError:
        sys.modules["torchaudio"] = module_from_spec(ModuleSpec("torchaudio", None))
    from llamafactory.hparams import get_train_args
    from llamafactory.train.sft import workflow

    in_order(workflow.CustomSeq2SeqTrainer, facts)
    rows, batches = numbers(job), collator(job)
    workflow.get_dataset = lambda *_, **__: {"train_dataset": rows}
    workflow.SFTDataCollatorWith4DAttentionMask = lambda **_: batches
    flags = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": job["exported"],
        "template": "llava",
        "dataset": "records",
        "finetuning_type": "lora",
        "lora_rank": job["rank"],
        "lora_alpha": 2 * job["rank"],
        "lora_dropout": job["dropout"],
        "lora_target": "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj",
        "additional_target": "multi_modal_projector",
        "disable_gradient_checkpointing": True,
    }
    workflow.run_sft(*get_train_args({**settings(job), **flags}))


def swift(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """ms-swift's `SwiftSft`: its loading, adapters and trainer. Its data set and collator give way to the job's."""
    from swift.pipelines.train.sft import SwiftSft
    from swift.trainers import Seq2SeqTrainer

    in_order(Seq2SeqTrainer, facts)
    rows, batches = numbers(job), collator(job)
    SwiftSft._prepare_dataset = lambda self: (rows, None)
    Seq2SeqTrainer._get_data_collator = lambda self, arguments, template: batches
    words = (
        f"--model {job['exported']} --model_type llava1_5_hf --template llava1_5_hf --dataset records "
        f"--train_dataloader_shuffle false --torch_dtype bfloat16 --tuner_type lora --target_regex {LAYERS} "
        f"--lora_rank {job['rank']} --lora_alpha {2 * job['rank']} --lora_dropout {job['dropout']} "
        "--modules_to_save multi_modal_projector"
    ).split()
    for name, value in settings(job).items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    SwiftSft(words).main()


def evaluate(trainer: Any, facts: dict[str, Any]) -> None:
    """The seconds that the loss of the job's records takes without gradients."""
    import torch

    trainer.model.eval()
    mark = (time.perf_counter(), cpu_seconds())
    with torch.no_grad(), trainer.accelerator.autocast():
        for batch in trainer.get_train_dataloader():
            inputs = trainer._prepare_inputs(batch)
            inputs.pop("record_indices", None)
            trainer.compute_loss(trainer.model, inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    facts["evaluation"] = {"seconds": time.perf_counter() - mark[0], "cpu_seconds": cpu_seconds() - mark[1]}


def peak(job: dict[str, Any], facts: dict[str, Any]) -> None:
    """The machine's bf16 matrix product at its best of three sizes, operations per second."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = []
    for size in (1024, 2048, 8192) if device == "cuda" else (512, 1024, 1536):
        a = torch.randn(size, size, dtype=torch.bfloat16, device=device)
        for _ in range(4):
            begin = time.perf_counter()
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()
            rates.append(2 * size**3 / (time.perf_counter() - begin))
    facts["peak"] = max(rates)


TRAINERS = {
    "ours": ours,
    "upstream": upstream,
    "hf": plain,
    "trl": trl,
    "llamafactory": llamafactory,
    "swift": swift,
    "unsloth": unsloth,
    "peak": peak,
}


def main() -> None:
    """Run one trainer and print what it took as the last line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    name, path = sys.argv[1:3]
    job = json.loads(Path(path).read_text())
    facts: dict[str, Any] = {"trainer": name, "load_before": os.getloadavg()[0]}
    import torch

    TRAINERS[name](job, facts)
    facts["load_after"] = os.getloadavg()[0]
    facts["threads"] = 0 if torch.cuda.is_available() else torch.get_num_threads()
    facts["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        facts["peak_memory"] = torch.cuda.max_memory_allocated()
    for trainer in MADE[-1:]:
        evaluate(trainer, facts)
    facts["versions"] = {one.name: one.version for one in metadata.distributions() if one.name in PACKAGES}
    print("\n" + json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
