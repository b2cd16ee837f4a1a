"""WordPiece, as a thin layer over the `tokenizers` package: open, encode, save, train.

Example: "Distillation works!" -> [CLS] distill ##ation works ! [SEP]. Padding happens in batches.py: settings for it
that a tokenizer.json carries are switched off, as are those for truncation.
"""

import json
import re
import threading
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Encoding, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256, write_json, write_text
from kd_scratch.data.tokenizer_files import NAMES, SETTINGS, canonical_casing, read_folder, surround, wordpiece

INPUTS = ["input_ids", "token_type_ids", "attention_mask"]  # what a tokenizer of transformers gives a model
SPECIAL = tuple(NAMES.values())
REACH = 32  # characters for each piece that a text is cut to: far more than any piece has on average
LENGTH = threading.Lock()  # is held while a backend is set to a length, which all threads see
BOUNDARY = re.compile("[ \u4e00-\u9fff]")  # what BERT's tokenizer always cuts at (and at more)


def beginning(text: str, reach: int) -> str:
    """A text up to the first boundary (see there) that stands `reach` characters from its beginning or further."""
    end = BOUNDARY.search(text, reach) if len(text) > reach else None
    return text[: end.start()] if end else text


class Tokenizer:
    """Text (or pairs of texts) to token ids, with [CLS] and [SEP] in place.

    special: what those and their like are called here, by the key of tokenizer_config.json. whole: whether it
    must be read from tokenizer.json alone, not as one of BERT's. has_token_types: whether a model that knows two types
    is given 0 for a text and 1 for its pair; without, it is given 0 for both. extra: special tokens of other
    roles, or of none. place: the file that holds the vocabulary, for messages.
    """

    def __init__(
        self,
        backend: Backend,
        place: str = "tokenizer",
        max_length: int | None = None,
        special: dict[str, str | None] = NAMES,
        whole: bool = False,
        has_token_types: bool = True,
        extra: tuple[str, ...] = (),
    ):
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.max_length = max_length  # pieces per input that the model was made for; None: as many as it has positions
        self.special = special
        self.whole = whole
        self.extra = extra
        self.has_token_types = has_token_types
        self.lowercase = bool(getattr(backend.normalizer, "lowercase", True))
        if backend.model.unk_token not in backend.get_vocab(with_added_tokens=False):
            raise UserError(f"{place}: the unknown token {backend.model.unk_token!r} is not in the vocabulary")
        if (size := self.vocab_size) > 1000 + 10 * (count := backend.get_vocab_size()):
            what = f"numbers its {count:,} pieces up to {size - 1:,}"
            raise UserError(f"{place}: {what}; copy it again from where the model came from")
        self.unknown_id: int = backend.token_to_id(backend.model.unk_token)
        ids = {key: backend.token_to_id(name) for key, name in special.items() if name is not None}
        self.pad_id: int = ids["pad_token"]
        self.mask_id: int | None = ids.get("mask_token")
        added = backend.get_added_tokens_decoder()
        self.special_ids = sorted(
            {id for id in ids.values() if id is not None} | {i for i in added if added[i].special}
        )
        _check_surrounded(backend, special, ids, place)

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that a text can get (no text gets that of a blank line)."""
        return max(id for piece, id in self.backend.get_vocab().items() if piece) + 1

    def added_tokens(self) -> list[dict]:
        """The tokens that are found in a text before it is cut into pieces: id, content and flags, by id."""
        return sorted(json.loads(self.backend.to_str())["added_tokens"], key=lambda token: token["id"])

    @cached_property
    def parts(self) -> dict:
        """All that decides which ids a text gets, in one spelling: equal where the ids are."""
        parts = json.loads(self.backend.to_str())
        normalizer, model, added = parts["normalizer"], parts["model"], self.added_tokens()
        if isinstance(self.backend.normalizer, normalizers.BertNormalizer):
            normalizer["strip_accents"] = canonical_casing(self.backend)[1]
        has_blanks = any(map(str.isspace, "".join(map(self.found_as, [token["content"] for token in added]))))
        for token in added:
            token["special"] = True  # which ids a text gets does not depend on it
            if not has_blanks:  # nor on blanks that are dropped with a token, or else without it
                token["lstrip"] = token["rstrip"] = False
        pieces = sorted((id, piece) for piece, id in model["vocab"].items() if piece)
        return {
            "normalizer": normalizer,
            "pre_tokenizer": parts["pre_tokenizer"],
            "model": model | {"vocab": {piece: id for id, piece in pieces}},
            "added tokens": added,
            "special tokens": self.special,
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a text gets (see `parts`), and which of them are special.

        Not of has_token_types, which is of no use to a model without.
        """
        parts = [value for value in self.parts.values() if value != NAMES]
        roles = {self.backend.token_to_id(name) for name in self.special.values() if name}
        others = [id for id in self.special_ids if id not in roles]
        return sha256(json.dumps(parts + others))

    def difference(self, other: "Tokenizer") -> str:
        """What makes another tokenizer give other ids, for a message; "" where nothing does."""
        if self.parts == other.parts:
            return ""
        casing = zip(SETTINGS, canonical_casing(self.backend), canonical_casing(other.backend), strict=True)
        found = [f"{key} ({json.dumps(a)} and {json.dumps(b)})" for key, a, b in casing if a != b]
        both = self.parts, other.parts
        added = [{token["content"]: token for token in parts["added tokens"]} for parts in both]
        vocab = [parts["model"]["vocab"] for parts in both]
        special = [{name: key for key, name in tokenizer.special.items()} for tokenizer in (self, other)]
        for what, (a, b) in {"the vocabulary": vocab, "added tokens": added, "special tokens": special}.items():
            if a != b:
                first = next(piece for piece in a | b if a.get(piece) != b.get(piece))
                found.append(f"{what} ({len(a):,} and {len(b):,}; {first!r:.60} differs)")
        return ", ".join(found) or "other settings"

    def found_as(self, content: str) -> str:
        """An added token as it may stand in a text, followed by what the normalizer makes of it."""
        normalizer = self.backend.normalizer
        return content + (normalizer.normalize_str(content) if normalizer else "")

    def encode(
        self, texts: list[str], pairs: list[str] | None = None, max_length: int | None = None, offsets: bool = False
    ) -> list[Encoding]:
        """Encode each text, or each (text, pair); cut to max_length pieces (None: not at all), the longer one first.

        Each Encoding has .ids, .type_ids (0 for text, 1 for pair) and, with offsets=True, .offsets: start and end of
        each piece as code points of the original text.
        """
        if max_length is not None and max_length <= self.backend.num_special_tokens_to_add(pairs is not None):
            what = "leaves no room for text beside [CLS] and [SEP]"
            raise UserError(f"--max-length {max_length}: {what}; choose a larger one")
        with LENGTH:
            if max_length is not None:
                self.backend.enable_truncation(max_length, strategy="longest_first")
            try:
                return self._encode(texts, pairs, max_length, offsets)
            finally:
                self.backend.no_truncation()

    def _encode(
        self, texts: list[str], pairs: list[str] | None, max_length: int | None, offsets: bool
    ) -> list[Encoding]:
        """The same, with the backend set to this length."""
        encode_batch = self.backend.encode_batch if offsets else self.backend.encode_batch_fast  # without offsets
        if pairs is not None:
            return encode_batch(list(zip(texts, pairs, strict=True)))
        if max_length is None or not self.is_local:
            return encode_batch(texts)
        reach = REACH * max_length  # what will be cut off need not be looked at
        encodings = encode_batch([beginning(text, reach) for text in texts])
        for i, text in enumerate(texts):
            if len(text) > reach and len(encodings[i].ids) < max_length:
                encodings[i] = encode_batch([text])[0]
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
        contents = map(self.found_as, (token.content for token in added))
        return not any(token.single_word for token in added) and not any(map(BOUNDARY.search, contents))

    def save(self, directory: str | Path, max_length: int, token_types: bool = True) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, which `transformers` opens too, to the same ids.

        token_types: whether the model takes token_type_ids (BERT) or must not be given any (DistilBERT).
        """
        directory = Path(directory)
        inputs = INPUTS if token_types and self.has_token_types else [name for name in INPUTS if "type" not in name]
        normalizer = self.backend.normalizer
        casing = normalizer.lowercase, normalizer.strip_accents, normalizer.handle_chinese_chars
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast" if self.whole else "BertTokenizer",
            **dict(zip(SETTINGS, casing, strict=True)),
            "model_max_length": max_length,
            "model_input_names": inputs,
        }
        added = {str(token.pop("id")): token for token in self.added_tokens()}
        contents = {token["content"] for token in added.values()}  # a token that is named is an added one on reading
        for key, name in self.special.items():
            if name is None or name in contents or not self.whole:
                settings[key] = name if name in contents else None
        settings |= {"added_tokens_decoder": added}
        settings["extra_special_tokens"] = list(self.extra)
        write_json(directory / "tokenizer_config.json", settings)  # first: without it, another casing would be taken
        write_text(directory / "tokenizer.json", self.backend.to_str(pretty=True) + "\n")
        pieces = {id: piece for piece, id in self.backend.get_vocab().items()}
        lines = [pieces.get(i, "") for i in range(max(pieces) + 1)]
        lines = ["" if "\n" in line else line for line in lines]  # such a piece stands in tokenizer.json alone
        write_text(directory / "vocab.txt", "".join(f"{line}\n" for line in lines))


def _check_surrounded(backend: Backend, special: dict, ids: dict, place: str) -> None:
    """UserError where texts do not become [CLS] text [SEP] and [CLS] text [SEP] text [SEP], types 0 and 1."""
    cls, sep = ids["cls_token"], ids["sep_token"]
    names = f"{special['cls_token']} and {special['sep_token']}"
    first, second = "a", "b c"
    one, two = (backend.encode(text, add_special_tokens=False).ids for text in (first, second))
    single, pair = backend.encode(first), backend.encode(first, second)
    if single.ids != [cls, *one, sep] or any(single.type_ids):
        raise UserError(f"{place}: does not put {names} around a text, as BERT's tokenizers do")
    if pair.ids != [cls, *one, sep, *two, sep] or pair.type_ids != [0] * (len(one) + 2) + [1] * (len(two) + 1):
        cure = 'write "tokenizer_class": "BertTokenizer" into tokenizer_config.json if the model is BERT\'s'
        raise UserError(f"{place}: does not put {names} around and between two texts, as BERT's do; {cure}")


def load_tokenizer(directory: str | Path, say=say) -> Tokenizer:
    """The tokenizer of a model directory (see tokenizer_files.py): the ids of `transformers` 5, or UserError.

    `say` gets notes of what looks wrong though it is read as `transformers` reads it.
    """
    return Tokenizer(**read_folder(Path(directory), say))


def train_tokenizer(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """A WordPiece vocabulary of at most vocab_size pieces, learned from texts."""
    backend = wordpiece({}, lowercase, accents=None, chinese=True)
    texts = list(texts)
    characters = sorted({c for text in texts for c in backend.normalizer.normalize_str(text) if not c.isspace()})
    # The package numbers "##x" pieces in the order of a randomised hash table and breaks ties by number, so each run
    # would learn another vocabulary. Listed beforehand they have fixed numbers.
    first = [*SPECIAL, *(f"##{c}" for c in characters)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend = wordpiece(backend.get_vocab(), lowercase, accents=None, chinese=True)
    backend.add_special_tokens(list(SPECIAL))
    surround(backend, "[CLS]", "[SEP]")
    return Tokenizer(backend)
