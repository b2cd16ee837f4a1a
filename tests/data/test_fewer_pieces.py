"""A tokenizer of fewer pieces: the texts it was cut to keep their pieces, and nothing else becomes unknown."""

import random

import numpy as np
import pytest
from tokenizers import AddedToken

from kd_scratch.data.fewer_pieces import fewer_pieces
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kd_scratch.data.tokenizer_files import surround, wordpiece
from tests.conftest import TEXTS

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
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "ab", "##bb", "b", "##bc", "cb"]
    backend = wordpiece({piece: i for i, piece in enumerate(vocab)}, True, accents=None, chinese=True)
    backend.add_special_tokens(vocab[:5])
    surround(backend, "[CLS]", "[SEP]")
    small, kept = fewer_pieces(Tokenizer(backend), np.array([5]))
    assert small.pieces(range(len(kept))) == [*vocab[:5], "a", "##b", "b", "##bc", "cb"]
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
