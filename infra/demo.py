"""The whole loop on handwritten digits: `make demo` takes two minutes, tells each step, and checks it.

A first release answers; what it is asked drifts; people correct it; the watch notices and asks for a
retraining; the gate lets the new one pass for what it gained; the running API answers with it; and back.
"""

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

from infra.alive import Alive, everything_up, wait_for
from relearn.model.config import TrainConfig
from relearn.model.data.load import load_dataset
from relearn.model.home import Home

ANSWERS = 400  # asked in each act
TURN = 35  # degrees by which the new handwriting leans
SETTINGS = ("--dataset", "digits", "--networks", "mlp", "--epochs", "15", "--augmentation-strength", "0.4")

console = Console(highlight=False)


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, httpx.Client(trust_env=False, timeout=10) as client:
        step("Everything is started: Prefect, MLflow, a runner and the API, which has nothing to serve yet.")
        with everything_up(Path(folder)) as alive:
            play(alive, client)
    console.print(f"\n[bold green]All of it held[/], in {time.monotonic() - began:.0f} s.")


def play(alive: Alive, client: httpx.Client) -> None:
    api = alive.url("api")
    digits = load_dataset(TrainConfig(dataset="digits"), Home(alive.folder, alive.folder))
    images, labels = digits.train.images[:ANSWERS], digits.train.labels[:ANSWERS]
    others, theirs = digits.train.images[ANSWERS : 2 * ANSWERS], digits.train.labels[ANSWERS : 2 * ANSWERS]
    turned = leaning(images)

    step("A first classifier, of upright digits, is trained, judged, released. The running API takes it up.")
    relearn(alive, "schedule", "--cron", "0 3 * * *", *SETTINGS)
    relearn(alive, "run", *SETTINGS)
    wait_for(lambda: version(client, api) == "1", "the API to serve version 1")

    step(f"{ANSWERS} digits are asked, upright as it has learned them.")
    upright, _ = ask(client, api, images, labels)
    check(upright > 0.9, f"{upright:.1%} right")

    step(f"Other people write: all digits lean by {TURN} degrees. They correct it, and send their images.")
    before, requests = ask(client, api, turned, labels)
    check(before < upright - 0.1, f"{before:.1%} right")
    for request, image, label in zip(requests, turned, labels, strict=True):
        told = {"request_id": request, "label": str(label), "image": image[0].tolist()}
        client.post(f"{api}/feedback", json=told).raise_for_status()

    step("What they said waits until somebody has looked at it; then most joins the data, some judges.")
    said = relearn(alive, "feedback", "accept", "--all")
    check(f"accepted {ANSWERS}" in said, said.strip().splitlines()[0])

    step("The watch finds that what is asked is not what was learned from, and asks for a retraining.")
    said = relearn(alive, "monitor")
    outcome, asked = said.splitlines()[-2], "a retraining was asked for by the event relearn.drift"
    check("drift in" in outcome and asked in said, outcome)

    step("The runner retrains. The gate compares both on the same images, recent ones among them.")
    wait_for(lambda: version(client, api) == "2", "the API to serve version 2")
    said = relearn(alive, "history")
    gain = said.partition("better on recent")[2].partition("(")[0]
    check(gain != "", f"better on recent{gain}")

    step("The same API, which nobody has restarted, is asked others that lean, of which it has learned none.")
    after, _ = ask(client, api, leaning(others), theirs)
    check(after > before + 0.1, f"{after:.1%} right, before it were {before:.1%}")

    step("And back, as one would at night: without training, in a second.")
    relearn(alive, "rollback", "--reason", "to show it")
    wait_for(lambda: version(client, api) == "1", "the API to serve version 1 again")
    check(True, "version 1 answers")


def leaning(images: np.ndarray) -> np.ndarray:
    """The same digits turned by `TURN` degrees; uint8 (n, 1, height, width)."""
    turned: np.ndarray = ndimage.rotate(images, TURN, axes=(3, 2), reshape=False, order=1)
    return turned


def ask(client: httpx.Client, api: str, images: np.ndarray, labels: np.ndarray) -> tuple[float, list[str]]:
    """The share of right answers, and the id of each request; one image a request, as people ask."""
    right, requests = 0, []
    for image, label in zip(images, labels, strict=True):
        picture = io.BytesIO()
        Image.fromarray(image[0]).save(picture, "PNG")
        headers = {"content-type": "image/png"}
        answer = client.post(f"{api}/predict", content=picture.getvalue(), headers=headers).raise_for_status()
        told = answer.json()
        right += told["predictions"][0]["label"] == str(label)
        requests.append(told["request_id"])
    return right / len(images), requests


def version(client: httpx.Client, api: str) -> str | None:
    """That which answers, by an inference of its own."""
    with suppress(httpx.HTTPError):
        return client.get(f"{api}/readyz").headers.get("x-relearn-version")
    return None


def relearn(alive: Alive, *words: str) -> str:
    """Run a verb for all to see."""
    console.print(f"  [dim]$ relearn {' '.join(words)}[/]", soft_wrap=True)
    return alive.relearn(*words)


def step(line: str) -> None:
    console.print(f"\n[bold]{line}[/]", soft_wrap=True)


def check(holds: bool, line: str) -> None:
    if not holds:
        raise SystemExit(f"  this should not be: {line}")
    console.print(f"  [green]✓[/] {line.strip()}", soft_wrap=True)


if __name__ == "__main__":
    main()
