"""The logger of `serving` is heard with and without BentoML."""

import subprocess
import sys

import pytest

IMPORT = "from relearn.serving.logger import logger\n"
CONFIGURE_BENTOML = (
    "from bentoml._internal.log import configure_server_logging\n"  # as a worker does
    "configure_server_logging()\n"
)


@pytest.mark.parametrize("between", ["", CONFIGURE_BENTOML], ids=["flow", "server"])
def test_warnings_are_printed(between: str) -> None:
    """Of a module that was imported before BentoML configured logging, too."""
    code = f"{IMPORT}{between}logger.warning('the ledger was unreadable')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the ledger was unreadable" in done.stdout + done.stderr
