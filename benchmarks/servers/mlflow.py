"""`mlflow models serve` of a model that is this file: `python -m benchmarks.servers.mlflow PORT`."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from benchmarks.servers.network import Digits, Prediction


class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context: Any) -> None:
        self.digits = Digits()

    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> list[Prediction]:
        return self.digits.predict(model_input)


def main(port: str) -> None:
    """Save the model to a temporary folder, and replace this process with its server."""
    folder = tempfile.mkdtemp(prefix="relearn-benchmark-")
    spec = TensorSpec(np.dtype(np.uint8), (-1, 28, 28))
    mlflow.pyfunc.save_model(
        f"{folder}/model", python_model=__file__, signature=ModelSignature(Schema([spec]))
    )
    command = ("models", "serve", "-m", f"{folder}/model", "-h", "127.0.0.1", "-p", port, "-w", "1")
    program = str(Path(sys.executable).parent / "mlflow")
    os.execv(program, [program, *command, "--env-manager", "local"])


if __name__ == "__main__":
    main(sys.argv[1])
else:
    mlflow.models.set_model(Model())
