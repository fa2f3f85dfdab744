"""Training of a pretrained network as a tracked run: features with a progress bar, then its head."""

import pandas as pd

from relearn.flows.terminal.console import image_bar
from relearn.flows.tracking.runs import Run
from relearn.flows.training.resume import ResumableRun
from relearn.model.config import TrainConfig
from relearn.model.home import Home
from relearn.model.networks.pretrained import Pretrained
from relearn.model.plots.learning_curves import plot_penalties
from relearn.model.preparation.prepared import PreparedDataset
from relearn.model.training.head import HeadResult, fit_head
from relearn.model.training.state import TrainingSnapshot


def fit_head_and_log(
    run: Run,
    config: TrainConfig,
    network: Pretrained,
    prepared: PreparedDataset,
    resumable: ResumableRun,
    home: Home,
) -> HeadResult:
    """Fit the head of `network`, and log the choice of its penalty.

    Ctrl-C ends it at once: the features of the images so far are kept, the rest takes seconds.
    """

    def on_checkpoint(snapshot: TrainingSnapshot) -> None:
        if snapshot.scalars["history"]:
            resumable.add_epoch({}, pd.DataFrame())
        resumable.save(snapshot)

    with image_bar("Computing features") as show_progress:
        result = fit_head(
            config,
            network,
            prepared.splits,
            len(prepared.classes),
            home.backbones,
            resumable.state,
            show_progress,
            on_checkpoint,
        )
    run.log_metrics(
        {"best/inverse_penalty": result.c, "best/temperature": result.temperature},
        timestamp_ms=resumable.last_epoch_end_ms,
    )
    run.log_table(result.to_frame(), "head/penalties.csv")
    run.log_figure(plot_penalties(result.to_frame(), result.c), "head/penalties.png")
    return result
