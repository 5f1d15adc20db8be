"""What launchers and accelerate's configuration say in environment variables: taken, or refused by name."""

import os
from collections.abc import Callable

from gapless.errors import ConfigError

TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Number of processes, this one's number, its number on this machine, and how many that has."""
LAUNCHERS = {
    "mpirun": (
        *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    "mpirun of MVAPICH": (
        *("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
        *("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ),
    # Of a job step: a batch script has the number of tasks too, and is one process.
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
    "mpiexec": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
"""The same of others, which accelerate joins on CPUs only, or not at all."""
PORT = "29500"


def read_processes() -> None:
    """Give the processes of every launcher torchrun's variables, by which torch and accelerate join.

    Processes without a GPU join as CPUs, which accelerate does not do by itself.

    Raises:
        ConfigError: there are several, and this one cannot know which it is, or where the first one is.
    """
    if TORCHRUN[0] not in os.environ:
        _translate()
    world = _number("WORLD_SIZE", 1) if "WORLD_SIZE" in os.environ else 1
    if world == 1:
        return
    for name in ("RANK", "LOCAL_RANK"):
        _number(name, 0, world)
    if "MASTER_ADDR" not in os.environ:
        raise ConfigError("MASTER_ADDR: not set, the processes need the address of the machine of the first one")
    os.environ.setdefault("MASTER_PORT", PORT)
    _choose_device(int(os.environ["LOCAL_RANK"]))


def _translate() -> None:
    for size, rank, local, here in LAUNCHERS.values():
        if os.environ.get(size, "1") != "1":
            names = zip((size, rank, local, here), TORCHRUN, strict=True)
            os.environ.update({ours: os.environ[theirs] for theirs, ours in names if theirs in os.environ})
            if os.environ.get(here) == os.environ[size]:  # all on one machine
                os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
            return


def _number(name: str, least: int, end: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None:
        raise ConfigError(f"{name}: not set, though there are several processes")
    if not text.isdecimal() or int(text) < least or (end is not None and int(text) >= end):
        raise ConfigError(f"{name}: {text!r} does not work, it must be {least} or more" + f", below {end}" * bool(end))
    return int(text)


def _choose_device(local: int) -> None:
    import torch  # heavy, and one process does not need to know

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None or kind.type == "mps":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif not _is_true("ACCELERATE_USE_CPU") and local >= torch.accelerator.device_count():
        devices = torch.accelerator.device_count()
        raise ConfigError(f"LOCAL_RANK: {local} does not work, this machine has {devices} device(s) to train on")


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "y", "t", "on")


def _is_more_than_one(name: str) -> bool:
    return os.environ.get(name, "1").strip() not in ("", "1", "1.0")


def _is_given(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() not in ("", "none")


REFUSED: dict[str, tuple[Callable[[str], bool], str]] = {
    "ACCELERATE_USE_DEEPSPEED": (_is_true, "DeepSpeed is not supported; FSDP with fsdp_version 2 shards a model too"),
    "ACCELERATE_USE_MEGATRON_LM": (_is_true, "Megatron-LM is not supported; FSDP with fsdp_version 2 shards too"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (_is_true, "tensor, context and sequence parallelism are not supported"),
    "ACCELERATE_USE_SAGEMAKER": (_is_true, "SageMaker's libraries are not supported; start torchrun there"),
    "ACCELERATE_USE_IPEX": (_is_true, "Intel's extension is not used; torch has its kernels"),
    "ACCELERATE_DOWNCAST_BF16": (_is_true, "it is for TPUs; set mixed precision to bf16"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        _is_more_than_one,
        "it would divide the loss; train.micro_batch_size splits a batch and keeps its numbers",
    ),
    "ACCELERATE_GRADIENT_CLIPPING": (_is_given, "write optim.grad_clip"),
}
"""Variables of accelerate that would change training, and are not carried through: when, and what to do instead."""


def check_accelerate(precision: str) -> None:
    """Refuse settings of accelerate that a run does not follow, before anything is loaded.

    Args:
        precision: ``train.precision``: auto for accelerate's, else what stands against it.

    Raises:
        ConfigError: names the variable and what works.
    """
    for name, (is_asked, instead) in REFUSED.items():
        if is_asked(name):
            raise ConfigError(f"{name}: {os.environ[name]!r} does not work: {instead}")
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision == "auto" and asked not in ("no", "bf16", "fp16"):
        raise ConfigError(f"ACCELERATE_MIXED_PRECISION: {asked!r} does not work, it must be no, bf16 or fp16")
    has_devices = _has_devices()
    if not has_devices and "fp16" in (precision, asked if precision == "auto" else ""):
        key = "train.precision" if precision == "fp16" else "ACCELERATE_MIXED_PRECISION"
        raise ConfigError(f"{key}: fp16 does not work on a CPU; bf16 or fp32 does")
    if not has_devices and _is_true("ACCELERATE_USE_FSDP"):
        raise ConfigError("ACCELERATE_USE_FSDP: FSDP does not work on CPUs; without it every process keeps the model")


def _has_devices() -> bool:
    import torch

    return torch.accelerator.is_available() and not _is_true("ACCELERATE_USE_CPU")


def join_processes() -> None:
    """Join the other processes for work in full precision, whatever accelerate says of training.

    Raises:
        ConfigError: as :func:`check_accelerate` and :func:`check_joined`.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check_accelerate("fp32")
    precision = None if AcceleratorState._shared_state else "no"  # after a training it stays as that has it
    check_joined(Accelerator(mixed_precision=precision).num_processes)  # PartialState would not join on CPUs


def check_joined(number: int) -> None:
    """Refuse processes that do not know of each other: they would write one folder.

    Args:
        number: of processes that this one has joined.

    Raises:
        ConfigError: it was started as one of another number.
    """
    asked = os.environ.get("WORLD_SIZE", "1")
    if asked != str(number):
        raise ConfigError(f"WORLD_SIZE: {asked} processes were started, and accelerate joined {number} of them")


def compiled() -> str | None:
    """The backend by which accelerate compiles the model, None if it does not."""
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    return None if backend in ("no", "") else backend
