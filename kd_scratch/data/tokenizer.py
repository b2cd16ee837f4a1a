"""WordPiece, as a thin layer over the `tokenizers` package: open, train, encode, save.

Example: "Distillation works!" -> [CLS] distill ##ation works ! [SEP]. Padding happens in batches.py: settings for it
that a tokenizer.json carries are switched off, as are those for truncation.
"""

import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json, read_text, sha256, write_json, write_text

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PARTS = {
    "normalizer": ("BertNormalizer",),
    "pre_tokenizer": ("BertPreTokenizer",),
    "post_processor": ("TemplateProcessing", "BertProcessing"),
}
REACH = 32  # characters for each piece that a text is cut to: far more than any piece has on average
BOUNDARY = re.compile("[ \u4e00-\u9fff]")  # what BERT's tokenizer always cuts at (and at more)


def require_special(vocab: dict[str, int], place: str) -> None:
    """UserError where a vocabulary lacks the tokens without which BERT's inputs cannot be made."""
    for token in SPECIAL[:4]:
        if token not in vocab:
            raise UserError(f"{place}: the vocabulary has no {token}; only BERT's WordPiece tokenizers are supported")


def beginning(text: str, reach: int) -> str:
    """A text up to the first boundary (see there) that stands `reach` characters from its beginning or further."""
    end = BOUNDARY.search(text, reach) if len(text) > reach else None
    return text[: end.start()] if end else text


class Tokenizer:
    """Text (or pairs of texts) to token ids, with [CLS] and [SEP] in place."""

    def __init__(self, backend: Backend, lowercase: bool, place: str = "tokenizer", max_length: int | None = None):
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.lowercase = lowercase
        self.max_length = max_length  # pieces per input that the model was made for; None: as many as it has positions
        vocab = backend.get_vocab()
        require_special(vocab, place)
        if backend.encode("").ids != [vocab["[CLS]"], vocab["[SEP]"]]:
            raise UserError(f"{place}: does not put [CLS] and [SEP] around a text, as BERT's tokenizers do")
        if backend.model.unk_token not in vocab:
            raise UserError(f"{place}: the unknown token {backend.model.unk_token!r} is not in the vocabulary")
        self.pad_id: int = vocab["[PAD]"]
        self.mask_id: int | None = vocab.get("[MASK]")
        self.special_ids: list[int] = [vocab[token] for token in SPECIAL if token in vocab]
        self.unknown_id: int = vocab[backend.model.unk_token]

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets (that [CLS] and [SEP] surround it, all have)."""
        parts = json.loads(self.backend.to_str())
        return sha256(json.dumps([parts[key] for key in ("normalizer", "pre_tokenizer", "model", "added_tokens")]))

    def encode(
        self, texts: list[str], pairs: list[str] | None = None, max_length: int | None = None, offsets: bool = False
    ) -> list[Encoding]:
        """Encode each text, or each (text, pair); cut to max_length pieces (None: not at all), the longer one first.

        Each Encoding has .ids, .type_ids (0 for text, 1 for pair) and, with offsets=True, .offsets: start and end of
        each piece as code points of the original text.
        """
        if max_length is not None:
            if max_length <= self.backend.num_special_tokens_to_add(pairs is not None):
                what = "leaves no room for text beside [CLS] and [SEP]"
                raise UserError(f"--max-length {max_length}: {what}; choose a larger one")
            self.backend.enable_truncation(max_length, strategy="longest_first")
        encode_batch = self.backend.encode_batch if offsets else self.backend.encode_batch_fast  # without offsets
        if pairs is not None:
            encodings = encode_batch(list(zip(texts, pairs, strict=True)))
        elif max_length is None or not self.is_local:
            encodings = encode_batch(texts)
        else:  # what will be cut off need not be looked at
            reach = REACH * max_length
            encodings = encode_batch([beginning(text, reach) for text in texts])
            for i, text in enumerate(texts):
                if len(text) > reach and len(encodings[i].ids) < max_length:
                    encodings[i] = encode_batch([text])[0]
        self.backend.no_truncation()
        return encodings

    def pieces(self, ids: list[int]) -> list[str]:
        """The pieces of some ids: [CLS], move, ##ment, …"""
        return [self.backend.id_to_token(i) or "?" for i in ids]

    @cached_property
    def is_local(self) -> bool:
        """Whether the pieces of a text up to a space do not depend on what follows."""
        normalizer = self.backend.normalizer
        if not isinstance(normalizer, normalizers.BertNormalizer) or not normalizer.handle_chinese_chars:
            return False
        if not isinstance(self.backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer):
            return False
        added = self.backend.get_added_tokens_decoder().values()
        return not any(BOUNDARY.search(token.content) for token in added)

    def save(self, directory: str | Path, max_length: int, token_types: bool = True) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, which `transformers` opens too.

        token_types: whether the model takes token_type_ids (BERT) or must not be given any (DistilBERT).
        """
        directory = Path(directory)
        write_text(directory / "tokenizer.json", self.backend.to_str(pretty=True) + "\n")
        vocab = self.backend.get_vocab(with_added_tokens=True)
        write_text(directory / "vocab.txt", "".join(f"{token}\n" for token in sorted(vocab, key=vocab.get)))
        keys = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        special = dict(zip(keys, SPECIAL, strict=True))
        inputs = ["input_ids", "token_type_ids", "attention_mask"] if token_types else ["input_ids", "attention_mask"]
        settings = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "model_max_length": max_length,
            "model_input_names": inputs,
        }
        write_json(directory / "tokenizer_config.json", settings | special)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory: from tokenizer.json, else vocab.txt. UserError where there is neither."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory")
    settings = _read_settings(directory / "tokenizer_config.json")
    max_length = settings.get("model_max_length")
    if type(max_length) is not int or not 2 < max_length < 1_000_000:  # transformers writes 10^30 for "no limit"
        max_length = None
    whole = directory / "tokenizer.json"
    vocab = directory / "vocab.txt"
    if whole.is_file():
        backend, lowercase = _from_json(whole)
        return Tokenizer(backend, lowercase, str(whole), max_length)
    if vocab.is_file():
        backend, lowercase = _from_vocab(vocab, settings.get("do_lower_case"))
        return Tokenizer(backend, lowercase, str(vocab), max_length)
    raise UserError(f"{directory}: has no tokenizer.json and no vocab.txt; copy them from where the model came from")


def _read_settings(path: Path) -> dict:
    """A tokenizer_config.json; {} where there is none. UserError where it is no settings."""
    if not path.is_file():
        return {}
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: holds no JSON object")
    if not isinstance(settings.get("do_lower_case", True), bool):
        raise UserError(f"{path}: do_lower_case must be true or false")
    return settings


def _from_json(path: Path) -> tuple[Backend, bool]:
    """The tokenizer of a tokenizer.json, and whether it lowercases. UserError where it is not one of BERT's."""
    content = read_json(path)
    check_parts(content, path)
    try:
        backend = Backend.from_str(json.dumps(content))  # what was checked, not another reading of the file
    except Exception as error:  # the package raises bare Exception for whatever is wrong with the file
        raise UserError(f"{path}: is no tokenizer that the tokenizers package can read: {error}") from None
    if not isinstance(backend.model, models.WordPiece):
        raise UserError(f"{path}: is a {type(backend.model).__name__} tokenizer; only WordPiece is supported")
    return backend, bool(getattr(backend.normalizer, "lowercase", True))


def check_parts(content, path: Path) -> None:
    """UserError where a tokenizer.json has other parts than BERT's: some hang, some abort, on a text made for it."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object")
    for key, known in PARTS.items():
        part = content.get(key)
        if not isinstance(part, dict) or part.get("type") not in known:
            found = part.get("type") if isinstance(part, dict) else part
            raise UserError(f"{path}: {key} is {str(found)[:40]!r}; only {' and '.join(known)} can be used here")
    template = content["post_processor"].get("single", [{"Sequence": {}}])
    if not isinstance(template, list) or sum("Sequence" in part for part in template if isinstance(part, dict)) != 1:
        raise UserError(f"{path}: post_processor.single is {str(template)[:40]!r}; it must hold the text once")


def _from_vocab(path: Path, lowercase: bool | None) -> tuple[Backend, bool]:
    """BERT's tokenizer around a file of one piece per line, and whether it lowercases (None: see the vocabulary)."""
    tokens = [line.removesuffix("\r") for line in read_text(path).removesuffix("\n").split("\n")]
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        line = next(i for i, token in enumerate(tokens) if vocab[token] != i) + 1
        raise UserError(f"{path}: line {line}: {tokens[line - 1]!r} stands in the vocabulary twice")
    if lowercase is None:  # an uncased vocabulary has no capitals outside its special tokens
        lowercase = not any(token != token.lower() for token in tokens if not token.startswith("["))
    return _backend(vocab, bool(lowercase), str(path)), bool(lowercase)


def _backend(vocab: dict[str, int], lowercase: bool, place: str) -> Backend:
    """BERT's tokenizer around a vocabulary: clean, split at spaces and punctuation, longest piece first."""
    require_special(vocab, place)
    backend = Backend(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    backend.add_special_tokens([token for token in SPECIAL if token in vocab])
    return backend


def train_tokenizer(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """A WordPiece vocabulary of at most vocab_size pieces, learned from texts."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = list(texts)
    characters = sorted({c for text in texts for c in backend.normalizer.normalize_str(text) if not c.isspace()})
    # The package numbers "##x" pieces in the order of a randomised hash table and breaks ties by number, so each run
    # would learn another vocabulary. Listed beforehand they have fixed numbers.
    first = [*SPECIAL, *(f"##{c}" for c in characters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(_backend(backend.get_vocab(), lowercase, "training"), lowercase)
