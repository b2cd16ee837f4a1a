"""Advice that no row of the tables follows: by its text in the sources, the test that does, or why none can."""

EXCEPTIONS = {
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
    # --- needs other code than this ---
    "{}: {} by hand differs by {} from what {} computes; change the first as the second was changed": "a reader who "
    "edits a layer; unedited they agree in trace/test_trace.py::test_no_number_is_no_agreement",
    "--rows: the grammar has no more new sentences to give; ask for fewer rows": "takes a million rows; fewer are made "
    "in every test of data_scripts/test_make_sample.py",
    "torch {} has no torch.ao.quantization any more; int8 needs an older one": "needs a PyTorch that is not there yet",
}
#: Texts that only look like advice.
NO_ADVICE = (
    "train loss",
    "start logit",
    "start and end of the answer",
    "Ask a question",
    "{}: its shape needs {} bytes, not {}",
    "--teacher {}: has a vocabulary of {}; to be compared they need as many",
)
