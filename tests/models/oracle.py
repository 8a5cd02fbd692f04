"""Random small DeepSeek-V4 models in transformers, the oracle of the whole-model tests.

`case(n)` is a configuration; 36 in a row hold every pair of first and last layer kind with every
number of hash layers. All parameters are random, those included that transformers initialises to 0.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

_TYPES = {
    "swa": "sliding_attention",
    "csa": "compressed_sparse_attention",
    "hca": "heavily_compressed_attention",
}
_RATIOS = {"swa": 0, "csa": 4, "hca": 128}
_KINDS = tuple(_TYPES)
# (num_attention_heads, o_groups)
_HEADS = ((4, 2), (6, 3), (8, 4), (2, 1), (3, 3), (4, 1), (5, 5), (12, 2))
# (head_dim, qk_rope_head_dim, index_head_dim)
_WIDTHS = ((32, 8, 16), (24, 6, 18), (40, 16, 16), (48, 4, 12), (36, 18, 20), (20, 20, 20))
# (CSA, HCA) tokens per entry; the second is what released models have
_RATES = ((4, 8), (4, 128), (4, 128), (2, 16), (4, 32), (8, 64))
_WINDOWS = (128, 7, 16, 4, 31, 64)
_LENGTHS = (131, 257, 128, 150, 127, 260, 132, 199, 129, 256, 63, 515)

# Length up to which other sequences of the model may be compared too.
LONGEST_OTHER = 140


@dataclass(frozen=True, slots=True)
class Case:
    """One model.

    Attributes:
        number: seeds everything.
        kinds: of the layers, `swa`, `csa`, `hca`.
        hash_layers: how many of the first layers route by token id.
        tokens: length of the test sequence.
        rates: tokens per entry of CSA and of HCA layers.
        fields: the other fields of the configuration.
    """

    number: int
    kinds: tuple[str, ...]
    hash_layers: int
    tokens: int
    rates: tuple[int, int]
    fields: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.number}-{'-'.join(self.kinds)}-hash{self.hash_layers}-{self.tokens}"


def case(number: int) -> Case:
    """Configuration `number`; the same each time."""
    draw = random.Random(number)
    first, last = _KINDS[number % 3], _KINDS[number // 3 % 3]
    middle = draw.choices(_KINDS, k=draw.randint(1, 3))
    heads, groups = draw.choice(_HEADS)
    width, rope, index_width = draw.choice(_WIDTHS)
    tokens = draw.choice(_LENGTHS)
    rates = draw.choice(_RATES)
    entries = -(-max(tokens, LONGEST_OTHER) // rates[0])
    # Exact ties at 0 (every head's relu closed) need many heads, or no selection.
    select = draw.random() < 0.6
    experts = draw.randint(4, 9)
    fields = dict(
        vocab_size=draw.choice((97, 160, 211, 320)),
        hidden_size=draw.choice((40, 52, 64, 71)),
        moe_intermediate_size=draw.choice((19, 32, 40)),
        num_attention_heads=heads,
        head_dim=width,
        q_lora_rank=draw.choice((24, 33)),
        o_groups=groups,
        o_lora_rank=draw.choice((12, 16, 21)),
        n_routed_experts=experts,
        num_experts_per_tok=draw.choice((1, 2, 2, 3, 4)),
        routed_scaling_factor=draw.choice((1.0, 1.5, 2.5)),
        swiglu_limit=draw.choice((0.5, 1.5, 10.0)),
        sliding_window=draw.choice(_WINDOWS),
        index_n_heads=32 if select else 4,
        index_head_dim=index_width,
        index_topk=draw.choice((5, 8, 17)) if select else entries + draw.choice((0, 30)),
        hc_mult=draw.choice((2, 3, 4, 5)),
        hc_sinkhorn_iters=draw.choice((1, 4, 20)),
        max_position_embeddings=8192,
        rope_scaling=dict(
            type="yarn",
            factor=draw.choice((4, 16)),
            original_max_position_embeddings=draw.choice((64, 512)),
            beta_fast=32,
            beta_slow=1,
        )
        if draw.random() < 0.8
        else None,
        qk_rope_head_dim=rope,
    )
    return Case(number, (first, *middle, last), number // 9 % 4, tokens, rates, fields)


def config(case: Case) -> DeepseekV4Config:
    """The configuration in transformers' own fields."""
    csa, hca = case.rates
    fields: dict[str, Any] = dict(
        num_hidden_layers=len(case.kinds),
        num_hash_layers=case.hash_layers,
        layer_types=[_TYPES[kind] for kind in case.kinds],
        compress_rates={_TYPES["csa"]: csa, _TYPES["hca"]: hca},
        attn_implementation="eager",
        experts_implementation="eager",
    )
    return DeepseekV4Config(**case.fields, **fields)


def official_config(case: Case) -> dict[str, Any]:
    """The configuration as an official config.json has it; the rates must be the released ones."""
    assert case.rates == (_RATIOS["csa"], _RATIOS["hca"])
    full = config(case).to_dict()
    kept = ("rms_norm_eps", "hc_eps", "rope_theta", "compress_rope_theta", "eos_token_id")
    return {
        **{name: value for name, value in case.fields.items() if value is not None},
        **{name: full[name] for name in kept},
        "architectures": ["DeepseekV4ForCausalLM"],
        "model_type": "deepseek_v4",
        "num_hidden_layers": len(case.kinds),
        "num_hash_layers": case.hash_layers,
        "compress_ratios": [_RATIOS[kind] for kind in case.kinds],
        "num_nextn_predict_layers": 0,
    }


def model(case: Case) -> DeepseekV4ForCausalLM:
    """The model in fp32, eager, every parameter and buffer random."""
    torch.manual_seed(case.number)
    made = DeepseekV4ForCausalLM(config(case)).eval()
    for name, parameter in made.named_parameters():
        if parameter.dim() >= 2:
            parameter.data.normal_(0, parameter.shape[-1] ** -0.5)
        elif name.endswith("scale"):
            parameter.data.uniform_(0.5, 1.5)
        else:
            parameter.data.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.3)
    experts, chosen = case.fields["n_routed_experts"], case.fields["num_experts_per_tok"]
    for name, buffer in made.named_buffers():
        if name.endswith("tid2eid"):
            rows = [torch.randperm(experts)[:chosen] for _ in range(case.fields["vocab_size"])]
            buffer.copy_(torch.stack(rows))
        elif name.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.3)
    return made


def load(folder: Path) -> DeepseekV4ForCausalLM:
    """The model of a checkpoint, widened to fp32."""
    wanted: dict[str, Any] = dict(
        dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    loaded: Any = DeepseekV4ForCausalLM.from_pretrained(folder, output_loading_info=True, **wanted)
    made, report = loaded
    assert not any(report.values()), report
    return made.eval()


def tokens(case: Case) -> list[int]:
    """The test sequence."""
    generator = torch.Generator().manual_seed(case.number)
    vocab = case.fields["vocab_size"]
    return torch.randint(0, vocab, (case.tokens,), generator=generator).tolist()


def logits(made: DeepseekV4ForCausalLM, ids: list[int]) -> torch.Tensor:
    """f32 [len(ids), vocab] without a cache."""
    with torch.inference_mode():
        return made(torch.tensor([ids]), use_cache=False).logits[0]


def save(made: DeepseekV4ForCausalLM, folder: Path) -> None:
    """A checkpoint as transformers saves it."""
    made.save_pretrained(folder)


def save_modules(made: DeepseekV4ForCausalLM, folder: Path) -> None:
    """A checkpoint under the names that transformers' modules have."""
    folder.mkdir()
    made.config.save_pretrained(folder)
    save_file(
        {k: v.contiguous() for k, v in made.state_dict().items()}, folder / "model.safetensors"
    )


def save_official(case: Case, saved: Path, folder: Path) -> None:
    """The checkpoint that `save` made, with the names and the config of an official one."""
    folder.mkdir()
    tensors = {
        name.removeprefix("model.").replace(".attn.norm.", ".attn.kv_norm."): tensor
        for name, tensor in load_file(saved / "model.safetensors").items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(official_config(case)), encoding="utf-8")
