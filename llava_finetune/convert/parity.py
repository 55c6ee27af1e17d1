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

from data_prep.records.marks import IMAGE_TOKEN_INDEX
from llava_finetune.convert.probes import Probe, probes
from llava_finetune.convert.styles import choose_style, difference_of_ids, render_template
from llava_finetune.data.masking import encode, prompt_ids
from llava_finetune.errors import UserError

PIXEL_TOLERANCE = 1e-5


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
    torchvision: float = 0.0

    def line(self) -> str:
        """One line for the terminal and the manifest."""
        kind = str(self.dtype).removeprefix("torch.")
        resize = (
            f'; Pillow resizes (backend="pil"), torchvision would differ by {self.torchvision:.1e}'
            if self.torchvision
            else ""
        )
        return (
            f"verified on {self.num_probes} conversations: token ids equal, pixel values differ by at most "
            f"{self.pixels:.1e}, logits by at most {self.logits:.2e} ({kind}, allowed {self.tolerance:.1e}){resize}"
        )


@dataclass(frozen=True)
class OwnProcessor:
    """transformers' processor of a folder, and how far torchvision's resize is from it where Pillow's was taken."""

    processor: Any
    torchvision: float = 0.0


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
    from llava_finetune.data.dataset import num_image_tokens, process_image

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


@torch.inference_mode()
def compare(
    references: Sequence[Reference],
    folder: Path,
    dtype: torch.dtype,
    device: Any = "cpu",
    own: OwnProcessor | None = None,
) -> Parity:
    """Compare with transformers' own model and processor (`folder`'s own unless one is given).

    Raises UserError with the first difference: token ids, then pixel values, then logits.
    """
    import transformers
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    own = own or own_processor(folder, references, config.image_token_index)
    model = getattr(transformers, config.architectures[0]).from_pretrained(str(folder), dtype=dtype).to(device).eval()
    worst = pixels = 0.0
    tolerance = 0.0
    for reference in references:
        inputs = _processed(own.processor, reference, config.image_token_index)
        pixels = max(pixels, _pixel_difference(reference, inputs))
        if pixels > PIXEL_TOLERANCE:
            raise UserError(
                f"{reference.probe.name}: pixel values differ by {pixels:.2e}: the picture is cut or scaled otherwise"
            )
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
    return Parity(worst, pixels, tolerance, dtype, len(references), own.torchvision)


def own_processor(folder: Path, references: Sequence[Reference], image_token: int) -> OwnProcessor:
    """transformers' processor for `folder`, resizing as training did.

    Where torchvision is installed transformers resizes with it, and that is not Pillow's resize to the last bit, which
    upstream's anyres pictures always have: then Pillow's is taken and the difference told.
    """
    from transformers import AutoProcessor
    from transformers.utils import import_utils

    processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
    if not import_utils.is_torchvision_available():
        return OwnProcessor(processor)
    apart = max(_pixel_difference(each, _processed(processor, each, image_token)) for each in references)
    if apart <= PIXEL_TOLERANCE:
        return OwnProcessor(processor)
    return OwnProcessor(AutoProcessor.from_pretrained(str(folder), trust_remote_code=False, backend="pil"), apart)


def _processed(processor: Any, reference: Reference, image_token: int) -> dict[str, torch.Tensor]:
    inputs = processor.apply_chat_template(
        reference.probe.messages,
        add_generation_prompt=reference.probe.is_open,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    problem = difference_of_ids(
        reference.input_ids, inputs["input_ids"][0].tolist(), image_token, processor.tokenizer, reference.probe.name
    )
    if problem:
        raise UserError(f"token ids differ from training: {problem}")
    return dict(inputs)


def _pixel_difference(reference: Reference, inputs: dict[str, torch.Tensor]) -> float:
    """Largest difference of pixel values; another shape is a UserError."""
    worst = 0.0
    for index, ours in enumerate(reference.run.pixel_values):
        theirs = inputs["pixel_values"][index]
        theirs = theirs[: ours.shape[0]] if ours.ndim == 4 else theirs
        if ours.shape != theirs.shape:
            raise UserError(
                f"{reference.probe.name}: pixel values of shape {tuple(theirs.shape)}, upstream has {tuple(ours.shape)}"
            )
        worst = max(worst, (ours.float() - theirs.float()).abs().max().item())
    return worst


def processor_as_trained(
    source: Path,
    config: dict[str, Any],
    references: Sequence[Reference],
    template: str,
    *,
    pad: bool,
    own_template: str | None = None,
) -> OwnProcessor:
    """A llava-hf folder's own tokenizer and picture settings, with upstream's chat template and padding.

    The stock llava-hf processor has neither; what is compared is everything else. `own_template`: the language model's
    own chat template, where `template` is that.
    """
    import tempfile

    from llava_finetune.convert import configs, processor_files, tokenizer_files
    from llava_finetune.saved.manifest import write_json

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
        tokenizer.chat_template = own_template
        style = choose_style([(r.probe, r.input_ids) for r in references], tokenizer, template, image_token)
        (folder / "chat_template.jinja").write_text(render_template(template, style, tokenizer), encoding="utf-8")
        processor_files.write_processor(folder, processor_files.clip_preprocessor(source), whole, pad=pad)
        return own_processor(folder, references, image_token)
