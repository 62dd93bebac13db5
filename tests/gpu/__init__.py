"""Cases of the Triton kernels: on a CUDA device here, under Triton's interpreter from `tests/kernels`."""
