"""Shapes of models, and the settings of training, data and machine, each with its default and its meaning.

`ModelConfig` is the shape of a model, `TrainConfig` how it is trained, `DataConfig` how files are read, `RunConfig`
on what it all runs. The command line makes its flags from the fields (see commands/flags.py), so a default and its
help text stand here alone. Other flags (--init-layers, --vocab-size, --seeds) are in the files of their commands, and
the defaults in which a task differs in the task's own file.
"""

from dataclasses import dataclass, field, fields

from kd_scratch.common.errors import UserError

HEADS = ("sequence", "token", "span", "mlm")
#: The words that a field of ModelConfig may hold.
CHOICES = {
    "model_type": ("bert", "distilbert", "kd_scratch"),
    "activation": ("gelu", "gelu_new", "relu"),
    "positions": ("learned", "sinusoidal"),
    "head": (None, *HEADS),
}
LARGEST = 2**30  # of any size: two of them multiplied still fit into what PyTorch counts with


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one model; the defaults are BERT-base (Devlin et al. 2019).

    `labels` are the classes in the order of the logits; a span head has none, but two logits per token (start, end); a
    head for masked words (mlm) has none either, its classes are the vocabulary.
    Raises UserError for a shape that cannot be built.
    """

    model_type: str = "bert"  # bert, distilbert, or kd_scratch for what neither can express
    vocab_size: int = 30522
    width: int = 768
    depth: int = 12
    heads: int = 12
    feed_forward: int = 3072
    max_positions: int = 512
    token_types: int = 2
    activation: str = "gelu"
    norm_epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1
    positions: str = "learned"  # or sinusoidal
    norm_first: bool = False
    pad_id: int = 0
    init_std: float = 0.02
    head: str | None = None
    labels: tuple[str, ...] = ()
    int8: bool = False  # quantized, see int8.py
    pairs: bool | None = None  # a sequence head: whether it was trained on pairs of texts; None: not noted
    multi_label: bool = False  # a sequence head: whether each label is there or not by itself, not one of them
    threshold: float = 0.5  # of several labels, those are given that are at least so probable

    def __post_init__(self):
        for name, choices in CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(map(str, choices))}")
        for name in ("vocab_size", "width", "depth", "heads", "feed_forward", "max_positions"):
            self._require(name, 1 <= getattr(self, name) <= LARGEST, f"between 1 and {LARGEST}")
        self._require("depth", self.depth <= 1000, "at most 1000")
        small = self.max_positions <= 2**17 and self.max_positions * self.width <= 2**24  # they are computed, not read
        self._require("max_positions", self.positions == "learned" or small, f"at most {2**17}, and fewer if wide")
        self._require("token_types", 0 <= self.token_types <= LARGEST, "0 or more")
        self._require("pad_id", 0 <= self.pad_id < self.vocab_size, "a number of the vocabulary")
        self._require("norm_epsilon", 0 < self.norm_epsilon < 1, "between 0 and 1")
        self._require("init_std", 0 <= self.init_std < 100, "0 or more")
        for name in ("dropout", "attention_dropout", "head_dropout"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("multi_label", self.head == "sequence" or not self.multi_label, "false without a sequence head")
        self._require("threshold", 0 <= self.threshold <= 1, "between 0 and 1")
        self._require("int8", not (self.int8 and self.head == "mlm"), "false with a head for masked words")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of {self.heads} heads")
        if self.head in ("sequence", "token") and len(self.labels) < 1:
            raise UserError(f"labels are missing, a {self.head} head needs them")
        if len(set(self.labels)) != len(self.labels):
            raise UserError("labels hold the same label twice")

    def _require(self, name: str, fulfilled: bool, wanted: str) -> None:
        if not fulfilled:
            raise UserError(f"{name} is {str(getattr(self, name))[:40]}, it must be {wanted}")

    @property
    def classes(self) -> int:
        """How many numbers the head gives per unit."""
        return {"span": 2, "mlm": self.vocab_size}.get(self.head, len(self.labels))


#: Shapes by name. vocab_size follows the tokenizer that the model is built for.
SIZES: dict[str, ModelConfig] = {
    "bert-base": ModelConfig(),
    "bert-large": ModelConfig(width=1024, depth=24, heads=16, feed_forward=4096),
    "distilbert-base": ModelConfig(model_type="distilbert", depth=6, token_types=0, head_dropout=0.2),
    "minilm-l6": ModelConfig(width=384, depth=6, feed_forward=1536),
    "minilm-l3": ModelConfig(width=384, depth=3, feed_forward=1536),
    "scratch-student": ModelConfig(model_type="kd_scratch", depth=6, token_types=0, positions="sinusoidal"),
    "scratch-small": ModelConfig(
        model_type="kd_scratch", width=256, depth=4, heads=4, feed_forward=1024, token_types=0, positions="sinusoidal"
    ),
    "mini-teacher": ModelConfig(width=192, depth=2, heads=4, feed_forward=768, max_positions=128),
    "mini-student": ModelConfig(width=96, depth=1, heads=4, feed_forward=384, max_positions=128),
    "tiny-teacher": ModelConfig(width=192, depth=4, heads=4, feed_forward=768, max_positions=128),
    "tiny-student": ModelConfig(width=192, depth=1, heads=4, feed_forward=768, max_positions=128),
}


def setting(default, help: str, choices: tuple | None = None):
    """A dataclass field that carries its help text (and choices) for the command line."""
    return field(default=default, metadata={"help": help, "choices": choices})


def check_choices(config) -> None:
    """UserError where a setting is none of its choices, which from Python it may be."""
    for f in fields(config):
        value, choices = getattr(config, f.name), f.metadata["choices"]
        if choices and value not in choices:
            known = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise UserError(f"{flag_name(f.name)} must be {known}, not {str(value)[:40]}")


def check_size(config) -> None:
    """UserError where a number is so large (or infinite) that computing with it would fail somewhere."""
    for name, value in vars(config).items():
        if isinstance(value, int | float) and abs(value) > LARGEST:  # NaN fails where its range is checked
            raise UserError(f"{flag_name(name)}: must be at most {LARGEST:,}, not {str(value)[:40]}")


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained.

    Where a task differs from these defaults, its own file says so (Task.train_defaults).
    """

    learning_rate: float = setting(5e-5, "highest learning rate of AdamW")
    epochs: int = setting(3, "passes over the training file")
    steps: int = setting(
        0, "end after so many optimizer steps, in the middle of an epoch too, instead of --epochs; 0: no"
    )
    batch_size: int = setting(32, "inputs per optimizer step")
    accumulation: int = setting(1, "compute each batch in this many parts, to save memory; changes what dropout draws")
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0; then it falls linearly to 0")
    weight_decay: float = setting(0.01, "AdamW's weight decay; biases and norms are exempt")
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm; 0 leaves them alone")
    max_length: int = setting(
        128,
        "longest input in word pieces; longer texts are cut, but contexts, tagged sentences and texts of mlm are read "
        "to their end, through windows",
    )
    temperature: float = setting(2.0, "distillation: softens both distributions")
    alpha: float = setting(0.5, "distillation: weight of the soft targets, against 1 - alpha for the labels")
    teacher_mean: str = setting(
        "logits",
        "distillation: what of several teachers is averaged; with their probabilities (at --temperature), an outcome "
        "that one of them alone finds likely keeps a share",
        ("logits", "probabilities"),
    )
    losses: str = setting(
        "",
        "distillation: also compare hidden states of student and teacher; names, each with its weight if it is not the "
        "usual one, as in hidden,relations=0.5",
    )
    layer_map: str = setting(
        "",
        "distillation: which layers of the student and the teacher --losses compare: own (those that the student was "
        "made of; the default where --model is as deep as the teacher), spread (evenly, the default elsewhere), last "
        "(the last alone), or pairs as in 0:0,1:2,2:4 (0: the embeddings; n: the state after the block that is n - 1 "
        "in --init-layers)",
    )
    labelled: str = setting(
        "",
        "use the labels of only N examples (or N%% of them; squad: of the contexts, conll: of the documents), drawn at "
        "random by --seed; the others are learned from the teacher alone, and without one they are left out",
    )
    augment: int = setting(
        0,
        "distillation: beside each training text so many copies in which words (squad: of the question) are masked or "
        "exchanged, others in each of the --epochs (where --steps outlasts those, they come round again); they are "
        "learned from the teacher alone",
    )
    cloze: int = setting(
        0,
        "squad, distillation: so many questions made of each context's own sentences, for those of --train and of "
        "--unlabelled; they are learned from the teacher alone",
    )
    looks: int = setting(0, "score dev so many times, at equal distances in steps, instead of after each epoch; 0: no")
    patience: int = setting(0, "stop after this many epochs (or --looks) without a better dev score; 0: never")
    layer_steps: int = setting(
        0, "with --init-layers auto: optimizer steps of the short run of each choice; 0: a tenth of all, at least 50"
    )
    dropout: float = setting(0.1, "dropout of the trained model's hidden states; 0 also turns off its head's")
    attention_dropout: float = setting(
        0.0,
        "dropout of its attention weights; -1: that of --dropout; without any a CPU trains faster, above all on long "
        "inputs",
    )
    amp: str = setting(
        "auto",
        "mixed precision; auto: bf16 where processor or GPU have instructions for it, else off, as on a CPU for a size "
        "below 256 wide (mini, tiny); a resumed run keeps the one it began with",
        ("auto", "off", "bf16", "fp16"),
    )
    freeze_embeddings: bool = setting(False, "leave the tables of tokens, positions and token types as they are")
    gradient_checkpointing: bool = setting(
        False, "keep only the input of each layer for the backward pass and compute the rest anew: less memory, slower"
    )

    def __post_init__(self):
        check_choices(self)
        check_size(self)
        for name in ("learning_rate", "epochs", "batch_size", "accumulation", "max_length", "temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"{flag_name(name)} must be more than 0, not {getattr(self, name)}")
        from_zero = "steps warmup_steps weight_decay max_grad_norm looks patience augment cloze layer_steps".split()
        for name in from_zero:
            if not getattr(self, name) >= 0:
                raise UserError(f"{flag_name(name)} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.alpha <= 1:
            raise UserError(f"--alpha must lie between 0 and 1, not {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must be at least 0 and below 1, not {self.dropout}")
        if self.attention_dropout != -1 and not 0 <= self.attention_dropout < 1:
            raise UserError(f"--attention-dropout must be at least 0 and below 1 (or -1), not {self.attention_dropout}")
        if self.batch_size % self.accumulation:
            what = f"--batch-size {self.batch_size} cannot be cut into {self.accumulation} equal parts"
            raise UserError(f"{what}; choose an --accumulation that divides it")
        if self.layer_map and not self.losses:
            raise UserError("--layer-map is about --losses; add --losses hidden (say), or leave it out")


@dataclass(frozen=True)
class DataConfig:
    """How data is read, and answers are found."""

    encoding: str = setting(
        "auto",
        "of the data files, such as cp1251 or shift_jis; auto: UTF-8 or UTF-16, and cp1252 where that is plausible",
    )
    limit: str = setting("", "use only N examples, or N%% of them, drawn at random (the same ones in every run)")
    oos: bool = setting(False, "clinc: out-of-scope is a class of its own, learned from the oos split")
    oos_threshold: float = setting(0.0, "clinc: texts whose best label is less probable than this are out of scope")
    text_column: str = setting(
        "text",
        "of tables and JSON lines: name of the column that holds the text, or in a table its number from 1; two, as in "
        "premise,hypothesis, make pairs of texts (in GLUE's files they are found); conll: of the words, or of the text "
        "beside its entities",
    )
    label_column: str = setting(
        "label",
        "the same for the label; conll: for the tags or entities; labels: several, as in toxic,threat, are columns of "
        "0 and 1, each for a label",
    )
    label_separator: str = setting(";", "labels: what stands between those of a text where one column has them")
    label_threshold: float = setting(
        0.0, "labels: a text gets those that are at least so probable; 0: as it was chosen on dev, else 0.5"
    )
    header: str = setting(
        "auto",
        "whether the first row of a table holds names; auto: where columns are chosen by name, else if it looks so",
        ("auto", "yes", "no"),
    )
    overlap: int = setting(
        128,
        "squad, conll: word pieces that neighbouring windows share (the overlap, not the step), at most half a window",
    )
    documents: bool = setting(
        False, "conll: show each sentence among its neighbours, as windows over whole documents (-DOCSTART- begins one)"
    )
    tag_names: str = setting(
        "", "conll: names of the tags in the order of their numbers, where JSON lines have numbers: O,B-PER,I-PER,…"
    )
    question_column: str = setting("question", "squad: name of what holds the question (JSON lines, lists of objects)")
    context_column: str = setting("context", "squad: name of what holds the context")
    answers_column: str = setting("answers", "squad: name of what holds the answers")
    question_length: int = setting(64, "squad: a question is cut to this many word pieces")
    answer_length: int = setting(30, "squad: the longest answer, in word pieces")
    null_threshold: float = setting(
        0.5, "squad 2.0: answer nothing where that is more probable than this, against the best span"
    )

    def __post_init__(self):
        check_choices(self)
        check_size(self)
        if self.encoding != "auto":
            try:
                "a".encode(self.encoding)
            except (LookupError, ValueError):  # no such codec, or one that is not of text
                raise UserError(f"--encoding {self.encoding}: Python knows no encoding of text by that name") from None
        if not 0 <= self.oos_threshold < 1:
            raise UserError(f"--oos-threshold must be at least 0 and below 1, not {self.oos_threshold}")
        if not 0 <= self.label_threshold <= 1:
            raise UserError(f"--label-threshold must lie between 0 and 1, not {self.label_threshold}")
        if not self.label_separator.strip():
            raise UserError("--label-separator must not be blank; labels may hold blanks")
        if self.overlap < 0 or self.question_length < 1 or self.answer_length < 1:
            raise UserError("--overlap must be 0 or more, --question-length and --answer-length 1 or more")
        if self.documents and self.limit:
            raise UserError("--documents needs whole documents, --limit draws single sentences; leave one of them out")
        if not 0 <= self.null_threshold <= 1:
            raise UserError(f"--null-threshold must lie between 0 and 1, not {self.null_threshold}")

    def threshold_or(self, threshold: float) -> float:
        """The threshold of several labels: --label-threshold, or where that is 0 the model's."""
        return self.label_threshold or threshold


@dataclass(frozen=True)
class RunConfig:
    """On what a command runs."""

    seed: int = setting(0, "seed of all random numbers: initial weights, order, dropout")
    device: str = setting(
        "auto", "where to compute; auto: CUDA, else MPS, else CPU; int8 on the CPU", ("auto", "cpu", "cuda", "mps")
    )
    threads: int = setting(0, "CPU threads; 0: PyTorch's choice")

    def __post_init__(self):
        check_choices(self)


@dataclass(frozen=True)
class KernelConfig:
    """How a model is computed on the CPU."""

    kernels: str = setting(
        "half",
        "what may compute products, of which the fastest does. exact: only what is equal but for float32's rounding; "
        "half: weights in half precision too, where that is faster; bf16: that too; plain: nothing is timed, "
        "and all is computed as layers.py is written",
        ("half", "exact", "bf16", "plain"),
    )
    int8_scale: str = setting(
        "auto",
        "int8: which numbers of an activation are rounded with one scale: those of a text, of a token (half the error, "
        "a fifth more time for a short text), or of a batch (its texts change each other's answers); auto: of a token "
        "for tags and answers, else of a text",
        ("auto", "text", "token", "batch"),
    )

    def __post_init__(self):
        check_choices(self)


def flag_name(name: str) -> str:
    """max_length -> --max-length"""
    return "--" + name.replace("_", "-")
