# Every target makes the virtual environment by itself. `make` alone lists them.
PYTHON  ?= python3
KD_DATA ?= data
RUNS    ?= runs
TASK    ?= clinc
MODEL   ?=
LAYERS  ?= 0,2,4
SEED    ?= 0
FOLDS   ?= 5
ARGS    ?=
export KD_DATA

# Recipes hold these names without quotes: a space would make two names of one, for `rm -rf` too.
one_name = $(if $(filter-out 1,$(words .$($(1)).)),$(error $(1)="$($(1))": holds a space; give a name without one))
needed = $(if $($(1)),,$(error $(1)="": is empty; give it a value, or leave it out))
$(foreach name,RUNS TASK,$(call one_name,$(name))$(call needed,$(name)))

BIN := .venv/bin
KD  := $(BIN)/python -m kd_scratch
# Bytecode is made at the first import of a module, which most never see: all at once is half of the time of installing.
PIP := $(BIN)/python -m pip install $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile) --quiet --disable-pip-version-check \
    --constraint .ci/constraints.txt
OUT := $(RUNS)/$(TASK)

train_agnews := $(KD_DATA)/ag_news_csv/train.csv
dev_agnews   := 10%
test_agnews  := $(KD_DATA)/ag_news_csv/test.csv
train_clinc  := $(KD_DATA)/clinc150/data_full.json
dev_clinc    := $(train_clinc)
test_clinc   := $(train_clinc)
train_squad  := $(KD_DATA)/squad/train-v1.1.json
dev_squad    := 10%
test_squad   := $(KD_DATA)/squad/dev-v1.1.json
train_conll  := $(KD_DATA)/conll2003/train.txt
dev_conll    := $(KD_DATA)/conll2003/valid.txt
test_conll   := $(KD_DATA)/conll2003/test.txt

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-core torture parity browser gpu lint mutants bench bench-peers teacher teachers baseline distill quantize prune evaluate compare \
        evidence pretrain report trace demo exercise check solution book notebook \
        data-agnews data-clinc data-conll data-squad weights clean

help: ## list the targets
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.*## (.*)/\1|\2/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  variables: TASK=agnews|clinc|squad|conll  MODEL=DIR_OR_SIZE  LAYERS=0,2,4 (LAYERS= for all, and for a size)  SEED=0  PROCESSES=1  KD_DATA=data  RUNS=runs  ARGS='more flags'"

# --- set-up ------------------------------------------------------------------

.venv/made:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run: .venv/made pyproject.toml .ci/constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/test: .venv/run
	$(PIP) --editable '.[test]'
	@touch $@

.venv/parity: .venv/test
	$(PIP) --editable '.[test,parity]'
	@touch $@

.venv/browser: .venv/test
	$(PIP) --editable '.[test,browser]'
	@touch $@

.venv/peers: .venv/parity
	$(PIP) --editable '.[test,parity,peers]'
	@touch $@

setup: .venv/run ## make the virtual environment with the four run-time dependencies

# --- try it ------------------------------------------------------------------

QUICK_TASK := $(if $(filter command environment,$(firstword $(origin TASK))),$(TASK),agnews)
QUICK := $(RUNS)/quickstart/$(QUICK_TASK)
QUICK_DATA := $(QUICK)/data
QUICK_ROWS ?= $(if $(filter agnews,$(QUICK_TASK)),5000,$(if $(filter squad,$(QUICK_TASK)),2400))
QUICK_EPOCHS ?= 4
QUICK_STEPS ?= 480
quick_train_agnews := --train $(QUICK_DATA)/ag_news_csv/train.csv --dev $(QUICK_DATA)/ag_news_csv/dev.csv
quick_test_agnews  := --data $(QUICK_DATA)/ag_news_csv/test.csv
quick_train_clinc  := --train $(QUICK_DATA)/clinc150/data_full.json --dev $(QUICK_DATA)/clinc150/data_full.json
quick_test_clinc   := --data $(QUICK_DATA)/clinc150/data_full.json
quick_train_squad  := --train $(QUICK_DATA)/squad/train.json --dev $(QUICK_DATA)/squad/dev.json --max-length 128
quick_test_squad   := --data $(QUICK_DATA)/squad/test.json
quick_train_conll  := --train $(QUICK_DATA)/conll2003/train.txt --dev $(QUICK_DATA)/conll2003/valid.txt
quick_test_conll   := --data $(QUICK_DATA)/conll2003/test.txt
QUICK_TRAIN = $(KD) train --task $(QUICK_TASK) $(quick_train_$(QUICK_TASK)) --batch-size 32 --epochs $(QUICK_EPOCHS) \
    --warmup-steps 100 --seed $(SEED)
quick_teacher := --model tiny-teacher --learning-rate 5e-4
quick_student := --model tiny-student --learning-rate 5e-4
# The teacher of the news has 5,000 labelled texts. The students are much smaller; they have 800 texts, 200 with labels.
ifeq ($(QUICK_TASK),agnews)
quick_teacher := --model mini-teacher --learning-rate 5e-4
quick_student := --model mini-student --learning-rate 1e-3 --limit 800 --labelled 200 --steps $(QUICK_STEPS) --looks 6
quick_soft    := --alpha 0.9
endif

quickstart: .venv/run ## teacher, baseline and distilled student on generated text, from nothing, offline (a minute or two)
	rm -rf $(QUICK)
	$(BIN)/python data_scripts/make_sample.py $(QUICK_TASK) --output $(QUICK_DATA) $(if $(QUICK_ROWS),--rows $(QUICK_ROWS))
	$(QUICK_TRAIN) $(quick_teacher) --output $(QUICK)/teacher
	$(QUICK_TRAIN) $(quick_student) --tokenizer $(QUICK)/teacher --output $(QUICK)/baseline
	$(QUICK_TRAIN) $(quick_student) $(quick_soft) --teacher $(QUICK)/teacher --output $(QUICK)/distilled --cache $(QUICK)/cache
	$(KD) quantize --model $(QUICK)/distilled --output $(QUICK)/int8
	$(KD) compare --task $(QUICK_TASK) $(quick_test_$(QUICK_TASK)) --output $(QUICK)/comparison \
	    --models teacher=$(QUICK)/teacher baseline=$(QUICK)/baseline distilled=$(QUICK)/distilled int8=$(QUICK)/int8

# --- the real thing ----------------------------------------------------------

PROCESSES ?= 1
TRAIN := $(if $(filter-out 1,$(PROCESSES)),$(BIN)/torchrun --nproc_per_node=$(PROCESSES) -m kd_scratch,$(KD)) train

teacher: .venv/run ## fine-tune MODEL on TASK -> runs/TASK/teacher
	$(TRAIN) --task $(TASK) --train $(train_$(TASK)) --dev $(dev_$(TASK)) --model $(or $(MODEL),$(error set MODEL=DIR)) \
	    --output $(OUT)/teacher --seed $(SEED) $(ARGS)

teachers: .venv/run ## FOLDS (5) cross-fitted teachers of TASK, each without a part of its texts -> runs/TASK/teacher-1-of-5, …; again: goes on
	for fold in $$(seq $(FOLDS)); do output=$(OUT)/teacher-$$fold-of-$(FOLDS); \
	    if [ -f $$output/training.json ]; then echo "$$output: is finished, and stays as it is"; continue; fi; \
	    $(TRAIN) --task $(TASK) --train $(train_$(TASK)) --dev $(dev_$(TASK)) --model $(or $(MODEL),$(error set MODEL=DIR)) \
	    --fold $$fold/$(FOLDS) --output $$output --resume --seed $(SEED) $(ARGS) || exit; done

baseline: .venv/run ## fine-tune LAYERS of MODEL without a teacher -> runs/TASK/baseline-SEED
	$(TRAIN) --task $(TASK) --train $(train_$(TASK)) --dev $(dev_$(TASK)) --model $(or $(MODEL),$(error set MODEL=DIR)) \
	    $(if $(LAYERS),--init-layers $(LAYERS)) --output $(OUT)/baseline-$(SEED) --seed $(SEED) $(ARGS)

distill: .venv/run ## the same with runs/TASK/teacher (or TEACHERS='DIR DIR') as teacher -> runs/TASK/distilled-SEED
	$(TRAIN) --task $(TASK) --train $(train_$(TASK)) --dev $(dev_$(TASK)) --model $(or $(MODEL),$(error set MODEL=DIR)) \
	    $(if $(LAYERS),--init-layers $(LAYERS)) --teacher $(or $(TEACHERS),$(OUT)/teacher) --output $(OUT)/distilled-$(SEED) --seed $(SEED) $(ARGS)

pretrain: .venv/run ## distil the masked-word head of MODEL on the lines of TEXT, into STUDENT -> runs/pretrained
	$(TRAIN) --task mlm --train $(or $(TEXT),$(error set TEXT=FILE)) --dev 5% --model $(or $(STUDENT),scratch-student) \
	    --teacher $(or $(MODEL),$(error set MODEL=DIR)) --losses cosine --output $(RUNS)/pretrained --seed $(SEED) $(ARGS)

quantize: .venv/run ## runs/TASK/distilled-SEED in int8 -> runs/TASK/int8-SEED
	$(KD) quantize --model $(OUT)/distilled-$(SEED) --output $(OUT)/int8-$(SEED) $(ARGS)

prune: .venv/run ## runs/TASK/distilled-SEED with the words of TASK and of the files WORDS, and WIDTH feed-forward units -> runs/TASK/pruned-SEED
	$(KD) prune --task $(TASK) --data $(train_$(TASK)) --words $(WORDS) $(if $(WIDTH),--feed-forward $(WIDTH)) \
	    --model $(OUT)/distilled-$(SEED) --output $(OUT)/pruned-$(SEED) $(ARGS)

evaluate: .venv/run ## metrics of MODEL on TASK's test file
	$(KD) evaluate --task $(TASK) --data $(test_$(TASK)) --model $(or $(MODEL),$(error set MODEL=DIR)) $(ARGS)

compare: .venv/run ## runs/TASK/{teacher,baseline-SEED,distilled-SEED,int8-SEED} side by side on TASK's test file
	$(KD) compare --task $(TASK) --data $(test_$(TASK)) --output $(OUT)/comparison-$(SEED) \
	    --models teacher=$(OUT)/teacher baseline=$(OUT)/baseline-$(SEED) distilled=$(OUT)/distilled-$(SEED) \
	    $(if $(wildcard $(OUT)/int8-$(SEED)),int8=$(OUT)/int8-$(SEED)) $(ARGS)

evidence: .venv/run ## which loss helps TASK? MODEL's LAYERS under runs/TASK/teacher, equal budgets, five seeds (hours)
	$(KD) evidence --task $(TASK) --train $(train_$(TASK)) --dev $(dev_$(TASK)) --data $(test_$(TASK)) \
	    --teacher $(OUT)/teacher --model $(or $(MODEL),$(error set MODEL=DIR)) $(if $(LAYERS),--init-layers $(LAYERS)) --output $(OUT)/evidence $(ARGS)

report: .venv/run ## one page about the training of runs/TASK/{teacher,baseline-SEED,distilled-SEED} -> runs/TASK/report.html
	$(KD) report --runs teacher=$(OUT)/teacher baseline=$(OUT)/baseline-$(SEED) distilled=$(OUT)/distilled-$(SEED) \
	    --output $(OUT)/report.html $(ARGS)

# where runs/TASK has no student, that of a quickstart (of TASK, or of agnews where none is named)
TRACED = $(or $(wildcard $(OUT)/distilled-$(SEED)),$(QUICK)/distilled)
trace: .venv/run ## one test example of TASK through every stage of teacher and student (make quickstart comes first)
	$(KD) trace --task $(if $(filter $(QUICK)/%,$(TRACED)),$(QUICK_TASK) $(quick_test_$(QUICK_TASK)),$(TASK) --data $(test_$(TASK))) \
	    --model $(TRACED) --teacher $(dir $(TRACED))teacher --output $(dir $(TRACED))trace.html $(ARGS)

# of each run one teacher, one distilled student and one int8 model, named by their folders: quickstart/agnews/teacher
SERVED = $(foreach run,$(wildcard $(RUNS)/quickstart/* $(RUNS)/*),$(foreach name,teacher distilled int8, \
    $(firstword $(wildcard $(run)/$(name)/config.json $(run)/$(name)-$(SEED)/config.json))))
demo: .venv/run ## ask the teachers, distilled students and int8 models of all runs in a browser (on this machine alone)
	$(KD) demo --models $(or $(foreach model,$(SERVED:%/config.json=%),$(model:$(RUNS)/%=%)=$(model)),teacher=$(QUICK)/teacher) $(ARGS)

bench: .venv/run ## latency of runs/TASK/{teacher,distilled-SEED,int8-SEED} by batch size and length
	$(KD) benchmark --models teacher=$(OUT)/teacher distilled=$(OUT)/distilled-$(SEED) int8=$(OUT)/int8-$(SEED) $(ARGS)

data-agnews data-clinc data-conll data-squad: .venv/run ## download the official files of a data set into KD_DATA
	$(BIN)/python data_scripts/download.py $(@:data-%=%)

weights: .venv/run ## download a checkpoint by its hub name: make weights MODEL=bert-base-uncased
	$(BIN)/python data_scripts/download_checkpoint.py $(or $(MODEL),$(error set MODEL=hub-name))

# --- learn by doing ---

# of the command line alone: some shells export a NAME of their own, that of the machine
EXERCISE := $(if $(filter command,$(firstword $(origin NAME))),$(NAME))
exercise check solution: .venv/test ## write a function anew: list them; NAME=attention begins one; checks it; shows the original
	@$(BIN)/python -m tests.exercises $@ $(EXERCISE)$(if $(AGAIN), --again)

book: .venv/run ## the chapters as pages to read: code, explanations, and the numbers of a traced example -> runs/book
	$(BIN)/python data_scripts/make_book.py --output $(RUNS)/book

notebook: .venv/run ## the README as a notebook -> runs/kd_scratch.ipynb
	$(BIN)/python data_scripts/make_notebook.py --output $(RUNS)/kd_scratch.ipynb

# --- checks ------------------------------------------------------------------

test: .venv/test ## unit tests: no network, no transformers, a few minutes; COVER=1 counts the lines that they run
	$(BIN)/python -m $(if $(COVER),coverage run -m )pytest --numprocesses 2 --dist worksteal --ignore tests/parity --ignore tests/browser $(ARGS)
	$(if $(COVER),$(BIN)/coverage combine --quiet && $(BIN)/coverage report && $(BIN)/python tests/uncovered.py)

CORE := $(addprefix tests/,common nn data checkpoints tasks distillation)
test-core: .venv/test ## layers, losses, tasks, files: half a minute, for whoever works on them
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m 'not slow' $(CORE) $(ARGS)

# every operation of a run instead of some, 400,000 mutations instead of 12,000
torture: .venv/parity ## the long versions of the tests of crashes and of hostile files (half an hour)
	KD_TORTURE=1 $(BIN)/python -m pytest tests/training/test_crashes.py tests/checkpoints/test_safetensors.py \
	    tests/checkpoints/test_torch_pickle.py tests/tasks/test_hostile.py tests/parity/test_onnx_parity.py $(ARGS)

parity: .venv/parity ## the same results as transformers, safetensors, ONNX Runtime, scikit-learn and seqeval
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses 2 tests/parity $(ARGS)

browser: .venv/browser ## the demo and exported models in a real browser (needs chromium: apt-get install chromium; and npm)
	KD_REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

lint: .venv/test ## ruff: faults and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

mutants: .venv/test ## plant faults one by one; each must be caught by the test that names it
	$(BIN)/python tests/mutants.py

gpu: .venv/test ## on a machine with a CUDA device: the CPU's results, no step that waits, resuming, speed (five minutes)
	$(BIN)/python -m tests.gpu

# distillation: a whole one against the usual Trainer script; featurizing: questions into windows against datasets.map;
# inference: latency against transformers and ONNX Runtime; memory: of training; growth: with the number of examples
PEER ?= distillation
bench-peers: .venv/peers ## speed against other libraries: PEER=distillation, featurizing, inference, memory or growth
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.peers.$(PEER) $(if $(filter distillation,$(PEER)),--task $(TASK)) \
	    $(if $(filter inference growth,$(PEER)),,--model $(or $(MODEL),$(error set MODEL=DIR))) $(ARGS)

clean: ## delete the virtual environment (runs and data stay)
	rm -rf .venv *.egg-info
