# make demo   the whole path on real speech, into out/demo/
# make test   style, types and the fast tests
# make site   the documentation as web pages, into out/site/
# All set everything up first: ngspice from the system's packages, Python packages in .venv/.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all site clean

demo: $(READY) ngspice
	$(BIN)/cmru-hw codesign models/speaker_vowels_fq_bmru/config.yaml -o out/demo

test: $(READY) ngspice
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow" -n 2

test-all: $(READY) ngspice
	$(BIN)/pytest -n 2

site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --site-dir out/site

clean:
	rm -rf .venv out build dist

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || sh tools/apt_install.sh python3-venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.PHONY: ngspice
ngspice:
	@command -v "$${CMRU_HW_NGSPICE:-ngspice}" >/dev/null || sh tools/apt_install.sh ngspice
