"""How a model is described."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.generation import GenerationConfig

from .options import ResformerOptions
from .residual import PARALLEL, SUBLAYERS, Site
from .specification import Connection, ResidualError, build, did_you_mean, place, resolve
from .trust import found_in_a_file


@strict
class ResformerConfig(ResformerOptions, PreTrainedConfig):
    __doc__ = ResformerOptions.__doc__

    model_type = "resformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    def __post_init__(self, **kwargs):
        self._validate_ranges()
        widths = self.widths()
        if self.head_dim is None:
            self.head_dim = widths[0] // self.num_attention_heads
            if widths[0] % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {widths[0]} does not divide into num_attention_heads "
                    f"{self.num_attention_heads}; change one of them, or give head_dim"
                )
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.intermediate_size is None and len(set(widths)) == 1:
            self.intermediate_size = self._mlp_width(widths[0])
        self._refuse_unknown_keys(kwargs)
        super().__post_init__(**kwargs)
        # Not in transformers' `validate_architecture`, which wraps each message in two lines of its own.
        self._validate_numbers()
        self._validate_residual()

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As in transformers. A checkpoint's own code, which ``trust_remote_code`` let run, may import what it names;
        elsewhere a class of one's own must be imported already, or named in RESFORMER_TRUST."""
        remote = cls.__module__.startswith("transformers_modules.")
        try:
            with contextlib.nullcontext() if remote else found_in_a_file():
                return super().from_dict(config_dict, **kwargs)
        except (AttributeError, IndexError, KeyError, TypeError) as error:  # transformers' own keys have no checks
            raise ValueError(f"this is no configuration of a model: {' '.join(str(error).split())}") from error

    def _refuse_unknown_keys(self, keys) -> None:
        """transformers would take a misspelt key as an attribute that nothing reads."""
        known = set(type(self).__dataclass_fields__) | _KEYS_OF_TRANSFORMERS
        for key in keys:
            if key not in known and not key.startswith("_"):
                raise ValueError(f"ResformerConfig has no key {key!r}{did_you_mean(key, sorted(known))}")

    def _validate_ranges(self) -> None:
        for item in dataclasses.fields(self):
            value, (low, high) = getattr(self, item.name), item.metadata.get("range", (None, None))
            if low is not None and isinstance(value, (int, float)) and not low <= value <= high:
                raise ValueError(f"{item.name} is {value}; it must be at least {low} and at most {high}")
        self._validate_rope(self.rope_parameters or {})

    @staticmethod
    def _validate_rope(rope: dict[str, Any]) -> None:
        """transformers only warns of what it does not know, and of a number that is none it says nothing."""
        kind = rope.get("rope_type", "default")
        if not isinstance(kind, str) or kind not in _ROPE_NEEDS:
            raise ValueError(f"rope_parameters: unknown rope_type {kind!r}{did_you_mean(kind, _ROPE_NEEDS)}")
        if missing := [key for key in _ROPE_NEEDS[kind] if key not in rope]:
            raise ValueError(f"rope_parameters: rope_type {kind!r} needs {missing[0]}; give it")
        for key, value in rope.items():
            if key == "rope_type" or value is None:
                continue
            if key not in _ROPE_NUMBERS:
                raise ValueError(f"rope_parameters has no key {key!r}{did_you_mean(key, _ROPE_NUMBERS)}")
            low, high = _ROPE_NUMBERS[key]
            for number in value if isinstance(value, list) and key.endswith("_factor") else [value]:
                if not isinstance(number, (int, float)) or not low <= number <= high:
                    raise ValueError(
                        f"rope_parameters: {key} is {value!r}; it must be a number from {low:g} to {high:g}"
                    )

    def _validate_numbers(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        rotated = int(self.head_dim * (self.rope_parameters or {}).get("partial_rotary_factor", 1.0))
        if self.position_embedding == "rope" and (rotated % 2 or not rotated):
            part = "" if rotated == self.head_dim else f", of which partial_rotary_factor rotates {rotated}"
            raise ValueError(f"head_dim {self.head_dim}{part} is odd; rope needs an even one")
        for key in ("full_attention_every", "local_rope_theta"):
            if getattr(self, key) is not None and self.sliding_window is None:
                raise ValueError(f"{key} {getattr(self, key)} says nothing without a sliding_window; give one")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"unknown hidden_act {self.hidden_act!r}{did_you_mean(self.hidden_act, ACT2FN)}")
        if self.qkv_norm and self.qk_norm != "none":
            raise ValueError(f"qkv_norm norms queries and keys too; leave qk_norm at none, not {self.qk_norm!r}")
        widths = self.widths()
        if self.tie_word_embeddings and widths[0] != widths[-1]:
            raise ValueError(
                f"hidden_size goes from {widths[0]} to {widths[-1]}: such a model cannot tie its embeddings; set "
                "tie_word_embeddings to false"
            )

    def _validate_residual(self) -> None:
        """Build each distinct connection of each segment without memory, so that a bad option is known early."""
        connections, seen = self.connections(), set()
        with torch.device("meta"):
            for layer, (block, sites) in enumerate(zip(connections, self.sites(), strict=True)):
                for sublayer, site in sites.items():
                    key = (site.segment_start, sublayer, site.input_size)
                    if key not in seen:
                        seen.add(key)
                        build(self.at(layer), block[sublayer], site)

    def widths(self) -> list[int]:
        """Width of the stream in each block.

        Raises:
            ValueError: if ``hidden_size`` does not describe ``num_hidden_layers`` widths in their range.
        """
        if isinstance(self.hidden_size, str):
            widths: list[int] = []
            for item in self.hidden_size.split(","):
                width, _, count = (part.strip() for part in item.partition("*"))
                if not width.isdecimal() or not (count.isdecimal() or count in ("", "rest")):
                    raise ValueError(f"hidden_size: cannot read {self.hidden_size!r}; write for example 256*4,384*4")
                fill = self.num_hidden_layers - len(widths)
                # One too many is enough to know that they are.
                widths += [int(width)] * (fill if count == "rest" else min(int(count or 1), fill + 1))
        elif isinstance(self.hidden_size, list):
            widths = list(self.hidden_size)
        else:
            widths = [self.hidden_size] * self.num_hidden_layers
        if len(widths) != self.num_hidden_layers:
            raise ValueError(
                f"hidden_size {self.hidden_size!r} describes {len(widths)} blocks, num_hidden_layers is "
                f"{self.num_hidden_layers}"
            )
        low, high = type(self).__dataclass_fields__["hidden_size"].metadata["range"]
        if not low <= min(widths) <= max(widths) <= high:
            raise ValueError(f"hidden_size is {self.hidden_size!r}; it must be at least {low} and at most {high}")
        return widths

    def at(self, layer: int) -> "ResformerConfig":
        """This configuration as a block sees it: ``hidden_size`` and ``intermediate_size`` are numbers."""
        width = self.widths()[layer]
        if self.hidden_size == width:
            return self
        config = copy.copy(self)
        config.hidden_size = width
        config.intermediate_size = self.intermediate_size or self._mlp_width(width)
        return config

    def _mlp_width(self, width: int) -> int:
        return -(-4 * width * 2 // 3 // 32) * 32 if self.gated_mlp else 4 * width

    def attention_kinds(self) -> list[str]:
        """``full_attention`` or ``sliding_attention`` for each block, as transformers calls them."""
        every, blocks = self.full_attention_every, range(1, self.num_hidden_layers + 1)
        full = [self.sliding_window is None or (every is not None and block % every == 0) for block in blocks]
        return ["full_attention" if all_seen else "sliding_attention" for all_seen in full]

    @property
    def layer_types(self) -> list[str]:
        """What transformers' caches and masks ask of a model whose blocks differ, and find in no other."""
        if self.full_attention_every is None:
            raise AttributeError("layer_types")
        return self.attention_kinds()

    @property
    def sublayers(self) -> tuple[str, ...]:
        """The sites of a block."""
        return PARALLEL if self.parallel_block else SUBLAYERS

    def connections(self) -> list[dict[str, Connection]]:
        """``residual`` resolved: one ``{sublayer: Connection}`` for each block.

        Raises:
            ResidualError: if it does not describe the stack.
        """
        blocks = resolve(self.residual, self.num_hidden_layers)
        if not self.parallel_block:
            return blocks
        for layer, block in enumerate(blocks):
            if block["attention"] != block["mlp"]:
                raise ResidualError(
                    f"residual: layer {layer} has {block['attention'].kind!r} for attention and {block['mlp'].kind!r} "
                    "for mlp; with parallel_block they share one connection"
                )
        return [{"parallel": block["attention"]} for block in blocks]

    def sites(self) -> list[dict[str, Site]]:
        """One ``{sublayer: Site}`` for each block."""
        return place(self.connections(), self.sublayers, self.widths())


_ROPE_NEEDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""Kinds of ``rope_parameters`` (transformers' ``ROPE_INIT_FUNCTIONS``) and what each must be told."""
_ROPE_NUMBERS = {
    "rope_theta": (1e-9, 1e12),
    "partial_rotary_factor": (1e-9, 1),
    "original_max_position_embeddings": (1, 2**26),
    "factor": (1, 1e6),
    **dict.fromkeys(("short_factor", "long_factor", "low_freq_factor", "high_freq_factor"), (1e-9, 1e9)),
    **dict.fromkeys(("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), (0, 1e9)),
    "truncate": (False, True),
}
"""What they may be told, and from where to where."""
_KEYS_OF_TRANSFORMERS = set(GenerationConfig._get_default_generation_params()) | {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "rope_scaling",
    "rope_theta",
    "tie_last_hidden_states",
    "torch_dtype",
    "transformers_version",
}


def _one_line(create: Callable[..., None]) -> Callable[..., None]:
    """A value of a wrong type is a ValueError like any other, which it is not in huggingface_hub."""

    @functools.wraps(create)
    def create_or_say(self, *args, **kwargs) -> None:
        try:
            create(self, *args, **kwargs)
        except StrictDataclassFieldValidationError as error:
            raise ValueError(str(error.__cause__ or error)) from error

    return create_or_say


ResformerConfig.__init__ = _one_line(ResformerConfig.__init__)  # type: ignore[method-assign]
ResformerConfig.register_for_auto_class()
