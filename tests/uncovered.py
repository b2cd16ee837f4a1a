"""The lines of kd_scratch that the unit tests don't run, and why not.

    make test COVER=1

Another one, that is not in this list, is an error; so is a line of the list that is no longer in the code.
"""

import sys
from pathlib import Path

import coverage

PACKAGE = Path(__file__).parents[1] / "kd_scratch"

#: why not -> file -> lines, without their indentation
REASONS: dict[str, dict[str, list[str]]] = {
    "needs a CUDA device, of which test_no_step_waits_for_a_cuda_device is one test": {
        "common/distributed.py": [
            'device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))',
            "if device.index >= torch.cuda.device_count():",
            'raise UserError(f"--nproc_per_node: there are only {torch.cuda.device_count()} CUDA devices here")',
            "torch.cuda.set_device(device)",
        ],
        "common/device.py": [
            "return torch.cuda.is_bf16_supported(False)",
            "return torch.cuda.mem_get_info(device)[0]",
        ],
        "nn/layers.py": ["return F.dropout(x, p)"],
        "data/batches.py": ["tensor = tensor.pin_memory()"],
    },
    "needs an Apple GPU": {
        "training/checks.py": [
            'flags = "--dropout 0 --attention-dropout 0"',
            'raise UserError(f"--gradient-checkpointing on mps needs {flags}: computed again, it drops other numbers")',
        ],
        "training/optimizer.py": ['torch._foreach_div_(gradients, getattr(self.optimizer, "grad_scale", 1.0))'],
    },
    "needs another processor, or another PyTorch": {
        "common/device.py": ["except (OSError, StopIteration):", "return platform.processor() or platform.machine()"],
        "nn/kernels.py": ["return super().forward(x.bfloat16()).float()"],
    },
    "passes on what would be our own bug": {
        "__main__.py": ["raise"],
        "common/files.py": ["raise"],
    },
    "is for Windows, which has no such locks": {"common/files.py": ["except ImportError:", "yield", "return"]},
    "needs a process of another user": {"common/files.py": ["except (OSError, ValueError):", "return True"]},
}


def main() -> int:
    """Compare with what coverage has measured; exit status 1 where the list is not right."""
    data = coverage.Coverage()
    data.load()
    listed = {(file, line) for files in REASONS.values() for file, lines in files.items() for line in lines}
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file, lines = str(path.relative_to(PACKAGE)), path.read_text().split("\n")
        _, _, _, missing, _ = data.analysis2(str(path))
        faults += [
            f"{file}:{number}: no test runs it: {lines[number - 1].strip()}"
            for number in missing
            if (file, lines[number - 1].strip()) not in listed
        ]
        stripped = {line.strip() for line in lines}
        faults += [f"{file}: is not there: {line}" for name, line in listed if name == file and line not in stripped]
    print("\n".join(faults) or f"{len(listed)} lines that no test runs here, each for a reason (tests/uncovered.py)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
