"""Check during the build of a CPU image: fails if torch is a CUDA build, which is gigabytes larger."""

import re
import sys
from importlib.metadata import distributions, requires

CUDA_PACKAGE = re.compile(r"(nvidia-(?!ml-py\b)|cuda-|triton)[\w-]*")  # nvidia-ml-py only queries a driver

requirements = [requirement for requirement in requires("torch") or () if "extra ==" not in requirement]
names = [*requirements, *(distribution.metadata["Name"].lower() for distribution in distributions())]
if cuda_packages := sorted({match[0] for name in names if (match := CUDA_PACKAGE.match(name))}):
    sys.exit(
        f"this is a CPU image, but torch is a CUDA build with {', '.join(cuda_packages[:3])}, …: "
        "set TORCH_INDEX (in .env) to the address of an index of torch's CPU builds"
    )
