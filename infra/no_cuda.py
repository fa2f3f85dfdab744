"""End a build of a CPU image where torch is a CUDA build, before it brings gigabytes that nothing uses."""

import re
import sys
from importlib.metadata import distributions, requires

CUDA = re.compile(r"(nvidia-(?!ml-py\b)|cuda-|triton)[\w-]*")  # nvidia-ml-py only asks a driver

wanted = [one for one in requires("torch") or () if "extra ==" not in one]
names = [*wanted, *(one.metadata["Name"].lower() for one in distributions())]
if found := sorted({match[0] for name in names if (match := CUDA.match(name))}):
    sys.exit(
        f"this is a CPU image, and torch is a build for CUDA, with {', '.join(found[:3])}, …: "
        "let TORCH_INDEX (in .env) be the address of an index of torch's CPU builds"
    )
