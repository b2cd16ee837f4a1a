"""A training run, set up: from its description to the data, models and losses that it is made of."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
import torch

from kd_scratch.checkpoints.checkpoint import (
    check_fit,
    fingerprint,
    load_config,
    load_model,
    require_model_directory,
    take_layers,
)
from kd_scratch.checkpoints.own_head import note_of_numbers, numbered
from kd_scratch.common import distributed
from kd_scratch.common.console import Say, say
from kd_scratch.common.device import has_bf16, seed_everything, start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_apart, check_new_folder, sha256
from kd_scratch.common.source_hash import source_hash
from kd_scratch.config import SIZES
from kd_scratch.data.batches import EncodedInputs, require_inputs
from kd_scratch.data.tokenizer import INPUTS, Tokenizer, load_tokenizer
from kd_scratch.distillation.answer_file import AnswersFile
from kd_scratch.distillation.hidden_losses import HiddenLosses, make_hidden_losses
from kd_scratch.distillation.layer_map import explicit
from kd_scratch.distillation.teacher import label_order
from kd_scratch.nn.model import Model, with_dropout
from kd_scratch.tasks import TASKS, Task
from kd_scratch.tasks.base import are_pairs, drawn_by_text, require_kind, require_labels_of
from kd_scratch.training.checks import check_spec
from kd_scratch.training.cross_fitting import check_fold, taught_by_folds
from kd_scratch.training.epochs import EpochPlan, plan_epochs
from kd_scratch.training.examples import TrainingData, read_training_data
from kd_scratch.training.resume import CHOICE, has_state, saved_precision, unfinished
from kd_scratch.training.spec import RunSpec, layer_count
from kd_scratch.training.word_proposals import WordProposer

#: Of a size on a CPU, for --amp auto. mini-teacher, 192 wide, has 0.85 times the tokens a second with bf16
#: (AVX-512 bf16).
BF16_MIN_WIDTH = 256


@dataclass
class Run:
    """All that a training run is made of. `set_up` makes it; functions that `train` calls fill in what is below."""

    spec: RunSpec
    task: Task
    device: torch.device
    data: TrainingData
    dev_inputs: EncodedInputs
    model: Model
    teachers: list[Model]  # several: their logits are averaged, and the hidden-state losses look at the first
    resume: bool  # whether there is an interrupted run to go on with
    answers: list[AnswersFile] = field(default_factory=list)  # instead of teachers
    hidden_losses: HiddenLosses | None = None
    identity: dict = field(default_factory=dict)  # what a resumed run must have in common with the interrupted one
    # --- choose_layers
    layer_choice: dict = field(default_factory=dict)  # where layers were chosen: their scores on dev, the best first
    # --- add_teacher_outputs
    teacher_logits: np.ndarray | None = None  # for every training input; None: plain fine-tuning, or a live teacher
    partly_taught: bool = False  # whether rows of those are NaN: texts without an answer
    live_teacher: Model | None = None  # runs in every step, for hidden-state losses and for masked words
    # --- train itself
    train_inputs: EncodedInputs | None = None
    matmul_rate: float = 0.0  # floating-point operations per second of a large product; 0: not measured
    seconds: Counter = field(default_factory=Counter)  # where the time went: phase -> seconds

    @cached_property
    def plan(self) -> EpochPlan:
        """Which inputs each epoch has, once they are known."""
        return plan_epochs(self.spec, self.data, self.train_inputs)


def set_up(spec: RunSpec, resume: bool = False) -> Run:
    """The run that a description asks for: data read, models opened, everything checked that can be checked now.

    resume: go on with an interrupted run in the output folder, where there is one.
    Raises UserError for whatever the user can mend.
    """
    task = TASKS[spec.task]
    device = distributed.init_process_group(start(**vars(spec.run)))
    check_spec(spec, device)
    resume = distributed.rank() == 0 and check_output(spec, resume)
    resume = distributed.broadcast_object(resume)
    spec = with_precision(spec, device)
    for directory in spec.teachers if spec.model in SIZES else (spec.model, *spec.teachers):
        if Path(directory).exists() or "/" in directory:  # else it may be a size that is misspelled
            require_model_directory(directory)
    data = read_training_data(spec, task, WordProposer)
    check_fold(spec, data)
    data.labels = labels_like_the_teacher(spec, task, data.labels, data.notes.append)
    asked, spec = spec, with_first_layers(spec)
    seed_everything(spec.run.seed)  # anew: baseline and distilled student get the same initial weights
    model = build_model(spec, data, say=data.notes.append)
    teachers = [load_teacher(path, spec, task, model, data.tokenizer) for path in spec.teachers]
    answers = [AnswersFile(Path(path), task, model.config.labels) for path in spec.answers]
    dev_inputs = task.featurize(data.dev_examples, data.tokenizer, data.labels, spec.config.max_length, spec.data)
    require_inputs(dev_inputs, "--dev")
    say(
        f"{task.name}: {len(data.examples):,} training examples, {len(data.dev_examples):,} to choose the best epoch on"
    )
    run = Run(spec, task, device, data, dev_inputs, model, teachers, resume, answers)
    run = with_student(run, spec, model)
    run.identity = identify(run)
    require_same_everywhere(run.identity)
    return replace(run, spec=asked) if asked.chooses_layers else run


def with_precision(spec: RunSpec, device: torch.device) -> RunSpec:
    """The description with a precision in the place of --amp auto: that with which an unfinished run began, whatever
    this processor could do, or else bf16 where the first rank's has it; on a CPU narrow sizes are slower with it."""
    if spec.config.amp != "auto":
        return spec
    is_narrow = device.type == "cpu" and spec.model in SIZES and SIZES[spec.model].width < BF16_MIN_WIDTH
    choice = "bf16" if has_bf16(device) and not is_narrow else "off"
    began = saved_precision(spec.output)
    usable = ("bf16", "fp16", "off") if device.type == "cuda" else ("bf16", "off")
    if began in usable and began != choice:
        say(f"note: --amp auto: {began}, as the run began; for a new one it would be {choice} here")
        choice = began
    return replace(spec, config=replace(spec.config, amp=distributed.broadcast_object(choice)))


def with_first_layers(spec: RunSpec) -> RunSpec:
    """The description with the first layers in the place of --init-layers auto, until layers are chosen."""
    if not spec.chooses_layers or spec.model in SIZES:
        return spec
    count = layer_count(spec.init_layers, load_config(spec.model).depth)
    return replace(spec, init_layers=tuple(range(count)))


def with_student(run: Run, spec: RunSpec, model: Model) -> Run:
    """The run with this description and student, and what compares it with its teacher."""
    hidden_losses = None
    if spec.config.losses:  # then the first teacher runs in every step
        spec = with_layer_map(spec, model.config.depth, run.teachers[0].config.depth)
        seed_everything(spec.run.seed)  # projections are the same whatever was opened before
        hidden_losses = make_hidden_losses(spec.config, model.config, run.teachers[0].config)
    return replace(run, spec=spec, model=model, hidden_losses=hidden_losses)


def with_layer_map(spec: RunSpec, depth: int, teacher_depth: int) -> RunSpec:
    """The description with the pairs of layers that --losses compare. UserError where there are none."""
    layer_map = explicit(spec.config.layer_map, depth, teacher_depth, made_of(spec, teacher_depth))
    return replace(spec, config=replace(spec.config, layer_map=layer_map))


def labels_like_the_teacher(spec: RunSpec, task: Task, labels: tuple[str, ...], say: Say) -> tuple[str, ...]:
    """The student's labels: those of the data, or the (first) teacher's where they say the same in another way."""
    if not spec.teachers:
        return labels
    chosen = task.student_labels(labels, numbered(load_config(spec.teachers[0]).labels, labels))
    if chosen != labels:
        why = "some are not in the data" if set(labels) < set(chosen) else "they write its tags in another way"
        say(f"the student gets its teacher's {len(chosen)} labels, not those of the data: {why}")
    return chosen


def check_output(spec: RunSpec, resume: bool) -> bool:
    """Whether there is a run to resume. UserError where --output already holds something else, or one not to be."""
    output, models = spec.output, (spec.model, *spec.teachers)
    if output.resolve() in (cache := spec.cache.resolve(), *cache.parents):
        raise UserError(f"--output {output}: holds --cache {spec.cache}; choose another folder")
    if unfinished(output):
        if not resume:
            check_apart(output, *models)
            cure = "continue it with --resume, delete it, or choose another folder"
            raise UserError(f"--output {output}: already holds a run; {cure}")
        if not (spec.chooses_layers or has_state(output)):
            cure = "give that again, or delete the file"
            raise UserError(f"{output / CHOICE}: layers were being chosen here (--init-layers auto); {cure}")
        return True
    what = "already holds a run" if (output / "training.json").is_file() else "already holds something"
    check_new_folder(output, *models, what="holds no unfinished run to resume" if resume else what)
    if resume:
        say(f"note: nothing to resume in {output}: starting from the beginning")
    return False


def made_of(spec: RunSpec, teacher_depth: int) -> Sequence[int]:
    """The layers of --model that become the student, if that is a model as deep as the teacher; else none."""
    if spec.model in SIZES or (depth := load_config(spec.model).depth) != teacher_depth:
        return ()
    return spec.init_layers or range(depth)


def build_model(spec: RunSpec, data: TrainingData, say: Callable[[str], None]) -> Model:
    """The model that will be trained: a checkpoint's, chosen layers of it, or random weights of a named size.

    What a checkpoint lacks, or holds in vain, is reported through `say`.
    """
    dropout = spec.config.dropout, spec.config.attention_dropout
    if spec.model in SIZES:
        model = Model(with_dropout(named_shape(spec, data), *dropout))
    else:
        if spec.norm_first:
            raise UserError("--norm-first: the norms of a model directory stay where they are; leave it out")
        model = load_model(spec.model, data.task.head, data.labels, say, *dropout, multi_label=data.task.multi_label)
        if spec.init_layers:
            model = take_layers(model, list(spec.init_layers))
    if data.task.head == "sequence":
        model.config = replace(model.config, pairs=are_pairs(data.examples))
    check_fit(model, data.tokenizer, spec.config.max_length, spec.model, say)
    return model


def named_shape(spec: RunSpec, data: TrainingData):
    """The ModelConfig of a size, with the head, labels and vocabulary of the data. UserError where flags don't fit."""
    size = SIZES[spec.model]
    if spec.init_layers:
        raise UserError("--init-layers picks layers of a model directory, --model is a size here; leave it out")
    if spec.norm_first and size.model_type != "kd_scratch":
        raise UserError("--norm-first: BERT and DistilBERT are post-norm; leave it out, or choose a scratch size")
    return replace(
        size,
        head=data.task.head,
        labels=data.labels,
        multi_label=data.task.multi_label,
        vocab_size=data.tokenizer.vocab_size,
        pad_id=data.tokenizer.pad_id,
        norm_first=spec.norm_first,
    )


def load_teacher(path: str, spec: RunSpec, task: Task, student: Model, tokenizer: Tokenizer) -> Model:
    """A teacher, checked against the student that it is to teach. Raises UserError where they do not fit."""
    is_first, knows_types = path == spec.teachers[0], student.config.token_types > 1
    pairs = bool(student.config.pairs)
    teacher = open_teacher(
        path,
        task,
        labels=student.config.labels,
        tokenizer=tokenizer,
        max_length=spec.config.max_length,
        keep_token_types=not is_first or (knows_types and spec.model not in SIZES),
        pairs=pairs,
        # A text has one distribution, however it is cut; tokens are compared one by one.
        may_have_own_tokenizer=task.head == "sequence" and not spec.config.losses,
    )
    require_kind(f"--teacher {path}", teacher.config.pairs, "--train", pairs)
    own = load_tokenizer(path)
    if spec.config.augment and (own.mask_id is None or own.special["mask_token"] != tokenizer.special["mask_token"]):
        raise UserError(f"--augment: --teacher {path} has another [MASK] than the student, or none; leave it out")
    if task.head == "mlm" and teacher.config.vocab_size != student.config.vocab_size:
        sizes = f"{teacher.config.vocab_size:,} words, the student {student.config.vocab_size:,}"
        raise UserError(f"--teacher {path}: has a vocabulary of {sizes}; to be compared they need as many")
    return teacher


def open_teacher(
    path: str,
    task: Task,
    labels: Sequence[str],
    tokenizer: Tokenizer,
    max_length: int,
    keep_token_types: bool = True,
    pairs: bool = False,
    may_have_own_tokenizer: bool = False,
) -> Model:
    """A model directory's model as a teacher: it has the task's head, these labels (in any order) and this tokenizer.

    keep_token_types: whether the student needs its token types as they are; else the tokenizer gives those of
    the teacher's. pairs: whether inputs are pairs of texts. may_have_own_tokenizer: else it is the student's.
    Raises UserError where it has not.
    """
    teacher = load_model(path)
    if teacher.config.int8:
        raise UserError(f"--teacher {path}: is an int8 model; distil from the float model that it was made of")
    if (own := teacher.config.head) != task.head:
        raise UserError(
            f"--teacher {path}: has {f'a {own}' if own else 'no'} head, {task.name} needs a "
            f"{task.head} head; fine-tune it first (train without --teacher)"
        )
    require_labels_of(task, teacher.config, f"--teacher {path}")
    own = numbered(teacher.config.labels, labels) if task.head == "sequence" else teacher.config.labels
    if own != teacher.config.labels:
        say(f"note: --teacher {path}: {note_of_numbers(own)}")
        teacher.config = replace(teacher.config, labels=own)
    try:
        label_order(teacher.config.labels, tuple(labels))
    except UserError as error:
        cure = "fine-tune it for these labels first (train without --teacher)"
        raise UserError(f"--teacher {path}: {error}; {cure}") from None
    teacher_tokenizer = load_tokenizer(path)
    if not may_have_own_tokenizer:
        require_same_pieces(path, teacher_tokenizer, tokenizer, task)
    own = teacher_tokenizer.has_token_types
    needs_types = (task.head == "span" or pairs) and teacher.config.token_types > 1
    if needs_types and own != tokenizer.has_token_types and not teacher_tokenizer.difference(tokenizer):
        if keep_token_types:
            cure = f'write "model_input_names": {json.dumps(INPUTS)} into tokenizer_config.json of both'
            raise UserError(f"--teacher {path}: it is given token types and the student is not, or vice versa; {cure}")
        tokenizer.has_token_types = own
    check_fit(teacher, teacher_tokenizer, max_length, f"--teacher {path}", pairs=pairs)
    return teacher


def require_same_pieces(path: str, teacher: Tokenizer, student: Tokenizer, task: Task) -> None:
    """UserError where a teacher's tokenizer (path: where it lies) cuts texts otherwise than the student's."""
    if difference := teacher.difference(student):
        layers = ",".join(map(str, range(0, load_config(path).depth, 2)))
        more = (
            f", or give its answers (`answers --model {path}`) to --answers" if task.head in ("token", "span") else ""
        )
        raise UserError(
            f"--teacher {path}: its tokenizer differs from the student's, so their tokens don't correspond: "
            f"{difference}; make the student of the teacher's layers (--model {path} --init-layers {layers}), or of a "
            f"size with --tokenizer {path}{more}"
        )


# --- what makes a run the same run ---


def identify(run: Run) -> dict:
    """All that decides what comes out of a run: it can be resumed only where this is the same."""
    spec = run.spec
    return run.data.hashes | {
        "task": spec.task,
        "settings": asdict(spec.config),
        "data settings": asdict(spec.data),
        "seed": spec.run.seed,
        "fold": spec.fold or None,
        "drawn by text": drawn_by_text(run.task, run.data.own),  # what --dev 10%, --labelled and --fold take
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        **libraries(run.device),
        "code": source_hash("training.loop", "training.setup", "training.teacher_outputs"),
        "tokenizer": run.data.tokenizer.fingerprint,
        "labels": sha256(*run.model.config.labels),
        "initial weights": fingerprint(run.model),
        "teacher tokenizer": " ".join(load_tokenizer(path).fingerprint for path in spec.teachers) or None,
        "teacher folds": taught_by_folds(spec, run.data),
        "token types": run.data.tokenizer.has_token_types,
        "teacher": " ".join([*map(fingerprint, run.teachers), *(file.sha256 for file in run.answers)]) or None,
    }


def libraries(device: torch.device) -> dict[str, str]:
    """The kind of device, and the versions of what computes."""
    return {
        "device": device.type,
        "torch": torch.__version__,
        "numpy": np.__version__,  # which draws the order of the batches
        "tokenizers": tokenizers.__version__,
    }


def require_same_everywhere(identity: dict) -> None:
    """UserError where this rank works on something else than rank 0."""
    first = distributed.broadcast_object(identity)
    differing = [key for key, value in json.loads(json.dumps(identity)).items() if value != first[key]]
    if set(differing) - {"threads"}:
        names = ", ".join(differing)
        raise UserError(f"process {distributed.rank()} and process 0 differ in: {names}; give all the same")
