"""The files of a tokenizer, read together as the reference reads them: `AutoTokenizer` of `transformers` 5.

| file | what is taken from it |
|---|---|
| tokenizer_config.json | casing, accents, Chinese characters, names of special tokens, added tokens |
| tokenizer.json | the vocabulary; added tokens too, where tokenizer_config.json lists none |
| vocab.txt | the vocabulary where there is no tokenizer.json: piece i stands in line i |
| special_tokens_map.json, added_tokens.json | the same, where tokenizer_config.json lists no added tokens |
| config.json | model_type and tokenizer_class, where tokenizer_config.json names no class |

A tokenizer of one of BERT's classes is made anew of these: what tokenizer.json holds beside its vocabulary and
added tokens counts for nothing. One without a class of its own (PreTrainedTokenizerFast; or none named, and no
known model_type) is its tokenizer.json as a whole.
"""

import json
import re
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from kd_scratch.common.console import Say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json, read_text

NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ORDER = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# The names of classes, without Tokenizer or TokenizerFast behind; then those that stand for no class.
BERT_CLASSES = ("Bert", "DistilBert", "Electra", "MobileBert", "SqueezeBert", "LayoutLM", "Lxmert")
WHOLE_CLASSES = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
NO_TOKEN_TYPES = ("DistilBert",)  # the class that gives none
BERT_TYPES = ("bert", "distilbert", "electra")
SETTINGS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}  # where silent
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
PARTS = {
    "normalizer": ("BertNormalizer",),
    "pre_tokenizer": ("BertPreTokenizer",),
    "post_processor": ("TemplateProcessing", "BertProcessing"),
}
ONLY = "only BERT's WordPiece tokenizers are supported"
BLANK = "\t\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def read_folder(directory: Path, say: Say) -> dict:
    """The arguments of Tokenizer, by the files of a folder. UserError where they make none that fits here."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory")
    place = next((directory / name for name in ("tokenizer.json", "vocab.txt") if (directory / name).is_file()), None)
    if place is None:
        raise UserError(
            f"{directory}: has no tokenizer.json and no vocab.txt; copy them from where the model came from"
        )
    file = directory / "tokenizer_config.json"
    settings = _read_object(file)
    kind = _class_of(directory, settings)
    content, found = _from_json(place, whole=kind is None) if place.suffix == ".json" else ({}, None)
    whole = kind is None and found is not None
    settings, listed = _with_older_files(directory, settings, content)
    chosen = _casing(settings, file)
    side = settings.get("truncation_side") or (content.get("truncation") or {}).get("direction")
    if side not in (None, "right", "Right"):
        cure = 'write "truncation_side": "right" into it if that is as good'
        raise UserError(f"{file}: texts are cut on the {str(side)[:40]!r}, here always at their end; {cure}")
    named, extra = _special_tokens(settings, file)
    special = NAMES | {key: named[key] and named[key].content for key in NAMES if key in named}
    if whole:
        backend = found
    else:
        vocab = found.get_vocab(with_added_tokens=False) if found else _read_vocab(place)
        for key in ("unk_token", "cls_token", "sep_token"):
            if not special[key]:
                raise UserError(f"{file}: {key} is empty; name the token, {NAMES[key]} as a rule")
        backend = wordpiece(vocab, *chosen.values(), unknown=special["unk_token"])
        named = {key: _token(name, file, key) for key, name in NAMES.items()} | named
    special = {key: name or (NAMES[key] if key != "mask_token" else None) for key, name in special.items()}
    names = [named[key] for key in ORDER if named.get(key)] + [named[key] for key in named if key not in ORDER]
    _add_tokens(backend, listed, names, extra, special, place)
    if not whole:
        _note_oddities(found, backend, settings, place, say)
        surround(backend, special["cls_token"], special["sep_token"])
    max_length = settings.get("model_max_length", settings.get("max_len"))
    if type(max_length) is not int or not 2 < max_length < 1_000_000:  # transformers writes 10^30 for "no limit"
        max_length = None
    others = [*(token for key, token in named.items() if token and key not in NAMES), *extra]
    others = tuple(dict.fromkeys(token.content for token in others))
    inputs = settings.get("model_input_names", [] if kind in (None, *NO_TOKEN_TYPES) else ["token_type_ids"])
    if not isinstance(inputs, list):
        cure = "write a list of names, or remove the key"
        raise UserError(f"{file}: model_input_names is {str(inputs)[:40]}; {cure}")
    made = dict(backend=backend, place=str(place), max_length=max_length, special=special, whole=whole)
    return made | dict(has_token_types="token_type_ids" in inputs, extra=others)


def wordpiece(vocab: dict[str, int], lowercase: bool, accents: bool | None, chinese: bool, unknown="[UNK]") -> Backend:
    """BERT's tokenizer around a vocabulary: clean, split at spaces and punctuation, longest piece first.

    accents: whether they are stripped; None: where it lowercases. chinese: whether such characters stand alone.
    """
    backend = Backend(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(True, chinese, accents, lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def surround(backend: Backend, cls: str, sep: str) -> None:
    """From here on the backend makes [CLS] text [SEP], or [CLS] text [SEP] text [SEP], with these tokens."""
    ends = [(name, backend.token_to_id(name)) for name in (sep, cls)]
    backend.post_processor = processors.BertProcessing(*ends)


# --- the files ---


def _read_object(path: Path) -> dict:
    """The object in a JSON file; {} where there is no such file. UserError where it holds something else."""
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; copy it again from where the model came from")
    return value


def _from_json(path: Path, whole: bool) -> tuple[dict, Backend]:
    """What a tokenizer.json holds, and its tokenizer. UserError where it is whole and has other parts than BERT's."""
    content = read_json(path)
    try:
        check_parts(content, path)
    except UserError:
        if whole or not isinstance(content, dict):
            raise
        content |= dict.fromkeys(PARTS)
    try:
        backend = Backend.from_str(json.dumps(content))  # what was checked, not another reading of the file
    except Exception as error:  # the package raises bare Exception for whatever is wrong with the file
        raise UserError(f"{path}: is no tokenizer that the tokenizers package can read: {error}") from None
    if not isinstance(backend.model, models.WordPiece):
        raise UserError(f"{path}: is a {type(backend.model).__name__} tokenizer; only WordPiece is supported")
    return content, backend


def check_parts(content, path: Path) -> None:
    """UserError where a tokenizer.json has other parts than BERT's: some hang, some abort, on a text made for it."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object")
    for key, known in PARTS.items():
        part = content.get(key)
        if not isinstance(part, dict) or part.get("type") not in known:
            found = part.get("type") if isinstance(part, dict) else part
            raise UserError(f"{path}: {key} is {str(found)[:40]!r}; only {' and '.join(known)} can be used here")
    for key, texts in (("single", 1), ("pair", 2)):
        template = content["post_processor"].get(key, [{"Sequence": {}}] * texts)
        parts = template if isinstance(template, list) else []
        if sum("Sequence" in part for part in parts if isinstance(part, dict)) != texts:
            what = "the text" if texts == 1 else "each text"
            raise UserError(f"{path}: post_processor.{key} is {str(template)[:40]!r}; it must hold {what} once")
        named = [part["SpecialToken"] for part in parts if isinstance(part, dict) and "SpecialToken" in part]
        known = content["post_processor"].get("special_tokens")
        names = {str(token.get("id")) if isinstance(token, dict) else "" for token in named}
        if named and not (isinstance(known, dict) and names <= known.keys()):
            what = f"post_processor.{key} names tokens that its special_tokens do not hold"
            raise UserError(f"{path}: {what}; copy it again from where the model came from")


def _read_vocab(path: Path) -> dict[str, int]:
    """Piece -> number of its line, from 0, in a file of one a line; of two lines alike the last counts.

    Blanks at the end of a line are not part of the piece, and a blank line is one that nothing is cut into.
    """
    text = read_text(path)
    if path.read_bytes().startswith(b"\xef\xbb\xbf"):
        raise UserError(
            f"{path}: begins with a byte-order mark, which would be part of the first piece; save it without"
        )
    return {line.rstrip(BLANK): i for i, line in enumerate(text.removesuffix("\n").split("\n"))}


def _class_of(directory: Path, settings: dict) -> str | None:
    """Which of BERT_CLASSES the tokenizer is of; None: it is its tokenizer.json as it stands. UserError: another."""
    config = _read_object(directory / "config.json")
    for file, values in (("tokenizer_config.json", settings), ("config.json", config)):
        name = values.get("tokenizer_class")
        if name is not None:
            if name in WHOLE_CLASSES:
                return None
            if isinstance(name, str) and name.removesuffix("Fast").removesuffix("Tokenizer") in BERT_CLASSES:
                return name.removesuffix("Fast").removesuffix("Tokenizer")
            known = ", ".join([*(f"{known}Tokenizer" for known in BERT_CLASSES), WHOLE_CLASSES[0]])
            raise UserError(f"{directory / file}: tokenizer_class is {str(name)[:60]!r}; {ONLY}: {known}")
    kind = config.get("model_type")
    if kind is None or kind == "kd_scratch":  # a model of a shape that BERT's config cannot express
        return None
    if kind not in BERT_TYPES:
        place = f"{directory / 'config.json'}: model_type is {str(kind)[:60]!r}"
        raise UserError(f"{place}; {ONLY}, those of {', '.join(BERT_TYPES)}")
    return "Bert"


def _with_older_files(
    directory: Path, settings: dict, content: dict
) -> tuple[dict, list[tuple[int, AddedToken, Path]]]:
    """The settings, and the tokens that are listed as added: number, token and the file that lists it.

    Where the settings list none, those of added_tokens.json and tokenizer.json, and special_tokens_map.json is one of
    the settings' files.
    """
    file = directory / "tokenizer_config.json"
    listed: dict[int, tuple[AddedToken, Path]] = {}
    if "added_tokens_decoder" in settings:
        for number, token in _object(settings["added_tokens_decoder"], file, "added_tokens_decoder").items():
            listed[_number(number, file)] = _token(_object(token, file, f"token {number}"), file, number), file
    else:
        own, older = _extra(settings), _read_object(directory / "special_tokens_map.json")
        settings = settings | older | ({"extra_special_tokens": own} if own else {})
        named, extra = _special_tokens(settings, directory / "special_tokens_map.json")
        special = {named[key].content for key in ORDER if named.get(key)}
        special |= {token.content for token in extra if isinstance(settings.get("extra_special_tokens") or None, list)}
        file = directory / "added_tokens.json"
        for name, number in _read_object(file).items():
            is_special = name in special
            token = AddedToken(name, normalized=not is_special, special=is_special)
            listed[_number(number, file)] = token, file
        file = directory / "tokenizer.json"
        for entry in content.get("added_tokens") or []:  # the package has accepted them
            listed[_number(entry["id"], file)] = _token(entry, file, "added_tokens"), file
    return settings, [(number, *listed[number]) for number in sorted(listed)]


def _object(value, file: Path, key: str) -> dict:
    """A value that must be an object of a JSON file."""
    if not isinstance(value, dict):
        raise UserError(f"{file}: {key} must be an object, it is {str(value)[:40]!r}")
    return value


def _number(value, file: Path) -> int:
    """The number of an added token, which JSON also writes as text."""
    if isinstance(value, bool) or not re.fullmatch("[0-9]{1,9}", str(value)):
        raise UserError(f"{file}: {str(value)[:40]!r} is no number of a token")
    return int(value)


def _token(value, file: Path, key: str) -> AddedToken:
    """A token of a JSON file: its text (then a special one) or an object with flags."""
    if isinstance(value, str):
        return AddedToken(value, normalized=False, special=True)
    value = _object(value, file, f"{key}, where it is no text,")
    flags = {flag: value[flag] for flag in FLAGS if flag in value}
    if not isinstance(value.get("content"), str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise UserError(f"{file}: {key} needs content, a text, and flags that are true or false")
    return AddedToken(value["content"], **flags)


def _casing(settings: dict, file: Path) -> dict[str, bool | None]:
    """Each of SETTINGS -> its value. UserError where it has none that is possible."""
    for key, default in SETTINGS.items():
        value = settings.get(key, default)
        if not isinstance(value, bool) and (default is not None or value is not None):
            raise UserError(f"{file}: {key} must be true or false, it is {str(value)[:40]!r}")
    if settings.get("split_special_tokens"):
        raise UserError(f"{file}: split_special_tokens must be false: a special token in a text counts as itself here")
    others = settings.get("fast_tokenizer_files") or []
    if others not in ([], ["tokenizer.json"]):
        cure = "rename the newest to tokenizer.json and delete the key"
        raise UserError(f"{file}: fast_tokenizer_files names {str(others)[:80]}; {cure}")
    return {key: settings.get(key, default) for key, default in SETTINGS.items()}


def _extra(settings: dict):
    """The special tokens without a role."""
    return settings.get("extra_special_tokens") or settings.get("additional_special_tokens")


def _special_tokens(settings: dict, file: Path) -> tuple[dict[str, AddedToken | None], list[AddedToken]]:
    """The special tokens of the settings: those with a role by its name ("cls_token"), and the others."""
    named = {}
    for key, value in settings.items():
        if key in ORDER and value is None:
            named[key] = None
        elif key in ORDER or (key.endswith("_token") and isinstance(value, (str, dict))):
            named[key] = _token(value, file, key)
    extra = _extra(settings) or []
    if isinstance(extra, dict):
        named |= {key: _token(value, file, key) for key, value in extra.items()}
        extra = settings.get("additional_special_tokens") or []
    if not isinstance(extra, list):
        raise UserError(f"{file}: the additional special tokens must be a list, it is {str(extra)[:40]!r}")
    return named, [_token(value, file, "an additional special token") for value in extra]


# --- what is made of them ---


def _add_tokens(
    backend: Backend,
    listed: list[tuple[int, AddedToken, Path]],
    named: list[AddedToken],
    extra: list[AddedToken],
    special: dict[str, str | None],
    place: Path,
) -> None:
    """Add the listed tokens, then the special ones that are not among them, in the order of the reference.

    UserError where one does not get the number that it is listed with, or a special one is in no file.
    """
    roles = {token.content for token in named + extra}  # special, wherever and however they are listed
    for token in [token for _, token, _ in listed] + named + extra:
        token.special = token.special or token.content in roles
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    known |= {token.content for _, token, _ in listed}
    backend.add_tokens([token for _, token, _ in listed])
    found = backend.get_vocab()
    for key in tuple(NAMES)[:4]:  # without which BERT's inputs cannot be made
        if special[key] not in found:
            cure = f"if another token is its {key}, name it in tokenizer_config.json"
            raise UserError(f"{place}: the vocabulary has no {special[key]}; {ONLY}; {cure}")
    backend.add_tokens([token for token in named + extra if token.content not in known])
    _check_added(backend, place)
    for number, token, file in listed:
        other = backend.token_to_id(token.content)
        if token.content and other != number:
            cure = f"put it where piece {number} of the vocabulary is, or correct the number"
            raise UserError(
                f"{file}: {token.content!r:.60} is listed as {number}, but gets {other} (from {place.name}); {cure}"
            )
    pieces: dict[int, str] = {}
    for piece, number in backend.get_vocab().items():
        if piece and pieces.setdefault(number, piece) != piece:
            both = " and ".join(sorted((f"{pieces[number]!r:.40}", f"{piece!r:.40}")))
            cure = "of pieces that are alike, call the earlier one [unused1], and fill gaps in the numbers so"
            raise UserError(f"{place}: {both} are both piece {number}; {cure}")


def _check_added(backend: Backend, place: Path) -> None:
    """UserError where the package would find added tokens by chance, or give up, with some text."""
    forms: dict[str, str] = {}
    for token in backend.get_added_tokens_decoder().values():
        form = backend.normalizer.normalize_str(token.content) if token.normalized else token.content
        if not form.strip():
            raise UserError(f"{place.parent}: the added token {token.content!r:.60} is blank; delete it from the files")
        other = forms.setdefault(form, token.content) if token.normalized else token.content
        if other != token.content:
            both = f"{other!r:.60} and {token.content!r:.60}"
            cure = 'list one with "normalized": false, or not at all'
            raise UserError(f"{place.parent}: the added tokens {both} are the same once normalized; {cure}")


def _note_oddities(found: Backend | None, backend: Backend, settings: dict, place: Path, say: Say) -> None:
    """Say where a tokenizer.json, or a vocabulary with capitals, looks made for other settings."""
    cure = "in tokenizer_config.json if the model was trained so"
    pieces = backend.get_vocab()
    if found and found.normalizer is None:
        say(f"note: {place}: its own way of cutting texts is overruled by BERT's (as in transformers 5)")
    elif found:
        for key, own, used in zip(SETTINGS, canonical_casing(found), canonical_casing(backend), strict=True):
            if own != used:
                own, used = json.dumps(own), json.dumps(used)
                cured = f'write "{key}": {own} {cure}'
                say(f"note: {place}: {key} {own} in it is overruled by {used} (as in transformers 5); {cured}")
        lost = [t.content for t in found.get_added_tokens_decoder().values() if t.content not in pieces]
        if lost:
            what = f"its added token {lost[0]!r:.60} (of {len(lost)}) is not used"
            say(f"note: {place}: {what}: tokenizer_config.json lists added tokens without it")
    elif "do_lower_case" not in settings and any(p != p.lower() for p in pieces if not p.startswith("[")):
        cured = f'write "do_lower_case": false {cure}'
        say(f"note: {place}: has capitals, but texts are lowercased by default (as in transformers 5); {cured}")


def canonical_casing(backend: Backend) -> tuple[bool, bool | None, bool]:
    """The values of SETTINGS in one spelling (accents None: stripped where it lowercases)."""
    normalizer = backend.normalizer
    accents = None if normalizer.strip_accents == normalizer.lowercase else normalizer.strip_accents
    return normalizer.lowercase, accents, normalizer.handle_chinese_chars
