"""Language models that upstream has no class for: masks, losses and answers are those of transformers and by hand."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_prep.records.marks import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from data_prep.view.model_view import open_model
from llava_finetune.convert.export import export
from llava_finetune.convert.gguf.architectures import ARCHITECTURES
from llava_finetune.convert.importing import import_model
from llava_finetune.data.dataset import process_image
from llava_finetune.data.masking import encode, prompt_ids
from llava_finetune.data.own_template import NAME, end_of
from llava_finetune.errors import UserError
from llava_finetune.evaluation.generate_answers import answer, questions_from
from llava_finetune.kernels.rotary import restore
from llava_finetune.kernels.unpadded_attention import can_unpad
from llava_finetune.model.building import load_config, load_tokenizer, template_of
from llava_finetune.model.loading import load
from llava_finetune.planning.from_config import read_shape
from llava_finetune.saved.folders import describe
from llava_finetune.saved.language_types import OTHER_LANGUAGES
from llava_finetune.training.family_modes import refuse_impossible
from tests.families.two_stages import command_line, ended_well, merges, outspoken, two_stages
from tests.tiny import make_tiny_clip
from tests.tiny_languages import ABOUT, make_tiny_language
from tests.training.conftest import assert_same_random_state, assert_same_run, begun, rows_of

pytestmark = pytest.mark.usefixtures("ready_to_fork")
BY_HAND = ("smollm3", "olmo2")
"""Trained when a person asks for it: ALL_LANGUAGES=1 pytest tests/families/test_language_models.py"""
TRAINED = [name for name in ABOUT if name not in BY_HAND or os.environ.get("ALL_LANGUAGES")]
LORA = "--lora_enable True --lora_r 4 --lora_alpha 8 --lora_dropout 0 --max_steps 6 --save_steps 3"
TURNS = ["<image>\nWhat is the color of the shape?", "The shape is a red circle.", "Is there a blue triangle?", "No <3"]
TEXT = ["Is black gray?", "Yes."]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model of each kind, and a CLIP."""
    folder = tmp_path_factory.mktemp("languages")
    return {name: make_tiny_language(name, folder / name) for name in ABOUT} | {"clip": make_tiny_clip(folder / "clip")}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """chat.json (several turns, one, text alone) and captions.json, beside their pictures."""
    folder = tmp_path_factory.mktemp("records")
    for index, color in enumerate(("red", "blue", "green")):
        Image.new("RGB", (40 + 20 * index, 56), color).save(folder / f"{color}.png")
    rows = [said("several", TURNS, "red.png"), said("one", TURNS[:2], "blue.png"), said("text", TEXT)]
    rows.append(said("late", ["What is this? <image>", "A blue triangle."], "green.png"))
    (folder / "chat.json").write_text(json.dumps(rows))
    captions = [said(c, ["<image>\nSay it.", f"A {c} circle"], f"{c}.png") for c in ("red", "blue", "green", "red")]
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def said(name: str, turns: list[str], picture: str | None = None) -> dict[str, Any]:
    spoken = [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(turns)]
    return {"id": name, "conversations": spoken, **({"image": picture} if picture else {})}


@pytest.fixture(scope="module")
def stages(made: dict[str, Path], records: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stage 1 and LoRA on its projector, by language model, each made once."""
    return two_stages(
        lambda name, output, more: trained(made, name, records, output, more),
        lambda: tmp_path_factory.mktemp("runs"),
        "--max_steps 2",
        LORA,
    )


@pytest.fixture(scope="module")
def merged(records: Path, stages: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The merged LoRA run of a language model, each made once."""
    return merges(stages, records / "chat.json", lambda: tmp_path_factory.mktemp("merged"))


def trained(made: dict[str, Path], name: str, records: Path, output: Path, more: str) -> Path:
    """The folder of a run that ended well; every step sees all four records."""
    file = records / ("captions.json" if "plain" in more else "chat.json")
    flags = command_line(made[name], made["clip"], file, output, f"--learning_rate 5e-3 {more}")
    return ended_well(flags, output)


def by_hand(name: str, turns: list[str]) -> list[tuple[str, bool]]:
    """A conversation's text as the model's own template writes it, in pieces that are taught or not."""
    about, out = ABOUT[name], []
    head = {
        "qwen2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "olmo2": "<|endoftext|>",
        "llama3": "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful language and vision assistant."
        "<|eot_id|>",  # the project's own template for Llama-3, as before
    }.get(name, "")
    gemma = ("<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n")
    before, between, after = {
        "llama3": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
                   "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        "phi3": ("<|user|>\n", "<|end|>\n", "<|assistant|>\n"),
        "gemma2": gemma,
        "gemma3_text": gemma,
        "olmo2": ("<|user|>\n", "\n", "<|assistant|>\n"),
    }.get(name, ("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"))  # fmt: skip
    for index in range(0, len(turns), 2):
        asked = turns[index]
        if "<image>" in asked:
            asked = "<image>\n" + asked.replace("<image>", "").strip()
        thought = "<think>\n\n</think>\n\n" if name == "qwen3" and index == len(turns) - 2 else ""
        rest = between.removeprefix(about.end) if index else ""
        out.append(((head if not index else rest) + before + asked + between + after + thought, False))
        out.append((turns[index + 1] + about.end, True))
    last = "" if name == "olmo2" else between.removeprefix(about.end) + (about.eos if name == "phi3" else "")
    return [*out, (last, False)]


def ids_by_hand(tokenizer: Any, pieces: list[tuple[str, bool]]) -> tuple[list[int], list[int]]:
    """Ids and labels of pieces, each tokenised alone: these tokenizers never join over a special token."""
    ids = tokenizer("").input_ids  # the BOS of those that write one
    labels = [IGNORE_INDEX] * len(ids)
    for text, taught in pieces:
        for index, part in enumerate(text.split("<image>")):
            found = tokenizer(part, add_special_tokens=False).input_ids
            mark = [IMAGE_TOKEN_INDEX] if index else []
            ids += mark + found
            labels += [IGNORE_INDEX] * len(mark) + (found if taught else [IGNORE_INDEX] * len(found))
    return ids, labels


@pytest.mark.parametrize("name", ABOUT)
def test_masks_are_those_made_by_hand(name: str, made: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(str(made[name]), None, 512)
    template = template_of(None, str(made[name]), load_config(str(made[name])), tokenizer)
    assert template == ("llama_3" if name == "llama3" else NAME)
    for turns in (TURNS, TURNS[:2], TEXT):
        found = encode(said("x", turns)["conversations"], template, tokenizer)
        assert (found.input_ids, found.labels) == ids_by_hand(tokenizer, by_hand(name, turns))
        asked = prompt_ids(said("x", turns[:-1])["conversations"], template, tokenizer)
        assert asked == found.input_ids[: found.spans[-1][0]], "generation begins with what was taught to follow"
        assert [tokenizer.convert_ids_to_tokens(found.labels[end - 1]) for _, end in found.spans] == [
            ABOUT[name].end
        ] * (len(turns) // 2)


def own_model(base: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")


@functools.cache
def own_parts(clip: Path) -> tuple[Any, Any, Any]:
    """transformers' own tower, what prepares its pictures, and a projector to fill."""
    import transformers

    projector = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 64))
    return (
        transformers.CLIPVisionModel.from_pretrained(clip),
        transformers.CLIPImageProcessor.from_pretrained(clip),
        projector,
    )


def embedded(model: Any, projector: dict[str, Any], clip: Path, ids: list[int], picture: Path) -> torch.Tensor:
    """T x H: ids as the language model's embeddings, the picture as the projector's features of the tower."""
    tower, pictures, seen = own_parts(clip)
    seen.load_state_dict(projector)
    rows = []
    for token in ids:
        if token == IMAGE_TOKEN_INDEX:
            opened = Image.open(picture).convert("RGB")
            pixels = process_image(opened, pictures, type("Config", (), {"image_aspect_ratio": "pad"}))[None]
            rows.append(seen(tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:])[0])
        else:
            rows.append(model.get_input_embeddings()(torch.tensor([token])))
    return torch.cat(rows)


@torch.no_grad()
def own_loss(name: str, base: Path, stage1: Path, clip: Path, records: Path) -> float:
    """transformers' own loss of all records: embeddings, features and labels put together by hand, row by row."""
    import transformers

    model, tokenizer = own_model(base), transformers.AutoTokenizer.from_pretrained(base)
    weights = {key.split("mm_projector.")[1]: value for key, value in torch.load(stage1 / "mm_projector.bin").items()}
    total, count = 0.0, 0
    for one in json.loads((records / "chat.json").read_text()):
        ids, labels = ids_by_hand(tokenizer, by_hand(name, [turn["value"] for turn in one["conversations"]]))
        embeds = embedded(model, weights, clip, ids, records / one.get("image", ""))
        extra = len(embeds) - len(ids)
        targets = []
        for token, label in zip(ids, labels, strict=True):
            targets += [label] * (extra + 1 if token == IMAGE_TOKEN_INDEX else 1)
        taught = sum(target != IGNORE_INDEX for target in targets)
        loss = model(inputs_embeds=embeds[None], labels=torch.tensor([targets])).loss
        total, count = total + float(loss) * taught, count + taught
    return total / count


@pytest.mark.parametrize("name", TRAINED)
def test_both_stages_train_from_transformers_own_loss(
    name: str, made: dict[str, Path], records: Path, stages: Any
) -> None:
    first, second = stages(name)
    assert {key.split(".")[1] for key in torch.load(first / "mm_projector.bin")} == {"mm_projector"}
    assert re.search(r"language model +0 of", (first.parent / "out" / "0-0.txt").read_text())
    losses = [row["loss"] for row in rows_of(second) if "loss" in row]
    assert losses[0] == pytest.approx(own_loss(name, made[name], first, made["clip"], records), rel=1e-4)
    assert losses[-1] < losses[0] - 0.2
    config = json.loads((second / "config.json").read_text())
    assert config["model_type"] == ("llava_llama" if name == "llama3" else f"llava_{name}")


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_goes_on_bit_for_bit_and_merges(
    name: str, made: dict[str, Path], records: Path, stages: Any, merged: Any, tmp_path: Path
) -> None:
    first, second = stages(name)
    on = begun(second, 3, tmp_path / "on")
    trained(made, name, records, on, f"{LORA} --pretrain_mm_mlp_adapter {first / 'mm_projector.bin'} --resume auto")
    assert_same_run(second, on)
    assert_same_random_state(second / "checkpoint-6", on / "checkpoint-6")
    questions = questions_from(json.loads((records / "chat.json").read_text())[1:])
    adapted = outspoken(load(second, merge_adapter=False))
    beside = [one["answer"] for one in answer(adapted, questions, records, max_new_tokens=8)]
    assert len(beside) == 3 and all(beside)
    folded = outspoken(load(merged(name)))
    assert [one["answer"] for one in answer(folded, questions, records, max_new_tokens=8)] == beside
    alone = [answer(folded, [one], records, max_new_tokens=8)[0]["answer"] for one in questions]
    assert alone == beside, "a left-padded batch answers as each question alone"


def test_three_quarters_of_phi_4s_heads_are_turned(made: dict[str, Path], stages: Any) -> None:
    assert (
        json.loads((stages("phi3")[1] / "config.json").read_text())["rope_parameters"]["partial_rotary_factor"] == 0.75
    )
    ours, own = load(stages("phi3")[1]).model.get_model(), own_model(made["phi3"]).model
    assert torch.equal(ours.rotary_emb.inv_freq, own.rotary_emb.inv_freq) and len(own.rotary_emb.inv_freq) == 6


@pytest.mark.parametrize("name", TRAINED)
def test_plan_and_show_know_it(name: str, made: dict[str, Path], stages: Any) -> None:
    shape = read_shape(str(made[name]), str(made["clip"]))
    held = sum(value.numel() for value in own_model(made[name]).parameters())
    assert shape.language.num_parameters == pytest.approx(held, rel=0.02), "but norms of heads and biases"
    view = open_model(str(stages(name)[1]))
    assert view.template == ("llama_3" if name == "llama3" else NAME)
    pieces = view.prompts(said("x", TURNS))[0]
    assert "".join(text for text, _ in pieces) == "".join(text for text, _ in by_hand(name, TURNS))


def test_a_tokenizer_without_a_chat_template_is_told(made: dict[str, Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(made["qwen2"], base)
    (base / "chat_template.jinja").unlink()
    tokenizer, config = load_tokenizer(str(base), None, 512), load_config(str(base))
    assert template_of(None, str(base), config, tokenizer) == "chatml_direct"
    with pytest.raises(UserError, match="--version chat_template: the tokenizer has no chat template; choose a"):
        template_of(NAME, str(base), config, tokenizer)
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(UserError, match=r"ends an answer with '.n', in which is no token of its own"):
        end_of(load_tokenizer(str(base), None, 512))


def test_liger_is_refused_before_data_are_read(made: dict[str, Path]) -> None:
    asked = SimpleNamespace(neftune_noise_alpha=None, use_liger_kernel=True)
    arguments = SimpleNamespace(model=SimpleNamespace(model_name_or_path=str(made["qwen3"])), training=asked)
    with pytest.raises(UserError, match=r"--use_liger_kernel True: its kernels are put .*qwen3 is qwen3; leave it out"):
        refuse_impossible(arguments)


def test_upstreams_own_tools_say_what_to_use(stages: Any) -> None:
    with pytest.raises(UserError, match="a model on llava_qwen3, which upstream's own tools do not know; use llava-f"):
        describe(str(stages("qwen3")[1]))


def test_gemma_3s_rotary_positions_are_restored() -> None:
    import transformers

    config = transformers.Gemma3TextConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=8,
    )  # fmt: skip
    model = transformers.Gemma3TextModel(config)
    before = {name: value.clone() for name, value in model.named_buffers() if "inv_freq" in name}
    model.to(torch.bfloat16)
    assert restore(model) == 1 and restore(model) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers() if name in before)


@pytest.mark.parametrize("name", ["phi3", "gemma2"])
def test_the_engine_of_chat_and_serve_answers_as_evaluate_does(name: str, records: Path, stages: Any) -> None:
    from llava_finetune.serve.engine import Engine, Text
    from llava_finetune.serve.prompts import Message
    from llava_finetune.serve.sampling import Sampling

    loaded = load(stages(name)[1])
    rows = json.loads((records / "chat.json").read_text())[1:]
    wanted = [one["answer"] for one in answer(loaded, questions_from(rows), records, max_new_tokens=8)]
    engine = Engine(loaded)
    try:
        asked = []
        for row in rows:
            pictures = (Image.open(records / row["image"]).convert("RGB"),) if "image" in row else ()
            text = row["conversations"][0]["value"].replace("<image>", "").strip()
            asked.append(engine.prompt([Message("user", text, pictures)]))
        tickets = [engine.submit(prompt, Sampling(temperature=0.0, max_new_tokens=8)) for prompt in asked]
        engine.start()
        said = ["".join(event.text for event in ticket if isinstance(event, Text)).strip() for ticket in tickets]
    finally:
        engine.close()
    assert said == wanted


@pytest.fixture(scope="module")
def exported(merged: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The merged run of a language model in llava-hf's layout, each made once."""

    @functools.cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp("exported") / name
        assert "token ids equal" in export(str(merged(name)), folder).verified
        return folder

    return make


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "gemma2"])
def test_transformers_answers_as_we_do_after_export(name: str, records: Path, merged: Any, exported: Any) -> None:
    import transformers

    processor = transformers.AutoProcessor.from_pretrained(exported(name), backend="pil")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(exported(name), dtype=torch.float32)
    loaded = load(merged(name), dtype="fp32")
    one = json.loads((records / "chat.json").read_text())[1]
    asked = questions_from([one])[0]
    content = [{"type": "image"}, {"type": "text", "text": asked.asked.replace("<image>\n", "")}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    pictures = Image.open(records / one["image"]).convert("RGB")
    inputs = processor(images=pictures, text=text, return_tensors="pt", add_special_tokens=False)
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    ours = answer(loaded, [asked], records, max_new_tokens=8)[0]["answer"]
    assert processor.decode(made, skip_special_tokens=True).strip() == ours


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in ("llama3", "gemma2")])
def test_what_was_exported_is_imported_again_bit_for_bit(
    name: str, records: Path, merged: Any, exported: Any, tmp_path: Path
) -> None:
    result = import_model(str(exported(name)), tmp_path / "back")
    assert (result.model_type, result.conversation, result.image_aspect_ratio) == (f"llava_{name}", NAME, "pad")
    there, back = (load_file(folder / "model.safetensors") for folder in (merged(name), tmp_path / "back"))
    assert there.keys() == back.keys() and all(torch.equal(there[key], back[key]) for key in there)
    assert (tmp_path / "back/chat_template.jinja").read_text() == ABOUT[name].template
    questions = questions_from(json.loads((records / "chat.json").read_text())[1:])
    loaded = load(tmp_path / "back", dtype="fp32")
    ours = [one["answer"] for one in answer(loaded, questions, records, max_new_tokens=8)]
    assert ours == [one["answer"] for one in answer(load(merged(name)), questions, records, max_new_tokens=8)]


def test_a_template_for_parts_alone_is_not_taken_over(exported: Any, tmp_path: Path) -> None:
    source = Path(shutil.copytree(exported("phi3"), tmp_path / "source"))
    (source / "llava_finetune.json").unlink()
    assert import_model(str(source), tmp_path / "known").conversation == NAME
    words = "{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    parts = "{% for m in messages %}<|" + "{{ m.role }}|>" + words + "<|end|>{% endfor %}"
    (source / "chat_template.jinja").write_text(parts)
    with pytest.raises(UserError, match="the chat template drops a message that is plain text, and trains nothing"):
        import_model(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@torch.no_grad()
def test_gemma_2_answers_as_transformers_own_class_does(made: dict[str, Path], records: Path, merged: Any) -> None:
    """It is not exported: transformers' Gemma-2 gets embeddings by hand, beyond its window, with both of its bounds."""
    import transformers

    state = load_file(merged("gemma2") / "model.safetensors")
    config = transformers.AutoConfig.from_pretrained(made["gemma2"], attn_implementation="eager")
    own = transformers.Gemma2ForCausalLM(config).eval()
    assert (config.final_logit_softcapping, config.attn_logit_softcapping) == (30.0, 50.0)
    own.load_state_dict({key: state[key] for key in own.state_dict() if key != "lm_head.weight"}, strict=False)
    own.tie_weights()
    projector = {key.split("mm_projector.")[1]: value for key, value in state.items() if "mm_projector" in key}
    one = json.loads((records / "chat.json").read_text())[1]
    tokenizer, loaded = transformers.AutoTokenizer.from_pretrained(merged("gemma2")), load(merged("gemma2"))
    ids, _ = ids_by_hand(tokenizer, by_hand("gemma2", TURNS[:2])[:1])
    embeds = embedded(own, projector, made["clip"], ids, records / one["image"])[None]
    assert embeds.shape[1] > config.sliding_window
    outspoken(loaded)
    silent = loaded.model.generation_config.suppress_tokens
    ended = own.generate(inputs_embeds=embeds, max_new_tokens=8, do_sample=False, suppress_tokens=silent)
    ours = answer(loaded, questions_from([one]), records, max_new_tokens=8)[0]["answer"]
    assert ours and tokenizer.decode(ended[0], skip_special_tokens=True).strip() == ours


def test_the_pages_table_is_what_runs_here(made: dict[str, Path], root: Path) -> None:
    import transformers

    lines = (root / "docs/families.md").read_text().partition("| export to llava-hf, import | GGUF |\n")[2].splitlines()
    rows = [
        line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("| "), lines[1:])
    ]
    assert [row[0].strip("`") for row in rows] == ["llama", "mistral", *OTHER_LANGUAGES]
    for cell, _, trains, batches, exports, gguf in rows:
        name = cell.strip("`")
        ran = f"yes{', by hand' if name in BY_HAND else ''}"
        assert (trains, exports.partition(":")[0]) == (ran, "refused" if name == "gemma2" else ran)
        assert gguf == ("yes" if f"llava_{name}" in ARCHITECTURES else "refused")
        if name in made:
            config = transformers.AutoConfig.from_pretrained(made[name], attn_implementation="sdpa")
            assert batches.split()[0] == ("unpadded" if can_unpad(config) else "padded")


def test_gemma_2_is_not_exported(merged: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"final_logit_softcapping 30.0: Gemma-2 bounds its logits, and llava-hf"):
        export(str(merged("gemma2")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
