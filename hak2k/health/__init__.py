"""Health: what of this machine works, beside its data interfaces.

    kind.py      what a plug-in is: a function that samples, and its thresholds
    table.py     all kinds there are
    disk.py ...  one kind each
    judge.py     from samples to a state, with hysteresis; pure
    sampler.py   the process that samples, for a sample may block
    monitor.py   in the daemon: asks the sampler in time, judges, explains the number

A new kind is a file with a KIND and a line in table.py; its keys are checked, shown
and documented from there.
"""
