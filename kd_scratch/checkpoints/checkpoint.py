"""A model directory: config.json, model.safetensors (or shards with an index), and the tokenizer's files.

It is the layout that the Hugging Face hub publishes, in both directions: what `transformers` saved opens here, what is
saved here opens in `transformers` (but for int8 models and shapes of our own, which it refuses).
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kd_scratch.checkpoints.hf_layout import (
    IGNORED,
    OF_BODY,
    SHARED,
    canonical_name,
    config_from_json,
    config_to_json,
    published_names,
)
from kd_scratch.checkpoints.own_head import (
    completed,
    note_of_numbers,
    note_of_own_class,
    numbered,
    own_head,
    wrapper_prefix,
)
from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.checkpoints.weight_files import WEIGHTS, listed, load_weights, way_from_hub, weight_files
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import (
    has_content,
    json_text,
    make_folder,
    read_json,
    read_text,
    sha256,
    sha256_of_file,
    write_text,
)
from kd_scratch.config import ModelConfig
from kd_scratch.data.tokenizer import INPUTS, Tokenizer
from kd_scratch.nn import int8
from kd_scratch.nn.model import Model, with_dropout

CONFIG = "config.json"


def load_config(directory: str | Path) -> ModelConfig:
    """The shape of the model in a directory."""
    raw, _ = read_config(Path(directory))
    return config_from_json(raw, str(Path(directory) / CONFIG))


def read_config(directory: Path) -> tuple[dict, list[str]]:
    """The content of config.json, completed by what the parameters tell, and notes of that."""
    require_model_directory(directory)
    raw, place = read_json(directory / CONFIG), str(directory / CONFIG)
    if not isinstance(raw, dict):
        raise UserError(f"{place}: holds no JSON object")
    if raw.get("model_type") is not None and raw.get("architectures"):
        return raw, []
    return completed(raw, load_weights(directory, lambda note: None).keys(), place)


def require_model_directory(directory: str | Path) -> None:
    """UserError where a folder holds no model, with the folder in it that does, as the hub's cache has it."""
    directory = Path(directory)
    if directory.is_file():
        raise UserError(f"{directory}: is a file; give its folder {directory.parent}")
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory{way_from_hub(directory)}")
    if (directory / CONFIG).is_file():
        return
    inner = [*directory.glob(f"snapshots/*/{CONFIG}"), *directory.glob(f"*/{CONFIG}")]
    inner = [path for path in inner if any(path.parent.glob("*.safetensors")) or any(path.parent.glob("*.bin"))]
    main = directory / "refs" / "main"
    current = read_text(main).strip() if main.is_file() else ""
    inner.sort(key=lambda path: (path.parent.name != current, path))  # the branch's own snapshot first
    cure = f"; a model is in {inner[0].parent}" if inner else ""
    raise UserError(f"{directory}: is not a model directory, it has no {CONFIG}{cure}")


def load_model(
    directory: str | Path,
    head: str | None = None,
    labels: tuple[str, ...] = (),
    say=say,
    dropout: float | None = None,
    attention_dropout: float = -1,
    multi_label: bool = False,
) -> Model:
    """The model in a directory, in eval mode, on the CPU, in float32 or (see int8.py) int8.

    With `head` (and `labels`) the model gets that head: the checkpoint's own where it is of that kind and has the same
    set of labels (put into the order of `labels`), else a new one with random weights. multi_label: with `head`,
    whether a text may have several. `dropout` and `attention_dropout` replace the checkpoint's own (see with_dropout).
    `say` gets notes of what is ignored or new.
    Raises UserError, naming up to twelve parameters each that are missing, unexpected or mis-shaped.
    """
    directory = Path(directory)
    raw, notes = read_config(directory)
    place = str(directory / CONFIG)
    config = config_from_json(raw, place, head, tuple(labels), multi_label)
    found = own_head(raw, place)
    if config.int8 and (head or dropout is not None):
        raise UserError(f"{directory}: is an int8 model, which cannot be trained; take the float model it was made of")
    if dropout is not None:
        config = with_dropout(config, dropout, attention_dropout)
    own_labels = found.labels
    if config.head == "sequence" == found.kind and set(config.labels) == set(numbered(own_labels, config.labels)):
        own_labels = numbered(own_labels, config.labels)
    if own_labels != found.labels:
        notes.append(f"{directory}: {note_of_numbers(own_labels)}")
    same_head = (config.head, config.multi_label) == (found.kind, found.multi_label)
    same_head = same_head and set(config.labels) == set(own_labels)
    with torch.device("meta"), _NothingDrawn():  # shapes without memory: a lying config.json costs nothing
        model = Model(config)
    wanted = int8.tensors_of_int8_form(model) if config.int8 else model.state_dict()
    names = file_names(config, wanted)
    weights = load_weights(directory, say)
    prefix = wrapper_prefix(weights)
    if prefix:
        notes.append(f"{directory}: the names of all parameters begin with {prefix!r}, which is left out")
    weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    if note := note_of_own_class(raw, weights.keys(), place):
        notes.append(note)
    tensors, ignored = _match(weights, names, wanted, same_head, directory)
    if config.head == "mlm" and same_head:
        _require_shared(weights, tensors, directory)
    for note in notes:
        say(note)
    if same_head and config.labels != own_labels:
        order = torch.tensor([own_labels.index(label) for label in config.labels])
        for part in ("weight", "bias"):
            tensors[f"head.classifier.{part}"] = tensors[f"head.classifier.{part}"][order]
    missing = wanted.keys() - tensors.keys()
    if missing:  # only ever parameters of a new head
        words = config.vocab_size if config.head == "mlm" else 1
        fresh = Model(replace(config, depth=1, vocab_size=words, max_positions=1, pad_id=0)).state_dict()
        tensors |= {name: fresh[name] for name in missing}
        say(f"{directory}: new random weights for {listed(missing)}")
    if ignored:
        say(f"{directory}: ignored, no part of this model: {listed(ignored)}")
    if config.int8:
        try:
            return int8.from_tensors(model, tensors, names)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
    # Copies, not views of the file: every load then has the same memory alignment, on which MKL's last bits depend.
    model.load_state_dict({name: t.to(torch.float32, copy=True) for name, t in tensors.items()}, assign=True)
    return model.eval()


class _NothingDrawn(TorchFunctionMode):
    """A context that skips the random initial weights of a model whose weights are about to be replaced.

    Without memory nothing would be drawn either, but PyTorch would import a computer algebra system for it.
    """

    RANDOM = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return None if function in self.RANDOM else function(*args, **(kwargs or {}))


def _match(
    found: dict[str, Tensor], names: dict[str, str], wanted: dict[str, Tensor], same_head: bool, directory: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Our names -> tensors, and the names that were ignored. `names`: ours -> published. UserError on a misfit.

    The shapes must be those of `wanted`, and so must the types, but that any floating point goes for any other.
    """
    our_names = {published: name for name, published in names.items()}
    tensors: dict[str, Tensor] = {}
    ignored = []
    unexpected = []
    misshaped: dict[str, str] = {}  # our name -> what is wrong
    for raw_name, tensor in found.items():
        published = canonical_name(raw_name, our_names.keys())
        name = our_names.get(published)
        if name is None:
            (ignored if IGNORED.match(published) else unexpected).append(raw_name)
        elif name in tensors:
            raise UserError(f"{directory}: parameter {published} is there twice, once as {raw_name}")
        elif not same_head and name.startswith("head.classifier."):
            ignored.append(raw_name)
        elif tensor.shape != wanted[name].shape:
            misshaped[name] = f"{raw_name} {list(tensor.shape)} instead of {list(wanted[name].shape)}"
        elif not _same_type(tensor, wanted[name]):
            misshaped[name] = f"{raw_name} of {tensor.dtype} instead of {wanted[name].dtype}"
        else:
            tensors[name] = tensor
    needed = [name for name in names if same_head or not name.startswith("head.")]
    missing = [names[name] for name in needed if name not in tensors and name not in misshaped]
    uses_head = any(name.startswith("head.") for name in needed)
    if not (uses_head or missing or misshaped):
        ignored += [name for name in unexpected if not name.startswith(OF_BODY)]
        unexpected = [name for name in unexpected if name.startswith(OF_BODY)]
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": list(misshaped.values())}
    if any(problems.values()):
        text = "; ".join(f"{kind}: {listed(which)}" for kind, which in problems.items() if which)
        if "head.classifier.weight" in misshaped and not missing + unexpected:
            classes = len(found[names["head.classifier.weight"]])
            text += f"; id2label (or num_labels) in it must name the {classes} labels of the classifier"
        raise UserError(f"{directory}: the parameters do not fit {CONFIG}; {text}")
    return tensors, ignored


def _require_shared(found: dict[str, Tensor], tensors: dict[str, Tensor], directory: Path) -> None:
    """UserError where a head for masked words has a table or bias of its own, which transformers 5 would use."""
    for published in SHARED.keys() & found.keys():
        if not torch.equal(found[published].float(), tensors[SHARED[published]].float()):
            raise UserError(
                f"{directory}: {published} differs from what the head for masked words shares here; write "
                f'"tie_word_embeddings": false into {CONFIG}, and it counts as a body'
            )


def _same_type(found: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor can be taken for another: whole numbers for the same ones, floats for floats."""
    return found.dtype == wanted.dtype or (found.is_floating_point() and wanted.is_floating_point())


def file_names(config: ModelConfig, our_names: Iterable[str]) -> dict[str, str]:
    """Our name of each tensor -> its name in the file. What int8 adds to a weight follows that weight's name."""
    published = published_names(config)
    names = {}
    for name in our_names:
        weight = name.removesuffix(int8.SCALE).removesuffix(int8.LOW)
        names[name] = published[weight] + name.removeprefix(weight)
    return names


def megabytes(directory: str | Path) -> float:
    """What a model's weights take on disk, in millions of bytes."""
    return sum(path.stat().st_size for path in weight_files(Path(directory))) / 1e6


def save_model(model: Model, directory: str | Path, keep: Path | None = None) -> str:
    """The SHA-256 of the weights' file, after config.json and model.safetensors are written, atomically, weights first.

    The config.json of another model goes before them: a folder without one is no model yet.
    The tokenizer has its own `save`. keep: the name that the weights before them get.
    """
    config, text = Path(directory) / CONFIG, json_text(config_to_json(model.config))
    tensors = int8.to_tensors(model)
    names = file_names(model.config, tensors)
    tensors = {names[name]: tensor for name, tensor in tensors.items()}
    weights = make_folder(directory) / WEIGHTS
    outdated = None if has_content(config, text.encode()) else config
    save_file(tensors, weights, metadata={"format": "pt"}, keep=keep, outdated=outdated)
    write_text(config, text)
    return sha256_of_file(weights)


def save_folder(
    model: Model, tokenizer: Tokenizer, max_length: int, directory: str | Path, keep: Path | None = None
) -> str:
    """What save_model returns, after a whole model directory is written. max_length: of an input, for the tokenizer."""
    weights_sha256 = save_model(model, directory, keep)
    tokenizer.save(directory, max_length, token_types=model.config.token_types > 0)
    return weights_sha256


def take_layers(model: Model, layers: list[int]) -> Model:
    """A shallower model: chosen blocks of another, with its embeddings and head (Sanh et al. 2019, section 3).

    UserError where there is no such block.
    """
    depth = model.config.depth
    for i in layers:
        if not 0 <= i < depth:
            raise UserError(f"--init-layers: there is no layer {i}, the model has layers 0 to {depth - 1}")
    student = Model(replace(model.config, depth=len(layers)))
    source = model.state_dict()
    for name, target in student.state_dict().items():
        if name.startswith("encoder.blocks."):
            head, rest = name.removeprefix("encoder.blocks.").split(".", 1)
            name = f"encoder.blocks.{layers[int(head)]}.{rest}"
        target.copy_(source[name])
    return student.eval()


def check_fit(
    model: Model, tokenizer: Tokenizer, max_length: int, name: str, say=say, pairs: bool | None = None
) -> None:
    """UserError where a model has too few positions for max_length, or a smaller vocabulary than its tokenizer.

    pairs: whether it is for pairs of texts (None: by its config). `say` gets a note where a model that can tell a
    question from its context, or the texts of a pair, is not told which is which.
    """
    if max_length > model.config.max_positions:
        most = model.config.max_positions
        raise UserError(f"{name}: has {most} positions, {max_length} are needed; give --max-length {most} or less")
    pairs = model.config.pairs if pairs is None else pairs
    if model.config.token_types == 1 and (model.config.head == "span" or (pairs and tokenizer.has_token_types)):
        what = "two texts need two, as question and context do"
        raise UserError(f"{name}: has one token type only; {what} (or a model without any)")
    two_texts = model.config.head == "span" or pairs
    if two_texts and model.config.token_types > 1 and not tokenizer.has_token_types:
        cure = f'write "model_input_names": {json.dumps(INPUTS)} into tokenizer_config.json if it was trained with them'
        say(
            f"note: {name}: its tokenizer gives no token types, so all pieces get type 0 (as in transformers 5); {cure}"
        )
    rows = model.config.vocab_size
    if tokenizer.vocab_size > rows:
        cure = "they do not belong together; take the tokenizer's files from where the model came from"
        added = tokenizer.backend.get_added_tokens_decoder()
        [first] = tokenizer.pieces([rows])  # beyond those that the model has
        if all(id in added for id in range(rows, tokenizer.vocab_size)):
            cure = f"the model has none for the added token {first!r:.60}; delete it where its files list it"
            if first == tokenizer.special["mask_token"]:  # which is added by default
                cure = f'the model has none for {first}; write "mask_token": null into tokenizer_config.json'
        raise UserError(f"{name}: the model has {rows} pieces, the tokenizer {tokenizer.vocab_size}; {cure}")


def fingerprint(model: Model) -> str:
    """SHA-256 of a model's shape and weights, whatever files they came from (and whatever it was trained on)."""
    parts: list[bytes | str] = [repr(config_to_json(replace(model.config, pairs=None, threshold=0.5)))]
    for name, tensor in sorted(int8.to_tensors(model).items()):
        parts += [name, tensor.detach().cpu().contiguous().numpy().tobytes()]
    return sha256(*parts)
