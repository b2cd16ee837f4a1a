"""Folders of tokenizers in every spelling: our ids against those of transformers' AutoTokenizer on the same files."""

import itertools
import json
import random

import numpy as np
import pytest
from tokenizers import AddedToken

from kd_scratch.common.errors import UserError
from kd_scratch.data.fewer_pieces import fewer_pieces
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer
from kd_scratch.data.tokenizer_files import NAMES, surround, wordpiece

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity(transformers.logging.CRITICAL)

PIECES = """[PAD] [UNK] [CLS] [SEP] [MASK] the fox The Fox caf ##e café Café cafe , 我 ##们 我们 们 jump ##s <s> </s>
    <pad> <unk> <mask> m ##ö ##o mo mö [unused1] a A b x ##x covid_""".split()
SIZE = len(PIECES)
TEXTS = [
    "The FOX jumps, caféé", "Cafe CAFÉ möchte mö Mo", "我们 the fox我", "the [MASK] [mask] fox[SEP]", "",
    "<s> the </s> <unk> </S> [PAD]", "[unused1] thefox covidfox Covid COVID x covid  [E1] [e1]xx",
    "a [ENT] b[ENT]a new york NEW YORK New York", "aA\u0301b e\u0301 \x07x\u2003[E1]\u00a0", "the " * 30,
]  # fmt: skip


def token(content, **flags):
    """An added token as files list it."""
    start = {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    return start | {"special": False} | flags


ADDED = {  # what is added -> the tokens, in the order of their numbers after the vocabulary
    "nothing": [],
    "words": [token("covid"), token("New York")],
    "flags": [
        token("covid", single_word=True),
        token("[E1]", normalized=False, lstrip=True),
        token("YORK", rstrip=True),
    ],
    "special": [token("[ENT]", normalized=False, special=True, lstrip=True, rstrip=True), token("[E1]", special=True)],
}
RENAMED = {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
CHOICES = {
    "config": [{"model_type": "bert"}, {"model_type": "distilbert"}, {}, None],
    "class": ["BertTokenizer", "DistilBertTokenizerFast", "PreTrainedTokenizerFast", None],
    "files": ["tokenizer.json", "vocab.txt", "both"],
    "settings": [True, True, True, False],  # whether there is a tokenizer_config.json
    "do_lower_case": [True, False, "absent"],
    "strip_accents": [True, False, None, "absent"],
    "tokenize_chinese_chars": [True, False, "absent"],
    "json": list(itertools.product([True, False], [True, False, None], [True, False])),  # casing in tokenizer.json
    "added": list(ADDED),
    "added in": ["added_tokens_decoder", "older files", "tokenizer.json"],
    "names": ["BERT's", "BERT's", "in the map", "in the map, as objects", "in the settings", "as typed objects"],
    "additional": [None, None, ["[E1]"], ["fox", "[ENT]"]],
    "line end": ["\n", "\r\n"],
    "end": ["", "\n", "\n\n\n"],  # of vocab.txt, after the last line end
    "others": [
        {},
        {"never_split": ["Fox"]},
        {"do_basic_tokenize": False},
        {"bos_token": "<s>"},
        {"model_max_length": 64},
        {"extra_special_tokens": {"e_token": "[E2]"}},
    ],
}


def files(case) -> dict:
    """Name -> content of each file of a folder, or None where such a folder makes no sense."""
    tokens = ADDED[case["added"]]
    listed = dict(enumerate(tokens, SIZE))
    plain = case["end"] == "" or (case["files"] != "vocab.txt" or not tokens)
    has_json = case["files"] != "vocab.txt"
    if not plain or (case["added in"] == "tokenizer.json" and not has_json):
        return {}
    made = {"config.json": case["config"]}
    settings = {"tokenizer_class": case["class"]} | case["others"]
    for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        settings |= {} if case[key] == "absent" else {key: case[key]}
    names = RENAMED if case["names"] != "BERT's" else {}
    if case["names"].endswith("settings"):
        settings |= names
    elif case["names"] == "as typed objects":
        settings |= {k: token(name, normalized=False) | {"__type": "AddedToken"} for k, name in names.items()}
    elif names:
        as_object = case["names"] == "in the map, as objects"
        flags = {"normalized": False, "lstrip": True}
        made["special_tokens_map.json"] = {k: token(n, **flags) if as_object else n for k, n in names.items()}
    if case["additional"]:
        settings["additional_special_tokens"] = case["additional"]
    if case["added in"] == "added_tokens_decoder":
        settings["added_tokens_decoder"] = {str(i): entry for i, entry in listed.items()}
    elif case["added in"] == "older files":
        made["added_tokens.json"] = {entry["content"]: i for i, entry in listed.items()}
    if case["settings"]:
        made["tokenizer_config.json"] = settings
    if has_json:
        backend = wordpiece({piece: i for i, piece in enumerate(PIECES)}, *case["json"])
        surround(backend, "[CLS]", "[SEP]")
        backend.add_special_tokens(list(NAMES.values()))
        if case["added in"] == "tokenizer.json":
            backend.add_tokens([AddedToken(**entry) for entry in tokens])
        made["tokenizer.json"] = json.loads(backend.to_str())
    if case["files"] != "tokenizer.json":
        made["vocab.txt"] = case["line end"].join([*PIECES, case["end"]])
    return made


def write(folder, made):
    """A new folder with these files."""
    folder.mkdir()
    for name, content in made.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_bytes(text.encode())
    return folder


def reference(folder):
    """What transformers makes of a folder; None where it gives up."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer("[UNK] ☃ a")
    except Exception:
        return None
    return tokenizer


def assert_same(ours: Tokenizer, theirs, texts=TEXTS):
    """The same ids for every text and pair, offsets, and special tokens where the reference has any."""
    expected = theirs(texts, return_offsets_mapping=True)
    encodings = ours.encode(texts, offsets=True)
    assert [e.ids for e in encodings] == expected["input_ids"]
    assert [e.offsets for e in encodings] == expected["offset_mapping"]
    assert [e.ids for e in ours.encode(texts)] == expected["input_ids"]
    cut = theirs(texts, truncation=True, max_length=9)["input_ids"]
    assert [e.ids for e in ours.encode(texts, max_length=9)] == cut
    pairs = theirs(texts, texts[::-1], return_token_type_ids=True)
    encodings = ours.encode(texts, texts[::-1])
    assert [e.ids for e in encodings] == pairs["input_ids"]
    assert [e.type_ids for e in encodings] == pairs["token_type_ids"]
    others = set(theirs.all_special_tokens) - {theirs.bos_token, theirs.eos_token, *ours.special.values()}
    assert others <= set(ours.extra) <= set(theirs.all_special_tokens)
    assert ours.has_token_types == ("token_type_ids" in theirs("a", "b"))
    assert ours.vocab_size == max(i for piece, i in theirs.get_vocab().items() if piece) + 1
    for id in (theirs.pad_token_id, theirs.mask_token_id, theirs.cls_token_id, *theirs.all_special_ids):
        assert id is None or id in ours.special_ids
    if theirs.pad_token_id is not None:
        assert ours.pad_id == theirs.pad_token_id
    if theirs.unk_token_id is not None:
        assert (ours.unknown_id, ours.mask_id) == (theirs.unk_token_id, theirs.mask_token_id)


def assert_saved(ours: Tokenizer, folder, config):
    """What is saved is read to the same ids by the reference and by us, and saved again as the same bytes."""
    (folder / "again").mkdir()
    ours.save(folder, max_length=48)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    assert_same(ours, transformers.AutoTokenizer.from_pretrained(folder))
    again = load_tokenizer(folder)
    assert (
        again.fingerprint == ours.fingerprint and not again.difference(ours) and again.special_ids == ours.special_ids
    )
    again.save(folder / "again", max_length=48)
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (folder / "again" / name).read_bytes(), name


@pytest.mark.parametrize("seed", range(8))
def test_folders_of_every_spelling_are_read_to_the_same_ids_and_saved_so(tmp_path, seed):
    rng = random.Random(seed)
    opened, by_ids = 0, {}
    for i in range(40):
        case = {key: rng.choice(values) for key, values in CHOICES.items()}
        made = files(case)
        folder = write(tmp_path / str(i), made)
        theirs = reference(folder) if made else None
        if theirs is None:
            continue
        opened += 1
        try:
            ours = load_tokenizer(folder, say=lambda note: None)
        except UserError as error:
            # As a whole, a tokenizer.json has the names that it has.
            assert case["names"] != "BERT's" and "around a text" in str(error) and case["files"] != "vocab.txt", error
            continue
        assert_same(ours, theirs)
        (tmp_path / f"saved {i}").mkdir()
        assert_saved(ours, tmp_path / f"saved {i}", case["config"])
        ids = tuple(tuple(e.ids) for e in ours.encode(TEXTS))
        few, kept = fewer_pieces(ours, np.array(sorted({*ids[0], *ids[2]})))
        assert [tuple(kept[few.encode([TEXTS[i]])[0].ids]) for i in (0, 2)] == [ids[0], ids[2]]
        (tmp_path / f"few {i}").mkdir()
        assert_saved(few, tmp_path / f"few {i}", case["config"])
        assert by_ids.setdefault(ours.fingerprint, ids) == ids, "as equal as their ids"
    assert opened > 20


def vocab_txt(pieces=PIECES, end="", **settings):
    """The files of a folder with a vocab.txt and settings."""
    made = {"config.json": {"model_type": "bert"}, "vocab.txt": "\n".join([*pieces, end])}
    return made | {"tokenizer_config.json": {"do_lower_case": True} | settings}


def tokenizer_json(name, **changes):
    """The files of a folder with a tokenizer.json and the name of a class."""
    backend = wordpiece({piece: i for i, piece in enumerate(PIECES)}, False, None, True)
    surround(backend, "[CLS]", "[SEP]")
    backend.add_special_tokens(list(NAMES.values()))
    content = json.loads(backend.to_str())
    content["model"] |= changes
    settings = {"tokenizer_class": name, "do_lower_case": False}
    return {"config.json": {"model_type": "bert"}, "tokenizer.json": content, "tokenizer_config.json": settings}


ODD = {
    "a blank line at the end": vocab_txt(end="\n"),
    "blank lines at the end": vocab_txt(end="\n\n\n"),
    "a blank line at the end, counted by an added token": vocab_txt(end="\n")
    | {"added_tokens.json": {"covid": SIZE + 1}},
    "a blank line inside": vocab_txt([*PIECES[:9], "", *PIECES[9:]]),
    "a line that stands twice": vocab_txt([*PIECES[:9], "the", *PIECES[9:]]),
    "blanks behind pieces": vocab_txt([piece + " \u3000" for piece in PIECES]),
    "separators for pieces": vocab_txt([*PIECES, "\u2028", "\xa0", "\x85", "\x1c", "last"]),
    "no [MASK]": vocab_txt([piece for piece in PIECES if piece != "[MASK]"]),
    "no [MASK], and none named": vocab_txt([piece for piece in PIECES if piece != "[MASK]"], mask_token=None),
    "no padding token named": vocab_txt(pad_token=None),
    "tokens of other roles": vocab_txt(eos_token="[EOS]", fancy_token="[E1]", extra_special_tokens={"e_token": "E"}),
    "the map against the settings": vocab_txt(cls_token="<s>") | {"special_tokens_map.json": {"cls_token": "[CLS]"}},
    "the map beside listed tokens": vocab_txt(added_tokens_decoder={})
    | {"special_tokens_map.json": {"cls_token": "<s>"}},
    "a piece as added token": vocab_txt() | {"added_tokens.json": {"fox": 6, "[MASK]": 4}},
    "short words, of a class": tokenizer_json("BertTokenizer", max_input_chars_per_word=3),
    "short words, of none": tokenizer_json("PreTrainedTokenizerFast", max_input_chars_per_word=3),
    "another prefix, of none": tokenizer_json("PreTrainedTokenizerFast", continuing_subword_prefix="@"),
    "two vocabularies": tokenizer_json("BertTokenizer") | {"vocab.txt": "\n".join(reversed(PIECES))},
    "token types that are not given": vocab_txt(model_input_names=["input_ids", "attention_mask"]),
    "token types of no class": tokenizer_json("PreTrainedTokenizerFast")
    | {"tokenizer_config.json": {"model_input_names": ["input_ids", "token_type_ids"], "do_lower_case": False}},
    **{
        name: tokenizer_json(name)
        for name in ("ElectraTokenizer", "DistilBertTokenizerFast", "MobileBertTokenizerFast", "LxmertTokenizer")
    },
}


@pytest.mark.parametrize("name", ODD)
def test_odd_folders_are_read_to_the_same_ids_and_saved_so(tmp_path, name):
    folder = write(tmp_path / "folder", ODD[name])
    ours, theirs = load_tokenizer(folder), reference(folder)
    if theirs.pad_token is None:
        texts = [text for text in TEXTS if text]
        (tmp_path / "saved").mkdir()
        ours.save(tmp_path / "saved", max_length=48)
        for tokenizer in (theirs, reference(tmp_path / "saved")):
            assert [e.ids for e in ours.encode(texts)] == tokenizer(texts)["input_ids"]
        return
    assert_same(ours, theirs)
    (tmp_path / "saved").mkdir()
    assert_saved(ours, tmp_path / "saved", {"model_type": "bert"})


RANDOM = {
    "uncased": vocab_txt(),
    "cased, accents stripped": vocab_txt(do_lower_case=False, strip_accents=True),
    "accents kept, Chinese together": vocab_txt(strip_accents=False, tokenize_chinese_chars=False),
    "added": vocab_txt(
        added_tokens_decoder={str(SIZE + i): t for i, t in enumerate(ADDED["flags"])}, mask_token="<mask>"
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_ids_of_25000_random_unicode_texts_are_the_same(tmp_path, name):
    rng = random.Random(name)
    folder = write(tmp_path / "folder", RANDOM[name])
    ours, theirs = load_tokenizer(folder, say=lambda note: None), reference(folder)

    def character():
        code = rng.randrange(rng.choice([128, 0x3000, 0xA000, 0x110000]))
        return "�" if 0xD800 <= code < 0xE000 else chr(code)

    words = [*PIECES, "covid", "[E1]", "York", " ", " ", "\u0301", "İ", "ß", "\u200d"]
    texts = [
        "".join(rng.choice(words) if rng.random() < 0.5 else character() for _ in range(12)) for _ in range(25_000)
    ]
    expected = [e.ids for e in theirs.backend_tokenizer.encode_batch_fast(texts)]  # all that a call does to ids
    assert [e.ids for e in ours.encode(texts)] == expected
    assert [e.ids for e in ours.encode(texts, max_length=6)] == [
        ids if len(ids) < 7 else [*ids[:5], ids[-1]] for ids in expected
    ]
