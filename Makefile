# The pipeline as a graph: data set -> training runs -> table.
#
# A training run is a target, its manifest; its directory's name holds every parameter, so EPOCHS=1 and EPOCHS=300
# never meet, and any run can be asked for by name. Programs are order-only prerequisites: a rebuilt one retrains
# nothing. Evaluation and tables are asked for each time and answer from their own cache in milliseconds, keyed by
# content: so a changed metric reruns evaluation alone. Needs GNU make 4 and bash.

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
# Images that runs are judged on: test, or val.
SPLIT   ?= test
# Further flags of train without their dashes, such as "rw-norm=batch-size tau=0.3".
FLAGS   ?=
DEVICE  ?= auto
THREADS ?=
# What a training command starts with, such as "srun --gres=gpu:1".
LAUNCH  ?=
# The directory with the official CIFAR files; those that are missing are downloaded into it.
DATA    ?= data
# Where data/, runs/, metrics/ and reports/ are made.
OUT     ?= .

# make V=1 shows whole commands, not a line for each.
V ?=
Q := $(if $(V),$(if $(filter jobs,$(MAKECMDGOALS) $(GOAL)),@),@)

empty :=
space := $(empty) $(empty)
comma := ,

CARGO  ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
B      := $(if $(filter /%,$(TARGET)),,$(CURDIR)/)$(TARGET)/release
ifneq ($(words $(OUT) x $(DATA)),3)
$(error OUT and DATA must be names without spaces, not "$(OUT)" and "$(DATA)")
endif

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile
	@echo 'Variables: METHODS SEEDS ARCH EPOCHS RECIPE FLAGS DEVICE THREADS LAUNCH DATA OUT V; see the head of the Makefile'

.PHONY: build
build: ## Build the five tools into target/release
	$Q$(CARGO) build --release --locked

.PHONY: test
test: ## Run all tests; those of the real CIFAR files are skipped where there are none
	$(CARGO) test --release --locked

.PHONY: lint
lint: ## Check formatting, clippy and documentation
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	$(CARGO) clippy --release --locked --all-targets --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --no-deps

.PHONY: ci
ci: ## Check all that a change has to pass, as CI does
	.ci/run

# Where things are installed; DESTDIR is put before all of it, for packages.
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
uninstall: ## Remove what install puts under PREFIX
	rm -f $(foreach t,$(tools),"$(bindir)/remix-$t" "$(mandir)/remix-$t.1" "$(mandir)/remix-$t"-*.1 \
	    "$(bashdir)/remix-$t" "$(zshdir)/_remix-$t" "$(fishdir)/remix-$t.fish")

# A Python that has PyTorch, to measure beside; without one only our side is measured.
TORCH ?=
.PHONY: bench
bench: ## Measure the CPU engine, beside PyTorch with TORCH=venv/bin/python, as Markdown (minutes)
	python3 scripts/bench.py $(TORCH:%=--torch %)

.PHONY: bench-tsne
bench-tsne: build ## Measure t-SNE of CHECKPOINT with TORCH=venv/bin/python, which has scikit-learn and openTSNE
	$(or $(TORCH),python3) scripts/bench-tsne.py $(CHECKPOINT) --embed "$(B)/embed"

.PHONY: check-cuda
check-cuda: ## Compile every CUDA kernel for sm_80, sm_90 and sm_100, without a GPU; needs NVRTC in LD_LIBRARY_PATH
	REMIX_REQUIRE_NVRTC=1 $(CARGO) test --release --locked --lib cuda::

# Static, for QEMU 7.2 hangs in the first thread that a dynamic program starts.
ARM64 := CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU
.PHONY: check-neon
check-neon: ## Build for aarch64 and run the CPU engine's tests in QEMU; needs aarch64-linux-gnu-gcc, qemu-aarch64 and the Rust target
	$(ARM64)_LINKER=aarch64-linux-gnu-gcc $(ARM64)_RUSTFLAGS='-C target-feature=+crt-static' $(ARM64)_RUNNER=qemu-aarch64 \
	    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc $(CARGO) test --release --locked --lib --no-default-features \
	    --target aarch64-unknown-linux-gnu -- --nocapture backend:: net:: nn:: project:: simd:: tensor::

.PHONY: bench-cuda
bench-cuda: build ## Measure the CUDA engine on a GPU, beside PyTorch with TORCH=venv/bin/python, as Markdown
	python3 scripts/bench-cuda.py $(TORCH:%=--torch %)

.PHONY: data
data: ## Download CIFAR-10 and CIFAR-100 into DATA, resuming and checking (342 MB)
	scripts/fetch-cifar --dest $(DATA)

# The goals below set what to train in the environment, so that the command line has the last word. GOAL=jobs prints
# their training commands instead.
grid = $(foreach type,exp step,$(foreach ratio,100 10,$1-$(type)-$(ratio)))
FOUR := erm mixup remix remix-drw
GOAL ?=
table = $1 $(MAKE) --no-print-directory $(or $(GOAL),table)
page  = $1 $(MAKE) --no-print-directory $(or $(GOAL),page)

.PHONY: demo
demo: ## Train ERM, Remix, DRW and LDAM-DRW on synthetic images and show the table (minutes)
	+@$(call table,NAME=demo CELLS=synthetic-exp-20 METHODS='erm remix drw ldam-drw' ARCH=resnet20 EPOCHS=12 \
	    FLAGS='batch-size=32 lr=0.05') OUT=$(OUT)/demo

.PHONY: quick
quick: ## ERM, Mixup, Remix and Remix-DRW on real CIFAR-10 at ratio 100, with ResNet-20 for 10 epochs
	+@$(call table,NAME=quick CELLS=cifar10-exp-100 METHODS='$(FOUR)' ARCH=resnet20 EPOCHS=10)

.PHONY: reproduce-table1
reproduce-table1: ## Table 1: METHODS on CIFAR-10, exp and step, ratios 100 and 10
	+@$(call table,NAME=table1 CELLS='$(call grid,cifar10)')

.PHONY: reproduce-table2
reproduce-table2: ## Table 2: the same on CIFAR-100
	+@$(call table,NAME=table2 CELLS='$(call grid,cifar100)')

.PHONY: reproduce-resnet18
reproduce-resnet18: ## Table 4 of the paper: Mixup and Remix with DRW and DRS on CIFAR-10 at ratio 100, with ResNet-18
	+@$(call table,NAME=resnet18 CELLS='cifar10-exp-100 cifar10-step-100' METHODS='mixup-drw remix-drw mixup-drs remix-drs' ARCH=resnet18-cifar)

.PHONY: reproduce-cinic10
reproduce-cinic10: ## Table 2 of the paper: CINIC-10, whose folders are in DATA or DATA/CINIC-10, judged on its validation images
	+@$(call table,NAME=cinic10 CELLS='$(foreach t,exp step,$(foreach r,200 100 50 10,cinic10-$t-$r))' \
	    METHODS='erm mixup remix drw mixup-drw remix-drw' ARCH=resnet18-cifar RECIPE=paper SPLIT=val)

# The data sets of the networks whose weights are committed, as DATASET-TYPE-RATIO.
first_stages = $(foreach w,$(wildcard docs/results/weights/*),$(firstword $(subst _, ,$(notdir $w))))

.PHONY: second-stage
second-stage: ## cRT, LWS, tau-norm, nearest means and logit adjustment on the networks of docs/results, with SEEDS
	+@$(MAKE) --no-print-directory $(sort $(first_stages:%=$(OUT)/data/%/manifest.json))
	$Qscripts/second-stage "$(B)" "$(OUT)" "$(SEEDS)"

.PHONY: results
results: build ## Write the tables of docs/results, and the table and figure of the README, from committed evaluations
	scripts/results-page target/release/report

.PHONY: queue
queue: ## Show which trainings of docs/results/queue.txt are done, and the command of the next one
	@scripts/queue

.PHONY: report
report: ## Table 1 with figures, settings and lineage, as one HTML page
	+@$(call page,NAME=table1 CELLS='$(call grid,cifar10)')

.PHONY: figure1
figure1: ## The t-SNE of CIFAR-10 under Mixup and under Remix, by true class and by prediction (SVG and PNG)
	+@NAME=figure1 CELLS=cifar10-exp-100 METHODS='mixup remix' $(MAKE) --no-print-directory $(or $(GOAL),tsne)

# What the goals above come down to: the data sets CELLS, each trained on with METHODS and SEEDS, in one table NAME.
NAME  ?= table
CELLS ?= cifar10-exp-100

# The seeds of 3 or of 0-4; nothing for what is neither, or runs backwards.
no_digits = $(subst 0,,$(subst 1,,$(subst 2,,$(subst 3,,$(subst 4,,$(subst 5,,$(subst 6,,$(subst 7,,$(subst 8,,$(subst 9,,$1))))))))))
ends      = $(filter-out -% %-,$1)
range     = $(if $(filter 2,$(words $(subst -, ,$1))),$(shell seq $(subst -, ,$1)))
of_seeds  = $(if $(call no_digits,$(subst -,,$1)),,$(if $(findstring -,$1),$(call range,$(call ends,$1)),$1))
seed_list := $(subst $(comma), ,$(SEEDS))
seeds     := $(foreach s,$(seed_list),$(call of_seeds,$s))
# Without a run, eval would wait for manifests on stdin. Told before anything is made.
ifneq ($(filter table page tsne jobs,$(MAKECMDGOALS)),)
bad_seeds := $(strip $(foreach s,$(seed_list),$(if $(call of_seeds,$s),,$s)))
bad_cells := $(filter-out $(foreach d,cifar10 cifar100 cinic10 synthetic,$d-none $d-exp-% $d-step-%),$(CELLS))
$(foreach v,METHODS SEEDS CELLS ARCH EPOCHS,$(if $(strip $($v)),,$(error $v is empty; see the head of the Makefile)))
$(if $(bad_seeds),$(error SEEDS=$(SEEDS): "$(bad_seeds)" is neither a seed nor an ascending range; write seeds as 0,2,5-9))
$(if $(bad_cells),$(error CELLS=$(CELLS): "$(bad_cells)" is no data set; write it as cifar10-exp-100, cinic10-step-10 or synthetic-none))
endif
# In names and manifests the recipe of the report is called seed, as it always was.
suffix := $(ARCH)_e$(EPOCHS)_recipe-$(RECIPE:report=seed)
flags  := $(if $(strip $(FLAGS)),_$(subst $(space),_,$(strip $(FLAGS))))
sets   := $(CELLS:%=$(OUT)/data/%/manifest.json)
runs   := $(foreach c,$(CELLS),$(foreach m,$(METHODS),$(seeds:%=$(OUT)/runs/$c_$m_$(suffix)_s%$(flags)/manifest.json)))

ifeq ($(GOAL),jobs)
.PHONY: table page tsne
table page tsne: jobs
else
.PHONY: table
table: $(sets) $(runs)
	$Qcd $(OUT) && { "$(B)/eval" --split $(SPLIT) $(runs:$(OUT)/%=%); "$(B)/eval" --split $(SPLIT) --checkpoint best $(runs:$(OUT)/%=%); } \
	    | "$(B)/report" table --out reports/$(NAME)_$(suffix)$(flags) >/dev/null

# The same with everything else that there is to say of the runs, on one page.
.PHONY: page
page: $(sets) $(runs)
	$Qcd $(OUT) && { "$(B)/eval" --split $(SPLIT) $(runs:$(OUT)/%=%); "$(B)/eval" --split $(SPLIT) --checkpoint best $(runs:$(OUT)/%=%); } \
	    | "$(B)/report" html - $(runs:$(OUT)/%=%) $(sets:$(OUT)/%=%) --title '$(NAME): $(suffix)$(flags)' \
	    -o reports/$(NAME)_$(suffix)$(flags).html >/dev/null

# The features of each run in the plane.
.PHONY: tsne
tsne: $(sets) $(runs)
	$Qcd $(OUT) && "$(B)/embed" --project tsne $(runs:$(OUT)/%=%) | "$(B)/report" figure --kind tsne \
	    -o figures/$(NAME)_$(suffix)$(flags).svg -o figures/$(NAME)_$(suffix)$(flags).png >/dev/null
endif

# Each command is tried by --dry-run first: one that can only fail is better told here than by a job.
.PHONY: jobs
jobs: $(sets) | build ## Make the data sets CELLS, then print the command of each missing run, a line each, for a cluster
	@$(foreach r,$(runs:$(OUT)/runs/%/manifest.json=%),[[ -e $(OUT)/runs/$r/manifest.json ]] || { \
	    $(call train,$r,$(abspath $(OUT))) --dry-run --quiet >/dev/null; \
	    printf '%s\n' $(call quoted,$(strip $(LAUNCH) $(call train,$r,$(abspath $(OUT))))); }; ) :

# What took hours is not deleted because make was interrupted; the tools publish whole manifests or none.
.PRECIOUS: %/manifest.json

# A text as one word of a shell's command line.
quoted = '$(subst ','\'',$1)'

# DATASET_METHOD_ARCH_eEPOCHS_recipe-RECIPE_sSEED[_FLAG=VALUE...]. The run asks its own cache before it works, and
# goes on where a stopped one ended.
field = $(word $2,$(subst $1, ,$3))
run   = $(call field,_,$1,$2)
train = $(strip "$(B)/train" $2/data/$(call run,1,$1)/manifest.json --method $(call run,2,$1) --arch $(call run,3,$1) \
    --epochs $(patsubst e%,%,$(call run,4,$1)) --recipe $(patsubst recipe-%,%,$(call run,5,$1)) --seed $(patsubst s%,%,$(call run,6,$1)) \
    $(addprefix --,$(wordlist 7,99,$(subst _, ,$1))) --device $(DEVICE) $(THREADS:%=--threads %) --out $2/runs/$1)
$(OUT)/runs/%/manifest.json: $$(OUT)/data/$$(call run,1,$$*)/manifest.json | build
	@echo 'train $*' >&2
	$Q$(LAUNCH) $(call train,$*,$(OUT)) >/dev/null
	@touch $@

# DATASET-TYPE-RATIO, such as cifar10-exp-100; cifar10-none is the whole of it.
set = $(call field,-,$1,$*)
$(OUT)/data/%/manifest.json: | build $$(call official,$$(call set,1))
	@echo 'mk-imbalance $*' >&2
	$Q"$(B)/mk-imbalance" --dataset $(call set,1) --imb-type $(call set,2) $(addprefix --imb-ratio ,$(call set,3)) \
	    $(if $(call official,$(call set,1)),--data $(if $(filter cinic10,$(call set,1)),$(call official,cinic10),$(DATA))) --out $(@D) >/dev/null

# The official files as they are, in whichever form; else the archive, which is then downloaded.
cifar10_forms  := cifar-10-batches-py cifar-10-batches-bin cifar-10-python.tar.gz cifar-10-binary.tar.gz
cifar100_forms := cifar-100-python cifar-100-binary cifar-100-python.tar.gz cifar-100-binary.tar.gz
# CINIC-10 is not downloaded: its folders are there or not.
cinic10_forms := $(if $(wildcard $(DATA)/valid),.,CINIC-10)
official = $(if $($1_forms),$(or $(firstword $(wildcard $($1_forms:%=$(DATA)/%))),$(DATA)/$(or $(word 3,$($1_forms)),$($1_forms))))

$(DATA)/CINIC-10:
	@echo 'DATA=$(DATA): there is no CINIC-10; unpack CINIC-10.tar.gz of https://datashare.ed.ac.uk/handle/10283/3192 into $@' >&2; exit 1

# A directory that was named and is not there is a mistake more often than a wish.
$(DATA)/cifar-%-python.tar.gz:
	@[[ -d $(DATA) || $(DATA) == data ]] || { echo 'DATA=$(DATA): there is no such directory; make it, or name the one that has the files' >&2; exit 1; }
	$Qscripts/fetch-cifar --dest $(DATA) cifar$*
