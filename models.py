"""Architectures of students and teachers, and the careful loading of checkpoints. Knows nothing of training.

Every model takes images in [0, 1], shape (batch, channels, height, width) with sides of 8 to 64, and returns
logits, shape (batch, num_classes). Parameters have the names of the published checkpoints, so that these load strictly.
"""
import contextlib
import copy
import importlib
import os
import re
import sys
import tempfile
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn import BatchNorm2d as norm

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "student")  # where scripts keep weights beside the rest

class UserError(Exception):
    """Something the user can mend; main prints it as one line and exits with 2."""

def one_line(error):
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"

def out_of_memory(error):
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search("out of memory|allocate memory|ALLOC_FAILED", str(error)))

@contextlib.contextmanager
def explained(what, advice=""):
    """UserError "what (error): advice" in place of an error inside, a lack of memory excepted: libraries, torn files, downloads
    and code of the user fail in any way they like."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{what} ({one_line(error)})" + f": {advice}" * bool(advice)) from error

# ----------------------------------------------------------------------------------------------------------------------
# Architectures. Names of parameters are an interface: renaming one makes published checkpoints useless. Parts stand in
# the order in which they run: fold relies on it. The pooling is global, where the originals pool a fixed 4x4 or 8x8.
# Activations and sums are in place, a percent or two faster on a CPU: a forward hook must clone what it keeps, and a full
# backward hook belongs on a block or a convolution.

def conv(n_in, n_out, kernel=3, stride=1, groups=1):
    return nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)

def stack(block, count, n_in, n_out, stride):
    """count residual blocks, the first of which changes width and resolution."""
    return nn.Sequential(*(block(n_out if i else n_in, n_out, 1 if i else stride) for i in range(count)))

class Net(nn.Sequential):
    """Parts that run one after the other, under their published names; None is left out."""
    def __init__(self, **parts):
        super().__init__(OrderedDict((name, part) for name, part in parts.items() if part is not None))

class Block(Net):
    """Two 3x3 convolutions, batch norm after each (He et al. 2016a)."""
    def __init__(self, n_in, n_out, stride):
        shortcut = (conv(n_in, n_out, 1, stride), norm(n_out)) if n_in != n_out else ()
        super().__init__(conv1=conv(n_in, n_out, 3, stride), bn1=norm(n_out), conv2=conv(n_out, n_out), bn2=norm(n_out),
                         shortcut=nn.Sequential(*shortcut))

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        return F.relu_(out.add_(self.shortcut(x)))

class EndPadded(nn.Conv2d):
    """TensorFlow's "SAME" at stride 2: an even side is padded at its end only, as published SiLU networks expect."""
    def forward(self, x):
        return super().forward(F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1)))

class PreActBlock(Net):
    """The same with batch norm and activation before each convolution (He et al. 2016b), under the names given."""
    def __init__(self, names, act, n_in, n_out, stride, shortcut=conv):
        first = conv(n_in, n_out, 3, stride)
        if act is nn.SiLU and stride == 2:
            first = EndPadded(n_in, n_out, 3, stride, bias=False)
        parts = [norm(n_in), act(True), first, norm(n_out), act(True), conv(n_out, n_out)]
        if n_in != n_out:
            parts.append(shortcut(n_in, n_out, 1, stride))
        super().__init__(**dict(zip(names.split(), parts)))

    def forward(self, x):
        norm1, act1, conv1, norm2, act2, conv2, *shortcut = self
        out = act1(norm1(x))
        return conv2(act2(norm2(conv1(out)))).add_(shortcut[0](out) if shortcut else x)

class Head(nn.Linear):
    """Pooling and last layer, in float32 also under autocast, or f(x+delta) - f(x-delta) would drown in rounding."""
    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype).mean((2, 3)))

def resnet18(num_classes, channels, pre=False):
    """ResNet-18 with a 3x3 stem for small images, names as in kuangliu/pytorch-cifar; pre: of pre-activation blocks,
    with the batch norm before the pooling instead of after the stem (Rice et al. 2020)."""
    block = Block if not pre else partial(PreActBlock, "bn1 relu1 conv1 bn2 relu2 conv2 shortcut", nn.ReLU,
                                          shortcut=lambda *size: nn.Sequential(conv(*size)))
    return Net(conv1=conv(channels, 64), bn1=None if pre else norm(64), relu1=None if pre else nn.ReLU(True),
               layer1=stack(block, 2, 64, 64, 1), layer2=stack(block, 2, 64, 128, 2),
               layer3=stack(block, 2, 128, 256, 2), layer4=stack(block, 2, 256, 512, 2),
               bn=norm(512) if pre else None, relu=nn.ReLU(True) if pre else None, linear=Head(512, num_classes))

class InvertedResidual(Net):
    """1x1 to wider, 3x3 per channel, 1x1 to narrower; residual where the stride is 1 (Sandler et al. 2018)."""
    def __init__(self, expansion, n_in, n_out, stride):
        n = expansion * n_in
        shortcut = (conv(n_in, n_out, 1), norm(n_out)) if stride == 1 and n_in != n_out else ()
        super().__init__(conv1=conv(n_in, n, 1), bn1=norm(n), conv2=conv(n, n, 3, stride, groups=n), bn2=norm(n),
                         conv3=conv(n, n_out, 1), bn3=norm(n_out), shortcut=nn.Sequential(*shortcut))
        self.residual = stride == 1

    def forward(self, x):
        out = F.relu_(self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x))))))
        out = self.bn3(self.conv3(out))
        return out.add_(self.shortcut(x)) if self.residual else out

def mobilenet_v2(num_classes, channels):
    """MobileNetV2 for small images: full resolution up to the 24-channel stage; names as in kuangliu/pytorch-cifar."""
    layers, n_in = [], 32
    for expansion, n_out, count, stride in ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                                            (6, 160, 3, 2), (6, 320, 1, 1)):
        layers += stack(partial(InvertedResidual, expansion), count, n_in, n_out, stride)
        n_in = n_out
    return Net(conv1=conv(channels, 32), bn1=norm(32), relu1=nn.ReLU(True), layers=nn.Sequential(*layers),
               conv2=conv(320, 1280, 1), bn2=norm(1280), relu2=nn.ReLU(True),
               linear=Head(1280, num_classes))

class Normalized(Net):
    """Parts that run on (x - mean) / std; these are not persistent, as published checkpoints don't hold them."""
    def __init__(self, mean, std, **parts):
        super().__init__(**parts)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return super().forward((x - self.mean) / self.std)

def wide_resnet(depth, width, num_classes, channels, silu=False, mean=None, std=None):
    """Wide ResNet (Zagoruyko & Komodakis 2016) as in TRADES, names and initial weights as RobustBench's WideResNet;
    silu: that of Gowal et al. 2020, with input normalisation inside, names as RobustBench's DMWideResNet."""
    block = partial(PreActBlock, "bn1 relu1 conv1 bn2 relu2 conv2 convShortcut", nn.ReLU)
    if silu:
        block = partial(PreActBlock, "batchnorm_0 relu_0 conv_0 batchnorm_1 relu_1 conv_1 shortcut", nn.SiLU)
    n, w = (depth - 4) // 6, 16 * width
    stages = stack(block, n, 16, w, 1), stack(block, n, w, 2 * w, 2), stack(block, n, 2 * w, 4 * w, 2)
    if silu:
        return Normalized(mean or [0.5] * channels, std or [0.25] * channels, init_conv=conv(channels, 16),
                          layer=nn.Sequential(*(Net(block=stage) for stage in stages)),
                          batchnorm=norm(4 * w), relu=nn.SiLU(True), logits=Head(4 * w, num_classes))
    model = Net(conv1=conv(channels, 16), **{f"block{i}": Net(layer=stage) for i, stage in enumerate(stages, 1)},
                bn1=norm(4 * w), relu=nn.ReLU(True), fc=Head(4 * w, num_classes))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(model.fc.bias)
    return model

def build(arch, num_classes, channels=3, mean=None, std=None):
    """A freshly initialised nn.Module that maps images in [0, 1] to logits.

    arch: "rn18", "mnv2", "parn18", "wrn-D-W" (TRADES variant), which don't normalise; "wrn-D-W-silu", which does, by
    mean and std, a number per channel (0.5 and 0.25 by default); or "PACKAGE.MODULE:FUNCTION", found from the current
    directory and called with num_classes. Raises UserError for anything else, and where the function fails."""
    if arch in ("rn18", "parn18"):
        return resnet18(num_classes, channels, pre=arch == "parn18")
    if arch == "mnv2":
        return mobilenet_v2(num_classes, channels)
    wide = re.fullmatch(r"wrn-(\d+)-([1-9]\d*)(-silu)?", arch)
    if wide and int(wide[1]) in range(10, 1000, 6):
        return wide_resnet(int(wide[1]), int(wide[2]), num_classes, channels, bool(wide[3]), mean, std)
    if ":" not in arch:
        raise UserError(f"unknown architecture {arch!r}: valid are rn18, mnv2, parn18, wrn-D-W and wrn-D-W-silu "
                        "(depth D = 10, 16, 22, 28, 34, ..., width W = 1, 2, ...), and PACKAGE.MODULE:FUNCTION")
    module, function = arch.split(":", 1)
    if sys.path[0] != os.getcwd():  # `python elsewhere/igdm.py` looks beside the script first
        sys.path.insert(0, os.getcwd())
    taken = re.match(r"(igdm|models)\b", module)
    with explained(f"architecture {arch!r} failed", f"{taken[0]}.py is this repository's, unless it is yours" if taken else ""):
        model = getattr(importlib.import_module(module), function)(num_classes=num_classes)
        if not isinstance(model, nn.Module):
            raise TypeError(f"it gave {type(model).__name__}, where an nn.Module is wanted")
        return model

# ----------------------------------------------------------------------------------------------------------------------
# Faster: with fixed statistics, a batch norm after a convolution is part of the convolution; and bf16.

@torch.no_grad()
def fold(model, into=None, precision="fp32"):
    """A frozen copy of model in eval mode, faster: each batch norm that follows a convolution is folded into it, and the
    convolutions are in bf16 if precision is (in the user's own networks none). into: an earlier copy, refreshed in place."""
    pairs, convs = {}, []
    for path, module in model.named_modules() if isinstance(model, Net) else ():
        parts = [(f"{path}.{name}".lstrip("."), part) for name, part in module.named_children()]
        convs += [name for name, part in parts if isinstance(part, nn.Conv2d)]
        pairs.update((name, bn) for (name, first), (bn, second) in zip(parts, parts[1:])
                     if isinstance(first, nn.Conv2d) and isinstance(second, norm))
    if into is None:
        into = copy.deepcopy(model).eval().requires_grad_(False)
        for name in convs:
            layer = into.get_submodule(name)
            layer = layer.bfloat16() if precision == "bf16" else layer
            if name in pairs:
                layer.bias = nn.Parameter(torch.empty_like(layer.weight[:, 0, 0, 0]), requires_grad=False)
                into.set_submodule(pairs[name], nn.Identity().eval())
    copies = dict([*into.named_parameters(), *into.named_buffers()])
    for name, bn in pairs.items():  # with fixed statistics a batch norm is a scale and a shift per channel
        bn = model.get_submodule(bn)
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight, bias = copies.pop(f"{name}.weight"), copies.pop(f"{name}.bias")
        torch.mul(model.get_submodule(name).weight, scale[:, None, None, None], out=weight)
        bias.copy_(bn.bias - bn.running_mean * scale)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name in copies:
            copies[name].copy_(value)
    return into

class Mixed(Net):
    """A network under bf16 autocast; logits in float32."""
    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.network(x).float()

def mixed(model, precision):
    """model, in bf16 if precision says so; its parameters stay its own, in float32."""
    return Mixed(network=model) if precision == "bf16" else model

# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints

def _bare(key):
    """A parameter's name without what DataParallel, a wrapping module and torch.compile put in front."""
    return re.sub(r"^((module|model|_orig_mod)\.)+", "", str(key))

def _damage(path):
    """What is wrong with a checkpoint file, seen before any of it is unpickled; None where nothing is."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024).lstrip(b"\xef\xbb\xbf \t\r\n")
        if head.startswith(b"PK"):  # torch.load does not check the CRCs: a flipped byte would load silently
            with zipfile.ZipFile(path) as archive:
                folders = [info.filename for info in archive.infolist() if info.external_attr & 0x10 and not info.is_dir()]
                bad = archive.testzip() or next(iter(folders), None)  # torch.load leaves what is marked as a folder unread
            return bad and f"is damaged ({bad})"
    except Exception as error:  # no such file, no right to it; zipfile and zlib have many ways to say "cut short"
        return f"cannot be read ({one_line(error)})"
    if head.startswith(b"<"):
        return "is a web page, not a checkpoint (Google Drive sends one where it wants a click in a browser)"
    if head.startswith(b"\x80\x02"):  # a pickle: the format before PyTorch 1.6
        return None
    return "is neither a zip archive nor a pickle that torch.save wrote" if head else "is empty"

def read_file(path):
    """What torch.save put into path: tensors, on the CPU, and plain types; code in the file is never run.
    Raises UserError where the file is missing, damaged, or holds types that torch.load(weights_only=True) refuses."""
    fault = _damage(path)
    try:
        if not fault:
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage fails in the unpickler in any way it likes
        if out_of_memory(error):
            raise
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise UserError(f"{path} refers to {refused[1]}, and unpickling that could execute code: if you trust it, "
                            "torch.load it with weights_only=False, and torch.save its weights alone") from error
        fault = f"is damaged, or torch.save did not write it ({type(error).__name__})"
    raise UserError(f"{path} {fault}: check the path, or delete the file and get it again")

def read_state_dict(path):
    """The weights in a checkpoint, alone or under one of WRAPPERS: a dict from names to tensors on the CPU, the names
    without "module.", "model." and "_orig_mod." before them. Raises UserError where there are none, or NaN in them."""
    content = read_file(path)
    found = [content, *map(content.get, WRAPPERS)] if isinstance(content, dict) else []
    found = [state for state in found if isinstance(state, dict) and state
             and all(isinstance(value, torch.Tensor) for value in state.values())]
    if not found:
        raise UserError(f"{path} holds no weights: save model.state_dict() alone or under {WRAPPERS[0]!r}")
    for key, value in found[0].items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path} holds NaN or infinity in {key}: that training diverged, use an earlier checkpoint")
    return {_bare(key): value for key, value in found[0].items()}

def load_state(model, path, arch_name):
    """Load the checkpoint at path into model, in place and strictly, and the mean and std of its normalisation where it has
    them; arch_name is for the message. Dropped are LTD's unused "sub_block1" and what a model does not keep, such as indices.
    Raises UserError where it does not fit."""
    own = model.state_dict()
    names = {_bare(key): key for key in own}  # the model may itself be a wrapper
    content = read_state_dict(path)
    spare = {key: buffer for key, buffer in model.named_buffers() if key in content.keys() - own.keys()}
    state = {names.get(key, key): value for key, value in content.items()
             if key in names or not (key in spare or key.startswith("sub_block1."))}
    head = next((key for key in reversed(own) if own[key].ndim == 2), None)
    if head in state and len(state[head]) != len(own[head]):
        raise UserError(f"{path} does not fit: it has {len(state[head])} classes, the data {len(own[head])}; "
                        "use a checkpoint trained on this data")
    try:
        for key in spare.keys() & {"mean", "std"}:
            spare[key].copy_(content[key].view(-1, 1, 1))
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        faults = [line.strip()[:150] for line in lines[1:4] or lines]  # missing, unexpected, of other shapes
        raise UserError(f"{path} does not fit {arch_name}, another architecture? {' '.join(faults)}") from error

def fetch(drive_id, path):
    """path, after a download from Google Drive where there is no such file yet; it is whole or not there.
    Raises UserError, with the address and the place for a download by hand, as Google Drive often refuses scripts."""
    path, url = Path(path), f"https://drive.google.com/uc?id={drive_id}"
    if path.exists():
        return path
    with explained(f"cannot download {path}", f"get {url} in a browser and put it at {path.absolute()}, or use --teacher "
                   "pgd-at (train one yourself) or --dataset digits"):
        import gdown
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as beside:
            part = Path(beside) / "part"
            gdown.download(url, str(part))
            if fault := _damage(part):
                raise UserError(f"what came {fault}")
            read_file(part)  # whole, also where the format has no checksum
            return part.replace(path)

def from_robustbench(name, dataset, folder):
    """RobustBench's Linf model of that name for "cifar10" or "cifar100", kept in folder; UserError where it fails."""
    with explained(f"robustbench cannot load {name} for {dataset}", "pip install robustbench 'setuptools<81', check the name "
                   f"on https://robustbench.github.io, and the files in {folder}"):
        import pyautoattack.state
        for part in ("", ".state"):  # robustbench imports it by its former name
            sys.modules.setdefault("autoattack" + part, sys.modules["pyautoattack" + part])
        from robustbench.utils import load_model
        return load_model(model_name=name, model_dir=folder, dataset=dataset, threat_model="Linf")
