"""Whole files: what a directory holds, in which order it is sent, how it becomes files again. No socket."""
