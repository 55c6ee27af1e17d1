"""Upstream's published flags for upstream's own trainer, under the names that today's transformers has.

Behind the seam in upstream's `train`; the translation is the one of `llava_finetune train`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llava_finetune.config.translation import translate


def translate_flags(argv: Sequence[str] | None = None) -> list[str]:
    """sys.argv's flags, renamed ones translated with a notice on stderr; without --bf16 and --fp16 it stays fp32."""
    flags = list(sys.argv[1:] if argv is None else argv)
    chosen = any(flag.split("=")[0] in ("--bf16", "--fp16", "--precision") for flag in flags)
    translated, _, notices = translate(flags if chosen else [*flags, "--precision", "fp32"])
    for notice in notices:
        print(notice, file=sys.stderr)
    return translated
