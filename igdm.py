"""IGDM: Indirect Gradient Matching for Adversarial Robust Distillation (ICLR 2025).

A small student learns from a large robust teacher to withstand attack. IGDM (Lee, Cho and Kim,
arXiv 2312.03286) adds one term to any such method. It matches the differences f(x+delta) -
f(x-delta) of student and teacher; both are locally linear, so their input gradients match too.

    python igdm.py --method rslad --igdm --student mnv2 --dataset digits    # minutes on a laptop
    python igdm.py --method rslad --igdm --student mnv2                     # table 10, on a GPU
    python igdm.py --eval-only runs/NAME/student.pt --teacher bdm,ltd,ikl   # measure a checkpoint
    bash run_all.sh; python igdm.py --report runs                           # every table

Where the ICLR version stands:

    eq. 3-8       L_IGDM                          igdm_loss
    eq. 9         L = L_base + T(alpha) L_IGDM    losses
    eq. 10        point-wise distance (table 5)   point_wise
    eq. 11        direct matching; table 16's     MATCH
    eq. 14-17     base methods, inner and outer   attack_*, loss_*, METHODS
    algorithm 1   one step                        train_step
    figure 2      proportion of the remainder     remainder
    table 1       teachers                        TEACHERS
    table 4       GD and GC                       gradient_alignment
    tables 6, 8   attack without T; lambda        --inner student, --adaad-lambda
    B.1, B.2      schedules; alpha                DATASETS, ALPHA
"""
import argparse
import contextlib
import copy
import hashlib
import io
import json
import logging
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from fractions import Fraction
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Callable, NamedTuple

import filelock
import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

import models       # inside functions only: `from igdm import pgd` works beside another

# ------------------
# The method. o is a Step; cfg, what resolve makes of the flags.

def kl(s, t, reduction="batchmean"):
    """KL(softmax(t) || softmax(s)), which the paper writes KL(s || t); both logits (N, K).
    The target t is not detached: TRADES, IAD and AdaAD need its gradient."""
    return F.kl_div(F.log_softmax(s, 1), F.log_softmax(t, 1), reduction=reduction, log_target=True)

def igdm_loss(s_plus, s_minus, t_plus, t_minus, surrogate="kl"):
    """L_IGDM, eq. 8: match f(x+delta) - f(x-delta), which is 2 J delta and a small rest (eq. 3-6).
    Logits (N, K) of student and teacher at x+delta and x-delta; no gradient reaches the teacher.
    surrogate: "kl" takes the differences as logits; "l1", "l2": the norm of s - t."""
    s, t = s_plus - s_minus, (t_plus - t_minus).detach()
    if surrogate == "kl":
        return kl(s, t)
    return torch.linalg.vector_norm(s - t, ord={"l1": 1, "l2": 2}[surrogate], dim=1).mean()

class Step:
    """One batch: images x (N, C, H, W) in [0, 1], labels y (N,), and the networks' logits (N, K).
    The attack may read t_clean; once it has set x_adv = x + delta come s_adv = S(x_adv), s_clean =
    S(x), and all else when first read. t_* carry no gradient; T(x) itself does, to x (adaad).
    done: the fraction of the epochs that is over."""
    def __init__(self, S, T, x, y, done=1.0):
        self.S, self.T, self.x, self.y, self.done = S, T, x, y, done

    @torch.no_grad()
    def teacher(self, x):
        return self.T(x)

    x_minus = cached_property(lambda o: o.x - (o.x_adv - o.x))  # x - delta, not clamped
    s_minus = cached_property(lambda o: o.S(o.x_minus))
    t_clean = cached_property(lambda o: o.teacher(o.x))
    t_adv = cached_property(lambda o: o.teacher(o.x_adv))
    t_minus = cached_property(lambda o: o.teacher(o.x_minus))
    t_grad = cached_property(lambda o: input_gradient(o.T, o.x, o.y))

    @cached_property
    def s_grad(self):  # differentiable, of batch statistics
        loss = F.cross_entropy(self.s_clean, self.y, reduction="sum")
        return torch.autograd.grad(loss, self.x, create_graph=True)[0]

# Inner maximisation, eq. 14-17: (S, Step) -> objective of x_adv. S is frozen; o.S is trained.
def attack_ce(S, o):
    return lambda x_adv: F.cross_entropy(S(x_adv), o.y)

def attack_trades(S, o):
    with torch.no_grad():
        s_clean = S(o.x)
    return lambda x_adv: kl(S(x_adv), s_clean)

def attack_rslad(S, o):
    return lambda x_adv: kl(S(x_adv), o.t_clean)

def attack_adaad(S, o):
    return lambda x_adv: kl(S(x_adv), o.T(x_adv))  # the gradient goes through both networks

# Outer minimisation: (o, constants) -> L_base.
def loss_pgd_at(o):
    return F.cross_entropy(o.s_adv, o.y)

def loss_trades(o, beta):
    return F.cross_entropy(o.s_clean, o.y) + beta * kl(o.s_adv, o.s_clean)

def loss_ard(o, a, t):
    loss = a * t**2 * kl(o.s_adv / t, o.t_clean / t)
    return loss if a == 1 else loss + (1 - a) * F.cross_entropy(o.s_clean, o.y)

def introspection(o, b):
    """mean_i (1 - w_i) KL_i(S(x+d) || S(x)), w_i = p_T(y_i | x_i+d_i)^b: trust S where T errs."""
    w = F.softmax(o.t_adv, 1).gather(1, o.y[:, None])[:, 0] ** b
    return ((1 - w) * kl(o.s_adv, o.s_clean, "none").sum(1)).mean()

def loss_iad(o, b, begin):
    loss = kl(o.s_adv, o.t_clean)
    return loss if o.done < begin else loss + introspection(o, b)

def loss_akd(o, lam):
    mixture = lam * F.softmax(o.t_adv, 1) + (1 - lam) * F.one_hot(o.y, o.t_adv.shape[1])
    return F.cross_entropy(o.s_adv, mixture)

def loss_rslad(o, scale):
    return scale * (5 / 6 * kl(o.s_adv, o.t_clean) + 1 / 6 * kl(o.s_clean, o.t_clean))

def loss_adaad(o, lam):
    loss = lam * kl(o.s_adv, o.t_adv)
    return loss if lam == 1 else loss + (1 - lam) * kl(o.s_clean, o.t_clean)

def loss_adaiad(o, b, begin, t):
    loss = t**2 * kl(o.s_adv / t, o.t_adv / t)
    return loss if o.done < begin else loss + introspection(o, b)

class Method(NamedTuple):
    """A base method; its constants are flags, --METHOD-CONSTANT (lam: --METHOD-lambda)."""
    attack: Callable
    start: str              # where PGD starts: "uniform" or "gaussian"
    loss: Callable
    constants: dict
    teacher: bool = True  # False where neither attack nor loss looks at one

# begin: 60 of 200 epochs (IGDM's author later: 80 but on CIFAR-10). t: 1 in circulating code, 30 in
# ARD's, AdaAD's. akd's lam: assumed. scale: RSLAD averages over classes, times 10 on CIFAR-100.
METHODS = {
    "pgd-at": Method(attack_ce, "uniform", loss_pgd_at, {}, teacher=False),  # Madry 2018
    "trades": Method(attack_trades, "gaussian", loss_trades, dict(beta=6.0), teacher=False),
    "ard": Method(attack_ce, "uniform", loss_ard, dict(a=1.0, t=1.0)),  # Goldblum 2020
    "iad": Method(attack_ce, "uniform", loss_iad, dict(b=0.1, begin=0.3)),  # Zhu 2022
    "akd": Method(attack_ce, "uniform", loss_akd, dict(lam=0.5)),  # Maroto 2022
    "rslad": Method(attack_rslad, "gaussian", loss_rslad, dict(scale=0.1)),  # Zi 2021
    "adaad": Method(attack_adaad, "gaussian", loss_adaad, dict(lam=1.0)),  # Huang 2023
    "adaiad": Method(attack_adaad, "gaussian", loss_adaiad, dict(b=0.1, begin=0.3, t=1.0)),
}

MATCH = {  # what is added to the base loss: (o, surrogate) -> scalar
    "igdm": lambda o, surrogate: igdm_loss(o.s_adv, o.s_minus, o.t_adv, o.t_minus, surrogate),
    "direct": lambda o, _: (o.s_grad - o.t_grad).flatten(1).square().sum(1).mean(),  # 11, D: ours
    "trades-reg": lambda o, _: kl(o.s_adv, o.s_clean),  # table 16
    "trades-like": lambda o, _: kl(o.s_adv, o.s_minus),  # table 16
}

def inner_maximisation(cfg):
    """(attack, start) of cfg.method; or pgd-at's, without the teacher (table 6)."""
    method = METHODS["pgd-at" if cfg.inner == "student" else cfg.method]
    return method.attack, method.start

@contextlib.contextmanager
def eval_mode(model):
    """Batch-norm statistics are frozen inside; each module's own mode is restored after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

def start_noise(kind, x, eps, g):
    """Where PGD starts, from x: "uniform" in [-eps, eps]; "gaussian", 0.001 N(0, 1); None: at x."""
    noise = torch.zeros_like(x)
    if kind == "uniform":
        return noise.uniform_(-eps, eps, generator=g)
    if kind == "gaussian":
        return noise.normal_(0, 0.001, generator=g)
    if kind is None:
        return noise
    raise ValueError(f"start is {kind!r}, not uniform, gaussian or None")

def pgd(model, x, objective, eps=8 / 255, step=2 / 255, steps=10, start="uniform", g=None):
    """Projected gradient ascent in the L-inf ball of eps around x, within [0, 1] (Madry 2018).
    Mode and start are not printed; ARD and IAD attack in train mode, and none clamps the start.
    model      in eval mode meanwhile: batch-norm statistics do not move
    x          (N, C, H, W) in [0, 1]; returns x_adv, detached
    objective  x_adv -> the scalar to maximise; g: torch.Generator on x's device
    start      "uniform"; "gaussian", as the KL attacks' code has it; None; or noise like x"""
    if not isinstance(start, torch.Tensor):  # a training step must not wait for the device
        if x.min() < 0 or x.max() > 1:
            raise ValueError("x must be in [0, 1]: let the network normalise")
        start = start_noise(start, x, eps, g)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)  # ball and [0, 1]: a box
    x_adv = (x.detach() + start).clamp(low, high)
    with eval_mode(model), torch.enable_grad():
        for _ in range(steps):
            gradient, = torch.autograd.grad(objective(x_adv.requires_grad_()), x_adv)
            x_adv = (x_adv.detach() + step * gradient.sign()).clamp(low, high)
    return x_adv.detach()

def cw(model, x, y, eps, step, steps, restarts, g=None):
    """As pgd, for C&W's margin max_{j != y} z_j - z_y. As in later code of the paper's authors,
    images already wrong do not move, and the restart of highest cross-entropy counts."""
    def margin(x_adv):
        logits = model(x_adv)
        true = logits.gather(1, y[:, None])[:, 0]
        other = logits.scatter(1, y[:, None], -math.inf).amax(1)
        return ((other - true) * (other < true)).sum()

    ends = [pgd(model, x, margin, eps, step, steps, "uniform", g) for _ in range(restarts)]
    with torch.no_grad(), eval_mode(model):
        losses = [F.cross_entropy(model(x_adv), y, reduction="none") for x_adv in ends]
    best = torch.stack(losses).argmax(0)  # a NaN is taken first, and seen
    return torch.stack(ends)[best, torch.arange(len(x), device=x.device)]

def input_gradient(model, x, y):
    """Gradient of each image's cross-entropy, as x (N, C, H, W); model in eval mode."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]

# ------------------
# Training

def losses(o, cfg, epoch):
    """Eq. 9: L_base and T(alpha) L_match, two scalars. T(alpha) = epoch / epochs * alpha (B.2)."""
    base = METHODS[cfg.method].loss(o, **cfg.constants)
    if not cfg.alpha:
        return base, torch.zeros_like(base)
    return base, epoch / cfg.epochs * cfg.alpha * MATCH[cfg.match](o, cfg.surrogate)

def prepare(S, T, cfg):
    """What train_step needs: (S, frozen, T, refresh), and S's optimizer (B.1). frozen, a copy
    of S in eval mode with batch norm folded, is attacked; refresh() brings it up to date."""
    def prepared(net):
        net = models.Mixed(network=net) if cfg.precision == "bf16" else net
        return torch.compile(net, dynamic=False) if cfg.compile else net

    if cfg.compile:
        torch._dynamo.config.cache_size_limit = 64  # a graph for each network, mode and shape
    frozen = models.fold(S, precision=cfg.precision)
    T = None if T is None else prepared(models.fold(T, precision=cfg.precision))
    networks = prepared(S), prepared(frozen), T, partial(models.fold, S, frozen)
    return networks, torch.optim.SGD(S.parameters(), cfg.lr, 0.9, weight_decay=cfg.weight_decay)

def train_step(networks, optimizer, cfg, epoch, sums, x, y, noise):
    """Algorithm 1 for one batch; adds L_base and T(alpha) L_match to sums (2,).
    The passes S(x+delta), S(x), S(x-delta), in this order, have batch statistics of their own and
    move the running ones. S(x) runs even if unread: ARD, IAD and AdaAD do; pgd-at, akd: ours."""
    S, frozen, T, refresh = networks
    refresh()
    o = Step(S, T, x, y, done=(epoch - 1) / cfg.epochs)
    objective = inner_maximisation(cfg)[0](frozen, o)
    o.x_adv = pgd(frozen, x, objective, cfg.eps, cfg.step_size, cfg.steps, noise)
    if cfg.match == "direct":
        o.x = x.detach().requires_grad_()  # s_grad is by it
    o.s_adv, o.s_clean = S(o.x_adv), S(o.x)
    base, match = losses(o, cfg, epoch)
    optimizer.zero_grad()
    (base + match).backward()
    optimizer.step()
    sums += torch.stack((base, match)).detach()

def captured(step, *inputs):
    """step(*inputs), recorded as a CUDA graph: a function of like tensors that replays it."""
    static, graph = [value.clone() for value in inputs], torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        step(*static)

    def replay(*inputs):
        for buffer, value in zip(static, inputs):
            buffer.copy_(value)
        graph.replay()
    return replay

def make_batch(data, index, cfg, g):
    """(x, y, noise): the training images of index, augmented, and where the attack starts."""
    x = to_float(augment(data.x_train[index], cfg.augment, g))
    return x, data.y_train[index], start_noise(inner_maximisation(cfg)[1], x, cfg.eps, g)

def train(S, T, data, cfg):
    """Train S up to cfg.epochs, going on after the last epoch in cfg.out/last.pt. An epoch's last
    partial batch is dropped. UserError if the loss or a weight is not finite."""
    device, n, last = data.y_train.device, len(data.y_train), cfg.out / "last.pt"
    steps, log = n // cfg.batch, []
    networks, optimizer = prepare(S, T, cfg)
    if last.exists():
        state = models.read_file(last)
        with models.explained(f"{last} is of another network, or version"):
            S.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        write(cfg.out / "log.jsonl", log := state["log"])  # the file may be an epoch ahead
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    S.train()
    for epoch in range(len(log) + 1, cfg.epochs + 1):
        lr = cfg.lr * 0.1 ** sum(epoch > drop for drop in cfg.drops)
        optimizer.param_groups[0]["lr"] = lr
        take = partial(train_step, networks, optimizer, cfg, epoch, sums.zero_())
        order = torch.randperm(n, generator=generator(device, cfg.seed, epoch), device=device)
        set_backends(cfg.precision, fixed_shapes=True)
        started = time.monotonic()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for i in tqdm(range(steps), f"epoch {epoch}/{cfg.epochs}", leave=False, disable=None):
            g = generator(device, cfg.seed, epoch, i)  # a step's randomness is its place's
            torch.manual_seed(g.initial_seed())  # for dropout in others' networks
            batch = make_batch(data, order[i * cfg.batch:(i + 1) * cfg.batch], cfg, g)
            if cfg.graphs and i == 2:  # warm now; lr, T(alpha): this epoch's
                take = captured(take, *batch)
            take(*batch)
        base, match = (sums / steps).tolist()  # waits for the device
        timing = dict(seconds=time.monotonic() - started,
                      memory_mib=torch.cuda.max_memory_allocated() / 2**20)
        refuse(not all(value.isfinite().all() for value in (sums, *S.parameters())),
               f"loss or weights are not finite in epoch {epoch}: try a smaller --lr or --alpha")
        row = dict(epoch=epoch, lr=lr, loss=base + match, loss_base=base, loss_match=match)
        row |= probe(S, T, data, cfg) if cfg.probe else {}
        shown = [name for name in "lr loss loss_match clean pgd10 gd gc".split() if name in row]
        print(f"epoch {epoch}/{cfg.epochs}", *(f"{name} {row[name]:.4g}" for name in shown),
              f"{timing['seconds']:.1f} s", sep="  ", flush=True)
        log.append(row | dict(timing=timing))
        write(cfg.out / "log.jsonl", log)
        write(last, dict(student=S.state_dict(), optimizer=optimizer.state_dict(), log=log))

def benchmark(S, T, data, cfg):
    """What a training step costs: the median of cfg.benchmark steps."""
    sums, times = torch.zeros(2, device=cfg.device), []
    batch = make_batch(data, torch.arange(cfg.batch), cfg, generator(cfg.device, cfg.seed))
    networks, optimizer = prepare(S.train(), T, cfg)
    take = partial(train_step, networks, optimizer, cfg, 1, sums)
    set_backends(cfg.precision, fixed_shapes=True)
    for i in range(cfg.benchmark + 3):
        if cfg.graphs and i == 2:
            take = captured(take, *batch)
        take(*batch)
        sums.tolist()  # waits for the device
        times.append(time.monotonic())
    return dict(step_ms=1e3 * float(np.median(np.diff(times[2:]))),
                memory_mib=torch.cuda.max_memory_allocated() / 2**20, **environment(cfg))

# ------------------
# Measures: (S, T, x, y, cfg, g) -> {metric: (N,), a value for each image}
ATTACKS = "clean", "fgsm", "pgd", "cw", "aa"

def accuracy(attack, S, T, x, y, cfg, g):
    """Whether S is right under "clean", "fgsm" (1 step of eps), "pgd" (20, uniform start), "cw"."""
    objective = attack_ce(S, Step(S, T, x, y))
    if attack == "fgsm":
        x = pgd(S, x, objective, cfg.eps, cfg.eps, 1, None)
    elif attack == "pgd":
        x = pgd(S, x, objective, cfg.eps, cfg.step_size, 20, "uniform", g)
    elif attack == "cw":
        x = cw(S, x, y, cfg.eps, cfg.step_size, 50, cfg.cw_restarts, g)
    return {attack: S(x).argmax(1) == y}

def autoattack(S, T, x, y, cfg, g):
    """Whether S withstands AutoAttack, standard version, by its authors (Croce & Hein 2020).
    One attack after the other, as in its own loop: so it goes on with the attack it was in.
    Targets are at most 9 classes; APGD-T's loss needs 4 classes."""
    from pyautoattack import AutoAttack
    logging.basicConfig(format="%(message)s")
    logger, path = logging.getLogger("auto-attack"), cfg.out / f"autoattack-{len(x)}.json"
    state = read(path)
    if state.get("of") != cfg.of:
        state = dict(of=cfg.of, done=[], right=[True] * len(x), flags=[])
    logger.setLevel(logging.DEBUG)  # shows its progress
    logger.filters = [lambda record: record.levelno < logging.WARNING or (
        state["flags"].append(record.getMessage()) is None)]
    attack, classes = AutoAttack(S, eps=cfg.eps, seed=cfg.seed, device=x.device), S(x[:1]).shape[1]
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    for name in attack.attacks_to_run:
        right = torch.tensor(state["right"], device=x.device)
        if name not in state["done"] and right.any() and (classes > 3 or name != "apgd-t"):
            attack.attacks_to_run = [name]
            left = right.nonzero()[:, 0]
            right[left] = attack.run_standard_evaluation(
                x[left], y[left], batch_size=cfg.eval_batch)[1] == y[left]
            state.update(done=[*state["done"], name], right=right.tolist())
            write(path, state)
            print(f"AutoAttack: {name} leaves {sum(state['right'])} of {len(x)}", file=sys.stderr)
    cfg.flags = sorted(set(state["flags"]))
    return {"aa": right}

def gradient_alignment(S, T, x, y, cfg, g):
    """GD, GC (table 4): L2 distance, cosine of the gradients of cross-entropy (our choice) at x."""
    s, t = (input_gradient(model, x, y).flatten(1) for model in (S, T))
    return dict(gd=(s - t).norm(dim=1), gc=F.cosine_similarity(s, t),
                gradient_student=s.norm(dim=1), gradient_teacher=t.norm(dim=1))

def point_wise(S, T, x, y, cfg, g):
    """Eq. 10 (table 5): L2 distance, under unclamped noise and attack; softmax, by its sizes."""
    attack, start = inner_maximisation(cfg)
    objective = attack(S, Step(S, T, x, y))
    x_adv = pgd(S, x, objective, cfg.eps, cfg.step_size, 20, start, g)
    x_uniform = x + start_noise("uniform", x, cfg.eps, g)
    return {name: (F.softmax(T(x), 1) - F.softmax(S(x), 1)).norm(dim=1)
            for name, x in (("point_uniform", x_uniform), ("point_adv", x_adv))}

def remainder(S, T, x, y, cfg, g):
    """Figure 2: ||f(x+e) - f(x) - J e|| / ||f(x+e)||, e uniform; fused attention has no J e."""
    e = start_noise("uniform", x, cfg.eps, g)
    with warnings.catch_warnings(action="ignore"), sdpa_kernel(SDPBackend.MATH):
        f, je = torch.func.jvp(S, (x,), (e,))
    moved = S(x + e)
    return dict(remainder=(moved - f - je).norm(dim=1) / moved.norm(dim=1))

def probe_images(S, T, x, y, cfg, g):
    """What is logged after an epoch: clean, PGD-10, remainder; with a teacher GD and GC."""
    x_adv = pgd(S, x, attack_ce(S, Step(S, T, x, y)), cfg.eps, cfg.step_size, 10, "uniform", g)
    values = dict(clean=100.0 * (S(x).argmax(1) == y), pgd10=100.0 * (S(x_adv).argmax(1) == y))
    values |= remainder(S, T, x, y, cfg, g)
    return values if T is None else values | gradient_alignment(S, T, x, y, cfg, g)

@torch.no_grad()
def measured(measure, key, S, T, data, batches, cfg):
    """{metric: (N,)} of the test images of batches, each with random numbers of seed and key."""
    parts = []
    for i, index in enumerate(tqdm(batches, key, leave=False, disable=None)):
        x, y = to_float(data.x_test[index]), data.y_test[index]
        parts.append(measure(S, T, x, y, cfg, generator(x.device, cfg.seed, key, i)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

def pick_test(data, n, cfg):
    """Batches of the indices of n (None: all) test images, class-balanced."""
    index = torch.from_numpy(balanced_subset(data.y_test.cpu().numpy(), n))
    return index.to(data.y_test.device).split(cfg.eval_batch)

def probe(S, T, data, cfg):
    """Means of probe_images over cfg.probe test images, with equal noise each time."""
    set_backends("fp32", fixed_shapes=False)
    batches = pick_test(data, cfg.probe, cfg)
    values = measured(probe_images, "probe", models.fold(S), T, data, batches, cfg)
    return {name: value.mean().item() for name, value in values.items()}

def measures(teachers, data, cfg):
    """Rows (name, teacher or None, batches, measure, what its values depend on)."""
    every, attack = pick_test(data, None, cfg), " ".join(filter(None, (cfg.method, cfg.inner)))
    rows = [("remainder", None, every, remainder, {})]  # first: NaN is refused
    rows += [(a, None, every, partial(accuracy, a), {}) for a in cfg.attacks if a != "aa"]
    for name in teachers:
        rows += [("gd", name, every, gradient_alignment, {}),
                 ("point_adv", name, every, point_wise, dict(attack=attack))]
    if "aa" in cfg.attacks:
        images = [torch.cat(pick_test(data, cfg.aa_n, cfg))]
        rows += [("aa", None, images, autoattack, dict(without_apgd_t=data.classes < 4))]
    return rows

def evaluate(S, teachers, data, cfg):
    """Measure S, in float32, and how near it is to teachers (name -> network); returns result.json.
    What that has is not measured again. outcomes.npz has each attack's outcome per image."""
    set_backends("fp32", fixed_shapes=False)
    of = dict(weights=fingerprint(S.state_dict()), seed=cfg.seed, eps=cfg.eps, step=cfg.step_size,
              images=fingerprint(dict(x=data.x_test, y=data.y_test)))
    cfg.of, cfg.flags, result = of, [], read(cfg.out / "result.json") or dict(of, metrics={})
    refuse_other(cfg.out, "results", result, of)
    S, outcomes = models.fold(S), read(cfg.out / "outcomes.npz")
    for name, teacher, batches, measure, settings in measures(teachers, data, cfg):
        T, to = (teachers[teacher], f"@{teacher}") if teacher else (None, "")
        weights = teacher and fingerprint(T.state_dict())[:16]
        settings |= dict(n=sum(map(len, batches)), teacher=weights)
        known = result["metrics"].get(name + to, {})
        if settings.items() <= known.items() and (name in outcomes or name not in ATTACKS):
            continue
        for key, values in measured(measure, name, S, T, data, batches, cfg).items():
            refuse(not values.isfinite().all(), f"{key + to} is not finite")
            mean = values.double().mean().item() * (100 if key in ATTACKS else 1)
            result["metrics"][key + to] = dict(settings, value=mean, batch=cfg.eval_batch)
            if key in ATTACKS:
                outcomes[key] = values.cpu().numpy()
                write(cfg.out / "outcomes.npz", outcomes)
            result |= dict(flags=cfg.flags) if key == "aa" else {}
        write(cfg.out / "result.json", result)
    index = torch.cat(pick_test(data, 8, cfg))
    x, y = to_float(data.x_test[index]), data.y_test[index]
    shown = {f"teacher@{name}": input_gradient(T, x, y) for name, T in teachers.items()}
    shown |= dict(images=x, student=input_gradient(S, x, y))
    write(cfg.out / "gradients.npz", {k: v.permute(0, 2, 3, 1).cpu() for k, v in shown.items()})
    return result

@torch.no_grad()
def checked(net, x, classes, expected=None):
    """net's logits (N, K) of x; UserError unless they are usable, and those expected."""
    before, logits = x.clone(), net(x)
    shape = tuple(getattr(logits, "shape", ()))
    refuse(shape != (len(x), classes), f"its outputs are {shape}, not ({len(x)}, {classes})")
    refuse(not torch.equal(x, before), "its forward changes its input images in place")
    refuse(not logits.isfinite().all(), "its outputs are not finite")
    off = 0 if expected is None else (logits - expected).abs().max() / (1 + expected.abs().max())
    refuse(off > 1e-3, f"its outputs are not those of the network itself: {off:.2g} off")
    return logits

def rehearse(S, teachers, data, cfg):
    """Try on 2 images all that a run will do. UserError with network and stage."""
    set_backends("fp32", fixed_shapes=False)
    ours = all(map(models.ours, (S, *teachers.values())))
    images, y = data.x_train[:2, :, :32, :32] if ours else data.x_train[:2], data.y_train[:2]
    tiny, x = Data(images, y, images, y, data.classes), to_float(images)
    student, T = f"student {cfg.student}", teachers.get(cfg.teacher)
    small = argparse.Namespace(**vars(cfg) | dict(steps=min(cfg.steps, 1), probe=1, compile=False))
    roles = [(student, S, x), *((f"teacher {name}", net, x[:1]) for name, net in teachers.items())]
    for role, net, few in roles:
        with models.explained(f"{role} in eval mode"), eval_mode(net):
            logits = checked(net, few, data.classes)
        if logits.min() >= 0 and (logits.sum(1) - 1).abs().max() < 1e-4:
            warn(f"{role} gives probabilities, not logits")
        with models.explained(f"{role}, copied and folded"):
            checked(frozen := models.fold(net), few, data.classes, logits)
            input_gradient(frozen, few, y[:len(few)])
    if not cfg.eval_only:
        with models.explained(f"{student} in a training step of {cfg.method}"):
            trained, sums = copy.deepcopy(S).train(), torch.zeros(2, device=x.device)
            checked(trained, x, data.classes)
            batch = make_batch(tiny, torch.arange(2), cfg, generator(x.device))
            networks, optimizer = prepare(trained, T, small)
            optimizer.step = lambda: None  # batch norm's gradient for 2 images may be huge
            train_step(networks, optimizer, small, cfg.epochs, sums, *batch)
            refuse(not sums.isfinite().all(), "the loss is not finite")
        with models.explained(f"{student} after a training step"):
            for p in trained.parameters():
                p.data += (torch.rand_like(p) - 0.5) / 50  # loaded has S's
            copies = models.fold(trained), models.fold(trained, models.fold(S))
            before, loaded = fingerprint(trained.state_dict()), copy.deepcopy(S).eval()
            refuse(fingerprint(trained.eval().state_dict()) != before, "eval() changes its weights")
            with tempfile.TemporaryDirectory() as folder:
                write(path := Path(folder) / "student.pt", models.weights(trained))
                loaded = models.load_state(loaded, path, cfg.student)
            logits = checked(trained, x, data.classes)
            for net in *copies, loaded:
                checked(net, x, data.classes, logits)
    with models.explained(f"{student} in what is measured"):
        probe(S if cfg.eval_only else trained, None, tiny, small)

# ------------------
# The paper's constants

class Dataset(NamedTuple):
    """Defaults by data set (B.1, with SGD and momentum 0.9)."""
    schedule: tuple = (200, (100, 150))     # epochs; lr is divided by 10 after each of these
    lr: float = 0.1
    batch: int = 128                        # from the released code
    weight_decay: float = 5e-4              # circulating code: 2e-4
    eps: float = 8 / 255                    # L-inf, images in [0, 1]
    augment: str = "crop-flip"
    student: str = "rn18"
    default_teacher: str | None = "pgd-at"  # a key of TEACHERS, or a PGD-AT run of this script
    default_arch: str = "wrn-34-10"         # a teacher's, if none is given
    cw_restarts: int = 10
    aa_n: int | None = None                 # for AutoAttack: all

DATASETS = {
    "cifar10": Dataset(default_teacher="bdm"), "cifar100": Dataset(default_teacher="bdm"),
    "svhn": Dataset(schedule=(50, (40, 45))),  # the authors' later code: no crop, no flip
    "tiny-imagenet": Dataset(schedule=(100, (50, 80)), student="parn18", default_teacher=None),
    "digits": Dataset(schedule=(12, (8, 11)), batch=64, eps=24 / 255, augment="crop", aa_n=100,
                      student="mnv2", default_arch="wrn-10-2", cw_restarts=2),  # ours
}
RSLAD = dict.fromkeys([("rslad", "cifar10"), ("rslad", "cifar100")], (300, (215, 260, 285)))

DRIVE = "https://drive.google.com/uc?id="
DM = "https://huggingface.co/wzekai99/DM-Improves-AT/resolve/main/checkpoint/%s_linf_wrn28-10.pt"
TEACHERS = {   # table 1: architecture, Google Drive id of RobustBench's file, clean accuracy in %
    # Wang2023Better_WRN-28-10 (DM: its authors'), Cui2023Decoupled_WRN-28-10, Chen2021LTD_WRN34_10
    ("cifar100", "bdm"): ("wrn-28-10-silu", "1-jOu3wKWyw0XnBCXDGR32xn8Bw9GTJgh", 72.58),
    ("cifar100", "ikl"): ("wrn-28-10-silu", "15BwWdWbNfoarTEWWugicOVkTjh3nXH36", 73.8),
    ("cifar100", "ltd"): ("wrn-34-10", "1-I4NZyULdEWH46b4EaCTxuuRo4eFXsg_", 64.07),
    ("cifar10", "bdm"): ("wrn-28-10-silu", "1-6MYKJdECDVGaWjj6GgqvaT95BGKhUvI", 92.44),
    ("cifar10", "ikl"): ("wrn-28-10-silu", "1-AaTrYt23WJFR22hXgBd-i6kjpsz6Hf2", 92.16),
    ("cifar10", "ltd"): ("wrn-34-10", "1-0RoQKYvHLNh7hZ71wJjSit1XtrJQo9D", 85.21),
    ("cifar10", "ltd2"): ("wrn-34-20", "1-5JmY9rapuGwCUc2nPvy7Rb_sn_dHhFm", None),  # LTD_WRN34_20
}

ALPHA_METHODS = "pgd-at", "trades", "ard", "iad", "akd", "rslad", "adaad"   # adaiad has adaad's
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
    ("digits", "mnv2", "pgd-at"):        (1, 1, 1, 1, 1, 1, 1),     # ours
}

# ------------------
# Data: loaded once, kept as uint8 on the device, cropped and flipped there in batch
class Data(NamedTuple):
    """Images uint8 (N, C, H, W), labels int64 (N,), all on one device; the number of classes."""
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: int

def read_tiny_imagenet(folder):
    """Tiny-ImageNet's arrays; its validation set is the test set, as everywhere."""
    from torchvision.datasets import ImageFolder, utils
    utils.download_and_extract_archive("http://cs231n.stanford.edu/tiny-imagenet-200.zip", folder,
                                       md5="90528d7ca1a48142e341f4ef8d21d0de")
    root = folder / "tiny-imagenet-200"
    train, notes = ImageFolder(root / "train"), (root / "val/val_annotations.txt").read_text()
    names, wnids = zip(*(row.split("\t")[:2] for row in notes.splitlines()))
    x_train = np.stack([train.loader(path) for path, _ in train.samples])
    x_test = np.stack([train.loader(root / "val/images" / name) for name in names])
    return x_train, train.targets, x_test, [train.class_to_idx[wnid] for wnid in wnids]

def read_original(name, folder):
    """(x_train, y_train, x_test, y_test) of a named set, downloaded if need be."""
    if name == "tiny-imagenet":
        return read_tiny_imagenet(folder)
    if name == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        x, y = load_digits(return_X_y=True)
        x = np.rint(x.reshape(-1, 8, 8) * (255 / 16))  # 17 grey levels
        split = train_test_split(x, y, test_size=360, stratify=y, random_state=0)
        return split[0], split[2], split[1], split[3]
    from torchvision import datasets
    if name == "svhn":
        parts = [datasets.SVHN(folder, part, download=True) for part in ("train", "test")]
        x_train, x_test = (part.data.transpose(0, 2, 3, 1) for part in parts)
        return x_train, parts[0].labels, x_test, parts[1].labels
    kind = getattr(datasets, name.upper())
    train, test = (kind(folder, train=part, download=True) for part in (True, False))
    return train.data, train.targets, test.data, test.targets

def read_npz(path):
    """(x_train, y_train, x_test, y_test) of an .npz; UserError if it has anything else."""
    with models.explained(f"{path} is no .npz of {', '.join(Data._fields[:4])}"):
        with np.load(path, allow_pickle=False) as file:
            arrays = x_train, y_train, x_test, y_test = [file[key] for key in Data._fields[:4]]
    for x, y in ((x_train, y_train), (x_test, y_test)):
        images = (x.dtype == np.uint8 and x.ndim in (3, 4) and x.shape[3:] in ((), (1,), (3,))
                  and len(x) and min(x.shape[1:3]) >= 8 and x.shape[1:] == x_train.shape[1:])
        labels = (len(y) and y.dtype.kind in "iu" and y.shape == x.shape[:1] and y.min() >= 0
                  and 1 <= y_train.max() < 2**16 and y.max() <= y_train.max())
        refuse(not (images and labels), f"{path} has {x.dtype} {x.shape} and {y.dtype} {y.shape}: "
               "images are uint8 (N, H, W[, 1 or 3]) from 8x8, labels integers from 0 of 2 classes")
    return arrays

def balanced_subset(y, n):
    """Ascending indices of n (None: all) of the labels y (N,), as many of each class within one."""
    order = np.random.default_rng(0).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]  # by class, shuffled inside
    rank = np.arange(len(y)) - np.searchsorted(y[order], y[order])  # 0, 1, ... in each class
    return np.sort(order[np.argsort(rank, kind="stable")[:n]])

def load_data(name, folder, limit_train=None, limit_test=None, device="cpu"):
    """Data by name, packed once to folder/NAME.npz, or by the path of an .npz; or UserError."""
    path = Path(name) if name.endswith(".npz") else folder / f"{name}.npz"
    if name in DATASETS and not path.exists():
        advice = f"put torchvision's archives into {folder}, and delete damaged ones"
        with models.explained(f"cannot get {name}", advice):
            types = (np.uint8, np.int64) * 2
            arrays = [np.asarray(a, t) for a, t in zip(read_original(name, folder), types)]
        with contextlib.suppress(OSError):  # a read-only folder costs time
            folder.mkdir(parents=True, exist_ok=True)
            write(path, dict(zip(Data._fields, arrays)))
    else:
        arrays = read_npz(path)
    tensors = []
    for x, y, limit in ((*arrays[:2], limit_train), (*arrays[2:], limit_test)):
        keep = balanced_subset(y, limit)
        x = x.reshape(*x.shape[:3], -1)[keep].transpose(0, 3, 1, 2)
        tensors += [torch.tensor(part, device=device) for part in (x, y[keep].astype(np.int64))]
    return Data(*tensors, classes=int(arrays[1].max()) + 1)

def generator(device, *key):
    """A random generator that depends on key alone: seed, epoch, batch."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))

def augment(x, kind, g):
    """Crop out of zero padding (4 at 32x32, 8 at 64x64), then a flip with probability 1/2, each."""
    if kind == "none":
        return x
    n, _, h, w = x.shape
    top = torch.randint(2 * (h // 8) + 1, (n, 1), generator=g, device=x.device)
    left = torch.randint(2 * (w // 8) + 1, (n, 1), generator=g, device=x.device)
    rows = top + torch.arange(h, device=x.device)
    cols = left + torch.arange(w, device=x.device)
    if kind == "crop-flip":
        mirrored = torch.rand(n, 1, generator=g, device=x.device) < 0.5
        cols = torch.where(mirrored, cols.flip(1), cols)
    image = torch.arange(n, device=x.device)[:, None, None]
    padded = F.pad(x, (w // 8, w // 8, h // 8, h // 8)).permute(0, 2, 3, 1)
    return padded[image, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)

def to_float(x):  # to [0, 1]
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

# ------------------
# A run's files. A kill at any moment loses at most the epoch, or metric, in progress.
def warn(message):
    print(f"warning: {message}", file=sys.stderr)

def refuse(wrong, message):
    if wrong:
        raise models.UserError(message)

def write(path, value):
    """Write .json, .jsonl (rows), .npz (a dict) or .pt, by the suffix.
    At any moment the file is as it was before, or complete and on the disk."""
    buffer, temporary = io.BytesIO(), path.with_name(path.name + ".tmp")
    if path.suffix == ".pt":
        torch.save(value, buffer)
    elif path.suffix == ".npz":
        np.savez(buffer, **value)
    else:
        rows, indent = (value, None) if path.suffix == ".jsonl" else ([value], 1)
        text = (json.dumps(row, indent=indent, default=str) + "\n" for row in rows)
        buffer.write("".join(text).encode())
    with open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

def read(path):
    """What write has left: a dict, or the rows of a .jsonl; empty where there is no file."""
    if not path.exists():
        return [] if path.suffix == ".jsonl" else {}
    with models.explained(f"cannot read {path}", "delete it and start again"):
        if path.suffix == ".npz":
            return dict(np.load(path))
        text = path.read_text(encoding="utf-8")
        return json.loads(text if path.suffix == ".json" else f"[{','.join(text.splitlines())}]")

def config_beside(path):
    """What config.json beside a file says of the training there; {} where there is none."""
    config = read(Path(path).parent / "config.json") if path and Path(path).is_file() else {}
    training = config.get("training") if isinstance(config, dict) else None
    return training if isinstance(training, dict) else {}

def fingerprint(tensors):
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

def refuse_other(out, what, before, now):
    """UserError if settings now differ from those before, in the folder out."""
    changed = [f"{key} was {before.get(key)!s:.40}, is {value!s:.40}" for key, value in now.items()
               if before.get(key) != json.loads(json.dumps(value))]
    refuse(changed, f"{out} has other {what}: {'; '.join(changed)}. Rename it, or give --out")

def environment(cfg):
    found = {name: version(name) for name in ("torch", "numpy", "pyautoattack")}
    with contextlib.suppress(OSError):  # there may be no git
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
        found["commit"] = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    gpu = None if cfg.device == "cpu" else torch.cuda.get_device_name(cfg.device)
    return found | dict(gpu=gpu, platform=sys.platform, threads=torch.get_num_threads())

# ------------------
# Report: what runs have left, beside the paper's values, which run_all.sh has
def read_run(folder):
    """What a run left. name: without -sSEED; common: to all seeds; "gd@": of its first teacher."""
    log, values = read(folder / "log.jsonl"), read(folder / "ood.json")  # run_all.sh's
    for name, entry in (result := read(folder / "result.json"))["metrics"].items():
        values[f"{name}#{entry['n']}"] = values[name] = float(entry["value"])
        values.setdefault(name.split("@")[0] + "@", values[name])
    if log:
        values["min_per_epoch"] = np.median([row["timing"]["seconds"] for row in log]) / 60
        values["memory_mib"] = log[-1]["timing"]["memory_mib"]
    training = read(folder / "config.json")["training"] | dict(tested=result.get("images"))
    common = {key: training[key] for key in training if key not in ("seed", "teacher_weights")}
    return argparse.Namespace(name=re.sub(r"-s\d+$", "", folder.name), common=str(common),
                              folder=folder, training=training, log=log, values=values)

def is_base(base, run):
    """Whether base is the same training and test as run, without the added term."""
    a, b = base.training, run.training
    same = b.keys() - {"match", "alpha", "surrogate", "teacher_weights"}
    return (not a.get("match") and b.get("match") and all(a.get(key) == b[key] for key in same)
            and a.get("teacher_weights") in (None, b.get("teacher_weights")))

def table(title, head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return ["", f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)]

def spread(values, error=False):
    """Mean ± standard deviation, or error, as text; "" without values."""
    values = [value for value in values if value is not None]
    if len(values) < 2:
        return f"{values[0]:.4g}" if values else ""
    deviation = np.std(values, ddof=1) / (math.sqrt(len(values)) if error else 1)
    return f"{np.mean(values):.4g} ± {deviation:.2g}"

def paper_tables(runs):
    """Lines of the paper's tables: ours over seeds / the paper's."""
    script, printed, tables = Path(__file__).with_name("run_all.sh"), "", {}
    with contextlib.suppress(OSError):  # there may be no bash
        printed = subprocess.run(["bash", script, "--paper"], capture_output=True, text=True).stdout
    for row in printed.splitlines():
        number, name, column, metric, value = row.split("\t")
        ours = [run.values.get(f"{metric}@{column}", run.values.get(metric))
                for run in runs if run.name == name]
        cells = tables.setdefault(number, {}).setdefault(f"{name} {column}", {})
        cells[metric] = f"{spread(ours)} / {value}"
    for number, rows in tables.items():
        metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
        lines = [[name, *(row.get(metric, "") for metric in metrics)] for name, row in rows.items()]
        yield from table(f"Table {number}: ours / the paper's", ["run", *metrics], lines)

def runs_table(runs):
    """Lines: each run over seeds; its gain over its base at equal seeds, with standard error."""
    metrics, lines = ("clean", "fgsm", "pgd", "cw", "aa", "gd@", "gc@", "remainder"), []
    for key in sorted({(run.name, run.common) for run in runs}):
        group = [run for run in runs if (run.name, run.common) == key]
        pairs = {run.folder: (run.values, base.values) for run in group for base in runs
                 if is_base(base, run)}.values()  # of equal n and teacher:
        gains = [{m: a[n] - b[n] for m in metrics for n in reversed(a) if n in b and "#" in n
                  and n.startswith(m)} for a, b in pairs]
        for label, rows in ((key[0], [run.values for run in group]), ("gain", gains)):
            cells = [spread([row.get(m) for row in rows], label == "gain") for m in metrics]
            lines += [[label, str(len(rows)), *cells]] if rows else []
    return table("All runs", ["run", "seeds", *metrics], lines)

def curves(run):
    """Write curves.png: a run's log, epoch by epoch."""
    from matplotlib.figure import Figure
    metrics = [m for m in ("loss", "clean", "pgd10", "gd", "gc", "remainder") if m in run.log[0]]
    fig = Figure((3 * len(metrics), 3), layout="constrained")
    for ax, metric in zip(fig.subplots(1, len(metrics), squeeze=False)[0], metrics):
        ax.plot([row["epoch"] for row in run.log], [row.get(metric, math.nan) for row in run.log])
        ax.set(title=metric, xlabel="epoch")
    fig.savefig(run.folder / "curves.png")

def gradients(base, run):
    """Write gradients.png: input gradients of a teacher and two students, with cosines to it."""
    from matplotlib.figure import Figure
    b, r = (read(each.folder / "gradients.npz") for each in (base, run))
    t = next(r[key] for key in r if key.startswith("teacher@"))
    images = r["images"], t, b["student"], r["student"]
    fig = Figure((8, 6.5), layout="constrained")
    for (i, k), ax in np.ndenumerate(fig.subplots(min(3, len(t)), 4, squeeze=False)):
        name, image = ("image", "teacher", base.name, run.name)[k], images[k][i]
        cosine = (image * t[i]).sum() / (np.linalg.norm(image) * np.linalg.norm(t[i]) + 1e-30)
        shown = 0.5 + 0.5 * image / (np.percentile(abs(image), 99) + 1e-30) if k else image
        ax.imshow(shown.clip(0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title="" if i else name, xlabel=f"{cosine:.2f}" * (k > 1))
    fig.savefig(run.folder / "gradients.png")

def robustness(runs, path):
    """Draw AutoAttack of all runs, mean ± deviation over seeds."""
    from matplotlib.figure import Figure
    runs = [r for r in runs if "aa" in r.values and r.training.get("match") in (None, "igdm")]
    names = sorted({run.name for run in runs}, reverse=True)
    ax = Figure((8, 1 + len(names) / 5), layout="constrained").subplots()
    for name in names:
        values = [run.values["aa"] for run in runs if run.name == name]
        ax.errorbar([np.mean(values)], [name.split("+")[0]], fmt="C1o" if "+" in name else "C0o",
                    xerr=[np.std(values, ddof=len(values) > 1)])
    ax.set(xlabel="AutoAttack, %. Orange: IGDM")
    if names:
        ax.figure.savefig(path)

def report(root):
    """Print root's runs; write report.md with the paper's tables, pictures beside logs."""
    runs = []
    for path in sorted(root.glob("*/result.json")):
        with contextlib.suppress(Exception):  # not ours
            runs.append(read_run(path.parent))
    for run in runs:
        with contextlib.suppress(Exception):  # no log, no teacher
            curves(run)
            gradients(next(base for base in runs if is_base(base, run)), run)
    robustness(runs, root / "autoattack.png")
    print(*(lines := runs_table(runs)), sep="\n")
    (root / "report.md").write_text("\n".join([*lines, *paper_tables(runs), ""]), encoding="utf-8")
    print(f"\n{root / 'report.md'}: {len(runs)} runs")

# ------------------
# Command line

def number(low, high=math.inf, kind=lambda text: float(Fraction(text))):  # an argparse type
    def number(text):
        with contextlib.suppress(ArithmeticError):
            if low <= (value := kind(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {high}")
    return number

def make_parser():
    p = argparse.ArgumentParser("igdm.py", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    p.error = partial(refuse, True)  # one line, without the usage
    add, count, natural = p.add_argument, number(1, kind=int), number(0, kind=int)
    real, positive, radius = number(0, 1e30), number(1e-9, 1e30), number(1e-9, 1)
    add("--method", choices=METHODS, default="rslad", help="default rslad")
    term = p.add_mutually_exclusive_group()
    term.add_argument("--igdm", dest="match", action="store_const", const="igdm", help="add eq. 8")
    term.add_argument("--match", choices=MATCH, help="or an ablation")
    add("--surrogate", choices=("kl", "l1", "l2"), default="kl")
    add("--alpha", type=real, help="the term's weight in the last epoch (default B.2)")
    add("--inner", choices=("student",), help="attack the student alone, without T (table 6)")
    for name, method in METHODS.items():
        for constant, value in method.constants.items():
            add(f"--{name}-{constant}".replace("-lam", "-lambda"), dest=f"{name}.{constant}",
                type=number(0, 1) if constant == "begin" else real,
                default=argparse.SUPPRESS, metavar="X", help=f"default {value}")
    add("--dataset", help=f"{', '.join(DATASETS)} or an .npz (default cifar100)")
    add("--data-dir", type=Path, default=Path("data"))
    add("--limit-train", type=count, metavar="N", help="class-balanced subset")
    add("--limit-test", type=count, metavar="N")
    add("--augment", choices=("crop-flip", "crop", "none"), help="default crop-flip")
    add("--student", help="rn18, mnv2, parn18, wrn-D-W, wrn-D-W-silu, PACKAGE.MODULE:FUNCTION")
    add("--teacher", help="bdm, ltd, ltd2, ikl; pgd-at: trained first; a path; robustbench:NAME")
    add("--teacher-arch", help="of a path or pgd-at (default config.json's)")
    add("--teacher-epochs", type=count, help="of pgd-at (default by data set)")
    add("--epochs", type=count, help="default B.1; drops, begin scale")
    add("--drops", type=lambda text: [int(epoch) for epoch in text.split(",") if epoch],
        help="epochs after which lr falls, as in 100,150 (default B.1)")
    add("--batch", type=number(2, kind=int), help="default 128")
    add("--lr", type=positive, help="default 0.1")
    add("--weight-decay", type=real, help="default 5e-4")
    add("--eps", type=radius, help="L-inf (default 8/255)")
    add("--step-size", type=radius, help="of PGD and C&W (default eps/4)")
    add("--steps", type=natural, default=10, help="of PGD in training (default 10)")
    add("--seed", type=number(0, 2**63 - 1, int), default=0)
    add("--attacks", default=",".join(ATTACKS), help=f"default {','.join(ATTACKS)}")
    add("--aa-n", type=count, metavar="N", help="images for AutoAttack (default all)")
    add("--probe", type=natural, metavar="N", help="images measured each epoch")
    add("--eval-batch", type=count, default=128, metavar="N", help="default 128")
    add("--eval-only", metavar="CKPT", help="measure a checkpoint")
    add("--report", type=Path, metavar="DIR", help="write DIR/report.md")
    add("--benchmark", type=count, metavar="N", help="time N training steps")
    add("--out", type=Path, help="default runs/NAME")
    add("--precision", choices=("fp32", "tf32", "bf16"), help="of training")
    add("--compile", action=argparse.BooleanOptionalAction, help="default as bf16")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=number(1, 1024, int), help="on the CPU")
    return p

def resolve(argv):
    """Flags to settings; what is not given follows the paper. Raises UserError for nonsense."""
    p = make_parser()
    typed = p.parse_args(argv)
    saved = config_beside(typed.eval_only)  # a checkpoint's own run says what is not given
    saved = {key: saved[key] for key in ("method", "dataset", "student", "inner") if key in saved}
    dataset = typed.dataset or saved.get("dataset", "cifar100")
    refuse(not dataset.endswith(".npz") and dataset not in DATASETS,
           f"--dataset {dataset}: not one of {', '.join(DATASETS)}, nor the path of an .npz")
    p.set_defaults(**DATASETS.get(dataset, Dataset())._asdict() | saved | dict(dataset=dataset))
    cfg = p.parse_args(argv)
    cfg.teacher_flags = dict(epochs=typed.teacher_epochs, batch=typed.batch, eps=typed.eps,
                             augment=typed.augment) | {"limit-train": typed.limit_train}
    refuse(cfg.method not in METHODS, f"{cfg.eval_only} is of an unknown method: {cfg.method}")
    given = {key: vars(cfg).pop(key) for key in list(vars(cfg)) if "." in key}
    constants = METHODS[cfg.method].constants.items()
    cfg.constants = {key: given.pop(f"{cfg.method}.{key}", value) for key, value in constants}
    refuse(given, f"{', '.join(given)}: not of --method {cfg.method}")
    cfg.attacks = cfg.attacks.replace(" ", "").split(",")
    refuse(set(cfg.attacks) - set(ATTACKS), f"--attacks: choose from {','.join(ATTACKS)}")
    cfg.step_size = cfg.step_size or cfg.eps / 4
    epochs, drops = RSLAD.get((cfg.method, dataset), cfg.schedule)
    cfg.epochs = cfg.epochs or epochs
    if cfg.drops is None:
        cfg.drops = [math.ceil(drop * cfg.epochs / epochs) for drop in drops]
    refuse(not cfg.match and cfg.alpha is not None or cfg.match != "igdm" and cfg.surrogate != "kl",
           "--alpha and --surrogate are of the term that --igdm or --match adds")
    # teachers: all are measured against; one is learnt from, where the method or the term does
    needed = not cfg.eval_only and (METHODS[cfg.method].teacher or cfg.match in ("igdm", "direct"))
    named = cfg.teacher or (cfg.default_teacher if needed else None)
    refuse(needed and not named, f"{dataset} has no teacher to fetch: give the --teacher PATH of "
           "one (the paper has RiFT's wrn-34-10), or pgd-at")
    cfg.teachers = [named] if Path(named or "").is_file() else named.split(",") if named else []
    cfg.teacher = named if needed else None
    refuse(needed and len(cfg.teachers) > 1, f"{cfg.method} learns from one teacher, not {named}")
    if cfg.alpha is None and cfg.match and not cfg.eval_only:
        key, method = (dataset, cfg.student, cfg.teacher), cfg.method.replace("adaiad", "adaad")
        refuse(cfg.match != "igdm" or key not in ALPHA or method not in ALPHA_METHODS,
               f"B.2 has no alpha of {method} + {cfg.match} for {key}: give --alpha")
        cfg.alpha = ALPHA[key][ALPHA_METHODS.index(method)]
    cfg.alpha = cfg.alpha or 0.0
    label = cfg.method + (f"+{cfg.match}" if cfg.match else "")
    words = ["eval", cfg.eval_only] if cfg.eval_only else [cfg.student, cfg.teacher, label]
    name = "-".join(filter(None, [Path(dataset).stem, *words, f"s{cfg.seed}"]))
    cfg.out = cfg.out or Path("runs") / re.sub(r"[^\w.+-]+", "_", name)[:200]
    resolve_device(cfg)
    return cfg

def resolve_device(cfg):
    """Device, precision, compilation; no bf16 for others' networks."""
    cfg.device = "cuda:0" if cfg.device == "cuda" else cfg.device
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    refuse(cfg.device not in devices, f"--device {cfg.device}: there is {', '.join(devices)}")
    ampere = cfg.device != "cpu" and torch.cuda.get_device_capability(cfg.device) >= (8, 0)
    arch = cfg.teacher_arch or config_beside(cfg.teacher).get("student")
    foreign = any(re.match(r"[\w.]{2,}:", name or "") for name in (cfg.student, cfg.teacher, arch))
    cfg.precision = cfg.precision or ("fp32" if not ampere else "tf32" if foreign else "bf16")
    if cfg.compile is None:
        cfg.compile = ampere and not foreign and cfg.match != "direct"
    refuse(cfg.compile and cfg.match == "direct", "--compile has no second derivatives")
    cfg.graphs = cfg.device != "cpu" and cfg.compile and not foreign  # others may need the CPU

def build_network(arch, cfg):
    if arch.startswith("robustbench:"):
        model = models.from_robustbench(arch.split(":")[1], cfg.dataset, cfg.data_dir)
    else:
        model = models.build(arch, cfg.classes, cfg.channels, cfg.dataset)
    layout = dict(memory_format=torch.channels_last) if isinstance(model, models.Net) else {}
    return model.to(cfg.device, **layout)

def load_network(source, arch, cfg):
    """A frozen network in eval mode: a teacher, or a checkpoint of arch; pgd-at is untrained."""
    known, path = [name for dataset, name in TEACHERS if dataset == cfg.dataset], Path(source)
    if source in known:
        arch, drive_id, _ = TEACHERS[cfg.dataset, source]
        urls = [DM % cfg.dataset] * (source == "bdm") + [DRIVE + drive_id]
        path = models.fetch(urls, cfg.data_dir / f"{cfg.dataset}-{source}.pt")
    elif source == "pgd-at" or source.startswith("robustbench:"):
        arch = cfg.teacher_arch if source == "pgd-at" else source
    arch = arch or config_beside(source).get("student") or cfg.default_arch
    refuse(not (path.is_file() or source == "pgd-at" or source.startswith("robustbench:")),
           f"{source}: no such file, nor {', '.join([*known, 'pgd-at'])} or robustbench:NAME")
    model = build_network(arch, cfg)
    if path.is_file():
        model = models.load_state(model, path, arch).to(cfg.device)
    return model.eval().requires_grad_(False)

def introduce(name, T, data, cfg):
    batches, known = pick_test(data, 500, cfg), TEACHERS.get((cfg.dataset, name), [None])[-1]
    right = measured(partial(accuracy, "clean"), "clean", T, None, data, batches, cfg)["clean"]
    clean = 100 * right.double().mean().item()
    print(f"teacher {name}: {clean:.1f} % of {len(right)} clean test images", flush=True)
    if clean < 150 / data.classes or known and abs(clean - known) > 10:
        warn(f"{name} is far from table 1's {known}" if known else f"{name} is near chance")

def pgd_at_teacher(cfg, images):
    """The checkpoint of a run of PGD-AT beside cfg.out, which is made first."""
    arch = cfg.teacher_arch or cfg.default_arch
    flags = {name: value for name, value in cfg.teacher_flags.items() if value is not None}
    words = ["teacher", Path(cfg.dataset).stem, arch, *(f"{k}{v}" for k, v in flags.items())]
    out = cfg.out.parent / "-".join(words).replace(":", "_")
    if config_beside(out / "student.pt").get("images") != images:
        flags |= {"method": "pgd-at", "student": arch, "dataset": cfg.dataset, "out": out,
                  "data-dir": cfg.data_dir, "device": cfg.device, "precision": cfg.precision}
        argv = [f"--{name}={value}" for name, value in flags.items()] + ["--attacks=clean,pgd"]
        argv.append("--compile" if cfg.compile else "--no-compile")
        print("a teacher first: python igdm.py", *argv, flush=True)
        run(argv, wait=True)
    return out / "student.pt"

def set_backends(precision, fixed_shapes):
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False  # of a last layer
    torch.backends.cudnn.benchmark = fixed_shapes

TRAINING = (  # what makes a training; images, teacher's weights, threads are added
    "method", "match", "surrogate", "alpha", "inner", "constants", "dataset", "limit_train",
    "augment", "student", "epochs", "drops", "batch", "lr", "weight_decay", "eps", "step_size",
    "steps", "seed", "precision", "compile")

def check_folder(cfg, training):
    before = config_beside(cfg.out / "config.json")
    if cfg.eval_only:
        other = before and Path(cfg.eval_only).resolve().parent != cfg.out.resolve()
        return refuse(other, f"{cfg.out} holds a training: give another --out")
    left = any((cfg.out / name).exists() for name in ("config.json", "last.pt", "student.pt"))
    refuse(left and not before, f"{cfg.out} holds another run: give another --out")
    free = ["dataset"]  # its file may move: the images are compared
    free += ["threads", "precision", "compile"] * (cfg.out / "student.pt").exists()
    now = {key: value for key, value in training.items() if before and key not in free}
    refuse_other(cfg.out, "settings", before, now)

def run(argv, wait=False):
    """One command: data, networks, a rehearsal, training, evaluation."""
    cfg = resolve(argv)
    if cfg.report:
        return report(cfg.report)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    if cfg.device != "cpu":
        torch.cuda.set_device(cfg.device)
    data = load_data(cfg.dataset, cfg.data_dir, cfg.limit_train, cfg.limit_test, cfg.device)
    images, n = fingerprint(dict(x=data.x_train, y=data.y_train)), len(data.y_train)
    refuse(cfg.batch > n and not cfg.eval_only, f"--batch {cfg.batch}: there are {n} images")
    cfg.probe = min(n // 100 if cfg.probe is None else cfg.probe, len(data.y_test))
    cfg.classes, cfg.channels = data.classes, data.x_train.shape[1]
    torch.backends.mha.set_fastpath_enabled(False)  # it has no forward mode, which remainder needs
    torch.manual_seed(cfg.seed)  # of the first weights: directly before them
    S = (load_network(cfg.eval_only, cfg.student, cfg) if cfg.eval_only else
         build_network(cfg.student, cfg))
    teachers = {name: load_network(name, cfg.teacher_arch, cfg) for name in cfg.teachers}
    T = teachers.get(cfg.teacher)
    rehearse(S, teachers, data, cfg)
    if cfg.graphs:
        __import__("torch._dynamo")  # not later: its garbage would keep a graph's memory
        torch.cuda.synchronize()
        torch.cuda.set_stream(torch.cuda.Stream())  # captured() wants a stream of its own
    if cfg.benchmark and not cfg.eval_only:
        return print(json.dumps(benchmark(S, T, data, cfg), indent=1))
    training = {name: getattr(cfg, name) for name in TRAINING} | dict(images=images)
    training["threads"] = torch.get_num_threads() if cfg.device == "cpu" else None
    cfg.out.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(cfg.out / ".lock", timeout=-1 if wait else 0):
        check_folder(cfg, training)
        for name, model in (cfg.eval_only, S), *teachers.items():
            if name == "pgd-at":
                models.load_state(model, pgd_at_teacher(cfg, images), cfg.teacher_arch)
        for name, teacher in teachers.items():
            introduce(name, teacher, data, cfg)
        print(cfg.out, flush=True)
        if T is not None:
            training["teacher_weights"] = fingerprint(T.state_dict())[:16]
            check_folder(cfg, training)
        student, config = cfg.out / "student.pt", cfg.out / "config.json"
        if not (config if cfg.eval_only else student).exists():
            write(config, dict(training={} if cfg.eval_only else training, settings=vars(cfg),
                               environment=environment(cfg)))
        if not cfg.eval_only and student.exists():
            models.load_state(S, student, cfg.student)
        elif not cfg.eval_only:
            train(S, T, data, cfg)
            write(student, models.weights(S))
        result = evaluate(S, teachers, data, cfg)
    for name, entry in result["metrics"].items():
        print(f"  {name:40} {entry['value']:10.4g}   n = {entry['n']}")
    for flag in result.get("flags", ()):
        warn(f"AutoAttack: {flag}")

def main(argv=None):
    """Run one command. Returns 0, 2 (a user can mend it: one line), 75 (busy) or 130 (Ctrl-C)."""
    try:
        run(sys.argv[1:] if argv is None else argv)
        return 0
    except KeyboardInterrupt:
        code, message = 130, "interrupted; the same command goes on from the last epoch"
    except filelock.Timeout as error:  # an OSError, so before these
        code, message = 75, f"another process works here: {error.lock_file}"
    except (models.UserError, OSError) as error:
        code, message = 2, f"error: {models.one_line(error)}"
    except (RuntimeError, MemoryError) as error:
        compiler = isinstance(error, torch._dynamo.exc.TorchDynamoException)
        if not compiler and not models.out_of_memory(error):
            raise
        advice = "--no-compile" if compiler else "smaller --batch in training, else --eval-batch"
        code, message = 2, f"error: try {advice}: {models.one_line(error)}"
    print(f"igdm.py: {message}", file=sys.stderr)
    return code

if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for ASCII terminals
    sys.exit(main())
