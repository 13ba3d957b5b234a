"""``python -m mcastd`` is ``mcastd``."""

from mcastd.cli import main

main(prog_name="mcastd")
