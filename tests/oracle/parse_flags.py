"""Parse command lines with our driver and write what came out; in a process of its own, because ZeRO-3 is global.

python tests/oracle/parse_flags.py sets.json out.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    from llava_finetune.config.arguments import parse

    sets_path, out_path = map(Path, sys.argv[1:])
    out: dict[str, Any] = {}
    for name, flags in json.loads(sets_path.read_text()).items():
        arguments = parse(flags)
        values = {**vars(arguments.model), **vars(arguments.data), **vars(arguments.training)}
        plain = {key: value for key, value in values.items() if isinstance(value, str | int | float | type(None))}
        plain |= {"precision": arguments.precision.name, "notices": list(arguments.notices)}
        out[name] = plain
    out_path.write_text(json.dumps(out))


if __name__ == "__main__":
    main()
