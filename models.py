"""Architectures, from images (N, C, H, W) in [0, 1] to logits (N, classes), and checkpoints."""
import contextlib
import copy
import importlib
import pickle
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

class UserError(Exception):
    """Something that the user can mend: main prints it as one line and exits with 2."""

def one_line(error):
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text[:150]}"

def out_of_memory(error):
    return re.search("out of memory|allocate memory|ALLOC_FAILED|^MemoryError", one_line(error))

@contextlib.contextmanager
def explained(what, advice=""):
    """UserError "what (error): advice" in place of any error inside, but for a lack of memory."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if out_of_memory(error):
            raise
        raise UserError(f"{what} ({one_line(error)})" + (advice and f": {advice}")) from error

# ----------------------------------------------------------------------
# Architectures. Parts stand in the order in which they run (fold relies on it), and run in place

NORMALISATION = {   # (mean, std) inside the published SiLU networks, by data set
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "tiny-imagenet": ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))}

class Conv(nn.Conv2d):
    """Faster on small maps of a CPU: 1x1 as a matrix product, 3x3 per channel padded outside."""
    def forward(self, x):
        if x.is_cpu and x.shape[2] <= 4 and self.kernel_size == self.stride:
            return F.linear(x.movedim(1, 3), self.weight.flatten(1), self.bias).movedim(3, 1)
        if x.is_cpu and x.shape[2] < 3 and self.groups > 1 and self.weight.requires_grad:
            return F.conv2d(F.pad(x, [1] * 4), self.weight, None, self.stride, groups=self.groups)
        return super().forward(x)

def conv(n_in, n_out, kernel=3, stride=1, groups=1):
    return Conv(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)

def stack(block, count, n_in, n_out, stride):  # the first changes width and resolution
    rest = (block(n_out, n_out, 1) for _ in range(count - 1))
    return nn.Sequential(block(n_in, n_out, stride), *rest)

class Net(nn.Sequential):  # parts that run one after the other, under their published names
    def __init__(self, **parts):
        super().__init__(OrderedDict(parts))

def ours(model):  # also behind a normalisation
    return isinstance(model, Net) and isinstance(getattr(model, "net", model), Net)

class Block(Net):
    """Two 3x3 convolutions, batch norm after each (He et al. 2016a)."""
    def __init__(self, n_in, n_out, stride):
        shortcut = (conv(n_in, n_out, 1, stride), norm(n_out)) if n_in != n_out else ()
        super().__init__(conv1=conv(n_in, n_out, 3, stride), bn1=norm(n_out),
                         conv2=conv(n_out, n_out), bn2=norm(n_out),
                         shortcut=nn.Sequential(*shortcut))
    def forward(self, x):
        out = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        return F.relu_(out.add_(self.shortcut(x)))

class EndPadded(nn.Conv2d):
    """TensorFlow's "SAME" at stride 2: published SiLU networks pad an even side at its end only."""
    def forward(self, x):
        return super().forward(F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1)))

class PreActBlock(Net):
    """Batch norm and activation before each convolution (He et al. 2016b), under given names."""
    def __init__(self, names, act, n_in, n_out, stride, shortcut=conv):
        first = conv(n_in, n_out, 3, stride)
        if act is nn.SiLU and stride == 2:
            first = EndPadded(n_in, n_out, 3, stride, bias=False)
        parts = [norm(n_in), act(True), first, norm(n_out), act(True), conv(n_out, n_out)]
        parts += [shortcut(n_in, n_out, 1, stride)] if n_in != n_out else []
        super().__init__(**dict(zip(names.split(), parts)))
    def forward(self, x):
        norm1, act1, conv1, norm2, act2, conv2, *shortcut = self
        out = act1(norm1(x))
        return conv2(act2(norm2(conv1(out)))).add_(shortcut[0](out) if shortcut else x)

class Head(nn.Linear):
    """Global pooling, last layer; float32 under autocast too: f(x+delta) - f(x-delta) needs it."""
    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype).mean((2, 3)))

def resnet18(classes, channels, pre=False):
    """ResNet-18 with a 3x3 stem, names as in kuangliu/pytorch-cifar; pre: of pre-activation blocks,
    with the batch norm before the pooling instead of after the stem (Rice et al. 2020)."""
    block, stem, end = Block, dict(bn1=norm(64), relu1=nn.ReLU(True)), {}
    if pre:
        block = partial(PreActBlock, "bn1 relu1 conv1 bn2 relu2 conv2 shortcut", nn.ReLU,
                        shortcut=lambda *size: nn.Sequential(conv(*size)))
        stem, end = {}, dict(bn=norm(512), relu=nn.ReLU(True))
    return Net(conv1=conv(channels, 64), **stem, layer1=stack(block, 2, 64, 64, 1),
               layer2=stack(block, 2, 64, 128, 2), layer3=stack(block, 2, 128, 256, 2),
               layer4=stack(block, 2, 256, 512, 2), **end, linear=Head(512, classes))

class InvertedResidual(Net):
    """1x1 to wider, 3x3 per channel, 1x1 to narrower; residual at stride 1 (Sandler 2018)."""
    def __init__(self, expansion, n_in, n_out, stride):
        n = expansion * n_in
        shortcut = (conv(n_in, n_out, 1), norm(n_out)) if stride == 1 and n_in != n_out else ()
        super().__init__(conv1=conv(n_in, n, 1), bn1=norm(n), conv2=conv(n, n, 3, stride, groups=n),
                         bn2=norm(n), conv3=conv(n, n_out, 1), bn3=norm(n_out),
                         shortcut=nn.Sequential(*shortcut))
        self.residual = stride == 1
    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))  # not in place: Conv
        out = self.bn3(self.conv3(out))
        return out + self.shortcut(x) if self.residual else out

def mobilenet_v2(classes, channels):
    """MobileNetV2, full resolution up to the 24-channel stage; names as in pytorch-cifar."""
    layers, n_in, block = [], 32, InvertedResidual
    for expansion, n_out, count, stride in ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2),
            (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        layers += stack(partial(block, expansion), count, n_in, n_out, stride)
        n_in = n_out
    return Net(conv1=conv(channels, 32), bn1=norm(32), relu1=nn.ReLU(True),
               layers=nn.Sequential(*layers), conv2=conv(320, 1280, 1), bn2=norm(1280),
               relu2=nn.ReLU(True), linear=Head(1280, classes))

class Normalized(Net):
    """Parts that run on (x - mean) / std, which published checkpoints do not hold."""
    def __init__(self, mean, std, **parts):
        super().__init__(**parts)
        for name, value in dict(mean=mean, std=std).items():
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)
    def forward(self, x):
        return super().forward((x - self.mean) / self.std)

def wide_resnet(depth, width, classes, channels, silu=None):
    """Wide ResNet (Zagoruyko & Komodakis 2016) as in TRADES, RobustBench's WideResNet.
    silu, a mean and a std: Gowal et al. 2020's, which normalises, RobustBench's DMWideResNet."""
    names = ("batchnorm_0 relu_0 conv_0 batchnorm_1 relu_1 conv_1 shortcut" if silu else
             "bn1 relu1 conv1 bn2 relu2 conv2 convShortcut")
    block = partial(PreActBlock, names, nn.SiLU if silu else nn.ReLU)
    n, w = (depth - 4) // 6, 16 * width
    stages = [stack(block, n, *size) for size in ((16, w, 1), (w, 2 * w, 2), (2 * w, 4 * w, 2))]
    if silu:
        layer = nn.Sequential(*(Net(block=stage) for stage in stages))
        return Normalized(*silu, init_conv=conv(channels, 16), layer=layer, batchnorm=norm(4 * w),
                          relu=nn.SiLU(True), logits=Head(4 * w, classes))
    blocks = {f"block{i}": Net(layer=stage) for i, stage in enumerate(stages, 1)}
    model = Net(conv1=conv(channels, 16), **blocks, bn1=norm(4 * w), relu=nn.ReLU(True),
                fc=Head(4 * w, classes))
    for weight in (p for p in model.parameters() if p.ndim == 4):  # as RobustBench's
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(model.fc.bias)
    return model

def build(arch, classes, channels=3, dataset=None):
    """A new nn.Module: "rn18", "mnv2", "parn18", "wrn-D-W" (TRADES variant); "wrn-D-W-silu", which
    normalises as the data set's published networks do; or "PACKAGE.MODULE:FUNCTION", found from the
    current directory, called with num_classes=. UserError otherwise."""
    if arch in ("rn18", "parn18"):
        return resnet18(classes, channels, pre=arch == "parn18")
    if arch == "mnv2":
        return mobilenet_v2(classes, channels)
    wide = re.fullmatch(r"wrn-(\d+)-([1-9]\d*)(-silu)?", arch)
    if wide and int(wide[1]) in range(10, 1000, 6):
        mean_std = NORMALISATION.get(dataset, ([0.5] * channels, [0.25] * channels))
        return wide_resnet(int(wide[1]), int(wide[2]), classes, channels, wide[3] and mean_std)
    if ":" not in arch:
        raise UserError(f"unknown architecture {arch!r}: valid are rn18, mnv2, parn18, wrn-D-W, "
                        "wrn-D-W-silu (D = 10, 16, 22, 28, ...), and PACKAGE.MODULE:FUNCTION")
    module, function = arch.split(":", 1)
    sys.path.insert(0, str(Path.cwd()))  # `python elsewhere/igdm.py` looks beside the script first
    with explained(f"architecture {arch!r} failed"):
        model = getattr(importlib.import_module(module), function)(num_classes=classes)
        assert isinstance(model, nn.Module), f"it gave {type(model).__name__}, not an nn.Module"
        return model

# ----------------------------------------------------------------------
# Faster: with fixed statistics, a batch norm after a convolution is part of the convolution; bf16.

@torch.no_grad()
def fold(model, into=None, precision="fp32"):
    """A frozen copy of model in eval mode, faster: each batch norm after a convolution is folded
    into it, and the convolutions are in bf16 if precision is (in networks of others neither).
    into: an earlier copy, renewed in place."""
    pairs, convs = {}, []
    for path, module in model.named_modules() if ours(model) else ():
        parts = [(f"{path}.{name}".lstrip("."), part) for name, part in module.named_children()]
        convs += [name for name, part in parts if isinstance(part, nn.Conv2d)]
        pairs.update((name, bn) for (name, first), (bn, second) in zip(parts, parts[1:])
                     if isinstance(first, nn.Conv2d) and isinstance(second, norm))
    if into is None:
        into = copy.deepcopy(model).eval().requires_grad_(False)
        for layer in map(into.get_submodule, convs if precision == "bf16" else ()):
            layer.bfloat16()
        for name, bn in pairs.items():
            layer = into.get_submodule(name)
            layer.bias = nn.Parameter(torch.empty_like(layer.weight[:, 0, 0, 0]), False)
            into.set_submodule(bn, nn.Identity().eval())
    copies = dict([*into.named_parameters(), *into.named_buffers()])
    for name, bn in pairs.items():  # a scale and a shift per channel
        bn = model.get_submodule(bn)
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight, bias = copies.pop(f"{name}.weight"), copies.pop(f"{name}.bias")
        torch.mul(model.get_submodule(name).weight, scale[:, None, None, None], out=weight)
        bias.copy_(bn.bias - bn.running_mean * scale)
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if name in copies:
            copies[name].copy_(value)
    return into

class Mixed(Net):  # network= under bf16 autocast; parameters and logits stay float32
    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.network(x).float()

# ----------------------------------------------------------------------
# Checkpoints

NO_CHECKPOINT = {   # what else a file may be, by its first bytes
    b"<": "a web page: Google Drive sends one where it wants a click", b"{": "JSON",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself"}
AVERAGED = re.compile(r"(^|[._])(ema|swa)([._]|$)|averag")

def read_file(path):
    """What torch.save or safetensors put into path, on the CPU; code in it is never run. UserError
    where it is missing, damaged, or holds what torch.load(weights_only=True) refuses."""
    with explained(f"cannot read {path}", "check the path, or get the file again"):
        with open(path, "rb") as file:
            head = file.read(99)
        if head[5:9] == b"\0\0\0{":  # a length of 8 bytes, then JSON
            return importlib.import_module("safetensors.torch").load_file(path)
        for start, what in NO_CHECKPOINT.items():
            if head.lstrip().startswith(start):
                raise UserError(f"it is {what}")
        if head.startswith(b"PK") and (bad := zipfile.ZipFile(path).testzip()):
            raise UserError(f"{bad} in it is damaged")  # torch.load does not check the CRCs
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            more = re.search(r"GLOBAL (\S+)|$", str(error))[1]
            raise UserError(f"it needs {more}, which could run code: save weights alone" if more
                            else "neither of torch.save nor of safetensors") from error

def tensor_dicts(value, name=""):
    """(name, tensors) for each dict with tensors inside a checkpoint, however deep."""
    tensors = {str(key): part for key, part in value.items() if torch.is_tensor(part)}
    yield from [(name, tensors)] if tensors else []
    for key, part in value.items():
        yield from tensor_dicts(part, f"{name}.{key}".lstrip(".")) if isinstance(part, dict) else ()

def fits(own, name, tensors):
    """Ways to read tensors as own, a state dict: (faults, name, state, (mean, std) beside it)."""
    wrapper = next(iter(own), "").split(".")[0] + "."  # the network may be a wrapper itself
    for keys in {key: key for key in own}, {key.removeprefix(wrapper): key for key in own}:
        first = next(iter(keys), "")
        ends = sorted((key for key in tensors if key.endswith(first)), key=len)
        for prefix in [key.removesuffix(first) for key in ends] or [""]:
            inside = {key.removeprefix(prefix): value for key, value in tensors.items()
                      if key.startswith(prefix)}
            state = {keys[key]: inside[key] for key in keys if key in inside}
            faults = [f"no {key}" for key in keys
                      if key not in inside and not key.endswith("num_batches_tracked")]
            faults += [f"{key} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
                       for key, value in state.items() if value.shape != own[key].shape]
            beside = {key.split(".")[-1].strip("_"): value for key, value in tensors.items()
                      if key.removeprefix(prefix) not in keys}
            scale = [beside.get("mean", beside.get("mu")), beside.get("std", beside.get("sigma"))]
            spare = ("mean", "mu", "std", "sigma") * all(torch.is_tensor(part) for part in scale)
            faults += [f"{key} besides" for key in inside if key not in keys and not (
                key.startswith("sub_block1.") or key.split(".")[-1].strip("_") in spare)]  # LTD's
            yield faults, f"{name}.{prefix}".strip("."), state, scale

def load_state(model, path, arch):
    """The model with the weights of a checkpoint, averaged ones first, and its normalisation."""
    own, content = model.state_dict(), read_file(path)
    content = content if isinstance(content, dict) else {}
    found = [way for name, tensors in tensor_dicts(content) for way in fits(own, name, tensors)]
    if not found:
        raise UserError(f"{path} holds no weights: save model.state_dict()")
    found.sort(key=lambda way: (len(way[0]), "unaver" in way[1], not AVERAGED.search(way[1])))
    faults, name, state, (mean, std) = found[0]
    if faults:
        raise UserError(f"{path} does not fit {arch}, another architecture or number of classes? "
                        f"{'; '.join(faults[:3])}")
    others = {way[1] for way in found if not way[0] and any(
        way[2][key] is not value for key, value in state.items())}
    if others:
        print(f"{path}: took {name}, not {', '.join(others)}", file=sys.stderr)
    with explained(f"{path} does not fit {arch}"):
        model.load_state_dict(state, strict=False)  # an old file may lack num_batches_tracked
        buffers = dict(model.named_buffers())
        if mean is not None and std is not None and "mean" not in buffers:
            return Normalized(mean.flatten().tolist(), std.flatten().tolist(), net=model)
        for name, value in (("mean", mean), ("std", std)):
            if name in buffers and value is not None:
                buffers[name].copy_(value.view_as(buffers[name]))
        return model

def weights(model):
    """A state dict to keep, on the CPU and contiguous, with a Normalized's mean and std."""
    buffers = {key: value for key, value in model.named_buffers() if key in ("mean", "std")}
    return {key: value.cpu().contiguous() for key, value in (model.state_dict() | buffers).items()}

def fetch(urls, path):
    """path, downloaded from the first of urls that has it, unless it is there; whole or not at all.
    UserError with the addresses and the place: Google Drive often refuses scripts."""
    failures = []
    for url in urls if not path.exists() else ():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as beside:
                part = Path(beside) / "part"
                get = torch.hub.download_url_to_file if "drive.google.com" not in url else (
                    importlib.import_module("gdown").download)
                get(url, str(part))
                read_file(part)
                part.replace(path)
                break
        except Exception as error:
            failures.append(f"{url} ({one_line(error)})")
    if not path.exists():
        raise UserError(f"cannot download {path}: {'; '.join(failures)}. Get one in a browser and "
                        f"put it at {path.absolute()}, or use --teacher pgd-at")
    return path

def from_robustbench(name, dataset, folder):
    """RobustBench's Linf model of that name for "cifar10" or "cifar100", kept in folder."""
    with explained(f"robustbench cannot load {name}", "pip install robustbench 'setuptools<81'"):
        for part in ("", ".state"):  # robustbench imports it by its former name
            sys.modules["autoattack" + part] = importlib.import_module("pyautoattack" + part)
        from robustbench.utils import load_model
        return load_model(model_name=name, model_dir=folder, dataset=dataset, threat_model="Linf")
