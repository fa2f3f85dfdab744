"""Demo of the whole lifecycle on handwritten digits: `make demo` takes two minutes and checks each step.

A first release serves predictions. The input drifts and users send labels. The monitor detects the drift and
requests a retraining. The gate promotes the new version and the running API serves it. A rollback restores
the first version.
"""

import base64
import io
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from scipy import ndimage

from infra.chaos.temporary_stack import TemporaryStack, run_temporary_stack, wait_for
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home

IMAGE_COUNT = 400  # images per step
ROTATION_DEGREES = 35  # of the drifted handwriting
SETTINGS = ("--dataset", "digits", "--network", "mlp", "--epochs", "15", "--augmentation", "light")

console = Console(highlight=False)


def main() -> None:
    """Run the demo in a temporary home."""
    start_time = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, httpx.Client(trust_env=False, timeout=10) as client:
        print_step("Start all services: Prefect, MLflow, a worker, and the API, with no model yet.")
        with run_temporary_stack(Path(folder)) as stack:
            run_demo(stack, client)
    console.print(f"\n[bold green]All checks passed[/] in {time.monotonic() - start_time:.0f} s.")


def run_demo(stack: TemporaryStack, client: httpx.Client) -> None:
    """Run all steps against the running services; exit at the first failed check."""
    api = stack.url("api")
    digits = load_dataset(TrainConfig(dataset="digits"), Home(stack.folder, stack.folder)).train
    images, labels = digits.images[:IMAGE_COUNT], digits.labels[:IMAGE_COUNT]
    unseen = slice(IMAGE_COUNT, 2 * IMAGE_COUNT)
    rotated = rotate(images)

    print_step("Train, evaluate and release a first classifier of upright digits. The running API loads it.")
    run_subcommand(stack, "schedule", "--cron", "0 3 * * *", *SETTINGS)
    run_subcommand(stack, "run", *SETTINGS)
    wait_for(lambda: get_version(client, api) == "1", "the API to serve version 1")

    print_step(f"Request predictions for {IMAGE_COUNT} upright digits, like the training data.")
    upright_accuracy, _ = predict(client, api, images, labels)
    check(upright_accuracy > 0.9, f"accuracy {upright_accuracy:.1%}")

    print_step(
        f"The input drifts: all digits lean by {ROTATION_DEGREES} degrees. Users send labels and images."
    )
    drifted_accuracy, request_ids = predict(client, api, rotated, labels)
    check(drifted_accuracy < upright_accuracy - 0.1, f"accuracy {drifted_accuracy:.1%}")
    for request_id, image, label in zip(request_ids, rotated, labels, strict=True):
        file = base64.b64encode(encode_png(image)).decode()  # as it was predicted, pixels are not centered
        feedback = {"request_id": request_id, "label": str(label), "image": file}
        client.post(f"{api}/feedback", json=feedback).raise_for_status()

    print_step("Review the feedback: it becomes training data, and never evaluates candidates.")
    output = run_subcommand(stack, "feedback", "accept", "--all")
    check(f"accepted {IMAGE_COUNT}" in output, output.strip().splitlines()[0])

    print_step("The monitor detects the drift and requests a retraining.")
    output = run_subcommand(stack, "monitor")
    outcome = output.splitlines()[-2]
    check("drift in" in outcome and "relearn.drift" in output, outcome)

    print_step(
        "The worker retrains. The new version learned from more data and loses nothing on upright digits."
    )
    wait_for(lambda: get_version(client, api) == "2", "the API to serve version 2")
    reason = run_subcommand(stack, "history").partition("it learned from more data")[2].partition(":")[0]
    check(reason != "", f"it learned from more data{reason}")

    print_step(
        "Request predictions from the same API, never restarted, for rotated digits not used in training."
    )
    new_accuracy, _ = predict(client, api, rotate(digits.images[unseen]), digits.labels[unseen])
    check(
        new_accuracy > drifted_accuracy + 0.1,
        f"accuracy {new_accuracy:.1%}, previously {drifted_accuracy:.1%}",
    )

    print_step("Roll back to version 1: no training, in a second.")
    run_subcommand(stack, "rollback", "--reason", "to show it")
    wait_for(lambda: get_version(client, api) == "1", "the API to serve version 1 again")
    check(True, "the API serves version 1")


def rotate(images: np.ndarray) -> np.ndarray:
    """Rotate images uint8 (n, 1, height, width) by `ROTATION_DEGREES`."""
    rotated: np.ndarray = ndimage.rotate(images, ROTATION_DEGREES, axes=(3, 2), reshape=False, order=1)
    return rotated


def predict(
    client: httpx.Client, api: str, images: np.ndarray, labels: np.ndarray
) -> tuple[float, list[str]]:
    """Request one prediction for each image; return the accuracy in 0–1 and the request ids."""
    correct, request_ids = 0, []
    for image, label in zip(images, labels, strict=True):
        headers = {"content-type": "image/png"}
        response = client.post(f"{api}/predict", content=encode_png(image), headers=headers)
        body = response.raise_for_status().json()
        correct += body["predictions"][0]["label"] == str(label)
        request_ids.append(body["request_id"])
    return correct / len(images), request_ids


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image uint8 (1, height, width) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "PNG")
    return file.getvalue()


def get_version(client: httpx.Client, api: str) -> str | None:
    """Return the version that the API serves, None if it serves none."""
    with suppress(httpx.HTTPError):
        version: str | None = client.get(f"{api}/readyz").headers.get("x-relearn-version")
        return version
    return None


def run_subcommand(stack: TemporaryStack, *arguments: str) -> str:
    """Print and run a subcommand of `relearn`; return its output."""
    console.print(f"  [dim]$ relearn {' '.join(arguments)}[/]", soft_wrap=True)
    return stack.relearn(*arguments)


def print_step(line: str) -> None:
    """Print the heading of a step."""
    console.print(f"\n[bold]{line}[/]", soft_wrap=True)


def check(is_met: bool, line: str) -> None:
    """Print a result; exit if the check failed."""
    if not is_met:
        raise SystemExit(f"  check failed: {line}")
    console.print(f"  [green]✓[/] {line.strip()}", soft_wrap=True)


if __name__ == "__main__":
    main()
