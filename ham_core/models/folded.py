"""A network in evaluation mode with frozen weights, as a function of its pixels alone: what an attack needs, and no more.

In evaluation mode BatchNorm is BN(x) = s x + t per channel, s = γ / √(σ² + ε), t = β - μ s. So it goes into the convolution
W before it, whose outputs it scales, and what is left of a block are convolutions with a ReLU and a sum at their end:

    BN(W * x) = (s W) * x + t              relu BN x, then W:   ∂/∂x = 1[BN x > 0] · (s W)ᵀ-convolution, s over W's inputs

The second line saves the backward pass its scaling: the mask and the scale of a channel can change places. Of a block only
the outputs of its ReLUs are kept, since only their signs are needed. Exact up to rounding: in float64 gradients agree with
the network's own to 1e-12 (tests/ham_core/test_folded.py); in float32 to 1e-5, but for images of which a unit stands so
close to zero that rounding decides its side. Weights are folded in their own precision and then turned to bf16 where asked.

Networks that are not known here, for example other packages', are attacked as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham_core.models import preact_resnet, resnet, small_cnn, wide_resnet

Net = Callable[[Tensor], Tensor]


def folded(model: nn.Module, dtype: torch.dtype | None = None) -> Net | None:
    """Pixels (B,C,H,W) -> logits (B,K) in the weights' type; None: a network that is not known here.

    The weights are those of now. dtype: of the arithmetic between the normalisation and the pooling; None: the weights' own.
    Only the input can be differentiated, once. The mode of `model` is not looked at: BatchNorm uses its running statistics.
    """
    known = LAYERS.get(type(model))
    if known is None:
        return None
    with torch.no_grad():
        found = known(model)
        if found is None:
            return None
        net: Any = model
        weight = net.conv1.weight if hasattr(net, "conv1") else net.blocks[0][0].weight
        kind = _Kind(weight.dtype if dtype is None else dtype, weight.device)
        layers = [layer.to(kind) for layer in found]
    head = net.fc if hasattr(net, "fc") else net.linear
    last, bias = head.weight.detach(), head.bias.detach()
    normalize = net.normalize

    def forward(x: Tensor) -> Tensor:
        out = normalize(x).to(kind.dtype, memory_format=torch.channels_last)
        for layer in layers:
            out = layer(out)
        logits: Tensor = F.linear(out.mean((2, 3)).to(last.dtype), last, bias)
        return logits

    return forward


@contextmanager
def folding(model: nn.Module, precision: str = "fp32") -> Iterator[None]:
    """While it lasts, calling the model runs its folded form, with the weights of the first call; hooks on it still run.

    precision: `bf16`, else the weights' own. Upon the first call, so that an attack of no steps costs nothing.
    """
    own = model.forward
    found: list[Net] = []

    def forward(x: Tensor) -> Tensor:
        if not found:
            found.append(folded(model, torch.bfloat16 if precision == "bf16" else None) or own)
        if found[0] is own:
            return own(x)
        with torch.autocast(x.device.type, enabled=False):  # the casts are made already
            return found[0](x)

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


class _Kind:
    """Where the arithmetic happens, in which type, and whether oneDNN's convolutions with a ReLU or a sum are there."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        usable = device.type == "cpu" and torch.backends.mkldnn.is_available()
        usable = usable and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        bf16 = usable and dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.fused = bool(usable and (dtype == torch.float32 or bf16))

    def turn(self, weight: Tensor) -> Tensor:
        """A weight as the convolutions want it."""
        weight = weight.detach().to(self.dtype)
        return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight


class Convolution(NamedTuple):
    """W * x + b with its strides and padding; `back` are the weights of its backward pass, where they are others."""

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    back: Tensor
    fused: bool = False

    def to(self, kind: _Kind) -> Convolution:
        """In the arithmetic of `kind`."""
        weight = kind.turn(self.weight)
        back = weight if self.back is self.weight else kind.turn(self.back)
        bias = None if self.bias is None else kind.turn(self.bias)
        return self._replace(weight=weight, bias=bias, back=back, fused=kind.fused)

    def plain(self, x: Tensor) -> Tensor:
        """W * x + b."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def relu(self, x: Tensor) -> Tensor:
        """relu(W * x + b)."""
        if not self.fused:
            return self.plain(x).relu_()
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, [1, 1], 1, "relu", [], ""
        )
        return out

    def onto(self, total: Tensor, x: Tensor) -> Tensor:
        """total + W * x + b, in total's own memory."""
        if not self.fused:
            return total.add_(self.plain(x))
        torch.ops.mkldnn._convolution_pointwise_.binary(total, x, *self._with_sum(None))
        return total

    def relu_sum(self, total: Tensor, x: Tensor) -> Tensor:
        """relu(total + W * x + b)."""
        if not self.fused:
            return self.plain(x).add_(total).relu_()
        out: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(x, total, *self._with_sum("relu"))
        return out

    def _with_sum(self, last: str | None) -> tuple[Any, ...]:
        """The rest of the arguments of oneDNN's convolution with a sum, and with `last` behind it."""
        return (self.weight, self.bias, self.padding, self.stride, [1, 1], 1, "add", 1.0, last, [], None)

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient at x of that at W * x."""
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            x,
            self.back,
            None,
            self.stride,
            self.padding,
            [1, 1],
            False,
            [0, 0],
            1,
            [True, False, False],
        )[0]
        return found


def _masked(gradient: Tensor, active: Tensor) -> Tensor:
    """The gradient, zero in place where the ReLU with output `active` was off."""
    torch.ops.aten.threshold_backward.grad_input(gradient, active, 0, grad_input=gradient)
    return gradient


class Stem(NamedTuple):
    """A convolution, and a ReLU if there is one."""

    convolution: Convolution
    activates: bool

    def to(self, kind: _Kind) -> Stem:
        """In the arithmetic of `kind`."""
        return self._replace(convolution=self.convolution.to(kind))

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = _Stem.apply(x, self)
        return out


class _Stem(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Stem) -> Tensor:
        out = layer.convolution.relu(x) if layer.activates else layer.convolution.plain(x)
        ctx.layer = layer
        ctx.save_for_backward(x, *([out] if layer.activates else []))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, *out = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, out[0], 0) if out else gradient
        return ctx.layer.convolution.backward(gradient, x), None


class PreBlock(NamedTuple):
    """a = relu(s x + t);  out = second relu(first a) + shortcut, where the shortcut is x, or a convolution of a.

    The convolutions' backward weights hold s, so that the gradient at a, once masked, is that at x.
    """

    scale: Tensor
    shift: Tensor
    first: Convolution
    second: Convolution
    shortcut: Convolution | None

    def to(self, kind: _Kind) -> PreBlock:
        """In the arithmetic of `kind`."""
        shortcut = None if self.shortcut is None else self.shortcut.to(kind)
        scale, shift = kind.turn(self.scale), kind.turn(self.shift)
        return PreBlock(scale, shift, self.first.to(kind), self.second.to(kind), shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = _PreBlock.apply(x, self)
        return out


class _PreBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: PreBlock) -> Tensor:
        active = torch.addcmul(block.shift, x, block.scale).relu_()
        hidden = block.first.relu(active)
        ctx.block = block
        ctx.save_for_backward(active, hidden)
        if block.shortcut is not None:
            return block.second.onto(block.shortcut.plain(active), hidden)
        ctx.mark_dirty(
            x
        )  # nobody else reads x: of what a layer gave, its backward pass wants its ReLUs' signs
        return block.second.onto(x, hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        active, hidden = ctx.saved_tensors
        block: PreBlock = ctx.block
        inner = block.first.backward(_masked(block.second.backward(gradient, hidden), hidden), active)
        if block.shortcut is None:
            return _masked(inner, active).add_(gradient), None
        return _masked(inner.add_(block.shortcut.backward(gradient, active)), active), None


class PostBlock(NamedTuple):
    """relu( second relu(first x) + shortcut ), where the shortcut is x, or a convolution of x."""

    first: Convolution
    second: Convolution
    shortcut: Convolution | None

    def to(self, kind: _Kind) -> PostBlock:
        """In the arithmetic of `kind`."""
        shortcut = None if self.shortcut is None else self.shortcut.to(kind)
        return PostBlock(self.first.to(kind), self.second.to(kind), shortcut)

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = _PostBlock.apply(x, self)
        return out


class _PostBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: PostBlock) -> Tensor:
        hidden = block.first.relu(x)
        out = block.second.relu_sum(x if block.shortcut is None else block.shortcut.plain(x), hidden)
        ctx.block = block
        ctx.save_for_backward(x, hidden, out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, hidden, out = ctx.saved_tensors
        block: PostBlock = ctx.block
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        inner = block.first.backward(_masked(block.second.backward(gradient, hidden), hidden), x)
        around = gradient if block.shortcut is None else block.shortcut.backward(gradient, x)
        return inner.add_(around), None


class Active(NamedTuple):
    """relu(s x + t)."""

    scale: Tensor
    shift: Tensor

    def to(self, kind: _Kind) -> Active:
        """In the arithmetic of `kind`."""
        return Active(kind.turn(self.scale), kind.turn(self.shift))

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = _Active.apply(x, self)
        return out


class _Active(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Active) -> Tensor:
        out = torch.addcmul(layer.shift, x, layer.scale).relu_()
        ctx.layer = layer
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, out, 0).mul_(ctx.layer.scale), None


Layer = Stem | PreBlock | PostBlock | Active

# ---------------------------------------------------------------- from modules


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(s, t) of a BatchNorm in evaluation mode."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _convolution(
    module: nn.Conv2d, norm: nn.BatchNorm2d | None = None, before: Tensor | None = None
) -> Convolution:
    """A convolution with the BatchNorm behind it, and the scale (inputs,) of the one before it in its backward pass."""
    weight, bias = module.weight, module.bias
    if norm is not None:
        scale, shift = _affine(norm)
        weight = weight * scale[:, None, None, None]
        bias = shift if bias is None else shift + scale * bias
    back = weight if before is None else weight * before[:, None, None]
    assert not isinstance(module.padding, str)
    return Convolution(weight, bias, list(module.stride), list(module.padding), back)


def _active(norm: nn.BatchNorm2d) -> Active:
    scale, shift = _affine(norm)
    return Active(scale[None, :, None, None], shift[None, :, None, None])


def _pre_block(block: Any, shortcut: nn.Conv2d | None) -> PreBlock:
    scale, _ = _affine(block.bn1)
    return PreBlock(
        *_active(block.bn1),
        _convolution(block.conv1, block.bn2, scale),
        _convolution(block.conv2),
        None if shortcut is None else _convolution(shortcut, before=scale),
    )


def _post_block(block: Any) -> PostBlock:
    return PostBlock(
        _convolution(block.conv1, block.bn1),
        _convolution(block.conv2, block.bn2),
        _convolution(*block.shortcut) if len(block.shortcut) else None,
    )


def _blocks(model: Any) -> Iterator[Any]:
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        yield from layer


def _preact_resnet(model: Any) -> list[Layer] | None:
    blocks = list(_blocks(model))
    if any(block.raw for block in blocks) or model.bn is None:  # forms of other people's files
        return None
    shortcuts = [None if block.shortcut is None else block.shortcut[0] for block in blocks]
    body = [_pre_block(block, shortcut) for block, shortcut in zip(blocks, shortcuts, strict=True)]
    return [Stem(_convolution(model.conv1), activates=False), *body, _active(model.bn)]


def _wide_resnet(model: Any) -> list[Layer]:
    blocks = [block for group in (model.block1, model.block2, model.block3) for block in group.layer]
    body = [_pre_block(block, block.convShortcut) for block in blocks]
    return [Stem(_convolution(model.conv1), activates=False), *body, _active(model.bn1)]


def _resnet(model: Any) -> list[Layer]:
    stem = Stem(_convolution(model.conv1, model.bn1), activates=True)
    return [stem, *map(_post_block, _blocks(model))]


def _small_cnn(model: Any) -> list[Layer]:
    return [Stem(_convolution(convolution, norm), activates=True) for convolution, norm, _ in model.blocks]


LAYERS: dict[type[nn.Module], Callable[[Any], list[Any] | None]] = {
    preact_resnet.PreActResNet18: _preact_resnet,
    resnet.ResNet18: _resnet,
    small_cnn.SmallCNN: _small_cnn,
    wide_resnet.WideResNet: _wide_resnet,
}
