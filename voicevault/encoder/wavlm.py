"""WavLM (Chen et al., arXiv:2110.13900) with the x-vector head of ``transformers.WavLMForXVector``.

The transformer is transformers' own module; the head is here, because the classifier behind it, of the speakers that it was
trained with, is no part of the embedding. Weights keep transformers' names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voicevault.encoder.config import check_ranges
from voicevault.encoder.lengths import by_length


@dataclass(frozen=True, slots=True)
class WavLMConfig:
    """Architecture, flat, in transformers' names. `embedding` is its ``xvector_output_dim``.

    Raises:
        ValueError: A value is out of range.
    """

    embedding: int = 512
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    feat_extract_norm: str = "group"
    feat_extract_activation: str = "gelu"
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    num_buckets: int = 320
    max_bucket_distance: int = 800
    do_stable_layer_norm: bool = False
    use_weighted_layer_sum: bool = False
    tdnn_dim: tuple[int, ...] = (512, 512, 512, 512, 1500)
    tdnn_kernel: tuple[int, ...] = (5, 3, 3, 1, 1)
    tdnn_dilation: tuple[int, ...] = (1, 2, 3, 1, 1)

    def __post_init__(self) -> None:
        check_ranges(
            self,
            embedding=(1, 4096),
            hidden_size=(1, 8192),
            num_hidden_layers=(1, 96),
            num_attention_heads=(1, 128),
            intermediate_size=(1, 32_768),
            num_conv_pos_embeddings=(1, 1024),
            num_conv_pos_embedding_groups=(1, 1024),
            num_buckets=(1, 4096),
            max_bucket_distance=(1, 65_536),
        )
        if self.feat_extract_norm not in ("group", "layer"):
            raise ValueError(f"feat_extract_norm must be group or layer, not {self.feat_extract_norm!r}")
        for act in (self.hidden_act, self.feat_extract_activation):
            if act not in ("gelu", "gelu_new", "relu", "silu", "swish"):
                raise ValueError(f"unknown activation {act!r}")
        if (
            self.hidden_size % self.num_attention_heads
            or self.hidden_size % self.num_conv_pos_embedding_groups
        ):
            raise ValueError("hidden_size must be a multiple of the attention heads and the position groups")
        for names in (
            ("conv_dim", "conv_stride", "conv_kernel"),
            ("tdnn_dim", "tdnn_kernel", "tdnn_dilation"),
        ):
            values = [getattr(self, name) for name in names]
            if not 1 <= len(values[0]) <= 16 or len({len(value) for value in values}) > 1:
                raise ValueError(f"{', '.join(names)} need one value for each of 1 to 16 layers")
            if any(not 1 <= entry <= 16_384 for value in values for entry in value):
                raise ValueError(f"{', '.join(names)} must be in 1 to 16384")

    def minimum_frames(self) -> int:
        """The shortest input in samples: two frames must reach the statistics."""
        length = 2 + sum(d * (k - 1) for k, d in zip(self.tdnn_kernel, self.tdnn_dilation, strict=True))
        for kernel, stride in zip(self.conv_kernel[::-1], self.conv_stride[::-1], strict=True):
            length = (length - 1) * stride + kernel
        return length


class ContextLayer(nn.Module):
    """[b, t, c] -> [b, t - reach, c']; its weight is stored as that of a linear layer over unfolded frames."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel = nn.Linear(inputs * kernel, outputs)
        self.width, self.dilation = kernel, dilation

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.weight.view(len(self.kernel.weight), self.width, -1).transpose(1, 2)
        return F.relu(
            F.conv1d(x.transpose(1, 2), weight, self.kernel.bias, dilation=self.dilation)
        ).transpose(1, 2)


class WavLMXVector(nn.Module):
    """Samples [b, n] -> embeddings float32 [b, embedding], not normalised."""

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        from transformers import WavLMConfig as Settings
        from transformers import WavLMModel

        self.config = config
        settings = asdict(config)
        del settings["embedding"]
        # Without masking there is no mask embedding to store; the rest of what is off here acts in training alone.
        self.wavlm = WavLMModel(
            Settings(
                **settings, apply_spec_augment=False, mask_time_prob=0.0, mask_feature_prob=0.0, layerdrop=0.0
            )
        )
        if config.use_weighted_layer_sum:
            self.layer_weights = nn.Parameter(torch.ones(config.num_hidden_layers + 1))
        self.projector = nn.Linear(config.hidden_size, config.tdnn_dim[0])
        inputs = (config.tdnn_dim[0], *config.tdnn_dim[:-1])
        self.tdnn = nn.ModuleList(
            ContextLayer(*layer)
            for layer in zip(inputs, config.tdnn_dim, config.tdnn_kernel, config.tdnn_dilation, strict=True)
        )
        self.feature_extractor = nn.Linear(2 * config.tdnn_dim[-1], config.embedding)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Items of one length go through together: group norm and attention would see the padding."""
        return by_length(self._embed, waveforms, lengths)

    def _embed(self, waveforms: Tensor) -> Tensor:
        out = self.wavlm(waveforms, output_hidden_states=self.config.use_weighted_layer_sum)
        if self.config.use_weighted_layer_sum:
            weights = torch.softmax(self.layer_weights, dim=0)
            hidden = (torch.stack(out.hidden_states, dim=3) * weights).sum(dim=3)
        else:
            hidden = out.last_hidden_state
        hidden = self.projector(hidden)
        for layer in self.tdnn:
            hidden = layer(hidden)
        pooled = torch.cat([hidden.mean(dim=1), hidden.std(dim=1)], dim=1)
        embedding: Tensor = self.feature_extractor(pooled)
        return embedding.float()
