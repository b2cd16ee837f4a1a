"""Model folders as published repositories really look, written by hand: every file and key, but small random weights.

    python -m tests.checkpoints.hub_folders DIR        # writes them all; the names are those of SHAPES

Each function writes one folder and is called like the repository that it resembles. Only the numbers of the shape are
others (width 32, two layers) and the vocabulary has some hundred pieces, of that language's real characters.
"""

import hashlib
import json
import sys
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from kd_scratch.checkpoints.safetensors import save_file

#: Texts that tokenizers of different settings cut differently.
TEXTS = [
    "Ada Berg flew to New York in May.",
    "please transfer $1,000.50 to my savings-account, it's urgent!",
    "Café Zoë: naïve résumés, déjà-vu & smörgåsbord",
    "Cafe\u0301 Zoe\u0308 with combining marks",
    "Möchten Sie die Straße überqueren? Ägypten, Öl, ÜBER.",
    "我在东京大学学习中文。",
    "Tokyo東京タワーに行く and 北京 too",
    "İstanbul ıssız; ΑΒΓ σς; Москва ёлка; ﬁne ½",
    "tabs\tand\nlines\r\n and\u00a0spaces\u3000wide\u2028line",
    "zero\u200bwidth, soft\u00adhyphen, bell\x07, mark\ufeff, \ufffd",
    "[CLS] a [MASK] b [SEP] [PAD] [UNK] [unused1]",
    "[mask] [Mask] [E1] Ada [/E1] met [e1] Eve[/E1]",
    "👍🏽 emoji — dash … “quotes” ‘single’ ^`~<|>",
    "w" * 101 + " " + "w" * 100 + " unwordable",
    "",
    "   ",
]
WORDS = {  # what a vocabulary's pieces are made of, beside its characters
    "english": "Ada Berg Eve flew flying met to New York in May please transfer my savings account it urgent cafe café "
    "naive resume resumes with combining marks and lines spaces wide zero width soft hyphen emoji dash quotes w ww "
    "Tokyo too fine the of a is Paris",
    "german": "möchten mochten möchte Möchten Sie sie die Straße strasse straße überqueren uberqueren über Uber "
    "Ägypten agypten Öl ol und der das ist in Ada Berg New York nicht schön",
    "chinese": "ada berg new york the in cafe",
    "multilingual": "Ada Berg New York in Café café Möchten möchten Straße über Москва ёлка елка σς に タワー "
    "Tokyo the la",
}
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'()*+,-./:;<=>?@[]^_`{|}~…—“”‘’½äöüßéèëïåıñ"
CHARACTERS += "我在东京大学习中文東行北。タワーにくαβγσςмосквaеёлкаﬁ"


def vocabulary(language: str, cased: bool, first: tuple[str, ...] = ()) -> list[str]:
    """The lines of a vocab.txt: special pieces, characters, inner characters, words, and the halves of some words."""
    words = WORDS[language].split()
    words = words if cased else [word.lower() for word in words]
    characters = dict.fromkeys(CHARACTERS + "".join(words))
    if cased:
        characters |= dict.fromkeys(c.upper() for c in CHARACTERS if len(c.upper()) == 1)
    for c in list(characters):  # an accent more or less must make another piece, not an unknown one
        characters |= dict.fromkeys(unicodedata.normalize("NFD", c)[0])
    halves = [piece for word in words[::2] if len(word) > 3 for piece in (word[:3], "##" + word[3:])]
    whole = [word for i, word in enumerate(words) if i % 2 or len(word) <= 3]
    inner = [f"##{c}" for c in characters]
    first = first or ("[PAD]", *(f"[unused{i}]" for i in range(1, 6)), "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return list(dict.fromkeys([*first, *sorted(characters), *sorted(inner), *halves, *whole]))


# --- tensors, under the names that such files have ---


class Draw:
    """Seeded random tensors: matrices large enough that outputs really differ, norms that are not 1 and 0."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * (0.3 if len(shape) > 1 else 0.1) + mean

    def linear(self, name: str, out: int, into: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": self(out, into), f"{name}.bias": self(out)}

    def norm(self, name: str, width: int, old: bool = False) -> dict[str, torch.Tensor]:
        weight, bias = ("gamma", "beta") if old else ("weight", "bias")
        return {f"{name}.{weight}": self(width, mean=1.0), f"{name}.{bias}": self(width)}


WIDTH, INNER, DEPTH, POSITIONS = 32, 48, 2, 512


def bert(draw: Draw, pieces: int, prefix: str = "bert.", old: bool = False, pooler: bool = True, position_ids=False):
    """The tensors of BERT's body. old: gamma and beta. position_ids: with the buffer that versions 3 and 4 saved."""
    tensors = {}
    if position_ids:
        tensors["embeddings.position_ids"] = torch.arange(POSITIONS).expand((1, -1))
    for name, rows in (("word", pieces), ("position", POSITIONS), ("token_type", 2)):
        tensors[f"embeddings.{name}_embeddings.weight"] = draw(rows, WIDTH)
    tensors |= draw.norm("embeddings.LayerNorm", WIDTH, old)
    for i in range(DEPTH):
        block = f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            tensors |= draw.linear(f"{block}attention.self.{name}", WIDTH, WIDTH)
        tensors |= draw.linear(f"{block}attention.output.dense", WIDTH, WIDTH)
        tensors |= draw.norm(f"{block}attention.output.LayerNorm", WIDTH, old)
        tensors |= draw.linear(f"{block}intermediate.dense", INNER, WIDTH)
        tensors |= draw.linear(f"{block}output.dense", WIDTH, INNER)
        tensors |= draw.norm(f"{block}output.LayerNorm", WIDTH, old)
    if pooler:
        tensors |= draw.linear("pooler.dense", WIDTH, WIDTH)
    return OrderedDict((prefix + name, tensor) for name, tensor in tensors.items())


def bert_cls(draw: Draw, body: dict, old: bool = False, tied: bool = True, next_sentence: bool = True) -> dict:
    """The heads of pre-training. tied: with the decoder's weight, which shares the storage of the word table."""
    table = next(tensor for name, tensor in body.items() if name.endswith("word_embeddings.weight"))
    tensors = {"cls.predictions.bias": draw(len(table))}
    tensors |= draw.linear("cls.predictions.transform.dense", WIDTH, WIDTH)
    tensors |= draw.norm("cls.predictions.transform.LayerNorm", WIDTH, old)
    if tied:
        tensors["cls.predictions.decoder.weight"] = table
    if next_sentence:
        tensors |= draw.linear("cls.seq_relationship", 2, WIDTH)
    return tensors


def distilbert(draw: Draw, pieces: int) -> dict[str, torch.Tensor]:
    """The tensors of DistilBERT's body."""
    tensors = {f"embeddings.{name}_embeddings.weight": draw(rows, WIDTH) for name, rows in
               (("word", pieces), ("position", POSITIONS))}  # fmt: skip
    tensors |= draw.norm("embeddings.LayerNorm", WIDTH)
    for i in range(DEPTH):
        block = f"transformer.layer.{i}."
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            tensors |= draw.linear(f"{block}attention.{name}", WIDTH, WIDTH)
        tensors |= draw.norm(f"{block}sa_layer_norm", WIDTH)
        tensors |= draw.linear(f"{block}ffn.lin1", INNER, WIDTH) | draw.linear(f"{block}ffn.lin2", WIDTH, INNER)
        tensors |= draw.norm(f"{block}output_layer_norm", WIDTH)
    return OrderedDict((f"distilbert.{name}", tensor) for name, tensor in tensors.items())


# --- config.json ---

BERT = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": 4,
    "num_hidden_layers": DEPTH,
    "type_vocab_size": 2,
}  # all that Google's own bert_config.json of 2018 holds, beside vocab_size
BERT_2020 = BERT | {"layer_norm_eps": 1e-12, "model_type": "bert", "pad_token_id": 0}
BERT_2021 = BERT_2020 | {
    "gradient_checkpointing": False,
    "position_embedding_type": "absolute",
    "transformers_version": "4.6.0.dev0",
    "use_cache": True,
}
POOLER = {  # of the multilingual, Chinese and cased files
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
PYTORCH_TRANSFORMERS = {  # what every config.json of 2019 spells out
    "finetuning_task": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "num_labels": 2,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_past": True,
    "pruned_heads": {},
    "torchscript": False,
    "use_bfloat16": False,
}
DISTILBERT = {
    "activation": "gelu",
    "attention_dropout": 0.1,
    "dim": WIDTH,
    "dropout": 0.1,
    "hidden_dim": INNER,
    "initializer_range": 0.02,
    "max_position_embeddings": POSITIONS,
    "model_type": "distilbert",
    "n_heads": 4,
    "n_layers": DEPTH,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
}


def labelled(*names: str) -> dict:
    """id2label and label2id."""
    return {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": {n: i for i, n in enumerate(names)}}


# --- files ---

SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def write(folder: Path, name: str, content: str | dict | list) -> None:
    """A text file, or JSON as the hub's files are indented."""
    text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / name).write_text(text, encoding="utf-8", newline="")


def write_common(folder: Path, config: dict, vocab: list[str], settings: dict | None = None, rows: int = 0) -> None:
    """config.json, vocab.txt, tokenizer_config.json where there is one, and what no program reads."""
    folder.mkdir(parents=True)
    write(folder, "config.json", config | {"vocab_size": rows or len(vocab)})
    write(folder, "vocab.txt", "".join(f"{piece}\n" for piece in vocab))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    write(folder, ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n*.h5 filter=lfs -text\n")
    write(folder, "README.md", "---\nlanguage: en\nlicense: apache-2.0\n---\n\n# A model\n")


def write_other_frameworks(folder: Path) -> None:
    """What else lies there: weights for TensorFlow, Flax, Rust."""
    (folder / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    (folder / "flax_model.msgpack").write_bytes(b"\x82\xa3cls\x80" + bytes(64))
    (folder / "rust_model.ot").write_bytes(b"PK\x03\x04" + bytes(64))


def write_training_leftovers(folder: Path) -> None:
    """What a Trainer leaves beside a model: pickles of other things, which are no weights."""
    torch.save({"learning_rate": 2e-5, "seed": 42}, folder / "training_args.bin")
    torch.save({"state": {}, "param_groups": [{"lr": 2e-5, "params": [0]}]}, folder / "optimizer.pt")
    torch.save({"last_epoch": 5}, folder / "scheduler.pt")
    torch.save({"python": 0, "cpu": torch.zeros(8, dtype=torch.uint8)}, folder / "rng_state.pth")
    write(folder, "trainer_state.json", {"best_metric": None, "epoch": 5.0, "log_history": []})
    write(folder, "all_results.json", {"eval_accuracy": 0.94})


def write_tokenizer_json(folder: Path, vocab: list[str], lowercase: bool, added: tuple[str, ...] = (), **parts) -> None:
    """A tokenizer.json as converted from vocab.txt. added: more tokens, with the ids after the vocabulary's."""
    pieces = {piece: i for i, piece in enumerate(vocab)}

    def token(i: int, content: str, special: bool = True) -> dict:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
        return {"id": i, "content": content} | flags

    ends = {name: {"id": name, "ids": [pieces[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    cls, sep = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("[CLS]", "[SEP]"))
    single = [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token(i, piece) for piece, i in pieces.items() if piece in SPECIAL.values()]
        + [token(len(vocab) + i, piece) for i, piece in enumerate(added)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + second,
            "special_tokens": ends,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": pieces,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content | parts, ensure_ascii=False), encoding="utf-8")


def write_bin(folder: Path, tensors: dict, old: bool = False, name: str = "pytorch_model.bin") -> None:
    """A state dict as torch saves it, with its _metadata. old: as before version 1.6, no ZIP."""
    state = OrderedDict(tensors)
    modules = {"", *(part for key in tensors for part in (key.rsplit(".", 1)[0], key.split(".")[0]))}
    state._metadata = OrderedDict((module, {"version": 1}) for module in sorted(modules))
    torch.save(state, folder / name, _use_new_zipfile_serialization=not old)


def write_safetensors(folder: Path, tensors: dict, name: str = "model.safetensors") -> None:
    """The same as safetensors; what is tied stands there once."""
    tensors = {key: t.contiguous() for key, t in tensors.items() if key != "cls.predictions.decoder.weight"}
    save_file(tensors, folder / name, metadata={"format": "pt"})


def write_shards(folder: Path, tensors: dict, stem: str, suffix: str, save: Callable) -> None:
    """Two shards with an index."""
    names = list(tensors)
    weight_map = {}
    for i, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        shard = f"{stem}-{i:05}-of-00002.{suffix}"
        save(folder, {name: tensors[name] for name in part}, name=shard)
        weight_map |= dict.fromkeys(part, shard)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write(folder, f"{stem}.{suffix}.index.json", index)


# --- base models: the encoder, and a pre-training head ---


def bert_base_uncased_2018(folder: Path) -> None:
    """The first upload: gamma and beta, no model_type, no settings of the tokenizer."""
    vocab, draw = vocabulary("english", cased=False), Draw(1)
    write_common(folder, {"architectures": ["BertForMaskedLM"]} | BERT, vocab)
    body = bert(draw, len(vocab), old=True)
    write_bin(folder, body | bert_cls(draw, body, old=True, tied=False), old=True)


def bert_base_uncased(folder: Path) -> None:
    """Today: safetensors too, still gamma and beta; tokenizer.json."""
    vocab, draw = vocabulary("english", cased=False), Draw(2)
    settings = {"do_lower_case": True, "model_max_length": 512}
    write_common(folder, {"architectures": ["BertForMaskedLM"]} | BERT_2021, vocab, settings)
    write_tokenizer_json(folder, vocab, lowercase=True)
    body = bert(draw, len(vocab), old=True)
    tensors = body | bert_cls(draw, body, old=True, tied=False)
    write_bin(folder, tensors, old=True)
    write_safetensors(folder, tensors)
    write_other_frameworks(folder)


def bert_base_cased(folder: Path) -> None:
    """Only tokenizer_config.json says that capitals matter."""
    vocab, draw = vocabulary("english", cased=True), Draw(3)
    settings = {"do_lower_case": False, "model_max_length": 512}
    write_common(folder, {"architectures": ["BertForMaskedLM"]} | BERT_2021, vocab, settings)
    body = bert(draw, len(vocab), old=True)
    write_safetensors(folder, body | bert_cls(draw, body, old=True, tied=False))


def bert_base_cased_2018(folder: Path) -> None:
    """The first upload: nothing but the file's pieces says that capitals matter."""
    vocab, draw = vocabulary("english", cased=True), Draw(16)
    write_common(folder, {"architectures": ["BertForMaskedLM"]} | BERT_2020, vocab)
    body = bert(draw, len(vocab), old=True)
    write_bin(folder, body | bert_cls(draw, body, old=True, tied=False), old=True)


def bert_base_german_cased(folder: Path) -> None:
    """deepset's: special pieces at the beginning, keys of its own, both formats."""
    first = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]")
    vocab, draw = vocabulary("german", True, first), Draw(4)
    config = {"architectures": ["BertForMaskedLM"], "language": "german", "name": "Bert"} | BERT_2020 | POOLER
    write_common(folder, config, vocab, {"do_lower_case": False, "model_max_length": 512})
    write_tokenizer_json(folder, vocab, lowercase=False)
    body = bert(draw, len(vocab))
    tensors = body | bert_cls(draw, body)
    write_bin(folder, tensors)
    write_safetensors(folder, tensors)


def bert_base_german_dbmdz_cased(folder: Path) -> None:
    """max_len, as settings were called; vocab.txt alone."""
    vocab, draw = vocabulary("german", cased=True), Draw(5)
    config = {"architectures": ["BertForMaskedLM"]} | BERT_2020 | POOLER
    write_common(folder, config, vocab, {"do_lower_case": False, "max_len": 512})
    body = bert(draw, len(vocab))
    write_bin(folder, body | bert_cls(draw, body), old=True)


def bert_base_german_uncased_umlauts(folder: Path) -> None:
    """Lowercased, with its umlauts: strip_accents false beside a vocab.txt."""
    vocab, draw = vocabulary("german", cased=False), Draw(6)
    write_common(folder, {"architectures": ["BertForMaskedLM"]} | BERT_2020, vocab,
                 {"do_lower_case": True, "strip_accents": False, "model_max_length": 512})  # fmt: skip
    body = bert(draw, len(vocab), position_ids=True)
    write_bin(folder, body | bert_cls(draw, body))


def bert_base_chinese(folder: Path) -> None:
    """do_lower_case false: accents stay; tokenizer.json lowercases nothing."""
    vocab, draw = vocabulary("chinese", cased=True), Draw(7)
    config = {"architectures": ["BertForMaskedLM"]} | BERT_2020 | POOLER
    write_common(folder, config, vocab, {"do_lower_case": False, "model_max_length": 512})
    write_tokenizer_json(folder, vocab, lowercase=False)
    body = bert(draw, len(vocab), old=True)
    write_safetensors(folder, body | bert_cls(draw, body, old=True, tied=False))


def chinese_bert_wwm_ext(folder: Path) -> None:
    """Empty settings and empty added tokens, as save_pretrained wrote them in early 2020."""
    vocab, draw = vocabulary("chinese", cased=False), Draw(8)
    config = {"architectures": ["BertForMaskedLM"], "output_past": True} | BERT_2020 | POOLER
    write_common(folder, config, vocab, {"init_inputs": []})
    write(folder, "added_tokens.json", {})
    write(folder, "special_tokens_map.json", SPECIAL)
    body = bert(draw, len(vocab))
    write_bin(folder, body | bert_cls(draw, body), old=True)


def bert_base_multilingual_cased(folder: Path) -> None:
    """Every script in one cased vocabulary."""
    vocab, draw = vocabulary("multilingual", cased=True), Draw(9)
    config = {"architectures": ["BertForMaskedLM"]} | BERT_2020 | POOLER
    write_common(folder, config, vocab, {"do_lower_case": False, "model_max_length": 512})
    body = bert(draw, len(vocab), old=True)
    tensors = body | bert_cls(draw, body, old=True, tied=False)
    write_bin(folder, tensors, old=True)
    write_safetensors(folder, tensors)
    write_other_frameworks(folder)


def distilbert_base_uncased_2019(folder: Path) -> None:
    """The first upload: every default spelled out, an untied-looking projector, vocab.txt alone."""
    vocab, draw = vocabulary("english", cased=False), Draw(10)
    write_common(folder, {"architectures": ["DistilBertForMaskedLM"]} | DISTILBERT | PYTORCH_TRANSFORMERS, vocab)
    body = distilbert(draw, len(vocab))
    head = draw.linear("vocab_transform", WIDTH, WIDTH) | draw.norm("vocab_layer_norm", WIDTH)
    head |= {"vocab_projector.weight": body["distilbert.embeddings.word_embeddings.weight"]}
    write_bin(folder, body | head | {"vocab_projector.bias": draw(len(vocab))}, old=True)


def bert_tiny(folder: Path) -> None:
    """prajjwal1's: Google's config.json of 2018, without model_type and architectures; vocab.txt; the old format."""
    vocab, draw = vocabulary("english", cased=False), Draw(11)
    write_common(folder, BERT, vocab)
    body = bert(draw, len(vocab))
    write_bin(folder, body | bert_cls(draw, body), old=True)


def bert_uncased_L_2_H_128_A_2(folder: Path) -> None:
    """Google's miniatures: model_type alone was added; position_ids, and a decoder's bias tied to another."""
    vocab, draw = vocabulary("english", cased=False), Draw(12)
    write_common(folder, BERT | {"model_type": "bert"}, vocab)
    body = bert(draw, len(vocab), position_ids=True)
    head = bert_cls(draw, body)
    write_bin(folder, body | head | {"cls.predictions.decoder.bias": head["cls.predictions.bias"]})


def TinyBERT_General_4L_312D(folder: Path) -> None:
    """huawei-noah's: its distillation's own keys, and the projection that it was distilled with."""
    vocab, draw = vocabulary("english", cased=False), Draw(13)
    extra = {"cell": {}, "model_type": "bert", "emb_size": 312, "pre_trained": "", "structure": [], "training": ""}
    write_common(folder, BERT | extra, vocab)
    body = bert(draw, len(vocab))
    tensors = body | bert_cls(draw, body) | draw.linear("fit_dense", 768, WIDTH)
    write_bin(folder, tensors, old=True)


def MiniLM_L12_H384_uncased(folder: Path) -> None:
    """microsoft's: an encoder without a head."""
    vocab, draw = vocabulary("english", cased=False), Draw(14)
    config = BERT | {"layer_norm_eps": 1e-12, "model_type": "bert"}
    write_common(folder, config, vocab, {"do_lower_case": True, "model_max_length": 512})
    write(folder, "special_tokens_map.json", SPECIAL)
    write_bin(folder, bert(draw, len(vocab)), old=True)
    write_other_frameworks(folder)


def legal_bert_small_uncased(folder: Path) -> None:
    """nlpaueb's: early 2020, when config.json held all settings for generating text too."""
    vocab, draw = vocabulary("english", cased=False), Draw(17)
    generation = {"do_sample": False, "length_penalty": 1.0, "max_length": 20, "num_beams": 1, "temperature": 1.0,
                  "num_return_sequences": 1, "repetition_penalty": 1.0, "top_k": 50, "top_p": 1.0}  # fmt: skip
    config = {"architectures": ["BertForPreTraining"]} | BERT_2020 | PYTORCH_TRANSFORMERS | generation
    write_common(folder, config | {"bos_token_id": 0, "eos_token_ids": 0}, vocab, {"do_lower_case": True})
    write(folder, "special_tokens_map.json", SPECIAL)
    body = bert(draw, len(vocab))
    write_bin(folder, body | bert_cls(draw, body), old=True)


def rubert_tiny(folder: Path) -> None:
    """cointegrated's: a small model of today, cased, of two languages, with both heads of pre-training."""
    vocab, draw = vocabulary("multilingual", cased=True), Draw(18)
    config = {"architectures": ["BertForPreTraining"], "emb_size": 312} | BERT_2021
    settings = SETTINGS_2021 | {"do_lower_case": False, "name_or_path": "cointegrated/rubert-tiny"}
    write_common(folder, config | {"torch_dtype": "float32"}, vocab, settings)
    write_tokenizer_json(folder, vocab, lowercase=False)
    write(folder, "special_tokens_map.json", SPECIAL)
    body = bert(draw, len(vocab), position_ids=True)
    write_safetensors(folder, body | bert_cls(draw, body))


def all_MiniLM_L6_v2(folder: Path) -> None:
    """sentence-transformers': names without prefix, padding and truncation in tokenizer.json, modules beside it."""
    vocab, draw = vocabulary("english", cased=False), Draw(15)
    config = {"_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"]} | BERT_2021
    settings = {"do_lower_case": True, **SPECIAL, "tokenize_chinese_chars": True, "strip_accents": None,
                "name_or_path": "nreimers/MiniLM-L6-H384-uncased", "do_basic_tokenize": True, "never_split": None,
                "tokenizer_class": "BertTokenizer", "model_max_length": 512}  # fmt: skip
    write_common(folder, config, vocab, settings)
    write(folder, "special_tokens_map.json", SPECIAL)
    padding = {"strategy": {"Fixed": 128}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "[PAD]"}  # fmt: skip
    cut = {"direction": "Right", "max_length": 128, "strategy": "LongestFirst", "stride": 0}
    write_tokenizer_json(folder, vocab, lowercase=True, padding=padding, truncation=cut)
    write_safetensors(folder, bert(draw, len(vocab), prefix="", position_ids=True))
    write_bin(folder, bert(Draw(15), len(vocab), prefix="", position_ids=True))
    (folder / "1_Pooling").mkdir()
    write(folder / "1_Pooling", "config.json", {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True})
    write(folder, "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False})
    write(folder, "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.0.0"}})
    write(folder, "modules.json", [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}])


# --- classifiers ---


def write_classifier(folder: Path, seed: int, config: dict, settings: dict | None, labels: int, save, **vocab) -> list:
    """A BERT with a classifier of so many labels; the vocabulary."""
    pieces, draw = vocabulary(**{"language": "english", "cased": False} | vocab), Draw(seed)
    write_common(folder, config, pieces, settings)
    body = bert(draw, len(pieces), position_ids=save is write_bin)
    save(folder, body | draw.linear("classifier", labels, WIDTH))
    return pieces


def write_old_bin(folder: Path, tensors: dict) -> None:
    write_bin(folder, tensors, old=True)


SEQUENCE = {"architectures": ["BertForSequenceClassification"]}
SETTINGS_2021 = {"do_lower_case": True, **SPECIAL, "tokenize_chinese_chars": True, "strip_accents": None,
                 "model_max_length": 512, "special_tokens_map_file": None, "name_or_path": "bert-base-uncased",
                 "tokenizer_class": "BertTokenizer"}  # fmt: skip
INTENTS = tuple(f"intent_{i}" if i != 42 else "oos" for i in range(151))


def bert_base_uncased_finetuned_clinc(folder: Path) -> None:
    """transformersbook's teacher: .bin alone, 151 labels, and the Trainer's pickles beside it."""
    config = {"_name_or_path": "bert-base-uncased"} | SEQUENCE | BERT_2021 | labelled(*INTENTS)
    config |= {"classifier_dropout": None, "problem_type": "single_label_classification", "torch_dtype": "float32"}
    vocab = write_classifier(folder, 20, config, SETTINGS_2021, 151, write_bin)
    write_tokenizer_json(folder, vocab, lowercase=True)
    write(folder, "special_tokens_map.json", SPECIAL)
    write_training_leftovers(folder)
    (folder / "runs").mkdir()


def bert_base_uncased_ag_news(folder: Path) -> None:
    """textattack's: nameless labels, logs, the old format."""
    config = SEQUENCE | BERT_2020 | {"finetuning_task": "ag_news"} | labelled(*(f"LABEL_{i}" for i in range(4)))
    write_classifier(folder, 21, config, {"do_lower_case": True, "model_max_length": 512}, 4, write_old_bin)
    write(folder, "special_tokens_map.json", SPECIAL)
    write(folder, "train_args.json", {"model": "bert-base-uncased", "num_labels": 4})
    write(folder, "log.txt", "Writing logs to outputs.\n")


def distilbert_base_uncased_finetuned_sst_2_english(folder: Path) -> None:
    """Two named labels; DistilBERT's own keys; safetensors and .bin."""
    vocab, draw = vocabulary("english", cased=False), Draw(22)
    config = {"architectures": ["DistilBertForSequenceClassification"], "finetuning_task": "sst-2"} | DISTILBERT
    config |= labelled("NEGATIVE", "POSITIVE") | {"output_past": True, "pad_token_id": 0}
    write_common(folder, config, vocab, {"model_max_length": 512, "do_lower_case": True})
    tensors = distilbert(draw, len(vocab)) | draw.linear("pre_classifier", WIDTH, WIDTH)
    tensors |= draw.linear("classifier", 2, WIDTH)
    write_bin(folder, tensors, old=True)
    write_safetensors(folder, tensors)
    write_other_frameworks(folder)


def bert_base_multilingual_uncased_sentiment(folder: Path) -> None:
    """nlptown's: _num_labels, stars for labels."""
    stars = labelled("1 star", "2 stars", "3 stars", "4 stars", "5 stars")
    config = {"_num_labels": 5} | SEQUENCE | BERT_2020 | POOLER | stars
    config |= {"finetuning_task": "sentiment-analysis", "output_past": True}
    write_classifier(folder, 23, config, {"do_lower_case": True}, 5, write_safetensors, language="multilingual")
    write(folder, "special_tokens_map.json", SPECIAL)


def ms_marco_MiniLM_L_6_v2(folder: Path) -> None:
    """cross-encoder's: a score, no class; softmax of it would be 1 always."""
    config = {"_name_or_path": "nreimers/MiniLM-L6-H384-uncased"} | SEQUENCE | BERT_2021 | labelled("LABEL_0")
    config |= {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}
    vocab = write_classifier(folder, 24, config, SETTINGS_2021, 1, write_safetensors)
    write_tokenizer_json(folder, vocab, lowercase=True)


def toxic_bert(folder: Path) -> None:
    """unitary's: several labels at once, each with a probability of its own."""
    names = labelled("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
    config = SEQUENCE | BERT_2021 | names | {"problem_type": "multi_label_classification"}
    vocab = write_classifier(folder, 25, config, SETTINGS_2021, 6, write_safetensors)
    write_tokenizer_json(folder, vocab, lowercase=True)


def num_labels_alone(folder: Path) -> None:
    """num_labels without names, as scripts wrote it that made config.json themselves."""
    write_classifier(folder, 26, SEQUENCE | BERT_2020 | {"num_labels": 3}, {"do_lower_case": True}, 3, write_bin)


def relation_markers_2020(folder: Path) -> None:
    """Two added tokens beside a vocab.txt; the table has their rows."""
    vocab, draw = vocabulary("english", cased=False), Draw(27)
    config = SEQUENCE | BERT_2020 | labelled("none", "works_for", "born_in")
    write_common(folder, config, vocab, {"do_lower_case": True, "model_max_length": 512}, rows=len(vocab) + 2)
    write(folder, "added_tokens.json", {"[E1]": len(vocab), "[/E1]": len(vocab) + 1})
    write(folder, "special_tokens_map.json", SPECIAL | {"additional_special_tokens": ["[E1]", "[/E1]"]})
    write_bin(folder, bert(draw, len(vocab) + 2, position_ids=True) | draw.linear("classifier", 3, WIDTH))


def relation_markers_2023(folder: Path) -> None:
    """The same with tokenizer.json, and with added_tokens_decoder in tokenizer_config.json."""
    vocab, draw = vocabulary("english", cased=False), Draw(28)
    config = SEQUENCE | BERT_2021 | labelled("none", "works_for", "born_in") | {"transformers_version": "4.34.0"}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = ("[E1]", "[/E1]")
    tokens = {str(i): {"content": piece} | flags for i, piece in enumerate(vocab) if piece in SPECIAL.values()}
    tokens |= {str(len(vocab) + i): {"content": piece} | flags for i, piece in enumerate(added)}
    settings = {"added_tokens_decoder": tokens, "additional_special_tokens": list(added),
                "clean_up_tokenization_spaces": True, "do_lower_case": True, **SPECIAL, "model_max_length": 512,
                "strip_accents": None, "tokenize_chinese_chars": True, "tokenizer_class": "BertTokenizer"}  # fmt: skip
    write_common(folder, config, vocab, settings, rows=len(vocab) + 2)
    write(folder, "added_tokens.json", {piece: len(vocab) + i for i, piece in enumerate(added)})
    special = {key: {"content": piece, **flags} for key, piece in SPECIAL.items()}
    for token in special.values():
        del token["special"]
    write(folder, "special_tokens_map.json", special | {"additional_special_tokens": list(added)})
    write_tokenizer_json(folder, vocab, lowercase=True, added=added)
    write_safetensors(folder, bert(draw, len(vocab) + 2) | draw.linear("classifier", 3, WIDTH))


def added_words_2020(folder: Path) -> None:
    """tokenizer.add_tokens of ordinary words, which are no special tokens; the table was resized to a round number."""
    vocab, draw = vocabulary("english", cased=False), Draw(39)
    config = SEQUENCE | BERT_2020 | labelled("no", "maybe", "yes")
    write_common(folder, config, vocab, {"do_lower_case": True, "model_max_length": 512}, rows=len(vocab) + 8)
    write(
        folder, "added_tokens.json", {"new york": len(vocab), "Zoë": len(vocab) + 1, "savings-account": len(vocab) + 2}
    )
    write(folder, "special_tokens_map.json", SPECIAL)
    write_bin(folder, bert(draw, len(vocab) + 8, position_ids=True) | draw.linear("classifier", 3, WIDTH))


def sharded_bin(folder: Path) -> None:
    """A large model's .bin in shards."""
    config = SEQUENCE | BERT_2021 | labelled("no", "maybe", "yes")
    vocab = write_classifier(folder, 29, config, SETTINGS_2021, 3, lambda folder, tensors: write_shards(
        folder, tensors, "pytorch_model", "bin", write_bin))  # fmt: skip
    write_tokenizer_json(folder, vocab, lowercase=True)


def sharded_safetensors(folder: Path) -> None:
    """The same as safetensors."""
    config = SEQUENCE | BERT_2021 | labelled("no", "maybe", "yes")
    vocab = write_classifier(folder, 30, config, SETTINGS_2021, 3, lambda folder, tensors: write_shards(
        folder, tensors, "model", "safetensors", write_safetensors))  # fmt: skip
    write_tokenizer_json(folder, vocab, lowercase=True)


def data_parallel(folder: Path) -> None:
    """torch.save(model.state_dict()) of a model in DataParallel: every name begins with "module."."""
    config = SEQUENCE | BERT_2020 | labelled("no", "maybe", "yes")
    write_classifier(folder, 31, config, {"do_lower_case": True}, 3, lambda folder, tensors: write_bin(
        folder, {f"module.{name}": tensor for name, tensor in tensors.items()}))  # fmt: skip


def move_to_cache(folder: Path) -> None:
    """The hub's own cache: the folder is a snapshot, its files are links to blobs that are named by their hashes."""
    repository = folder.parent / f"models--somebody--{folder.name}"
    snapshot = repository / "snapshots" / ("0123456789" * 4)
    for made in (snapshot, repository / "blobs", repository / "refs", repository / ".no_exist" / snapshot.name):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(snapshot.name)
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(repository / "blobs" / digest)
        (snapshot / path.name).symlink_to(f"../../blobs/{digest}")
    folder.rmdir()
    folder.symlink_to(snapshot, target_is_directory=True)


def hub_cache(folder: Path) -> None:
    """A .bin in the hub's cache."""
    config = SEQUENCE | BERT_2021 | labelled("no", "maybe", "yes")
    write_classifier(folder, 32, config, SETTINGS_2021, 3, write_bin)
    move_to_cache(folder)


def hub_cache_sharded(folder: Path) -> None:
    """Shards of safetensors in the hub's cache."""
    config = SEQUENCE | BERT_2021 | labelled("no", "maybe", "yes")
    write_classifier(folder, 33, config, SETTINGS_2021, 3, lambda folder, tensors: write_shards(
        folder, tensors, "model", "safetensors", write_safetensors))  # fmt: skip
    move_to_cache(folder)


def half_precision(folder: Path) -> None:
    """Saved in 16 bits, to be small: its numbers are those of the file, computed in 32."""
    config = SEQUENCE | BERT_2021 | labelled("no", "maybe", "yes") | {"torch_dtype": "float16"}
    write_classifier(folder, 34, config, SETTINGS_2021, 3, lambda folder, tensors: write_bin(
        folder, {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}))  # fmt: skip


def labels_are_numbers(folder: Path) -> None:
    """id2label made by a script from whole numbers."""
    config = SEQUENCE | BERT_2021 | {"id2label": {"0": 0, "1": 1, "2": 2}, "label2id": {"0": 0, "1": 1, "2": 2}}
    write_classifier(folder, 35, config, SETTINGS_2021, 3, write_safetensors)


def trainer_checkpoint(folder: Path) -> None:
    """checkpoint-500 of a Trainer of 2024."""
    config = {"_name_or_path": "bert-base-uncased"} | SEQUENCE | BERT_2021 | labelled("ham", "spam")
    config |= {"problem_type": "single_label_classification", "torch_dtype": "float32"}
    vocab = write_classifier(folder, 36, config, {"clean_up_tokenization_spaces": True} | SETTINGS_2021, 2,
                             write_safetensors)  # fmt: skip
    write_tokenizer_json(folder, vocab, lowercase=True)
    write(folder, "special_tokens_map.json", SPECIAL)
    write_training_leftovers(folder)


def tensorflow_alone(folder: Path) -> None:
    """A repository of which nobody made a PyTorch file."""
    write_classifier(folder, 37, SEQUENCE | BERT_2020 | labelled("no", "yes"), SETTINGS_2021, 2,
                     lambda folder, tensors: write_other_frameworks(folder))  # fmt: skip


def roberta_base(folder: Path) -> None:
    """Another architecture, with byte pairs."""
    config = {"architectures": ["RobertaForMaskedLM"]} | BERT_2020 | {"model_type": "roberta", "layer_norm_eps": 1e-5}
    write_common(folder, config, ["unused"], rows=7)
    (folder / "vocab.txt").unlink()
    write(folder, "vocab.json", {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "ab": 6})
    write(folder, "merges.txt", "#version: 0.2\na b\n")
    write_bin(folder, bert(Draw(38), 7, prefix="roberta."), old=True)


# --- named entities ---

TOKEN = {"architectures": ["BertForTokenClassification"]}
BERT_2019 = BERT_2020 | {key: PYTORCH_TRANSFORMERS[key] for key in
                         ("finetuning_task", "is_decoder", "output_past", "pruned_heads", "torchscript")}  # fmt: skip


def bert_large_cased_finetuned_conll03_english(folder: Path) -> None:
    """dbmdz's: IOB1, eight labels (no B-PER was ever needed), O last, the old format."""
    labels = ("B-LOC", "B-MISC", "B-ORG", "I-LOC", "I-MISC", "I-ORG", "I-PER", "O")
    config = {"_num_labels": 8} | TOKEN | BERT_2019 | POOLER | labelled(*labels)
    write_classifier(folder, 40, config, {"do_lower_case": False, "max_len": 512}, 8, write_old_bin, cased=True)
    write_other_frameworks(folder)


def bert_base_NER(folder: Path) -> None:
    """dslim's: nine labels in IOB2, O first, both formats."""
    kinds = ("MISC", "PER", "ORG", "LOC")
    labels = ("O", *(f"{position}-{kind}" for kind in kinds for position in "BI"))
    config = {"_num_labels": 9, "max_length": 512} | TOKEN | BERT_2020 | labelled(*labels) | {"output_past": True}
    settings = {"do_lower_case": False, "max_len": 512, "init_inputs": []}
    write_classifier(folder, 41, config, settings, 9, write_safetensors, cased=True)
    write(folder, "added_tokens.json", {})
    write(folder, "special_tokens_map.json", SPECIAL)


def bert_base_chinese_ner(folder: Path) -> None:
    """ckiplab's: one, begin, inside, end of each kind (IOBES), characters as words."""
    labels = ("O", *(f"{position}-{kind}" for position in "BIES" for kind in ("DATE", "GPE", "PERSON")))
    settings = {"do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": True, "model_max_length": 512,
                "tokenizer_class": "BertTokenizerFast"}  # fmt: skip
    config = TOKEN | BERT_2021 | POOLER | labelled(*labels)
    write_classifier(folder, 42, config, settings, len(labels), write_bin, language="chinese", cased=True)


def roberta_base_finetuned_cluener2020_chinese(folder: Path) -> None:
    """uer's, a BERT for all its name: IOBES, and [PAD] for a label."""
    labels = ("O", *(f"{position}-{kind}" for position in "BISE" for kind in ("address", "name")), "[PAD]")
    config = TOKEN | BERT_2021 | labelled(*labels)
    settings = {"do_lower_case": False, "do_basic_tokenize": True, "model_max_length": 512}
    write_classifier(folder, 43, config, settings, len(labels), write_bin, language="chinese", cased=True)


def ner_with_helper_labels(folder: Path) -> None:
    """A fine-tuning script of 2019: labels for [CLS], [SEP] and the later pieces of a word (X)."""
    kinds = ("MISC", "PER", "ORG", "LOC")
    labels = ("O", *(f"{position}-{kind}" for kind in kinds for position in "BI"), "X", "[CLS]", "[SEP]")
    config = TOKEN | BERT_2019 | labelled(*labels) | {"num_labels": len(labels)}
    write_classifier(folder, 44, config, {"do_lower_case": False}, len(labels), write_old_bin, cased=True)


def ner_of_bare_types(folder: Path) -> None:
    """KB's: the types alone, without B and I."""
    config = TOKEN | BERT_2020 | labelled("O", "PER", "ORG", "LOC", "TME")
    write_classifier(folder, 45, config, {"do_lower_case": False, "strip_accents": False}, 5, write_bin, cased=True)


# --- question answering ---

SPAN = {"architectures": ["BertForQuestionAnswering"]}


def bert_large_uncased_whole_word_masking_finetuned_squad(folder: Path) -> None:
    """A pooler that its head does not use; no labels anywhere."""
    vocab, draw = vocabulary("english", cased=False), Draw(50)
    write_common(folder, SPAN | BERT_2020, vocab, {"do_lower_case": True, "model_max_length": 512})
    write_bin(folder, bert(draw, len(vocab)) | draw.linear("qa_outputs", 2, WIDTH), old=True)
    write_other_frameworks(folder)


def bert_base_cased_squad2(folder: Path) -> None:
    """deepset's: keys of its own framework; settings written in 2020, without a length."""
    vocab, draw = vocabulary("english", cased=True), Draw(51)
    config = SPAN | BERT_2020 | POOLER | {"language": "english", "name": "Bert"}
    write_common(folder, config, vocab, {"do_lower_case": False, **SPECIAL, "tokenize_chinese_chars": True,
                                         "strip_accents": None, "max_len": 512, "init_inputs": []})  # fmt: skip
    write(folder, "special_tokens_map.json", SPECIAL)
    tensors = bert(draw, len(vocab), position_ids=True, pooler=False) | draw.linear("qa_outputs", 2, WIDTH)
    write_safetensors(folder, tensors)


def distilbert_base_cased_distilled_squad(folder: Path) -> None:
    """2019's DistilBERT with two columns of logits."""
    vocab, draw = vocabulary("english", cased=True), Draw(52)
    config = {"architectures": ["DistilBertForQuestionAnswering"]} | DISTILBERT | {"output_past": True}
    write_common(folder, config, vocab, {"do_lower_case": False, "model_max_length": 512})
    write_bin(folder, distilbert(draw, len(vocab)) | draw.linear("qa_outputs", 2, WIDTH), old=True)


PRETRAINED = "has no head for a task; predict needs a model trained for a task"


@dataclass(frozen=True)
class Shape:
    """A folder: what writes it, the head whose predictions it gives, and what `predict` answers where it gives none."""

    write: Callable[[Path], None]
    head: str | None  # "sequence", "token", "span", "mlm"; None: an encoder alone
    refused: str = ""  # a regular expression for predict's one line; the model itself may be usable

    @property
    def is_body(self) -> bool:
        """Whether another head can be put on it, and its own cannot be used."""
        return self.refused == PRETRAINED or "id2label" in self.refused or "problem_type" in self.refused


SHAPES = {
    "bert-base-uncased-2018": Shape(bert_base_uncased_2018, "mlm", PRETRAINED),
    "bert-base-uncased": Shape(bert_base_uncased, "mlm", PRETRAINED),
    "bert-base-cased": Shape(bert_base_cased, "mlm", PRETRAINED),
    "bert-base-cased-2018": Shape(bert_base_cased_2018, "mlm", PRETRAINED),
    "bert-base-german-cased": Shape(bert_base_german_cased, "mlm", PRETRAINED),
    "bert-base-german-dbmdz-cased": Shape(bert_base_german_dbmdz_cased, "mlm", PRETRAINED),
    "bert-base-german-uncased-umlauts": Shape(bert_base_german_uncased_umlauts, "mlm", PRETRAINED),
    "bert-base-chinese": Shape(bert_base_chinese, "mlm", PRETRAINED),
    "chinese-bert-wwm-ext": Shape(chinese_bert_wwm_ext, "mlm", PRETRAINED),
    "bert-base-multilingual-cased": Shape(bert_base_multilingual_cased, "mlm", PRETRAINED),
    "distilbert-base-uncased-2019": Shape(distilbert_base_uncased_2019, "mlm", PRETRAINED),
    "bert-tiny": Shape(bert_tiny, None, PRETRAINED),
    "bert_uncased_L-2_H-128_A-2": Shape(bert_uncased_L_2_H_128_A_2, None, PRETRAINED),
    "TinyBERT_General_4L_312D": Shape(TinyBERT_General_4L_312D, None, PRETRAINED),
    "MiniLM-L12-H384-uncased-bert": Shape(MiniLM_L12_H384_uncased, None, PRETRAINED),
    "legal-bert-small-uncased": Shape(legal_bert_small_uncased, "mlm", PRETRAINED),
    "rubert-tiny": Shape(rubert_tiny, "mlm", PRETRAINED),
    "all-MiniLM-L6-v2": Shape(all_MiniLM_L6_v2, None, PRETRAINED),
    "bert-base-uncased-finetuned-clinc": Shape(bert_base_uncased_finetuned_clinc, "sequence"),
    "bert-base-uncased-ag-news": Shape(bert_base_uncased_ag_news, "sequence"),
    "distilbert-sst-2-english": Shape(distilbert_base_uncased_finetuned_sst_2_english, "sequence"),
    "bert-multilingual-uncased-sentiment": Shape(bert_base_multilingual_uncased_sentiment, "sequence"),
    "ms-marco-MiniLM-L-6-v2-bert": Shape(
        ms_marco_MiniLM_L_6_v2, "sequence", "config.json: id2label or num_labels: one label only"
    ),
    "toxic-bert": Shape(toxic_bert, "sequence"),
    "num-labels-alone": Shape(num_labels_alone, "sequence"),
    "relation-markers-2020": Shape(relation_markers_2020, "sequence"),
    "relation-markers-2023": Shape(relation_markers_2023, "sequence"),
    "added-words-2020": Shape(added_words_2020, "sequence"),
    "sharded-bin": Shape(sharded_bin, "sequence"),
    "sharded-safetensors": Shape(sharded_safetensors, "sequence"),
    "data-parallel": Shape(data_parallel, "sequence"),
    "hub-cache": Shape(hub_cache, "sequence"),
    "hub-cache-sharded": Shape(hub_cache_sharded, "sequence"),
    "half-precision": Shape(half_precision, "sequence"),
    "labels-are-numbers": Shape(labels_are_numbers, "sequence"),
    "trainer-checkpoint": Shape(trainer_checkpoint, "sequence"),
    "tensorflow-alone": Shape(tensorflow_alone, "sequence", "tensorflow-alone: has no model.safetensors"),
    "roberta-base": Shape(roberta_base, "mlm", "config.json: model_type is 'roberta'"),
    "bert-large-cased-finetuned-conll03-english": Shape(bert_large_cased_finetuned_conll03_english, "token"),
    "bert-base-NER": Shape(bert_base_NER, "token"),
    "bert-base-chinese-ner": Shape(bert_base_chinese_ner, "token"),
    "cluener2020-chinese": Shape(roberta_base_finetuned_cluener2020_chinese, "token"),
    "ner-with-helper-labels": Shape(ner_with_helper_labels, "token"),
    "ner-of-bare-types": Shape(ner_of_bare_types, "token"),
    "bert-large-uncased-wwm-finetuned-squad": Shape(bert_large_uncased_whole_word_masking_finetuned_squad, "span"),
    "bert-base-cased-squad2": Shape(bert_base_cased_squad2, "span"),
    "distilbert-base-cased-distilled-squad": Shape(distilbert_base_cased_distilled_squad, "span"),
}


def write_shape(name: str, parent: Path) -> Path:
    """The folder of a shape, written under `parent`."""
    folder = parent / name
    SHAPES[name].write(folder)
    return folder


if __name__ == "__main__":
    for shape in SHAPES:
        print(write_shape(shape, Path(sys.argv[1])))
