"""The verifier server's routes: what is asked is checked, decoded, queued and answered.

    app = create_app(adapters, ServerSettings(models=("tags",)))

Nothing here computes: clips are decoded in a small pool of threads (requests.py), models score in a
thread each (batching.py), so the event loop answers /health at once whatever they do.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from src import protocol
from src.models.adapter import Adapter
from src.server.batching import Worker
from src.server.json_body import JsonRoute
from src.server.middleware import IntakeMiddleware
from src.server.outcomes import Metrics
from src.server.requests import Scorer, unless_gone
from src.server.settings import ServerSettings

# A stop has waited for the requests by then: what is left is at most one model call.
MODEL_STOP_SECONDS = 5.0
# Uploads are bounded, so a clip need not pass through a temporary file (1 MB is the default).
MultiPartParser.spool_max_size = 8 * 2**20

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": protocol.ErrorBody}
    for status in (400, 401, 403, 404, 408, 413, 422, 500, 503)
}
# Of the form's parts; FastAPI would call a file just octets.
ENCODING = {
    "request": {"contentType": "application/json"},
    "files": {"contentType": "audio/wav"},
}
# Of the form's part that is JSON; POST /texts, whose body it is, describes the schema.
JSON_SCHEMA: dict[str, Any] = {
    "contentMediaType": "application/json",
    "contentSchema": {"$ref": "#/components/schemas/VerifierRequest"},
}


def create_app(adapters: Sequence[Adapter], settings: ServerSettings) -> FastAPI:
    """The application; its models load when it starts up, each in its own thread."""
    limits, metrics = settings.limits, Metrics()
    workers = {adapter.name: Worker(adapter, settings, metrics) for adapter in adapters}
    scorer = Scorer(workers, limits, ThreadPoolExecutor(2, thread_name_prefix="decode"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for worker in workers.values():
            worker.start()
        yield
        stops = [asyncio.to_thread(worker.stop, MODEL_STOP_SECONDS) for worker in workers.values()]
        app.state.stopped = all(await asyncio.gather(*stops))
        scorer.pool.shutdown(wait=False, cancel_futures=True)

    app = FastAPIOffline(
        title="Curator verifier server",
        description=Path(__file__).with_name("description.md").read_text("utf-8"),
        lifespan=lifespan,
        redoc_url=None,
    )
    app.router.route_class, app.state.scorer = JsonRoute, scorer
    app.add_middleware(IntakeMiddleware, settings=settings, metrics=metrics)
    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _pass_on)  # the middleware answers errors
    # The middleware checks the token; this declares it in the OpenAPI document.
    bearer = HTTPBearer(auto_error=False, description="the server's token")
    guarded = [Depends(bearer)] if settings.token else []

    @app.head(protocol.HEALTH_PATH, include_in_schema=False)
    @app.get(protocol.HEALTH_PATH, summary="Is the process alive?")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.head(protocol.READY_PATH, include_in_schema=False)
    @app.get(
        protocol.READY_PATH,
        summary="Are the models loaded?",
        responses={503: {"model": protocol.Readiness}},
    )
    async def ready(response: Response) -> protocol.Readiness:
        """200 once no model loads any more and one can score; 503 before. Failed ones are named."""
        states = {name: worker.state for name, worker in workers.items()}
        is_ready = "ready" in states.values() and "loading" not in states.values()
        response.status_code = 200 if is_ready else 503
        problems = {name: w.problem for name, w in workers.items() if w.problem}
        return protocol.Readiness(ready=is_ready, models=states, problems=problems)

    @app.get(
        protocol.VERIFIERS_PATH,
        summary="What is hosted, and what a request may hold",
        responses={401: ERRORS[401]},
        dependencies=guarded,
    )
    async def verifiers() -> protocol.VerifierList:
        return protocol.VerifierList(verifiers=[w.info() for w in workers.values()], limits=limits)

    @app.get(
        protocol.METRICS_PATH,
        summary="Metrics in Prometheus' format",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: ERRORS[401]},
        dependencies=guarded,
    )
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post(
        protocol.SCORE_PATH,
        summary="Score clips",
        responses=ERRORS,
        dependencies=guarded,
        form_limits={
            "max_files": limits.max_files,
            "max_fields": 8,
            "max_part_size": limits.max_json_bytes,
        },
        openapi_extra={"requestBody": {"content": {"multipart/form-data": {"encoding": ENCODING}}}},
    )
    async def score(
        http: Request,
        request: Annotated[str, Form(description="JSON", json_schema_extra=JSON_SCHEMA)],
        files: Annotated[
            list[UploadFile], File(min_length=1, description="one WAV per prompt, in order")
        ],
    ) -> protocol.ScoreResponse:
        """Every verifier named scores every file against its prompt."""
        work = scorer.score(request.encode(), files, http.state.upload)
        results = await unless_gone(http, work)
        return protocol.ScoreResponse(request_id=http.state.request_id, results=results)

    @app.post(
        protocol.TEXTS_PATH,
        summary="How much of each prompt is read",
        responses=ERRORS,
        dependencies=guarded,
    )
    async def texts(http: Request, request: protocol.VerifierRequest) -> protocol.TextsResponse:
        """How many tokens at the end of each prompt each verifier named does not read."""
        return protocol.TextsResponse(unread=await unless_gone(http, scorer.count_unread(request)))

    return app


async def _pass_on(_: Request, error: Exception) -> NoReturn:
    raise error
