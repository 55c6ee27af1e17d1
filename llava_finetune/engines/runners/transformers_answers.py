"""Answer questions with transformers' own classes from an exported folder; one JSON line each, the version first.

    python transformers_answers.py job.json answers.jsonl

job: {"model", "dtype", "max_new_tokens", "likely", "pixels": folder for the first questions' pixel values,
"num_pixels", "questions": [{"text", "pictures": [paths]}]}
"""

import json
import sys
from pathlib import Path

import numpy
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main() -> None:
    """Load processor and model, answer each question greedily, alone."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    processor = AutoProcessor.from_pretrained(job["model"], backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()
    with Path(sys.argv[2]).open("w", encoding="utf-8") as out:
        backend = type(processor.image_processor).__name__
        version = f"transformers {transformers.__version__}, torch {torch.__version__}, {backend}"
        print(json.dumps({"version": version, "image_token": model.config.image_token_index}), file=out)
        for number, question in enumerate(job["questions"]):
            print(json.dumps(answer(processor, model, question, job, number)), file=out, flush=True)


@torch.inference_mode()
def answer(processor, model, question, job, number):  # type: ignore[no-untyped-def]
    """One question: text, prompt ids, and how likely the first tokens were."""
    content = [{"type": "image", "image": Image.open(path).convert("RGB")} for path in question["pictures"]]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": question["text"]}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    if number < job["num_pixels"] and content:
        numpy.save(Path(job["pixels"]) / f"{number}.npy", inputs["pixel_values"].float().numpy())
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    elif content:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    out = model.generate(
        **inputs,
        max_new_tokens=job["max_new_tokens"],
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    prompt = inputs["input_ids"][0].tolist()
    likely = torch.log_softmax(out.logits[0][0].float(), -1).topk(job["likely"])
    text = processor.tokenizer.decode(out.sequences[0, len(prompt) :], skip_special_tokens=True)
    first = list(zip(likely.indices.tolist(), likely.values.tolist(), strict=True))
    return {"text": text.strip(), "prompt_ids": prompt, "first": first}


if __name__ == "__main__":
    main()
