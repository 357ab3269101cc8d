"""Decoders of the autoencoders of diffusers: `AutoencoderKL`, `VQModel` and `AutoencoderTiny`.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022 (`AutoencoderKL`, `VQModel`);
Zheng et al., "MoVQ: Modulating Quantized Vectors for High-Fidelity Image Generation", NeurIPS 2022 (`norm_type:
spatial`); `AutoencoderTiny` is the TAESD of Ollin Boer Bohan.

A code is the flattened latent image: latent channels × height × width. With `latents: decode` it is the input of
`decode`. With `latents: pipeline` it is the latent image of the diffusion model, which is divided by `scaling_factor`
and shifted by `shift_factor` before it is decoded. The weights do not determine height and width of the latent image:
they follow from `sample_size` of the config, or the job gives them (`latent_size`).
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from pullback.generators.autoencoder_layers import ACTIVATIONS, Decoder, Quantizer, TinyDecoder, conv
from pullback.generators.family import FamilyGenerator, Found, Misfit, load_state
from pullback.spec import options
from pullback.weights.content import Content

SUMMARY = "decoders of diffusers' AutoencoderKL, VQModel and AutoencoderTiny"
READS = (
    "folders of save_pretrained: config.json and diffusion_pytorch_model.safetensors or .bin, also with old key names",
)

Model = Literal["AutoencoderKL", "VQModel", "AutoencoderTiny"]

_USUAL_LATENT = 64
"""Default height and width of the latent image: those of Stable Diffusion's 512-pixel images."""
_USUAL_GROUPS = 32


class Options(options.Options):
    """Options of a decoder, with the names of diffusers' config where it has them."""

    model: Model
    """The class of diffusers."""
    latent_channels: int
    """Channels of the latent image."""
    latent_size: int = _USUAL_LATENT
    """Height and width of the latent image. The config's `sample_size` gives it where there is one."""
    channels: tuple[int, ...]
    """Channels of the decoder's stages, from the latent image to the image."""
    blocks: tuple[int, ...]
    """Residual blocks of each stage."""
    attentions: tuple[bool, ...] = ()
    """Whether each stage has a self-attention after every residual block."""
    mid_block_add_attention: bool = True
    """Whether the middle block has a self-attention."""
    use_post_quant_conv: bool = True
    """Whether a 1×1 convolution precedes the decoder."""
    out_channels: int = 3
    """Channels of the image."""
    norm_num_groups: int = _USUAL_GROUPS
    """Groups of the group norms."""
    norm_type: Literal["group", "spatial"] = "group"
    """Norms of a VQModel: plain, or modulated by the latent image."""
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    """The activation."""
    scaling_factor: float = 1.0
    """Factor by which pipelines multiply latent images."""
    shift_factor: float = 0.0
    """Shift that pipelines subtract from latent images before the factor."""
    latents: Literal["decode", "pipeline"] = "decode"
    """Whether codes are what `decode` takes, or latent images of a pipeline."""
    num_vq_embeddings: int = 0
    """Rows of the codebook of a VQModel."""
    vq_embed_dim: int = 0
    """Size of a row of the codebook."""
    force_not_quantize: bool = True
    """Whether a VQModel decodes the code itself and not the nearest rows of its codebook. The map with quantisation is
    piecewise constant, so its metric is zero."""
    upsampling_scaling_factor: int = 2
    """Factor of the doublings of an AutoencoderTiny."""
    upsample_fn: Literal["nearest"] = "nearest"
    """Interpolation of the doublings of an AutoencoderTiny."""


class Autoencoder(FamilyGenerator):
    """The decoder of an autoencoder, as a generator of latent images."""

    name = "autoencoder"

    def __init__(self, options: Options) -> None:
        quantized = options.model == "VQModel"
        entering = options.vq_embed_dim if quantized else options.latent_channels
        self.shape = (entering, options.latent_size, options.latent_size)
        size = entering * options.latent_size**2
        super().__init__({"z": {"z": size}}, size)
        self.plan = options
        self.decoder: TinyDecoder | Decoder
        if options.model == "AutoencoderTiny":
            self.decoder = TinyDecoder(
                options.latent_channels,
                options.channels,
                options.blocks,
                options.out_channels,
                ACTIVATIONS[options.act_fn],
                options.upsampling_scaling_factor,
            )
            return
        if quantized:
            self.quantize = Quantizer(options.num_vq_embeddings, options.vq_embed_dim)
        if options.use_post_quant_conv:
            self.post_quant_conv = conv(entering, options.latent_channels, 1)
        self.decoder = Decoder(
            options.latent_channels,
            options.channels,
            options.blocks,
            options.attentions,
            options.mid_block_add_attention,
            options.out_channels,
            options.norm_num_groups,
            ACTIVATIONS[options.act_fn],
            entering if options.norm_type == "spatial" else None,
        )

    def native(self, codes: Tensor, condition: Any = None) -> Tensor:
        """Return images as `decode` does; codes may be latent images [batch, channels, height, width] of any size."""
        return self.decode(codes) if codes.dim() == 4 else super().native(codes, condition)

    def render(self, blocks: Mapping[str, Tensor], condition: Tensor | None) -> Tensor:
        """Return images [batch, channels, height, width]; see `FamilyGenerator.render`."""
        return self.decode(blocks["z"].reshape(-1, *self.shape))

    def decode(self, latent: Tensor) -> Tensor:
        """Decode latent images [batch, channels, height, width] to images."""
        plan = self.plan
        if plan.latents == "pipeline":
            latent = latent / plan.scaling_factor + plan.shift_factor
        if isinstance(self.decoder, TinyDecoder):
            made: Tensor = self.decoder(latent)
            return made
        if plan.model == "VQModel" and not plan.force_not_quantize:
            latent = self.quantize(latent)
        x = self.post_quant_conv(latent) if plan.use_post_quant_conv else latent
        image: Tensor = self.decoder(x, latent)
        return image


_OLD_NAMES = (
    (re.compile(r"\.query\."), ".to_q."),
    (re.compile(r"\.key\."), ".to_k."),
    (re.compile(r"\.value\."), ".to_v."),
    (re.compile(r"\.proj_attn\."), ".to_out.0."),
)
_OURS = ("decoder.", "post_quant_conv.", "quantize.embedding.")


def read(content: Content) -> Found | None:
    """Recognise an autoencoder of diffusers, or a file that holds only its decoder; see `checkpoint`."""
    state = content.state
    alone = "layers.0.weight" in state or {"conv_in.weight", "up_blocks.0.resnets.0.conv1.weight"} <= state.keys()
    if alone and not _mentioned(content.root, ("encoder.", "post_quant_conv.", "quantize.")):
        state = {f"decoder.{name}": tensor for name, tensor in state.items()}
    return read_state(state, content.config)


def _mentioned(node: Any, heads: tuple[str, ...], depth: int = 4) -> bool:
    """Return whether a part of any name in a checkpoint starts with one of `heads`: a sign of a larger network."""
    if not isinstance(node, Mapping) or not depth:
        return False
    if any(f".{name}".rfind(f".{head}") >= 0 for name in map(str, node) for head in heads):
        return True
    return any(_mentioned(inner, heads, depth - 1) for inner in node.values())


def read_state(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Found | None:
    """Recognise the state dict of an autoencoder of diffusers.

    Args:
        state: the tensors by name; the encoder's tensors are ignored.
        config: the content of `config.json`; empty if there is none.

    Raises:
        Misfit: the config contradicts the tensors, or selects an operation that has no derivative.
    """
    tiny = "decoder.layers.0.weight" in state
    if not tiny and not {"decoder.conv_in.weight", "decoder.mid_block.resnets.0.conv1.weight"} <= state.keys():
        return None
    made = {name: tensor for name, tensor in state.items() if name.startswith(_OURS)}
    return _tiny(made, config) if tiny else _full(made, config)


def _full(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Found:
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for pattern, replacement in _OLD_NAMES:
            name = pattern.sub(replacement, name)
        linear = re.search(r"\.to_(q|k|v|out\.0)\.weight$", name) and tensor.dim() == 4
        made[name] = tensor[:, :, 0, 0] if linear else tensor  # very old files keep them as 1×1 convolutions
    stages = _count(made, "decoder.up_blocks.{}.resnets.0.conv1.weight")
    blocks = tuple(_count(made, f"decoder.up_blocks.{stage}.resnets.{{}}.conv1.weight") for stage in range(stages))
    codebook = made.get("quantize.embedding.weight")
    spatial = "decoder.conv_norm_out.conv_y.weight" in made
    entering = made["decoder.conv_in.weight"].shape[1]
    found: dict[str, Any] = {
        "model": "AutoencoderKL" if codebook is None else "VQModel",
        "latent_channels": entering,
        "channels": tuple(made[f"decoder.up_blocks.{s}.resnets.0.conv1.weight"].shape[0] for s in range(stages)),
        "blocks": blocks,
        "attentions": tuple(f"decoder.up_blocks.{s}.attentions.0.to_q.weight" in made for s in range(stages)),
        "mid_block_add_attention": "decoder.mid_block.attentions.0.to_q.weight" in made,
        "use_post_quant_conv": "post_quant_conv.weight" in made,
        "out_channels": made["decoder.conv_out.weight"].shape[0],
        "norm_type": "spatial" if spatial else "group",
    }
    if codebook is not None:
        found |= {"num_vq_embeddings": codebook.shape[0], "vq_embed_dim": codebook.shape[1]}
        if config.get("lookup_from_codebook"):
            raise Misfit("is a VQModel that decodes indices of its codebook (lookup_from_codebook), not latent images")
    size = config.get("sample_size")
    if isinstance(size, int):
        found["latent_size"] = max(1, size // 2 ** (stages - 1))
    return _merged(found, made, config, ("norm_num_groups", "act_fn", "scaling_factor", "shift_factor"))


_TINY = re.compile(r"decoder\.layers\.(\d+)\.(conv\.0\.)?weight")


def _tiny(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Found:
    """Read an AutoencoderTiny, whose stages are residual blocks, a doubling and a convolution."""
    matches = sorted((int(m[1]), bool(m[2]), name) for name in state if (m := _TINY.fullmatch(name)))
    blocks, channels, count = [], [], 0
    for _, is_block, name in matches[1:]:
        if is_block:
            count += 1
        else:
            blocks.append(count)
            channels.append(state[name].shape[1])
            count = 0
    first, last = state[matches[0][2]], state[matches[-1][2]]
    found: dict[str, Any] = {
        "model": "AutoencoderTiny",
        "latent_channels": first.shape[1],
        "channels": tuple(channels),
        "blocks": tuple(blocks),
        "out_channels": last.shape[0],
        "act_fn": "relu",
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    }
    keys = ("act_fn", "scaling_factor", "shift_factor", "upsampling_scaling_factor", "upsample_fn")
    return _merged(found, dict(state), config, keys)


def _merged(found: dict[str, Any], state: dict[str, Tensor], config: Mapping[str, Any], keys: tuple[str, ...]) -> Found:
    """Merge the options of the tensors with those of the config, and note the assumed values."""
    name = config.get("_class_name")
    if name is not None and name != found["model"]:
        raise Misfit(f"has the tensors of diffusers' {found['model']}, while its config is of {name}")
    found |= {key: config[key] for key in keys if config.get(key) is not None}
    for key in ("scaling_factor", "shift_factor"):
        found[key] = float(found.get(key, 1.0 if key == "scaling_factor" else 0.0))
    notes = []
    if "latent_size" not in found:
        found["latent_size"] = _USUAL_LATENT
        notes.append(
            f"the file does not say the size of the latent image; {_USUAL_LATENT} × {_USUAL_LATENT} is assumed (option "
            "latent_size)"
        )
    if not config and found["model"] != "AutoencoderTiny":
        notes.append(f"no config.json lies beside the file; {_USUAL_GROUPS} groups a norm are assumed, and no scaling")
    return Found(found, state, notes=tuple(notes))


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in state:
        count += 1
    return count


def build(options: Options, state: Mapping[str, Tensor]) -> Autoencoder:
    """Build the decoder with these options and tensors.

    Raises:
        Misfit: the tensors do not fit the options.
    """
    generator = Autoencoder(options)
    load_state(generator, state)
    return generator


__all__ = ["READS", "SUMMARY", "Autoencoder", "Options", "build", "read", "read_state"]
