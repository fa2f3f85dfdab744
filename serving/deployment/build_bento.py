"""Program that builds one Bento.

Usage: `python -m relearn.serving.deployment.build_bento FOLDER NAME VERSION LABELS`. `packaging` runs it in
a copy of the source with a temporary BentoML home, and moves the result into the stores.
"""

import json
import shutil
import sys
from importlib import metadata

import bentoml

from relearn.serving.deployment.requirements import REQUIREMENTS


def run_bentoml_build(classifier_folder: str, name: str, version: str, labels: dict[str, str]) -> None:
    """Copy `classifier_folder` into a BentoML model and build the Bento `name:version`.

    The build itself uses no network.
    """
    tag = f"{name}:{version}"
    with bentoml.models.create(
        tag, module="relearn.model.inference.classifier", labels=labels
    ) as bento_model:
        shutil.copytree(classifier_folder, bento_model.path, dirs_exist_ok=True)
    bentoml.build(
        "relearn.serving.service:Relearn",
        name=name,
        version=version,
        models=[tag],
        labels=labels,
        description=f"# {tag}\n\nReads images of {labels['dataset']} into {labels['classes']} classes.\n",
        include=["relearn/"],
        python={
            "packages": [pin_version(requirement) for requirement in REQUIREMENTS],
            "lock_packages": False,
        },
        docker={"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"},
    )


def pin_version(requirement: str) -> str:
    """Return `requirement` pinned to the installed version, without a local label such as `+cpu`.

    No index has versions with a local label.
    """
    return f"{requirement}=={metadata.version(requirement).partition('+')[0]}"


if __name__ == "__main__":
    folder, bento_name, bento_version, labels_json = sys.argv[1:]
    run_bentoml_build(folder, bento_name, bento_version, json.loads(labels_json))
