"""Sabotage: plant one-line faults, one at a time, in a copy of the code. The test that names each must fail.

    make mutants

A fault that no test catches would show that the tests prove less than they claim. Each line of FAULTS is a mistake that
some distillation project has really made, or that would be easy to make here.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parents[1]

#: what goes wrong, file, the line's part, what it becomes, the test that names it and must fail
FAULTS = [
    ("T² dropped", "distill.py",
     "temperature**2 * F.kl_div", "F.kl_div",
     "test_distill.py::test_t_squared_keeps_the_size_of_the_gradient_for_large_t"),
    ("mean over classes instead of units", "distill.py",
     'reduction="sum", log_target', 'reduction="mean", log_target',
     "test_distill.py::test_losses_are_sums_over_units_and_no_means_over_units_or_classes"),
    ("the student against itself", "distill.py",
     "soft_targets(student, teacher,", "soft_targets(student, student.detach(),",
     "test_distill.py::test_alpha_weighs_soft_targets_against_the_labels"),
    ("student and teacher swapped", "distill.py",
     "F.kl_div(log_q, log_p,", "F.kl_div(log_p, log_q,",
     "test_distill.py::test_soft_targets_are_t_squared_times_the_sum_over_units_of_kl_teacher_student"),
    ("α and 1−α swapped", "distill.py",
     "(1 - alpha) * hard + alpha * soft", "alpha * hard + (1 - alpha) * soft",
     "test_distill.py::test_alpha_weighs_soft_targets_against_the_labels"),
    ("tokens without a label distilled", "distill.py",
     "tokens.index_select(0, batch.counted), labels.index_select(0, batch.counted)", "tokens, labels.clamp(min=0)",
     "test_distill.py::test_a_unit_is_one_text_one_labelled_token_or_one_start_and_one_end"),
    ("text without labels given one", "distill.py",
     ", ignore_index=UNLABELLED)", ", ignore_index=IGNORE)",
     "test_distill.py::test_a_unit_without_label_has_soft_targets_and_no_cross_entropy"),
    ("positions outside the context distilled", "distill.py",
     "masked_fill(~allowed, lowest)", "clone()",
     "test_distill.py::test_spans_have_no_mass_outside_the_allowed_positions_and_no_nan_even_with_one_allowed"),
    ("cached logits by step instead of example", "distill.py",
     "logits[batch.indices]", "logits[: len(batch.indices)]",
     "test_distill.py::test_cached_logits_go_with_the_example_and_not_with_the_step"),
    ("order of the teacher's labels ignored", "distill.py",
     "[teacher.index(label) for label in student]", "list(range(len(student)))",
     "test_distill.py::test_a_teacher_that_knows_the_labels_in_another_order_is_reindexed_by_name"),
    ("teacher left in train mode", "inference.py",
     "    model.eval()\n", "",
     "test_distill.py::test_a_teacher_left_in_train_mode_teaches_without_dropout"),
    ("mask forgotten, fused path", "layers.py",
     "attn_mask=mask", "attn_mask=None",
     "test_layers.py::test_masked_keys_have_no_influence_and_get_no_gradient"),
    ("mask forgotten, explicit path", "layers.py",
     "scores = scores + torch", "scores + torch",
     "test_layers.py::test_masked_keys_have_no_influence_and_get_no_gradient"),
    ("softmax over nothing: NaN where all is masked", "layers.py",
     "mask = mask | ~mask.any(dim=-1, keepdim=True)", "pass",
     "test_layers.py::test_a_query_that_may_look_at_nothing_looks_at_everything_with_finite_gradients"),
    ("scores not divided by √W", "layers.py",
     " / math.sqrt(query.size(-1))", "",
     "test_layers.py::test_attention_is_its_formula"),
    ("hidden states off by one", "layers.py",
     "            if need_states:\n                hidden_states.append(x)\n", "",
     "test_layers.py::test_block_i_leads_from_hidden_state_i_to_i_plus_1_and_has_attention_map_i"),
    ("the wrong position kept in the last block", "layers.py",
     "x[:, :1] if first_only", "x[:, -1:] if first_only",
     "test_layers.py::test_first_only_is_the_full_computations_first_position_in_values_and_gradients"),
    ("dropout when evaluating", "layers.py",
     "dropout(y, self.dropout, self.training)", "dropout(y, self.dropout)",
     "test_layers.py::test_dropout_acts_in_training_only_and_dropout_0_never"),
    ("BERT's head on DistilBERT", "model.py",
     "F.relu if distilbert else torch.tanh", "torch.tanh",
     "test_model.py::test_logits_are_the_heads_formula_on_the_last_hidden_state"),
    ("loss divided by the part, not the batch", "train.py",
     "loss * (weight / step_units)", "loss * (weight / len(part))",
     "test_train.py::test_accumulation_gives_the_gradient_of_the_large_batch"),
    ("weight decay on biases and norms", "optimizer.py",
     '"params": vectors, "weight_decay": 0.0', '"params": vectors, "weight_decay": config.weight_decay',
     "test_optimizer.py::test_no_weight_decay_on_biases_and_norms"),
    ("clipping that forgets the loss scale", "optimizer.py",
     "self.scaler.scale(torch.full_like(norm, self.config.max_grad_norm))", "self.config.max_grad_norm",
     "test_optimizer.py::test_a_scaled_loss_gives_the_same_step"),
    ("a step taken with a gradient that is not a number", "optimizer.py",
     "(loss + norm).isfinite()", "loss.isfinite()",
     "test_optimizer.py::test_after_a_bad_loss_or_gradient_no_step_is_taken_any_more"),
    ("random numbers that a resumed run does not have", "train.py",
     "        seed_step(job.seed, done.step, parallel.rank())\n", "",
     "test_train.py::test_a_resumed_run_ends_bit_equal_to_an_uninterrupted_one"),
    ("dropout that does not scale up the rest", "layers.py",
     "keep.mul_(2**16 / (2**16 - dropped))", "keep",
     "test_layers.py::test_dropout_zeroes_with_probability_p_and_scales_up_the_rest"),
    ("learned word vectors not written back", "vocabulary.py",
     "        self.whole.weight[self.used] = self.rows.weight\n", "",
     "test_vocabulary.py::test_training_the_used_rows_is_training_the_whole_table"),
    ("every process computes the whole batch", "parallel.py",
     "return items[rank() :: size()]", "return items",
     "test_parallel.py::test_two_processes_have_the_losses_of_one_in_fine_tuning_and_in_distillation"),
    ("starts of a later chunk not moved", "cache.py",
     'values[1:] + tokens if name == "starts"', 'values[1:] if name == "starts"',
     "test_cache.py::test_what_is_read_from_the_cache_is_what_featurizing_gives"),
    ("blank lines that move a row's place", "tasks/classification.py",
     "line, start = reader.line_num + 1, place", "line, start = reader.line_num + 1, start if not row else place",
     "test_rows.py::test_rows_taken_from_the_file_one_by_one_are_those_of_a_whole_reading"),
    ("backslash-n replaced instead of backslash", "tasks/classification.py",
     '.replace("\\\\", " ")', '.replace("\\\\n", " ")',
     "test_classification.py::test_agnews_a_backslash_becomes_a_space_and_no_letter_after_it_is_eaten"),
    ("out-of-scope texts counted as errors", "tasks/classification.py",
     "if example.in_scope]", "]",
     "test_classification.py::test_in_scope_and_out_of_scope_are_scored_apart_by_hand"),
    ("positions of the question may be answers", "tasks/question_answering.py",
     "begin, end = windows.starts[w] + windows.context_at[w],", "begin, end = windows.starts[w] + 1,",
     "test_question_answering.py::test_nothing_outside_the_context_is_ever_an_answer"),
    ("null score taken from one window only", "tasks/question_answering.py",
     "nothing = min(nothing, float(", "nothing = (lambda _, x: x)(0, float(",
     "test_question_answering.py::test_no_answer_needs_every_window_to_say_so"),
    ("the overlap taken for the step", "tasks/question_answering.py",
     "step = room - min(overlap, room // 2)", "step = min(overlap, room)",
     "test_question_answering.py::test_windows_cover_everything_and_neighbours_share_exactly_the_overlap"),
    ("an answer cut by a window labelled as there", "tasks/question_answering.py",
     "start <= answer[0] and answer[1] < end", "start <= answer[0] < end",
     "test_question_answering.py::test_only_a_window_that_holds_the_whole_answer_is_labelled_with_it"),
    ("combining marks lost from answers", "tasks/question_answering.py",
     "if len(spans) and not text.isascii():", "if False:",
     "test_question_answering.py::test_offsets_survive_emoji_combining_marks_cjk_and_control_characters"),
    ("articles kept before comparing answers", "tasks/squad_metric.py",
     "(a|an|the)", "(an|the)",
     "test_squad_metric.py::test_normalizing_drops_case_punctuation_articles_and_spare_spaces"),
    ("a missing prediction left out in version 1.1", "tasks/squad_metric.py",
     "    if version2:\n        counted", "    if True:\n        counted",
     "test_squad_metric.py::test_a_missing_prediction_is_wrong_in_version_1_and_left_out_in_version_2"),
    ("an entity that goes on across a change of type", "tasks/entities.py",
     'previous[0] in "BI" and previous[1:] == tag[1:]', 'previous[0] in "BI"',
     "test_entities.py::test_entities_of_a_sequence"),
    ("every piece of a word labelled", "tasks/token_classification.py",
     "    token_labels[word_at] = word_labels",
     "    token_labels[word_at] = word_labels\n    token_labels[np.array(word_at) + 1] = word_labels",
     "test_token_classification.py::test_the_first_piece_of_each_word_has_its_label_and_nothing_else"),
    ("words of two windows labelled twice", "tasks/token_classification.py",
     "if first <= i < last:", "if start <= i < end:",
     "test_token_classification.py::test_words_in_are_tags_out_in_their_order_whatever_the_window"),
    ("words without pieces lost", "tasks/token_classification.py",
     "[1:-1][:most] or [unknown]", "[1:-1][:most]",
     "test_token_classification.py::test_a_word_of_which_the_tokenizer_leaves_nothing_becomes_unknown_and_keeps_its_label"),
    ("unknown tags left out of the score", "tasks/token_classification.py",
     "gold = [example.tags for example in outcome.examples]",
     'gold = [tuple(t if t in outcome.labels else "O" for t in example.tags) for example in outcome.examples]',
     "test_token_classification.py::test_unknown_tags_are_missed_entities_and_are_told"),
    ("half a document held out", "tasks/token_classification.py",
     "group=lambda example: example.document", "group=lambda example: example.id",
     "test_token_classification.py::test_documents_are_held_out_whole_and_never_thinned_out"),
    ("sinusoids that drown the tokens", "model.py",
     "math.sqrt(config.width) if", "1.0 if",
     "test_model.py::test_hidden_state_0_is_the_normalized_sum_of_word_segment_and_position"),
    ("the halves of a table's vector swapped", "int8.py",
     "[packed & 15, packed >> 4]", "[packed >> 4, packed & 15]",
     "test_int8.py::test_a_tables_bytes_by_hand"),
    ("query and key swapped in the fused product", "fast.py",
     "query, key, value = self.split(", "key, query, value = self.split(",
     "test_fast.py::test_the_fast_form_computes_the_same_in_float_to_rounding_and_in_int8_bit_for_bit"),
    ("an activation's zero point dropped", "int8.py",
     "(q - zero_point).double()", "q.double()",
     "test_int8.py::test_the_linear_layer_by_hand_on_numbers_worked_out_by_hand"),
    ("models compared on different draws", "compare.py",
     "resampled_sums(tally)", "resampled_sums(tally, seed=len(rows))",
     "test_significance.py::test_compare_draws_the_same_examples_for_all_models"),
    ("query and key swapped in the name table", "published.py",
     '"attention.query", "attention.self.query"', '"attention.query", "attention.self.key"',
     "test_checkpoint.py::test_the_names_in_the_file_are_exactly_the_published_ones"),
    ("tensor's bytes not checked against its shape", "safetensors.py",
     "if math.prod(shape) * itemsize != stop - start:", "if False:",
     "test_safetensors.py::test_malformed_file_is_refused_in_one_short_line_that_names_it"),
    ("a damaged state resumed from", "state.py",
     "if newest.is_file() and is_intact(newest):", "if newest.is_file():",
     "test_crashes.py::test_a_flipped_bit_in_the_newest_state_is_found_and_the_one_before_it_used"),
    ("the state before the last not kept", "state.py",
     "checksum=True, keep=folder / PREVIOUS)", "checksum=True)",
     "test_crashes.py::test_a_flipped_bit_in_the_newest_state_is_found_and_the_one_before_it_used"),
    ("the good state replaced by a damaged one", "state.py",
     "        replace_file(newest, folder / DAMAGED)  #", "        pass  #",
     "test_crashes.py::test_the_state_before_survives_a_damaged_one_even_when_killed_at_the_next_saving"),
    ("nothing to resume before the first epoch's end", "train.py",
     "    if not resume:\n        save()", "    if False:\n        save()",
     "test_crashes.py::test_killed_between_the_weights_and_the_state_of_the_first_epoch_the_run_ends_the_same"),
    ("batches of an interrupted epoch done again", "train.py",
     "in batches[done.batch :]:", "in batches:",
     "test_crashes.py::test_killed_before_any_write_fsync_rename_or_deletion_the_run_ends_the_same"),
    ("a file that is written in its place", "files.py",
     'with open(temporary, "wb") as file:', 'with open(path, "wb") as file, open(temporary, "wb"):',
     "test_crashes.py::test_killed_in_the_middle_of_any_write_the_run_ends_the_same"),
    ("renamed before it is on the disk", "files.py",
     "            os.fsync(file.fileno())\n        if keep", "        if keep",
     "test_files.py::test_the_content_is_on_the_disk_before_the_rename_and_the_rename_before_the_end"),
    ("a disk that refuses when tidying up", "files.py",
     "with suppress(OSError):  #", "if True:  #",
     "test_crashes.py::test_whatever_the_disk_refuses_is_one_line_and_nothing_is_lost"),
    ("changed weights passed off as the result", "launch.py",
     "if sha256_of_file(job.output / WEIGHTS) != done.best_sha256:", "if False:",
     "test_crashes.py::test_kept_weights_that_something_has_changed_are_not_passed_off_as_the_result"),
    ("another run resumed", "state.py",
     "if differing and (fixed or not force):", "if False:",
     "test_crashes.py::test_another_setting_is_refused_by_name_and_goes_on_by_force"),
    ("word vectors given to other words", "state.py",
     'FIXED = ("task", "tokenizer", "labels", "words")', "FIXED = ()",
     "test_crashes.py::test_force_cannot_give_the_rows_of_a_table_to_other_words_or_labels"),
    ("a forced schedule that falls below 0", "train.py",
     "done.step + left)", "config.epochs * steps_per_epoch(job))",
     "test_crashes.py::test_a_forced_run_of_fewer_steps_has_a_learning_rate_above_0_in_all_of_them"),
    ("weights newer than the state kept", "train.py",
     "if done.best_epoch and parallel.rank() == 0:", "if False:",
     "test_crashes.py::test_weights_newer_than_the_state_give_way_to_those_that_the_state_means"),
    ("a damaged cache read", "cache.py",
     "path.exists() and is_intact(path)", "path.exists()",
     "test_cache.py::test_a_damaged_file_is_noticed_and_made_anew"),
    ("questions that share an id", "tasks/question_answering.py",
     "if key in ids:", "if False:",
     "test_hostile.py::test_a_malformed_file_has_its_expected_line"),
    ("no end to a text", "files.py",
     "if len(text) > LONGEST:", "if False:",
     "test_hostile.py::test_a_hundred_megabytes_on_one_line_take_bounded_time_and_memory"),
    ("an error of two lines", "files.py",
     "message = printable(message)", "pass",
     "test_files.py::test_what_an_error_quotes_cannot_break_the_line_or_command_the_terminal"),
    ("the beginning of a text taken for the whole", "tokenization.py",
     "if len(text) > reach and len(encodings[i].ids) < max_length:", "if False:",
     "test_tokenization.py::test_only_the_beginning_of_a_long_text_is_looked_at_and_nothing_is_lost"),
    ("a text cut inside a word", "tokenization.py",
     "return text[: end.start()] if end else text", "return text[:reach]",
     "test_tokenization.py::test_only_the_beginning_of_a_long_text_is_looked_at_and_nothing_is_lost"),
    ("answers out of reach not told", "preflight.py",
     "features.labels[:, 0] == IGNORE]", "features.labels[:, 0] < IGNORE]",
     "test_preflight.py::test_answers_out_of_reach_are_counted"),
    ("texts that just fit told as cut", "preflight.py",
     "> config.max_length))", ">= config.max_length - 1))",
     "test_preflight.py::test_the_share_of_texts_that_are_cut_is_exact"),
]  # fmt: skip


def run_tests(folder: Path, tests: str) -> tuple[bool, str]:
    """Whether the tests pass in a copy of the project, and the end of what pytest said."""
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{tests}: pytest could not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0, done.stdout[-2000:]


def main() -> int:
    """Run all faults; exit status 1 where a fault survives or a test fails on the sound code."""
    survivors = []
    for what, file, old, _, _ in FAULTS:
        if old not in (ROOT / "kd_scratch" / file).read_text():
            sys.exit(f"{file} no longer holds {old!r}; bring the fault {what!r} up to date")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kd_scratch"
        ignore = shutil.ignore_patterns(".venv", ".git", "runs", "data", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, folder, ignore=ignore)
        for tests in tqdm(sorted({fault[4] for fault in FAULTS}), desc="sound code", unit="file"):
            passed, output = run_tests(folder, tests)
            if not passed:
                sys.exit(f"{tests} fails before any fault is planted:\n{output}")
        for what, file, old, new, tests in tqdm(FAULTS, desc="faults", unit="fault"):
            path = folder / "kd_scratch" / file
            sound = path.read_text()
            path.write_text(sound.replace(old, new))
            passed, output = run_tests(folder, tests)
            path.write_text(sound)
            caught = "survived" if passed else output.strip().rsplit("FAILED ", 1)[-1].split(" - ")[0].split("\n")[0]
            tqdm.write(f"{what:50} {caught}")
            if passed:
                survivors.append(what)
    print(
        f"{len(FAULTS) - len(survivors)} of {len(FAULTS)} faults caught"
        + (f"; alive: {survivors}" if survivors else "")
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
