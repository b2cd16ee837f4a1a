"""The files of a tokenizer, read together: what each decides, what is refused and with which cure, what is noted."""

import json
from functools import partial

import pytest

from kd_scratch.checkpoints.checkpoint import check_fit, save_model
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data import tokenizer as tokenizer_module
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.data.tokenizer_files import BERT_CLASSES, NAMES, surround, wordpiece
from kd_scratch.tasks import TASKS, question_answering
from kd_scratch.training.setup import open_teacher
from tests.conftest import tiny_model
from tests.data.test_tokenizer import VOCAB, ids_of

PIECES = [*VOCAB, "The", "café", "我们", "<s>", "</s>", "<mask>"]  # the tests' vocabulary of 13 pieces, and more
SIZE = len(PIECES)


def folder_of(folder, **files):
    """A folder with these files; the name of each without its ending, and its content."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if name == "vocab":
            text = content if isinstance(content, str) else "".join(f"{piece}\n" for piece in content)
            (folder / "vocab.txt").write_bytes(text.encode())
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def read(folder, **files):
    """The tokenizer of a new folder, and its notes."""
    notes = []
    return load_tokenizer(folder_of(folder, **files), notes.append), notes


def tokenizer_json(lowercase=True, accents=None, chinese=True, added=()):
    """The content of a tokenizer.json around PIECES."""
    backend = wordpiece({piece: i for i, piece in enumerate(PIECES)}, lowercase, accents, chinese)
    surround(backend, "[CLS]", "[SEP]")
    backend.add_special_tokens(list(NAMES.values()))
    backend.add_tokens(list(added))
    return json.loads(backend.to_str())


BERT, SILENT = {"model_type": "bert"}, {"tokenizer_class": "BertTokenizer"}
WHOLE = {"tokenizer_class": "PreTrainedTokenizerFast"}
CASED = {"do_lower_case": False}
ONE = {str(SIZE): {"content": "covid"}}
the, fox, s, caf, e, we, The, cafe, us, cls, sep = (PIECES.index(x) for x in (
    "the", "fox", "##s", "caf", "##e", "我", "The", "café", "我们", "<s>", "</s>"
))  # fmt: skip
READ = {  # files -> a text and its ids, without those around it
    "lowercased by default": (dict(vocab=PIECES, config=BERT), "The", [the]),
    "cased": (dict(vocab=PIECES, tokenizer_config=CASED), "The", [The]),
    "the settings win over tokenizer.json": (dict(tokenizer_json=0, tokenizer_config=SILENT), "The", [the]),
    "tokenizer.json as a whole": (dict(tokenizer_json=0), "The", [The]),
    "as a whole, by its class": (
        dict(tokenizer_json=0, config=BERT, tokenizer_config=WHOLE), "The", [The]
    ),
    "accents kept": (dict(vocab=PIECES, tokenizer_config={"strip_accents": False}), "CAFÉ", [cafe]),
    "accents stripped, cased": (dict(vocab=PIECES, tokenizer_config=CASED | {"strip_accents": True}), "café", [caf, e]),
    "Chinese characters together": (
        dict(vocab=PIECES, tokenizer_config={"tokenize_chinese_chars": False}), "我们", [us]
    ),
    "added_tokens.json": (dict(vocab=PIECES, added_tokens={"covid": SIZE}), "fox COVIDs", [fox, SIZE, 1]),
    "added_tokens_decoder": (dict(vocab=PIECES, tokenizer_config={"added_tokens_decoder": ONE}), "Covid", [SIZE]),
    "added_tokens_decoder alone": (
        dict(vocab=PIECES, tokenizer_config={"added_tokens_decoder": {}}, added_tokens={"covid": SIZE}), "covid", [1]
    ),
    "no padding token named": (dict(vocab=PIECES, tokenizer_config={"pad_token": None}), "[PAD]", [1, 1, 1]),
    "as a whole, no added tokens": (dict(tokenizer_json=0, added=[]), "[PAD]", [1, 1, 1]),
    "a blank last line": (dict(vocab=[*PIECES, ""]), "fox", [fox]),
    "the later of two lines": (dict(vocab=[*PIECES, "fox"]), "fox", [SIZE]),
    "blanks behind a piece": (dict(vocab=[p + " \u3000" for p in PIECES]), "fox", [fox]),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_each_file_decides_what_it_decides_for_transformers(tmp_path, name):
    files, text, ids = READ[name]
    if "tokenizer_json" in files:
        content = tokenizer_json(lowercase=False)
        content["added_tokens"] = files.get("added", content["added_tokens"])
        files = {"tokenizer": content} | {k: v for k, v in files.items() if k not in ("tokenizer_json", "added")}
    tokenizer, _ = read(tmp_path, **files)
    assert ids_of(tokenizer, [text]) == [[2, *ids, 3]]
    tokenizer.save(tmp_path, max_length=32)  # over the files, of which the older ones stay
    again = load_tokenizer(tmp_path)
    assert ids_of(again, [text]) == [[2, *ids, 3]] and again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == tokenizer.vocab_size == SIZE + (SIZE in ids)


@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
@pytest.mark.parametrize("as_object", [False, True])
def test_special_tokens_may_have_other_names(tmp_path, file, as_object):
    names = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    content = {key: {"content": name, "lstrip": True} if as_object else name for key, name in names.items()}
    tokenizer, _ = read(tmp_path, vocab=PIECES, **{file: content})
    assert ids_of(tokenizer, ["the [CLS] <mask>"]) == [[cls, the, 1, 1, 1, SIZE - 1, sep]]
    assert tokenizer.mask_id == SIZE - 1 and set(tokenizer.special_ids) == {0, 1, cls, sep, SIZE - 1}
    tokenizer.save(tmp_path, max_length=32)
    assert load_tokenizer(tmp_path).special == tokenizer.special


def test_additional_special_tokens_are_special(tmp_path):
    tokenizer, _ = read(tmp_path, vocab=PIECES, tokenizer_config={"additional_special_tokens": ["[E1]"]})
    assert ids_of(tokenizer, ["the[E1]"]) == [[2, the, SIZE, 3]] and SIZE in tokenizer.special_ids


def test_extra_special_tokens_by_name_stand_beside_the_additional_ones(tmp_path):
    settings = {"additional_special_tokens": ["[E1]"], "extra_special_tokens": {"e_token": "[E2]"}}
    tokenizer, _ = read(tmp_path, vocab=PIECES, tokenizer_config=settings)
    assert ids_of(tokenizer, ["[E2]the[E1]"]) == [[2, SIZE, the, SIZE + 1, 3]]
    assert {SIZE, SIZE + 1} <= set(tokenizer.special_ids)


NOTED = {
    "do_lower_case false in it is overruled by true": dict(tokenizer=tokenizer_json(False), tokenizer_config=SILENT),
    "strip_accents true in it is overruled by null": dict(
        tokenizer=tokenizer_json(False, True), tokenizer_config=CASED | SILENT
    ),
    "has capitals, but texts are lowercased by default": dict(vocab=PIECES),
    "its added token 'covid' (of 1) is not used": dict(
        tokenizer=tokenizer_json(added=["covid"]), tokenizer_config=SILENT | {"added_tokens_decoder": {}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", NOTED)
def test_what_looks_wrong_though_transformers_reads_it_so_is_noted(tmp_path, text):
    _, notes = read(tmp_path, **NOTED[text])
    assert [text in note for note in notes] == [True], notes


def test_what_looks_right_is_not_noted(tmp_path):
    for i, settings in enumerate((CASED, CASED | {"strip_accents": False}, CASED | {"do_lower_case": False})):
        files = dict(tokenizer=tokenizer_json(False), tokenizer_config=settings | SILENT)
        assert read(tmp_path / str(i), **files)[1] == []
    assert read(tmp_path / "vocab", vocab=VOCAB)[1] == []


def config(**settings):
    """A vocab.txt and these settings."""
    return dict(vocab=PIECES, tokenizer_config=settings)


LEFT = {"truncation": {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}}
REFUSED = {  # message -> files, and files that follow its cure
    "tokenizer_config.json: do_lower_case must be true or false, it is 'no'": (config(do_lower_case="no"), config()),
    "strip_accents must be true or false, it is '1'": (config(strip_accents=1), config(strip_accents=None)),
    "tokenize_chinese_chars must be true or false": (config(tokenize_chinese_chars=None), config()),
    "tokenizer_config.json: tokenizer_class is 'BertJapaneseTokenizer'; only BERT's": (
        config(tokenizer_class="BertJapaneseTokenizer"), config(tokenizer_class="BertTokenizer")),
    "tokenizer_class is '3'": (config(tokenizer_class=3), config(tokenizer_class="LxmertTokenizerFast")),
    "config.json: tokenizer_class is 'RobertaTokenizer'": (
        dict(vocab=PIECES, config=BERT | {"tokenizer_class": "RobertaTokenizer"}), config()),
    "config.json: model_type is 'mpnet'": (dict(vocab=PIECES, config={"model_type": "mpnet"}), config()),
    "config.json: holds no JSON object": (dict(vocab=PIECES, config=[1]), dict(vocab=PIECES, config=BERT)),
    "split_special_tokens must be false": (config(split_special_tokens=True), config(split_special_tokens=False)),
    "texts are cut on the 'left', here always at their end": (
        config(truncation_side="left"), config(truncation_side="right")),
    "texts are cut on the 'Left', here always": (
        dict(tokenizer=tokenizer_json() | LEFT), dict(
            tokenizer=tokenizer_json() | LEFT, tokenizer_config={"truncation_side": "right"})),
    "LayoutLMTokenizer, LxmertTokenizer, PreTrainedTokenizerFast": (
        config(tokenizer_class="FunnelTokenizer"), config(tokenizer_class="LayoutLMTokenizer")),
    "model_input_names is None; write a list of names, or remove the key": (
        config(model_input_names=None), config(model_input_names=["input_ids"])),
    "rename the newest to tokenizer.json": (config(fast_tokenizer_files=["a.json"]), config()),
    "tokenizer_config.json: cls_token is empty; name the token": (config(cls_token=None), config(cls_token="[CLS]")),
    "cls_token, where it is no text, must be an object": (config(cls_token=3), config(cls_token="<s>")),
    "cls_token needs content, a text": (config(cls_token={"content": 3}), config(cls_token={"content": "<s>"})),
    "flags that are true or false": (config(cls_token={"content": "<s>", "lstrip": "x"}), config()),
    "vocabulary has no <u>; only BERT's WordPiece tokenizers are supported; if another": (
        config(unk_token="<u>"), config(unk_token="[UNK]")),
    "added_tokens_decoder must be an object": (config(added_tokens_decoder=[1]), config()),
    "token 19 must be an object": (config(added_tokens_decoder={"19": "covid"}), config(added_tokens_decoder=ONE)),
    "'-1' is no number of a token": (config(added_tokens_decoder={"-1": {"content": "x"}}), config()),
    "the additional special tokens must be a list": (config(additional_special_tokens="x"), config()),
    "the added token ' ' is blank": (config(added_tokens_decoder={"19": {"content": " "}}), config()),
    "the added tokens 'Covid' and 'covid' are the same once normalized; list one with": (
        dict(vocab=PIECES, added_tokens={"Covid": 19, "covid": 20}),
        config(added_tokens_decoder={"19": {"content": "Covid", "normalized": False}, "20": {"content": "covid"}})),
    "added_tokens.json: 'covid' is listed as 25, but gets 19 (from vocab.txt); put it where piece 25": (
        dict(vocab=PIECES, added_tokens={"covid": 25}),
        dict(vocab=[*PIECES, *[""] * 6, "covid"], added_tokens={"covid": 25})),
    "added_tokens.json: 'True' is no number of a token": (
        dict(vocab=PIECES, added_tokens={"covid": True}), dict(vocab=PIECES, added_tokens={"covid": 19})),
    "begins with a byte-order mark": (dict(vocab="\ufeff" + "\n".join(PIECES)), dict(vocab="\n".join(PIECES))),
    "'covid' and 'zz' are both piece 20": (
        dict(vocab=[*PIECES, "zz", "zz"], tokenizer_config={"additional_special_tokens": ["covid"]}),
        dict(vocab=[*PIECES, "[unused1]", "zz"], tokenizer_config={"additional_special_tokens": ["covid"]})),
    "special_tokens_map.json: holds no JSON object": (dict(vocab=PIECES, special_tokens_map=[]), dict(vocab=PIECES)),
    "tokenizer_config.json: not usable JSON": (dict(vocab=PIECES, tokenizer_config="[" * 100_000), config()),
    "around and between two texts": (
        dict(tokenizer=tokenizer_json() | {"post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                name: {"id": name, "ids": [i], "tokens": [name]} for i, name in ((2, "[CLS]"), (3, "[SEP]"))
            },
        }}), dict(tokenizer=tokenizer_json(), tokenizer_config=SILENT)),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_meaning_here_is_refused_in_one_line_and_the_cure_works(tmp_path, message):
    files, cured = REFUSED[message]
    with pytest.raises(UserError) as error:
        read(tmp_path / "refused", **files)
    assert message in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert ids_of(read(tmp_path / "cured", **cured)[0], ["fox"])[0][1:-1] == [fox]


@pytest.mark.parametrize("name", BERT_CLASSES)
def test_the_classes_that_are_berts_are_read_as_it(tmp_path, name):
    files = dict(vocab=PIECES, tokenizer_config={"tokenizer_class": f"{name}TokenizerFast"})
    assert ids_of(read(tmp_path, **files)[0], ["The"]) == [[2, the, 3]]


# --- equal or not ---

SAME = {
    "accents null or as casing": (config(strip_accents=None), config(strip_accents=True)),
    "json or vocab": (dict(tokenizer=tokenizer_json(), tokenizer_config=SILENT), config()),
    "as a whole or not": (dict(tokenizer=tokenizer_json()), config()),
    "a blank last line": (dict(vocab=[*PIECES, ""]), config()),
    "special or not": (
        config(added_tokens_decoder={"19": {"content": "covid", "special": True, "normalized": True}}),
        dict(vocab=PIECES, added_tokens={"covid": 19})),
    "blanks dropped with a token": (
        config(mask_token={"content": "[MASK]", "lstrip": True, "normalized": False}), config()),
    "order of keys": (config(do_lower_case=True, cls_token="[CLS]"), config(cls_token="[CLS]", do_lower_case=True)),
}  # fmt: skip
UNLIKE = {
    'do_lower_case (true and false)': (config(), config(do_lower_case=False)),
    'strip_accents (null and false)': (config(), config(strip_accents=False)),
    "tokenize_chinese_chars (true and false)": (config(), config(tokenize_chinese_chars=False)),
    "the vocabulary (19 and 20; 'x' differs)": (config(), dict(vocab=[*PIECES, "x"])),
    "the vocabulary (19 and 19; 'the' differs)": (config(), dict(vocab=[*PIECES[:5], "fox", "the", *PIECES[7:]])),
    "added tokens (5 and 6; 'covid' differs)": (config(), dict(vocab=PIECES, added_tokens={"covid": 19})),
    "added tokens (6 and 6; 'covid' differs)": (
        config(added_tokens_decoder={"19": ONE["19"] | {"single_word": True}}), config(added_tokens_decoder=ONE)),
    "special tokens (5 and 5; '[CLS]' differs)": (config(), config(cls_token="<s>")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_tokenizers_that_give_the_same_ids_are_equal_however_they_are_spelled(tmp_path, name):
    first, second = (read(tmp_path / str(i), **files)[0] for i, files in enumerate(SAME[name]))
    assert first.difference(second) == second.difference(first) == ""
    if name != "special or not":  # which decides what is masked, so caches tell it apart
        assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("text", UNLIKE)
def test_tokenizers_that_give_other_ids_differ_and_it_is_told_in_what(tmp_path, text):
    first, second = (read(tmp_path / str(i), **files)[0] for i, files in enumerate(UNLIKE[text]))
    assert text in first.difference(second) and first.fingerprint != second.fingerprint


def test_a_word_that_must_stand_alone_looks_ahead(tmp_path):
    """ "covid我" cut before 我 would end in a word that stands alone; as a whole it does not."""
    alone = config(added_tokens_decoder={"19": {"content": "covid", "single_word": True}})
    assert not read(tmp_path / "a", **alone)[0].is_local
    assert not read(tmp_path / "b", vocab=PIECES, added_tokens={"new\tyork": 19})[0].is_local
    assert read(tmp_path / "c", vocab=PIECES, added_tokens={"covid": 19})[0].is_local


# --- with a model ---

UNFIT = {  # message -> files of a tokenizer for a model of PIECES, and files that follow the cure
    "none for the added token 'covid'; delete it": (dict(vocab=PIECES, added_tokens={"covid": SIZE}), config()),
    'none for [MASK]; write "mask_token": null': (
        dict(vocab=[*PIECES[:4], "[unused1]", *PIECES[5:]]),
        dict(vocab=[*PIECES[:4], "[unused1]", *PIECES[5:]], tokenizer_config={"mask_token": None})),
    "they do not belong together; take the tokenizer's files": (dict(vocab=[*PIECES, "x", "y"]), config()),
}  # fmt: skip


@pytest.mark.parametrize("message", UNFIT)
def test_a_tokenizer_with_more_pieces_than_the_model_is_refused_for_its_true_cause(tmp_path, message):
    model = tiny_model(vocab_size=SIZE)
    files, cured = UNFIT[message]
    with pytest.raises(UserError) as error:
        check_fit(model, read(tmp_path / "refused", **files)[0], 16, "x")
    assert f"x: the model has {SIZE} pieces, the tokenizer 2" in str(error.value) and message in str(error.value)
    check_fit(model, read(tmp_path / "cured", **cured)[0], 16, "x")


def test_blank_lines_at_the_end_of_vocab_txt_need_no_place_in_the_model(tmp_path):
    check_fit(tiny_model(vocab_size=SIZE), read(tmp_path, vocab=[*PIECES, "", ""])[0], 16, "x")


def test_a_teacher_whose_tokenizer_differs_is_refused_with_what_differs_and_one_spelled_otherwise_is_not(tmp_path):
    labels = ("a", "b")
    save_model(tiny_model("sequence", labels, vocab_size=SIZE), tmp_path / "teacher")
    teacher, _ = read(tmp_path / "teacher", vocab=PIECES, special_tokens_map={"mask_token": {"content": "[MASK]"}})
    student, _ = read(tmp_path / "cased", **config(do_lower_case=False))
    with pytest.raises(UserError) as error:
        open_teacher(str(tmp_path / "teacher"), TASKS["csv"], labels, student, 16)
    assert "correspond: do_lower_case (true and false); make the student of the teacher's layers" in str(error.value)
    assert f"--init-layers 0,2), or of a size with --tokenizer {tmp_path / 'teacher'}" in str(error.value)
    for tokenizer in (teacher, read(tmp_path / "json", tokenizer=tokenizer_json(), tokenizer_config=SILENT)[0]):
        assert open_teacher(str(tmp_path / "teacher"), TASKS["csv"], labels, tokenizer, 16)


def test_a_model_of_questions_is_told_which_piece_is_whose_only_where_its_tokenizer_tells(tmp_path):
    """As the reference does; what is saved does so, too."""
    names = {"model_input_names": ["input_ids", "token_type_ids"]}
    settings = [{}, {"tokenizer_class": "DistilBertTokenizer"}, {"tokenizer_class": "DistilBertTokenizer"} | names]
    settings += [{"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_input_names": ["input_ids"]}]
    question = question_answering.Example("1", "the fox", "a fox jumps", ("fox",), 2, False)
    for i, (setting, expected) in enumerate(zip(settings, (True, False, True, False, False), strict=True)):
        files = dict(config=BERT) | (dict(vocab=PIECES) if i != 3 else dict(tokenizer=tokenizer_json()))
        tokenizer, _ = read(tmp_path / str(i), **files, tokenizer_config=setting)
        windows = question_answering.featurize([question], tokenizer, (), 16, DataConfig())
        assert tokenizer.has_token_types == expected and windows.token_types.tolist() == [0] * 4 + [expected] * 5
        notes = []
        check_fit(tiny_model("span", vocab_size=SIZE), tokenizer, 16, "x", notes.append)
        assert len(notes) == (not expected)
        tokenizer.save(tmp_path / str(i), 16)
        assert load_tokenizer(tmp_path / str(i)).has_token_types == expected


def test_a_student_without_token_types_leaves_its_teacher_those_it_was_trained_with(tmp_path):
    """One with its own can be taught only by a teacher that is given the same."""
    save_model(tiny_model("span", (), vocab_size=SIZE), tmp_path / "teacher")
    read(tmp_path / "teacher", vocab=PIECES)
    student, _ = read(tmp_path / "student", vocab=PIECES, tokenizer_config={"tokenizer_class": "DistilBertTokenizer"})
    with pytest.raises(UserError, match='write "model_input_names": .*of both'):
        open_teacher(str(tmp_path / "teacher"), TASKS["squad"], (), student, 16)
    open_teacher(str(tmp_path / "teacher"), TASKS["squad"], (), student, 16, keep_token_types=False)
    assert student.has_token_types


def test_a_save_that_was_cut_off_leaves_no_tokenizer_of_another_casing(tmp_path, monkeypatch):
    tokenizer, _ = read(tmp_path / "old", **config(do_lower_case=False))
    for cut in ("tokenizer_config.json", "tokenizer.json", "vocab.txt"):
        folder = tmp_path / cut

        def write(path, content, real, cut=cut):
            if path.name == cut:
                raise KeyboardInterrupt
            real(path, content)

        with monkeypatch.context() as patch:
            for name in ("write_text", "write_json"):
                real = getattr(tokenizer_module, name)
                patch.setattr(tokenizer_module, name, partial(write, real=real))
            folder.mkdir()
            with pytest.raises(KeyboardInterrupt):
                tokenizer.save(folder, 16)
        if cut == "vocab.txt":
            assert not load_tokenizer(folder).difference(tokenizer)
        else:
            with pytest.raises(UserError, match="has no tokenizer.json"):
                load_tokenizer(folder)


def test_special_tokens_of_other_roles_stay_special_when_saved(tmp_path):
    settings = dict(eos_token="</s>", extra_special_tokens=["<s>"], fancy_token="fox")
    tokenizer, _ = read(tmp_path / "old", **config(**settings))
    assert set(tokenizer.extra) == {"</s>", "<s>", "fox"}
    tokenizer.save(tmp_path / "old", 16)
    saved = json.loads((tmp_path / "old/tokenizer_config.json").read_text())
    assert set(saved["extra_special_tokens"]) == set(tokenizer.extra) == set(load_tokenizer(tmp_path / "old").extra)
    assert load_tokenizer(tmp_path / "old").fingerprint == tokenizer.fingerprint
