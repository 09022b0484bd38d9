"""The page and its JSON API. The schema is at /openapi.json, made from the classes below."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

import minbert
from minbert import BertModel
from minbert.files import one_line
from multitask import explanations
from multitask.model import MultitaskBert

from .limits import Bounded, Turns

ITEMS = 64
LOOKED_AT = 128  # tokens of which attention is shown

Answer = TypeVar("Answer")
Name = Annotated[str, Field(max_length=100)]
Text = Annotated[str, Field(max_length=20_000)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=2)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Predict(Body):
    """What each task answers. Without `task`, all tasks that take so many sentences."""

    task: Name | None = None
    inputs: Annotated[list[Texts], Field(min_length=1, max_length=ITEMS)]


class TaskAnswer(BaseModel):
    """`label` is a class's name, or a number on a scale, which has no probabilities."""

    label: str | float
    probabilities: dict[str, float] | None


class Predictions(BaseModel):
    """For each input, task → answer. `cut`: inputs that were longer than the model takes."""

    answers: list[dict[str, TaskAnswer]]
    cut: int


class Words(Body):
    """Which words an answer rests on; `label` is the class that is explained."""

    task: Name
    texts: Texts
    label: Name | None = None
    method: Literal["occlusion", "gradient"] = "occlusion"


class WordWeights(BaseModel):
    label: str | float
    words: list[explanations.Word]


class Attention(Body):
    task: Name
    texts: Texts
    layer: int
    head: int


class AttentionMap(BaseModel):
    """Row i: how much piece i looks at each piece."""

    pieces: list[str]
    weights: list[list[float]]


class Gradients(Body):
    """`answers`: task → the right answer, as a file would write it, or as a number."""

    texts: Texts
    answers: Annotated[dict[Name, Name | float], Field(min_length=1, max_length=10)]


class TaskInfo(BaseModel):
    """`range` is that of a scale; null for classes. `example`: a text or a pair to try."""

    name: str
    title: str
    classes: int
    labels: list[str]
    range: list[float] | None
    sentences: int
    example: list[str]


class RunInfo(BaseModel):
    name: str
    version: str
    arch: str
    tasks: list[TaskInfo]
    layers: int
    heads: int
    max_length: int
    sample_tasks: list[str]
    can_look_inside: bool


def build_app(model: MultitaskBert, name: str, hosts: list[str]) -> FastAPI:
    """The application for a model in eval mode.

    Args:
        name: of the run, for the page.
        hosts: names under which it may be called; ["*"] is any.
    """
    app = FastAPI(title=f"minbert: {name}", version=minbert.__version__, docs_url=None,
                  redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(Bounded)
    turns = Turns()

    async def compute(request: Request, function: Callable[[], Answer]) -> Answer:
        def guarded() -> Answer:
            try:
                return function()
            except ValueError as error:  # what the model says about its input
                raise HTTPException(422, one_line(error)) from None
        return await turns.take(request, guarded)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return JSONResponse({"detail": one_line(f"{place}: {first['msg']}")}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": "internal error; the server's terminal has the reason"}, 500)

    @app.get("/api/run")
    async def run() -> RunInfo:
        tasks = [TaskInfo(name=task.name, title=task.title, classes=task.classes,
                          labels=list(task.labels),
                          range=None if task.classes else list(task.range),
                          sentences=len(task.text), example=list(task.example))
                 for task in model.tasks.values()]
        config = model.encoder.config
        return RunInfo(name=name, version=minbert.__version__, arch=model.arch, tasks=tasks,
                       layers=getattr(config, "num_hidden_layers", 0),
                       heads=getattr(config, "num_attention_heads", 0),
                       max_length=model.max_length, sample_tasks=model.sample_tasks,
                       can_look_inside=isinstance(model.encoder, BertModel))

    @app.post("/api/predict")
    async def predict(body: Predict, request: Request) -> Predictions:
        return await compute(request, lambda: predictions(model, body))

    @app.post("/api/words")
    async def words(body: Words, request: Request) -> WordWeights:
        return await compute(request, lambda: word_weights(model, body))

    @app.post("/api/attention")
    async def attention(body: Attention, request: Request) -> list[AttentionMap]:
        return await compute(request, lambda: attention_maps(model, body))

    @app.post("/api/gradients")
    async def gradients(body: Gradients, request: Request) -> explanations.Wishes:
        return await compute(request, lambda: task_wishes(model, body))

    app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))
    return app


def predictions(model: MultitaskBert, body: Predict) -> Predictions:
    answers: list[dict[str, TaskAnswer]] = [{} for _ in body.inputs]
    cut = {}  # sentences per input → inputs cut; tasks that take as many read the same inputs
    for task in [model.task(body.task)] if body.task else model.tasks.values():
        fitting = [place for place, texts in enumerate(body.inputs)
                   if body.task or len(texts) == len(task.text)]
        if not fitting:
            continue
        examples = model.examples_of(task.name, [tuple(body.inputs[place]) for place in fitting])
        tokens = model.tokenize(examples)
        cut[len(task.text)] = tokens.truncated
        found = model.predictions_of(task.name, model.predict_logits(task.name, tokens))
        for row, place in enumerate(fitting):
            probabilities = None
            if found.probabilities is not None:
                probabilities = dict(zip(task.labels, found.probabilities[row].tolist(),
                                         strict=True))
            answers[place][task.name] = TaskAnswer(label=found.labels[row].item(),
                                                   probabilities=probabilities)
    return Predictions(answers=answers, cut=sum(cut.values()))


def word_weights(model: MultitaskBert, body: Words) -> WordWeights:
    task = model.task(body.task)
    shown, label = body.label, None
    if shown is None or not task.classes:
        shown = model.predict(task.name, [tuple(body.texts)]).labels[0].item()
    if task.classes:
        label = task.parse_label(shown)
        shown = task.labels[int(label)]
    words = explanations.WORDS[body.method](model, task.name, body.texts, label)
    return WordWeights(label=shown, words=words)


def attention_maps(model: MultitaskBert, body: Attention) -> list[AttentionMap]:
    maps = explanations.attention(model, body.task, body.texts, body.layer, body.head)
    for pieces, _ in maps:
        if len(pieces) > LOOKED_AT:
            raise ValueError(f"{len(pieces)} tokens; attention is shown for {LOOKED_AT} at most")
    return [AttentionMap(pieces=pieces, weights=[[round(value, 4) for value in row]
                                                 for row in weights.tolist()])
            for pieces, weights in maps]


def task_wishes(model: MultitaskBert, body: Gradients) -> explanations.Wishes:
    answers = {name: model.task(name).parse_label(str(answer))
               for name, answer in body.answers.items()}
    return explanations.wishes(model, body.texts, answers)
