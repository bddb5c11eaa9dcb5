"""The fused 8-bit decoding of the CPU, compiled by numba. Imported only where it is used.

Users need no compiler: numba brings LLVM, and its output is cached on disk.
"""
