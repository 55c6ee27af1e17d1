"""What patched upstream calls: each module is the substance behind one seam of patches/rewrites.

Nothing here imports `llava` at import time, so that `import llava` never goes round in a circle.
"""
