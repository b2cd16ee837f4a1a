"""What `train` and the commands behind it have written of what they did, read and checked before it is shown."""

from pathlib import Path

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json
from kd_scratch.tasks import TASKS

RECORD, QUANTIZATION = "training.json", "quantization.json"
CALIBRATION, PRUNING = "calibration.json", "pruning.json"
#: What a record that stands beside a model tells of it: that was done to it since it was trained.
SINCE = {CALIBRATION: "calibrated", PRUNING: "pruned", QUANTIZATION: "quantized"}
NUMBER_LIMIT = 1e15  # of what can be drawn


def read_record(directory: str | Path) -> dict | None:
    """The record of the run in a folder; None where there is none. UserError where the file is something else."""
    path = Path(directory) / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        _check(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: is not what `train` writes of a run; delete the folder and train again") from None
    return record


def known_record(directory: str | Path, say: Say = say) -> dict | None:
    """The same where a record is of use but not needed: None, and a note, also where the file is something else."""
    try:
        return read_record(directory)
    except UserError as error:
        say(f"note: {error}; it is left out")
        return None


def origin_record(directory: str | Path, say: Say = say) -> dict | None:
    """The record of the training that a model comes from, also where it was made of another model since.

    Its "since" then tells what was done to the model after that training, in order: ["pruned", "quantized"].
    """
    if record := known_record(directory, say):
        return record
    for name, what in SINCE.items():
        path = Path(directory) / name
        if not path.is_file():
            continue
        try:
            record = read_json(path)
            if name == QUANTIZATION:
                _check_quantization(record)
            if (found := record["training"]) is not None:
                _check(found)
                return found | {"since": [*found.get("since", []), what]}
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            say(f"note: {path}: does not say how the model was trained; it is left out")
    return None


def known_quantization(directory: str | Path, say: Say = say) -> dict | None:
    """What `quantize` has written into a folder; None where there is none, or (with a note) something else."""
    path = Path(directory) / QUANTIZATION
    try:
        record = read_json(path) if path.is_file() else None
        if record is not None:
            _check_quantization(record)
        return record
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        say(f"note: {path}: is not what `quantize` writes; it is left out")
        return None


def _check_quantization(record: dict) -> None:
    """The same errors as of `_check` where a record is not as `quantize` writes it."""
    for name in ("float", "int8"):
        _require(all(map(is_number, record["rows"][name].values())))
    _require(isinstance(record["machine"], dict))
    if record.get("training") is not None:
        _check(record["training"])


def _check(record: dict) -> None:
    """KeyError, TypeError or AttributeError where a record is not as `train` writes it."""
    score_name = TASKS[record["task"]].score_name
    _require(record["history"])
    for epoch in record["history"]:
        _require(epoch["losses"])
        numbers = [epoch["epoch"], epoch["loss"], epoch["tokens_per_second"], epoch["dev"][score_name], epoch["steps"]]
        _require(all(map(is_number, numbers + epoch["losses"])))
        _require(type(epoch["epoch"]) is int)
        _require(epoch["steps"] > 0)
        low, high = epoch.get("interval", (0, 0))
        _require(is_number(low) and is_number(high))
    for key in ("settings", "data settings", "machine", "seconds by phase"):
        _require(isinstance(record[key], dict))
    for key in ("sources", "examples"):  # older records have none
        _require(isinstance(record.get(key, {}), dict))
    _require(isinstance(record.get("sources", {}).get("teachers", []), list))
    _require(set(record.get("since", [])) <= set(SINCE.values()))
    for key in ("parameters", "best_epoch", "step"):
        _require(type(record[key]) is int)
    numbers = (record["seconds"], record["best_score"], *record["seconds by phase"].values())
    _require(all(map(is_number, numbers)))


def _require(condition) -> None:
    if not condition:
        raise TypeError


def is_number(value) -> bool:
    """Whether a JSON value is a number that can be drawn."""
    return type(value) in (int, float) and abs(value) < NUMBER_LIMIT
