"""FastAPI, its types read and written by pydantic: in the event loop at `/predict`, in threads at `/sync`."""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.servers.network import Digits


class Body(BaseModel):
    images: list[list[list[int]]]


class Prediction(BaseModel):
    label: str
    probabilities: dict[str, float]


class Answer(BaseModel):
    predictions: list[Prediction]


digits = Digits()
app = FastAPI()


@app.post("/predict")
async def predict(body: Body) -> Answer:
    return _answer(body)


@app.post("/sync")
def predict_in_a_thread(body: Body) -> Answer:
    return _answer(body)


def _answer(body: Body) -> Answer:
    predictions = digits.predict(np.array(body.images, np.uint8))
    return Answer(predictions=[Prediction(**prediction) for prediction in predictions])
