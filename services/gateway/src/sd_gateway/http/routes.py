"""All operations of the REST API. Fixed paths stand before those with a parameter that would match them."""

from __future__ import annotations

from sd_gateway.http import accounts, blobs, events, models, pictures, service, task_pages, tasks
from sd_gateway.http.operations import Operation

OPERATIONS: tuple[Operation, ...] = (
    *pictures.OPERATIONS,
    *tasks.OPERATIONS,
    *task_pages.OPERATIONS,
    *events.OPERATIONS,
    *models.OPERATIONS,
    *blobs.OPERATIONS,
    *accounts.OPERATIONS,
    *service.OPERATIONS,
)
