"""Our token ids and offsets against transformers', on every text of the real data sets."""

import functools
import json
import shutil

import pytest

from kd_scratch.config import DataConfig
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.tasks import TASKS

transformers = pytest.importorskip("transformers")

#: task, file and split -> the number of texts, so that a reader that loses some is noticed.
TEXTS = {
    ("clinc", "clinc150/data_full.json", "train"): 15_100,
    ("clinc", "clinc150/data_full.json", "val"): 3_100,
    ("clinc", "clinc150/data_full.json", "test"): 5_500,
    ("agnews", "ag_news_csv/train.csv", ""): 6_000,
    ("agnews", "ag_news_csv/test.csv", ""): 7_600,
    ("conll", "conll2003/train.txt", ""): 14_041,
    ("conll", "conll2003/valid.txt", ""): 3_250,
    ("conll", "conll2003/test.txt", ""): 3_453,
}
ODD = [
    "", "   ", "[CLS] a [SEP] b [MASK][UNK] [PAD]", "[sep] [ CLS ]", "##ing ## #", "x" * 100, "x" * 101,
    "Ünïcödé café İstanbul ẞ ﬁ", "e\u0301 \u0301", "東京は日本の首都。漢字", "ﾊﾝｶｸ Ⅷ ½", "\u0b95\u0bbe ไทย",
    "😀 👩\u200d🚀", "a\u200bb\u00a0c\u2028d\0e\ufffdf\tg\nh\rk", "\x01\x7f\x85 \u3000 q", "¿qué? «oui» “so” …—",
    "can't U.S. $3.50 1,000-mile",
]  # fmt: skip


def read(task, path, split):
    """All texts of a file, out-of-scope ones too."""
    return TASKS[task].texts(TASKS[task].read(path, split, DataConfig(oos=True)))


@functools.cache
def cased_tokenizer(path):
    """A vocabulary with capitals, learned from a CoNLL file."""
    return train_tokenizer(read("conll", path, ""), 4000, lowercase=False)


@pytest.fixture(params=["tokenizer.json", "uncased vocab.txt", "cased vocab.txt"])
def tokenizers(request, minilm, real_data, tmp_path):
    """Ours and transformers', made from the same file; beside a vocab.txt lies its casing only."""
    if request.param == "tokenizer.json":
        return load_tokenizer(minilm), transformers.AutoTokenizer.from_pretrained(minilm)
    if request.param == "uncased vocab.txt":
        shutil.copy(minilm / "vocab.txt", tmp_path)
    else:
        cased_tokenizer(real_data("conll2003/train.txt")).save(tmp_path, max_length=128)
        (tmp_path / "tokenizer.json").unlink()
    lowercase = request.param == "uncased vocab.txt"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    return load_tokenizer(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path, do_lower_case=lowercase)


def assert_same_tokens(tokenizers, texts, pairs=None, max_length=None):
    """The same ids, segments and offsets; ids also from the faster way, which leaves offsets out."""
    ours, theirs = tokenizers
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    expected = theirs(texts, pairs, return_offsets_mapping=True, return_token_type_ids=True, **cut)
    for offsets in (False, True):
        encodings = ours.encode(texts, pairs, max_length=max_length, offsets=offsets)
        assert [encoding.ids for encoding in encodings] == expected.input_ids
        assert [encoding.type_ids for encoding in encodings] == expected.token_type_ids
    assert [encoding.offsets for encoding in encodings] == expected.offset_mapping


def test_ids_of_every_real_text_and_offsets_of_every_tenth_are_the_same(tokenizers, real_data):
    ours, theirs = tokenizers
    for (task, name, split), count in TEXTS.items():
        texts = read(task, real_data(name), split)
        assert len(texts) == count, (name, split)
        expected = theirs(texts, return_attention_mask=False, return_token_type_ids=False).input_ids
        assert [encoding.ids for encoding in ours.encode(texts)] == expected, (name, split)
        assert_same_tokens(tokenizers, texts[::10])


def test_ids_and_offsets_of_odd_texts_are_the_same(tokenizers):
    assert_same_tokens(tokenizers, ODD)


@pytest.mark.parametrize("max_length", [16, 64, 384])
def test_truncated_real_pairs_are_the_same(tokenizers, real_data, max_length):
    documents = json.loads(real_data("policyqa/dev.json").read_text())["data"]
    paragraphs = [paragraph for document in documents for paragraph in document["paragraphs"]]
    pairs = [(qa["question"], paragraph["context"]) for paragraph in paragraphs for qa in paragraph["qas"]][::30]
    questions, contexts = (list(side) for side in zip(*pairs, strict=True))
    assert max_length == 384 or any(len(e.ids) > max_length for e in tokenizers[0].encode(questions, contexts))
    assert_same_tokens(tokenizers, questions, contexts, max_length)
    assert_same_tokens(tokenizers, contexts, questions, max_length)


def test_a_truncated_single_text_is_the_same(tokenizers):
    assert_same_tokens(tokenizers, [" ".join(ODD)] * 2, max_length=20)


def test_the_slow_python_tokenizer_which_shares_no_code_gives_the_same_ids(minilm, real_data):
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    slow, ours = BertTokenizerLegacy(str(minilm / "vocab.txt")), load_tokenizer(minilm)
    texts = ODD + [text for key in TEXTS for text in read(key[0], real_data(key[1]), key[2])[::10]]
    assert [encoding.ids for encoding in ours.encode(texts)] == [slow(text).input_ids for text in texts]


def test_texts_are_mostly_known_to_the_cased_vocabulary(real_data):
    """Otherwise equal ids would say little: everything could be [UNK]."""
    path = real_data("conll2003/train.txt")
    ours = cased_tokenizer(path)
    ids = [i for encoding in ours.encode(read("conll", path, "")[:1000]) for i in encoding.ids]
    assert ids.count(ours.backend.token_to_id("[UNK]")) < len(ids) / 100


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_words_are_cut_and_labelled_as_transformers_does_when_told_the_words(tokenizers, real_data, name):
    ours, theirs = tokenizers
    examples = TASKS["conll"].read(real_data(f"conll2003/{name}.txt"), "", DataConfig())
    labels = TASKS["conll"].label_list(examples)
    features = TASKS["conll"].featurize(examples, ours, labels, 512, DataConfig())
    encoded = theirs([list(example.words) for example in examples], is_split_into_words=True)
    assert len(features) == len(examples)
    assert features.tokens.tolist() == [token for ids in encoded["input_ids"] for token in ids]
    expected = []
    for i, example in enumerate(examples):
        words = encoded.word_ids(i)
        first = [word is not None and word != before for before, word in zip([None, *words], words, strict=False)]
        expected += [
            labels.index(example.tags[w]) if is_first else -100 for w, is_first in zip(words, first, strict=True)
        ]
    assert features.labels.tolist() == expected
