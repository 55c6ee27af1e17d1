"""Scripted rewrites of upstream LLaVA and the engine that applies them.

Upstream is never edited: `python -m patches apply` reads pristine bytes, checks them against pristine.sha256 and writes
build/patched/llava. Imports LibCST and the standard library only.
"""

UPSTREAM_VERSION = "1.2.2.post1"
UPSTREAM_COMMIT = "24fa1d065bbeac8a145a796ab7218c6945a2536e"
UPSTREAM_URL = "https://github.com/haotian-liu/LLaVA.git"
SDIST = f"llava-torch=={UPSTREAM_VERSION}"
SDIST_SHA256 = "fe41fe4fb5eec2fd549c6ff32628ecd3cc84abddc06f53a0d425750738da7157"
