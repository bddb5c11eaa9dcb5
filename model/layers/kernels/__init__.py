"""The fused 8-bit decode of the CPU, compiled by numba. Imported only once it is wanted.

Nobody needs a compiler: numba brings LLVM, and what it compiles is cached on disk.
"""
