"""The experiment file but for its data: one typed model per block, with every default."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from harness import storage
from harness.config.block import Block
from harness.config.data import DatasetBlock

Selection = Literal["last", "best_validation", "best_test"]


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str | int) else value


def _started(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) else value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Of an experiment, which is also a folder's."""
TimeSteps = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_list), Field(min_length=1)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_as_list), Field(min_length=1)]


class NetworkBlock(Block):
    """Which architecture; the other keys are its options (`harness list networks`)."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Options of the architecture itself."""
        return dict(self.model_extra or {})


class LrScaling(Block):
    """The learning rate for another batch size than the one it was chosen for."""

    rule: Literal["linear", "sqrt"] = "linear"
    """lr x batch_size / reference (Goyal et al., arXiv 1706.02677), or its square root (arXiv 1404.5997)."""
    reference: int = Field(ge=1)
    """The batch size that `lr` was chosen for."""


class Train(Block):
    """The training recipe, the same for every method unless a method's own `train` overrides a key."""

    LATER = frozenset({"compile", "lr_scaling", "micro_batches", "sync_batch_norm"})
    epochs: int = Field(20, ge=0)
    """0 trains nothing: the weights are judged as they are at the start."""
    batch_size: int = Field(64, ge=1)
    """Samples per update over all workers together, however many there are."""
    micro_batches: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Parts that each worker's share of a batch is computed in, one after the other, with one update behind the last.
    The number of samples has to be a multiple. `auto`: one part, and twice as many whenever memory does not suffice.
    Batch norm sees one part at a time."""
    lr_scaling: LrScaling | None = None
    """How the learning rate follows `batch_size`; None: not at all."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """Only for sgd."""
    nesterov: bool = False
    """Only for sgd."""
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    """Epochs at which `step` multiplies the learning rate by `gamma`."""
    gamma: float = Field(0.1, gt=0)
    """Only for the schedule `step`."""
    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises linearly from zero."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; larger ones are scaled down."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    sync_batch_norm: bool = False
    """Batch norm over all workers' samples; else each worker normalises its own, and rank 0's statistics are kept.
    Several workers then learn what one does, to rounding."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16` computes under autocast; weights stay float32."""
    compile: bool = False
    """Fuse the neurons' loops over time by torch.compile on CPUs: seconds once for each T, then faster; same spikes."""
    deterministic: bool = True
    """Ask torch for algorithms that repeat bit for bit."""
    limit_batches: int | None = Field(None, ge=1)
    """Batches per pass over the data; for trying things out only."""

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        given = self.model_fields_set
        for key in ("momentum", "nesterov"):
            if self.optimizer != "sgd" and key in given and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"'{key}' has no effect with optimizer '{self.optimizer}'; remove it or use 'sgd'")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule 'step' needs 'milestones', the epochs at which the learning rate drops")
        if self.schedule != "step" and self.milestones:
            raise ValueError(f"'milestones' has no effect with schedule '{self.schedule}'; use 'step'")
        return self


class Start(Block):
    """From whose trained weights a method begins: another method's trial on the same network and data, same seed."""

    method: str
    """Label of the other method in this file."""
    time_steps: int | None = Field(None, ge=1)
    """Which T of it; by default the only one that there is, else the same T."""


class MethodBlock(Block):
    """A training method with its settings; listed values under `grid` are all combined."""

    name: str
    label: str | None = None
    """What tables call it; needed when one method stands in the file twice."""
    network: Annotated[NetworkBlock | None, BeforeValidator(_named)] = None
    """Another architecture than the experiment's."""
    settings: dict[str, Any] = {}
    """The method's hyperparameters (`harness list methods --method NAME` prints them)."""
    grid: dict[str, list[Any]] = {}
    """Hyperparameter -> the values to try."""
    time_steps: TimeSteps | None = None
    """Other time steps than the experiment's."""
    train: dict[str, Any] = {}
    """Keys of `train` that differ for this method."""
    start: Annotated[Start | None, BeforeValidator(_started)] = None
    """Begin from another method's trained weights instead of fresh ones."""


class Scale(Block):
    """How much machine a trial gets."""

    workers: int = Field(1, ge=1)
    """Processes that train one trial together (data parallel)."""
    cpus_per_worker: int = Field(1, ge=1)
    gpus_per_worker: float | Literal["auto"] = "auto"
    """`auto`: one where the cluster has any, else none."""
    memory_gb_per_worker: float | None = Field(None, gt=0)
    """Memory that a node must have left for a worker to be put there; None: trials are placed without regard to it."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """Workers of a trial on as few nodes as possible, or on as many; `strict_…`: all on one, no two on one."""
    timeout_seconds: int = Field(600, ge=1)
    """After so long without a message from another worker, which may be on a node that is gone, a worker gives up."""


class Range(Block):
    """Where a searched value is drawn from: `low` to `high`, or one of `choices`."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give either 'low' and 'high' or 'choices'")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"'low' ({self.low}) must be smaller than 'high' ({self.high})")
        if self.log and (self.low or 0) <= 0:
            raise ValueError("'log' needs 'low' above zero")
        return self


class Asha(Block):
    """Stop the worse part of the trials early, judged by validation accuracy (arXiv 1810.05934)."""

    grace_epochs: int = Field(1, ge=1)
    """Epochs that every trial may train."""
    reduction_factor: float = Field(3, gt=1)
    """One in this many trials goes on at each rung."""


class Sweep(Block):
    """How the trials are chosen."""

    search: Literal["grid", "random", "optuna"] = "grid"
    trials: int | None = Field(None, ge=1)
    """Points tried for each method, T and seed by `random` and `optuna`."""
    space: dict[str, Range | Literal["default"]] = {}
    """`settings.KEY` or `train.KEY` -> where to look; `default` is the method's own search range."""
    seed: int = 0
    """Seed of the search itself."""
    asha: Asha | None = None
    max_concurrent: int | None = Field(None, ge=1)
    """Trials at once; by default as many as the machines hold."""
    max_failures: int = Field(2, ge=0)
    """How often a trial whose process died is continued from its checkpoint."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Updates after which a trial is also saved inside an epoch, to go on with the exact next sample."""

    @model_validator(mode="after")
    def _search_is_complete(self) -> Self:
        if self.search == "grid":
            for key in ("trials", "space", "asha"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"'{key}' has no effect with search 'grid'; use 'random' or 'optuna'")
        elif self.trials is None or not self.space:
            raise ValueError(f"search '{self.search}' needs 'trials' (a number) and 'space' (what is searched)")
        return self


class Evaluation(Block):
    """How trained networks are judged. The test split decides nothing, except under `best_test`."""

    selection: Selection = "best_validation"
    """Which epoch's weights count. `best_test` peeks, to compare with papers that do; tables say so."""
    batch_size: int = Field(256, ge=1)
    confidences: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
    """Softmax probabilities of the likeliest class at which a simulation may end before T: early exit."""
    latency_batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_list), Field(min_length=1)
    ] = (1, 64)
    """Samples in a call whose time is measured, at T steps and at every power of two below."""
    latency_repeats: int = Field(100, ge=0)
    """Timed calls of each at most; 0 leaves latency out."""
    latency_seconds: float = Field(0.2, gt=0)
    """Seconds that all timed calls of a trial may take together; but each is made 5 times, or for 5 seconds. Of fewer
    than 100 calls, the 99th percentile is the slowest: for a better one, give more time."""

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, given: Any) -> Any:
        if isinstance(given, dict) and "latency_batch_size" in given:
            size = given["latency_batch_size"]
            raise ValueError(f"'latency_batch_size' is now a list: write 'latency_batch_sizes: [{size}]'")
        return given

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        for key in ("latency_batch_sizes", "latency_seconds"):
            if self.latency_repeats == 0 and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"'{key}' has no effect with 'latency_repeats' 0, which leaves latency out")
        if len(set(self.confidences)) < len(self.confidences):
            raise ValueError(f"'confidences' names one twice: {list(self.confidences)}")
        return self


class Tracking(Block):
    """Where records are mirrored to. The files under `results` stay the truth."""

    mlflow: bool = True
    uri: str | None = None
    """MLflow tracking URI; by default MLFLOW_TRACKING_URI, else an SQLite file in the current folder."""


class Experiment(Block):
    """One experiment: every combination that it names is one trial."""

    name: Name
    """Names the folder under `results`."""
    dataset: Annotated[DatasetBlock, BeforeValidator(_named)]
    network: Annotated[NetworkBlock, BeforeValidator(_named)]
    methods: tuple[Annotated[MethodBlock, BeforeValidator(_named)], ...] = Field(min_length=1)
    time_steps: TimeSteps = (4,)
    """Simulation lengths T; each is trained and evaluated on its own."""
    seeds: Seeds = (0,)
    train: Train = Train()
    scale: Scale = Scale()
    sweep: Sweep = Sweep()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
    results: str = "results"
    """Folder that holds a folder per experiment, or such a place in an object store (s3://bucket/results)."""

    @model_validator(mode="after")
    def _validates_when_it_must(self) -> Self:
        if self.dataset.validation == 0 and (self.evaluation.selection == "best_validation" or self.compares):
            raise ValueError(
                "'dataset.validation' is 0: nothing is left to choose by; hold some samples out, or use evaluation."
                "selection 'last' or 'best_test' without a search"
            )
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [entry.label or entry.name for entry in self.methods]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two methods are called '{label}'; give one of them another 'label'")
        return self

    @property
    def compares(self) -> bool:
        """Whether trials are told apart by their validation accuracy while the sweep runs or after it."""
        return self.sweep.search != "grid" or any(entry.grid for entry in self.methods)

    @property
    def folder(self) -> Path:
        """Where this experiment's records stand, absolute or in an object store."""
        return storage.at(self.results) / self.name


def schema() -> dict[str, Any]:
    """JSON schema of an experiment file, for editors: also the short forms (a name instead of a block)."""
    content = Experiment.model_json_schema()
    _allow(content["properties"], ("dataset", "network"), {"type": "string"})
    _allow(content["properties"], ("time_steps", "seeds"), {"type": "integer"})
    methods = content["properties"]["methods"]
    methods["items"] = {"anyOf": [methods["items"], {"type": "string"}]}
    _allow(content["$defs"]["MethodBlock"]["properties"], ("network", "start"), {"type": "string"})
    _allow(content["$defs"]["MethodBlock"]["properties"], ("time_steps",), {"type": "integer"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "snn-harness experiment", **content}


def _allow(properties: dict[str, Any], keys: tuple[str, ...], short: dict[str, str]) -> None:
    for key in keys:
        properties[key] = {"anyOf": [short, properties[key]]}
