"""Where a run computes: in one process or in one of several, each with its share of every batch.

Accelerate finds the device, starts the process group that `torchrun` or `accelerate launch` describes, and gives
autocast and collectives. Wrapping is torch's own: Accelerate's `prepare` patches the model's forward where precision is
mixed, and shards neither without an optimizer nor on CPUs.
"""

import atexit
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from moe_emergence.errors import ConfigError, Interrupted, TrainingError
from moe_emergence.models.families import family_of
from moe_emergence.training.runtime import choose_device

Precision = Literal["fp32", "bf16"]
Parallel = Literal["ddp", "fsdp2"]
T = TypeVar("T")

# The longest one process may work alone. A peer that dies is noticed at once: its connections close, and the launcher
# ends the others.
TIMEOUT = timedelta(minutes=30)
_OTHER_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_FSDP": "FSDP",
}


class Engine:
    """One process of a run. Alone it adds nothing: each method is then what torch would have done without it.

    Every process calls the methods that communicate (`wrap`, `mean`, `gather`, `any`, `on_main`, `clip_gradients`,
    `full`) in the same order, and the forward and backward of a sharded model likewise.
    """

    def __init__(self, accelerator: Accelerator, parallel: Parallel, *, made_group: bool) -> None:
        self._accelerator = accelerator
        self._made_group = made_group
        # Accelerate numbers CPUs too; tensors do not.
        self.device: torch.device = torch.device("cpu") if accelerator.device.type == "cpu" else accelerator.device
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        self.precision: Precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
        self.parallel = parallel

    @classmethod
    def start(cls, device: str, precision: Precision, parallel: Parallel) -> "Engine":
        """Take this process's place among those that were launched; `parallel` matters only where there are several.

        The launcher says how many processes there are; device and precision are the configuration's, whatever
        `accelerate config` has stored. A process may start any number of engines, one after the other.

        Raises:
            ConfigError: the device is not there, or cannot do what is asked of it.
        """
        chosen = _device_of_process(device)
        # Accelerate keeps its state for the whole process and refuses to change it; the process group stays.
        AcceleratorState._reset_state(reset_partial_state=True)
        had_group = distributed.is_initialized()
        try:
            accelerator = Accelerator(
                cpu=chosen.type == "cpu",
                mixed_precision="no" if precision == "fp32" else precision,
                kwargs_handlers=_group_options(chosen),
            )
        except ValueError as error:
            if precision == "fp32":
                raise
            raise ConfigError(
                f"execution.precision is {precision!r}, which {chosen} cannot do ({error}): choose fp32"
            ) from error
        engine = cls(accelerator, parallel, made_group=distributed.is_initialized() and not had_group)
        if engine._made_group:
            atexit.register(engine.close)
        return engine

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def wrap(self, model: PreTrainedModel) -> nn.Module:
        """Move the model to the device and return what to call forward on; the optimizer is to be made after this.

        With DDP that is a wrapper; with FSDP2 the model itself, its parameters sharded in place. Names, settings and,
        with DDP, evaluation on one process are the model's own. Every process goes on with the main one's parameters.
        """
        model.to(self.device)
        if self.world_size == 1:
            return model
        if self.parallel == "ddp":
            # Looking for unused parameters keeps DDP from laying out its buckets anew after the first backward: with
            # three or more processes a continued run would add gradients in another order than an uninterrupted one.
            # No device ids: for them DDP would move the arguments.
            return DistributedDataParallel(model, find_unused_parameters=True)
        for parameter in model.parameters():
            distributed.broadcast(parameter.detach(), src=0)
        mesh = init_device_mesh(self.device.type, (self.world_size,))
        for block in family_of(model.config).blocks_of(model):
            fully_shard(block, mesh=mesh)
        # By default the root's parameters stay whole from a forward to its backward: an optimizer made, or weights
        # loaded, after an evaluation would act on copies.
        return cast(nn.Module, fully_shard(model, mesh=mesh, reshard_after_forward=True))

    def autocast(self) -> AbstractContextManager[None]:
        """Around every forward, also in evaluation: bf16 autocast where that is the precision, else nothing."""
        return self._accelerator.autocast()

    @contextmanager
    def no_sync(self, wrapped: nn.Module) -> Iterator[None]:
        """Around forward and backward of all but a step's last micro-batch: gradients add up in each process alone."""
        if isinstance(wrapped, DistributedDataParallel):
            with wrapped.no_sync():
                yield
        elif isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                wrapped.set_requires_gradient_sync(True)
        else:
            yield

    def slice_of(self, count: int) -> slice:
        """This process's consecutive share of `count` sequences.

        Raises:
            ConfigError: they do not divide evenly.
        """
        if count % self.world_size:
            raise ConfigError(
                f"{count} sequences do not divide among {self.world_size} processes: make training.batch_size (and "
                f"training.micro_batch_size) a multiple of {self.world_size}, or launch another number of processes"
            )
        share = count // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over processes, in the tensor's own dtype and without a graph."""
        return self._reduce(tensor, "mean")

    def gather(self, tensor: Tensor) -> Tensor:
        """The processes' tensors, of one shape, joined along dimension 0 by rank; a scalar counts as one row."""
        rows = tensor.detach().reshape(tensor.shape or (1,))
        if self.world_size == 1:
            return rows
        joined: Tensor = self._accelerator.gather(rows.to(self.device))
        return joined.to(tensor.device)

    def any(self, flag: bool) -> bool:
        """True in every process if it is in one."""
        return bool(self._reduce(torch.tensor(int(flag)), "max"))

    def on_main(self, call: Callable[[], T]) -> T:
        """What `call` returns in the main process, which alone runs it; the others wait and get a copy.

        Raises:
            TrainingError: in the other processes, when it raised in the main one, which raises what it raised.
            Interrupted: likewise, when the main one was asked to stop.
        Interrupted: likewise, when the main one was asked to stop.
        """
        if self.world_size == 1:
            return call()
        raised: BaseException | None = None
        outcome: list[Any] = [None, None, False]  # what it returned, how it failed, whether it was asked to stop
        if self.is_main:
            try:
                outcome[0] = call()
            except BaseException as error:  # whatever it is, the others wait to hear of it
                raised, outcome[1:] = error, [f"{type(error).__name__}: {error}", isinstance(error, Interrupted)]
        distributed.broadcast_object_list(outcome, src=0)
        if raised is not None:
            raise raised
        if outcome[2]:
            raise Interrupted(outcome[1])
        if outcome[1] is not None:
            raise TrainingError(f"the main process failed, and process {self.rank} stops with it: {outcome[1]}")
        return cast(T, outcome[0])

    def clip_gradients(self, model: nn.Module, max_norm: float) -> float:
        """Scale the gradients so that their norm, over the whole model, is at most `max_norm`; returns what it was.

        Gradients of a norm that is not finite stay as they are: scaling would spread the fault to all of them.
        """
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        found = float(_whole(norm))
        if math.isfinite(found):
            nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
        return found

    def full(self, tensor: Tensor) -> Tensor:
        """The whole of a parameter, gradient or moment, which may be sharded, in CPU memory."""
        return _whole(tensor.detach()).cpu().contiguous()

    def like(self, tensor: Tensor, parameter: Tensor) -> Tensor:
        """A whole tensor on the parameter's device, and sharded as it is; of another shape (a step count), left whole.

        Every process must hand in the same tensor. Nothing is communicated.
        """
        moved = tensor.to(parameter.device)
        if not isinstance(parameter, DTensor) or tensor.shape != parameter.shape:
            return moved
        return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def close(self) -> None:
        """Leave the process group, if this engine joined it."""
        if self._made_group and distributed.is_initialized():
            distributed.destroy_process_group()
        self._made_group = False

    def _reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        if self.world_size == 1:
            return tensor.detach()
        reduced: Tensor = self._accelerator.reduce(tensor.detach().to(self.device), reduction)
        return reduced.to(tensor.device)


def _device_of_process(name: str) -> torch.device:
    """The device asked for, once it is clear that this process can have it."""
    for variable, other in _OTHER_ENGINES.items():
        if _is_set(variable):
            raise ConfigError(
                f"accelerate launch asks for {other}: launch without it, and choose execution.parallel ddp or fsdp2"
            )
    cpu_only = _is_set("ACCELERATE_USE_CPU")
    device = choose_device("cpu" if cpu_only and name == "auto" else name)
    if cpu_only and device.type != "cpu":
        raise ConfigError(f"accelerate launch --cpu leaves no place for execution.device {name!r}: choose auto or cpu")
    if _launched_processes() > 1:
        _check_room(device, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return device


def _check_room(device: torch.device, processes: int) -> None:
    """Whether several processes can compute on this machine's devices of that kind."""
    if device.type == "mps":
        raise ConfigError("execution.device mps serves one process: launch one, or choose cpu")
    if device.type == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(
            f"{processes} processes were launched on a machine with {torch.cuda.device_count()} CUDA devices: launch "
            "one a device, or choose execution.device cpu"
        )


def _group_options(device: torch.device) -> list[Any]:
    """For CUDA both backends, so that tensors in CPU memory can be sent too."""
    if _launched_processes() == 1:
        return []
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    return [InitProcessGroupKwargs(backend=backend, timeout=TIMEOUT)]


def _launched_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in {"1", "true", "yes", "on"}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
