"""What ranks on other machines get when DeepSpeed starts them over ssh: variables, and words that survive a shell.

DeepSpeed takes along PYTHON*, NCCL_* and the lines of a file, ~/.deepspeed_env or the one that DS_ENV_FILE names. The
launcher writes that file: the user's own lines, what the run needs, and what a user sets for a cluster. Keys and tokens
stay where they are: over there they would stand in the process list.

    with forwarded(os.environ) as environment:
        subprocess.run(["deepspeed", "--hostfile", "hosts", ...], env=environment)
"""

import contextlib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

PREFIXES = (
    "DS_", "GLOO_", "HF_", "LLAVA_FINETUNE_", "OMP_", "TOKENIZERS_", "TORCH_", "TRACKIO_", "TRANSFORMERS_", "WANDB_",
)  # fmt: skip
SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")


@contextlib.contextmanager
def forwarded(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`environment` for DeepSpeed's launcher, with DS_ENV_FILE naming a file of all that goes along."""
    lines = [
        f"{name}={value}"
        for name, value in environment.items()
        if name.startswith(PREFIXES) and value and not any(word in name.removeprefix("TOKENIZERS") for word in SECRET)
    ]
    # Over there DeepSpeed builds its operators with the ninja of this environment, or with another one, each time anew.
    lines.append(f"PATH={Path(sys.prefix) / 'bin'}:$PATH")
    with tempfile.NamedTemporaryFile("w", prefix="llava-finetune-", suffix=".env", encoding="utf-8") as file:
        file.write("\n".join([*lines, *own_lines(environment)]) + "\n")  # the user's own lines win
        file.flush()
        yield {**environment, "DS_ENV_FILE": file.name}


def own_lines(environment: Mapping[str, str]) -> list[str]:
    """Lines of the user's own environment files, as DeepSpeed would read them."""
    name = environment.get("DS_ENV_FILE", ".deepspeed_env")
    files = [folder / name for folder in (Path(environment.get("HOME", "~")).expanduser(), Path())]
    found = dict.fromkeys(file.resolve() for file in files if file.is_file())  # an absolute name is the same twice
    return [line for file in found for line in file.read_text(encoding="utf-8").splitlines() if "=" in line]


def shell_word(word: str) -> str:
    """`word` so that it survives the other machine's shell; DeepSpeed itself quotes words with a space in them."""
    return word if " " in word else shlex.quote(word)
