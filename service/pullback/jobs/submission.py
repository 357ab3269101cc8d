"""Convert an analysis or an application for a background driver or a cluster."""

import json

from pullback.cluster.submission import RESULTS_ENTRYPOINT, ClusterJob
from pullback.driving.background import BackgroundJob
from pullback.jobs.plan import ResultPlan, checked, whole_job
from pullback.spec import ApplicationJob


def background_job(plan: ResultPlan) -> BackgroundJob:
    """Return the job for a background driver; raises PullbackError if the results cannot be computed."""
    checked(plan)
    return BackgroundJob(plan.place, len(plan.parts), whole_job(plan))


def cluster_job(plan: ResultPlan) -> ClusterJob:
    """Return the job for a cluster; raises PullbackError if the results cannot be computed.

    The cluster starts the driver on a machine with a GPU if the job asks for `cuda`.
    """
    checked(plan)
    device = plan.job.resources.device if isinstance(plan.job, ApplicationJob) else "cpu"
    return ClusterJob(
        name=plan.job.name,
        job_id=plan.job_id,
        place=plan.place,
        planned=len(plan.parts),
        folder=plan.folder,
        content=json.dumps(whole_job(plan)),
        entrypoint=RESULTS_ENTRYPOINT,
        gpus=int(device.startswith("cuda")),
    )
