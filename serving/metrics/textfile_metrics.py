"""Gauges of a model that flows write: by the worker that runs flows, and by the monitor.

Flows write them as `.prom` files beside a model's prediction log; the server reads them for `/metrics`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from relearn.model.files import write_bytes_atomically

MONITOR_FILE, WORKER_FILE = "monitor.prom", "worker.prom"  # in the folder of the prediction log
# Gauges by file, each with its help text and the name of its label, "" for none.
GAUGES_BY_FILE = {
    MONITOR_FILE: {
        "relearn_monitor_last_run_timestamp_seconds": ("Unix time of the last run of the monitor.", ""),
        "relearn_monitor_predictions": ("Predicted images in the window of the monitor.", ""),
        "relearn_monitor_labels": ("Sampled images in the window that were labeled blind.", ""),
        "relearn_drift": ("1 if the drift test detected drift, else 0.", "test"),
        "relearn_drift_effect_size": ("Effect size of the drift test, 0 to 1.", "test"),
        "relearn_class_fraction": ("Fraction of the images predicted as this label.", "label"),
        "relearn_mean_confidence": ("Mean of the highest class probability of each image.", ""),
        "relearn_low_confidence_fraction": ("Fraction of the images with a low confidence.", ""),
        "relearn_live_accuracy": (
            "Accuracy of the live version on sampled images that were labeled blind.",
            "",
        ),
        "relearn_live_accuracy_low": ("Lower bound of its 95 % interval.", ""),
        "relearn_live_accuracy_high": ("Upper bound of its 95 % interval.", ""),
        "relearn_live_accuracy_dropped": (
            "1 if it is further below the reference accuracy than max_accuracy_drop, beyond chance, else 0.",
            "",
        ),
        "relearn_reference_accuracy": ("Accuracy of the live version on the reference images.", ""),
    },
    WORKER_FILE: {
        "relearn_worker_heartbeat_timestamp_seconds": ("Unix time of the last heartbeat of a worker.", ""),
        "relearn_retraining_scheduled": ("1 if a schedule for retraining is active.", ""),
        "relearn_retraining_last_success_timestamp_seconds": (
            "Unix time of the end of the last successful retraining.",
            "",
        ),
        "relearn_retraining_failed": ("1 if the last finished retraining failed or crashed.", ""),
        "relearn_retraining_late": ("Retrainings that are due and not started by a worker.", ""),
        "relearn_disk_free_bytes": ("Free bytes on the disk of the home.", ""),
        "relearn_disk_size_bytes": ("Size of the disk of the home in bytes.", ""),
    },
}


@dataclass(frozen=True)
class TextfileMetrics:
    """Prometheus collector of the gauges in one file: their values by label value, "" without a label."""

    filename: str
    values: Mapping[str, Mapping[str, float]]

    @classmethod
    def from_file(cls, filename: str, folder: Path | None) -> Self:
        """Read the file that `write` created in `folder`; no values if it is missing or invalid."""
        values: dict[str, dict[str, float]] = {}
        try:
            text = (folder / filename).read_bytes().decode() if folder else ""
            for family in text_string_to_metric_families(text):
                if family.name in GAUGES_BY_FILE[filename]:
                    label_name = GAUGES_BY_FILE[filename][family.name][1]
                    values[family.name] = {
                        sample.labels[label_name] if label_name else "": float(sample.value)
                        for sample in family.samples
                    }
        except Exception:  # a damaged file must not hide the server's own metrics
            return cls(filename, {})
        return cls(filename, values)

    def write(self, folder: Path) -> None:
        """Write the file into `folder`, a prediction log; the servers that log there export it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # only the owner may read the prediction log
        write_bytes_atomically(folder / self.filename, self.to_text())

    def to_text(self) -> bytes:
        """Render the values in Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges; prometheus_client calls it to render `/metrics`."""
        for name, values in self.values.items():
            documentation, label_name = GAUGES_BY_FILE[self.filename][name]
            family = GaugeMetricFamily(name, documentation, labels=[label_name] if label_name else [])
            for label_value, value in values.items():
                family.add_metric([label_value] if label_name else [], value)
            yield family
