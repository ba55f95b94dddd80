"""Known bugs of Olla, each as a patch that puts it back: what the simulation must find.

    python -m tests.simulation.patches [--exchanges 100000] [--seed 1] [B1 ...]

Each patch is applied to a copy of the tree, and worlds are run there until something is found. The table says after how
many exchanges. Exit code 1 when one was not found. A patch that no longer applies is written anew after the change
that moved its lines; its first line says what the bug is.
"""
