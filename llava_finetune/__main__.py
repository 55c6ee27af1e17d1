"""`python -m llava_finetune COMMAND` is the `llava-finetune` command where the console script is not on PATH."""

import sys

from llava_finetune.cli import main

sys.exit(main())
