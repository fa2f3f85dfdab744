"""A real PostgreSQL for tests, which can be stopped, frozen and cut off."""

import os
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import psycopg2

from relearn.model.ports import find_free_port


class Postgres:
    """A server of PostgreSQL; as root it runs as `nobody`, since it refuses to be root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "data"
        self.user = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
        if self.user:
            shutil.chown(folder, **self.user)
        self.port = find_free_port()
        self._run("initdb", "--auth=trust", "--username=relearn", "--pgdata", str(self.folder))
        options = f"\nport = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
        with (self.folder / "postgresql.conf").open("a") as settings:
            settings.write(options)

    @property
    def uri(self) -> str:
        return f"postgresql://relearn@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._run(
            "pg_ctl", "--pgdata", str(self.folder), "--wait", "--log", str(self.folder / "log"), "start"
        )

    def stop(self, mode: str) -> None:
        self._run("pg_ctl", "--pgdata", str(self.folder), "--mode", mode, "stop", check=False)

    def drop_connections(self) -> None:
        """Let every connection that is open end in an error."""
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where pid != pg_backend_pid()"
        with closing(psycopg2.connect(self.uri)) as connection:
            connection.cursor().execute(ended)

    def signal(self, number: signal.Signals) -> None:
        """To the server and every process of it."""
        leader = int((self.folder / "postmaster.pid").read_text().splitlines()[0])
        os.kill(leader, number)
        for child in Path(f"/proc/{leader}/task/{leader}/children").read_text().split():
            os.kill(int(child), number)

    def _run(self, *command: str, check: bool = True) -> None:
        subprocess.run(command, check=check, stdout=subprocess.DEVNULL, cwd="/", **self.user)
