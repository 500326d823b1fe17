"""IGDM, Indirect Gradient Matching for Adversarial Robust Distillation (Lee, Cho, Kim; ICLR 2025, arXiv 2312.03286).

A small student learns to withstand attack from a large robust teacher. IGDM adds one term to any such method: it matches
the differences f(x+delta) - f(x-delta) of student and teacher and so, as both are locally linear, their input gradients.

    python igdm.py --method rslad --igdm --student mnv2 --dataset digits   # minutes on a laptop, nothing to download
    python igdm.py --method rslad --igdm --student mnv2                    # the paper: CIFAR-100, BDM-AT, table 10; a GPU
    python igdm.py --eval-only runs/NAME/student.pt --teacher bdm,ltd,ikl  # measure any checkpoint
    bash run_all.sh; python igdm.py --report runs                          # every table, beside the paper's numbers

The paper, and where it stands here (equations, tables and figures as the ICLR version numbers them):

    eq. 3-8        L_IGDM                                           igdm_loss
    eq. 9, alg. 1  L = L_base + T(alpha) L_IGDM                     objective, forward, train
    eq. 10         point-wise distance (table 5)                    point_wise_distance
    eq. 11         direct gradient matching (table 15)              MATCH
    eq. 14-17      the base methods, inner and outer                attack_*, loss_*, METHODS
    table 1        teachers                                         TEACHERS
    table 4        GD, GC                                           gradient_alignment
    tables 6, 8    without T in the attack; AdaAD's lambda          --inner student; --adaad-lambda
    table 16       TRADES-like terms in place of IGDM               MATCH
    figure 2       proportion of the remainder                      remainder
    figures 2-5    drawn from what runs left                        figures
    B.1, B.2       schedules; alpha                                 DATASETS; ALPHA

The method ends with `training_step`; what follows it trains, measures, keeps, reports, and reads the command line.
Where the paper and the code that circulates disagree, the paper is followed; the README lists each such place.
"""
import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import json
import logging
import math
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
import timeit
import warnings
import zipfile
from datetime import timedelta
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
if "igdm_models" not in sys.modules:        # models.py by a name of its own: who imports igdm often has a "models", too
    spec = importlib.util.spec_from_file_location("igdm_models", HERE / "models.py")
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
import igdm_models as models  # noqa: E402
from igdm_models import UserError, explained, one_line, out_of_memory  # noqa: E402

RANK, WORLD = 0, 1
if {"RANK", "WORLD_SIZE"} <= os.environ.keys():         # as torchrun sets them; a cluster may set one alone
    RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

# ----------------------------------------------------------------------------------------------------------------------
# The paper's constants

class Dataset(NamedTuple):
    """Training settings (B.1), with SGD and momentum 0.9; lr is divided by 10 after each of drops, in epochs."""
    epochs: int = 200
    drops: tuple = (100, 150)
    lr: float = 0.1
    batch: int = 128                 # from the released code
    weight_decay: float = 5e-4       # circulating code: 2e-4
    eps: float = 8 / 255             # L-inf, images in [0, 1]
    augment: str = "crop-flip"       # crop: out of zero padding of an eighth of the side, 4 at 32x32, 8 at 64x64
    student: str = "rn18"
    teacher: str | None = "pgd-at"   # a key of TEACHERS, or a PGD-AT run of this script
    teacher_arch: str = "wrn-34-10"
    mean: tuple | None = None        # input normalisation inside the wrn-D-W-silu networks
    std: tuple | None = None
    cw_restarts: int = 10
    aa_n: int | None = None          # images for AutoAttack: all

DATASETS = {
    "cifar10": Dataset(teacher="bdm", mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616)),
    "cifar100": Dataset(teacher="bdm", mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    "svhn": Dataset(epochs=50, drops=(40, 45)),
    "tiny-imagenet": Dataset(epochs=100, drops=(50, 80), student="parn18", teacher=None),
    # ours, for trying things: real handwriting, 8x8 pixels, 1,437 training images
    "digits": Dataset(epochs=12, drops=(8, 11), batch=64, eps=24 / 255, augment="crop", student="mnv2",
                      teacher_arch="wrn-10-2", cw_restarts=2, aa_n=100),
}
SCHEDULE = dict.fromkeys([("rslad", "cifar10"), ("rslad", "cifar100")], (300, (215, 260, 285)))     # instead of Dataset's
STEPS = 10                                              # of PGD in training, each eps/4, that is 2/255
SAVE_EVERY = 300                                        # seconds between checkpoints inside an epoch

TEACHERS = {   # table 1, RobustBench's checkpoints: architecture, Google Drive id, clean accuracy in percent
    ("cifar100", "bdm"): ("wrn-28-10-silu", "1-jOu3wKWyw0XnBCXDGR32xn8Bw9GTJgh", 72.58),    # Wang2023Better_WRN-28-10
    ("cifar100", "ikl"): ("wrn-28-10-silu", "15BwWdWbNfoarTEWWugicOVkTjh3nXH36", 73.8),     # Cui2023Decoupled_WRN-28-10
    ("cifar100", "ltd"): ("wrn-34-10", "1-I4NZyULdEWH46b4EaCTxuuRo4eFXsg_", 64.07),         # Chen2021LTD_WRN34_10
    ("cifar10", "bdm"): ("wrn-28-10-silu", "1-6MYKJdECDVGaWjj6GgqvaT95BGKhUvI", 92.44),     # Wang2023Better_WRN-28-10
    ("cifar10", "ikl"): ("wrn-28-10-silu", "1-AaTrYt23WJFR22hXgBd-i6kjpsz6Hf2", 92.16),     # Cui2023Decoupled_WRN-28-10
    ("cifar10", "ltd"): ("wrn-34-10", "1-0RoQKYvHLNh7hZ71wJjSit1XtrJQo9D", 85.21),          # Chen2021LTD_WRN34_10
    ("cifar10", "ltd2"): ("wrn-34-20", "1-5JmY9rapuGwCUc2nPvy7Rb_sn_dHhFm", None),          # Chen2021LTD_WRN34_20
}
ALPHA_COLUMNS = "pgd-at", "trades", "ard", "iad", "akd", "rslad", "adaad"               # adaiad shares adaad's
ALPHA = {      # B.2
    ("cifar100", "rn18", "bdm"):         (220, 5, 100, 50, 25, 10, 70),
    ("cifar100", "rn18", "ikl"):         (100, 5, 100, 50, 40, 10, 50),
    ("cifar100", "rn18", "ltd"):         (100, 5, 50, 20, 50, 3, 15),
    ("cifar100", "mnv2", "bdm"):         (160, 10, 70, 50, 30, 4, 50),
    ("cifar100", "mnv2", "ikl"):         (160, 3, 70, 50, 30, 10, 40),
    ("cifar100", "mnv2", "ltd"):         (150, 10, 70, 20, 30, 3, 20),
    ("cifar10", "rn18", "bdm"):          (70, 20, 10, 30, 10, 0.9, 10),
    ("cifar10", "rn18", "ikl"):          (70, 20, 10, 30, 15, 1, 5),
    ("cifar10", "rn18", "ltd"):          (60, 20, 5, 50, 7, 0.9, 5),
    ("cifar10", "mnv2", "bdm"):          (40, 0.5, 8, 50, 15, 0.7, 10),
    ("cifar10", "mnv2", "ikl"):          (50, 0.2, 9, 50, 15, 0.7, 10),
    ("cifar10", "mnv2", "ltd"):          (70, 1, 10, 50, 15, 0.5, 10),
    ("svhn", "rn18", "pgd-at"):          (60, 30, 50, 40, 10, 3, 9),
    ("tiny-imagenet", "parn18", "rift"): (30, 20, 10, 20, 10, 1, 10),
    ("digits", "mnv2", "pgd-at"):        (1, 1, 1, 1, 1, 1, 1),                         # ours
}
ALPHA_ABLATION = {"direct": 10, "trades-reg": 20, "trades-like": 10}    # the best AutoAttack of tables 15 and 16

# ----------------------------------------------------------------------------------------------------------------------
# Data: loaded once, kept as uint8 on the device, cropped and flipped there in batch

class Data(NamedTuple):
    """Images (N, C, H, W) uint8 and labels (N,) int64, all on one device, and the number of classes."""
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: int

SOURCES = {    # for those who must bring a file themselves
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "cifar100": "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "svhn": "train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/",
    "tiny-imagenet": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
}

def read_tiny_imagenet(folder):
    """The arrays of tiny-imagenet-200.zip, 200 classes, 64x64; its validation set is the test set, as everywhere."""
    from PIL import Image
    from torchvision.datasets.utils import download_url
    download_url(SOURCES["tiny-imagenet"], folder, md5="90528d7ca1a48142e341f4ef8d21d0de")
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip") as archive:
        root = "tiny-imagenet-200/"

        def pixels(names):   # some are grey
            return np.stack([np.asarray(Image.open(archive.open(root + name)).convert("RGB")) for name in names])
        label = {wnid: i for i, wnid in enumerate(sorted(archive.read(root + "wnids.txt").decode().split()))}
        train = sorted(n[len(root):] for n in archive.namelist() if n.startswith(root + "train/") and n.endswith(".JPEG"))
        val = [row.split("\t")[:2] for row in archive.read(root + "val/val_annotations.txt").decode().splitlines()]
        return (pixels(train), [label[name.split("/")[1]] for name in train],
                pixels(f"val/images/{name}" for name, _ in val), [label[wnid] for _, wnid in val])

def read_original(name, folder):
    """(x_train, y_train, x_test, y_test) of a named data set from its source, downloaded into folder unless it is there."""
    if name == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        x, y = load_digits(return_X_y=True)
        x = np.rint(x.reshape(-1, 8, 8) * (255 / 16))           # 17 grey levels
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
        return x_train, y_train, x_test, y_test
    if name == "tiny-imagenet":
        return read_tiny_imagenet(folder)
    from torchvision import datasets
    if name == "svhn":
        train, test = (datasets.SVHN(folder, split=split, download=True) for split in ("train", "test"))
        return train.data.transpose(0, 2, 3, 1), train.labels, test.data.transpose(0, 2, 3, 1), test.labels
    train, test = (getattr(datasets, name.upper())(folder, train=part, download=True) for part in (True, False))
    return train.data, train.targets, test.data, test.targets

def read_npz(path):
    """(x_train, y_train, x_test, y_test) of an .npz: images uint8 (N, H, W) or (N, H, W, C), integer labels from 0.

    Raises UserError, naming file and array, for anything else; pickled objects are never loaded."""
    with explained(f"{path} is no .npz of x_train, y_train, x_test, y_test"), np.load(path, allow_pickle=False) as file:
        arrays = [file[key] for key in Data._fields[:4]]
    for part, x, y in (("train", *arrays[:2]), ("test", *arrays[2:])):
        refuse(x.dtype != np.uint8 or x.ndim not in (3, 4) or x.shape[3:] not in ((), (1,), (3,)) or not len(x)
               or min(x.shape[1:3]) < 8 or x.shape[1:] != arrays[0].shape[1:],
               f"{path}: x_{part} is {x.dtype} {x.shape}; it must be uint8, (N, H, W) or (N, H, W, C) with C 1 or 3, at "
               "least 8x8, and of one size in train and test")
        refuse(not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1] or y.min() < 0 or y.max() >= 2**16
               or y.max() > arrays[1].max(),
               f"{path}: y_{part} is {y.dtype} {y.shape}; it must be integers from 0 to at most 65535, one for each of the "
               f"{len(x)} images, and none in test above those in train")
    refuse(arrays[1].max() < 1, f"{path}: there is only one class in y_train")
    unseen = np.setdiff1d(np.arange(int(arrays[1].max())), arrays[1])
    if len(unseen):
        print(f"warning: {path}: no training image has label {', '.join(map(str, unseen[:5]))}", file=sys.stderr)
    return arrays

def balanced_subset(y, n):
    """Ascending indices of n of the labels y (N,), as many of each class as of any other within one; always the same."""
    order = np.random.default_rng(0).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]                          # by class, shuffled inside
    rank = np.arange(len(y)) - np.searchsorted(y[order], y[order])              # 0, 1, 2, ... inside each class
    return np.sort(order[np.argsort(rank, kind="stable")[:n]])

def load_data(name, folder, limit_train=None, limit_test=None, device="cpu"):
    """Data by name or by the path of an .npz; a named one is packed once to folder/NAME.npz and read from there.

    Raises UserError where a download fails or a file does not hold what it should."""
    path = Path(name) if name.endswith(".npz") else folder / f"{name}.npz"
    if name in DATASETS and not path.exists():
        advice = (f"put {SOURCES[name]} into {folder} by hand, or use --dataset digits, which needs no download"
                  if name in SOURCES else "pip install -r requirements.txt")
        with explained(f"cannot get {name}", advice):
            arrays = [np.asarray(a, t) for a, t in zip(read_original(name, folder), (np.uint8, np.int64) * 2)]
        with contextlib.suppress(UserError, OSError):   # a read-only folder costs time only
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda file: np.savez(file, **dict(zip(Data._fields, arrays))))
    else:
        arrays = read_npz(path)
    tensors = []
    for x, y, limit in ((*arrays[:2], limit_train), (*arrays[2:], limit_test)):
        keep = balanced_subset(y, limit) if limit else slice(None)
        x, y = torch.from_numpy(x[keep]), torch.from_numpy(y[keep].astype(np.int64))
        tensors += [(x[..., None] if x.ndim == 3 else x).permute(0, 3, 1, 2).to(device), y.to(device)]
    return Data(*tensors, classes=int(arrays[1].max()) + 1)

def generator(device, *key):
    """A random generator that depends on key (seed, epoch, step ...) alone: none has a state to save or to disturb."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))

def augment(x, kind, g):
    """Random crop out of zero padding, an eighth of each side, then horizontal flip with probability 1/2; each image its own.

    x (N, C, H, W) of any dtype; returns the same shape. kind: "crop-flip" (B.1), "crop" or "none"."""
    if kind == "none":
        return x
    n, _, h, w = x.shape
    top, left = (torch.randint(2 * (side // 8) + 1, (n, 1), generator=g, device=x.device) for side in (h, w))
    rows, cols = top + torch.arange(h, device=x.device), left + torch.arange(w, device=x.device)
    if kind == "crop-flip":
        mirrored = torch.rand(n, 1, generator=g, device=x.device) < 0.5
        cols = torch.where(mirrored, cols.flip(1), cols)
    image = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (w // 8, w // 8, h // 8, h // 8)).permute(0, 2, 3, 1)
    return padded[image, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)

def to_float(x):
    """uint8 images to float32 in [0, 1]."""
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

# ----------------------------------------------------------------------------------------------------------------------
# Attacks: one PGD, the objective is its argument

@contextlib.contextmanager
def eval_mode(model):
    """Batch-norm statistics frozen inside; every module's own mode restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

def start_noise(start, x, eps, g):
    """Where PGD starts from x, of its shape: "uniform" in [-eps, eps]; "gaussian", 0.001 N(0, 1); or None, at x."""
    noise = torch.zeros_like(x)
    if start == "uniform":
        noise.uniform_(-eps, eps, generator=g)
    elif start == "gaussian":
        noise.normal_(0, 0.001, generator=g)
    elif start is not None:
        raise ValueError(f"start is {start!r}: uniform, gaussian or None")
    return noise

def pgd(model, x, objective, eps=8 / 255, step=2 / 255, steps=10, start="uniform", g=None):
    """Projected gradient ascent of an objective in the L-inf ball of eps around x, within [0, 1] (Madry 2018).

    model      is in eval mode meanwhile, and left as it was: batch-norm statistics do not move
    x          (N, C, H, W) in [0, 1]
    objective  x_adv (N, C, H, W) -> scalar to maximise, e.g. lambda x_adv: F.cross_entropy(model(x_adv), y)
    start      "uniform"; "gaussian", for objectives of zero gradient at x; None; or the noise itself, of x's shape
    g          torch.Generator on x's device
    Returns x_adv, detached."""
    x_adv = x.detach() + (start if isinstance(start, torch.Tensor) else start_noise(start, x, eps, g))
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)      # ball and [0, 1] are boxes: so is their intersection
    x_adv = x_adv.clamp(low, high)
    with eval_mode(model), torch.enable_grad():
        for _ in range(steps):
            gradient, = torch.autograd.grad(objective(x_adv.requires_grad_()), x_adv)
            x_adv = (x_adv.detach() + step * gradient.sign()).clamp(low, high)
    return x_adv.detach()

def cw(model, x, y, eps, step, steps=50, restarts=10, g=None):
    """C&W's margin max_{j != y} z_j - z_y by L-inf PGD from uniform starts, only images still right moving; of the restarts
    the perturbation of highest cross-entropy (as the paper's authors' later code has it). Otherwise as pgd."""
    def margin(x_adv):
        logits = model(x_adv)
        true = logits.gather(1, y[:, None])[:, 0]
        other = logits.scatter(1, y[:, None], -math.inf).amax(1)
        return ((other - true) * (other < true)).sum()

    ends = torch.stack([pgd(model, x, margin, eps, step, steps, "uniform", g) for _ in range(restarts)])
    with torch.no_grad(), eval_mode(model):
        losses = torch.stack([F.cross_entropy(model(x_adv), y, reduction="none") for x_adv in ends])
    return ends[losses.argmax(0), torch.arange(len(x), device=x.device)]       # argmax takes a NaN first: it must be seen

# ----------------------------------------------------------------------------------------------------------------------
# Losses. S and T are student and teacher; o holds what a step has computed, logits (N, K):
#   o.s_adv = S(x+delta), o.s_clean = S(x), o.s_minus = S(x-delta); o.t_adv, o.t_clean, o.t_minus: T's, without gradient;
#   o.s_grad, o.t_grad: input gradients at x, for direct matching; o.done: the fraction of epochs finished.

def kl(s, t, reduction="batchmean"):
    """KL(softmax(t) || softmax(s)), which the paper writes KL(s || t): t is the target; both logits (N, K).

    Never detaches: some methods need the target's gradient. Both in log space, where a target's 0 log 0 is no NaN."""
    return F.kl_div(F.log_softmax(s, 1), F.log_softmax(t, 1), reduction=reduction, log_target=True)

# Inner maximisation, eq. 14-17: (S, T, x, y, o) -> objective(x_adv). o.t_clean is there if the outer loss reads it.

def attack_ce(S, T, x, y, o):
    return lambda x_adv: F.cross_entropy(S(x_adv), y)

def attack_trades(S, T, x, y, o):
    with eval_mode(S), torch.no_grad():
        s_clean = S(x)
    return lambda x_adv: kl(S(x_adv), s_clean)

def attack_rslad(S, T, x, y, o):
    return lambda x_adv: kl(S(x_adv), o.t_clean)

def attack_adaad(S, T, x, y, o):
    return lambda x_adv: kl(S(x_adv), T(x_adv))     # gradient through both

# Outer loss: (o, y, constants) -> scalar.

def loss_pgd_at(o, y):
    return F.cross_entropy(o.s_adv, y)

def loss_trades(o, y, beta):
    return F.cross_entropy(o.s_clean, y) + beta * kl(o.s_adv, o.s_clean)

def loss_ard(o, y, a, t):
    loss = a * t**2 * kl(o.s_adv / t, o.t_clean / t)
    return loss + (1 - a) * F.cross_entropy(o.s_clean, y) if a != 1 else loss

def introspection(o, y, b):
    """mean_i (1 - w_i) KL_i(S(x+d) || S(x)), w_i = p_T(y_i | x_i+d_i)^b: it trusts itself where T errs."""
    w = F.softmax(o.t_adv, 1).gather(1, y[:, None])[:, 0] ** b
    return ((1 - w) * kl(o.s_adv, o.s_clean, "none").sum(1)).mean()

def loss_iad(o, y, b, begin):
    loss = kl(o.s_adv, o.t_clean)
    return loss + introspection(o, y, b) if o.done >= begin else loss

def loss_akd(o, y, lam):
    mixture = lam * F.softmax(o.t_adv, 1) + (1 - lam) * F.one_hot(y, o.t_adv.shape[1])
    return F.cross_entropy(o.s_adv, mixture)

def loss_rslad(o, y, scale):
    return scale * (5 / 6 * kl(o.s_adv, o.t_clean) + 1 / 6 * kl(o.s_clean, o.t_clean))

def loss_adaad(o, y, lam):
    loss = lam * kl(o.s_adv, o.t_adv)
    return loss + (1 - lam) * kl(o.s_clean, o.t_clean) if lam != 1 else loss

def loss_adaiad(o, y, b, begin, t):
    loss = t**2 * kl(o.s_adv / t, o.t_adv / t)
    return loss + introspection(o, y, b) if o.done >= begin else loss

class Method(NamedTuple):
    """A base method is this one entry; each of its constants is a flag, --METHOD-CONSTANT."""
    inner: Callable
    start: str
    outer: Callable
    constants: dict

METHODS = {
    "pgd-at": Method(attack_ce, "uniform", loss_pgd_at, dict()),                        # Madry 2018
    "trades": Method(attack_trades, "gaussian", loss_trades, dict(beta=6.0)),           # Zhang 2019
    "ard": Method(attack_ce, "uniform", loss_ard, dict(a=1.0, t=1.0)),                  # Goldblum 2020, whose code has t = 30
    "iad": Method(attack_ce, "uniform", loss_iad, dict(b=0.1, begin=0.3)),              # Zhu 2022; begin: 60 of 200 epochs
    "akd": Method(attack_ce, "uniform", loss_akd, dict(lam=0.5)),                       # Maroto 2022; the paper prints no lam
    "rslad": Method(attack_rslad, "gaussian", loss_rslad, dict(scale=0.1)),             # Zi 2021, whose code has the 1/10
    "adaad": Method(attack_adaad, "gaussian", loss_adaad, dict(lam=1.0)),               # Huang 2023
    "adaiad": Method(attack_adaad, "gaussian", loss_adaiad, dict(b=0.1, begin=0.3, t=1.0)),     # Huang 2023; code: t = 30
}

def inner_maximisation(cfg):
    """The (attack, start) of cfg.method, or the student's own, without the teacher (table 6)."""
    return (attack_ce, "uniform") if cfg.inner == "student" else METHODS[cfg.method][:2]

def igdm_loss(s_plus, s_minus, t_plus, t_minus, surrogate="kl"):
    """L_IGDM, eq. 8: match the student's f(x+delta) - f(x-delta) = 2 J delta + small (eq. 3-6) to the teacher's.

    Logits (N, K) of student and teacher at x+delta and at x-delta, the latter not clamped to [0, 1]; no gradient reaches
    the teacher. surrogate: "kl", the differences taken as logits; "l1", "l2", mean norm of what differs. Returns a scalar."""
    s, t = s_plus - s_minus, (t_plus - t_minus).detach()
    return kl(s, t) if surrogate == "kl" else torch.linalg.vector_norm(s - t, ord=dict(l1=1, l2=2)[surrogate], dim=1).mean()

MATCH = {      # what is added to the base loss: (o, surrogate) -> scalar
    "igdm": lambda o, surrogate: igdm_loss(o.s_adv, o.s_minus, o.t_adv, o.t_minus, surrogate),
    "direct": lambda o, _: (o.s_grad - o.t_grad).flatten(1).square().sum(1).mean(),     # eq. 11, table 15
    "trades-reg": lambda o, _: kl(o.s_adv, o.s_clean),                                  # table 16
    "trades-like": lambda o, _: kl(o.s_adv, o.s_minus),                                 # table 16
}

# ----------------------------------------------------------------------------------------------------------------------
# Training

def ramp(alpha, epoch, epochs):
    """T(alpha) = epoch / epochs * alpha, epoch counted from 1 (B.2)."""
    return epoch / epochs * alpha

def objective(cfg, epoch):
    """Eq. 9 for one epoch: (o, y) -> (L_base, T(alpha) L_match), two scalars."""
    outer = partial(METHODS[cfg.method].outer, **cfg.constants)
    weight = ramp(cfg.alpha, epoch, cfg.ramp_epochs)

    def loss(o, y):
        o.done = (epoch - 1) / cfg.epochs
        base = outer(o, y)
        return base, weight * MATCH[cfg.match](o, cfg.surrogate) if cfg.match and weight else torch.zeros_like(base)
    return loss

def outputs_read(loss=None, attack=None):
    """The names of those outputs that a loss (o, y) and an attack read, "teacher" if the attack calls it, so that no other is
    computed: found by calling both, with 2 images and 192 classes. Raises UserError where they cannot be called so."""
    names = set()

    class Outputs:
        def __getattr__(self, name):
            names.add(name)
            return torch.zeros(2, 192)

    class Teacher(torch.nn.Sequential):
        def forward(self, x):
            names.add("teacher")
            return super().forward(x)
    o, x, y = Outputs(), torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    parts = torch.nn.BatchNorm2d(3), torch.nn.Flatten()
    with explained("the method's attack or loss fails where it is tried, with logits (2, 192) of images (2, 3, 8, 8)"):
        if attack:
            attack(torch.nn.Sequential(*parts), Teacher(*parts), x, y, o)(x)
        if loss:
            loss(o, y)
    return names

def input_gradient(model, x, y):
    """Gradient of each image's cross-entropy with its true label with respect to the image, of x's shape (N, C, H, W); model in
    eval mode, or batch statistics would mix the images."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]

def forward(S, attacked, T, x, y, start, cfg, reads):
    """Algorithm 1 up to the loss: delta by the base method's inner maximisation, then every output that the loss reads.

    S in train mode; attacked, the same network in eval mode (models.fold); T in eval mode; x (N, C, H, W) in [0, 1], y (N,);
    start, the noise from which the attack starts, as x.
    Each student pass is its own: x+delta, x, x-delta have batch statistics of their own, and move the running ones in this
    order. S(x) runs even where no loss reads it, as in the code of ARD, IAD and AdaAD, so that these see clean images."""
    attack, o = inner_maximisation(cfg)[0], SimpleNamespace()
    with torch.no_grad():
        o.t_clean = T(x) if "t_clean" in reads else None
    x_adv = pgd(attacked, x, attack(attacked, T, x, y, o), cfg.eps, cfg.step_size, cfg.steps, start)
    x_minus = x - (x_adv - x)                                   # not clamped
    with torch.no_grad():
        if "t_minus" in reads:                                  # statistics are fixed in T: its passes can share a batch
            o.t_adv, o.t_minus = T(torch.cat([x_adv, x_minus])).chunk(2)
        elif "t_adv" in reads:
            o.t_adv = T(x_adv)
    o.s_adv = S(x_adv)
    if "s_grad" in reads:
        o.t_grad = input_gradient(T, x, y)
        x = x.detach().requires_grad_()
    with torch.set_grad_enabled(bool(reads & {"s_clean", "s_grad"})):
        o.s_clean = S(x)
    if "s_grad" in reads:
        o.s_grad, = torch.autograd.grad(F.cross_entropy(o.s_clean, y, reduction="sum"), x, create_graph=True)
    if "s_minus" in reads:
        o.s_minus = S(x_minus)
    return o

def training_step(S, T, cfg):
    """The optimizer of S, and the training step: a function (loss, reads, sums, x, y, start) that adds the two losses to sums.

    The networks that it calls are in cfg.precision, and compiled if cfg.compile; parameters, logits, losses are float32."""
    optimizer = torch.optim.SGD(S.parameters(), lr=cfg.lr, momentum=0.9, weight_decay=cfg.weight_decay)
    attacked, target = models.fold(S, precision=cfg.precision), T and models.fold(T, precision=cfg.precision)
    networks = [net and models.mixed(net, cfg.precision) for net in (S, attacked, target)]
    if cfg.compile:
        torch._dynamo.config.cache_size_limit = 64              # a graph for each network, mode and shape; the default is 8
        networks = [net and torch.compile(net, dynamic=False) for net in networks]

    def step(loss, reads, sums, x, y, start):
        models.fold(S, attacked)
        base, match = loss(forward(*networks, x, y, start, cfg, reads), y)
        optimizer.zero_grad()
        (base + match).backward()
        losses = torch.stack((base, match)).detach()
        average(losses, *(p.grad for p in S.parameters() if p.grad is not None),
                *(buffer for buffer in S.buffers() if buffer.is_floating_point()))
        optimizer.step()
        sums += losses
    return optimizer, step

def captured(step, *inputs):
    """step(*inputs), all tensors, recorded as a CUDA graph: a function of like inputs, which replays it without launching
    its thousands of kernels one by one. It must have run before, on this stream."""
    static, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step(*static)

    def replay(*inputs):
        for buffer, value in zip(static, inputs):
            buffer.copy_(value)
        graph.replay()
    return replay

def make_batch(data, index, cfg, g):
    """(x, y, start) of the training images index, augmented, and the attack's noise; of several ranks, this one's share."""
    x = to_float(augment(data.x_train[index], cfg.augment, g))
    start = start_noise(inner_maximisation(cfg)[1], x, cfg.eps, g)
    return [value[RANK::WORLD].contiguous() for value in (x, data.y_train[index], start)]

def train(S, T, data, cfg, stop):
    """Train the student S to the end of cfg.epochs, going on from cfg.out/last.pt if there is one.

    Halts with 3 on a number that is not finite and, once stop.signal is set, with 128 + signal after a checkpoint."""
    out, device, n = cfg.out, data.y_train.device, len(data.y_train)
    steps = n // cfg.batch                                      # the last partial batch is dropped
    optimizer, one_step = training_step(S, T, cfg)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    start, first, log, saved, mark = 1, 0, [], time.monotonic(), None
    if state := from_rank_0(read_checkpoint, out):
        start, first, log = state["epoch"], state["step"], state["log"]
        sums.copy_(state["sums"])
        S.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        from_rank_0(write_log, out, log)                        # it may be behind, or gone
        if start <= cfg.epochs:
            print(f"going on from epoch {start}, step {first} of {steps}")

    def check(epoch, step):
        if not all(value.isfinite().all() for value in (sums, *S.state_dict().values())):
            raise Halt(3, f"{cfg.method}: loss or weights are not finite in epoch {epoch}, seen after step {step} of {steps}; "
                       f"{out} keeps the last good checkpoint, if there was one: try a smaller --lr or --alpha")

    def checkpoint(epoch, step):
        if RANK:
            return
        if (out / "last.pt").exists():                          # the one before stays until the new one is whole
            os.replace(out / "last.pt", out / "previous.pt")
        state = dict(epoch=epoch, step=step, sums=sums, log=log, student=S.state_dict(), optimizer=optimizer.state_dict())
        write_log(out, log)
        write_atomic(out / "last.pt", lambda file: torch.save(state, file))     # last: killed before, it is done again

    S.train()
    for epoch in range(start, cfg.epochs + 1):
        lr = optimizer.param_groups[0]["lr"] = cfg.lr * 0.1 ** sum(epoch > drop for drop in cfg.drops)
        loss = objective(cfg, epoch)
        take = partial(one_step, loss, outputs_read(loss, inner_maximisation(cfg)[0]), sums)
        peak_memory(device, reset=True)
        order = torch.randperm(n, generator=generator(device, cfg.seed, epoch), device=device)
        started = time.monotonic()
        with tqdm(range(first, steps), f"epoch {epoch}/{cfg.epochs}", steps, initial=first, leave=False,
                  disable=True if RANK else None, unit=" images", unit_scale=cfg.batch) as bar:
            for step in bar:
                g = generator(device, cfg.seed, epoch, step)
                torch.manual_seed(g.initial_seed())             # for a user's network with dropout
                inputs = make_batch(data, order[step * cfg.batch:(step + 1) * cfg.batch], cfg, g)
                if cfg.graphs and step == first + 2:            # lr and T(alpha) are this epoch's: it holds for the epoch
                    take = captured(take, *inputs)
                take(*inputs)
                if device.type == "cuda" and step % 10 == 0:    # not too far ahead of it, or a signal would wait for an epoch
                    if mark:
                        mark.synchronize()
                    mark = torch.cuda.current_stream().record_event()
                signalled = agreed(stop.signal, step)
                if signalled or time.monotonic() - saved > SAVE_EVERY:
                    check(epoch, step + 1)
                    checkpoint(epoch, step + 1)
                    saved = time.monotonic()
                if signalled:
                    raise Halt(128 + signalled, INTERRUPTED)
                if not bar.disable and step % 50 == 0:          # rarely: a look at a number waits for the device
                    bar.set_postfix(loss=sums.sum().item() / (step + 1), refresh=False)
        check(epoch, steps)
        base, match = (sums / steps).tolist()
        seconds, memory = time.monotonic() - started, peak_memory(device)
        rate = (steps - first) * cfg.batch / seconds            # where it went on inside an epoch, of the rest
        first = 0
        sums.zero_()
        if RANK:                                                # rank 0 measures, and writes
            continue
        set_backends("fp32", False)
        row = dict(epoch=epoch, lr=lr, weight=ramp(cfg.alpha, epoch, cfg.ramp_epochs), loss=base + match, loss_base=base,
                   loss_match=match, **probe(S, T, data, cfg))
        set_backends(cfg.precision, True)
        shown = [f"{name} {row[name]:.4g}" for name in "lr loss loss_match clean pgd10 gd gc".split() if name in row]
        shown += [f"(n = {cfg.probe})"] if cfg.probe else []
        print(f"epoch {epoch}/{cfg.epochs}", *shown, f"{seconds:.1f} s", sep="  ", flush=True)
        chance = 100 / data.classes
        if epoch == math.ceil(cfg.epochs / 10) and cfg.probe >= 10 and (
                row["clean"] < chance + 2 * math.sqrt(chance * (100 - chance) / cfg.probe)):       # two standard errors
            print(f"warning: {row['clean']:.1f} % of {cfg.probe} clean images in epoch {epoch}, near chance", file=sys.stderr)
        log.append(dict(row, timing=dict(seconds=seconds, images_per_second=rate, memory_mib=memory,
                                         probe_seconds=time.monotonic() - started - seconds)))
        checkpoint(epoch + 1, 0)
        saved = time.monotonic()

def benchmark(S, T, data, cfg):
    """What a step of the last epoch costs: medians over cfg.benchmark steps, after warm-up and capture, as a dict.

    Shares: attack, what is saved without its steps; teacher, what is saved, besides, where T is linear; student, the rest.
    The peak is that of a matrix product in this process; FLOPs are 2 per multiplication, of convolutions and linear layers."""
    from torch.utils.flop_counter import FlopCounterMode
    device, loss = data.y_train.device, objective(cfg, cfg.epochs)
    reads, g = outputs_read(loss, inner_maximisation(cfg)[0]), generator(device, cfg.seed)
    sums = torch.zeros(2, dtype=torch.float64, device=device)

    def inputs(n=cfg.batch):
        return make_batch(data, torch.arange(n, device=device), cfg, g)

    def step(T, **changes):
        return partial(training_step(S, T, SimpleNamespace(**vars(cfg) | changes))[1], loss, reads, sums)

    def median(function, n=cfg.benchmark):
        def to_the_end():
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        return float(np.median(timeit.repeat(to_the_end, number=1, repeat=n)))

    def timed(take):
        warm_up = median(lambda: take(*inputs()), 1)
        peak_memory(device, reset=True)                         # the first step compiles, and tries convolutions out
        warm_up += median(lambda: take(*inputs()), 1)
        take = captured(take, *inputs()) if cfg.graphs else take
        return median(lambda: take(*inputs())), warm_up, peak_memory(device)

    def count(grad, x, weight, *rest, out_shape):               # the counter's own has the groups wrong
        return 2 * math.prod(grad) * math.prod(weight[1:]) * sum(rest[7][:2])

    seconds, warm_up, memory = timed(step(T))
    without_attack = timed(step(T, steps=0))[0]
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(data.x_train[0].numel(), data.classes)).to(device)
    student = timed(step(T and linear.requires_grad_(False), steps=0))[0]
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: count}) as counter:
        counter.mod_tracker.__exit__()                          # fails on autograd.grad, and only the total is read
        step(T, precision="fp32", compile=False)(*inputs(2))
    flops = counter.get_total_flops() / 2 * cfg.batch
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(2, n, n, device=device, dtype=torch.bfloat16 if cfg.precision == "bf16" else torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = cfg.precision == "tf32"
    peak = 2 * n**3 / min(median(lambda: a[0] @ a[1], 10) for _ in range(3))
    share = dict(attack=1 - without_attack / seconds, teacher=(without_attack - student) / seconds, student=student / seconds)
    return dict(step_ms=1e3 * seconds, images_per_second=cfg.batch / seconds, share=share,
                epoch_seconds=len(data.y_train) // cfg.batch * seconds, tflop_per_step=flops / 1e12, peak_tflops=peak / 1e12,
                fraction_of_peak=flops / seconds / peak, memory_mib=memory, warm_up_seconds=warm_up, steps=cfg.benchmark,
                **{key: getattr(cfg, key) for key in ("method", "match", "inner", "student", "teacher", "batch")},
                threads=torch.get_num_threads(), **environment(cfg))

# ----------------------------------------------------------------------------------------------------------------------
# Evaluation

ATTACKS = "clean", "fgsm", "pgd", "cw", "aa"

def gradient_alignment(S, T, x, y):
    """GD and GC (table 4) per image: L2 distance and cosine similarity of the two input gradients; and their norms."""
    s, t = (input_gradient(model, x, y).flatten(1) for model in (S, T))
    return dict(gd=(s - t).norm(dim=1), gc=F.cosine_similarity(s, t), gradient_student=s.norm(dim=1),
                gradient_teacher=t.norm(dim=1))

def point_wise_distance(S, T, x):
    """Eq. 10 at perturbed images x (N, C, H, W): L2 norm of the difference of the two softmax outputs, (N,)."""
    return (F.softmax(T(x), 1) - F.softmax(S(x), 1)).norm(dim=1)

def remainder(model, x, eps, g):
    """Figure 2: ||f(x+e) - f(x) - J e|| / ||f(x+e)||, (N,); e uniform in [-eps, eps], J e by forward-mode differentiation."""
    e = torch.empty_like(x).uniform_(-eps, eps, generator=g)
    with warnings.catch_warnings(action="ignore"), sdpa_kernel(SDPBackend.MATH):        # torch's, about its own forward mode
        f, je = torch.func.jvp(model, (x,), (e,))
    moved = model(x + e)
    return (moved - f - je).norm(dim=1) / moved.norm(dim=1)

def autoattack(model, x, y, classes, eps, seed):
    """(N,) bool, the images that withstand AutoAttack, standard version, in its authors' package (Croce & Hein 2020)."""
    from pyautoattack import AutoAttack
    logger = logging.getLogger("auto-attack")                   # shows its progress at DEBUG
    logger.handlers, logger.propagate = [logging.StreamHandler()], False
    logger.setLevel(logging.DEBUG)
    adversary = AutoAttack(model, norm="Linf", eps=eps, version="standard", seed=seed, device=x.device)
    # its targeted attacks go for the 9 likeliest other classes, and fail where there are fewer
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, classes - 1)
    if classes < 4:
        print("AutoAttack without APGD-T, whose loss (targeted DLR) needs 4 classes", file=sys.stderr)
        adversary.attacks_to_run.remove("apgd-t")
    batch = (500 if x.is_cuda else 250) // max(1, x[0, 0].numel() // 1024)              # as many at 32x32
    return adversary.run_standard_evaluation(x, y, batch_size=batch)[1] == y

def pick_test(data, n):
    """Indices of n (None: all) test images, class-balanced, on the data's device."""
    return torch.from_numpy(balanced_subset(data.y_test.cpu().numpy(), n)).to(data.y_test.device)

def probe(S, T, data, cfg):
    """What is logged after an epoch, on cfg.probe test images: clean and PGD-10 accuracy, remainder, and GD, GC to T."""
    if not cfg.probe:
        return {}
    S, rows = models.fold(S), []
    for i, piece in enumerate(pick_test(data, cfg.probe).split(128)):       # the same images and noise after each epoch
        x, y, g = to_float(data.x_test[piece]), data.y_test[piece], generator(data.y_test.device, cfg.seed, "probe", i)
        with torch.no_grad():
            x_adv = pgd(S, x, attack_ce(S, T, x, y, None), cfg.eps, cfg.step_size, 10, "uniform", g)
            rows.append(dict(clean=100.0 * (S(x).argmax(1) == y), pgd10=100.0 * (S(x_adv).argmax(1) == y),
                             remainder=remainder(S, x, cfg.eps, g), **(gradient_alignment(S, T, x, y) if T else {})))
    return {name: torch.cat([row[name] for row in rows]).mean().item() for name in rows[0]}

def peak_memory(device, reset=False):
    """Peak memory of this process in MiB: of the GPU's since the last reset, or on a CPU the resident set's since its start."""
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

@torch.no_grad()
def evaluate(S, teachers, data, cfg):
    """Measure S, and to each of teachers (name -> model) GD, GC and point-wise distance; returns what result.json holds.

    Each metric is put into cfg.out/result.json with its n as soon as it is known, and not measured again for the same weights,
    images, seed, eps and step. outcomes.npz beside it keeps the outcome of every attack per image."""
    out, device, eps, step, restarts = cfg.out, data.y_test.device, cfg.eps, cfg.step_size, cfg.preset.cw_restarts
    precision = cfg.precision if cfg.eval_only else "fp32"
    set_backends(precision, False)
    of = dict(student=cfg.student, weights=fingerprint(S.state_dict()), seed=cfg.seed, eps=eps, step=step,
              images=fingerprint(dict(x=data.x_test, y=data.y_test)), precision=precision)
    before, result, outcomes = read_own(out / "result.json"), dict(of, metrics={}, timing={}), {}
    if of.items() <= before.items():
        result, outcomes = before, read_own(out / "outcomes.npz")
    elif before:                                                # of another radius, step, seed, other images or weights
        put_aside(out, EVALUATION)
    attacked = models.mixed(models.fold(S, precision=precision), precision)
    S = models.fold(S)

    def finite(name, values):
        if not values.isfinite().all():
            raise Halt(3, f"{name} of {cfg.student or cfg.eval_only} is not finite" +
                       ": try --fresh and a smaller --lr or --alpha" * (not cfg.eval_only))
        return values

    def measure(name, function, batches=None, to="", **settings):
        """Means over test images, batches of indices (None: all), of function(x, y, g), a dict of (batch,) tensors, of which
        one has that name; to: "@TEACHER"; settings: what the number depends on besides."""
        batches = batches or torch.arange(len(data.y_test), device=device).split(128)
        settings |= dict(n=sum(map(len, batches)))
        percent, known = name in ATTACKS, result["metrics"].get(name + to, {})
        if percent and name not in cfg.attacks:
            return
        if settings.items() <= known.items() and (name in outcomes or not percent):     # by an earlier command
            return
        started = time.monotonic()
        peak_memory(device, reset=True)
        parts = [function(to_float(data.x_test[index]), data.y_test[index], generator(device, cfg.seed, name, i))
                 for i, index in enumerate(tqdm(batches, name + to, leave=False, disable=None))]
        for key in parts[0]:
            values = finite(key + to, torch.cat([part[key] for part in parts]))
            result["metrics"][key + to] = dict(settings, value=values.double().mean().item() * (100 if percent else 1))
            if percent:
                outcomes[key] = values.cpu().numpy()
                write_atomic(out / "outcomes.npz", lambda file: np.savez(file, **outcomes))
        result["timing"][name + to] = dict(seconds=time.monotonic() - started, memory_mib=peak_memory(device))
        write_json(out / "result.json", result)

    def accuracy(name, attack, **settings):
        measure(name, lambda x, y, g: {name: finite(name, attacked(attack(x, y, g))).argmax(1) == y}, **settings)

    def point_wise(x, y, g):
        attack, start = inner_maximisation(cfg)
        x_adv = pgd(S, x, attack(S, T, x, y, SimpleNamespace(t_clean=T(x))), eps, step, 20, start, g)
        uniform = x + torch.empty_like(x).uniform_(-eps, eps, generator=g)
        return dict(point_uniform=point_wise_distance(S, T, uniform), point_adv=point_wise_distance(S, T, x_adv))

    accuracy("clean", lambda x, y, g: x)
    accuracy("fgsm", lambda x, y, g: pgd(attacked, x, attack_ce(attacked, None, x, y, None), eps, eps, 1, None))
    accuracy("pgd", lambda x, y, g: pgd(attacked, x, attack_ce(attacked, None, x, y, None), eps, step, 20, "uniform", g))
    accuracy("cw", lambda x, y, g: cw(attacked, x, y, eps, step, 50, restarts, g), restarts=restarts)
    measure("remainder", lambda x, y, g: {"remainder": remainder(S, x, eps, g)})
    for teacher, T in teachers.items():
        same = dict(to=f"@{teacher}", teacher=fingerprint(T.state_dict())[:16])
        measure("gd", lambda x, y, g: gradient_alignment(S, T, x, y), **same)
        measure("point_adv", point_wise, attack=" ".join(filter(None, (cfg.method, cfg.inner))), **same)
    measure("aa", lambda x, y, g: {"aa": autoattack(attacked, x, y, data.classes, eps, cfg.seed)},
            [pick_test(data, cfg.aa_n)], version="standard" + " without apgd-t" * (data.classes < 4))
    if teachers:                                                # for a picture in the report
        few = pick_test(data, 8)
        x, y = to_float(data.x_test[few]), data.y_test[few]
        images = dict(images=x, student=input_gradient(S, x, y),
                      **{f"teacher@{name}": input_gradient(T, x, y) for name, T in teachers.items()})
        arrays = {name: value.permute(0, 2, 3, 1).cpu().numpy() for name, value in images.items()}
        write_atomic(out / "gradients.npz", lambda file: np.savez(file, labels=y.cpu().numpy(), **arrays))
    return result

# ----------------------------------------------------------------------------------------------------------------------
# What a run leaves: config.json, log.jsonl, last.pt, student.pt, result.json, outcomes.npz, gradients.npz

INTERRUPTED = "interrupted; the same command goes on from here"

class Halt(BaseException):
    """(exit code, message): 3 a number is not finite, 75 the folder is busy, 130, 143 a signal. No library may swallow it."""

def refuse(wrong, message):
    """Raise UserError if wrong."""
    if wrong:
        raise UserError(message)

def write_atomic(path, write):
    """Call write(binary file) such that path is either as before or complete and on the disk, whatever happens meanwhile."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:                    # torch.save reports a full disk as RuntimeError
        raise UserError(f"cannot write {path}, what was there is kept: {one_line(error.__context__ or error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

def write_json(path, value):
    write_atomic(path, lambda file: file.write(json.dumps(value, indent=1, default=str).encode() + b"\n"))

def write_log(out, rows):
    write_atomic(out / "log.jsonl", lambda file: file.writelines(json.dumps(row).encode() + b"\n" for row in rows))

def read_own(path):
    """What a run has left in a .json or .npz (a dict), or .jsonl (a list); empty where there is none. Raises UserError where
    it cannot be read."""
    if not path.exists():
        return [] if path.suffix == ".jsonl" else {}
    with explained(f"{path} cannot be read", "delete it, and give the run's command again"):
        if path.suffix == ".jsonl":
            return [json.loads(row) for row in path.read_text().splitlines()]
        return dict(np.load(path) if path.suffix == ".npz" else json.loads(path.read_text()))

def read_checkpoint(out):
    """The newest checkpoint in out that is whole; None if there is none. Raises UserError if all are damaged."""
    for path in filter(Path.exists, (out / "last.pt", out / "previous.pt")):
        try:
            return models.read_file(path)
        except UserError as error:
            print(f"{error}; looking for the one before", file=sys.stderr)
            os.replace(path, out / "damaged.pt")                # or the next one would rename it over the good previous.pt
    refuse((out / "damaged.pt").exists(), f"no checkpoint in {out} is whole; --fresh starts anew")

@contextlib.contextmanager
def locked(out, wait=False, name=".lock"):
    """The folder out, made if need be, for this process alone, as long as it lives; or halts with 75, unless told to wait."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / name, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise Halt(75, f"another process works in {out}") from None
            print(f"waiting for another process, which works in {out}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

def training_in(out):
    """What config.json in the folder out says of the training there; {} where there is none, or an evaluation's. Raises
    UserError where it cannot be read."""
    training = read_own(out / "config.json").get("training", {})
    refuse(not isinstance(training, dict), f"{out / 'config.json'} is not of a run of igdm.py: give another --out")
    return training

def fingerprint(tensors):
    """sha256 of a dict of tensors, names and values."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

CHECKPOINTS = "last.pt", "previous.pt", "damaged.pt", "student.pt"
EVALUATION = "result.json", "outcomes.npz", "gradients.npz"
RUN = ("log.jsonl", *CHECKPOINTS, *EVALUATION, "curves.png", "ood.json", "model_info", ".done", ".failed",
       "config.json")                                           # last: it says whose the others are

def put_aside(out, names):
    """Move the files of those names in the folder out to a new folder beside it."""
    out, i = out.resolve(), 1
    ours = [out / name for name in names if (out / name).exists()]
    if ours:
        while (old := out.with_name(f"{out.name}.{i}")).exists():
            i += 1
        old.mkdir()
        for file in ours:
            shutil.move(file, old / file.name)
        print(f"{', '.join(file.name for file in ours)} of {out} now in {old}")

def environment(cfg):
    """What a number may depend on besides the settings."""
    commit = subprocess.getoutput(f"git -C {shlex.quote(str(HERE))} describe --always --dirty 2>/dev/null")   # "" without git
    gpu = torch.cuda.get_device_name(cfg.device) if cfg.device != "cpu" else None
    return dict({name: version(name) for name in ("torch", "torchvision", "numpy", "pyautoattack")}, gpu=gpu, world=WORLD,
                python=platform.python_version(), platform=platform.platform(), commit=commit, precision=cfg.precision,
                tf32=bool(gpu) and cfg.precision == "tf32", compile=cfg.compile, cuda_graphs=cfg.graphs)

def identity(cfg, images, T):
    """What makes a training this one, as config.json has it, whatever is measured. Raises UserError if cfg.out holds another.

    images: the fingerprint of what is trained on; T: the teacher (None: not yet known, or none); their files may have moved. A
    finished run may be measured anywhere: on another device, number of threads or processes."""
    training = dict({name: getattr(cfg, name) for name in TRAINING}, images=images, world=WORLD,
                    threads=torch.get_num_threads() if cfg.device == "cpu" else None)
    training |= dict(teacher_weights=fingerprint(T.state_dict())[:16]) if T else {}
    before, left = training_in(cfg.out), {*os.listdir(cfg.out)}
    trained = left & {"log.jsonl", *CHECKPOINTS}
    refuse(not before and (trained or "config.json" in left),
           f"{cfg.out} holds an evaluation, or a run with no config.json: give another --out, or --fresh to put it aside")
    free = ["threads", "world", "precision", "compile"] if "student.pt" in left else []
    free += ["threads"] if None in (before.get("threads"), training["threads"]) else []         # on a GPU they do not count
    free += ["dataset"] if {Path(str(run.get("dataset"))).suffix for run in (before, training)} == {".npz"} else []
    changed = [f"{key} was {before.get(key)}, is {value}" for key, value in training.items()
               if value != before.get(key) and key not in free]
    refuse(changed and trained,
           f"{cfg.out} holds another run ({'; '.join(changed)}): give what was, another --out, or --fresh to put it aside")
    return training

def write_config(cfg, training):
    settings = {key: value for key, value in vars(cfg).items() if key not in training}
    write_json(cfg.out / "config.json", dict(training=training, settings=settings, environment=environment(cfg)))

# ----------------------------------------------------------------------------------------------------------------------
# Several GPUs, under torchrun: each rank has its share of every batch, and all have the same weights and statistics

def average(*tensors):
    """Replace tensors by their means over the ranks, in place, by one all-reduce."""
    if WORLD > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, mean in zip(tensors, flat.div_(WORLD).split([tensor.numel() for tensor in tensors])):
            tensor.copy_(mean.view_as(tensor))

def agreed(number, step):
    """number (None: nothing yet); of several ranks the highest, asked for every tenth step, so that all do the same."""
    if WORLD == 1:
        return number
    numbers = [None] * WORLD
    if step % 10 == 0:
        dist.all_gather_object(numbers, number)
    return max(filter(None, numbers), default=None)

@contextlib.contextmanager
def fetching(path):
    """Where path has yet to be downloaded, one process at a time: the next one finds it."""
    with contextlib.ExitStack() as stack:
        if not path.exists():
            with contextlib.suppress(OSError):                  # into a read-only folder nobody downloads
                stack.enter_context(locked(path.parent, wait=True, name=".fetching"))
        yield

def from_rank_0(function, *arguments):
    """What function returns on rank 0, on every rank; or the UserError or OSError that it raises there."""
    try:
        value = [None if RANK else function(*arguments)]
    except (UserError, OSError) as error:
        value = [error]
    if WORLD > 1:
        dist.broadcast_object_list(value)
    if isinstance(value[0], Exception):
        raise value[0]
    return value[0]

# ----------------------------------------------------------------------------------------------------------------------
# Report: each table beside the paper's printed values, whose only home is run_all.sh

def read_rows():
    """{name of a row of run_all.sh: {(table, column, metric): printed value}}; column: a teacher, where a row has several."""
    rows = re.findall(r"^(?:run|eval) (\S+) .*:: (.*)", (HERE / "run_all.sh").read_text(), re.M)
    return {name: {(table, column, metric): float(value) for table, metric, column, value in re.findall(
        r"\bt(\d+h?)\.(\w+)(?:@(\w+))?=(\S+)", printed)} for name, printed in rows}

def marked(kind, figure):
    """Names of the rows of run_all.sh, run or eval, that are marked as a figure's."""
    return re.findall(rf"^{kind} (\S+) .*::.* {figure}\b", (HERE / "run_all.sh").read_text(), re.M)

def measured(folder):
    """{metric: value} of one run; METRIC@TEACHER where it is measured against a teacher, METRIC@ against the first; n, the
    fewest images of any metric."""
    result, ood = read_own(folder / "result.json"), read_own(folder / "ood.json")       # run_all.sh's, from OODRobustBench
    if not result.get("metrics"):
        return {}
    values = dict({name: value for name, value in ood.items() if "_ood_" in name},
                  n=min(entry["n"] for entry in result["metrics"].values()))
    for name, entry in result["metrics"].items():
        values[name] = entry["value"]
        values.setdefault(name.split("@")[0] + "@", entry["value"])
    if timing := [row["timing"] for row in read_own(folder / "log.jsonl")]:
        values["min_per_epoch"] = np.median([row["seconds"] for row in timing]) / 60
        values["memory_mib"] = timing[-1]["memory_mib"]
    return values

def without_igdm(label):
    """The label of a row's base method; PGD-AT and TRADES without IGDM have no teacher in their name, but columns."""
    base = re.sub(r"-(bdm|ltd|ikl)-(pgd-at|trades)$", r"-\2 @\1", re.sub(r"\+igdm(-a[\d.]+)?", "", label))
    return re.sub(r"^(svhn-rn18)-pgd-at-(pgd-at|trades)$", r"\1-\2", base)

def cell(ours, paper):
    """A value in a table: ours, mean and standard deviation over seeds / the paper's (difference)."""
    if paper is None or not ours:
        return "" if paper is None else f"/ {paper:g}"
    spread = f" ± {float(f'{np.std(ours, ddof=1):.2g}'):g}" if len(ours) > 1 else ""
    return f"{np.mean(ours):.4g}{spread} / {paper:g} ({np.mean(ours) - paper:+.3g})"

def head(title, metrics):
    """The lines of a report that begin a table."""
    return ["", f"## {title}", "", f"| run | {' | '.join(metrics)} |", "|---" * (1 + len(metrics)) + "|"]

def verdict(where, metric, values):
    """The lines that say in how many pairs of values (label -> mean) the run with IGDM is better than its base method's."""
    pairs = {label: base for label in values if (base := without_igdm(label)) in values.keys() - {label}}
    sign = -1 if metric.startswith("point") else 1              # a distance is better small
    lost = [label for label, base in pairs.items() if sign * values[label] <= sign * values[base]]
    return ["", f"{where}, +IGDM has the better {metric} in {len(pairs) - len(lost)} of {len(pairs)} pairs"
                f"{', not in ' * bool(lost)}{', '.join(lost)}."] if pairs else []

def report(root):
    """Write root/report.md: the rows of each table, ours (mean, standard deviation over seeds), the paper's, the difference."""
    rows = read_rows()
    runs = {name: {path: measured(path) for path in sorted(root.glob(f"{name}-s*")) if path.name[len(name) + 2:].isdigit()}
            for name in rows}
    smoke = any(config_beside(path / "config.json").get("dataset") == "digits" for paths in runs.values() for path in paths)
    title = "SMOKE, a miniature on digits, no number means anything: " * smoke      # and its teachers have other names
    lines = [f"# {title}Ours / the paper's (difference), ± the standard deviation over seeds"]
    few = [f"{path.name} ({run['n']})" for paths in runs.values() for path, run in paths.items() if run.get("n", 10000) < 10000]
    lines += ["", f"On fewer than 10,000 test images: {', '.join(few)}."] if few and not smoke else []
    tables = {table for printed in rows.values() for table, _, _ in printed}
    for table in sorted(tables, key=lambda table: (int(table.rstrip("h")), table)):
        values = {}                                             # (metric, label) -> ours, one for each seed; the paper's
        for name, printed in rows.items():
            for column, metric in (key[1:] for key in printed if key[0] == table):
                key = f"{metric}@{'' if smoke else column}"
                ours = [run.get(key, run.get(metric)) for run in runs[name].values() if {key, metric} & run.keys()]
                values[metric, f"{name} @{column}".removesuffix(" @")] = ours, printed[table, column, metric]
        metrics, labels = (list(dict.fromkeys(part)) for part in zip(*values))
        lines += head(f"Table {table}", metrics)
        for label in labels:
            lines.append(f"| {' | '.join([label, *(cell(*values.get((metric, label), ([], None))) for metric in metrics)])} |")
        for metric in ["aa"] if "aa" in metrics else metrics:
            both = {label: values[metric, label] for label in labels if (metric, label) in values}
            lines += verdict("Here", metric, {label: np.mean(ours) for label, (ours, _) in both.items() if ours})
            lines += verdict("In the paper", metric, {label: paper for label, (_, paper) in both.items()})
    named, metrics = {path for paths in runs.values() for path in paths}, (*ATTACKS, "gd@", "gc@", "remainder")
    others = {}
    for path in sorted({path.parent for path in root.glob("*/result.json")} - named):
        with contextlib.suppress(UserError, AttributeError, KeyError, TypeError, ValueError):    # another program's
            others |= {path: run} if (run := measured(path)) else {}
    lines += head("Other runs", metrics) if others else []
    for path, run in others.items():
        cells = [f"{path.name} (n at least {run['n']})", *(f"{run[name]:.4g}" if name in run else "" for name in metrics)]
        lines.append(f"| {' | '.join(cells)} |")
    figures(root, rows, runs, title)
    gradients(root, runs, title)
    lines += ["", *(f"![{path.stem}]({path.name})" for path in sorted(root.glob("*.png")))]
    write_atomic(root / "report.md", lambda file: file.write("\n".join(lines).encode() + b"\n"))
    print(f"{root / 'report.md'}: {sum(any(paths.values()) for paths in runs.values())} of {len(rows)} rows of run_all.sh, "
          f"{len(others)} other runs")

def picture(path, title, *panels):
    """Write a picture of those panels, (curves, settings of the axes), that have curves, (x, y, style), if any has."""
    from matplotlib.figure import Figure
    panels, fig = [panel for panel in panels if panel[0]], Figure((14, 5), layout="constrained")
    for i, (curves, axes) in enumerate(panels):
        ax = fig.add_subplot(1, len(panels), i + 1)
        for x, y, style in curves:
            ax.plot(x, y, **style)
        ax.set(**axes)
        ax.grid(alpha=0.3)
    if panels:
        fig.suptitle(title)
        labels = {label: handle for ax in fig.axes for handle, label in zip(*ax.get_legend_handles_labels())}   # each once
        fig.legend(labels.values(), labels.keys(), loc="outside right center")
        write_atomic(path, partial(fig.savefig, format="png"))

def figures(root, rows, runs, prefix=""):
    """Write root/figure2.png to figure5.png, and curves.png beside each log.jsonl, where there are the data for it."""
    def points(names, across, up, by, **axes):
        """Panel of the runs that have both metrics ("teacher": as in its name); by: what has a colour, teacher or method."""
        found, colors = [], {}
        for name in names:
            part = dict(zip(("data", "teacher", "method"), name.replace("-rn18", "").replace("+igdm", "").split("-", 2)))
            igdm, teacher = "+igdm" in name, part["teacher"].replace("_", "\n", 1)
            for run in runs[name].values():
                run = {**run, "teacher@": teacher}
                if {f"{across}@", f"{up}@"} <= run.keys():
                    color = colors.setdefault(part[by], f"C{len(colors)}")
                    found.append(([run[f"{across}@"]], [run[f"{up}@"]], dict(
                        marker="o*"[igdm], ms=6 + 6 * igdm, ls="", color=color, label=part[by] + " + IGDM" * igdm)))
        if across != "teacher":
            r = np.corrcoef([x + y for x, y, _ in found], rowvar=False)[0, 1] if len(found) > 2 else math.nan
            axes["title"] = f"Pearson's r = {r:.2f} (n = {len(found)})"
        return found, axes

    def curve(log, metric, **style):
        values = [row.get(metric, math.nan) for row in log]
        return [row["epoch"] for row in log], values, dict(style, marker="." * (len(log) < 20))

    def curves(styles, metric, **axes):     # panel of the runs of the rows, name -> style, that have logged it
        logs = [(name, read_own(path / "log.jsonl")) for name in styles for path in runs[name]]
        return [curve(log, metric, label=name, **styles[name]) for name, log in logs if log and metric in log[0]], axes

    share, aa = "remainder proportion, ||f(x+e) - f(x) - Je|| / ||f(x+e)||", "AutoAttack accuracy (%)"
    picture(root / "figure2.png", prefix + "Figure 2: how far from linear the outputs are around an image, CIFAR-100",
            points(marked("eval", "f2"), "teacher", "remainder", "teacher",
                   xlabel="(a) teacher", ylabel=share, ymargin=1, ylim=(0, None)),
            curves({name: dict(color=f"C{3 + i}") for i, name in enumerate(marked("run", "f2"))}, "remainder",
                   xlabel="(b) epoch of training", ylabel=share, yscale="log"))
    names = [name for name in rows if any(key[0] == "4" for key in rows[name])]
    picture(root / "figure3.png", prefix + "Figure 3: AutoAttack accuracy and input gradients like the teacher's (table 4)",
            points(names, "gc", "aa", "teacher", xlabel="GC, cosine similarity of the input gradients", ylabel=aa),
            points(names, "gd", "aa", "teacher", xlabel="GD, L2 distance of the input gradients", ylabel=aa))
    picture(root / "figure4.png", prefix + "Figure 4: students by teacher, ResNet-18 on CIFAR-100",
            points(marked("run", "f4"), "teacher", "aa", "method", xlabel="teacher", ylabel=aa))
    ard = "cifar100-rn18-bdm-ard"
    direct = [name for name in rows if name.startswith(ard + "-direct") and runs[name]]
    styles = {name: dict(color=f"{0.8 - 0.6 * i / len(direct):.2f}", lw=1) for i, name in enumerate(direct)}
    styles |= {ard: dict(color="C0"), ard + "+igdm": dict(color="C3", lw=2)}
    picture(root / "figure5.png", prefix + "Figure 5: IGDM, and direct matching of input gradients (eq. 11), added to ARD",
            curves(styles, "gd", xlabel="epoch", ylabel="GD to the teacher, L2 distance"),
            curves(styles, "loss", xlabel="epoch", ylabel="training loss", yscale="log"),
            curves(styles, "loss_base", xlabel="epoch", ylabel="ARD's part of the training loss"))
    for path in filter(config_beside, sorted(root.glob("*/log.jsonl"))):
        file, log = path.with_name("curves.png"), read_own(path)
        if log and not (file.exists() and file.stat().st_mtime > path.stat().st_mtime):         # a picture takes half a second
            picture(file, f"{prefix}{path.parent.name}, training", *(
                ([curve(log, name, label=name, color=f"C{i}") for i, name in names
                  if name in log[0] and (name != "loss_match" or log[-1][name])],
                 dict(xlabel="epoch", ylabel=ylabel, yscale=scale)) for ylabel, scale, *names in (
                    ("training loss, learning rate", "log", (0, "loss"), (1, "loss_base"), (2, "loss_match"), (7, "lr")),
                    ("accuracy on the probe images (%)", "linear", (3, "clean"), (4, "pgd10")),
                    ("GC to the teacher, cosine similarity", "linear", (5, "gc")))))

def gradients(root, runs, prefix=""):
    """Write root/gradients.png: input gradients of a teacher and its students without and with IGDM, the first pair found."""
    from matplotlib.figure import Figure
    pairs = [(path.with_name(without_igdm(name) + path.name[len(name):]), path) for name in runs for path in runs[name]]
    pairs = [pair for pair in pairs if pair[0] != pair[1] and all((path / "gradients.npz").exists() for path in pair)]
    for base, igdm in pairs[:1]:
        b, i = (read_own(path / "gradients.npz") for path in (base, igdm))
        teacher, n = next(key for key in i if key.startswith("teacher@")), min(4, len(i["images"]))
        titles = "test image", teacher.replace("@", " "), base.name, igdm.name
        columns = i["images"], i[teacher], b["student"], i["student"]
        fig = Figure((14, 3.5 * n + 1), layout="constrained")
        fig.suptitle(prefix + "Gradients of the cross-entropy with respect to the image")
        fig.supxlabel("a gradient's 0 is grey, the 99th percentile of its absolute values white, and black with a minus; "
                      "cos: cosine similarity to the teacher's", fontsize="medium")
        for (row, k), ax in np.ndenumerate(fig.subplots(n, 4, squeeze=False)):
            image, t = columns[k][row], i[teacher][row]
            shown = 0.5 + 0.5 * image / (np.percentile(abs(image), 99) or 1) if k else image
            cos = (image * t).sum() / (np.linalg.norm(image) * np.linalg.norm(t) or 1)
            ax.set(xticks=[], yticks=[], title=titles[k] * (row == 0), xlabel=f"cos {cos:.2f}" * (k > 1),
                   ylabel=f"label {i['labels'][row]}" * (k == 0))
            ax.imshow(shown.clip(0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
        write_atomic(root / "gradients.png", partial(fig.savefig, format="png"))

# ----------------------------------------------------------------------------------------------------------------------
# Command line

class Parser(argparse.ArgumentParser):
    def error(self, message):   # one line, without the usage
        raise UserError(message)

def at_least(low, kind=int, high=math.inf):
    """An argparse type: a number in [low, high], an int, or a float that may be written as a fraction."""
    def number(text):
        try:
            value = float(Fraction(text)) if kind is float else int(text)
        except (ValueError, ArithmeticError):
            value = math.nan
        if not low <= value <= min(high, torch.finfo(torch.float32).max):       # NaN is not
            raise argparse.ArgumentTypeError(f"{text} is not a{' whole' * (kind is int)} number from {low} to {high}")
        return value
    return number

def make_parser():
    p = Parser(prog="igdm.py", description=__doc__.split("\n\n")[0], allow_abbrev=False,
               epilog="What is not given follows the paper, by data set, student, teacher and method.")
    add, count, natural = p.add_argument, at_least(1), at_least(0)
    real, positive, share = at_least(0, float), at_least(1e-9, float), at_least(0, float, 1)

    def epochs(text):
        return [natural(epoch) for epoch in text.split(",")] if text else []
    add("--method", choices=METHODS, help="base method (default rslad)")
    term = p.add_mutually_exclusive_group()
    term.add_argument("--igdm", dest="match", action="store_const", const="igdm", help="add the IGDM term, eq. 8: --match igdm")
    term.add_argument("--match", choices=MATCH, help="the term to add; those but igdm are the ablations of tables 15 and 16")
    add("--surrogate", choices=("kl", "l1", "l2"), help="distance in the IGDM term (default kl)")
    add("--alpha", type=real, help="weight of the added term in the last epoch (default appendix B.2)")
    add("--ramp-epochs", type=count, help="epochs in which T(alpha) reaches alpha (default all; circulating code 200)")
    add("--inner", choices=("teacher", "student"), help="student: attack by cross-entropy on the student alone (table 6)")
    for name, method in METHODS.items():
        for constant, value in method.constants.items():
            kind = {int: int, str: str, float: at_least(-math.inf, float)}.get(type(value))     # of a method of your own
            if name in (*ALPHA_COLUMNS, "adaiad"):
                kind = dict(t=positive, a=share, lam=share, begin=share).get(constant, real)
            if kind:
                add(constant_flag(f"{name}.{constant}"), type=kind, dest=f"{name}.{constant}", default=argparse.SUPPRESS,
                    metavar="X", help=f"default {value}".replace("%", "%%"))
    add("--dataset", help=f"{', '.join(DATASETS)} or the path of an .npz (default cifar100)")
    add("--data-dir", type=Path, default=Path("data"), help="for data sets and teachers (default data)")
    add("--limit-train", type=count, metavar="N", help="class-balanced subset of the training images")
    add("--limit-test", type=count, metavar="N", help="class-balanced subset of the test images")
    add("--augment", choices=("crop-flip", "crop", "none"), help="default crop-flip; digits crop")
    add("--student", help="rn18, mnv2, parn18, wrn-D-W, wrn-D-W-silu or PACKAGE.MODULE:FUNCTION (default rn18)")
    add("--teacher", help="bdm, ltd, ltd2, ikl; pgd-at, trained first by this script; the path of a checkpoint; "
        "robustbench:NAME; with --eval-only several, with commas (default by data set)")
    add("--teacher-arch", help="of --teacher PATH or pgd-at, as --student (default from config.json beside it)")
    add("--teacher-epochs", type=count, help="epochs of --teacher pgd-at (default by data set)")
    add("--epochs", type=count, help="default 200; rslad 300; svhn 50; tiny-imagenet 100; drops and begin scale with it")
    add("--drops", type=epochs, help="epochs after which lr is divided by 10 (default B.1, as in 100,150)")
    add("--batch", type=at_least(2), help="default 128")
    add("--lr", type=positive, help="default 0.1")
    add("--weight-decay", type=real, help="default 5e-4; circulating code 2e-4")
    add("--eps", type=at_least(1e-9, float, 1), help="L-inf radius of all attacks (default 8/255; digits 24/255)")
    add("--step-size", type=positive, help="step of PGD and C&W (default eps/4, the paper's 2/255)")
    add("--steps", type=natural, default=STEPS, help=f"PGD steps in training (default {STEPS})")
    add("--seed", type=at_least(0, high=2**63 - 1), default=0, help="default 0")
    add("--attacks", default=",".join(ATTACKS), help=f"what to measure at the end (default {','.join(ATTACKS)})")
    add("--aa-n", type=count, metavar="N", help="images for AutoAttack (default all; digits 100)")
    add("--probe", type=natural, metavar="N", help="test images measured after each epoch (default 1 per 100 training images)")
    add("--eval-only", metavar="CKPT", help="measure a checkpoint, or a named teacher, instead of training")
    add("--report", type=Path, metavar="DIR", help="write DIR/report.md and figures, out of what run_all.sh left there")
    add("--out", type=Path, help="folder of the run (default runs/NAME)")
    add("--fresh", action="store_true", help="start anew; what --out holds is put aside")
    add("--precision", choices=("fp32", "tf32", "bf16"), help="of training (default on CUDA bf16, or tf32 with "
        "networks of others, else fp32), or of --eval-only (default fp32); tf32 is for convolutions")
    add("--compile", action=argparse.BooleanOptionalAction, help="torch.compile, on CUDA with CUDA graphs (default there, "
        "but not with --match direct or networks of others, for which there are no graphs)")
    add("--benchmark", type=count, metavar="N", help="time N training steps, print JSON, train nothing")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default cuda if there is one, else cpu")
    add("--threads", type=at_least(1, high=1024), help="CPU threads (default torch's)")
    return p

def constant_flag(name):
    return "--" + name.replace(".lam", ".lambda").replace(".", "-")

def default_alpha(cfg):
    """B.2's value; where it has none, the nearest, which is then said."""
    if cfg.match in ALPHA_ABLATION:
        alpha, why = ALPHA_ABLATION[cfg.match], "that of the best AutoAttack in the paper's ablation"
    else:
        run, column = (cfg.dataset, cfg.student, cfg.teacher), "adaad" if cfg.method == "adaiad" else cfg.method
        refuse(column not in ALPHA_COLUMNS, f"the paper has no alpha for {cfg.method}: give --alpha")
        dataset = cfg.dataset if cfg.dataset in {row[0] for row in ALPHA} else "cifar10"
        row = min(ALPHA, key=lambda row: (row[0] != dataset, row[1] != cfg.student, row[2] != cfg.teacher, row[2] != "ltd"))
        alpha, why = ALPHA[row][ALPHA_COLUMNS.index(column)], ""
        if row[0] == "digits":
            why = "ours, as digits are"
        elif row != run:
            why = f"that of {', '.join(row)}, the paper's nearest to {', '.join(map(str, run))}"
    if why:
        print(f"alpha {alpha:g}: {why}; --alpha sets another", file=sys.stderr)
    return alpha

def needs_teacher(cfg):
    """Whether the attack, the base loss or the added term looks at a teacher, whatever alpha (its default depends on it)."""
    some = SimpleNamespace(**vars(cfg) | dict(alpha=1.0))
    reads = outputs_read(objective(some, 1)) | outputs_read(objective(some, cfg.epochs))
    return cfg.inner == "teacher" or any(name.startswith("t_") for name in reads)

def resolve(argv):
    """Flags to settings, every default filled in from the paper. Raises UserError for what makes no sense."""
    cfg = make_parser().parse_args(argv)
    saved = config_beside(cfg.eval_only)                        # a checkpoint's own run says what is not given
    if cfg.method in (None, saved.get("method")):
        cfg.inner = cfg.inner or saved.get("inner")
    for name, default in (("method", "rslad"), ("dataset", "cifar100"), ("student", None)):
        setattr(cfg, name, getattr(cfg, name) or saved.get(name, default))
    refuse(cfg.method not in METHODS, f"{cfg.eval_only} is of a method {cfg.method}, which is not known: give --method")
    cfg.preset, method = DATASETS.get(cfg.dataset, Dataset()), METHODS[cfg.method]      # Dataset(): of a user's .npz
    teacher_inside = bool(outputs_read(attack=method.inner))    # else --inner student has nothing to replace
    given = {name: vars(cfg).pop(name) for name in list(vars(cfg)) if "." in name}
    cfg.constants = {name: given.pop(f"{cfg.method}.{name}", value) for name, value in method.constants.items()}
    cfg.attacks = cfg.attacks.replace(" ", "").split(",")
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    cfg.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cfg.device == "cuda" else cfg.device
    refuse(not cfg.dataset.endswith(".npz") and cfg.dataset not in DATASETS,
           f"--dataset {cfg.dataset}: not one of {', '.join(DATASETS)}, nor the path of an .npz")
    refuse(set(cfg.attacks) - set(ATTACKS), f"--attacks {','.join(cfg.attacks)}: choose from {','.join(ATTACKS)}")
    refuse(cfg.surrogate and cfg.match != "igdm", "--surrogate belongs to --igdm")
    refuse(not cfg.match and (cfg.alpha, cfg.ramp_epochs) != (None, None),
           "--alpha and --ramp-epochs weigh the term that --igdm or --match adds: give one of these too")
    refuse(cfg.inner and not teacher_inside, f"--inner: the attack of {cfg.method} has no teacher in it")
    refuse(given, f"{', '.join(map(constant_flag, given))} does not belong to --method {cfg.method}")
    refuse(cfg.device not in devices, f"--device {cfg.device}: there is {', '.join(devices)}")
    cuda = cfg.device != "cpu"
    ampere = cuda and torch.cuda.get_device_capability(cfg.device) >= (8, 0)
    refuse(cfg.precision == "tf32" and not ampere, "--precision tf32 is for NVIDIA GPUs, Ampere or newer")
    refuse(cfg.precision == "bf16" and cuda and not ampere, "--precision bf16: this GPU, older than Ampere, has none")
    refuse(cfg.compile and cfg.match == "direct", "--compile: it has no second derivatives, which --match direct needs")
    refuse(cfg.batch and cfg.batch % WORLD, f"--batch {cfg.batch}: must be a multiple of the {WORLD} processes")
    refuse(cfg.eval_only and (cfg.benchmark or cfg.compile), "--benchmark and --compile are for training: without --eval-only")
    refuse(WORLD > 1 and (cfg.eval_only or cfg.benchmark), "--eval-only and --benchmark are for one process: without torchrun")

    # training
    for name in ("lr", "batch", "weight_decay", "eps", "augment", "aa_n"):
        if getattr(cfg, name) is None:
            setattr(cfg, name, getattr(cfg.preset, name))
    cfg.student = cfg.student or (None if cfg.eval_only else cfg.preset.student)
    cfg.surrogate, cfg.inner = cfg.surrogate or "kl", cfg.inner or ("teacher" if teacher_inside else None)
    cfg.step_size = cfg.step_size or cfg.eps / 4
    epochs, drops = SCHEDULE.get((cfg.method, cfg.dataset), cfg.preset[:2])
    cfg.epochs = cfg.epochs or epochs
    cfg.ramp_epochs = cfg.ramp_epochs or cfg.epochs
    if cfg.drops is None:
        cfg.drops = [math.ceil(drop * cfg.epochs / epochs) for drop in drops]

    # teachers: needed where the attack or the loss looks at one
    needed = not cfg.eval_only and needs_teacher(cfg)
    teachers = cfg.teacher or (cfg.preset.teacher if needed else None)
    cfg.teachers = teachers.split(",") if teachers else []
    sources = [*cfg.teachers, cfg.eval_only] if cfg.eval_only else cfg.teachers
    published = [teacher for dataset, teacher in TEACHERS if dataset == cfg.dataset]
    unknown = [name for name in sources if name not in (*published, "pgd-at") and not name.startswith("robustbench:")
               and not Path(name).is_file()]
    refuse(needed and not teachers,
           f"{' + '.join(filter(None, (cfg.method, cfg.match)))} needs a teacher, and {cfg.dataset} has none to fetch: give "
           "--teacher PATH --teacher-arch wrn-34-10 (the paper has RiFT's checkpoint), or --teacher pgd-at to train one first")
    refuse(unknown, f"{','.join(unknown)}: no such file, and the teachers for {cfg.dataset} are "
           f"{', '.join([*published, 'pgd-at'])} and robustbench:NAME")
    refuse(needed and len(cfg.teachers) > 1,
           f"--teacher {teachers}: {cfg.method} learns from one, others can be measured against")
    refuse(cfg.teacher_arch and "pgd-at" not in sources and not any(Path(name).is_file() for name in cfg.teachers),
           "--teacher-arch belongs to --teacher PATH or pgd-at; the others have their own")
    refuse(cfg.teacher_epochs and "pgd-at" not in sources, "--teacher-epochs belongs to --teacher pgd-at")
    cfg.teacher = cfg.teachers[0] if needed else None

    # precision and compilation; what is typed of these holds for a teacher trained first, too
    archs = cfg.student, *([cfg.teacher, cfg.teacher_arch or config_beside(cfg.teacher).get("student")] if cfg.teacher else [])
    foreign = any(re.match(r"[\w.]+:", arch) for arch in archs if arch)      # a network in which bf16 reaches the last layer
    cfg.teacher_flags = [f"--precision={cfg.precision}"] if cfg.precision and not cfg.eval_only else []
    cfg.teacher_flags += ["--no-compile"] if cfg.compile is False else []
    cfg.precision = cfg.precision or ("fp32" if not ampere or cfg.eval_only or cfg.report else "tf32" if foreign else "bf16")
    cfg.compile = ampere and not (cfg.eval_only or foreign or cfg.match == "direct") if cfg.compile is None else cfg.compile
    cfg.graphs = cuda and cfg.compile and not foreign and WORLD == 1         # networks of others may look at the CPU

    if cfg.alpha is None:
        cfg.alpha = default_alpha(cfg) if cfg.match and not cfg.eval_only else 0.0
    if not cfg.out:
        data, losses = Path(cfg.dataset).stem, "+".join(filter(None, (cfg.method, cfg.match)))
        words = data, cfg.student, cfg.teacher, losses, f"s{cfg.seed}"
        if cfg.eval_only:
            words = "eval", data, *Path(cfg.eval_only).with_suffix("").parts[-2:], cfg.precision.replace("fp32", "")
        cfg.out = Path("runs") / re.sub(r"[^\w.+-]+", "_", "-".join(filter(None, words)))
    return cfg

TRAINING = (   # a run's identity; images, the teacher's weights, threads and processes are added
    "method", "match", "surrogate", "alpha", "ramp_epochs", "inner", "constants", "dataset", "limit_train", "augment",
    "student", "epochs", "drops", "batch", "lr", "weight_decay", "eps", "step_size", "steps", "seed", "precision", "compile")

def config_beside(checkpoint):
    """What config.json in the folder of a file says of its training, if there is one, of a run of ours; else {}."""
    with contextlib.suppress(UserError, OSError):
        if checkpoint and Path(checkpoint).is_file():
            return training_in(Path(checkpoint).parent)
    return {}

def build_network(name, arch, data, cfg):
    """A new network of that architecture, on the data's device, which takes these images; name is for the message."""
    model = models.build(arch, data.classes, data.x_train.shape[1], cfg.preset.mean, cfg.preset.std).to(cfg.device)
    check_network(model, name, data)
    return model.to(memory_format=torch.channels_last) if isinstance(model, models.Net) else model

def load_network(source, arch, data, cfg):
    """A frozen network in eval mode: a named teacher, or a checkpoint of architecture arch, else as config.json says."""
    path, printed = source, None
    if source.startswith("robustbench:"):
        name = source.split(":")[1]
        with fetching(cfg.data_dir / cfg.dataset / "Linf" / name):          # always: NAME.pt is there before it is whole
            model = models.from_robustbench(name, cfg.dataset, cfg.data_dir).to(cfg.device)
        check_network(model, source, data)
    else:
        if (cfg.dataset, source) in TEACHERS:
            arch, drive_id, printed = TEACHERS[cfg.dataset, source]
            path = cfg.data_dir / f"{cfg.dataset}-{source}.pt"
            with fetching(path):
                models.fetch(drive_id, path)
        arch = arch or config_beside(source).get("student")
        refuse(not arch, f"{source}: of which architecture? --teacher-arch says it, or with --eval-only --student")
        model = build_network(f"{source} as {arch}", arch, data, cfg)
        models.load_state(model, path, arch)
    model.eval().requires_grad_(False)
    if printed:
        keep = pick_test(data, 500)
        clean = 100 * (model(to_float(data.x_test[keep])).argmax(1) == data.y_test[keep]).double().mean().item()
        if abs(clean - printed) > 4 * math.sqrt(printed * (100 - printed) / len(keep)):
            print(f"warning: {source} has {clean:.1f} % on {len(keep)} clean test images, table 1 has {printed} %: is it the "
                  "right checkpoint?", file=sys.stderr)
    return model

def pgd_at_teacher(cfg, images, stop):
    """The checkpoint of --teacher pgd-at: an ordinary run of this script in a folder beside the student's, made if need be."""
    arch = cfg.teacher_arch or cfg.preset.teacher_arch
    flags = {"epochs": cfg.teacher_epochs, "limit-train": cfg.limit_train, **{
        name: getattr(cfg, name) for name in ("batch", "eps", "augment") if getattr(cfg, name) != getattr(cfg.preset, name)}}
    words = [f"{name}{value}" for name, value in flags.items() if value]
    out = cfg.out.parent / "-".join(["teacher", Path(cfg.dataset).stem, arch, *words])
    if from_rank_0(lambda: config_beside(out / "student.pt").get("images") != images):
        argv = ["--method", "pgd-at", "--student", arch, "--dataset", cfg.dataset, "--data-dir", str(cfg.data_dir),
                "--attacks", "clean,pgd", "--device", cfg.device, "--out", str(out), *cfg.teacher_flags,
                *(f"--{name}={value}" for name, value in {**flags, "limit-test": cfg.limit_test}.items() if value)]
        if not (RANK or cfg.benchmark):                         # what would be refused later is refused now
            with locked(cfg.out):
                if not (cfg.eval_only or cfg.fresh):
                    identity(cfg, images, None)
        with contextlib.redirect_stdout(sys.stderr if cfg.benchmark else sys.stdout):           # the JSON stands alone
            print(f"a teacher first: python igdm.py {shlex.join(argv)}", flush=True)
            run(argv, stop, wait=True)
    return str(out / "student.pt")

def check_network(model, name, data):
    """Raise UserError unless model takes these images and gives a logit for each class."""
    with explained(f"{name} does not take images of shape {tuple(data.x_train.shape[1:])}"), torch.no_grad(), eval_mode(model):
        shape = tuple(model(to_float(data.x_train[:2])).shape)
    refuse(shape != (2, data.classes), f"{name}: 2 images give {shape}, where (2, {data.classes}) logits are wanted")

def try_out(S, name, data):
    """Raise UserError unless a student that is not of models.py bears what comes after hours: copies and forward mode, too."""
    x, y = to_float(data.x_train[:2]), data.y_train[:2]
    with explained(f"{name} cannot be trained and measured"), eval_mode(S):
        S(x)                                                    # what it keeps of this may be beyond copying
        frozen = models.fold(S)
        input_gradient(frozen, x, y)
        remainder(frozen, x, 0.1, generator(x.device, 0))
        fingerprint(S.state_dict())

def set_backends(precision, fixed_shapes):
    """TF32 for convolutions where precision says so; never for the matrix product of a last layer."""
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = precision == "tf32", False
    torch.backends.cudnn.benchmark = fixed_shapes

def run(argv, stop, wait=False):
    """One command: data, networks, training or --eval-only, evaluation."""
    cfg = resolve(argv)
    if cfg.report:
        refuse(not cfg.report.is_dir(), f"--report {cfg.report}: no such folder")
        return report(cfg.report)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    if WORLD > 1 and not dist.is_initialized():     # rank 0 may wait for hours, for a teacher
        with explained("the processes do not find each other", "start them by torchrun"):
            dist.init_process_group("cpu:gloo,cuda:nccl" if cfg.device != "cpu" else "gloo", timeout=timedelta(days=7))
    if cfg.device != "cpu":
        torch.cuda.set_device(cfg.device)
    with fetching(cfg.data_dir / f"{cfg.dataset}.npz") if cfg.dataset in DATASETS else contextlib.nullcontext():
        data = load_data(cfg.dataset, cfg.data_dir, cfg.limit_train, cfg.limit_test, cfg.device)
    refuse(cfg.batch > len(data.y_train) and not cfg.eval_only,
           f"--batch {cfg.batch}: there are only {len(data.y_train)} training images")
    images = fingerprint(dict(x=data.x_train, y=data.y_train))
    cfg.probe = min(len(data.y_train) // 100 if cfg.probe is None else cfg.probe, len(data.y_test))

    def find(name):
        return pgd_at_teacher(cfg, images, stop) if name == "pgd-at" else name

    torch.backends.mha.set_fastpath_enabled(False)              # it has no forward mode, which remainder needs
    torch.manual_seed(cfg.seed)     # for the student's first weights; all else has a generator of its own
    S = (load_network(find(cfg.eval_only), cfg.student, data, cfg) if cfg.eval_only
         else build_network(f"--student {cfg.student}", cfg.student, data, cfg))
    if not isinstance(S, models.Net):
        try_out(S, cfg.eval_only or f"--student {cfg.student}", data)
    teachers = {name: load_network(find(name), cfg.teacher_arch, data, cfg) for name in cfg.teachers}
    T = next(iter(teachers.values()), None)
    set_backends(cfg.precision, True)
    if cfg.graphs:
        importlib.import_module("torch._dynamo")    # inside train, garbage of this import would keep the last graph's memory
        torch.cuda.synchronize()                    # captured() wants a stream that is not the default one
        torch.cuda.set_stream(torch.cuda.Stream())
    if cfg.benchmark:
        return print(json.dumps(benchmark(S, T, data, cfg), indent=1))
    with locked(cfg.out, wait) if not RANK else contextlib.nullcontext():
        evaluated = training_in(cfg.out) if cfg.eval_only else {}       # the run that is there, and stays
        its_own = cfg.eval_only and cfg.out.resolve() == Path(find(cfg.eval_only)).parent.resolve()
        refuse(evaluated and not its_own,
               f"{cfg.out} holds a training run, and {cfg.eval_only} is not of it: give another --out")
        if cfg.fresh and not RANK:
            put_aside(cfg.out, EVALUATION if its_own else RUN)
        print(cfg.out, flush=True)
        if cfg.eval_only:
            if not evaluated:
                write_config(cfg, {})
        else:
            training = from_rank_0(identity, cfg, images, T if cfg.teacher else None)
            if not (RANK or {"config.json", "last.pt", "student.pt"} <= {*os.listdir(cfg.out)}):        # a finished run's stays
                write_config(cfg, training)
            stop.deferred = True
            train(S, T, data, cfg, stop)
            stop.deferred = False
            from_rank_0(write_atomic, cfg.out / "student.pt", lambda file: torch.save(
                {name: value.cpu() for name, value in S.state_dict().items()}, file))
            if WORLD > 1 and not wait:                          # the rest is rank 0's, and may take hours
                dist.destroy_process_group()
            if RANK:
                return
            if stop.signal:
                raise Halt(128 + stop.signal, INTERRUPTED)
        result = evaluate(S, teachers, data, cfg)
    width = max(map(len, result["metrics"]))
    for name, entry in result["metrics"].items():
        print(f"  {name:{width}}{entry['value']:10.4g}   n = {entry['n']}")

def main(argv=None):
    """Run one command; returns the exit code: 0, 1 out of memory, 2 for what the user can mend, or as Halt says."""
    stop = SimpleNamespace(signal=None, deferred=False)

    def on_signal(number, frame):   # training finishes its step and saves; elsewhere, or at a second Ctrl-C, at once
        if not stop.deferred or (stop.signal and number == signal.SIGINT):
            raise Halt(128 + number, INTERRUPTED)
        stop.signal = number
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if RANK else sys.stdout):
            run(sys.argv[1:] if argv is None else argv, stop)
        return 0
    except (UserError, OSError) as error:
        code, message = 2, f"error: {one_line(error)}"
    except Halt as halt:
        code, message = halt.args
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            code, message = 1, f"out of memory: in training a smaller --batch helps, else a smaller network ({one_line(error)})"
        elif isinstance(error, torch._dynamo.exc.TorchDynamoException):
            code, message = 2, f"error: torch.compile failed, --no-compile goes without it ({one_line(error)})"
        else:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"igdm.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    code = main()
    if WORLD > 1:       # in an orderly exit threads of torch.distributed may abort, and torchrun would stop the other ranks
        print(end="", flush=True)
        os._exit(code)
    sys.exit(code)
