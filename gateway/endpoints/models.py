"""What is running: the model, the release."""

from importlib.metadata import version as installed_version

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.schemas import Manifest, ModelDescription, ModelList, ServiceVersion, Version
from gateway.context import context, json

RELEASE = installed_version("rt-embed")
OPENAPI_VERSION = "3.1.0"


async def models(request: Request) -> Response:
    """The loaded model, or the last one known when no worker runs."""
    model = context(request).view.model()
    entry = ModelDescription(
        id=model.id,
        created=model.created,
        owned_by=model.owned_by,
        api_type=model.api_type,
        verified=model.verified,
    )
    return json(ModelList(data=[entry]))


async def metadata(_: Request) -> Response:
    """The release."""
    return json(ServiceVersion(version=RELEASE))


async def version(_: Request) -> Response:
    """The release, and the version of the API description."""
    return json(Version(release=RELEASE, api=OPENAPI_VERSION))


async def manifest(request: Request) -> Response:
    """The release and its model."""
    return json(Manifest(version=RELEASE, model=context(request).view.model().id))
