"""Check this machine and set-up, each finding with the command that mends it; or the dtypes of a loaded model.

Heavy packages are imported each in its own process, so that the true error of a broken one is shown.

    llava-finetune doctor                    python, packages, GPU, compiler, disk, memory, patched tree, pins
    llava-finetune doctor --model runs/a     modules of the loaded model by dtype and device; exit 1 on a stray one
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_finetune import ROOT
from llava_finetune.doctor.machine_checks import BROKEN, LINUX, OK, SETUP, WARNING, Finding, check_machine
from llava_finetune.flags import add_loading_flags, command_parser


@dataclass(frozen=True)
class Package:
    """A package to import on its own: code that prints one line about it, and what follows when it is missing."""

    name: str
    code: str
    needed: bool = True
    without: str = ""
    mend: str = SETUP


TORCH = (
    "import torch; v = torch.__version__\n"
    "g = torch.cuda.is_available()\n"
    "c = f'CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPU(s), capability '"
    " + '.'.join(map(str, torch.cuda.get_device_capability())) if g else 'no GPU seen by torch'\n"
    "print(f'{v}; {c}')"
)
FLASH = (
    "import flash_attn, torch\n"
    "from flash_attn import flash_attn_func\n"
    "old = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8\n"
    "print(flash_attn.__version__ + (' (this GPU is too old for it; SDPA is used)' if old else ''))"
)
LLAVA = "import llava, llava.model, llava.train.llava_trainer; print(llava.__file__)"


def plain(name: str, module: str | None = None) -> str:
    """Code that imports a package and prints its version."""
    return f"import importlib.metadata as m, {module or name}; print(m.version({name!r}))"


PACKAGES = (
    Package("torch", TORCH),
    Package("transformers", plain("transformers")),
    Package("accelerate", plain("accelerate")),
    Package("peft", plain("peft")),
    Package("deepspeed", plain("deepspeed"), LINUX, "training runs in one process: DEEPSPEED_CONFIG=none"),
    Package("datasets", plain("datasets")),
    Package("libcst", plain("libcst")),
    Package("pillow-heif", plain("pillow-heif", "pillow_heif")),
    Package("bitsandbytes", plain("bitsandbytes"), False, "no 4-bit and 8-bit", f"{SETUP} quant"),
    Package(
        "flash-attn",
        FLASH,
        False,
        "SDPA is used, which is as good for most",
        "pip uninstall -y flash-attn; pip install --no-build-isolation --no-cache-dir flash-attn",
    ),
    Package("gradio", plain("gradio"), False, "no web page", f"{SETUP} serve"),
    Package("llava (patched)", LLAVA, True, "", "python -m patches apply"),
)
WIDTH = max(len(package.name) for package in PACKAGES)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings, or with --model the dtypes; exit code 1 where something is broken or stray."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    if options.model:
        from llava_finetune.doctor.model_checks import check_model

        return check_model(
            options.model, options.base, options.dtype, options.device, options.bits, as_json=options.json
        )
    findings = []
    for finding in examine(ROOT):
        findings.append(finding)
        if not options.json:
            print(line(finding), flush=True)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(", ".join(f"{sum(f.status == status for f in findings)} {status}" for status in (OK, WARNING, BROKEN)))
    return 1 if any(finding.status == BROKEN for finding in findings) else 0


def examine(root: Path) -> Iterator[Finding]:
    """Every finding about this machine and the checkout at `root`, as soon as it is known."""
    yield check_python()
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield from pool.map(check_package, PACKAGES)
    yield from check_machine(root, dict(read_pins(root / "constraints.txt"))["torch"])
    yield check_tree(root)
    yield check_pins(root / "constraints.txt")


def line(finding: Finding) -> str:
    """A finding for a person; what mends it stands below."""
    text = f"{finding.status:<8} {finding.name:<{WIDTH}}  {finding.found}"
    return f"{text}\n{'':<8} {'':<{WIDTH}}  mend: {finding.mend}" if finding.mend and finding.status != OK else text


def check_package(package: Package) -> Finding:
    """Import a package in its own process and tell its version, or the last line of its own error."""
    try:
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", package.code],
            capture_output=True,
            text=True,
            timeout=180,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'build' / 'patched'}{os.pathsep}{ROOT}"},
        )
    except subprocess.TimeoutExpired:
        return Finding(package.name, BROKEN, "its import does not end (180 s)", package.mend)
    if result.returncode == 0:
        return Finding(package.name, OK, (result.stdout.strip().splitlines() or ["imports"])[-1])
    if result.returncode < 0:
        error = f"its import is killed by signal {-result.returncode}"
    else:
        error = (result.stderr.strip().splitlines() or ["its import fails without a message"])[-1]
    missing = error.startswith(("ModuleNotFoundError", "importlib.metadata.PackageNotFoundError"))
    if missing and not package.needed:
        return Finding(package.name, OK, f"not installed: {package.without}")
    return Finding(package.name, BROKEN, error, package.mend)


def check_python() -> Finding:
    """Python 3.10 to 3.13, in the checkout's own environment."""
    found = f"{platform.python_version()} in {sys.prefix}"
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", BROKEN, f"{found}; 3.10 to 3.13 is needed", f"PYTHON=python3.12 {SETUP}")
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        return Finding("python", WARNING, f"{found}, not the checkout's .venv", f"source {ROOT / '.venv/bin/activate'}")
    return Finding("python", OK, found)


def check_tree(root: Path) -> Finding:
    """The patched tree: there, written by this checkout's series, unedited."""
    from patches.stamp import StaleTree, require_current

    try:
        stamp = require_current(root)
    except StaleTree as error:
        return Finding("patched tree", BROKEN, str(error).split(" Run:")[0], "python -m patches apply")
    upstream = stamp["upstream"]
    series = str(stamp["series"])[:12]
    return Finding("patched tree", OK, f"upstream {upstream['version']} ({upstream['commit'][:12]}), series {series}")


def check_pins(path: Path) -> Finding:
    """Installed versions against constraints.txt; packages that are not installed are no difference."""
    import importlib.metadata as metadata

    wrong = []
    for name, version in read_pins(path):
        try:
            found = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if found != version:
            wrong.append(f"{name} {found} (pinned {version})")
    if wrong:
        return Finding(
            "pins", WARNING, f"{len(wrong)} differ: {', '.join(wrong[:6])}", f"rm .venv/.setup-done; {SETUP}"
        )
    return Finding("pins", OK, "installed packages are those of constraints.txt")


def read_pins(path: Path) -> list[tuple[str, str]]:
    """(name, version) of the pins that hold for this Python."""
    pins = []
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.split("#", 1)[0].partition(";")
        if "==" not in requirement:
            continue
        old = sys.version_info < (3, 11)
        if ("<" in marker and not old) or (">=" in marker and old):
            continue
        name, version = requirement.split("==")
        pins.append((name.strip(), version.strip()))
    return pins


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "doctor",
        "Check this machine and set-up, or with --model the dtypes and devices of a model after loading.",
        "examples:\n  llava-finetune doctor\n  llava-finetune doctor --json\n"
        "  llava-finetune doctor --model runs/a --dtype bf16\n\nexit codes: 0 sound, 1 something is broken or stray",
    )
    parser.add_argument("--model", help="model, adapter or projector folder to load and check")
    add_loading_flags(parser)
    parser.add_argument("--json", action="store_true", help="print the findings for a program")
    return parser
