"""Does the exported folder answer as the model it came from? Token ids, pixel values and logits, compared on the spot.

Why: a wrong chat template or a cropped picture does not fail, it only answers worse. transformers' own model and
processor are the other side of every comparison.

    reference = upstream_reference(loaded, template)
    parity = compare(reference, Path("exported"), dtype)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llava_finetune.convert.probes import Probe, probes
from llava_finetune.convert.template import STYLES, Style, chat_template
from llava_finetune.errors import UserError
from llava_finetune.masking import IMAGE_TOKEN_INDEX, encode, prompt_ids
from llava_finetune.templates import conversation


@dataclass(frozen=True)
class Forward:
    """A forward pass: logits (positions x vocabulary, fp32, CPU), which positions are text, and the pixel values.

    What a model says at a picture's own positions is never read, and there a trained model's huge activations turn
    rounding into differences of several units; text positions are what is compared.
    """

    logits: torch.Tensor
    is_text: torch.Tensor
    pixel_values: list[torch.Tensor]


@dataclass(frozen=True)
class Reference:
    """What upstream's own code makes of a probe."""

    probe: Probe
    input_ids: list[int]
    labels: list[int] | None
    run: Forward


@dataclass(frozen=True)
class Parity:
    """The largest differences that were seen, and what was allowed."""

    logits: float
    pixels: float
    tolerance: float
    dtype: torch.dtype
    num_probes: int

    def line(self) -> str:
        """One line for the terminal and the manifest."""
        kind = str(self.dtype).removeprefix("torch.")
        return (
            f"verified on {self.num_probes} conversations: token ids equal, pixel values differ by at most "
            f"{self.pixels:.1e}, logits by at most {self.logits:.2e} ({kind}, allowed {self.tolerance:.1e})"
        )


def probe_ids(probe: Probe, template: str, tokenizer: Any) -> tuple[list[int], list[int] | None]:
    """Token ids (-200 for a picture) of a probe, and the labels when it is answered."""
    if probe.is_open:
        return prompt_ids(probe.turns, template, tokenizer), None
    encoded = encode(probe.turns, template, tokenizer)
    return encoded.input_ids, encoded.labels


def logit_tolerance(dtype: torch.dtype, scale: float) -> float:
    """Largest allowed difference of logits: 1e-4 in fp32, a few units of the dtype's last place otherwise."""
    if dtype == torch.float32:
        return max(1e-4, 1e-5 * scale)
    return 8 * torch.finfo(dtype).eps * max(scale, 1.0)


def usable_probes(template: str, image_size: int) -> list[Probe]:
    """The probes that a template can express: stage 1's `plain` has one picture and one caption."""
    if template in ("plain", "v0_plain"):
        return [Probe("caption", (("", "a red box"),), probes(image_size)[0].pictures)]
    return list(probes(image_size))


@torch.inference_mode()
def forward(loaded: Any, input_ids: Sequence[int], pictures: Sequence[Any]) -> Forward:
    """Run one conversation (-200 for a picture) with its RGB pictures through upstream's model."""
    from llava_finetune.dataset import num_image_tokens, process_image

    model = loaded.model
    pixel_values = [process_image(picture, loaded.image_processor, model.config) for picture in pictures]
    images: Any = [value.to(loaded.device, loaded.dtype) for value in pixel_values] or None
    if images and all(value.ndim == 3 for value in images):
        images = torch.stack(images)
    ids = torch.tensor([list(input_ids)], device=loaded.device)
    out = model(input_ids=ids, images=images, image_sizes=[picture.size for picture in pictures] or None)
    tower = model.get_vision_tower()
    lengths = iter([num_image_tokens(model.config, tower, picture.size) for picture in pictures])
    is_text: list[bool] = []
    for token in input_ids:
        is_text += [False] * next(lengths) if token == IMAGE_TOKEN_INDEX else [True]
    return Forward(out.logits[0].float().cpu(), torch.tensor(is_text), pixel_values)


def upstream_reference(loaded: Any, template: str) -> list[Reference]:
    """Run every probe through upstream's tokenisation, picture processing and forward pass."""
    size = loaded.model.get_vision_tower().config.image_size
    out = []
    for probe in usable_probes(template, size):
        ids, labels = probe_ids(probe, template, loaded.tokenizer)
        out.append(Reference(probe, ids, labels, forward(loaded, ids, probe.pictures)))
    return out


def choose_style(
    references: Sequence[tuple[Probe, list[int]]], tokenizer: Any, template: str, image_token: int
) -> Style:
    """The template style whose tokenisation gives upstream's ids for every probe.

    `tokenizer` is the exported one, with `<image>` in it. Raises UserError when no style does.
    """
    problems = []
    for style in STYLES:
        text = render_template(template, style, tokenizer)
        problem = ""
        for probe, expected in references:
            rendered = tokenizer.apply_chat_template(
                probe.messages, chat_template=text, tokenize=False, add_generation_prompt=probe.is_open
            )
            ids = list(tokenizer(rendered, add_special_tokens=False).input_ids)
            problem = problem or difference_of_ids(expected, ids, image_token, tokenizer, probe.name)
        if not problem:
            return style
        problems.append(problem)
    problem = problems[0]
    raise UserError(
        f'no chat template gives this tokenizer the ids of training with "{template}": {problem}. '
        "The exported model would see another prompt than the trained one, so nothing was written"
    )


def render_template(template: str, style: Style, tokenizer: Any) -> str:
    """The chat template text of an upstream conversation for one tokenizer."""
    return chat_template(conversation(template), style, tokenizer.bos_token if adds_bos(tokenizer) else None)


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a BOS in front of a text by itself."""
    ids = tokenizer("a").input_ids
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def difference_of_ids(ours: Sequence[int], theirs: Sequence[int], image_token: int, tokenizer: Any, name: str) -> str:
    """Empty when two id lists agree, a run of picture tokens counting as one picture; else where they part."""
    left, right = _stretches(ours, IMAGE_TOKEN_INDEX), _stretches(theirs, image_token)
    if left == right:
        return ""
    for a, b in zip(left, right, strict=False):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            shown = [tokenizer.convert_ids_to_tokens(list(ids[max(0, at - 1) : at + 3])) for ids in (a, b)]
            return f"{name}: expected ...{shown[0]}, got ...{shown[1]}"
    return f"{name}: expected {len(left)} stretches of text, got {len(right)}"


def _stretches(ids: Sequence[int], picture: int) -> list[list[int]]:
    """The stretches of text between pictures, empty ones dropped."""
    out: list[list[int]] = [[]]
    for token in ids:
        if token == picture:
            out.append([])
        else:
            out[-1].append(token)
    return [stretch for stretch in out if stretch]


@torch.inference_mode()
def compare(
    references: Sequence[Reference], folder: Path, dtype: torch.dtype, device: Any = "cpu", processor: Any = None
) -> Parity:
    """Compare with transformers' own model and processor (`folder`'s own unless one is given).

    Raises UserError with the first difference: token ids, then pixel values, then logits.
    """
    import transformers
    from transformers import AutoConfig, AutoProcessor

    if processor is None:
        processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
    name = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).architectures[0]
    model = getattr(transformers, name).from_pretrained(str(folder), dtype=dtype).to(device).eval()
    worst = pixels = 0.0
    tolerance = 0.0
    for reference in references:
        inputs = _processed(processor, reference, model)
        pixels = max(pixels, _pixel_difference(reference, inputs))
        if dtype != torch.float32 and "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        logits = model(**{key: value.to(device) for key, value in inputs.items()}).logits[0].float().cpu()
        expected, is_text = reference.run.logits, reference.run.is_text
        if logits.shape[0] != expected.shape[0]:
            raise UserError(
                f"{reference.probe.name}: {logits.shape[0]} positions in transformers' model, "
                f"{expected.shape[0]} in upstream's: a picture takes another number of tokens"
            )
        width = min(logits.shape[-1], expected.shape[-1])
        difference = logits[is_text, :width] - expected[is_text, :width]
        worst = max(worst, difference.abs().max().item())
        tolerance = max(tolerance, logit_tolerance(dtype, expected[is_text].abs().max().item()))
    if not worst <= tolerance:
        raise UserError(f"logits differ by {worst:.2e}, allowed {tolerance:.1e}: the folder would answer differently")
    return Parity(worst, pixels, tolerance, dtype, len(references))


def _processed(processor: Any, reference: Reference, model: Any) -> dict[str, torch.Tensor]:
    inputs = processor.apply_chat_template(
        reference.probe.messages,
        add_generation_prompt=reference.probe.is_open,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    image_token = model.config.image_token_index
    problem = difference_of_ids(
        reference.input_ids, inputs["input_ids"][0].tolist(), image_token, processor.tokenizer, reference.probe.name
    )
    if problem:
        raise UserError(f"token ids differ from training: {problem}")
    return dict(inputs)


def _pixel_difference(reference: Reference, inputs: dict[str, torch.Tensor]) -> float:
    """Largest difference of pixel values; more than rounding is a UserError."""
    worst = 0.0
    for index, ours in enumerate(reference.run.pixel_values):
        theirs = inputs["pixel_values"][index]
        theirs = theirs[: ours.shape[0]] if ours.ndim == 4 else theirs
        if ours.shape != theirs.shape:
            raise UserError(
                f"{reference.probe.name}: pixel values of shape {tuple(theirs.shape)}, upstream has {tuple(ours.shape)}"
            )
        worst = max(worst, (ours.float() - theirs.float()).abs().max().item())
    if worst > 1e-5:
        raise UserError(
            f"{reference.probe.name}: pixel values differ by {worst:.2e}: the picture is cut or scaled otherwise"
        )
    return worst


def processor_as_trained(
    source: Path, config: dict[str, Any], references: Sequence[Reference], template: str, *, pad: bool
) -> Any:
    """A llava-hf folder's own tokenizer and picture settings, with upstream's chat template and padding.

    The stock llava-hf processor has neither; what is compared is everything else.
    """
    import tempfile

    from transformers import AutoProcessor

    from llava_finetune.convert import configs, processor_files, tokenizer_files
    from llava_finetune.manifest import write_json

    family = configs.llava_hf_family(config)
    whole = {
        **config,
        "vision_config": configs.vision_config(config),
        "vision_feature_select_strategy": config.get("vision_feature_select_strategy", "default"),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        image_token = tokenizer_files.write_tokenizer(source, folder, family.processor_class)
        write_json(folder / "config.json", config)
        tokenizer = tokenizer_files.load_tokenizer(folder)
        style = choose_style([(r.probe, r.input_ids) for r in references], tokenizer, template, image_token)
        (folder / "chat_template.jinja").write_text(render_template(template, style, tokenizer), encoding="utf-8")
        processor_files.write_processor(folder, processor_files.clip_preprocessor(source), whole, pad=pad)
        return AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
