"""What Python's collector of cycles is spared in a process that carries calls."""

import gc


def leave_alone_what_lasts() -> None:
    """Have the collector never look again at what is alive now: modules, settings, tables.

    A full collection stops every call for as long as it takes to visit every object. To be called
    when a process has opened all it keeps until its end, and not before.
    Source: docs.python.org/3/library/gc.html#gc.freeze.
    """
    gc.collect()
    gc.freeze()
