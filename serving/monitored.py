"""What the flows of a name saw last, for Prometheus: each leaves a file, and `/metrics` tells them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from relearn.model import atomic

MONITOR, RUNNER = "monitor.prom", "runner.prom"  # in the folder of the records
# Gauges by file: what each tells, and its label if it has one.
GAUGES = {
    MONITOR: {
        "relearn_monitor_time_seconds": ("Unix time of the monitor's last look.", ""),
        "relearn_monitor_answers": ("Images answered in its window.", ""),
        "relearn_monitor_truths": ("Images among them that somebody told the truth of.", ""),
        "relearn_drift": ("1 for a measure that has drifted, 0 for one that has not.", "measure"),
        "relearn_drift_distance": ("Distance of a measure from the reference images, 0 to 1.", "measure"),
        "relearn_class_share": ("Share of the images answered with a label.", "label"),
        "relearn_mean_confidence": ("Mean of the greatest probability of each image.", ""),
        "relearn_low_confidence_share": ("Share of the images with a low confidence.", ""),
        "relearn_live_accuracy": ("Share of the told truths that the live version had answered.", ""),
        "relearn_live_accuracy_low": ("Low end of its 95 % interval.", ""),
        "relearn_live_accuracy_high": ("High end of its 95 % interval.", ""),
        "relearn_reference_accuracy": ("Share of the reference images that the live version has right.", ""),
    },
    RUNNER: {
        "relearn_runner_time_seconds": ("Unix time of a runner's last look.", ""),
        "relearn_retraining_planned": ("1 where retraining is planned by the clock.", ""),
        "relearn_retraining_done_seconds": ("Unix time of the end of the last one that ended well.", ""),
        "relearn_retraining_failed": ("1 where the last retraining that ended failed or crashed.", ""),
        "relearn_retraining_late": ("Retrainings that are due and that no runner has taken.", ""),
        "relearn_home_free_bytes": ("Bytes that are free on the disk of the home.", ""),
        "relearn_home_size_bytes": ("Bytes of the disk of the home.", ""),
    },
}


@dataclass(frozen=True)
class Monitored:
    """Values of the gauges of `file`, by the value of their label, "" for those without.

    A collector of Prometheus.
    """

    file: str
    values: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, file: str, folder: Path | None) -> Self:
        """What `write` has left in `folder`; nothing where there is nothing, or something else."""
        values: dict[str, dict[str, float]] = {}
        try:
            text = (folder / file).read_bytes().decode() if folder else ""
            for family in text_string_to_metric_families(text):
                if family.name in GAUGES[file]:
                    label = GAUGES[file][family.name][1]
                    values[family.name] = {
                        one.labels[label] if label else "": float(one.value) for one in family.samples
                    }
        except (
            Exception
        ):  # whatever stands there and its reader makes of it, the server's own numbers are told
            return cls(file, {})
        return cls(file, values)

    def write(self, folder: Path) -> None:
        """Let every server that records into `folder` tell it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # records are the owner's alone
        atomic.write_bytes(folder / self.file, self.text())

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, values in self.values.items():
            help_, label = GAUGES[self.file][name]
            family = GaugeMetricFamily(name, help_, labels=[label] if label else [])
            for key, value in values.items():
                family.add_metric([key] if label else [], value)
            yield family
