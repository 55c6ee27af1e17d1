# Short names for the two things done most; everything else is a script or a command of its own.
.PHONY: help setup style test

help:
	@echo "make setup   .venv, upstream fetched and patched"
	@echo "make style   format the code and mend what ruff can mend"
	@echo "make test    every check and test (writes nothing to the tree)"

setup:
	bash scripts/setup.sh dev quant serve quickstart track

style:
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

test:
	bash scripts/test.sh
