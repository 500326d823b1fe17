"""Tests of igdm.py, models.py and run_all.sh, offline. Each says which bug it would catch."""
import contextlib
import copy
import http.server
import itertools
import json
import logging
import math
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn
import torch.nn.functional as F

import igdm
import models
from models import UserError

HERE = Path(__file__).resolve().parent
torch.set_num_threads(1)        # on networks so small, a second thread gains little
TINY = dict(    # a run of seconds
    method="rslad", match="igdm", alpha=2, dataset="digits", student="wrn-10-1", teacher="pgd-at",
    teacher_arch="wrn-10-1", teacher_epochs=1, limit_train=128, limit_test=40, batch=32, steps=2,
    epochs=2, probe=20, attacks="clean,pgd", eps="20/255", augment="crop-flip", device="cpu",
    threads=1)
ALONE = dict(method="pgd-at", match=None, alpha=None, teacher=None, epochs=1, steps=1, probe=0,
             attacks="clean")

def argv(**flags):
    """eps="8/255" gives --eps=8/255, no_compile=True --no-compile; what is None is left out."""
    return [f"--{key.replace('_', '-')}" + f"={value}" * (value is not True)
            for key, value in flags.items() if value is not None]

def run(out, **flags):
    """The exit code of a command: TINY, but for the flags given."""
    return igdm.main(argv(**TINY | dict(out=out) | flags))

def result(out):
    """Metrics of a run."""
    return igdm.read(Path(out, "result.json"))["metrics"]

def log(out):
    """Rows of a run's log, but for what is timed."""
    rows = igdm.read(Path(out, "log.jsonl"))
    return [{key: value for key, value in row.items() if key != "timing"} for row in rows]

def same(a, b):
    """Whether two runs have the same weights, log and results, to the bit."""
    hashes = {igdm.fingerprint(torch.load(Path(out, "student.pt"))) for out in (a, b)}
    return len(hashes) == 1 and log(a) == log(b) and result(a) == result(b)

@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test works in an empty folder, and may change sys.path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with one small run of rslad + igdm, and its teacher."""
    with contextlib.chdir(tmp_path_factory.mktemp("trained")):
        assert run("runs/a") == 0
        return Path.cwd()

@pytest.fixture
def whole(trained, monkeypatch):
    """In that folder."""
    monkeypatch.chdir(trained)

# ---- Slow second ways to say what igdm.py says, in float64, per image ----------------------------
def p(z):
    return z.exp() / z.exp().sum(1, keepdim=True)
def div(s, t):
    return (p(t) * (p(t) / p(s)).log()).sum(1)
def true(z, y):
    return torch.stack([row[label] for row, label in zip(z, y)])
def ce(s, y):
    return -true(p(s), y).log()
def introspect(o):
    return (1 - true(p(o.t_adv), o.y) ** 0.1) * div(o.s_adv, o.s_clean)
def norm(z):
    return (z ** 2).sum(1).sqrt()
def close(ours, theirs, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)

def random_outputs(done=0.0, n=5, classes=4):
    """What a loss may read: logits of every kind, labels."""
    z = torch.randn(6, n, classes, dtype=torch.float64, generator=igdm.generator("cpu", 0))
    names = "s_adv", "s_clean", "s_minus", "t_adv", "t_clean", "t_minus"
    return SimpleNamespace(**{name: one.requires_grad_() for name, one in zip(names, z)},
                           y=torch.arange(n) % classes, done=done)

def shaken(model):
    """Batch norms far from the identity, so that a forgotten or misplaced one shows."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.2, 0.2),
                                    ("running_mean", -0.2, 0.2), ("running_var", 0.5, 2)):
                nn.init.uniform_(getattr(module, name), low, high)
    return model

def net(seed=0, bn=False):
    """A small smooth network for 1x8x8 images, 3 classes."""
    torch.manual_seed(seed)
    return shaken(nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4) if bn else nn.Identity(), nn.Tanh(),
        nn.Flatten(), nn.Linear(36, 3))).double()

WEIGHTS = torch.randn(2, 3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
def linear(weight):
    """f(x) = W x + b."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    model[1].weight.data = weight
    return model

def batch(n=4):
    """Images, of which the first is black and the second white, and labels."""
    x = torch.rand(n, 1, 8, 8, dtype=torch.float64, generator=igdm.generator("cpu", 0))
    x[0], x[1] = 0, 1
    return x, torch.arange(n) % 3

def noise_images(n=20, channels=1, classes=3):
    """n images 8x8 of noise to train, the first 12 of them to test, as igdm.Data."""
    x = torch.randint(256, (n, channels, 8, 8), dtype=torch.uint8,
                      generator=igdm.generator("cpu", 0))
    y = torch.arange(n) % classes
    return igdm.Data(x, y, x[:12], y[:12], classes)

def settings(flags):
    fixed = "--dataset cifar10 --epochs 10 --device cpu --method"
    return igdm.resolve([*fixed.split(), *flags.split()])

def step(flags, S, T, epoch=1):
    """train_step on batch(): (L_base, T(alpha) L_match), and the images of S's and T's passes."""
    cfg, (x, y), seen = settings(flags), batch(), ([], [])
    sums, frozen = torch.zeros(2, dtype=torch.float64), copy.deepcopy(S).eval()
    for model, images in zip((S.train(), T.eval()), seen):
        model.register_forward_pre_hook(
            lambda _, args, images=images: images.append(args[0].detach().clone()))
    noise = igdm.start_noise(igdm.inner_maximisation(cfg)[1], x, cfg.eps, igdm.generator("cpu", 0))
    networks, optimizer = (S, frozen, T, lambda: None), torch.optim.SGD(S.parameters(), 0.0)
    igdm.train_step(networks, optimizer, cfg, epoch, sums, x, y, noise)
    return sums, *seen

# ---- Losses --------------------------------------------------------------------------------------
LOSSES = [      # flags, finished fraction of the epochs, the loss of each image
    ("pgd-at", 0.0, lambda o: ce(o.s_adv, o.y)),
    ("trades", 0.0, lambda o: ce(o.s_clean, o.y) + 6 * div(o.s_adv, o.s_clean)),
    ("ard", 0.0, lambda o: div(o.s_adv, o.t_clean)),
    ("ard --ard-a 0.25 --ard-t 3", 0.0,
     lambda o: 9 * div(o.s_adv / 3, o.t_clean / 3) / 4 + ce(o.s_clean, o.y) * 3 / 4),
    ("iad", 0.29, lambda o: div(o.s_adv, o.t_clean)),
    ("iad", 0.3, lambda o: div(o.s_adv, o.t_clean) + introspect(o)),
    ("akd", 0.0, lambda o: -((p(o.t_adv) + torch.eye(4)[o.y]) / 2 * p(o.s_adv).log()).sum(1)),
    ("akd --akd-lambda 0.75", 0.0,
     lambda o: -((3 * p(o.t_adv) + torch.eye(4)[o.y]) / 4 * p(o.s_adv).log()).sum(1)),
    ("rslad", 0.0, lambda o: (5 * div(o.s_adv, o.t_clean) + div(o.s_clean, o.t_clean)) / 60),
    ("adaad", 0.0, lambda o: div(o.s_adv, o.t_adv)),
    ("adaad --adaad-lambda 0.25", 0.0,
     lambda o: div(o.s_adv, o.t_adv) / 4 + div(o.s_clean, o.t_clean) * 3 / 4),
    ("adaiad", 0.29, lambda o: div(o.s_adv, o.t_adv)),
    ("adaiad --adaiad-t 3", 0.3, lambda o: 9 * div(o.s_adv / 3, o.t_adv / 3) + introspect(o))]
@pytest.mark.parametrize("flags, done, formula", LOSSES)
def test_base_loss(flags, done, formula):
    """A wrong coefficient, target, reduction or temperature; gradient lost on the way to S(x)."""
    o = random_outputs(done)
    (base, match), expected = igdm.losses(o, settings(flags), 1), formula(o).mean()
    close((base, match.item()), (expected, 0.0))
    outputs = o.s_adv, o.s_clean, o.s_minus
    for ours, theirs in zip(*(torch.autograd.grad(value, outputs, materialize_grads=True)
                              for value in (base, expected))):
        close(ours, theirs)

def test_kl_underflow():
    """NaN in the target's gradient where its softmax underflows: a NaN image in adaad's attack."""
    s = torch.zeros(1, 3, requires_grad=True)
    t = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    value = igdm.kl(s, t)
    close(value.item(), np.log(3), rtol=1e-6)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (s, t)))

SURROGATES = {"kl": div, "l1": lambda s, t: (s - t).abs().sum(1), "l2": lambda s, t: norm(s - t)}
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_igdm_of_linear_models(surrogate):
    """Eq. 8: a swapped sign or pair, a missing factor 2, S and T exchanged, x - delta clamped."""
    (W, V), (x, _) = WEIGHTS, batch()
    flags = f"pgd-at --igdm --alpha 10 --surrogate {surrogate}"     # epoch 1 of 10: T(alpha) is 1
    (_, match), (x_adv, _, x_minus), t_seen = step(flags, linear(W), linear(V))
    delta = (x_adv - x).flatten(1)
    close(match, SURROGATES[surrogate](2 * delta @ W.T, 2 * delta @ V.T).mean())
    close(torch.stack(t_seen), torch.stack([x_adv, 2 * x - x_adv]))
    close(x_minus, 2 * x - x_adv)
    assert x_minus.min() < -0.03 and x_minus.max() > 1.03 and x_adv.min() >= 0 and x_adv.max() <= 1

@pytest.mark.parametrize("match, formula", [
    ("igdm", lambda o: div(o.s_adv - o.s_minus, o.t_adv - o.t_minus)),
    ("trades-reg", lambda o: div(o.s_adv, o.s_clean)),
    ("trades-like", lambda o: div(o.s_adv, o.s_minus))])
def test_added_term(match, formula):
    """A wrong term of table 16; T(alpha), B.2, that starts at 0, ends early or steps too late."""
    o, cfg = random_outputs(), settings(f"pgd-at --epochs 300 --alpha 4 --match {match}")
    for epoch, weight in ((1, 4 / 300), (150, 2), (300, 4)):
        base, added = igdm.losses(o, cfg, epoch)
        close(base, ce(o.s_adv, o.y).mean())
        close(added, weight * formula(o).mean())

def test_direct_matching():
    """Eq. 11: no gradient, for want of a double backward; another distance; one model twice."""
    S, T, (x, y), distance = net(1), net(2), batch(), 0
    (_, ours), (x_adv, *_), _ = step("pgd-at --match direct --alpha 10", S, T)
    for image, label in zip(x.split(1), y.split(1)):
        image = image.clone().requires_grad_()
        s, t = (torch.autograd.grad(ce(f(image), label).sum(), image, create_graph=True)[0]
                for f in (S, T))
        distance = distance + ((s - t) ** 2).sum() / len(x)
    close(ours, distance.detach())
    params = list(S.parameters())
    loss = ce(S(x_adv), y).mean() + distance
    for w, theirs in zip(params, torch.autograd.grad(loss, params)):
        close(w.grad, theirs)

@pytest.mark.parametrize("flags", ["adaad --igdm", "iad", "ard --match direct --alpha 1"])
def test_no_gradient_reaches_the_teacher(flags):
    """A teacher that learns, or pays for gradients of its weights."""
    T, z = net(2), random_outputs()
    step(flags, net(1), T, epoch=10)
    assert all(w.grad is None for w in T.parameters())
    o = igdm.Step(net(1), T, *batch())
    o.x_adv = o.x
    assert not (o.t_clean.requires_grad or o.t_adv.requires_grad or o.t_minus.requires_grad)
    igdm.igdm_loss(z.s_adv, z.s_minus, z.t_adv, z.t_minus).backward()
    assert z.t_adv.grad is z.t_minus.grad is None and z.s_adv.grad.abs().max() > 0.01

# ---- Settings ------------------------------------------------------------------------------------
SETTINGS = [    # command, settings
    ("--method rslad --igdm --student mnv2", dict(
        dataset="cifar100", teacher="bdm", alpha=4, epochs=300, drops=[215, 260, 285], batch=128,
        lr=0.1, weight_decay=5e-4, eps=8 / 255, step_size=2 / 255, steps=10, surrogate="kl",
        inner=None, augment="crop-flip", cw_restarts=10, aa_n=None, seed=0)),
    ("--method ard --igdm --student mnv2", dict(epochs=200, drops=[100, 150], alpha=70)),
    ("--dataset cifar10 --igdm", dict(epochs=300, alpha=0.9, student="rn18")),
    ("--dataset digits --igdm", dict(alpha=1, student="mnv2", aa_n=100, cw_restarts=2)),
    ("--dataset svhn --igdm", dict(epochs=50, drops=[40, 45], teacher="pgd-at", alpha=3)),
    ("--dataset tiny-imagenet --method trades", dict(
        epochs=100, drops=[50, 80], student="parn18", teacher=None, cw_restarts=10)),
    ("--epochs 30", dict(drops=[22, 26, 29], alpha=0)),
    ("--epochs 30 --drops 5,7 --igdm --alpha 2", dict(drops=[5, 7], alpha=2)),
    ("--method adaiad --igdm", dict(alpha=70)), ("--method pgd-at", dict(teacher=None)),
    ("--method pgd-at --igdm", dict(alpha=220, teacher="bdm")),
    ("--eps 4/255 --lr 1/4 --weight-decay 2e-4", dict(
        eps=4 / 255, step_size=1 / 255, lr=0.25, weight_decay=2e-4))]
@pytest.mark.parametrize("command, expected", SETTINGS)
def test_settings(command, expected):
    """A default that is not the paper's; a flag without effect."""
    cfg = vars(igdm.resolve([*command.split(), "--device", "cpu"]))
    assert {name: cfg[name] for name in expected} == expected

def test_alpha_table():
    """A digit of B.2 mistyped: every row and every column is summed."""
    rows = [row for key, row in igdm.ALPHA.items() if key[0] != "digits"]
    assert [sum(row) for row in rows] == pytest.approx(
        [480, 355, 243, 374, 363, 303, 150.9, 151, 147.9, 124.2, 134.9, 156.5, 202, 101])
    assert [sum(column) for column in zip(*rows)] == pytest.approx(
        [1340, 149.7, 572, 560, 302, 48.7, 314])

@pytest.mark.parametrize("method", ["iad", "adaiad"])
@pytest.mark.parametrize("epochs, begin, last", [(200, 0.3, 60), (50, 0.3, 15), (10, 0.5, 5)])
def test_begin(method, epochs, begin, last, monkeypatch):
    """The introspection term an epoch early or late, or not in proportion to --epochs."""
    monkeypatch.setattr(igdm, "introspection", lambda o, b: 1e3 * o.s_clean.sum() ** 0)
    flags = f"{method} --epochs {epochs} --{method}-begin {begin} --steps 1"
    base = [step(flags, net(1), net(2), epoch)[0][0] for epoch in (last, last + 1)]
    assert base[0] < 500 < base[1]

@pytest.mark.parametrize("command, precision, compiled", [
    ("ard --teacher bdm", "bf16", True), ("ard --match direct --alpha 1", "bf16", False),
    ("pgd-at --student toy:net", "tf32", False), ("ard --teacher robustbench:X", "tf32", False)])
def test_precision_on_a_gpu(monkeypatch, command, precision, compiled):
    """bf16 in the last layer of a network of others, or emulated by an old GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for capability, expected in (((9, 0), (precision, compiled)), ((7, 5), ("fp32", False))):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)  # noqa: B023
        cfg = igdm.resolve(["--device=cuda", "--method", *command.split()])
        assert (cfg.precision, cfg.compile) == expected and cfg.graphs == cfg.compile

# ---- Attacks -------------------------------------------------------------------------------------
INNER = {       # start, and the objective of each image at a, S in eval mode
    **dict.fromkeys(("pgd-at", "ard", "iad", "akd", "rslad --inner student",
                     "adaad --inner student"), ("uniform", lambda S, T, x, y, a: ce(S(a), y))),
    "trades": ("gaussian", lambda S, T, x, y, a: div(S(a), S(x))),
    "rslad": ("gaussian", lambda S, T, x, y, a: div(S(a), T(x))),
    "adaad": ("gaussian", lambda S, T, x, y, a: div(S(a), T(a))),
    "adaiad": ("gaussian", lambda S, T, x, y, a: div(S(a), T(a)))}
@pytest.mark.parametrize("flags", INNER)
def test_attack(flags):
    """Eq. 14-17: another objective, target, start, projection or mode; --inner ignored."""
    S, T, (x, y) = net(1, bn=True), net(2, bn=True).eval(), batch()
    (start, objective), eps, g = INNER[flags], 8 / 255, igdm.generator("cpu", 0)
    noise, frozen = torch.empty_like(x), copy.deepcopy(S).eval()
    a = x + (noise.uniform_(-eps, eps, generator=g) if start == "uniform" else
             0.001 * noise.normal_(generator=g))
    for _ in range(10):
        a = a.detach().clip(0, 1).requires_grad_()
        objective(frozen, T, x, y, a).sum().backward(inputs=[a])
        a = x + (a + 2 / 255 * a.grad.sign() - x).clip(-eps, eps)
    close(step(flags, S, T)[1][0], a.detach().clip(0, 1))

def test_pgd():
    """Images that leave the ball or [0, 1]; descent; a generator unused; a result with gradient."""
    S, (x, y), eps = net(), batch(8), 8 / 255
    a, b, c = (igdm.pgd(S, x, lambda a: ce(S(a), y).sum(), g=igdm.generator("cpu", key))
               for key in (0, 0, 1))
    assert a.min() >= 0 and a.max() <= 1 and eps - 1e-9 < (a - x).abs().max() < eps + 1e-9
    assert (ce(S(a), y) > ce(S(x), y)).all() and not a.requires_grad
    assert torch.equal(a, b) and not torch.equal(a, c)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):     # normalised images, the usual mistake
        igdm.pgd(nn.Flatten(), torch.randn(2, 1, 8, 8), torch.sum)

def test_one_step():
    """FGSM: a wrong step, sign or start; eps in place of the step."""
    S, (x, y) = net(), batch()
    a = x.clone().requires_grad_()
    ce(S(a), y).sum().backward(inputs=[a])
    close(igdm.pgd(S, x, lambda a: ce(S(a), y).sum(), 8 / 255, 4 / 255, 1, None),
          (x + 4 / 255 * a.grad.sign()).clip(0, 1))

def test_attacks_leave_the_model_alone():
    """Statistics moved, gradient left on weights, another mode after, or after an error."""
    S, (x, y) = net(bn=True).append(nn.BatchNorm1d(3).double()).train(), batch()
    before, modes = igdm.fingerprint(S.state_dict()), [part is not S[-1] for part in S.modules()]
    S[-1].eval()
    with torch.no_grad():
        igdm.pgd(S, x, lambda a: ce(S(a), y).sum())
        igdm.cw(S, x, y, 0.1, 0.02, 2, 2)
    with pytest.raises(ZeroDivisionError):
        igdm.pgd(S, x, lambda a: 1 / 0)
    assert [part.training for part in S.modules()] == modes
    assert igdm.fingerprint(S.state_dict()) == before
    assert all(w.grad is None and w.requires_grad for w in S.parameters())

def test_cw():
    """Another margin; images moved once they are wrong; another restart kept than the worst."""
    S, (x, _), eps, size, g = net(3), batch(12), 0.1, 0.03, igdm.generator("cpu", 0)
    y = S(x).argmax(1)
    y[::4] = (y[::4] + 1) % 3                                   # wrong from the start
    ends = [(x + torch.empty_like(x).uniform_(-eps, eps, generator=g)).clip(0, 1) for _ in range(3)]
    for a, _, i in itertools.product(ends, range(5), range(len(x))):
        image = a[i:i + 1].clone().requires_grad_()
        z = S(image)[0]
        if z.argmax() == y[i]:
            (max(z[j] for j in range(3) if j != y[i]) - z[y[i]]).backward(inputs=[image])
            moved = a[i] + size * image.grad[0].sign()
            a[i] = (x[i] + (moved - x[i]).clip(-eps, eps)).clip(0, 1)
    best = torch.stack([ce(S(a), y) for a in ends]).argmax(0).tolist()
    assert {*best} == {0, 1, 2}
    close(igdm.cw(S, x, y, eps, size, 5, 3, igdm.generator("cpu", 0)),
          torch.stack([ends[k][i] for i, k in enumerate(best)]))

# ---- A training step, and the loop ---------------------------------------------------------------
@pytest.mark.parametrize("flags, passes", [("rslad --igdm", 3), ("ard --igdm", 3), ("ard", 2)])
def test_passes_and_batch_norm(flags, passes):
    """Student passes in one batch, in another order, in eval mode or twice: other statistics."""
    S, T, (x, _) = net(1, bn=True), net(2, bn=True), batch()
    twin, teacher = copy.deepcopy(S).train(), copy.deepcopy(T)
    x_adv = step(flags, S, T)[1][0]
    for image in (x_adv, x, 2 * x - x_adv)[:passes]:
        twin(image)
    close([*S.buffers()], [*twin.buffers()])
    close([*T.buffers()], [*teacher.buffers()])

def test_train_is_the_plain_loop(tmp_path, monkeypatch):
    """A setting, order, start or pass that is not as said; stale weights; a partial batch."""
    cfg = igdm.resolve(argv(
        method="rslad", igdm=True, alpha=20, teacher="pgd-at", dataset="digits", epochs=3, drops=2,
        student="wrn-10-1", batch=8, lr=0.05, weight_decay=0.01, eps="12/255", step_size="5/255",
        steps=2, seed=3, augment="crop-flip", probe=0, device="cpu", out=tmp_path))
    monkeypatch.setattr(igdm, "to_float", lambda x: x.double() / 255)
    data = noise_images()
    S, T = (shaken(models.build("wrn-10-1", 3, 1)).double() for _ in range(2))
    twin, T, speed = copy.deepcopy(S).train(), T.eval(), [0] * 99
    igdm.train(S, T, data, cfg)
    for epoch, lr in ((1, 0.05), (2, 0.05), (3, 0.005)):
        order, logged = torch.randperm(20, generator=igdm.generator("cpu", 3, epoch)), []
        for i in range(2):                                      # the last 4 of the 20 are dropped
            index, g = order[8 * i:8 * i + 8], igdm.generator("cpu", 3, epoch, i)
            x = igdm.augment(data.x_train[index], "crop-flip", g).double() / 255
            noise, frozen = torch.empty_like(x).normal_(generator=g), copy.deepcopy(twin).eval()
            a = x + 0.001 * noise
            for _ in range(2):
                a = a.clip(0, 1).detach().requires_grad_()
                gradient, = torch.autograd.grad(div(frozen(a), T(x)).mean(), a)
                a = x + (a + 5 / 255 * gradient.sign() - x).clip(-12 / 255, 12 / 255)
            a = a.detach().clip(0, 1)
            plus, clean, minus = twin(a), twin(x), twin(2 * x - a)
            t_plus, t_clean, t_minus = (T(z).detach() for z in (a, x, 2 * x - a))
            base = (5 * div(plus, t_clean) + div(clean, t_clean)).mean() / 60
            match = 20 * epoch / 3 * div(plus - minus, t_plus - t_minus).mean()
            logged.append((base.item(), match.item()))
            params = list(twin.parameters())
            for j, (w, d) in enumerate(zip(params, torch.autograd.grad(base + match, params))):
                speed[j] = 0.9 * speed[j] + d + 0.01 * w.detach()
                w.data -= lr * speed[j]
        row, means = log(tmp_path)[epoch - 1], np.mean(logged, 0).tolist()
        assert [row["loss_base"], row["loss_match"], row["lr"]] == pytest.approx([*means, lr], 1e-6)
    for name, value in S.state_dict().items():
        close(value, twin.state_dict()[name], 1e-6, 1e-9)

def test_batch_has_its_own_labels():
    """Labels of other images, which rslad does not read; images in another range than [0, 1]."""
    data, index, cfg = noise_images(), torch.tensor([5, 0, 10]), settings("pgd-at --augment none")
    x, y, noise = igdm.make_batch(data, index, cfg, igdm.generator("cpu", 0))
    assert torch.equal(x, data.x_train[index] / 255) and y.tolist() == [2, 0, 1]
    assert cfg.eps / 2 < noise.abs().max() <= cfg.eps

# ---- Data ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["crop-flip", "crop", "none"])
@pytest.mark.parametrize("side, pad", [(8, 1), (32, 4), (64, 8)])
def test_augment(kind, side, pad):
    """An offset or flip that never occurs, or is one for the whole batch: against every crop."""
    image = np.arange(1, side * side * 2 + 1, dtype=np.int32).reshape(2, side, side)
    padded, crops = np.pad(image, ((0, 0), (pad, pad), (pad, pad))), {}
    for top, left in itertools.product(range(2 * pad + 1), repeat=2):
        crop = padded[:, top:top + side, left:left + side]
        crops[crop.tobytes()] = top, left, False
        crops[crop[:, :, ::-1].tobytes()] = top, left, True
    x = torch.from_numpy(np.stack([image] * 600))
    ours, again = (igdm.augment(x, kind, igdm.generator("cpu", 0)) for _ in range(2))
    drawn = [crops[np.ascontiguousarray(one).tobytes()] for one in ours.numpy()]
    tops, lefts, flips = zip(*drawn)
    assert torch.equal(ours, again)
    assert {*tops} == {*lefts} == ({pad} if kind == "none" else {*range(2 * pad + 1)})
    assert 0.4 < np.mean(flips) < 0.6 if kind == "crop-flip" else not any(flips)
    assert len({*drawn}) > (100 if pad > 1 else 17) or kind != "crop-flip"
    each = torch.arange(1, 6).view(5, 1, 1, 1).expand(5, 1, side, side)
    assert igdm.augment(each, kind, None).amax((1, 2, 3)).tolist() == [1, 2, 3, 4, 5]

def test_balanced_subset():
    """The first images of sorted data; a subset that changes; indices doubled or not ascending."""
    y = np.repeat(np.arange(4), (50, 60, 70, 5))
    keep = igdm.balanced_subset(y, 18)
    assert (np.diff(keep) > 0).all() and sorted(np.bincount(y[keep])) == [4, 4, 5, 5]
    assert np.ptp(keep[y[keep] == 2]) > 5 and (keep == igdm.balanced_subset(y, 18)).all()
    assert np.bincount(y[::-1][igdm.balanced_subset(y[::-1], 50)]).tolist() == [15, 15, 15, 5]
    assert len(igdm.balanced_subset(y, 999)) == len(igdm.balanced_subset(y, None)) == 185

def test_generator():
    """Two steps, epochs or seeds of the same noise, or noise that depends on earlier draws."""
    keys = [*itertools.product(range(3), repeat=2), *itertools.product(range(3), repeat=3)]
    drawn, again = ([torch.rand(3, generator=igdm.generator("cpu", *key)).tolist() for key in order]
                    for order in (keys, keys[::-1]))
    assert len({*map(tuple, drawn)}) == len(keys) and drawn == again[::-1]

def arrays(**other):
    """24 images 8x8 of 3 classes to train, 12 to test; others in their place."""
    x = np.random.default_rng(0).integers(0, 256, (36, 8, 8), dtype=np.uint8)
    return dict(x_train=x[:24], y_train=np.arange(24) % 3, x_test=x[24:],
                y_test=np.arange(12) % 3) | other

@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz(tmp_path, channels):
    """A layout misread: columns for rows, channels for rows; a class lost by --limit-train."""
    x = np.random.default_rng(0).integers(0, 256, (36, 8, 10, *channels), dtype=np.uint8)
    np.savez("d.npz", **arrays(x_train=x[:24], x_test=x[24:]))
    data = igdm.load_data("d.npz", tmp_path, limit_train=2)
    assert data.classes == 3 and data.y_test.tolist() == [0, 1, 2] * 4
    assert data.x_train.shape == (2, *(channels or (1,)), 8, 10) and len(data.y_train.unique()) == 2
    assert data.x_test.dtype == torch.uint8 and data.x_test[5, -1, 7, 2] == x[29, 7, 2].flat[-1]

class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)

@pytest.mark.parametrize("content", [
    dict(x_train=np.array([Hostile()] * 24)), dict(x_train=arrays()["x_train"] / 255),
    dict(x_train=np.zeros((24, 3, 32, 32), np.uint8)), dict(x_test=np.zeros((12, 9, 9), np.uint8)),
    dict(y_train=np.arange(24) % 3 - 1), dict(y_test=np.arange(12) % 4), dict(y_test=arrays())])
def test_bad_npz(content):
    """A broken data set that is trained on; a traceback; a pickle in it that is loaded."""
    np.savez("d.npz", **arrays(**content))
    with pytest.raises(UserError, match="d.npz"):
        igdm.read_npz(Path("d.npz"))
    assert not Path("ran").exists()

def test_digits_are_packed_once(tmp_path, monkeypatch):
    """A data set read anew in every run; a split that loses images; wrong grey levels."""
    first = igdm.load_data("digits", tmp_path / "new" / "data")
    monkeypatch.setattr(igdm, "read_original", None)
    second = igdm.load_data("digits", tmp_path / "new" / "data")
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4])) and first.classes == 10
    assert first.x_train.shape == (1437, 1, 8, 8) and len(first.y_test) == 360
    assert first.x_test.unique().tolist() == [round(level * 255 / 16) for level in range(17)]

def test_svhn_as_torchvision_reads_it(tmp_path, monkeypatch):
    """Channels for rows; the test set in the place of the training set."""
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    monkeypatch.setattr("torchvision.datasets.SVHN", lambda folder, split, download: (
        SimpleNamespace(data=x if split == "train" else 255 - x, labels=[split])))
    x_train, y_train, x_test, y_test = igdm.read_original("svhn", tmp_path)
    assert x_train[1, 5, 7].tolist() == x[1, :, 5, 7].tolist() and (x_test == 255 - x_train).all()
    assert (y_train, y_test) == (["train"], ["test"])

def test_tiny_imagenet_as_it_is_zipped(tmp_path, monkeypatch):
    """Labels in the order of the archive; a grey image; labels of other validation images."""
    from PIL import Image
    root = "tiny-imagenet-200/"
    with zipfile.ZipFile("tiny-imagenet-200.zip", "w") as archive:
        for name, kind, red in (
                ("train/n02/images/n02_0", "L", 200), ("train/n01/images/n01_0", "RGB", 100),
                ("val/images/val_0", "RGB", 50), ("val/images/val_1", "RGB", 150)):
            with archive.open(f"{root}{name}.JPEG", "w") as file:
                Image.new(kind, (64, 64), red).save(file, "JPEG")
        archive.writestr(f"{root}wnids.txt", "n02\nn01\n")
        archive.writestr(f"{root}val/val_annotations.txt", "val_1.JPEG\tn01\t\nval_0.JPEG\tn02\t\n")
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *_, **__: None)
    x_train, y_train, x_test, y_test = igdm.read_original("tiny-imagenet", tmp_path)
    assert x_train.shape == x_test.shape == (2, 64, 64, 3) and y_train == y_test == [0, 1]
    for images, levels in ((x_train, [100, 200]), (x_test, [150, 50])):
        assert images[:, 9, 9, 0].tolist() == pytest.approx(levels, abs=3)

# ---- Measures ------------------------------------------------------------------------------------
RADII = SimpleNamespace(eps=16 / 255, step_size=3 / 255, seed=0, probe=20, eval_batch=128,
                        method="adaad", inner="student")

def test_gradient_alignment():
    """GD, GC: another scalar than the true label's cross-entropy, a batch mean, S and T swapped."""
    (W, V), (x, y) = WEIGHTS, batch()
    S, T = linear(W), linear(V)
    s, t = ((p(f(x)) - torch.eye(3)[y]).detach() @ weight for f, weight in ((S, W), (T, V)))
    close(igdm.gradient_alignment(S, T, x, y, RADII, None), dict(
        gd=norm(s - t), gc=(s * t).sum(1) / norm(s) / norm(t), gradient_student=norm(s),
        gradient_teacher=norm(t)))

@pytest.mark.parametrize("inner, attack, noise", [
    ("student", igdm.attack_ce, "uniform"), (None, igdm.attack_adaad, "gaussian")])
def test_point_wise(inner, attack, noise):
    """Eq. 10 of logits, or under another attack than the method's own, of other size or steps."""
    S, T, (x, y), g = net(1), net(2), batch(), igdm.generator("cpu", 7)
    cfg = SimpleNamespace(**vars(RADII) | dict(inner=inner))
    with torch.no_grad():
        ours = igdm.point_wise(S, T, x, y, cfg, igdm.generator("cpu", 7))
    a = igdm.pgd(S, x, attack(S, igdm.Step(S, T, x, y)), 16 / 255, 3 / 255, 20, noise, g)
    u = x + torch.empty_like(x).uniform_(-16 / 255, 16 / 255, generator=g)
    close(ours, dict(point_uniform=norm(p(S(u)) - p(T(u))).detach(),
                     point_adv=norm(p(S(a)) - p(T(a))).detach()))

def test_remainder():
    """Figure 2: J e left out or taken elsewhere; a wrong denominator; not 0 for a linear model."""
    f, (x, y), eps = net(1), batch(), RADII.eps
    e = torch.empty_like(x).uniform_(-eps, eps, generator=igdm.generator("cpu", 7))
    with torch.no_grad():
        ours, flat = (igdm.remainder(S, None, x, y, RADII, igdm.generator("cpu", 7))["remainder"]
                      for S in (f, linear(WEIGHTS[0])))
        je = (f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6
        close(ours, norm(f(x + e) - f(x) - je) / norm(f(x + e)), rtol=1e-4)
    assert ours.min() > 1e-6 and flat.max() < 1e-12

def evaluated(**flags):
    """Settings of an evaluation, images, a student and a teacher."""
    cfg = igdm.resolve(argv(**dict(
        method="adaad", inner="student", teacher="pgd-at", dataset="digits", student="wrn-10-1",
        eps="16/255", step_size="3/255", device="cpu", out=".", attacks="pgd") | flags))
    data, S, T = noise_images(300), net(1).float().eval(), net(2).float().eval()
    return cfg, data._replace(x_test=data.x_train, y_test=data.y_train.clone()), S, T

def test_evaluation_is_what_the_table_says(monkeypatch):
    """Another start, step or number of steps; another model's or image's values in a mean."""
    (cfg, data, S, T), calls, pgd = evaluated(attacks="clean,fgsm,pgd,cw,aa", aa_n=6), [], igdm.pgd
    data, aa = data._replace(y_test=data.y_test.sort()[0]), []
    monkeypatch.setattr(igdm, "autoattack", lambda S, T, x, y, cfg, g: aa.append(
        y.bincount().tolist()) or dict(aa=y > 0))
    def seen(model, x, objective, eps, size, steps, start, g=None):
        name = objective.__qualname__.split(".")[0]
        calls.append((round(255 * eps), round(255 * size), steps, start, name))
        return pgd(model, x, objective, eps, size, min(steps, 2), start, g)
    cfg.cw_restarts = 2
    monkeypatch.setattr(igdm, "pgd", seen)
    metrics, x = igdm.evaluate(S, {"t": T}, data, cfg)["metrics"], igdm.to_float(data.x_test)
    assert {call: calls.count(call) for call in calls} == {     # 3 batches; also point_adv's PGD
        (16, 16, 1, None, "attack_ce"): 3, (16, 3, 20, "uniform", "attack_ce"): 6,
        (16, 3, 50, "uniform", "cw"): 6}
    for key, measure in (("gd", igdm.gradient_alignment), ("point_adv", igdm.point_wise),
                         ("remainder", igdm.remainder)):
        with torch.no_grad():
            parts = [measure(S, T, x[i], data.y_test[i], cfg, igdm.generator("cpu", 0, key, k))
                     for k, i in enumerate(torch.arange(300).split(128))]
        for name in parts[0]:
            entry, mean = metrics[name + "@t" * (key != "remainder")], torch.cat(
                [part[name] for part in parts]).mean().item()
            assert entry["n"] == 300 and entry["value"] == pytest.approx(mean, rel=1e-4)
    assert aa == [[2, 2, 2]] and metrics["aa"]["value"] == pytest.approx(200 / 3)
    right, outcomes = S(x).argmax(1) == data.y_test, igdm.read(Path("outcomes.npz"))
    assert outcomes["clean"].tolist() == right.tolist() and {*outcomes} == {*cfg.attacks}
    assert metrics["clean"]["value"] == pytest.approx(100 * right.float().mean().item())
    kept, few = igdm.read(Path("gradients.npz")), igdm.pick_test(data, 8, cfg)[0]
    for name, model in (("student", S), ("teacher@t", T)):
        gradient = igdm.input_gradient(model, x[few], data.y_test[few])
        close(torch.from_numpy(kept[name]).permute(0, 3, 1, 2), gradient, 1e-5, 1e-7)

@pytest.mark.parametrize("change, then", [
    ("", "kept"), ("cfg.eps = 0.03", "refused"), ("cfg.step_size = 0.01", "refused"),
    ("cfg.seed = 1", "refused"), ("data.y_test.fill_(1)", "refused"),
    ("nn.init.ones_(S[-1].bias)", "refused"), ("nn.init.ones_(T[-1].bias)", "measured"),
    ("cfg.method = 'ard'", "measured"), ("cfg.inner = None", "measured"),
    ("nn.init.constant_(T[-1].bias, math.nan)", "refused")])
def test_other_results_are_not_these(monkeypatch, change, then):
    """A number of other weights, images or settings taken for this one's; one not finite."""
    (cfg, data, S, T), calls = evaluated(), []
    monkeypatch.setattr(igdm, "pgd", lambda model, x, *more: calls.append(model) or x)
    igdm.evaluate(S, {"t": T}, data, cfg)
    exec(change, globals(), dict(cfg=cfg, data=data, S=S, T=T))
    calls.clear()
    with pytest.raises(UserError) if then == "refused" else contextlib.nullcontext():
        igdm.evaluate(S, {"t": T}, data, cfg)
    assert bool(calls) == (then == "measured")

def test_probe():
    """A probe of training images, of 20 steps, of another eps, or of the teacher's remainder."""
    data, S, T = noise_images(), net(1).float().eval(), net(2).float().eval()
    x = igdm.to_float(data.x_train.flip(0))
    y, g = S(x).argmax(1), igdm.generator("cpu", 0, "probe", 0)             # all right at first
    row = igdm.probe(S, T, data._replace(x_test=data.x_train.flip(0), y_test=y), RADII)
    a = igdm.pgd(S, x, lambda a: F.cross_entropy(S(a), y), 16 / 255, 3 / 255, 10, "uniform", g)
    expected = dict(clean=x.new_full((20,), 100), pgd10=100.0 * (S(a).argmax(1) == y),
                    **igdm.remainder(S, None, x, y, RADII, g),
                    **igdm.gradient_alignment(S, T, x, y, RADII, None))
    assert row["pgd10"] < 100 and row == pytest.approx(
        {name: value.mean().item() for name, value in expected.items()}, rel=1e-3)

@pytest.mark.parametrize("classes", [2, 3, 4])
def test_autoattack(classes, monkeypatch, caplog):
    """An attack of the standard version left out, another eps, or a crash where classes are few."""
    monkeypatch.setattr("pyautoattack.square.SquareAttack.perturb", lambda self, x, y=None: x)
    torch.manual_seed(0)
    S = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, classes)).eval()
    x = torch.rand(24, 1, 8, 8, generator=igdm.generator("cpu", 0))
    y = S(x).argmax(1)
    y[:6] = (y[:6] + 1) % classes                               # wrong from the start
    for eps, robust in ((1e-6, [False] * 6 + [True] * 18), (0.5, [False] * 24)):
        with torch.no_grad():
            cfg = SimpleNamespace(eps=eps, seed=0, eval_batch=9, out=Path(), of=eps)
            outcome = igdm.autoattack(S, None, x, y, cfg, None)
        assert outcome["aa"].tolist() == robust
    said = re.findall(r"after (\S+):", caplog.text.lower())
    assert [*dict.fromkeys(said)] == ["apgd-ce", *["apgd-t"] * (classes > 3), "fab-t", "square"]

def test_autoattack_goes_on_with_the_attack_it_was_in(tmp_path, monkeypatch):
    """Hours lost; an attack left out; what AutoAttack warns of, in a log that nobody reads."""
    done, stop = [], ["fab-t"]
    class Fake:
        def __init__(self, model, **settings):
            self.apgd_targeted, self.fab = SimpleNamespace(), SimpleNamespace()
            self.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]
        def run_standard_evaluation(self, x, y, batch_size):
            name, = self.attacks_to_run
            if name in stop:
                raise KeyboardInterrupt
            done.append((name, len(x), batch_size))
            logging.getLogger("auto-attack").warning("zero gradient")
            return x, torch.where(torch.arange(len(x)) == 0, 1 - y, y)      # the first one falls
    monkeypatch.setattr("pyautoattack.AutoAttack", Fake)
    cfg = SimpleNamespace(out=tmp_path, eps=0.1, seed=0, eval_batch=3, of=1)
    x, y = torch.rand(6, 1, 8, 8), torch.ones(6).long()
    call = [lambda x: torch.zeros(len(x), 5), None, x, y, cfg, None]
    with pytest.raises(KeyboardInterrupt):
        igdm.autoattack(*call)
    stop.clear()
    assert igdm.autoattack(*call)["aa"].tolist() == [False] * 4 + [True] * 2
    assert done == [("apgd-ce", 6, 3), ("apgd-t", 5, 3), ("fab-t", 4, 3), ("square", 3, 3)]
    assert cfg.flags == ["zero gradient"]

# ---- Networks and their checkpoints --------------------------------------------------------------
@pytest.mark.parametrize("arch, classes, count", [
    ("rn18", 100, 11220132), ("mnv2", 100, 2412212), ("mnv2", 10, 2296922),
    ("wrn-28-10", 100, 36536884), ("wrn-28-10-silu", 100, 36536884)])
def test_parameter_counts(arch, classes, count):
    """A wrong width, depth or stage; the counts are those of the published networks."""
    with torch.device("meta"):
        assert sum(w.numel() for w in models.build(arch, classes).parameters()) == count

PREACT = {      # stem, block, its parts, and what follows the blocks
    "parn18": "conv1 layer%d.%d. bn1 conv1 bn2 conv2 shortcut.0 bn linear",
    "wrn-16-2": "conv1 block%d.layer.%d. bn1 conv1 bn2 conv2 convShortcut bn1 fc",
    "wrn-16-2-silu": "init_conv layer.%d.block.%d. batchnorm_0 conv_0 batchnorm_1 conv_1 shortcut "
                     "batchnorm logits"}

def plain(arch, s, x):
    """The networks once more, as functions of their published state_dict."""
    silu = arch.endswith("silu")
    act = F.silu if silu else F.relu
    def bn(name, x):
        parts = "running_mean", "running_var", "weight", "bias"
        return F.batch_norm(x, *(s[f"{name}.{part}"] for part in parts))
    def conv(name, x, stride=1):
        w = s[name + ".weight"]
        if silu and stride == 2 and len(w[0, 0]) == 3:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), w, None, 2)
        return F.conv2d(x, w, None, stride, w.shape[2] // 2, groups=x.shape[1] // w.shape[1])
    def head(name, x):
        return x.mean((2, 3)) @ s[name + ".weight"].T + s[name + ".bias"]
    def residual(q, x, last, stride):       # convolutions 1 to last, each with batch norm
        out = x
        for i in range(1, last + 1):
            at = stride if i == (last + 1) // 2 else 1
            out = bn(f"{q}bn{i}", conv(f"{q}conv{i}", act(out) if i > 1 else out, at))
        if q + "shortcut.0.weight" in s:
            x = bn(q + "shortcut.1", conv(q + "shortcut.0", x, stride))
        return act(out + x) if last == 2 else out + x if stride == 1 else out
    if arch in ("rn18", "mnv2"):
        x = act(bn("bn1", conv("conv1", x)))
        if arch == "rn18":
            for i, j in itertools.product(range(1, 5), range(2)):
                x = residual(f"layer{i}.{j}.", x, 2, 2 if i > 1 and j == 0 else 1)
            return head("linear", x)
        for i in range(17):
            x = residual(f"layers.{i}.", x, 3, 2 if i in (3, 6, 13) else 1)
        return head("linear", act(bn("bn2", conv("conv2", x))))
    stem, block, n1, c1, n2, c2, short, n3, last = PREACT[arch].split()
    x = conv(stem, (x - 0.5) / 0.25 if silu else x)
    for i, j in itertools.product(range(1, 5 if arch == "parn18" else 4), range(2)):
        q, stride = block % (i - silu, j), 2 if i > 1 and j == 0 else 1
        out = act(bn(q + n1, x))
        x = conv(q + short, out, stride) if q + short + ".weight" in s else x
        x = x + conv(q + c2, act(bn(q + n2, conv(q + c1, out, stride))))
    return head(last, act(bn(n3, x)))

@pytest.mark.parametrize("arch", ["rn18", "mnv2", "parn18", "wrn-16-2", "wrn-16-2-silu"])
@pytest.mark.parametrize("side, channels", [(8, 1), (32, 3)])
def test_networks_are_the_published_ones(arch, side, channels):
    """An activation, stride, padding or residual with which published weights load, and err."""
    model = shaken(models.build(arch, 7, channels)).double().eval()
    x = torch.rand(2, channels, side, side, dtype=torch.double)
    close(model(x), plain(arch, model.state_dict(), x))

def test_initial_weights_of_trades():
    """A WideResNet that starts from PyTorch's defaults, or from fan_in."""
    model = models.build("wrn-10-4", 10)
    first = model.block2.layer[0].conv1.weight.std().item()
    assert first == pytest.approx(math.sqrt(2 / 9 / 128), rel=0.05) and not model.fc.bias.any()

def robustbench_keys(arch, extra=False):
    """Names and shapes of RobustBench's WRN-16-2; extra: LTD's unused block."""
    def bn(name, n):
        parts = "weight", "bias", "running_mean", "running_var"
        return {f"{name}.{k}": [n] for k in parts} | {f"{name}.num_batches_tracked": []}
    stem, block, bn1, conv1, bn2, conv2, short, last, head = PREACT[arch].split()
    keys = {f"{stem}.weight": [16, 3, 3, 3]}
    for stage, n, m in (1, 16, 32), (2, 32, 64), (3, 64, 128):
        for i, n_in in enumerate((n, m)):
            q = block % (stage - arch.endswith("silu"), i)
            keys |= bn(q + bn1, n_in) | bn(q + bn2, m) | {f"{q}{conv1}.weight": [m, n_in, 3, 3]}
            keys |= {f"{q}{conv2}.weight": [m, m, 3, 3]}
            keys |= {f"{q}{short}.weight": [m, n_in, 1, 1]} if i == 0 else {}
    spare = {f"sub_{k}": v for k, v in keys.items() if k.startswith("block1.") and extra}
    return keys | spare | bn(last, 128) | {f"{head}.weight": [10, 128], f"{head}.bias": [10]}

@pytest.mark.parametrize("arch, extra", [
    ("wrn-16-2", False), ("wrn-16-2", True), ("wrn-16-2-silu", False)])
def test_robustbench_checkpoint_loads(arch, extra):
    """A renamed parameter; LTD's unused sub_block1 refused; a stored mean and std not heeded."""
    silu, model = arch.endswith("silu"), models.build(arch, 10)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == robustbench_keys(arch)
    state = {k: torch.rand(shape) if shape else torch.tensor(0)
             for k, shape in robustbench_keys(arch, extra).items()}
    scale = dict(mean=torch.rand(1, 3, 1, 1), std=torch.rand(1, 3, 1, 1)) if silu else {}
    torch.save(state | scale, "c.pt")
    models.load_state(model, "c.pt", arch)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(torch.equal(getattr(model, name), value[0]) for name, value in scale.items())

@pytest.mark.parametrize("arch, left", [
    ("rn18", 0), ("mnv2", 0), ("wrn-10-1", 4), ("wrn-16-2-silu", 7), ("parn18", 9)])
def test_fold_equals_eval_mode(arch, left):
    """A batch norm folded into the wrong convolution, or forgotten; the model itself changed."""
    model = shaken(models.build(arch, 10)).double().train()
    before, folded = igdm.fingerprint(model.state_dict()), models.fold(model)
    assert model.training and igdm.fingerprint(model.state_dict()) == before
    assert not any(part.training for part in folded.modules())
    assert not any(w.requires_grad for w in folded.parameters())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) == left
    x, y = torch.rand(2, 3, 16, 16, dtype=torch.double), torch.tensor([1, 2])
    close(folded(x), model.eval()(x))
    close(igdm.input_gradient(folded, x, y), igdm.input_gradient(model, x, y), 1e-7)

@pytest.mark.parametrize("arch", ["rn18", "wrn-10-1-silu"])
def test_refreshed_fold_equals_a_fresh_one(arch):
    """Attacks on the weights or statistics of an earlier step; new tensors under a CUDA graph."""
    model, x = models.build(arch, 5).train(), torch.rand(4, 3, 16, 16)
    copied = models.fold(model)
    parts = [id(v) for v in copied.parameters()]
    F.cross_entropy(model(x), torch.arange(4)).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    fresh = models.fold(model)
    assert not torch.equal(copied(x), fresh(x)) and models.fold(model, copied) is copied
    assert parts == [id(v) for v in copied.parameters()]
    assert igdm.fingerprint(copied.state_dict()) == igdm.fingerprint(fresh.state_dict())

def spoil(name):
    """The path of a checkpoint that has the fault."""
    path, state = Path(f"{name}.pt"), models.build("wrn-10-1", 10).state_dict()
    torch.save(dict(hostile=dict(state, x=Hostile()), lists=[torch.ones(1)]).get(name, state), path)
    data = bytearray(path.read_bytes())
    if name == "flipped":                       # a bit in a tensor: torch.load does not see it
        tensor = state["block3.layer.0.conv2.weight"].numpy().tobytes()
        data[data.find(tensor) + len(tensor) // 2] ^= 1
    path.write_bytes(dict(cut=data[:len(data) // 2], empty=b"", pickled=pickle.dumps(Hostile(), 2),
                          page=b"\n <!DOCTYPE html><html>Too many users</html>",
                          json=b'{"error": 403}', lfs=b"version https://git-lfs.github.com/spec/v1"
                          ).get(name, data))
    if name == "script":
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    return path.rename("moved.pt").with_name("absent.pt") if name == "absent" else path

@pytest.mark.parametrize("name, said", [
    ("hostile", "mkdir"), ("pickled", "mkdir"), ("page", "web page"),
    ("lists", "no weights"), ("json", "JSON"), ("lfs", "Git LFS"), ("script", "TorchScript"),
    *((name, f"{name}.pt") for name in ("flipped", "cut", "empty", "absent"))])
def test_bad_checkpoint(name, said):
    """Code in a file run, damage loaded in silence, a traceback in place of one line."""
    path = spoil(name)
    with pytest.raises(UserError, match=said) as caught:
        models.load_state(models.build("wrn-10-1", 10), path, "wrn-10-1")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("ran").exists()

def behind(prefix, state):
    return {prefix + key: value for key, value in state.items()}

LAYOUTS = [     # what a file holds of the weights w and of others, r
    lambda w, r: w, lambda w, r: {"epoch": 3, "state_dict": behind("module._orig_mod.", w)},
    lambda w, r: {"model_state_dict": behind("module.0.", w),       # BDM-AT's authors
                  "unaveraged_model_state_dict": behind("module.0.", r)},
    lambda w, r: {"state_dict": behind("model.net.", w), "optimizer": {"state": {0: {"m": r}}}},
    lambda w, r: {"model": r, "model_ema": w}, lambda w, r: {"state_dict": r, "state_dict_ema": w},
    lambda w, r: {**behind("module.", w), "n_averaged": torch.tensor(4)},
    lambda w, r: {**w, "step": 7}, lambda w, r: {"a": {"b": {"student": w}}},
    lambda w, r: {**behind("student.", w), **behind("teacher.", {"fc.weight": torch.ones(3, 3)})},
    lambda w, r: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")}]
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_checkpoints(layout):
    """Files of other people's scripts turned away; raw weights in place of averaged ones."""
    w, r = (shaken(models.build("wrn-10-1", 10)).state_dict() for _ in range(2))
    torch.save(layout(w, r), "c.pt")
    model = models.load_state(models.build("wrn-10-1", 10), "c.pt", "wrn-10-1")
    assert all(torch.equal(v, w[k]) for k, v in model.state_dict().items())

@pytest.mark.parametrize("arch", ["wrn-10-1", "wrn-10-1-silu"])
@pytest.mark.parametrize("names", [("0.mean", "0.std", "1."), ("mu", "sigma", "")])
def test_normalisation_in_a_checkpoint(arch, names):
    """A teacher that sees other inputs than it was trained on, a student.pt that forgets them."""
    net, x = shaken(models.build(arch, 10)).eval(), torch.rand(2, 3, 16, 16)
    mean, std = torch.rand(2, 3, 1, 1) + 0.5
    torch.save({names[0]: mean, names[1]: std[None], **behind(names[2], net.state_dict())}, "c.pt")
    model = models.load_state(models.build(arch, 10), "c.pt", arch).eval()
    if arch.endswith("silu"):
        net.mean.copy_(mean), net.std.copy_(std)
    close(model(x), net(x if arch.endswith("silu") else (x - mean) / std), 1e-3, 1e-5)
    torch.save(models.weights(model), "kept.pt")
    again = models.load_state(models.build(arch, 10), "kept.pt", arch).eval()
    close(again(x), model(x), 1e-3, 1e-5)
    close(models.fold(again)(x), model(x), 1e-3, 1e-5)

class Backwards(nn.Sequential):     # batch norm stands after the convolution, and runs before it
    forward = lambda self, x: self[0](self[1](x)).mean((2, 3))
def test_fold_behind_a_normalisation():
    """Another's network folded in the order of its parts, because a checkpoint normalises it."""
    net, x = shaken(Backwards(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))).eval(), torch.rand(2, 3, 8, 8)
    scale = {"0.mean": torch.ones(3), "0.std": torch.ones(3)}
    torch.save(behind("1.", net.state_dict()) | scale, "c.pt")
    model = models.load_state(copy.deepcopy(net), "c.pt", "net")
    close(models.fold(model)(x), net(x - 1), 1e-4, 1e-5)

def test_safetensors_and_names_within_names():
    """A format refused as damage; keys stripped of a prefix that is a part of their name."""
    net = nn.ModuleDict({"c": nn.Linear(2, 2), "model": nn.ModuleDict({"c": nn.Linear(2, 2)})})
    state = {k: v.clone() for k, v in net.state_dict().items()}
    safetensors.torch.save_file(models.weights(net), "c.safetensors")
    torch.save(state, "c.pt")
    for path in "c.safetensors", "c.pt":
        for p in net.parameters():
            p.data.zero_()
        models.load_state(net, path, "net")
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())

@pytest.mark.parametrize("first", ["whole", "cut", "page", "missing"])
def test_download(first, tmp_path, monkeypatch):
    """Half a download, or a page, taken for the teacher; the second address not tried."""
    torch.save(dict(w=torch.ones(999)), "whole")
    whole = Path("whole").read_bytes()
    files = {"/whole": whole, "/cut": whole[:500], "/page": b"<html>", "/second": whole}
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in files else 404), self.end_headers()
            self.wfile.write(files.get(self.path, b"none"))
        log_message = print
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        path = models.fetch([f"{at}/{first}", f"{at}/second"], tmp_path / "new/t.pt")
        assert torch.equal(models.read_file(path)["w"], torch.ones(999))
        assert os.listdir(tmp_path / "new") == ["t.pt"]
        if first != "whole":
            with pytest.raises(UserError, match=f"{first}.*none.*put it at.*u.pt"):
                models.fetch([f"{at}/{first}", f"{at}/none"], tmp_path / "new/u.pt")
        server.shutdown()

@pytest.mark.parametrize("arch, classes, change, said", [
    ("wrn-10-1", 100, {}, "fc.weight is"), ("wrn-10-2", 10, {}, "wrn-10-2"),
    ("rn18", 10, {}, "rn18"), ("wrn-10-1", 10, {"more": torch.ones(1)}, "more"),
    ("wrn-10-1", 10, {"fc.bias": None}, "bias"), ("wrn-10-1", 10, {"mean": torch.ones(3)}, "mean")])
def test_checkpoint_of_another_model(arch, classes, change, said):
    """A lax load, after which part of the network is random, or sees other inputs."""
    state = models.build("wrn-10-1", 10).state_dict() | change
    torch.save({k: v for k, v in state.items() if v is not None}, "c.pt")
    with pytest.raises(UserError, match=said):
        models.load_state(models.build(arch, classes), "c.pt", arch)

# ---- What a user gets wrong ----------------------------------------------------------------------
D = "--dataset digits --batch 32 --limit-train 64 --epochs 1 --attacks clean"
BAD = [     # the command, and what the message must hold
    ("--nonsense 3", "--nonsense"), ("--epochs 0", "0"), ("--lr nan", "nan"), ("--eps 8/0", "8/0"),
    ("--eps 8", "--eps"), ("--drops 100;150", "--drops"), ("--dataset cifar1000", "cifar100, svhn"),
    ("--attacks clean,fsgm", "fgsm"), ("--alpha 1", "--igdm"), ("--device tpu", "tpu"),
    ("--igdm --student mnv3", "--alpha"), ("--ard-t 3", "not of --method rslad"),
    ("--dataset tiny-imagenet", "--teacher"), ("--match direct --alpha 1 --compile", "derivatives"),
    ("--teacher bdm,ltd", "one teacher"), ("--dataset digits --batch 2000", "1437 images"),
    (f"{D} --student resnet", "rn18, mnv2"), (f"{D} --student no.where:f", "no.where:f"),
    (f"{D} --eval-only page.pt", "web page"), (f"{D} --method ard --teacher wrn-10-1", "wrn-10-1")]

def only_line(text):
    """The one line that says what is wrong."""
    line, = text.splitlines()
    assert line.startswith("igdm.py: error: ") and len(line) < 500
    return line

def refused(capsys, out, **flags):
    assert run(out, **flags) == 2
    return only_line(capsys.readouterr().err)

@pytest.mark.parametrize("command, fragment", BAD)
def test_bad_command(capsys, command, fragment):
    """A traceback, a long run that fails at its end, a mistake of which nobody hears."""
    spoil("page")
    assert igdm.main(command.split()) == 2 and fragment in only_line(capsys.readouterr().err)
    assert not Path("runs").exists()

ODD = """
import torch, torch.nn as nn, torch.nn.functional as F
class Same(torch.autograd.Function):
    forward, backward = staticmethod(lambda ctx, x: x.clone()), staticmethod(lambda ctx, x: x)
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.fc, self.calls = nn.Conv2d(1, 4, 3), nn.Linear(144, classes), 0
        self.attend = nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
    def plain(self, x): return self.fc(self.conv(x).relu().flatten(1))
    def keep(self, z): self.kept = z; return z
    def count(self): self.calls += self.training; return self.calls
    def forward(self, x): return %s
def net(num_classes): return Net(num_classes)
"""

@pytest.fixture
def odd():
    """Writes a network of the user's own, odd:net, whose forward is an expression of x."""
    yield lambda forward: Path("odd.py").write_text(ODD % forward)
    sys.modules.pop("odd", None)

REFUSED = [     # forward, stage, and what is found there
    ("self.plain(x)[:, 1:]", "eval mode", r"\(2, 9\), not \(2, 10\)"),
    ("(self.plain(x), x)", "eval mode", r"\(\)"), ("self.plain(x).log()", "eval mode", "finite"),
    ("self.plain(x.sub_(0.5))", "eval mode", "in place"),
    ("self.fc(self.conv(x).relu().view(32, -1))", "eval mode", "view|shape"),
    ("F.dropout(self.plain(x))", "folded", "not those of"),
    ("self.plain(x).detach()", "folded|step", "grad"), ("self.keep(self.plain(x))", "", "deepcopy"),
    ("self.plain(x.sub_(0.5) if self.training else x)", "training step", "in place"),
    ("self.plain(x) + self.count() * torch.arange(10)", "training step", "not those of"),
    ("Same.apply(self.plain(x))", "measured", "jvp")]
@pytest.mark.parametrize("forward, stage, found", REFUSED)
def test_rehearsal(odd, capsys, forward, stage, found):
    """Hours of training that end in a traceback, or in weights that are another network's."""
    odd(forward)
    said = refused(capsys, "runs/x", **ALONE | dict(student="odd:net", probe=8))
    assert re.search(rf"student odd:net.*({stage}).*({found})", said) and not Path("runs").exists()

def test_rehearsal_of_a_teacher(odd, capsys):
    """A teacher of other outputs that is noticed late, or taken for the student."""
    odd("self.plain(x)[:, 1:]")
    torch.save(models.build("odd:net", 10).state_dict(), "t.pt")
    flags = dict(method="ard", teacher="t.pt", teacher_arch="odd:net")
    assert "teacher t.pt in eval mode" in refused(capsys, "runs/x", **ALONE | flags)

def test_words_before_hours(whole, odd, capsys):
    """A useless teacher, probabilities for logits, in silence."""
    odd("self.plain(x).softmax(1)")
    torch.save(models.build("wrn-10-1", 10, 1).state_dict(), "a,b.pt")
    assert run("runs/words", student="odd:net", teacher="a,b.pt", teacher_arch="wrn-10-1") == 0
    err = capsys.readouterr().err
    assert "student odd:net gives probabilities" in err and "a,b.pt is near chance" in err

# ---- Whole runs ----------------------------------------------------------------------------------
def test_whole_run(whole):
    """A file, metric, n or setting forgotten; a student that is no teacher; a teacher of others."""
    assert {path.name for path in Path("runs/a").glob("[!.]*")} == {*(
        "config.json log.jsonl last.pt student.pt result.json outcomes.npz gradients.npz").split()}
    assert {*result("runs/a")} == {"clean", "pgd", "remainder", *(f"{name}@pgd-at" for name in (
        "gd", "gc", "gradient_student", "gradient_teacher", "point_uniform", "point_adv"))}
    assert all(entry["n"] == 40 for entry in result("runs/a").values())
    assert {"clean", "pgd10", "gd", "gc", "remainder", "loss_match"} <= log("runs/a")[1].keys()
    assert igdm.config_beside("runs/a/student.pt")["constants"] == dict(scale=0.1)
    models.load_state(models.build("wrn-10-1", 10, 1), Path("runs/a/student.pt"), "wrn-10-1")
    student, teacher = (igdm.config_beside(next(Path("runs").glob(f"{run}*/student.pt")))
                        for run in ("a", "teacher-"))
    for name in "dataset images eps augment batch limit_train".split():
        assert teacher[name] == student[name]
    assert (teacher["method"], teacher["match"], teacher["epochs"]) == ("pgd-at", None, 1)

QUICK = dict(epochs=1, steps=1, limit_train=64, limit_test=10, probe=0, attacks="clean",
             teacher="runs/a/student.pt", teacher_arch=None)
@pytest.mark.parametrize("method, match", [
    *itertools.product(igdm.METHODS, (None, "igdm")),
    *itertools.product(["ard"], ("direct", "trades-reg", "trades-like"))])
def test_every_method_runs(whole, method, match):
    """A method or ablation whose row, passes or teacher break the common loop."""
    out = f"runs/{method}-{match}"
    assert run(out, **QUICK | dict(method=method, match=match, alpha=match and 1)) == 0
    row, = log(out)
    assert math.isfinite(row["loss"]) and (row["loss_match"] > 0) == bool(match)

def test_a_method_of_ones_own(whole, monkeypatch):
    """A row of METHODS that needs more than its two functions to run, with flags and --igdm."""
    monkeypatch.setitem(igdm.METHODS, "mine", igdm.Method(
        igdm.attack_ce, "uniform", lambda o, lam: lam * igdm.kl(o.s_adv, o.t_clean), dict(lam=2.0)))
    assert run("runs/mine", **QUICK | dict(method="mine", mine_lambda=3)) == 0
    assert igdm.config_beside("runs/mine/student.pt")["constants"] == dict(lam=3.0)

def test_same_again_and_another_seed(whole):
    """Anything random that does not come from the seed; a seed ignored; a probe that disturbs."""
    assert run("runs/b") == run("runs/c", seed=1) == run("runs/no-probe", probe=0) == 0
    assert same("runs/a", "runs/b") and not same("runs/a", "runs/c")
    assert result("runs/a") == result("runs/no-probe")

def interrupt(out, what, count, **flags):
    """A run that is stopped at the count-th call of a function, or write of a file, of its own."""
    name, calls = "write" if "." in what else what, itertools.count(1)
    function = getattr(igdm, name)
    def stops(*given):
        if (name != "write" or given[0] == Path(out, what)) and next(calls) == count:
            raise KeyboardInterrupt
        return function(*given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(igdm, name, stops)
        assert run(out, **flags) == 130

@pytest.mark.parametrize("what, count", [
    ("train_step", 2), ("train_step", 8), ("probe", 3), ("log.jsonl", 2), ("last.pt", 1),
    ("last.pt", 2), ("student.pt", 1), ("result.json", 1)])
def test_interrupted_run_goes_on_exactly(whole, what, count):
    """Momentum, order, statistics or a row of the log lost, or doubled, at a bad moment."""
    out = f"runs/stopped-{what}-{count}"
    interrupt(out, what, count)
    assert run(out) == 0 and same("runs/a", out)

def test_own_network_goes_on_exactly(whole, odd):
    """Dropout that draws anew after a stop; fused attention, which has no forward mode."""
    odd("self.fc(self.attend(self.conv(x).flatten(2).mT).flatten(1))")
    torch.backends.mha.set_fastpath_enabled(True)
    assert run("runs/own", student="odd:net") == 0
    interrupt("runs/own-stopped", "last.pt", 2, student="odd:net")
    assert run("runs/own-stopped", student="odd:net") == 0 and same("runs/own", "runs/own-stopped")

def test_killed_run_goes_on_exactly(whole):
    """Anything that kill -9 loses, doubles or tears, or a lock that outlives it."""
    command = [sys.executable, str(HERE / "igdm.py"), *argv(**TINY | dict(out="runs/killed"))]
    for file in ("last.pt", "student.pt"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and not Path("runs/killed", file).exists():
            time.sleep(0.002)
        process.kill()
        assert process.wait() or file == "student.pt"
    assert run("runs/killed") == 0 and same("runs/a", "runs/killed")

def test_finished_run_returns_at_once(whole, monkeypatch):
    """A finished run trained or measured again; more attacks that are not added to its results."""
    shutil.copytree("runs/a", "runs/more")
    monkeypatch.setattr(igdm, "train", None)
    assert run("runs/more", attacks="clean,pgd,fgsm") == 0
    after = result("runs/more")
    assert after.pop("fgsm")["n"] == 40 and after == result("runs/a")
    monkeypatch.setattr(igdm, "introduce", lambda *_: None)
    monkeypatch.setattr(igdm, "accuracy", lambda *_: 1 / 0)
    assert run("runs/more") == 0

def test_another_run_is_refused(whole, monkeypatch, capsys):
    """Weights of other settings, images or teacher, or damaged, taken for these, or trained on."""
    shutil.copytree("runs/a", "runs/unfinished")
    os.remove("runs/unfinished/student.pt")
    assert "lr was 0.1, is 0.05" in refused(capsys, "runs/a", lr=0.05, teacher_arch="wrn-10-2")
    assert len([*Path("runs").glob("teacher-*")]) == 1      # none was trained before that
    assert "teacher_weights was" in refused(capsys, "runs/a", teacher="runs/a/student.pt")
    assert "precision was" in refused(capsys, "runs/unfinished", precision="bf16")
    shutil.copy(spoil("flipped"), "runs/unfinished/last.pt")
    assert "in it is damaged" in refused(capsys, "runs/unfinished")
    load = igdm.load_data
    monkeypatch.setattr(igdm, "load_data", lambda *given: load(*given)._replace(
        y_train=load(*given).y_train.flip(0)))
    assert "images was" in refused(capsys, "runs/a")
    others = {*("data_dir limit_test teacher teacher_arch teacher_epochs attacks aa_n probe help "
                "eval_only report benchmark out device threads eval_batch").split()}
    flags = {action.dest for action in igdm.make_parser()._actions if "." not in action.dest}
    assert flags - others == {*igdm.TRAINING} - {"constants"}

def test_busy_folder(whole, monkeypatch):
    """Two processes that train into one folder."""
    codes = []
    monkeypatch.setattr(igdm, "train", lambda *given: codes.append(run("runs/busy")) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("runs/busy")
    assert codes == [75]

def test_diverged(whole, monkeypatch, capsys):
    """Hours spent on, or a good checkpoint overwritten by, a loss that is not finite."""
    losses = igdm.losses
    monkeypatch.setattr(igdm, "losses", lambda o, cfg, epoch: [
        loss * (math.nan if epoch == 2 else 1) for loss in losses(o, cfg, epoch)])
    assert "not finite in epoch 2" in refused(capsys, "runs/nan", epochs=3)
    assert len(models.read_file(Path("runs/nan/last.pt"))["log"]) == 1

@pytest.mark.parametrize("error", [MemoryError("3 TiB"), RuntimeError("can't allocate memory"),
                                   torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory(whole, monkeypatch, capsys, error):
    """A traceback, or a network or file blamed for what the memory lacks."""
    monkeypatch.setattr(igdm, "train_step", lambda *_: (_ for _ in ()).throw(error))
    assert "--batch" in refused(capsys, "runs/memory")

def test_eval_only(whole, capsys):
    """--eval-only that trains, or measures another network, attack or teacher than its run did."""
    teacher, = Path("runs").glob("teacher-*/student.pt")
    flags = dict(eval_only="runs/a/student.pt", limit_test=40, device="cpu", attacks="clean",
                 eps="20/255")
    assert igdm.main(argv(**flags, teacher=f"{teacher},runs/a/student.pt", out="runs/e")) == 0
    before, after = result("runs/a"), result("runs/e")
    assert after["clean"] == before["clean"] and not Path("runs/e/last.pt").exists()
    for name in ("gd", "point_adv"):
        assert after[f"{name}@{teacher}"] == before[f"{name}@pgd-at"]
    assert after["gd@runs/a/student.pt"]["value"] == pytest.approx(0, abs=1e-4)
    assert igdm.main(argv(**flags, out=teacher.parent)) == run("runs/e") == 2
    assert len(re.findall("holds a(nother)? (training|run)", capsys.readouterr().err)) == 2

def test_benchmark(whole, capsys):
    """A benchmark that leaves a folder behind, or other text than its JSON."""
    assert run("runs/none", benchmark=2) == 0 and not Path("runs/none").exists()
    assert json.loads(capsys.readouterr().out)["step_ms"] > 0

def test_in_a_code_base_with_models_of_its_own():
    """igdm that cannot be imported beside a module called models, or without POSIX's modules."""
    Path("models.py").write_text("ResNet = True\n")
    script = ("import sys; sys.modules.update(dict.fromkeys(['fcntl', 'resource', 'pwd']))\n"
              "import models; models.ResNet\nfrom igdm import igdm_loss, pgd")
    env = os.environ | dict(PYTHONPATH=str(HERE))       # this folder comes before that
    subprocess.run([sys.executable, "-c", script], env=env, check=True)

# ---- Fast, with the same numbers: bf16, torch.compile, CUDA graphs -------------------------------
def one_step(make, flags):
    """A training step at a fixed x_adv (an attack of no steps): sums, gradients, the student."""
    fixed = "--dataset=digits --student=rn18 --method=ard --igdm --alpha=3 --steps=0 --device=cpu"
    cfg, g = igdm.resolve([*fixed.split(), *flags.split()]), igdm.generator("cpu", 0)
    torch.manual_seed(0)
    S, T = make().train(), make().eval().requires_grad_(False)
    x = torch.rand(8, 1, 8, 8, generator=g, dtype=next(S.parameters()).dtype)
    noise, sums = igdm.start_noise("uniform", x, cfg.eps, g), torch.zeros(2, dtype=torch.float64)
    igdm.train_step(*igdm.prepare(S, T, cfg), cfg, cfg.epochs, sums, x, torch.arange(8), noise)
    return sums, [w.grad for w in S.parameters()], [*S.state_dict().values()]

def test_compiled_is_eager():
    """A compiled step that loses a pass, a batch statistic or the gradient of one of the three."""
    def make():
        return models.Net(conv1=models.conv(1, 8), block=models.Block(8, 16, 2),
                          linear=models.Head(16, 10)).double()
    close(one_step(make, "--compile"), one_step(make, "--no-compile"), 1e-7)

def test_bf16():
    """bf16 in losses, gradients, weights, or a last layer, whatever float() does; or not in use."""
    (a, _, _), (b, grads, state) = (one_step(lambda: models.build("rn18", 10, 1), flags)
                                    for flags in ("", "--precision bf16"))
    assert all(value.dtype in (torch.float32, torch.int64) for value in (*grads, *state))
    assert not torch.equal(a, b)
    close(a, b, 0.1, 0.0)
    folded = models.fold(models.build("rn18", 10), precision="bf16")
    assert folded.layer1[0].conv1.weight.dtype == torch.bfloat16
    head, x = folded.linear, torch.rand(2, 512, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(x)
    assert torch.equal(inside, head(x)) and not torch.equal(inside, inside.bfloat16().float())

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@gpu
@pytest.mark.parametrize("flags", [
    {}, dict(precision="fp32", no_compile=True), dict(match="direct"), dict(inner="student")])
def test_on_a_gpu(whole, flags):
    """What waits for the CPU inside a graph, or lies on the other device."""
    out = f"runs/gpu-{'-'.join(flags)}"
    assert run(out, **QUICK | dict(device="cuda", epochs=2, limit_train=128) | flags) == 0
    assert all(math.isfinite(row["loss"]) and row["loss_match"] > 0 for row in log(out))
    assert not any(value.is_cuda for value in torch.load(Path(out, "student.pt")).values())

@gpu
def test_graph_is_the_step(whole):
    """A graph that replays old images or labels, leaves out the optimizer or the copy's refresh."""
    flags = QUICK | dict(device="cuda", epochs=2, limit_train=1024, lr=0.01, precision="fp32")
    assert run("runs/eager", no_compile=True, **flags) == run("runs/graph", **flags) == 0
    eager, graph = ([row["loss"] for row in log(out)] for out in ("runs/eager", "runs/graph"))
    assert graph == pytest.approx(eager, rel=0.05)

# ---- The paper's tables: run_all.sh, and the report ----------------------------------------------
NAMES = ["cifar100-rn18-bdm-" + name for name in ("ard", "ard+igdm", "iad")]
PRINTED = {     # table: how many values the paper prints there, and their sum
    1: (24, 1418.22), 2: (150, 5484.09), 3: (150, 9343.88), 4: (66, 619.723), 5: (66, 14.1813),
    6: (36, 44232.89), 7: (20, 1143.41), 8: (20, 467.469), 9: (33, 932.67), 10: (150, 3475.029),
    11: (150, 5508.07), 12: (150, 3518.729), 13: (150, 5505.659), 14: (70, 1307.786),
    15: (75, 1690.061), 16: (80, 1790.731), 17: (80, 1918.621), 18: (80, 1984.8972)}

def run_all(*words, **env):
    """The exit code of run_all.sh in a copy of its own, and the lines that it prints."""
    shutil.which("bash") or pytest.skip("no bash here")
    shutil.copy(HERE / "run_all.sh", "run_all.sh")
    shutil.copy(HERE / "igdm.py", "igdm.py")
    done = subprocess.run(["bash", "run_all.sh", *words], env=os.environ | env,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout.splitlines()

def commands(*words, **env):
    """What igdm.py makes of the commands that run_all.sh would run."""
    return [igdm.resolve([*shlex.split(line)[2:], "--device=cpu"])
            for line in run_all("--list", *words, **env)[1]]

def test_values_of_the_paper():
    """A printed value left out, doubled, mistyped or without a run; a run of another's folder."""
    found, values = {}, [line.split("\t") for line in run_all("--paper")[1]]
    for table, _, _, _, value in values:
        found.setdefault(int(table.rstrip("h")), []).append(float(value))
    assert {table: (len(column), pytest.approx(sum(column), abs=1e-3))
            for table, column in found.items()} == PRINTED
    names = [re.sub("-s0$", "", cfg.out.name) for cfg in commands()]
    assert len(names) == len({*names}) == 288 and {name for _, name, *_ in values} <= {*names}

def test_names_say_what_is_run():
    """A name that gives another method, term, teacher, data set or alpha; EXTRA or a seed lost."""
    names = "cifar10-mnv2-ltd-adaad+igdm", "cifar100-rn18-bdm-ard-direct-a10"
    a, b = commands(*names, "--seeds", "3", EXTRA="--threads 2")
    assert (a.dataset, a.student, a.teacher, a.method, a.match, a.alpha, a.seed, a.threads) == (
        "cifar10", "mnv2", "ltd", "adaad", "igdm", 10, 3, 2)
    assert (b.method, b.match, b.alpha, b.teacher) == ("ard", "direct", 10, "bdm")
    assert {cfg.dataset for cfg in commands("--smoke") + commands("digits", "demo")} == {"digits"}

def stub(body):
    """What run_all.sh takes for Python: a script; the runs that it is called for are in calls."""
    path = Path("python.sh").absolute()
    path.write_text("#!/usr/bin/env bash\n[[ $1 != igdm.py || $2 = --report ]] || "
                    f"echo ${{@: -1}} >>calls\n{body}\n")
    path.chmod(0o755)
    return dict(PYTHON=str(path))

def test_loop_over_runs():
    """A failure that stops the rest or goes unsaid; finished runs repeated; busy ones failed."""
    python = stub("echo the last word; case $* in *-ard-s0) exit 1;; *-ard+igdm-s0) exit 75;; esac")
    code, lines = run_all(*NAMES, **python)
    assert code == 1 and f"{NAMES[0]}-s0" in lines[-1] and "the last word" in lines[-1]
    assert [path.parent.name for path in Path("runs").glob("*/.done")] == [f"{NAMES[2]}-s0"]
    assert run_all(*NAMES[1:], **python)[0] == 0
    assert Path("calls").read_text().split() == [f"runs/{NAMES[i]}-s0" for i in (0, 1, 2, 1)]

def test_slurm():
    """A run that no task, or more than one, begins."""
    first = dict(SLURM_ARRAY_TASK_MIN="3", SLURM_ARRAY_TASK_COUNT="2", **stub(""))
    codes = [run_all(*NAMES, SLURM_ARRAY_TASK_MAX=last, SLURM_ARRAY_TASK_ID=task, **first)[0]
             for last, task in ("43", "44", "73")]
    assert codes == [0, 0, 2] and len(Path("calls").read_text().split()) == len(NAMES)

@pytest.mark.parametrize("first, calls", [(75, 4), (1, 1)])
def test_a_teacher_and_its_students(first, calls):
    """Students before their teacher, which another process trains, or without; not side by side."""
    python = stub(f"(($(wc -l <calls)>1)) || exit {first}\n[[ $* = *out*demo-a* ]] || exec sleep 1"
                  "\nls runs/*/.done >seen$$; touch demo$$; sleep 3; ls demo* >>seen$$")
    assert run_all("demo", **python)[0] == (first == 1)
    assert len(Path("calls").read_text().split()) == calls
    seen = [len(path.read_text().split()) for path in Path().glob("seen*")]
    assert seen == [3] * (calls // 2)                       # the teacher is done, both are at work

def left_behind(name, training, n=9, images=None, **metrics):
    """A run's folder, as training and evaluation leave it."""
    folder = Path("runs", name)
    folder.mkdir(parents=True)
    row = dict(epoch=1, loss=1.0, clean=50.0, timing=dict(seconds=60, memory_mib=2.0))
    metrics = {key: dict(value=value, n=n) for key, value in metrics.items()}
    pictures = np.random.default_rng(0).random((3, 2, 8, 8, 1))
    igdm.write(folder / "result.json", dict(metrics=metrics, images=images))
    igdm.write(folder / "log.jsonl", [row])
    igdm.write(folder / "config.json", dict(training=training))
    igdm.write(folder / "gradients.npz", dict(zip(("images", "student", "teacher@bdm"), pictures)))

def cells(text, title):
    """Rows of a table in report.md: name -> cells."""
    lines = text.split(f"## {title}")[1].split("##")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]]
                      for line in lines if "|" in line]
    return [dict(zip(head, row)) for row in rows]

def test_report():
    """A mean, deviation, pair or picture of other runs; a gain's error; the paper's value lost."""
    shutil.which("bash") or pytest.skip("no bash here")
    for seed, aa, gd in (0, 20, 0.2), (1, 22, 0.21):
        base = dict(method="ard", lr=0.1, seed=seed, teacher_weights="w", match=None, alpha=0)
        added = base | dict(match="igdm", alpha=9)
        left_behind(f"{NAMES[0]}-s{seed}", base, **{"aa": aa, "gd@bdm": gd, "gd@ltd": 3})
        left_behind(f"{NAMES[1]}-s{seed}", added, **{"aa": 2 * aa - 15, "gd@bdm": 0.1, "gd@ltd": 4})
    left_behind("images-s1", added, images="others", aa=9)          # of no pair, as the next two
    left_behind("other-s0", added | dict(lr=0.2), clean=61.5)
    left_behind("other-s1", added | dict(lr=0.3), clean=50.5)       # no seed of the same training
    left_behind("fewer-s1", added, n=8, aa=9)                       # a pair, but not for aa
    shutil.copytree(f"runs/{NAMES[0]}-s0", "runs/copy-s0")          # no second pair
    Path("runs/foreign").mkdir()
    Path("runs/foreign/result.json").write_text('{"accuracy": 1}')
    assert igdm.main(["--report", "runs"]) == 0
    text = Path("runs/report.md").read_text(encoding="utf-8")
    rows = sorted("|".join(row[key] for key in ("run", "seeds", "aa", "gd@", "clean"))
                  for row in cells(text, "All runs"))
    assert rows == [f"{NAMES[1]}|2|27 ± 2.8|0.1 ± 0|", f"{NAMES[0]}|2|21 ± 1.4|0.205 ± 0.0071|",
                    "copy|1|20|0.2|", "fewer|1|9||", "gain|1|||", "gain|2|6 ± 1|-0.105 ± 0.005|",
                    "images|1|9||", "other|1|||50.5", "other|1|||61.5"]
    row = next(row for row in cells(text, "Table 4") if row["run"] == NAMES[0])
    assert row["aa"] == "21 ± 1.4 / 24.77" and row["gd"].startswith("0.205 ± 0.0071 / ")
    drawn = {path.relative_to("runs").as_posix() for path in Path("runs").rglob("*.png")}
    logs = {path.parent.name for path in Path("runs").glob("*/log.jsonl")}
    pairs = {"fewer-s1", f"{NAMES[1]}-s0", f"{NAMES[1]}-s1"}
    assert drawn == {f"{run}/curves.png" for run in logs} | {
        f"{run}/gradients.png" for run in pairs} | {"autoattack.png"}
