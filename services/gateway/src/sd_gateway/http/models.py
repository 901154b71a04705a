"""What can be asked for by name."""

from __future__ import annotations

from aiohttp import web
from pydantic import BaseModel, Field, TypeAdapter

from sd_common.allowed_models import is_model_allowed
from sd_common.model_names import model_key
from sd_common.parameters import DefaultParameters, TaskKind
from sd_gateway.default_models import default_models
from sd_gateway.http.answers import json_answer
from sd_gateway.http.authentication import authenticate
from sd_gateway.http.operations import Answer, Operation
from sd_gateway.parts import PARTS
from sd_gateway.served_models import ServedModel


class Model(BaseModel):
    """A model that workers have at hand."""

    name: str = Field(description="What to give as `model`.")
    model_key: str = Field(description="Its name on NATS.")
    kinds: list[TaskKind] = Field(description="The kinds of tasks that it can do.")
    default_parameters: DefaultParameters = Field(
        description="Its own defaults for what a task does not say; null: those of the API count. "
        "The size that a model was trained at is known once a worker has it in memory.",
    )
    num_workers: int = Field(description="Workers that have it, in memory or on disk.")
    num_workers_resident: int = Field(description="Of these, those that have it in memory now.")
    runs_alone: bool = Field(
        description="Whether its tasks run one at a time, since they change what they would share (offloaded weights). "
        "Known once a worker has it in memory."
    )


class Models(BaseModel):
    """The models that workers have at hand, and those of tasks that name none."""

    models: list[Model] = Field(description="By name.")
    default_models: dict[TaskKind, str] = Field(
        description="The model of tasks that name none, by kind. A kind that is not here has none that the operator "
        "allows: its tasks must name one."
    )


async def list_models(request: web.Request) -> web.Response:
    parts = request.app[PARTS]
    await authenticate(request)
    models = Models(
        models=[
            _model(served)
            for served in parts.served_models.current()
            if is_model_allowed(served.name, parts.settings.allowed_models)
        ],
        default_models=default_models(parts.settings),
    )
    return json_answer(models.model_dump_json().encode())


def _model(served: ServedModel) -> Model:
    return Model(
        name=served.name,
        model_key=model_key(served.name),
        kinds=served.kinds,
        default_parameters=served.default_parameters,
        num_workers=served.num_workers,
        num_workers_resident=served.num_workers_resident,
        runs_alone=served.runs_alone,
    )


OPERATIONS = (
    Operation(
        "GET",
        "/models",
        list_models,
        tag="models",
        needs_nats=False,
        summary="The models at hand",
        description="Those that workers have in memory or below their `MODEL_DIR`. Other models of the Hugging Face "
        "hub can be named too, where the operator allows them: a worker downloads them when a task first does.",
        answers={200: Answer("The models", TypeAdapter(Models))},
    ),
)
