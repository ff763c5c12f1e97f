"""Triton kernels; each computes what a plain path computes too, which is taken where Triton or a GPU is missing."""
