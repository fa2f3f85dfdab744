"""What the flows of a name saw last, for Prometheus: each leaves a file, and `/metrics` tells them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from relearn.model.files import write_bytes_atomically

MONITOR_FILE, WORKER_FILE = "monitor.prom", "worker.prom"  # in the folder of the records
# Gauges by file: what each tells, and its label if it has one.
GAUGES_BY_FILE = {
    MONITOR_FILE: {
        "relearn_monitor_last_run_timestamp_seconds": ("Unix time of the monitor's last look.", ""),
        "relearn_monitor_predictions": ("Images answered in its window.", ""),
        "relearn_monitor_labels": ("Images among them that somebody told the truth of.", ""),
        "relearn_drift": ("1 for a measure that has drifted, 0 for one that has not.", "test"),
        "relearn_drift_effect_size": ("Distance of a measure from the reference images, 0 to 1.", "test"),
        "relearn_class_fraction": ("Share of the images answered with a label.", "label"),
        "relearn_mean_confidence": ("Mean of the greatest probability of each image.", ""),
        "relearn_low_confidence_fraction": ("Share of the images with a low confidence.", ""),
        "relearn_live_accuracy": ("Share of the told truths that the live version had answered.", ""),
        "relearn_live_accuracy_low": ("Low end of its 95 % interval.", ""),
        "relearn_live_accuracy_high": ("High end of its 95 % interval.", ""),
        "relearn_reference_accuracy": ("Share of the reference images that the live version has right.", ""),
    },
    WORKER_FILE: {
        "relearn_worker_heartbeat_timestamp_seconds": ("Unix time of a runner's last look.", ""),
        "relearn_retraining_scheduled": ("1 where retraining is planned by the clock.", ""),
        "relearn_retraining_last_success_timestamp_seconds": (
            "Unix time of the end of the last one that ended well.",
            "",
        ),
        "relearn_retraining_failed": ("1 where the last retraining that ended failed or crashed.", ""),
        "relearn_retraining_late": ("Retrainings that are due and that no runner has taken.", ""),
        "relearn_disk_free_bytes": ("Bytes that are free on the disk of the home.", ""),
        "relearn_disk_size_bytes": ("Bytes of the disk of the home.", ""),
    },
}


@dataclass(frozen=True)
class TextfileMetrics:
    """Values of the gauges of `file`, by the value of their label, "" for those without.

    A collector of Prometheus.
    """

    filename: str
    values: Mapping[str, Mapping[str, float]]

    @classmethod
    def from_file(cls, filename: str, folder: Path | None) -> Self:
        """What `write` has left in `folder`; nothing where there is nothing, or something else."""
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
        except (
            Exception
        ):  # whatever stands there and its reader makes of it, the server's own numbers are told
            return cls(filename, {})
        return cls(filename, values)

    def write(self, folder: Path) -> None:
        """Let every server that records into `folder` tell it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # records are the owner's alone
        write_bytes_atomically(folder / self.filename, self.to_text())

    def to_text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, values in self.values.items():
            documentation, label_name = GAUGES_BY_FILE[self.filename][name]
            family = GaugeMetricFamily(name, documentation, labels=[label_name] if label_name else [])
            for label_value, value in values.items():
                family.add_metric([label_value] if label_name else [], value)
            yield family
