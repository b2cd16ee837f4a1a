"""kd_scratch: knowledge distillation of BERT-family models, from scratch and in plain sight."""

import os

# Read at the first such product: oneDNN compiles a bfloat16 product anew for each shape, and it and PyTorch keep the
# last 1,024 of them, 0.7 MB apiece: gigabytes where batches differ in length. A step needs few, and 64 are as fast.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")
