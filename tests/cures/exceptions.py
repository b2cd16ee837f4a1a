"""Advice that no row of the tables follows: by its text in the sources, the test that does, or why none can."""

CONFIG = "checkpoints/test_model_folders.py::test_the_printed_cure_works"
TOKENIZER = "data/test_tokenizer_files.py::"
TOKENIZER += "test_what_has_no_meaning_here_is_refused_in_one_line_and_the_cure_works"
UNFIT = "data/test_tokenizer_files.py::test_a_tokenizer_with_more_pieces_than_the_model_is_refused_for_its_true_cause"
EXERCISES = "exercises/test_exercises.py::"
COMMAND = EXERCISES + "test_the_command_lists_begins_and_complains_in_one_line"
UNCHECKED = EXERCISES + "test_what_cannot_be_checked_is_refused_in_one_line_and_the_cure_works"
LABELS = "tasks/test_multi_label.py::test_labels_are_read_however_they_are_written"
SOLVED = EXERCISES + "test_a_right_body_passes_and_a_wrong_one_shows_its_first_wrong_number"
FOLDS = "training/test_cross_fitting.py::test_teachers_that_do_not_belong_together_are_refused"

EXCEPTIONS = {
    "{}: {} {}; give a file of texts that it has not seen": "evaluation/test_calibrate.py::"
    "test_a_file_that_the_model_was_trained_on_is_refused",
    "no temperature fits: all of these examples are decided right; give more of them": "evaluation/"
    "test_calibrate.py::test_no_temperature_fits_where_all_are_right_or_nothing_tells_what_is",
    "no temperature fits: {}; give more of them": "evaluation/"
    "test_calibrate.py::test_no_temperature_fits_where_all_are_right_or_nothing_tells_what_is",
    "--dev: a cascade needs two models; give --models teacher=DIR student=DIR": "commands/test_commands.py::"
    "test_compare_shows_the_cascade_that_the_command_finds",
    "Choose with --text-column, two for a model of pairs": "evaluation/test_predict_file.py::"
    "test_a_table_of_two_texts_is_read_as_the_message_says",
    "open {} (a tunnel has the same port on both ends)": "demo/test_server.py::"
    "test_the_address_that_a_refusal_names_is_the_right_one",
    "{}: has other labels than {}; give models of the same ones": "evaluation/test_cascade.py::"
    "test_models_of_other_labels_are_refused",
    "{}: is a link to a file elsewhere; put the file in its place": "checkpoints/test_convert.py::"
    "test_a_link_to_a_file_elsewhere_is_not_copied_into_what_may_be_published",
    "A CLASS CALLED {}: if it means that there is no label, delete its rows, or give them to --unlabelled": "tasks/"
    "test_file_checks.py::test_classes_that_may_mean_no_label_are_named",
    "none of the columns of these texts is a label of the model; rename them as it calls them": "tasks/"
    "test_multi_label.py::test_texts_none_of_whose_columns_the_model_knows_are_refused",
    "write a JSON object for each row, on a line of its own, with answers as plain texts or as objects": "tasks/"
    "test_squad_file.py::test_a_table_is_refused_with_a_way_to_make_json_lines",
    "{}: classes 1 to 3 alone may be of 1 to 4 or of 0 to 3; write names, as in World": "tasks/test_text_files.py::"
    "test_classes_of_ag_news_that_may_be_numbered_from_0_or_1_are_refused",
    "{}: intents are numbers, so none is out of scope; write {} for it (in the hub's files 42)": "tasks/"
    "test_text_files.py::test_labels_of_other_tools_are_understood_or_told",
    # --- the file as it was is taken ---
    "{}: {}; copy it again from where the model came from": "data/"
    "test_tokenizer.py::test_a_template_of_tokens_that_nobody_knows_is_refused_and_not_run",
    # --- has a table of its own ---
    'write "model_type": "bert" (or "distilbert") into it, if the model is one': CONFIG,
    '{}: has no architectures; write "architectures": {} into it': CONFIG,
    "{}: problem_type is {}, which is none; remove it": CONFIG,
    "{}: {} must name the labels 0 to N-1, without a gap; write them in": CONFIG,
    "{}: {} names {} labels and num_labels is {}; correct the wrong one": CONFIG,
    "{}: {} must hold names, each a string; write them in": CONFIG,
    "{}: {} holds {} twice; give each number a name of its own": CONFIG,
    '{}: {} differs from what the head for masked words shares here; write "tie_word_embeddings": false into {}, and '
    "it counts as a body": "checkpoints/test_model_folders.py::"
    "test_a_head_that_does_not_share_the_table_of_tokens_is_left_out_after_the_cure",
    "; {} is one of several; fetch {}.index.json, too": "checkpoints/test_weight_files.py::"
    "test_shards_whose_index_is_missing_open_once_it_is_there",
    "they do not belong together; take the tokenizer's files from where the model came from": UNFIT,
    "the model has none for the added token {}; delete it where its files list it": UNFIT,
    'the model has none for {}; write "mask_token": null into tokenizer_config.json': UNFIT,
    'write "tokenizer_class": "BertTokenizer" into tokenizer_config.json if the model is BERT\'s': TOKENIZER,
    "{}: holds no JSON object; copy it again from where the model came from": TOKENIZER,
    "{}: begins with a byte-order mark, which would be part of the first piece; save it without": TOKENIZER,
    "write a list of names, or remove the key": TOKENIZER,
    "rename the newest to tokenizer.json and delete the key": TOKENIZER,
    'write "truncation_side": "right" into it if that is as good': TOKENIZER,
    "put it where piece {} of the vocabulary is, or correct the number": TOKENIZER,
    "{}: the added token {} is blank; delete it from the files": TOKENIZER,
    'write "{}": {} {}': TOKENIZER,
    'write "do_lower_case": false {}': TOKENIZER,
    "--fold {}/{}: leaves no examples; use fewer parts": "a file of a single document; nothing is to be seen after it: "
    "training/test_cross_fitting.py::test_sentences_of_a_document_are_in_one_fold_and_each_in_exactly_one",
    "--teacher: they were not trained with the same number of folds; give all of one kind": FOLDS,
    "--teacher: no teacher was trained with --fold {}; train it, and give it too": FOLDS,
    "--teacher {}: was trained on a fold of another file than {}; give that": FOLDS,
    "--teacher {}: read {} with {} {}; give the same": FOLDS,
    "--teacher {}: knew {} as {}; rename it so": "training/test_cross_fitting.py::"
    "test_documents_are_told_apart_by_the_name_that_the_teachers_knew",
    "--unlabelled {}: has the name of --train, by which texts are told apart; rename it": "training/"
    "test_cross_fitting.py::test_text_of_the_training_file_that_stands_in_another_is_unseen_by_one_teacher_only",
    "--teacher {}: has labels that the data have not, or writes its tags in another way; a student takes them over and "
    "a baseline cannot; fine-tune it on these data first (train --model)": "study/test_evidence.py::"
    "test_a_teacher_of_other_labels_is_refused_before_anything_is_trained",
    "look {}/{}": "no advice: which look at dev it is",
    "the best learning rate is the {} of the grid: try {} ones": "study/test_learning_rates.py::"
    "test_each_variant_has_the_rate_that_is_best_on_dev_with_the_first_seed",
    # --- is no error's, and takes hours ---
    "{}; score both on more examples, train the teacher longer or better, or make the student smaller": "evaluation/"
    "test_advice.py::test_the_advice_by_case; longer training changes the scores that it looks at",
    # --- needs more than one process ---
    "the processes do not find each other: {}; start them with torchrun": "torchrun sets the variables with which "
    "common/test_distributed.py::test_two_processes_have_the_losses_of_one_in_fine_tuning_and_in_distillation starts",
    "process {} and process 0 differ in: {}; give all the same": "the same test gives all the same, the one that is "
    "refused is common/test_distributed.py::test_processes_that_work_on_different_data_are_refused",
    # --- needs a server, and time ---
    "open http://{}:{}/ in your browser; Ctrl-C ends it": "tests/browser does; without a browser "
    "demo/test_server.py::test_the_page_and_the_json_come_with_every_header",
    "transfer-encoding: is not supported; send content-length": "demo/test_server.py::test_a_question_is_answered",
    "too much is waiting to be computed; try again in a second": "demo/test_server.py::"
    "test_a_wait_that_would_be_too_long_is_refused_at_once_and_the_server_recovers",
    # --- exercises: a reader's own file ---
    "; choose {}, if you mean that": COMMAND,
    "NAME={}: there is no such exercise{}; make exercise lists them": COMMAND,
    "{}: holds your work, or was begun from an older kd_scratch/{}; make check NAME={} looks at it, with AGAIN=1 you "
    "begin anew": EXERCISES + "test_a_readers_work_is_kept_until_they_say_otherwise_and_then_under_another_name",
    "Write: the body of {} in {}. The docstring says what goes in and comes out.": SOLVED,
    "Check: make check NAME={}. Compare: make solution NAME={}.": SOLVED,
    "{}:{}: {}; mend that line, or one before it": UNCHECKED,
    "{}: has no {} any more; make solution NAME={} shows where it was": UNCHECKED,
    "{}:{}: {}; write it in place of that line": UNCHECKED,
    "{}: {}. Compare: make solution NAME={}{}": SOLVED,
    ". Next: make exercise NAME={}": SOLVED,
    "make solution NAME={} shows what is missing": EXERCISES + "test_a_copy_that_lacks_what_others_import_is_one_line",
    "write [] where a text has no label, and give texts whose labels nobody knows to --unlabelled": LABELS,
    "write its labels with {} between them": LABELS,
    'give the names of those that a text has, as in ["a", "b"]': LABELS,
    # --- needs other code than this ---
    "{}: {} by hand differs by {} from what {} computes; change the first as the second was changed": "a reader who "
    "edits a layer; unedited they agree in trace/test_trace.py::test_no_number_is_no_agreement",
    "its numbers are big-endian; save it on a little-endian machine": "needs another machine",
    "--rows: the grammar has no more new sentences to give; ask for fewer rows": "takes a million rows; fewer are made "
    "in every test of data_scripts/test_make_sample.py",
}
#: Texts that only look like advice.
NO_ADVICE = (
    "cut off",
    'labels = json.load(open("config.json"))["id2label"]',
    "make quickstart",
    "train loss",
    "byte {} of its pickle needs a mark",
    "start logit",
    "start and end of the answer",
    "Ask a question",
    "{}: its shape needs {} bytes, not {}",
    "--teacher {}: has a vocabulary of {}; to be compared they need as many",
)
