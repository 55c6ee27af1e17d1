"""Variables of the environment that a launcher does not read and that look like one that it reads.

>>> list(near_misses({"IMAGE": "pictures", "GLOBALBATCH": "4"}))
['IMAGE is not read by this script; IMAGES is', 'GLOBALBATCH is not read by this script; GLOBAL_BATCH is']
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

READ = (
    "MODEL", "DATA", "IMAGES", "OUTPUT", "NUM_GPUS", "DEEPSPEED_CONFIG", "GLOBAL_BATCH", "PER_GPU_BATCH", "HOSTFILE",
    "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NNODES", "LAUNCHER", "GPU", "LAUNCH_CHECKS",
)  # fmt: skip
OTHERS = frozenset({"LOCAL_RANK", "GROUP_RANK", "NODELIST", "HOSTNAME", "GPUS_PER_NODE", "NUM_NODES"})
"""Variables of schedulers and launchers that look alike and mean something else."""
CLOSE = 0.84


def near_misses(environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that is one of READ but for a letter or an underscore, and whose own is not set."""
    plain = {name.replace("_", ""): name for name in READ}
    for name in environment:
        if name in READ or name in OTHERS or not name.isupper():
            continue
        bare = name.replace("_", "")
        swapped = [one for one in plain if sorted(one) == sorted(bare)]  # MODLE
        found = swapped or difflib.get_close_matches(bare, plain, 1, CLOSE)
        if found and not environment.get(plain[found[0]]):
            yield f"{name} is not read by this script; {plain[found[0]]} is"
