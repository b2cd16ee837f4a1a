"""The exercises in the order of the book: which functions lose their bodies, and which unit tests want them back.

Nothing is stored twice: the file, its docstrings and the tests are the project's own. A new exercise is one entry in
EXERCISES, and three wrong bodies in `wrong.py` that its tests must catch.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Exercise:
    """One exercise: functions of one file, by their names in it, that are to be written anew."""

    name: str
    file: str  # below kd_scratch/
    functions: tuple[str, ...]
    tests: tuple[str, ...]  # below tests/, the simplest first
    topic: str
    paper: str  # and section
    hint: str  # what the docstring leaves open

    @property
    def module(self) -> str:
        """The file's name for import: kd_scratch.nn.layers"""
        return "kd_scratch." + self.file.removesuffix(".py").replace("/", ".")

    @property
    def file_name(self) -> str:
        """layers.py"""
        return Path(self.file).name


def tests_of(file: str, *names: str) -> tuple[str, ...]:
    """Tests of one file, as pytest names them."""
    return tuple(f"{file}::{name}" for name in names)


LAYERS = "nn/test_layers.py"
LOSSES = "distillation/test_losses.py"
HIDDEN = "distillation/test_hidden_losses.py"
TAGS = "tasks/test_token_classification.py"
VASWANI = 'Vaswani et al. 2017, "Attention Is All You Need"'
DEVLIN = 'Devlin et al. 2019, "BERT"'
HINTON = 'Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2'


def of_hidden(loss: str) -> tuple[str, ...]:
    """The tests that every hidden-state loss has, for one of them."""
    names = (
        "a_loss_is_its_formula_by_hand",
        "losses_are_sums_over_inputs_and_no_means",
        "the_gradient_is_that_of_finite_differences",
        "padding_changes_nothing_whatever_stands_there_and_has_no_gradient",
        "where_student_and_teacher_are_alike_the_loss_and_its_gradient_are_zero",
    )
    return tests_of(HIDDEN, *(f"test_{name}[{loss}]" for name in names))


EXERCISES = (
    Exercise(
        "word-pieces",
        "tasks/token_classification.py",
        ("word_pieces",),
        tests_of(
            TAGS,
            "test_pieces_are_those_of_a_tokenizer_that_gets_the_words",
            "test_a_word_of_which_the_tokenizer_leaves_nothing_becomes_unknown_and_keeps_its_label",
            "test_words_in_are_tags_out_in_their_order_whatever_the_window",
        ),
        "words into pieces, each distinct word once",
        f"{DEVLIN}, section 3, Input/Output Representations; Wu et al. 2016, section 4.1 (wordpieces)",
        "tokenizer.encode(list of words) gives one object a word, whose .ids have [CLS] before and [SEP] behind the "
        "word's own, all of them; tokenizer.unknown_id is [UNK].",
    ),
    Exercise(
        "embeddings",
        "nn/layers.py",
        ("InputEmbeddings.forward",),
        tests_of(
            LAYERS,
            "test_an_embedding_is_the_sum_of_the_words_row_and_the_segments_row",
            "test_without_token_types_there_is_no_segment_table",
        )
        + ("nn/test_model.py::test_hidden_state_0_is_the_normalized_sum_of_word_segment_and_position",),
        "token ids into vectors",
        f"{DEVLIN}, section 3, figure 2; {VASWANI}, section 3.4 for the scale",
        "Word and segment only: positions, norm and dropout come later. Without a table of segments (self.token_type "
        "is None) token_type_ids do not matter; with one and no ids, all are segment 0. The scale is for the word's "
        "vector alone.",
    ),
    Exercise(
        "sinusoids",
        "nn/layers.py",
        ("sinusoidal_table",),
        tests_of(
            LAYERS,
            "test_sinusoids_follow_the_papers_formula",
            "test_sinusoids_are_numbers_on_the_cpu_whatever_the_default_device",
            "test_learned_positions_are_parameters_and_sinusoids_are_neither_learned_nor_saved",
        ),
        "a fixed vector for each position",
        f"{VASWANI}, section 3.5",
        'Compute angles, sines and cosines in float64, and round to float32 at the end. Say device="cpu": there are to '
        'be numbers in the table of a model that is made on "meta", too. An odd width ends with a sine.',
    ),
    Exercise(
        "layer-norm",
        "nn/layers.py",
        ("LayerNormalization.forward",),
        tests_of(
            LAYERS,
            "test_layer_norm_is_its_formula_and_torchs",
            "test_a_new_layer_norm_has_weight_1_bias_0_and_berts_epsilon",
        ),
        "mean 0 and variance 1 for each position",
        'Ba et al. 2016, "Layer Normalization", section 3',
        "Any number of dimensions may stand before D. Write the formula out; the original calls torch's kernel for it.",
    ),
    Exercise(
        "attention",
        "nn/layers.py",
        ("attention",),
        tests_of(
            LAYERS,
            "test_attention_is_its_formula",
            "test_masked_keys_have_no_influence_and_get_no_gradient",
            "test_a_query_that_may_look_at_nothing_looks_at_everything_with_finite_gradients",
            "test_a_query_that_may_look_at_nothing_has_the_same_gradients_on_both_paths",
            "test_attention_dropout_zeroes_weights_and_scales_up_the_rest",
        ),
        "each query takes a weighted mean of the values, with a mask",
        f"{VASWANI}, section 3.2.1, equation 1",
        "One way of computing it is enough; the fused kernel does not concern you. A query that may look at nothing "
        "has the answer that it would have without a mask. What meets the values is dropout(maps, dropout_p) of this "
        "file; the maps are returned as they were before.",
    ),
    Exercise(
        "heads",
        "nn/layers.py",
        ("split_heads", "join_heads"),
        tests_of(
            LAYERS,
            "test_multi_head_attention_is_its_formula_and_torchs",
            "test_a_block_is_its_formula",
        ),
        "D numbers a position as H heads of W, and back",
        f"{VASWANI}, section 3.2.2",
        "W = D / H. Head h (from 0) owns the numbers h · W … (h + 1) · W − 1 of each position.",
    ),
    Exercise(
        "block",
        "nn/layers.py",
        ("ResidualConnection.before", "ResidualConnection.forward", "EncoderBlock.forward"),
        tests_of(
            LAYERS,
            "test_the_residual_adds_the_input_and_norms_where_it_should",
            "test_the_residual_drops_parts_of_the_sublayers_output_and_nothing_of_the_input",
            "test_a_block_is_its_formula",
            "test_a_block_is_torchs",
            "test_a_block_drops_parts_of_either_sublayers_output",
            "test_first_only_is_the_full_computations_first_position_in_values_and_gradients",
            "test_block_i_leads_from_hidden_state_i_to_i_plus_1_and_has_attention_map_i",
        ),
        "the way around a sublayer, and a block of two of them",
        f"{VASWANI}, section 3.1; pre-norm: Xiong et al. 2020, figure 1",
        "dropout(x, p, training) of this file. self.attention(x, memory, mask, need_maps) returns two tensors. With "
        "first_only the queries are the first position of what the sublayer is given; the way around takes as many "
        "positions as the sublayer returns.",
    ),
    Exercise(
        "model-heads",
        "nn/model.py",
        ("SequenceHead.forward", "TokenHead.forward"),
        tests_of(
            "nn/test_model.py",
            "test_logits_have_the_heads_shape_and_asking_for_more_changes_no_logits",
            "test_logits_are_the_heads_formula_on_the_last_hidden_state",
            "test_each_dropout_acts_in_training_only_and_none_where_all_are_0",
        ),
        "from hidden states to logits of a text, or of each token (tags; start and end of a span)",
        f"{DEVLIN}, section 4.1 (text), 4.2 (span), 5.3 (token)",
        "The classes' docstrings say the steps (BERT's pooler is in its code, not in the paper). dropout(x, "
        "self.dropout, self.training), the function of layers.py, comes right before the classifier, in both.",
    ),
    Exercise(
        "padding",
        "data/batches.py",
        ("pad", "epoch_batches"),
        tests_of(
            "data/test_batches.py",
            "test_rows_are_padded_behind_their_end_to_the_longest_of_the_batch",
            "test_a_batch_holds_its_inputs_with_each_field_padded_by_its_own_value",
            "test_every_input_comes_exactly_once_per_epoch_in_full_batches",
            "test_the_order_is_a_pure_function_of_seed_and_epoch",
            "test_the_order_differs_between_epochs_and_between_seeds",
            "test_other_inputs_come_together_in_every_epoch_even_where_all_fit_into_one_pool",
            "test_batches_come_in_random_order_of_length",
            "test_little_is_padded_on_lengths_like_those_of_news",
        ),
        "inputs of many lengths as rectangles, and the batches of an epoch",
        'Khomenko et al. 2016, "Accelerating recurrent neural network training using sequence bucketing", section III',
        "Only one batch of an epoch may be smaller, and it may come anywhere. Random numbers come from "
        "np.random.default_rng([seed, epoch]) alone; how you draw them is up to you.",
    ),
    Exercise(
        "units",
        "distillation/units.py",
        ("unit_logits",),
        tests_of(
            LOSSES,
            "test_a_unit_is_one_text_one_labelled_token_or_one_start_and_one_end",
            "test_units_are_in_full_precision_whatever_the_model_ran_in",
            "test_a_head_that_is_not_there_has_no_units",
            "test_spans_have_no_mass_outside_the_allowed_positions_and_no_nan_even_with_one_allowed",
            "test_the_loss_does_not_depend_on_padding_or_on_what_else_is_in_the_batch",
        )
        + ("tasks/test_question_answering.py::test_inputs_without_a_label_have_no_part_in_the_loss",),
        "what has a distribution of its own: texts, words, starts and ends",
        f"{HINTON}; {DEVLIN}, section 4.2 for start and end",
        'Heads are "sequence", "mlm", "token" and "span". batch.counted: the numbers of the units among the '
        "B·S tokens, or of the B texts of the span head. batch.allowed B,S: where an answer may start or end; "
        "elsewhere the logits become LOWEST. Of the two units of a text the start comes first.",
    ),
    Exercise(
        "cross-entropy",
        "distillation/losses.py",
        ("cross_entropy",),
        tests_of(
            LOSSES,
            "test_cross_entropy_is_the_sum_of_minus_log_probability_of_the_labels",
            "test_losses_are_sums_over_units_and_no_means_over_units_or_classes",
            "test_a_unit_without_label_has_soft_targets_and_no_cross_entropy",
            "test_alpha_weighs_soft_targets_against_the_labels",
        ),
        "the labels' part of the loss",
        'Goodfellow et al. 2016, "Deep Learning", section 6.2.2.3',
        "UNLABELLED is a negative number that no class has, and not PyTorch's −100. F.cross_entropy may be used.",
    ),
    Exercise(
        "soft-targets",
        "distillation/losses.py",
        ("soft_target_loss",),
        tests_of(
            LOSSES,
            "test_soft_targets_are_t_squared_times_the_sum_over_units_of_kl_teacher_student",
            "test_soft_targets_have_the_gradient_t_times_q_minus_p",
            "test_soft_targets_are_zero_with_zero_gradient_where_student_and_teacher_agree_and_positive_elsewhere",
            "test_t_squared_keeps_the_size_of_the_gradient_for_large_t",
            "test_losses_are_sums_over_units_and_no_means_over_units_or_classes",
            "test_an_outcome_that_the_teacher_rules_out_adds_nothing_however_likely_the_student_thinks_it",
        ),
        "the teacher's part of the loss, with T²",
        HINTON,
        "KL(p ‖ q) = Σ p · (ln p − ln q) over the K outcomes; no mean anywhere. Logits are finite. Work with "
        "log_softmax, so that nothing overflows.",
    ),
    Exercise(
        "hidden-states",
        "distillation/hidden_losses.py",
        ("mean_over_tokens", "hidden_mse"),
        of_hidden("hidden"),
        "hidden states of student and teacher, compared where there is no padding",
        'Jiao et al. 2020, "TinyBERT", section 3.1, equation 8',
        "What stands at padding may be anything, NaN too, and must get no gradient (0 · NaN is NaN). Every input "
        "has a real token.",
    ),
    Exercise(
        "relations",
        "distillation/hidden_losses.py",
        ("relation_kl",),
        of_hidden("relations, 2 heads") + of_hidden("relations, 4 heads"),
        "how tokens relate to each other in student and teacher",
        'Wang et al. 2021, "MiniLMv2", section 3.1',
        "Padding counts for nothing as a key, and is left out of the mean as a query. Keys at −∞ on both sides would "
        "make the divergence NaN. scaled_products and mean_over_tokens of this file help.",
    ),
    Exercise(
        "label-order",
        "distillation/teacher.py",
        ("label_order",),
        tests_of(
            LOSSES,
            "test_the_teachers_columns_are_found_by_the_names_of_the_labels",
            "test_a_teacher_that_knows_the_labels_in_another_order_is_reindexed_by_name",
            "test_a_teacher_with_other_labels_leaves_no_file",
        ),
        "the teacher's columns in the student's order",
        HINTON,
        "logits[:, order] are the teacher's in the student's order. Both must know exactly the same labels. The "
        'UserError begins with "the teacher was trained on other labels"; what else it tells is up to you.',
    ),
    Exercise(
        "word-labels",
        "tasks/token_classification.py",
        ("featurize",),
        tests_of(
            TAGS,
            "test_the_first_piece_of_each_word_has_its_label_and_nothing_else",
            "test_pieces_are_those_of_a_tokenizer_that_gets_the_words",
            "test_words_in_are_tags_out_in_their_order_whatever_the_window",
            "test_encoded_windows_by_hand",
            "test_with_documents_a_window_shows_the_neighbouring_sentences",
            "test_unknown_tags_are_missed_entities_and_are_named",
        )
        + ("tasks/test_tag_schemes.py::test_gold_tags_become_labels_and_decisions_iob2_whatever_the_scheme",),
        "labels of words onto the first of their pieces, in windows",
        f"{DEVLIN}, section 5.3",
        'Steps: TagScheme.of(labels); tokenizer.encode([""])[0].ids are [CLS] and [SEP]; '
        "sentence_groups(examples, data.documents); scheme.encode(example.tags) gives tags in the scheme of "
        "the labels; word_pieces(examples, tokenizer, max_length − 2); sentence_windows(lengths, max_length − "
        "2, data.overlap). A tag that is None is UNLABELLED, one that is not in labels IGNORE, and so is a "
        "word that the window shows and does not decide. A window has the id of the example of the first word "
        'that it decides; without one, of the first example of the group. EncodedSentences(head="token", ids, '
        "tokens int32, starts int64 from 0, labels int64, word_at, word_starts).",
    ),
    Exercise(
        "span-decoding",
        "tasks/spans.py",
        ("span_scores", "best_spans"),
        tests_of(
            "tasks/test_question_answering.py",
            "test_best_spans_are_those_of_an_exhaustive_search_ties_included",
            "test_nothing_outside_the_context_is_ever_an_answer",
            "test_an_answer_is_at_most_so_many_pieces_long",
            "test_probabilities_are_a_softmax_over_all_legal_spans_and_no_answer",
        ),
        "the best answers among all spans of a context",
        f"{DEVLIN}, section 4.2",
        "Spans of −∞ are never among the best, so there may be fewer than `most`. longest may be more than P. "
        "ScoredSpan holds Python's own numbers.",
    ),
    Exercise(
        "safetensors-header",
        "checkpoints/safetensors.py",
        ("_layout",),
        tests_of(
            "checkpoints/test_safetensors.py",
            "test_file_holds_exactly_these_bytes",
            "test_every_dtype_survives_a_round_trip_bit_for_bit",
            "test_tensors_come_in_file_order_and_aligned",
            "test_bytes_depend_on_names_values_and_metadata_only",
            "test_metadata_survives_and_is_empty_where_there_is_none",
            "test_a_checksum_covers_every_byte_and_is_the_last_tensor",
        ),
        "the header of a file of tensors",
        "https://github.com/huggingface/safetensors, README, Format; and the picture at the top of the file",
        "Compact JSON (no spaces between, ensure_ascii=False) in UTF-8: __metadata__ first, its keys sorted, unless "
        "it is None; then the tensors in the order of DTYPES, and by name; spaces behind, to a multiple of 8 bytes. A "
        "file cannot hold what _parse_header refuses, other dtypes, and tensors without dense values.",
    ),
    Exercise(
        "int8",
        "nn/int8.py",
        ("linear_by_hand",),
        tests_of(
            "nn/test_int8.py",
            "test_the_linear_layer_by_hand_on_numbers_worked_out_by_hand",
            "test_an_input_of_zeros_gives_the_bias",
            "test_the_linear_layer_by_hand_is_torchs",
        ),
        "a linear layer in whole numbers",
        'Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient '
        'Integer-Arithmetic-Only Inference", '
        "section 2",
        "The range is that of all of x, not of each row. The zero point is the whole number that stands for 0: "
        "round(−low / step). x becomes round(x / step) + zero point, held within 0 … 2^bits − 1. An input of zeros "
        "alone has a step of 1. The product is exact in float64.",
    ),
    Exercise(
        "schedule",
        "training/optimizer.py",
        ("schedule",),
        tests_of(
            "training/test_optimizer.py",
            "test_learning_rate_rises_over_the_warm_up_then_falls_to_zero",
            "test_a_step_is_adamws_formula_by_hand_with_the_clipped_gradient",
        ),
        "the learning rate at each step",
        f"{DEVLIN}, appendix A.2",
        "In the warm-up step k (from 0) has (k + 1) / warmup; step `warmup` has 1; from there it falls in a straight "
        "line that reaches 0 at step `steps`, which is never taken. steps counts the warm-up too, which may be 0, or "
        "longer than all: the lower of the two lines decides.",
    ),
)
BY_NAME = {exercise.name: exercise for exercise in EXERCISES}
