"""FSDP2 on a CPU: accelerate turns to it on accelerators alone."""

from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState


def shard_with_fsdp2() -> None:
    """From now on accelerate does on a CPU what it does on accelerators when its config asks for FSDP2."""
    initialise = AcceleratorState.__init__

    def and_shard(self, *args, **kwargs):
        is_first = not AcceleratorState._shared_state
        initialise(self, *args, **kwargs)
        if is_first:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=["LlamaDecoderLayer"],
                cpu_ram_efficient_loading=False,
            )

    AcceleratorState.__init__ = and_shard
