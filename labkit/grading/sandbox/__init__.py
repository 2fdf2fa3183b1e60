"""The sandbox: isolated kernels with limits."""
