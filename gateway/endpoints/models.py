"""What is running: the model and the release."""

from importlib.metadata import version as installed_version

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from gateway.api.endpoint import Answer, Endpoint
from gateway.api.examples import MODEL
from gateway.api.responses import json_response
from gateway.api.schemas import (
    MODELS_LISTED,
    Manifest,
    ModelDescription,
    ModelDetails,
    ModelList,
    ServiceVersion,
    Version,
)
from gateway.context import context
from shared.errors import BadParameters, NotFound, Unavailable

RELEASE = installed_version("rt-embed")
OPENAPI_VERSION = "3.1.0"


@Endpoint(
    "GET",
    "/v1/models",
    tag="Models",
    summary="List the loaded models",
    answers=(
        Answer(
            description="The models that ready workers serve, up to five.",
            json=ModelList,
            example=ModelList(
                data=[
                    ModelDescription(
                        id=MODEL,
                        created=1767000000,
                        owned_by="nvidia",
                        api_type="custom",
                    )
                ]
            ),
        ),
    ),
    errors=(Unavailable,),
)
async def list_models(request: HttpRequest) -> Response:
    """Return the models that workers serve, or the last one known if none is ready."""
    view = context(request).view
    view.model()  # raises Unavailable if there is none
    entries = [
        ModelDescription(id=m.id, created=m.created, owned_by=m.owned_by, api_type=m.api_type)
        for m in view.models[:MODELS_LISTED]
    ]
    return json_response(ModelList(data=entries))


@Endpoint(
    "GET",
    "/v1/models/{model_id}",
    tag="Models",
    summary="Describe the loaded model",
    description="An extension. Accepts the model's id and its aliases.",
    answers=(
        Answer(
            description="The model.",
            json=ModelDetails,
            example=ModelDetails(
                id=MODEL,
                created=1767000000,
                owned_by="nvidia",
                api_type="custom",
                aliases=[],
                dimension=768,
                frames=8,
                supports_text=True,
                verified=True,
                verification="here",
            ),
        ),
    ),
    errors=(NotFound, Unavailable),
)
async def get_model(request: HttpRequest) -> Response:
    """Describe the loaded model, named by its id or an alias."""
    ctx = context(request)
    wanted = request.path_params["model_id"]
    try:
        model = ctx.view.require_model(wanted)
    except BadParameters as error:
        raise NotFound(error.message) from error
    return json_response(
        ModelDetails(
            id=model.id,
            created=model.created,
            owned_by=model.owned_by,
            api_type=model.api_type,
            aliases=ctx.view.aliases(model),
            dimension=model.dimension,
            frames=model.frames,
            supports_text=model.supports_text,
            verified=model.verified,
            verification=model.verification,
        )
    )


@Endpoint(
    "GET",
    "/v1/metadata",
    tag="Metadata",
    summary="Get the release",
    answers=(
        Answer(description="The release.", json=ServiceVersion, example=ServiceVersion(version="3.2.0")),
    ),
)
async def get_metadata(_: HttpRequest) -> Response:
    """Return the release."""
    return json_response(ServiceVersion(version=RELEASE))


@Endpoint(
    "GET",
    "/v1/version",
    tag="NIM Compatible",
    summary="Get the release and the version of this description's format",
    answers=(
        Answer(
            description="The versions.",
            json=Version,
            example=Version(release="3.2.0", api="3.1.0"),
        ),
    ),
)
async def get_version(_: HttpRequest) -> Response:
    """Return the release and the version of the API description's format."""
    return json_response(Version(release=RELEASE, api=OPENAPI_VERSION))


@Endpoint(
    "GET",
    "/v1/manifest",
    tag="NIM Compatible",
    summary="Get the release and its model",
    answers=(
        Answer(
            description="Release and model.",
            json=Manifest,
            example=Manifest(version="3.2.0", model=MODEL),
        ),
    ),
    errors=(Unavailable,),
)
async def get_manifest(request: HttpRequest) -> Response:
    """Return the release and its model."""
    return json_response(Manifest(version=RELEASE, model=context(request).view.model().id))
