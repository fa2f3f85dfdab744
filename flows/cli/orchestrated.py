"""What every verb does that runs a flow: find or start the Prefect server that it reports to."""

from collections.abc import Iterator
from contextlib import chdir, contextmanager

from pydantic import ValidationError

from relearn.flows.settings import ReleaseConfig
from relearn.model.config import problems
from relearn.model.errors import ConfigError
from relearn.model.home import Home


@contextmanager
def orchestrated(home: Home, gate: ReleaseConfig | None = None) -> Iterator[str | None]:
    """Flows called inside report to a Prefect server; yields its page, None for a temporary one.

    Raises `InputError` where `gate` asks for an approval that a temporary server has no page for.
    """
    home.prefect.mkdir(0o700, parents=True, exist_ok=True)  # Prefect looks for it when it is imported
    try:
        # Prefect reads .env, prefect.toml and pyproject.toml of the current folder when it is imported. Those
        # belong to whoever stands there, and may name another project's database.
        with chdir(home.prefect):
            from prefect.settings import get_current_settings

            get_current_settings()
    except ValidationError as error:
        told = problems(error, {})
        raise ConfigError([f"a setting of Prefect (PREFECT_…): {problem}" for problem in told]) from None
    from relearn.flows.orchestration import prefect

    with prefect(home, lasting_only=bool(gate and gate.approve_by_hand)) as page:
        yield page
