"""Tokenization: what goes into a model, from where a tokenizer comes, and which files are refused."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers, pre_tokenizers, processors

from kd_scratch.common.errors import UserError
from kd_scratch.data import tokenizer as tokenizer_module
from kd_scratch.data.tokenizer import SPECIAL, Tokenizer, load_tokenizer, train_tokenizer
from tests.conftest import ROOT, TEXTS

VOCAB = [*SPECIAL, "the", "fox", "jump", "##s", "caf", "##e", ",", "我"]
HARD = [
    "The QUICK brown fox, again!",
    "Café naïve cafe\u0301",
    "我们 the fox 😀 jumps",
    "",
    "  \t two\u00a0spaces\u200b ",
    "x" * 150,
    "[SEP] written out [MASK]",
    "the\u2028fox",
]


def ids_of(tokenizer, texts=HARD, **options):
    return [encoding.ids for encoding in tokenizer.encode(texts, **options)]


def from_vocab(folder, lines=VOCAB, **settings):
    """The tokenizer of a folder that holds a vocab.txt and, where there are settings, a tokenizer_config.json."""
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(folder)


def from_json(folder, tokenizer, **changes):
    """A tokenizer read from another one's tokenizer.json with some of its keys replaced."""
    (folder / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.backend.to_str()) | changes))
    return load_tokenizer(folder)


# --- encoding ---


def test_a_text_becomes_cls_pieces_sep(tmp_path):
    encoding = from_vocab(tmp_path).encode(["The foxes' CAFÉ"], offsets=True)[0]
    assert encoding.tokens == ["[CLS]", "the", "fox", "##e", "##s", "[UNK]", "caf", "##e", "[SEP]"]
    assert encoding.ids == [2, 5, 6, 10, 8, 1, 9, 10, 3]
    assert set(encoding.type_ids) == {0}


def test_a_pair_becomes_cls_first_sep_second_sep_with_types_0_and_1(tmp_path):
    encoding = from_vocab(tmp_path).encode(["the fox"], ["jumps"], offsets=True)[0]
    assert encoding.tokens == ["[CLS]", "the", "fox", "[SEP]", "jump", "##s", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1, 1]


def test_a_long_text_is_cut_at_its_end_and_keeps_its_sep(tokenizer):
    whole = ids_of(tokenizer, [TEXTS[0]])[0]
    assert len(whole) > 12
    assert ids_of(tokenizer, [TEXTS[0]], max_length=12)[0] == whole[:11] + whole[-1:]
    assert ids_of(tokenizer, [TEXTS[0]], max_length=len(whole))[0] == whole, "cut only where it is too long"


def test_special_tokens_written_out_in_a_text_count_as_themselves(tmp_path):
    assert ids_of(from_vocab(tmp_path), ["the [MASK] [mask]"]) == [[2, 5, 4, 1, 1, 1, 3]]


@pytest.mark.parametrize("fox, the, left", [(10, 3, (6, 3)), (3, 10, (3, 6)), (10, 10, (4, 5)), (2, 3, (2, 3))])
def test_of_a_pair_the_longer_one_is_cut_first(tmp_path, fox, the, left):
    ids = from_vocab(tmp_path).encode(["fox " * fox], ["the " * the], max_length=12)[0].ids
    assert (ids.count(6), ids.count(5)) == left
    assert len(ids) == min(12, fox + the + 3)


def test_texts_after_a_cut_one_are_not_cut(tokenizer):
    whole = ids_of(tokenizer, TEXTS)
    tokenizer.encode(TEXTS, max_length=5)
    assert ids_of(tokenizer, TEXTS) == whole


def test_a_length_is_of_one_call_and_one_thread_only(tokenizer):
    """Whatever other threads ask for meanwhile, and also after a text that cannot be encoded."""
    long = " ".join(TEXTS * 3)
    whole = len(tokenizer.encode([long])[0].ids)
    with pytest.raises(TypeError):
        tokenizer.encode(["\ud800"], max_length=5)
    assert len(tokenizer.encode([long])[0].ids) == whole > 20
    lengths = [5, None] * 100
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda length: len(tokenizer.encode([long], max_length=length)[0].ids), lengths)
        assert list(found) == [length or whole for length in lengths]


@pytest.mark.parametrize("pairs, max_length", [(None, 1), (["the lazy dog"], 2)])
def test_no_input_is_ever_longer_than_asked_for(tokenizer, pairs, max_length):
    try:
        assert len(ids_of(tokenizer, ["the quick fox"], pairs=pairs, max_length=max_length)[0]) <= max_length
    except UserError:
        pass


@pytest.mark.parametrize(
    "text", ["😀 the fox", "cafe\u0301 the fox", "我们 the fox", "\ufeff\u200b the\u00a0fox", "ﬁ the fox"]
)
def test_offsets_are_code_points_of_the_original_text(tmp_path, text):
    encoding = from_vocab(tmp_path).encode([text], offsets=True)[0]
    slices = {token: text[start:end] for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)}
    assert (slices["the"], slices["fox"]) == ("the", "fox")


def test_offsets_tell_apart_the_pieces_of_one_word_and_survive_lowercasing(tmp_path):
    text = "我CAFÉ, JUMPS"
    encoding = from_vocab(tmp_path).encode([text], offsets=True)[0]
    assert encoding.tokens[1:-1] == ["我", "caf", "##e", ",", "jump", "##s"]
    assert [text[start:end] for start, end in encoding.offsets[1:-1]] == ["我", "CAF", "É", ",", "JUMP", "S"]


# --- files ---


def test_vocab_txt_and_tokenizer_json_of_one_model_give_the_same_ids(tmp_path, tokenizer):
    tokenizer.save(tmp_path, max_length=32)
    from_file = load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    from_words = load_tokenizer(tmp_path)
    assert ids_of(from_file) == ids_of(from_words) == ids_of(tokenizer)
    assert from_file.fingerprint == from_words.fingerprint == tokenizer.fingerprint
    assert from_file.vocab_size == from_words.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_tokenizer_remembers_on_disk_whether_it_lowercases(tmp_path, lowercase):
    tokenizer = train_tokenizer(["the fox and the dog"], vocab_size=60, lowercase=lowercase)  # no capitals to go by
    tokenizer.save(tmp_path, max_length=32)
    for name in ("tokenizer.json", "vocab.txt"):  # the first is read while it is there
        loaded = load_tokenizer(tmp_path)
        the, upper = ids_of(loaded, ["the", "THE"])
        assert (the == upper) == loaded.lowercase == lowercase, name
        (tmp_path / name).unlink()


@pytest.mark.parametrize(
    "piece, settings, lowercase, noted",
    [
        ("fox2", {}, True, False),
        ("Fox", {}, True, True),
        ("##S", {}, True, True),
        ("Fox", {"do_lower_case": True}, True, False),
        ("Fox", {"do_lower_case": False}, False, False),
        ("fox2", {"do_lower_case": False}, False, False),
    ],
)
def test_texts_are_lowercased_unless_the_settings_say_otherwise_and_it_is_noted_where_the_vocabulary_has_capitals(
    tmp_path, piece, settings, lowercase, noted, capsys
):
    tokenizer = from_vocab(tmp_path, [*VOCAB, piece], **settings)
    assert tokenizer.lowercase == lowercase
    assert ids_of(tokenizer, ["THE"]) == ([[2, 5, 3]] if lowercase else [[2, 1, 3]])
    assert ("has capitals, but texts are lowercased by default" in capsys.readouterr().out) == noted


def test_a_do_lower_case_that_is_no_boolean_is_refused(tmp_path):
    with pytest.raises(UserError, match="do_lower_case"):
        from_vocab(tmp_path, do_lower_case="false")


def test_padding_and_truncation_inside_tokenizer_json_are_switched_off(tmp_path, tokenizer):
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    loaded = from_json(tmp_path, tokenizer, padding=padding, truncation=truncation)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert ids_of(loaded) == ids_of(tokenizer)


def test_the_fingerprint_tells_tokenizers_apart_and_forgets_what_was_encoded(tmp_path):
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    first, again = from_vocab(folders[0]), from_vocab(folders[1])
    again.encode(["the fox"], max_length=3)
    cased, swapped = from_vocab(folders[2], do_lower_case=False), from_vocab(folders[3], VOCAB[:-2] + VOCAB[:-3:-1])
    assert first.fingerprint == again.fingerprint
    assert len({t.fingerprint for t in (first, cased, swapped)}) == 3


def test_windows_line_ends_and_rare_separators_in_vocab_txt_do_not_shift_ids(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*SPECIAL, "\u2028", "\x85", "fox"]).encode())
    assert ids_of(load_tokenizer(tmp_path), ["fox"]) == [[2, 7, 3]]


@pytest.mark.parametrize(
    "written, read",
    [(512, 512), (10**30, None), (None, None), (True, None), ("512", None), (-1, None), (0, None), (512.0, None)],
)
def test_model_max_length_is_read_where_it_is_a_usable_number(tmp_path, written, read):
    assert from_vocab(tmp_path, model_max_length=written).max_length == read


def test_model_max_length_is_saved(tmp_path, tokenizer):
    tokenizer.save(tmp_path, max_length=77)
    assert load_tokenizer(tmp_path).max_length == 77


@pytest.mark.parametrize("token", SPECIAL[:4])
def test_a_vocabulary_without_a_special_token_is_refused_by_its_name(tmp_path, tokenizer, token):
    with pytest.raises(UserError) as error:
        from_vocab(tmp_path, [piece for piece in VOCAB if piece != token])
    assert f"{tmp_path / 'vocab.txt'}: the vocabulary has no {token}" in str(error.value)
    text = tokenizer.backend.to_str().replace(f'"{token}"', '"[another]"')
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path)
    assert f"{tmp_path / 'tokenizer.json'}: the vocabulary has no {token}" in str(error.value)


def test_a_vocabulary_may_lack_mask_and_have_pad_anywhere(tmp_path):
    lines = ["fox", "[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer = from_vocab(tmp_path, lines)
    assert tokenizer.pad_id == 4
    assert ids_of(tokenizer, ["fox [MASK]"]) == [[2, 0, 5, 3]] and tokenizer.mask_id == 5, "as with transformers"
    tokenizer = from_vocab(tmp_path, lines, mask_token=None)
    assert ids_of(tokenizer, ["fox [MASK]"]) == [[2, 0, 1, 1, 1, 3]] and tokenizer.mask_id is None
    assert tokenizer.vocab_size == 5


def test_of_a_piece_that_stands_twice_in_vocab_txt_the_last_line_counts(tmp_path):
    assert ids_of(from_vocab(tmp_path, [*VOCAB[:5], "the", "fox", "jump", "fox"]), ["fox"]) == [[2, 8, 3]]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 100_000, '{"version": "1.0", "model": null}'])
def test_a_tokenizer_json_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json: "):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "model, name",
    [
        ({"type": "BPE", "vocab": {"[PAD]": 0}, "merges": []}, "BPE"),
        ({"type": "Unigram", "unk_id": 0, "vocab": [["[PAD]", 0.0]]}, "Unigram"),
    ],
    ids=["BPE", "Unigram"],
)
def test_a_tokenizer_that_is_not_wordpiece_is_refused(tmp_path, tokenizer, model, name):
    with pytest.raises(UserError, match=rf"tokenizer\.json: is a {name} tokenizer; only WordPiece is supported"):
        from_json(tmp_path, tokenizer, model=model)


@pytest.mark.parametrize("fault", ["no [CLS] and [SEP] are added", "the unknown token is not in the vocabulary"])
def test_a_tokenizer_json_that_cannot_make_inputs_for_bert_is_refused(tmp_path, tokenizer, fault):
    model = json.loads(tokenizer.backend.to_str())["model"] | {"unk_token": "<unk>"}
    changes = {"post_processor": None} if fault.startswith("no") else {"model": model}
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        from_json(tmp_path, tokenizer, **changes)


def test_a_folder_without_tokenizer_and_settings_that_are_no_object_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json and no vocab\.txt"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: holds no JSON object"):
        from_vocab(tmp_path)


# --- training ---


def test_a_trained_vocabulary_starts_with_the_special_tokens_and_keeps_its_size(tokenizer):
    vocab = tokenizer.backend.get_vocab()
    assert [vocab[token] for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert tokenizer.vocab_size == len(vocab) == 120


def test_a_trained_vocabulary_spells_every_training_text(tokenizer):
    unknown = tokenizer.backend.token_to_id("[UNK]")
    assert not any(unknown in ids for ids in ids_of(tokenizer, TEXTS))


def test_training_joins_frequent_letters_into_pieces():
    tokenizer = train_tokenizer(["banana banana banana orchid"], vocab_size=40)
    assert tokenizer.encode(["banana"], offsets=True)[0].tokens == ["[CLS]", "banana", "[SEP]"]


def test_training_learns_the_same_vocabulary_every_time():
    texts = TEXTS + [text[::-1] for text in TEXTS]  # many equally frequent pairs: their ties must not be left to chance
    assert len({train_tokenizer(iter(texts), vocab_size=200).fingerprint for _ in range(6)}) == 1


def test_training_learns_the_same_vocabulary_in_every_process(tokenizer):
    code = (
        "from kd_scratch.data.tokenizer import train_tokenizer\n"
        f"print(train_tokenizer({TEXTS!r}, vocab_size=120).fingerprint)"
    )
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert run.stdout.strip() == tokenizer.fingerprint, run.stderr


def test_only_the_beginning_of_a_long_text_is_looked_at_and_nothing_is_lost(tokenizer, monkeypatch):
    """Words that leave no piece, or a hundred characters for each, need more than the beginning."""
    rng = random.Random(0)
    words = ["fox", "quick,", "jumps", "été", "木木", "\u0301", "\x07", "x" * 300, "[SEP]", "[MASK]", "\u2003", "ß"]
    unknown = "fox" * 14 + "abΩ"  # as a whole; the seventh of them stands where 9 * 32 characters end
    texts = ["", f"{unknown} " * 50, "fox " * 20_000, "\x07 " * 50_000 + "fox", "x" * 90_000, "x" * 5000 + " fox" * 90]
    texts += [rng.choice([" ", "  ", "\n", " \t "]).join(rng.choices(words, k=rng.randint(0, 900))) for _ in range(200)]
    given = []
    real = tokenizer_module.beginning
    monkeypatch.setattr(tokenizer_module, "beginning", lambda *a: given.append(real(*a)) or given[-1])
    short = [encoding.ids for encoding in tokenizer.encode(texts, max_length=9)]
    assert sum(map(len, given)) < sum(map(len, texts)) / 3, "little was looked at"
    whole = tokenizer.encode(texts)
    assert short == [e.ids if len(e.ids) <= 9 else [*e.ids[:8], e.ids[-1]] for e in whole]


@pytest.mark.parametrize(
    "change",
    ["a piece with a space in it", "another normalizer", "another pre-tokenizer", "Chinese characters left together"],
)
def test_with_a_tokenizer_that_may_look_ahead_the_whole_text_is_read(tokenizer, monkeypatch, change):
    other = Tokenizer(Backend.from_str(tokenizer.backend.to_str()))
    assert other.is_local
    del other.is_local  # it is remembered
    if change == "a piece with a space in it":
        other.backend.add_tokens(["lazy dog"])
    elif change == "another normalizer":
        other.backend.normalizer = normalizers.Replace("a b", "fox")
    elif change == "another pre-tokenizer":
        other.backend.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        other.backend.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    monkeypatch.setattr(tokenizer_module, "beginning", None)
    assert not other.is_local and len(other.encode(["fox " * 5000], max_length=5)[0].ids) == 5


def test_a_long_text_without_spaces_is_cut_between_chinese_characters(tokenizer):
    text = "木fox" * 10_000
    assert len(tokenizer_module.beginning(text, 320)) == 320
    assert tokenizer.encode([text], max_length=10)[0].ids == [
        *tokenizer.encode([text])[0].ids[:9],
        tokenizer.encode([""])[0].ids[-1],
    ]


ODD_PARTS = {
    "pieces of no length": ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    "a bomb": ("normalizer", {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30}),
    "a damaged table": ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "no post-processor": ("post_processor", None),
    "a number": ("pre_tokenizer", 3),
}  # fmt: skip


@pytest.mark.parametrize("part", ODD_PARTS)
def test_a_tokenizer_of_other_parts_than_berts_is_refused_unopened(tmp_path, tokenizer, part):
    """Or, where it is one of BERT's classes, made without them."""
    tokenizer.save(tmp_path, max_length=24)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    key, value = ODD_PARTS[part]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {key: value}))
    notes = []
    assert ids_of(load_tokenizer(tmp_path, notes.append)) == ids_of(tokenizer)
    assert [note.endswith("is overruled by BERT's (as in transformers 5)") for note in notes] == [True]
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(UserError, match=f"tokenizer.json: {key} is .*; only "):
        load_tokenizer(tmp_path)


TEMPLATES = {
    "[CLS] $A $A [SEP]": "post_processor.single is .*; it must hold the text once",
    "[CLS] [SEP]": "post_processor.single is .*; it must hold the text once",
    "$A": r"tokenizer\.json: does not put \[CLS\] and \[SEP\] around a text",
    "[SEP] $A [CLS]": r"tokenizer\.json: does not put \[CLS\] and \[SEP\] around a text",
}


@pytest.mark.parametrize("single", TEMPLATES)
def test_a_tokenizer_that_puts_other_things_around_a_text_or_another_text_is_refused(tmp_path, tokenizer, single):
    other = Backend.from_str(tokenizer.backend.to_str())
    ids = [(token, other.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    other.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    (tmp_path / "tokenizer.json").write_text(other.to_str())
    with pytest.raises(UserError, match=TEMPLATES[single]):
        load_tokenizer(tmp_path)


def test_a_template_of_tokens_that_nobody_knows_is_refused_and_not_run(tmp_path, tokenizer):
    """The package would end the program there, with a message of its own."""
    other = Backend.from_str(tokenizer.backend.to_str())
    ids = [(token, other.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    templates = dict(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1")
    other.post_processor = processors.TemplateProcessing(**templates, special_tokens=ids)
    content = json.loads(other.to_str())
    for known in ({}, None, {"[CLS]": content["post_processor"]["special_tokens"]["[CLS]"]}):
        content["post_processor"]["special_tokens"] = known
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="single names tokens that its special_tokens do not hold; copy it again"):
            load_tokenizer(tmp_path)
    content = json.loads(other.to_str())
    content["post_processor"]["single"][0]["SpecialToken"] = "[CLS]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="single names tokens that its special_tokens do not hold; copy it again"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(other.to_str())
    assert ids_of(load_tokenizer(tmp_path)) == ids_of(tokenizer)


def test_pieces_with_numbers_far_beyond_their_count_are_refused(tmp_path, tokenizer):
    content = json.loads(tokenizer.backend.to_str())
    whole = json.dumps(content)
    content["model"]["vocab"]["zzz"] = 2**27
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"numbers its \d+ pieces up to 134,217,728; copy it again from where"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(whole)
    assert ids_of(load_tokenizer(tmp_path)) == ids_of(tokenizer)


@pytest.mark.parametrize("change", [{"model": {"type": "Newest"}}, {"model": None}, {"version": "9.9"}])
def test_what_the_tokenizers_package_cannot_read_is_refused_in_one_line(tmp_path, tokenizer, change):
    tokenizer.save(tmp_path, max_length=24)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | change))
    with pytest.raises(UserError, match=r"tokenizer\.json: is no tokenizer that the tokenizers package can read: ."):
        load_tokenizer(tmp_path)
