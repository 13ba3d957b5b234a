"""``python -m mcastd`` is ``mcastd``."""

from mcastd.entry import mcastd

mcastd()
