"""What a person may set, read from the environment (`FUMEHOOD_...`) in the composition roots and passed down."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SecretsSettingsSource, SettingsConfigDict

SECRETS_DIR = Path("/run/secrets")
"""Where container engines lay secrets; FUMEHOOD_SECRETS_DIR names another folder."""


def default_state_dir() -> Path:
    """Return where state lies when nothing is said: the system's place for root, else the user's data folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/fumehood")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "fumehood"  # noqa: TID251 - settings


class FileSettings(BaseSettings):
    """Settings that may also stand in a file each, named like the variable in lower case; a variable wins."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment, then the folder of secrets where there is one."""
        folder = Path(os.environ.get("FUMEHOOD_SECRETS_DIR") or SECRETS_DIR)  # noqa: TID251 - settings
        if not folder.is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=folder)


class CeilingSettings(BaseModel):
    """The most that an execution may ask for; empty leaves a limit to what the machine has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wall_s: float | None = Field(default=None, ge=0.1, le=30 * 86400)
    memory_mib: int | None = Field(default=None, ge=16, le=4 * 1024 * 1024)
    processes: int | None = Field(default=None, ge=1, le=65536)
    storage_mib: int | None = Field(default=None, ge=4, le=4 * 1024 * 1024)
    cpus: float | None = Field(default=None, ge=0.05, le=1024)
    output_bytes: int | None = Field(default=None, ge=1024, le=1024**3)
    artifacts: int | None = Field(default=None, ge=0, le=1_000_000)
    """Files that one execution may let out."""
    artifact_bytes: int | None = Field(default=None, ge=0, le=1024**4)
    """Their bytes together."""


class ConfirmSettings(BaseModel):
    """Values in the place of the confirmation rule's own; empty leaves one as it is for the template's data sets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ideas: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many ideas the level is spread over."""
    q: float | None = Field(default=None, gt=0, lt=1)
    """The share of discoveries that may be false."""
    screen_seeds: int | None = Field(default=None, ge=2, le=1000)
    looks: tuple[int, int] | None = None
    """A run's fresh seeds at the first look and, all together, at the second; a JSON list."""
    screen_baseline: int | None = Field(default=None, ge=2, le=1000)
    confirm_baseline: int | None = Field(default=None, ge=2, le=1000)
    margin: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """In baseline standard deviations."""
    gate: float | None = Field(default=None, allow_inf_nan=False)
    """Standard errors of the screen that a run must show to be confirmed at all."""

    def given(self) -> dict[str, Any]:
        """Return what is set."""
        return self.model_dump(exclude_none=True)


class Settings(FileSettings):
    """Every setting of the platform."""

    model_config = SettingsConfigDict(env_prefix="FUMEHOOD_", env_nested_delimiter="__")

    state_dir: Path = Field(default_factory=default_state_dir)
    """Holds database, keys, volumes, logs and the lab."""
    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL; empty means SQLite below `state_dir`."""
    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Broker of the Celery workers; not used by `fumehood run`."""
    models: str = ""
    """A file of models, upstreams and prices that adds to the one that is shipped and wins over it; TOML."""
    allow_unpriced: bool = False
    """Whether a model may be asked whose price is not known; what it costs is not counted, so no budget caps it."""
    anthropic_base_url: str = ""
    """Where the gateway's Anthropic upstream sends calls; empty is where the table of models says."""
    offline_faults: tuple[str, ...] = ()
    """Ways in which every third call to the offline model fails on purpose; a JSON list."""
    model_tries: int = Field(default=5, ge=1)
    """How often a step asks for a model that is away before its work is held; the gateway tries within each."""
    gateway_url: str = ""
    """Where the workers of both sides find the gateway; `fumehood run` starts its own."""
    confirm: ConfirmSettings = Field(default_factory=ConfirmSettings)
    """How results are confirmed; fixed for a direction when it begins."""
    replicate: bool = False
    """Whether a confirmed study is repeated from its method section by another conversation with the coder."""
    policy: str = ""
    """The file of the admin's policy, which screens directions, ideas and diffs; empty allows everything."""
    templates_dir: Path | None = None
    """The folder of the templates that a server offers by name; those that come with Fumehood when empty."""
    data_mirror: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Where `fumehood template fetch` looks for templates' public data, as `MIRROR/NAME`; empty is where each says."""
    lab_dir: Path | None = None
    """The folder of packages an experiment may import; empty means `state_dir/lab/<hash>`."""
    derived_labs_dir: Path | None = None
    """Where the labs of templates with extra packages are built; empty means `state_dir/lab/derived`."""
    coder_python: Path | None = None
    """The Python of the environment that holds Aider; empty means `.venv-coder` of the checkout, where it is there."""
    coder_cap_usd: float = Field(default=5.0, ge=0, allow_inf_nan=False)
    """What all calls of one session of Aider may cost; a session that comes to it ends."""
    run_dir: Path = Path("/run/fumehood")
    """Where volumes and the lab are mounted for sandboxes; every parent is 0711."""
    egress: str = "live"
    """Where answers to network capabilities come from: `live`, `record`, `replay` or `off`."""
    egress_upstreams: dict[str, str] = Field(default_factory=dict)
    """Mirrors to ask in the place of a capability's own upstream; https only."""
    egress_doubles: dict[str, str] = Field(default_factory=dict)
    """Stand-ins for tests, at a loopback address of this machine."""
    egress_requests: int = 100
    """How many requests one execution may have sent up."""
    docker_runtime: str = ""
    """What starts containers: `runc`, which is also meant when it is empty, or `runsc` of gVisor."""
    ceilings: CeilingSettings = Field(default_factory=CeilingSettings)
    """What no execution may ask more of, set by whoever runs the machine."""
    storage: Literal["auto", "loop", "btrfs", "xfs", "none"] = "auto"
    """What gives workspaces their hard size; `auto` is the first of xfs and loop that holds."""
    storage_pool_mib: int = Field(default=0, ge=0, le=64 * 1024 * 1024)
    """The pool of the driver btrfs, taken from the disk at once; 0 is a quarter of what is free."""
    api_key: str = Field(default="", repr=False)
    """An admin key that the API takes from its first start on; empty has it make one, and print it once.

    The commands that ask a server send it.
    """
    reads_per_key: str = "1200/minute"
    """How often one API key may read."""
    writes_per_key: str = "300/minute"
    """How often one API key may change something."""
    at_once_cpus: float | None = Field(default=None, gt=0, le=65536)
    """The processors that the executions of this machine may ask for together; empty means those that it has."""
    at_once_memory_mib: int | None = Field(default=None, ge=16)
    """The same of their memory."""
    gpus: tuple[str, ...] = ()
    """The GPUs that the run workers of this machine may pass in, as Docker names them; a JSON list."""
    gpu_memory_mib: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """How much memory each of them has, in MiB; one that is not named is never shared."""
    log_format: Literal["text", "json"] = "text"
    """Lines for people, or JSON lines."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is told of what the platform does."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Where a worker or the gateway tells its own figures, on this machine only; 0 is nowhere."""
    otel_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    """Where traces go, over OTLP/HTTP; empty is nowhere."""
    gateway_secret: SecretStr = SecretStr("")
    """What signs the tokens that write workers show the gateway, in 64 hex digits; empty: a file in `state_dir`."""
    executions_secret: SecretStr = SecretStr("")
    """What signs the tokens of executions that may ask a model, in 64 hex digits: the HMAC-SHA256 of `executions` under
    the gateway's secret; empty: the file that the gateway leaves in `state_dir`.
    """
    cursor_secret: SecretStr = SecretStr("")
    """What signs the API's cursors, in 64 hex digits; empty: a file in `state_dir`."""
    secrets_dir: Path = SECRETS_DIR
    """Where settings may stand in files instead."""
    url: str = ""
    """The server that commands such as `fumehood submit` ask; empty means the one that `fumehood serve` starts here."""

    s3_endpoint: str = ""
    """Host, or host:port, of the S3 service that keeps artifacts; empty means a folder below `state_dir`."""
    s3_bucket: str = "fumehood"
    """The bucket; it must be there."""
    s3_create_bucket: bool = False
    """Whether to make the bucket where it is not there."""
    s3_access_key: str = ""
    """Who we are to the S3 service."""
    s3_secret_key: SecretStr = SecretStr("")
    """What proves it."""
    s3_region: str = "us-east-1"
    """The region that requests are signed for."""
    s3_secure: bool = True
    """Whether to speak TLS; plain http only where this says so."""
    s3_prefix: str = "artifacts"
    """What every key begins with."""
    s3_cache_mib: int = Field(default=10240, ge=1, le=64 * 1024 * 1024)
    """The size that the local copies of artifacts are cut back to."""

    @field_validator("gpus")
    @classmethod
    def _are_different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each GPU is named once, or a run that needs two would be given one twice")
        return value

    @field_validator("gateway_secret", "executions_secret", "cursor_secret")
    @classmethod
    def _is_secret(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text and not re.fullmatch("[0-9a-f]{64}", text):
            raise ValueError("a secret is 64 hex digits, as `openssl rand -hex 32` prints them")
        return value

    @property
    def resolved_database_url(self) -> str:
        """The database that is really used."""
        return self.database_url or f"sqlite:///{self.state_dir / 'fumehood.db'}"

    @property
    def derived_labs(self) -> Path:
        """Where the labs of templates with extra packages are really built."""
        return self.derived_labs_dir or self.state_dir / "lab" / "derived"

    @property
    def data_dir(self) -> Path:
        """The folder of templates' public data that was fetched."""
        return self.state_dir / "data"
