"""r1jax: the DeepSeek-R1 training system in JAX."""

__version__ = "0.2.0"
