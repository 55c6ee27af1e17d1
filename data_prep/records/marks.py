"""How a picture stands in a text, and what stands for it and for an untaught token among token ids."""

IMAGE_TOKEN = "<image>"
IMAGE_TOKEN_INDEX = -200
"""In a prompt's ids, one for each picture; no vocabulary has it."""
IGNORE_INDEX = -100
"""In labels, where nothing is taught: what torch's cross entropy passes over."""
UNFILLED = r"<(bbox|quad|ref-object)>(?![^<>]+</\1>)|<cot-process>"
"""A pattern of what ms-swift fills in from `objects`; <bbox>1,2,3,4</bbox> is filled in."""
NO_VALUE = frozenset({"nan", "NaN", "NaT", "<NA>"})
"""What pandas writes as the text of a cell without a value."""
