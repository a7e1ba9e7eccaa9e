"""The model tests of transformers itself, from its source distribution, on connections of different state.

    pip download --no-binary :all: --no-deps transformers==5.23.0 && tar xzf transformers-5.23.0.tar.gz
    TRANSFORMERS_TESTS=transformers-5.23.0/tests pytest -o addopts= tests/model/test_transformers_suite.py

The distribution leaves out the tests of generation and of exporting, which are other mixins: empty ones stand for them.
Skipped is what needs an accelerator, flash attention or kernels, and what asks for parts that no decoder has (experts,
sub-configurations, an encoder): 54 tests, as for Llama. Four more: two ask for a plan of tensor parallelism, of which
there is none, and two for hidden states that hooks capture, which the model returns itself (see test_outputs.py).
"""

import importlib
import importlib.util
import os
import sys
import types
import unittest
from pathlib import Path

import pytest
import torch

from resformer import ResformerConfig, ResformerForCausalLM, ResformerModel
from resformer.model import configuration_resformer

WHERE = os.environ.get("TRANSFORMERS_TESTS")
KINDS = ["pre", "post*1,pre*1", "hyper", "denseformer", "attn_res", "residual_dual", "highway"]

pytestmark = pytest.mark.slow
if WHERE is None:
    pytest.skip("TRANSFORMERS_TESTS names no folder of transformers' tests", allow_module_level=True)


def theirs(name: str) -> types.ModuleType:
    """A module of that folder, as part of a package of its own."""
    package = "transformers_tests"
    if package not in sys.modules:
        sys.modules[package] = made = types.ModuleType(package)
        made.__path__ = [str(Path(WHERE).resolve())]
        for left_out, mixin in (
            ("exporters.test_export", "ExportTesterMixin"),
            ("generation.test_utils", "GenerationTesterMixin"),
        ):
            parent, _, _ = left_out.partition(".")
            sys.modules[f"{package}.{parent}"] = types.ModuleType(f"{package}.{parent}")
            sys.modules[f"{package}.{left_out}"] = empty = types.ModuleType(left_out)
            setattr(empty, mixin, type(mixin, (), {}))
    return importlib.import_module(f"{package}.{name}")


class Tester:
    """What the mixin asks for: a configuration and inputs. Attributes are read by their usual names."""

    batch_size, seq_length, is_training = 3, 7, True
    base_model_class, causal_lm_class = ResformerModel, ResformerForCausalLM
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 99, 32, 2, 4

    def __init__(self, parent: unittest.TestCase, residual: str):
        self.parent, self.residual = parent, residual

    def get_config(self) -> ResformerConfig:
        return ResformerConfig(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads, num_key_value_heads=2, max_position_embeddings=64,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, residual=self.residual,
        )  # fmt: skip

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


common = theirs("test_modeling_common")
common.MODEL_MAPPING_NAMES["resformer"] = "ResformerModel"  # or a loss is asked of it
common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["resformer"] = "ResformerForCausalLM"
# What the mixin sets on any configuration, whether it knows it or not; elsewhere such a key is a misspelt one.
configuration_resformer._KEYS_OF_TRANSFORMERS |= {
    "rms_norm_eps", "layer_norm_eps", "norm_epsilon", "layer_norm_epsilon", "batch_norm_eps", "post_norm_eps",
}  # fmt: skip
LEFT_OUT = ("test_generation_tester_mixin_inheritance",)  # of the tests that the distribution leaves out


def suite(residual: str) -> type[unittest.TestCase]:
    def set_up(self):
        self.model_tester = Tester(self, residual)

    attributes = {
        "all_model_classes": (ResformerModel, ResformerForCausalLM),
        "setUp": set_up,
        "__module__": __name__,
        "__test__": True,
        **dict.fromkeys(LEFT_OUT),
    }
    return type(f"Test_{''.join(c if c.isalnum() else '_' for c in residual)}",
                (common.ModelTesterMixin, unittest.TestCase), attributes)  # fmt: skip


for kind in KINDS:
    made = suite(kind)
    globals()[made.__name__] = made
