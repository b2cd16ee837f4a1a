"""A tokenizer of fewer pieces: the texts it was cut to keep their pieces, and nothing else becomes unknown."""

import itertools
import random

import numpy as np
import pytest
from tokenizers import AddedToken, processors

from kd_scratch.data.fewer_pieces import fewer_pieces
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kd_scratch.data.tokenizer_files import surround, wordpiece
from tests.conftest import TEXTS, TORTURE

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def ids_of(tokenizer, texts):
    return [encoding.ids for encoding in tokenizer.encode(texts)]


@pytest.fixture(scope="module")
def whole():
    """A tokenizer of long pieces: 300 of them, learned from words that share parts."""
    draw = random.Random(0)
    stems = ["".join(draw.choices(LETTERS, k=4)) for _ in range(30)]
    words = [stem + end for stem in stems for end in ("ation", "ing", "er", "ed", "")]
    return train_tokenizer([*TEXTS, LETTERS, *(" ".join(draw.choices(words, k=20)) for _ in range(100))], 300)


def test_texts_it_was_cut_to_are_cut_as_before_and_each_number_goes_to_one(whole):
    used = np.unique(np.concatenate(ids_of(whole, TEXTS)))
    small, kept = fewer_pieces(whole, used)
    assert len(kept) == small.vocab_size < whole.vocab_size
    assert [kept[row].tolist() for row in ids_of(small, TEXTS)] == ids_of(whole, TEXTS)
    assert small.pieces(range(len(kept))) == whole.pieces(kept.tolist())
    assert [kept[i] for i in small.special_ids] == whole.special_ids
    assert kept[small.pad_id] == whole.pad_id and kept[small.mask_id] == whole.mask_id


def test_a_template_that_sets_the_special_tokens_has_their_new_numbers():
    vocab = ["zz", "z", "##z", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    backend = wordpiece({piece: i for i, piece in enumerate(vocab)}, True, accents=None, chinese=True)
    backend.add_special_tokens(vocab[3:8])
    pair, ends = "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 5), ("[SEP]", 6)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    small, kept = fewer_pieces(Tokenizer(backend), np.array([8]))
    assert small.pieces(range(len(kept))) == vocab[1:]
    assert ids_of(small, ["a zz"]) == [[4, 7, 0, 1, 5]]


def test_no_word_that_could_be_spelled_is_unknown_afterwards(whole):
    small, _ = fewer_pieces(whole, np.unique(np.concatenate(ids_of(whole, TEXTS[:1]))))
    draw = random.Random(1)
    words = ["".join(draw.choices(LETTERS + "é!9", k=draw.randint(1, 12))) for _ in range(3000)]
    longer = 0
    for word, before, after in zip(words, ids_of(whole, words), ids_of(small, words), strict=True):
        assert (small.unknown_id in after) == (whole.unknown_id in before), word
        if small.unknown_id not in after:
            assert "".join(small.pieces(after)[1:-1]).replace("##", "") == word.replace("é", "e")
        longer += len(after) > len(before)
    assert longer > 100


def test_a_piece_that_single_characters_do_not_spell_is_kept():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "ab", "##bb", "b", "cb"]
    backend = wordpiece({piece: i for i, piece in enumerate(vocab)}, True, accents=None, chinese=True)
    backend.add_special_tokens(vocab[:5])
    surround(backend, "[CLS]", "[SEP]")
    small, kept = fewer_pieces(Tokenizer(backend), np.array([5]))
    assert small.pieces(range(len(kept))) == [*vocab[:5], "a", "##b", "b", "cb"]
    assert [small.pieces(row)[1:-1] for row in ids_of(small, ["abb"])] == [["a", "##b", "##b"]]


@pytest.mark.parametrize("whole_file", [False, True])
def test_added_tokens_and_all_files_go_with_it(whole, tmp_path, whole_file):
    for name in ("whole", "small"):
        (tmp_path / name).mkdir()
    whole.save(tmp_path / "whole", 32)
    tokenizer = load_tokenizer(tmp_path / "whole")
    tokenizer.whole = whole_file
    tokenizer.backend.add_tokens([AddedToken("<url>", normalized=False)])
    small, kept = fewer_pieces(tokenizer, np.array(ids_of(tokenizer, ["the <url> fox"])[0]))
    small.save(tmp_path / "small", 32)
    again = load_tokenizer(tmp_path / "small")
    texts = [*TEXTS, "a <url>, [MASK] again"]
    assert ids_of(again, texts) == ids_of(small, texts) and again.fingerprint == small.fingerprint
    assert small.pieces([len(kept) - 1]) == ["<url>"] == tokenizer.pieces([int(kept[-1])])
    lines = (tmp_path / "small" / "vocab.txt").read_text().splitlines()
    assert lines == small.pieces(range(len(kept)))
    assert again.encode(["a"], ["b"])[0].type_ids == [0, 0, 0, 1, 1]


def test_added_tokens_in_gaps_of_the_numbers_go_behind_all_pieces():
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "": 6, "##a": 12}
    backend = wordpiece(vocab, True, accents=None, chinese=True)
    backend.add_special_tokens(list(vocab)[:5])
    backend.add_tokens(["x", "y"])
    surround(backend, "[CLS]", "[SEP]")
    assert backend.token_to_id("x") < 12, "a gap"
    whole = Tokenizer(backend)
    small, kept = fewer_pieces(whole, np.array([5]))
    assert [kept[row].tolist() for row in ids_of(small, ["aa x y a"])] == ids_of(whole, ["aa x y a"])
    assert small.pieces(range(len(kept))) == [*list(vocab)[:6], "##a", "x", "y"]


def made_of(pieces):
    """A tokenizer of these pieces behind the special ones."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = wordpiece({piece: i for i, piece in enumerate([*special, *pieces])}, True, accents=None, chinese=True)
    backend.add_special_tokens(special)
    surround(backend, "[CLS]", "[SEP]")
    return Tokenizer(backend)


@pytest.mark.parametrize("seed", range(2000 if TORTURE else 60))
def test_whatever_the_vocabulary_every_word_that_could_be_spelled_still_is(seed):
    """All words of up to six of three letters, also where some letter has no piece of its own."""
    draw = random.Random(seed)
    words = ["".join(letters) for n in range(1, 7) for letters in itertools.product("abc", repeat=n)]
    missing = {draw.choice(["##c", "c", "##b", ""]), draw.choice(["##c", ""])}
    singles = [piece for piece in ("a", "b", "c", "##a", "##b", "##c") if piece not in missing]
    longer = [draw.choice(["", "##"]) + word for word in draw.sample(words[3:39], draw.randint(6, 14))]
    whole = made_of([*singles, *dict.fromkeys(longer)])
    used = np.array(draw.sample(range(5, whole.vocab_size), draw.randint(0, 3)), int)
    small, kept = fewer_pieces(whole, used)
    before, after = ids_of(whole, words), ids_of(small, words)
    for word, old, new in zip(words, before, after, strict=True):
        assert (small.unknown_id in new) <= (whole.unknown_id in old), (word, whole.pieces(old), small.pieces(new))
        if {*old} <= {*used.tolist(), 2, 3}:
            assert kept[new].tolist() == old, "of pieces that are used alone"
