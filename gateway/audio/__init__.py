"""Sound: bytes in, bytes out, state carried between frames.

The products in here are far too small to gain from BLAS threads, while a thread pool per worker
would fight the event loop for its core. So one thread, unless the operator said otherwise: OpenBLAS
reads the variable when numpy is first imported, hence here, before any module of this package.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
