"""Jobs that are not even started. Gateways submit none of them; others may."""

from __future__ import annotations

from sd_common.allowed_models import check_model_allowed
from sd_common.errors import ModelNotAllowed
from sd_common.events import AbortCode
from sd_common.jobs import Job
from sd_common.model_names import model_key
from sd_common.subjects import parse_jobs_subject
from sd_common.task_limits import exceeded_limits
from sd_worker.settings import WorkerSettings


def refusal_of(job: Job, subject: str, settings: WorkerSettings) -> tuple[AbortCode, str] | None:
    """Why a job that came on `subject` is refused, for programs and in a sentence; None where it is not."""
    if parse_jobs_subject(subject).model_key != model_key(job.parameters.model):
        return "invalid_input", f"The job's subject is not that of its model, '{job.parameters.model}'"
    try:
        check_model_allowed(job.parameters.model, settings.allowed_models)
    except ModelNotAllowed as error:
        return "model_unavailable", str(error)
    exceeded = [f"{field}: {sentence}" for field, sentence in exceeded_limits(job.parameters, settings)]
    return ("invalid_input", "; ".join(exceeded)) if exceeded else None
