# The pipeline as a dependency graph: data set -> training runs -> table.
#
# The target of a training run is its manifest. The name of its directory contains every parameter, so runs with
# EPOCHS=1 and EPOCHS=300 never share a directory, and any run can be made by its name. Programs are order-only
# prerequisites, so rebuilding one retrains nothing. Evaluations and tables are asked for each time, and answer from
# their own cache in milliseconds; its keys are of the content, so a changed metric reruns only the evaluation. Needs
# GNU make 4 and bash.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-builtin-variables --no-print-directory
.DELETE_ON_ERROR:
.SECONDEXPANSION:
.DEFAULT_GOAL := help

# Set these on the command line: make reproduce-table1 SEEDS=0-4 EPOCHS=200 METHODS="erm mixup remix remix-drw"
METHODS ?= remix remix-rs remix-rw
SEEDS   ?= 0
ARCH    ?= resnet32
EPOCHS  ?= 300
RECIPE  ?= report
# The split that runs are evaluated on: test or val.
SPLIT   ?= test
# Further flags of train, without the leading dashes, such as "rw-norm=batch-size tau=0.3".
FLAGS   ?=
DEVICE  ?= auto
THREADS ?=
# A prefix of the training commands, such as "srun --gres=gpu:1".
LAUNCH  ?=
# The directory with the official CIFAR files; missing ones are downloaded into it.
DATA    ?= data
# The directory in which data/, runs/, metrics/, reports/ and so on are made.
OUT     ?= .

# make V=1 shows the whole commands instead of one line for each.
V ?=
Q := $(if $(V),$(if $(filter jobs,$(MAKECMDGOALS) $(GOAL)),@),@)

empty :=
space := $(empty) $(empty)
comma := ,

# A misspelt variable would otherwise be ignored, and the defaults be trained for hours.
variables := METHODS SEEDS ARCH EPOCHS RECIPE SPLIT FLAGS DEVICE THREADS LAUNCH DATA OUT V GOAL NAME CELLS \
    CARGO B PREFIX DESTDIR TORCH CHECKPOINT
given   := $(foreach v,$(.VARIABLES),$(if $(findstring command line,$(origin $v)),$v))
unknown := $(filter-out $(variables) CARGO_% RUST% CC% REMIX_% MAKE% -%,$(given))
$(if $(unknown),$(error there is no variable $(unknown); the variables are $(variables)))

CARGO  ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
B      := $(if $(filter /%,$(TARGET)),,$(CURDIR)/)$(TARGET)/release
ifneq ($(words $(OUT) x $(DATA)),3)
$(error OUT and DATA must be names without spaces, not "$(OUT)" and "$(DATA)")
endif

.PHONY: help
help: ## Show this list of goals
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile
	@echo 'Variables: METHODS SEEDS ARCH EPOCHS RECIPE SPLIT FLAGS DEVICE THREADS LAUNCH DATA OUT V; see the head of the Makefile'

.PHONY: build
build: ## Build the five tools into target/release
	$Q$(CARGO) build --release --locked

.PHONY: test
test: ## Run all tests; those that need real data, a GPU or Slurm are skipped without it
	$(CARGO) test --release --locked

.PHONY: lint
lint: ## Run rustfmt, clippy and cargo doc, with warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --no-deps

.PHONY: ci
ci: ## Check everything that a change has to pass, as CI does
	.ci/run

# Where the tools are installed; DESTDIR is put before all paths, for packaging.
PREFIX  ?= /usr/local
DESTDIR ?=
tools       := mk-imbalance train eval embed report
bindir      := $(DESTDIR)$(PREFIX)/bin
mandir      := $(DESTDIR)$(PREFIX)/share/man/man1
bashdir     := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
zshdir      := $(DESTDIR)$(PREFIX)/share/zsh/site-functions
fishdir     := $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

.PHONY: install
install: build ## Install remix-train, remix-eval, … with man pages and completions under PREFIX
	install -d "$(bindir)" "$(mandir)" "$(bashdir)" "$(zshdir)" "$(fishdir)"
	for tool in $(tools); do \
	    name=remix-$$tool; program="$(bindir)/$$name"; \
	    install -s -m 755 "$(B)/$$tool" "$$program"; \
	    "$$program" --generate man "$(mandir)"; \
	    "$$program" --generate complete-bash > "$(bashdir)/$$name"; \
	    "$$program" --generate complete-zsh > "$(zshdir)/_$$name"; \
	    "$$program" --generate complete-fish > "$(fishdir)/$$name.fish"; \
	done

.PHONY: uninstall
uninstall: ## Remove what install has put under PREFIX
	rm -f $(foreach t,$(tools),"$(bindir)/remix-$t" "$(mandir)/remix-$t.1" "$(mandir)/remix-$t"-*.1 \
	    "$(bashdir)/remix-$t" "$(zshdir)/_remix-$t" "$(fishdir)/remix-$t.fish")

# A Python with PyTorch, to compare with; without one only our side is measured.
TORCH ?=
.PHONY: bench
bench: ## Measure the CPU engine, and PyTorch with TORCH=venv/bin/python, as Markdown (minutes)
	python3 scripts/bench.py $(TORCH:%=--torch %)

.PHONY: bench-tsne
bench-tsne: build ## Measure t-SNE of CHECKPOINT against scikit-learn and openTSNE, which TORCH=venv/bin/python has
	$(or $(TORCH),python3) scripts/bench-tsne.py $(CHECKPOINT) --embed "$(B)/embed"

.PHONY: check-cuda
check-cuda: ## Compile every CUDA kernel for sm_80, sm_90 and sm_100 without a GPU; needs NVRTC in LD_LIBRARY_PATH
	REMIX_REQUIRE_NVRTC=1 $(CARGO) test --release --locked --lib cuda::

# Linked statically, because QEMU 7.2 hangs in the first thread that a dynamically linked program starts.
ARM64 := CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU
.PHONY: check-neon
check-neon: ## Run the CPU engine's tests for aarch64 in QEMU; needs aarch64-linux-gnu-gcc, qemu-aarch64 and the Rust target
	$(ARM64)_LINKER=aarch64-linux-gnu-gcc $(ARM64)_RUSTFLAGS='-C target-feature=+crt-static' $(ARM64)_RUNNER=qemu-aarch64 \
	    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc $(CARGO) test --release --locked --lib \
	    --target aarch64-unknown-linux-gnu -- --nocapture --skip backend::cuda \
	    backend:: net:: nn:: project:: simd:: tensor::

.PHONY: bench-cuda
bench-cuda: build ## Measure the CUDA engine on a GPU, and PyTorch with TORCH=venv/bin/python, as Markdown
	python3 scripts/bench-cuda.py $(TORCH:%=--torch %)

.PHONY: data
data: $$(call official,cifar10) $$(call official,cifar100) ## Download CIFAR-10 and CIFAR-100 into DATA (342 MB), unless they are there
	@printf '%s\n' $^

# The goals below set what to train through the environment, so that variables on the command line take precedence.
# With GOAL=jobs they print their training commands instead.
grid = $(foreach type,exp step,$(foreach ratio,100 10,$1-$(type)-$(ratio)))
GOAL ?=
table = $1 $(MAKE) $(or $(GOAL),table)
page  = $1 $(MAKE) $(or $(GOAL),page)

.PHONY: demo
demo: ## Train ERM, Remix, DRW and LDAM-DRW on synthetic images, and show the table (minutes)
	+@$(call table,NAME=demo CELLS=synthetic-exp-20 METHODS='erm remix drw ldam-drw' ARCH=resnet20 EPOCHS=12 \
	    FLAGS='batch-size=32 lr=0.05') OUT=$(OUT)/demo

.PHONY: quick
quick: ## Train ERM, Mixup, Remix and Remix-DRW on CIFAR-10 at ratio 100: ResNet-20, 10 epochs
	+@$(call table,NAME=quick CELLS=cifar10-exp-100 METHODS='erm mixup remix remix-drw' ARCH=resnet20 EPOCHS=10)

.PHONY: reproduce-table1
reproduce-table1: ## Table 1: METHODS on CIFAR-10, exp and step, ratios 100 and 10
	+@$(call table,NAME=table1 CELLS='$(call grid,cifar10)')

.PHONY: reproduce-table2
reproduce-table2: ## Table 2: METHODS on CIFAR-100, exp and step, ratios 100 and 10
	+@$(call table,NAME=table2 CELLS='$(call grid,cifar100)')

.PHONY: reproduce-resnet18
reproduce-resnet18: ## Table 4 of the paper: Mixup and Remix with DRW and DRS on CIFAR-10 at ratio 100, with ResNet-18
	+@$(call table,NAME=resnet18 CELLS='cifar10-exp-100 cifar10-step-100' METHODS='mixup-drw remix-drw mixup-drs remix-drs' ARCH=resnet18-cifar)

.PHONY: reproduce-cinic10
reproduce-cinic10: ## Table 2 of the paper: CINIC-10 (in DATA or DATA/CINIC-10), evaluated on its validation images
	+@$(call table,NAME=cinic10 CELLS='$(foreach t,exp step,$(foreach r,200 100 50 10,cinic10-$t-$r))' \
	    METHODS='erm mixup remix drw mixup-drw remix-drw' ARCH=resnet18-cifar RECIPE=paper SPLIT=val)

# The data sets (DATASET-TYPE-RATIO) of the networks whose weights are committed.
first_stages = $(foreach w,$(wildcard docs/results/weights/*),$(firstword $(subst _, ,$(notdir $w))))

.PHONY: second-stage
second-stage: ## cRT, LWS, tau-norm, NCM and logit adjustment on the networks of docs/results, for SEEDS
	+@$(MAKE) $(sort $(first_stages:%=$(OUT)/data/%/manifest.json))
	$Qscripts/second-stage "$(B)" "$(OUT)" "$(SEEDS)"

.PHONY: results-figure1
results-figure1: ## Figure 1 from the Mixup and Remix networks of docs/results, without training
	+@$(MAKE) $(OUT)/data/cifar10-exp-100/manifest.json
	$Qscripts/networks "$(OUT)/networks"
	$Qcd $(OUT) && "$(B)/embed" --project tsne --data data/cifar10-exp-100 \
	    networks/cifar10-exp-100_mixup_s0 networks/cifar10-exp-100_remix_s0 \
	    | "$(B)/report" figure --kind tsne -o figures/results-figure1.svg -o figures/results-figure1.png >/dev/null

.PHONY: results
results: build ## Write the tables of docs/results, and the README's table and figure, from committed results
	scripts/results-page "$(B)/report"

.PHONY: queue
queue: ## Show which trainings of docs/results/queue.txt are done, and the command of the next one
	@scripts/queue

.PHONY: report
report: ## Table 1 with figures, settings and lineage, as one HTML page
	+@$(call page,NAME=table1 CELLS='$(call grid,cifar10)')

.PHONY: figure1
figure1: ## t-SNE of CIFAR-10 under Mixup and under Remix, by true and by predicted class (SVG and PNG)
	+@NAME=figure1 CELLS=cifar10-exp-100 METHODS='mixup remix' $(MAKE) $(or $(GOAL),tsne)

# The goals above all use these: each of METHODS and SEEDS is trained on each of the data sets CELLS, and the results
# are one table, NAME.
NAME  ?= table
CELLS ?= cifar10-exp-100

# Expands a seed (3) or a range (0-4) to its seeds; empty if it is neither, or a range that descends.
no_digits = $(subst 0,,$(subst 1,,$(subst 2,,$(subst 3,,$(subst 4,,$(subst 5,,$(subst 6,,$(subst 7,,$(subst 8,,$(subst 9,,$1))))))))))
ends      = $(filter-out -% %-,$1)
range     = $(if $(filter 2,$(words $(subst -, ,$1))),$(shell seq $(subst -, ,$1)))
of_seeds  = $(if $(call no_digits,$(subst -,,$1)),,$(if $(findstring -,$1),$(call range,$(call ends,$1)),$1))
seed_list := $(subst $(comma), ,$(SEEDS))
seeds     := $(foreach s,$(seed_list),$(call of_seeds,$s))
# Without any run, eval would wait for manifests on stdin, so these are errors before anything is made.
ifneq ($(filter table page tsne jobs,$(MAKECMDGOALS)),)
bad_seeds := $(strip $(foreach s,$(seed_list),$(if $(call of_seeds,$s),,$s)))
bad_cells := $(filter-out $(foreach d,cifar10 cifar100 cinic10 synthetic,$d-none $d-exp-% $d-step-%),$(CELLS))
$(foreach v,METHODS SEEDS CELLS ARCH EPOCHS,$(if $(strip $($v)),,$(error $v is empty; see the head of the Makefile)))
$(if $(filter-out test val,$(SPLIT)),$(error SPLIT=$(SPLIT): write test or val))
$(if $(bad_seeds),$(error SEEDS=$(SEEDS): "$(bad_seeds)" is neither a seed nor an ascending range; write seeds as 0,2,5-9))
$(if $(bad_cells),$(error CELLS=$(CELLS): "$(bad_cells)" is no data set; write it as cifar10-exp-100, cinic10-step-10 or synthetic-none))
endif
# In names and manifests the recipe `report` has its earlier name, `seed`.
suffix := $(ARCH)_e$(EPOCHS)_recipe-$(RECIPE:report=seed)
flags  := $(if $(strip $(FLAGS)),_$(subst $(space),_,$(strip $(FLAGS))))
sets   := $(CELLS:%=$(OUT)/data/%/manifest.json)
runs   := $(foreach c,$(CELLS),$(foreach m,$(METHODS),$(seeds:%=$(OUT)/runs/$c_$m_$(suffix)_s%$(flags)/manifest.json)))

# Each command is first tried with --dry-run, so that one that can only fail is reported before anything is trained,
# and not by a job: on this machine, which may lack the GPU of the jobs. Each is a line of its own, because a single
# line could be longer than the system allows.
define newline


endef
missing  = $(foreach r,$(runs:$(OUT)/runs/%/manifest.json=%),$(if $(wildcard $(OUT)/runs/$r/manifest.json),,$r))
each_run = $(foreach r,$(missing),@$(call $1,$r)$(newline))
try      = $(subst --device $(DEVICE),--device auto,$(call train,$1,$(abspath $(OUT)))) --dry-run --quiet >/dev/null
.PHONY: tried
tried: $(sets) | build
	@:
	$(call each_run,try)
ifneq ($(filter table page tsne,$(MAKECMDGOALS)),)
$(runs): | tried
endif

# The evaluations of all runs: of the last epoch, then of the best one.
judged = "$(B)/eval" --split $(SPLIT) $(runs:$(OUT)/%=%); \
    "$(B)/eval" --split $(SPLIT) --checkpoint best $(runs:$(OUT)/%=%)

ifeq ($(GOAL),jobs)
.PHONY: table page tsne
table page tsne: jobs
else
.PHONY: table
table: $(sets) $(runs)
	$Qcd $(OUT) && { $(judged); } | "$(B)/report" table --out reports/$(NAME)_$(suffix)$(flags) >/dev/null

# One page with the table, the figures, the settings and the lineage of the runs.
.PHONY: page
page: $(sets) $(runs)
	$Qcd $(OUT) && { $(judged); } \
	    | "$(B)/report" html - $(runs:$(OUT)/%=%) $(sets:$(OUT)/%=%) --title '$(NAME): $(suffix)$(flags)' \
	    -o reports/$(NAME)_$(suffix)$(flags).html >/dev/null

# A t-SNE map of the features of each run.
.PHONY: tsne
tsne: $(sets) $(runs)
	$Qcd $(OUT) && "$(B)/embed" --project tsne $(runs:$(OUT)/%=%) | "$(B)/report" figure --kind tsne \
	    -o figures/$(NAME)_$(suffix)$(flags).svg -o figures/$(NAME)_$(suffix)$(flags).png >/dev/null
endif

print_job = printf '%s\n' $(call quoted,$(strip $(LAUNCH) $(call train,$1,$(abspath $(OUT)))))
.PHONY: jobs
jobs: tried ## Make the data sets CELLS and print the commands of missing runs, one per line, for a cluster
	@:
	$(call each_run,print_job)

# Results of hours of work must not be deleted when make is interrupted; the tools publish manifests atomically.
.PRECIOUS: %/manifest.json

# Quotes a text as one word for the shell.
quoted = '$(subst ','\'',$1)'

# Runs are named DATASET_METHOD_ARCH_eEPOCHS_recipe-RECIPE_sSEED[_FLAG=VALUE...]. `train` looks for a finished result
# first, and continues a stopped run from where it ended.
field = $(word $2,$(subst $1, ,$3))
run   = $(call field,_,$1,$2)
train = $(strip "$(B)/train" $2/data/$(call run,1,$1)/manifest.json --method $(call run,2,$1) --arch $(call run,3,$1) \
    --epochs $(patsubst e%,%,$(call run,4,$1)) --recipe $(patsubst recipe-%,%,$(call run,5,$1)) --seed $(patsubst s%,%,$(call run,6,$1)) \
    $(addprefix --,$(wordlist 7,99,$(subst _, ,$1))) --device $(DEVICE) $(THREADS:%=--threads %) --out $2/runs/$1)
$(OUT)/runs/%/manifest.json: $$(OUT)/data/$$(call run,1,$$*)/manifest.json | build
	@echo 'train $*' >&2
	$Q$(LAUNCH) $(call train,$*,$(OUT)) >/dev/null
	@touch $@

# Data sets are named DATASET-TYPE-RATIO, such as cifar10-exp-100; cifar10-none is all of CIFAR-10.
set = $(call field,-,$1,$*)
$(OUT)/data/%/manifest.json: | build $$(call official,$$(call set,1))
	@echo 'mk-imbalance $*' >&2
	$Q"$(B)/mk-imbalance" --dataset $(call set,1) --imb-type $(call set,2) $(addprefix --imb-ratio ,$(call set,3)) \
	    $(if $(call official,$(call set,1)),--data $(if $(filter cinic10,$(call set,1)),$(call official,cinic10),$(DATA))) --out $(@D) >/dev/null

# The official files in whichever form they exist, otherwise the archive, which is then downloaded.
cifar10_forms  := cifar-10-batches-py cifar-10-batches-bin cifar-10-python.tar.gz cifar-10-binary.tar.gz
cifar100_forms := cifar-100-python cifar-100-binary cifar-100-python.tar.gz cifar-100-binary.tar.gz
# CINIC-10 is not downloaded; its folders must exist.
cinic10_forms := $(if $(wildcard $(DATA)/valid),.,CINIC-10)
official = $(if $($1_forms),$(or $(firstword $(wildcard $($1_forms:%=$(DATA)/%))),$(DATA)/$(or $(word 3,$($1_forms)),$($1_forms))))

$(DATA)/CINIC-10:
	@echo 'DATA=$(DATA): there is no CINIC-10; unpack CINIC-10.tar.gz of https://datashare.ed.ac.uk/handle/10283/3192 into $@' >&2; exit 1

# If DATA names a directory that does not exist, that is probably a mistake, so it is not created.
$(DATA)/cifar-%-python.tar.gz:
	@[[ -d $(DATA) || $(DATA) == data ]] || { echo 'DATA=$(DATA): there is no such directory; make it, or name the one that has the files' >&2; exit 1; }
	$Qscripts/fetch-cifar --dest $(DATA) cifar$* >/dev/null
