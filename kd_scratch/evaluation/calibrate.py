"""A model whose probabilities mean what they say: its logits divided by one number (Guo et al. 2017, section 4.2).

The number, a temperature, is fitted on dev and divides the last layer's weights. So nobody who opens the folder has to
know of it, transformers neither, and the best label stays the best (of several the threshold moves, too); what
compares a probability with a fixed number (--oos-threshold, --null-threshold) may decide otherwise.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import save_folder
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, make_folder, write_json
from kd_scratch.evaluation.evaluate import EvaluationSet, LoadedModel, evaluate, trained_on
from kd_scratch.evaluation.significance import calibration
from kd_scratch.nn import int8
from kd_scratch.nn.model import Model
from kd_scratch.pages.card import write_card
from kd_scratch.pages.records import CALIBRATION, origin_record
from kd_scratch.tasks import Predictions

RANGE = (0.05, 20.0)  # temperatures that are tried
ROUNDS = 30  # each leaves 62% of the range: a millionth of it in the end


def calibrate(loaded: LoadedModel, dev_set: EvaluationSet, output: Path) -> dict:
    """Write the calibrated form of a model, with tokenizer and card; the record that calibration.json holds.

    loaded: on the CPU, not in its fast form, float or int8. rows of the result: "before" and "after", each of the dev
    set. UserError where no temperature fits, where the model was trained on this file, or the folder holds something.
    """
    check_new_folder(output, loaded.directory)
    if trained_on(loaded.directory, dev_set):
        what = "was trained on this file, and is surer of it than of new texts"
        raise UserError(f"{dev_set.path}: {loaded.directory} {what}; give a file of texts that it has not seen")
    predictions = evaluate(loaded, dev_set.task, dev_set.examples, dev_set.data, torch.device("cpu"))
    temperature = fit_temperature(predictions)
    after = at_temperature(predictions, temperature)
    rows = {"before": quality(predictions), "after": quality(after)}
    record = dev_set.record() | {"model": loaded.directory, "temperature": temperature, "rows": rows}
    record["training"] = origin_record(loaded.directory)
    write_json(make_folder(output) / CALIBRATION, record)  # first: it tells what the model has learned
    divide_logits(loaded.model, temperature)
    save_folder(loaded.model, loaded.tokenizer, loaded.max_length, output)
    write_card(output, [loaded.directory])
    return record


def fit_temperature(predictions: Predictions) -> float:
    """The temperature at which the loss is lowest. UserError where that is none of RANGE.

    Found by golden sections of log T, as if the loss had one valley: of labels and tags it has, being convex in 1/T.
    """
    low, high = map(math.log, RANGE)
    ratio = (math.sqrt(5) - 1) / 2

    def loss_at(log_t: float) -> float:
        return loss(at_temperature(predictions, math.exp(log_t)))

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss_at(left), loss_at(right)
    for _ in range(ROUNDS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss_at(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss_at(right)
    temperature = math.exp((low + high) / 2)
    if temperature < 1.01 * RANGE[0]:
        raise UserError("no temperature fits: all of these examples are decided right; give more of them")
    if temperature > 0.99 * RANGE[1]:
        what = "the probabilities do not tell which of these examples are decided right"
        raise UserError(f"no temperature fits: {what}; give more of them")
    return temperature


def at_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The same predictions with divided logits."""
    threshold = moved(predictions.threshold, temperature)
    return replace(predictions, logits=predictions.logits / np.float32(temperature), threshold=threshold)


def loss(predictions: Predictions) -> float:
    """Mean cross-entropy of what is right; where a task cannot tell it, of whether what was decided is right."""
    sure = predictions.task.confidence(predictions)
    known = sure.loss[~np.isnan(sure.loss)]
    if len(known):
        return float(known.mean())
    p = np.clip(sure.probability, 1e-12, 1 - 1e-12)
    return float(-np.where(sure.right, np.log(p), np.log1p(-p)).mean())


def quality(predictions: Predictions) -> dict[str, float]:
    """The score, which should not change, the loss, the calibration error, and the least that can be measured of it."""
    task, found = predictions.task, calibration(predictions)
    score = float(task.tally_score(task.tally(predictions).sum(axis=0)))
    return {task.score_name: score, "loss": loss(predictions), "calibration_error": found.error, "floor": found.floor}


def moved(p: float, temperature: float) -> float:
    """sigmoid(z / T) for the probability p = sigmoid(z)."""
    if p in (0, 1):
        return p
    return float(np.exp(-np.logaddexp(0.0, (math.log1p(-p) - math.log(p)) / temperature)))


@torch.no_grad()
def divide_logits(model: Model, temperature: float) -> None:
    """Divide the weights and biases of the last layer, of a float model or an int8 one, not in its fast form.

    A threshold moves with the probabilities, so that no decision changes.
    """
    last = model.head.classifier
    model.config = replace(model.config, threshold=moved(model.config.threshold, temperature))
    if int8.is_int8(last):
        parts = last.weight, last.scale / temperature, last.bias / temperature  # the whole numbers stay as they are
        model.head.classifier = int8.Int8Linear(*parts, scales=last.scales)
    else:
        last.weight /= temperature
        last.bias /= temperature
