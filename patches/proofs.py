"""What a patch makes true, looked up in a tree: after the series, and before it, where it says that a patch can go.

holds((Absent("llava/eval/model_qa.py", "eval_model", "__x.cuda()"),), {"llava/eval/model_qa.py": module})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import libcst as cst

from patches import pattern
from patches.edits import Failure, code_of, find_scope, first_line, source_of
from patches.nearest import Text
from patches.series import Absent, Patch


def promised(patch: Patch) -> tuple[Absent, ...]:
    """What is true after the series: the proofs, and that the patch would not be needed once more."""
    return (*patch.proofs, *(proof for proof in patch.drop_if if proof not in patch.proofs))


def holds(proofs: Sequence[Absent], trees: Mapping[str, cst.Module]) -> bool:
    """True when there are proofs and every one is true. A proof about a file or function that is not there is not."""
    return bool(proofs) and not broken(proofs, trees)


def told(proofs: Sequence[Absent]) -> str:
    """Proofs in words: `llava/train/train_mem.py has no `"flash_attention_2"``."""
    parts = [f"{proof.file} has {'' if proof.wanted else 'no '}`{first_line(proof.find)}`" for proof in proofs]
    return "; ".join(parts)


def broken(
    proofs: Sequence[Absent], trees: Mapping[str, cst.Module], originals: Mapping[str, bytes] | None = None
) -> list[str]:
    """One line per proof that is not true. `originals`: the files before any patch, whose line numbers are told."""
    return [line for proof in proofs if (line := _broken(proof, trees, originals or {}))]


def _broken(proof: Absent, trees: Mapping[str, cst.Module], originals: Mapping[str, bytes]) -> str:
    where = f"{proof.file}, {proof.within or 'module level'}"
    tree = trees.get(proof.file)
    scope = Failure("no such file") if tree is None else find_scope(tree, proof.within)
    if tree is None or isinstance(scope, Failure):
        return f"the proof about {where} cannot be checked"
    shape = pattern.parse_expression(proof.find) or pattern.parse_statements(proof.find)
    node = pattern.node_at(tree, scope)
    found = pattern.find(shape, node)
    if bool(found) is proof.wanted:
        return ""
    if proof.wanted:
        return f"{where}: `{first_line(proof.find)}` is not there"
    code = pattern.node_at(node, found[0].path)
    original = originals[proof.file].decode("utf-8") if proof.file in originals else code_of(tree)
    line = Text(code_of(tree), original).place(source_of(code), proof.within)
    return f"{where}: `{first_line(proof.find)}` is still there{line and f' ({line})'}"
