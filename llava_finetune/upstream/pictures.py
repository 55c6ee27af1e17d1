"""Pictures for upstream's own data set: one that cannot be read costs its record, not the run."""

from llava_finetune.data.unreadable_pictures import open_or_note

__all__ = ["open_or_note"]
