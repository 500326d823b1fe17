"""Tests of igdm.py and models.py: pytest, no network, some minutes on two cores. Each says which bug it would catch."""
import copy
import fcntl
import importlib.util
import itertools
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
import zipfile
from pathlib import Path
from types import SimpleNamespace

GPU = shutil.which("nvidia-smi") and subprocess.run([sys.executable, "-c", "import torch; torch.zeros(1).cuda(); assert torch.cuda.get_device_capability() >= (8, 0)"],
                                                    capture_output=True).returncode == 0 and os.environ.get("CUDA_VISIBLE_DEVICES", "0")
os.environ["CUDA_VISIBLE_DEVICES"] = ""     # what must repeat to the bit does so on a CPU; tests of a GPU are processes of their own

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import igdm  # noqa: E402
from igdm import UserError, models  # noqa: E402


# Every test names the bug that it would catch. First, slow second ways to say what igdm.py says, in float64.

def p(z):
    return z.exp() / z.exp().sum(1, keepdim=True)

def div(s, t):
    return (p(t) * (p(t) / p(s)).log()).sum(1)

def true(z, y):
    return torch.stack([row[label] for row, label in zip(z, y)])

def ce(s, y):
    return -true(p(s), y).log()

def introspect(o, y):
    return (1 - true(p(o.t_adv), y) ** 0.1) * div(o.s_adv, o.s_clean)

def close(ours, theirs, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)

def random_outputs(n=5, classes=4):
    """Logits of every output that a loss may read, and labels."""
    z = torch.randn(6, n, classes, dtype=torch.float64, generator=igdm.generator("cpu", 0))
    names = "s_adv", "s_clean", "s_minus", "t_adv", "t_clean", "t_minus"
    return SimpleNamespace(**{name: one.requires_grad_() for name, one in zip(names, z)}), torch.arange(n) % classes

def net(seed=0, bn=False):
    """A small smooth network for 1x8x8 images, 3 classes; its batch norm, if it has one, is far from the identity."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(4) if bn else nn.Identity()
    for name, low, high in (("weight", 0.5, 1.5), ("running_mean", -0.5, 0.5), ("running_var", 0.2, 2)) if bn else ():
        nn.init.uniform_(getattr(norm, name), low, high)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).double()

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

def settings(flags):
    return igdm.resolve(["--dataset", "cifar10", "--epochs", "10", *f"--method {flags}".split()])

def step(flags, S, T, epoch=1):
    """One step up to the loss: outputs, (base, match), the images of each pass of S in train mode, and of T."""
    cfg, (x, y), loss, seen = settings(flags), batch(), igdm.objective(settings(flags), epoch), ([], [])
    attacked = copy.deepcopy(S).train()                         # eval mode is the attack's own duty
    for model, images in zip((S.train(), T.eval()), seen):
        model.register_forward_pre_hook(lambda _, args, images=images: images.append(args[0].detach().clone()))
    start = igdm.start_noise(igdm.inner_maximisation(cfg)[1], x, cfg.eps, igdm.generator("cpu", 0))
    o = igdm.forward(S, attacked, T, x, y, start, cfg, igdm.outputs_read(loss))
    return o, loss(o, y), *seen


# Losses

LOSSES = [      # flags, epochs finished of 10, what is read, the loss of each image
    ("pgd-at", 0, "s_adv", lambda o, y: ce(o.s_adv, y)),
    ("trades", 0, "s_adv s_clean", lambda o, y: ce(o.s_clean, y) + 6 * div(o.s_adv, o.s_clean)),
    ("ard", 0, "s_adv t_clean", lambda o, y: div(o.s_adv, o.t_clean)),
    ("ard --ard-a 0.5 --ard-t 3", 0, "s_adv s_clean t_clean",
     lambda o, y: 9 * div(o.s_adv / 3, o.t_clean / 3) / 2 + ce(o.s_clean, y) / 2),
    ("ard --ard-a 0.25", 0, "s_adv s_clean t_clean", lambda o, y: (div(o.s_adv, o.t_clean) + 3 * ce(o.s_clean, y)) / 4),
    ("iad", 2, "s_adv t_clean", lambda o, y: div(o.s_adv, o.t_clean)),
    ("iad", 3, "s_adv s_clean t_adv t_clean", lambda o, y: div(o.s_adv, o.t_clean) + introspect(o, y)),
    ("akd", 0, "s_adv t_adv", lambda o, y: -((p(o.t_adv) + torch.eye(4)[y]) / 2 * p(o.s_adv).log()).sum(1)),
    ("akd --akd-lambda 0.75", 0, "s_adv t_adv",
     lambda o, y: -((3 * p(o.t_adv) + torch.eye(4)[y]) / 4 * p(o.s_adv).log()).sum(1)),
    ("rslad", 0, "s_adv s_clean t_clean", lambda o, y: (5 * div(o.s_adv, o.t_clean) + div(o.s_clean, o.t_clean)) / 60),
    ("adaad", 0, "s_adv t_adv", lambda o, y: div(o.s_adv, o.t_adv)),
    ("adaad --adaad-lambda 0.25", 0, "s_adv s_clean t_adv t_clean",
     lambda o, y: div(o.s_adv, o.t_adv) / 4 + div(o.s_clean, o.t_clean) * 3 / 4),
    ("adaiad", 2, "s_adv t_adv", lambda o, y: div(o.s_adv, o.t_adv)),
    ("adaiad", 3, "s_adv s_clean t_adv", lambda o, y: div(o.s_adv, o.t_adv) + introspect(o, y)),
    ("adaiad --adaiad-t 3", 3, "s_adv s_clean t_adv",
     lambda o, y: 9 * div(o.s_adv / 3, o.t_adv / 3) + introspect(o, y)),
]

@pytest.mark.parametrize("flags, done, reads, formula", LOSSES)
def test_base_loss(flags, done, reads, formula):
    """A wrong coefficient, target, reduction or temperature; a target detached where the gradient belongs to it."""
    loss, (o, y) = igdm.objective(settings(flags), done + 1), random_outputs()
    (ours, match), theirs = loss(o, y), formula(o, y).mean()
    close(ours, theirs)
    assert match == 0 and igdm.outputs_read(loss) == {*reads.split()}
    for name, z in list(vars(o).items())[:6]:
        a, b = (torch.autograd.grad(value, z, retain_graph=True, allow_unused=True)[0] for value in (ours, theirs))
        assert (a is not None) >= (name[0] == "s" and name in reads) and (a is None) >= (name not in reads)
        if name[0] == "s" and name in reads:
            close(a, b)
            assert a.abs().max() > 1e-3

def test_every_method_is_in_the_tables_here():
    """A base method added without a test of its loss and of its attack."""
    assert {row[0].split()[0] for row in LOSSES} == {*igdm.METHODS} == {flags.split()[0] for flags in INNER}

def test_kl_underflow():
    """NaN in the target's gradient where its softmax underflows, 0 * log 0: a NaN image in adaad's attack."""
    s, t = torch.zeros(1, 3, requires_grad=True), torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    value = igdm.kl(s, t)
    close(value.item(), np.log(3), rtol=1e-6)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (s, t)))

def l2(s, t):
    return ((s - t) ** 2).sum(1).sqrt()

SURROGATES = {"kl": div, "l1": lambda s, t: (s - t).abs().sum(1), "l2": l2}
WEIGHTS = torch.randn(2, 3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

@pytest.mark.parametrize("surrogate", SURROGATES)
def test_igdm_of_linear_models(surrogate):
    """Eq. 8: a swapped sign or pair, a missing factor 2, student and teacher exchanged, x - delta clamped to [0, 1]."""
    (W, V), (x, _), flags = WEIGHTS, batch(), f"pgd-at --igdm --alpha 10 --surrogate {surrogate}"
    _, (_, match), (x_adv, _, x_minus), t_seen = step(flags, linear(W), linear(V))      # epoch 1 of 10: T(alpha) is 1
    delta = (x_adv - x).flatten(1)
    close(match, SURROGATES[surrogate](2 * delta @ W.T, 2 * delta @ V.T).mean())
    close(x_minus, 2 * x - x_adv)
    close(t_seen[-1], torch.cat([x_adv, x_minus]))
    assert x_minus.min() < -0.03 and x_minus.max() > 1.03 and x_adv.min() >= 0 and x_adv.max() <= 1

@pytest.mark.parametrize("surrogate", SURROGATES)
def test_igdm_gradient(surrogate):
    """Gradient into the teacher, or into one of the student's two outputs only; a term that is not 0 at S = T."""
    o, _ = random_outputs()
    outputs = o.s_adv, o.s_minus, o.t_adv, o.t_minus
    s_plus, s_minus, *teacher = torch.autograd.grad(igdm.igdm_loss(*outputs, surrogate), outputs, allow_unused=True)
    assert s_plus.abs().max() > 0.01 and torch.equal(s_plus, -s_minus) and teacher == [None, None]
    close(igdm.igdm_loss(o.s_adv, o.s_minus, o.s_adv, o.s_minus, surrogate).item(), 0.0)

@pytest.mark.parametrize("match, formula", [("igdm", lambda o: div(o.s_adv - o.s_minus, o.t_adv - o.t_minus)),
                                            ("trades-reg", lambda o: div(o.s_adv, o.s_clean)),
                                            ("trades-like", lambda o: div(o.s_adv, o.s_minus))])
@pytest.mark.parametrize("ramp, epoch, weight", [(300, 1, 4 / 300), (300, 150, 2), (300, 300, 4), (200, 300, 6)])
def test_added_term(match, formula, ramp, epoch, weight):
    """T(alpha) that starts at 0, ends early or steps too late; a wrong term of table 16; the base loss weighed too."""
    cfg = settings(f"pgd-at --epochs 300 --alpha 4 --match {match}" + " --ramp-epochs 200" * (ramp == 200))
    o, y = random_outputs()
    base, added = igdm.objective(cfg, epoch)(o, y)
    close(base, ce(o.s_adv, y).mean())
    close(added, weight * formula(o).mean())

def test_direct_matching():
    """Eq. 11: no gradient, for want of a double backward; another distance; another loss; one model twice."""
    S, T, (x, y), theirs = net(1), net(2), batch(), 0
    _, (_, ours), _, _ = step("pgd-at --match direct --alpha 10", S, T)         # epoch 1 of 10: T(alpha) is 1
    for image, label in zip(x.split(1), y.split(1)):
        image = image.clone().requires_grad_()
        s, t = (torch.autograd.grad(ce(f(image), label).sum(), image, create_graph=True)[0] for f in (S, T))
        theirs = theirs + ((s - t) ** 2).sum() / len(x)
    close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(value, list(S.parameters())) for value in (ours, theirs))):
        close(a, b)


# Settings

SETTINGS = [    # command, settings, what must be said about alpha
    ("--method rslad --igdm --student mnv2", dict(
        dataset="cifar100", teacher="bdm", alpha=4, epochs=300, drops=[215, 260, 285], ramp_epochs=300, batch=128,
        lr=0.1, weight_decay=5e-4, eps=8 / 255, step_size=2 / 255, steps=10, surrogate="kl", inner="teacher",
        augment="crop-flip"), ""),
    ("--method ard --igdm --student mnv2", dict(epochs=200, drops=[100, 150], alpha=70), ""),
    ("--dataset cifar10 --igdm", dict(epochs=300, drops=[215, 260, 285], alpha=0.9, student="rn18"), ""),
    ("--dataset digits --igdm", dict(alpha=1, student="mnv2"), "ours"),
    ("--dataset svhn --igdm", dict(epochs=50, drops=[40, 45], teacher="pgd-at", alpha=3, student="rn18"), ""),
    ("--dataset tiny-imagenet --method trades", dict(epochs=100, drops=[50, 80], student="parn18", teacher=None), ""),
    ("--dataset tiny-imagenet --igdm --teacher pgd-at", dict(teacher="pgd-at", alpha=1),
     "parn18, rift, the paper's nearest to tiny-imagenet, parn18, pgd-at"),
    ("--method ard --epochs 20", dict(drops=[10, 15]), ""),
    ("--epochs 30", dict(drops=[22, 26, 29], ramp_epochs=30), ""),
    ("--epochs 30 --drops 5,7 --ramp-epochs 9 --igdm", dict(drops=[5, 7], ramp_epochs=9, alpha=10), ""),
    ("--method adaad --igdm --dataset cifar10 --teacher ltd2", dict(alpha=5, teacher="ltd2"), "cifar10, rn18, ltd"),
    ("--method adaad --igdm --teacher robustbench:X", dict(alpha=15), "cifar100, rn18, ltd"),
    ("--method adaad --igdm", dict(alpha=70), ""), ("--method adaiad --igdm", dict(alpha=70), ""),
    ("--method adaad --igdm --alpha 2", dict(alpha=2), ""), ("--igdm --alpha 0 --teacher pgd-at", dict(alpha=0), ""),
    ("--match direct", dict(alpha=10), "ablation"), ("--match trades-reg", dict(alpha=20), "ablation"),
    ("--match trades-like --method trades", dict(alpha=10, teacher=None), "ablation"),
    ("--method pgd-at", dict(alpha=0, teacher=None), ""),
    ("--method pgd-at --igdm", dict(alpha=220, teacher="bdm"), ""),
    ("--method adaad --inner student", dict(inner="student", teacher="bdm"), ""),
    ("--eps 4/255 --lr 1/4 --batch 32", dict(eps=4 / 255, step_size=1 / 255, lr=0.25, batch=32), ""),
    ("--weight-decay 2e-4 --augment none", dict(weight_decay=2e-4, augment="none"), ""),
    ("--dataset digits", dict(aa_n=100), ""), ("--method pgd-at --dataset cifar10", dict(aa_n=None), ""),
    ("--igdm --method pgd-at --student parn18 --teacher ikl", dict(alpha=100), "cifar100, rn18, ikl,"),
    ("--igdm --method pgd-at --dataset cifar100 --student mnv2 --teacher pgd-at", dict(alpha=150), "cifar100, mnv2, ltd,"),
]

@pytest.mark.parametrize("command, expected, said", SETTINGS)
def test_settings(command, expected, said, capsys):
    """A default that is not the paper's; a flag without effect; an alpha taken from elsewhere without a word."""
    cfg = vars(igdm.resolve(command.split()))
    assert {name: cfg[name] for name in expected} == expected
    told = capsys.readouterr().err
    assert said in told and bool(said) == bool(told)

def test_alpha_table():
    """A digit of B.2 mistyped: every row and every column is summed."""
    rows = [row for key, row in igdm.ALPHA.items() if key[0] != "digits"]
    assert [sum(row) for row in rows] == pytest.approx(
        [480, 355, 243, 374, 363, 303, 150.9, 151, 147.9, 124.2, 134.9, 156.5, 202, 101])
    assert [sum(column) for column in zip(*rows)] == pytest.approx([1340, 149.7, 572, 560, 302, 48.7, 314])

def test_restarts():
    """C&W with the restarts of the quick digits everywhere, or the other way round."""
    assert {name: preset.cw_restarts for name, preset in igdm.DATASETS.items() if name != "digits"} == dict.fromkeys(
        ("cifar10", "cifar100", "svhn", "tiny-imagenet"), 10)
    assert igdm.resolve(["--dataset", __file__ + ".npz", "--method", "pgd-at"]).preset.cw_restarts == 10

FAST = [    # command, precision, compiled and replayed: on a GPU
    ("--method ard --teacher bdm", "bf16", True), ("--method pgd-at --student toy:net", "tf32", False),
    ("--method ard --teacher robustbench:X", "tf32", False), ("--method ard --teacher own/student.pt", "tf32", False),
    ("--method ard --teacher own/student.pt --teacher-arch rn18", "bf16", True),
    ("--method pgd-at --teacher own/student.pt,robustbench:X", "bf16", True), ("--method ard --match direct", "bf16", False),
    ("--method ard --no-compile --precision fp32", "fp32", False), ("--eval-only own/student.pt --student rn18", "fp32", False),
]

@pytest.mark.parametrize("command, precision, compiled", FAST)
def test_precision_on_a_gpu(tmp_path, monkeypatch, command, precision, compiled):
    """bf16 in the last layer of a network of others; a teacher that is only measured against that changes the training."""
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/student.pt").touch()
    Path("own/config.json").write_text(json.dumps(dict(training=dict(student="pkg.mod:net", dataset="cifar100"))))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cfg = igdm.resolve([*command.split(), "--device", "cuda"])
    assert (cfg.precision, cfg.compile, cfg.graphs, cfg.device) == (precision, compiled, compiled, "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))     # before Ampere, perhaps without Triton
    cfg = igdm.resolve([*command.split(), "--device", "cuda"])
    assert (cfg.precision, cfg.compile) == ("fp32", False)

def test_refused_on_a_gpu(monkeypatch):
    """bf16 that an old GPU emulates, slowly; TF32 in config.json where there is none; a graph of a network that looks at the
    CPU; the second of two processes on one GPU with a traceback."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for precision in ("bf16", "tf32"):
        with pytest.raises(UserError, match="Ampere"):
            igdm.resolve(f"--method pgd-at --device cuda --precision {precision}".split())
    assert igdm.resolve("--method pgd-at --device cpu --precision bf16".split()).precision == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cfg = igdm.resolve("--method pgd-at --student toy:net --compile --device cuda".split())
    assert cfg.compile and not cfg.graphs
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="cuda:1: there is cpu, cuda:0"):
        igdm.resolve("--method pgd-at --device cuda".split())

@pytest.mark.parametrize("method", ["iad", "adaiad"])
@pytest.mark.parametrize("flags, last", [("--epochs 200", 60), ("--epochs 50", 15), ("--epochs 10", 3),
                                         ("--epochs 10 --METHOD-begin 0.5", 5)])
def test_begin(method, flags, last):
    """The introspection term an epoch early or late, or not in proportion to --epochs."""
    cfg = igdm.resolve(f"--method {method} {flags.replace('METHOD', method)}".split())
    reads = [igdm.outputs_read(igdm.objective(cfg, epoch)) for epoch in (1, last, last + 1)]
    assert ["s_clean" in names for names in reads] == [False, False, True]


# Attacks

INNER = {       # start, and the objective of each image at a, S in eval mode
    **dict.fromkeys(("pgd-at", "ard", "iad", "akd", "rslad --inner student", "adaad --inner student",
                     "adaiad --inner student"), ("uniform", lambda S, T, x, y, a: ce(S(a), y))),
    "trades": ("gaussian", lambda S, T, x, y, a: div(S(a), S(x))),
    "rslad": ("gaussian", lambda S, T, x, y, a: div(S(a), T(x))),
    "adaad": ("gaussian", lambda S, T, x, y, a: div(S(a), T(a))),
    "adaiad": ("gaussian", lambda S, T, x, y, a: div(S(a), T(a))),
}

@pytest.mark.parametrize("flags", INNER)
def test_attack(flags):
    """Eq. 14-17: another objective, target, start or projection, a target of train-mode statistics; --inner ignored."""
    S, T, (x, y), (start, f) = net(1, bn=True), net(2, bn=True).eval(), batch(), INNER[flags]
    eps, frozen, noise, g = 8 / 255, copy.deepcopy(S).eval(), torch.empty_like(x), igdm.generator("cpu", 0)
    a = x + (noise.uniform_(-eps, eps, generator=g) if start == "uniform" else 0.001 * noise.normal_(generator=g))
    for _ in range(10):
        a = a.detach().clip(0, 1).requires_grad_()
        f(frozen, T, x, y, a).sum().backward(inputs=[a])
        a = x + (a + 2 / 255 * a.grad.sign() - x).clip(-eps, eps)
    close(step(flags, S, T)[2][0], a.detach().clip(0, 1))

def test_adaad_attack_goes_through_the_teacher():
    """T detached in adaad's inner maximisation."""
    S, T, (x, y) = net(1), net(2), batch()
    a = (x + 0.01).requires_grad_()
    ours, = torch.autograd.grad(igdm.attack_adaad(S, T, x, y, None)(a), a)
    both, half = (torch.autograd.grad(div(S(a), t).mean(), a)[0] for t in (T(a), T(a).detach()))
    close(ours, both)
    assert (both.sign() != half.sign()).any()

def test_pgd():
    """Images that leave the ball or [0, 1]; descent; a generator that is not used; gradient kept on the result."""
    S, (x, y), eps = net(), batch(8), 8 / 255
    a, b, c = (igdm.pgd(S, x, lambda a: ce(S(a), y).sum(), g=igdm.generator("cpu", key)) for key in (0, 0, 1))
    assert a.min() >= 0 and a.max() <= 1 and eps - 1e-9 < (a - x).abs().max() < eps + 1e-9 and not a.requires_grad
    assert (ce(S(a), y) > ce(S(x), y)).all() and torch.equal(a, b) and not torch.equal(a, c)

@pytest.mark.parametrize("step", [4 / 255, 8 / 255])
def test_one_step(step):
    """FGSM: a wrong step, sign or start; eps in place of the step."""
    S, (x, y) = net(), batch()
    a = x.clone().requires_grad_()
    ce(S(a), y).sum().backward(inputs=[a])
    close(igdm.pgd(S, x, lambda a: ce(S(a), y).sum(), 8 / 255, step, 1, None), (x + step * a.grad.sign()).clip(0, 1))

@pytest.mark.parametrize("start, std, largest", [("uniform", 0.0577, 0.1), ("gaussian", 0.001, 0.006), (None, 0, 0)])
def test_start(start, std, largest):
    """A start of another size, or one-sided, or one number per image."""
    x = torch.full((20, 1, 30, 30), 0.5)
    noise = igdm.pgd(net(), x, None, 0.1, steps=0, start=start, g=igdm.generator("cpu", 0)) - x
    assert noise.std().item() == pytest.approx(std, rel=0.03) and abs(noise.mean()) <= std / 30
    assert 0.6 * largest <= noise.max() <= largest + 1e-6 and -largest - 1e-6 <= noise.min() <= -0.6 * largest

def test_mistyped():
    """A start that is silently none; another norm than the one that was meant."""
    with pytest.raises(ValueError, match="unifrom"):
        igdm.pgd(net(), torch.zeros(1, 1, 8, 8), None, start="unifrom")
    with pytest.raises(KeyError, match="l3"):
        igdm.igdm_loss(*torch.zeros(4, 1, 3), surrogate="l3")

def test_attacks_leave_the_model_alone():
    """Moved batch-norm statistics, gradient added to the weights, a frozen module set to train, or after an error."""
    S, (x, y) = net(bn=True).append(nn.BatchNorm1d(3).double()), batch()
    S[-1].eval()
    S[0].bias.grad = torch.ones(4).double()

    def snapshot():
        return [[m.training for m in S.modules()], [v.tolist() for v in S.state_dict().values()],
                [(w.requires_grad, w.grad if w.grad is None else w.grad.tolist()) for w in S.parameters()]]
    before = snapshot()
    with torch.no_grad():
        igdm.pgd(S, x, lambda a: ce(S(a), y).sum())
        igdm.cw(S, x, y, 0.1, 0.02, 2, 2)
    assert snapshot() == before
    with pytest.raises(ZeroDivisionError):
        igdm.pgd(S, x, lambda a: 1 / 0)
    assert snapshot() == before

def test_cw(monkeypatch):
    """Another margin; images moved once they are wrong; of the restarts the last or the lowest cross-entropy kept."""
    S, (x, _), eps, step, g = net(3), batch(12), 0.1, 0.03, igdm.generator("cpu", 0)
    y = S(x).argmax(1)
    y[::4] = (y[::4] + 1) % 3                                   # wrong from the start
    runs = [(x + torch.empty_like(x).uniform_(-eps, eps, generator=g)).clip(0, 1) for _ in range(3)]
    for a, _, i in itertools.product(runs, range(5), range(len(x))):
        image = a[i:i + 1].clone().requires_grad_()
        z = S(image)[0]
        if z.argmax() == y[i]:
            (max(z[j] for j in range(3) if j != y[i]) - z[y[i]]).backward(inputs=[image])
            a[i] = (x[i] + (a[i] + step * image.grad[0].sign() - x[i]).clip(-eps, eps)).clip(0, 1)
    best = torch.stack([ce(S(a), y) for a in runs]).argmax(0).tolist()
    assert {*best} == {0, 1, 2}
    ours = igdm.cw(S, x, y, eps, step, 5, 3, igdm.generator("cpu", 0))
    close(ours, torch.stack([runs[k][i] for i, k in enumerate(best)]))
    broken = nn.Sequential(S)
    broken.forward = lambda z: S(z) * (1 if torch.equal(z, x) else math.nan)
    assert broken(igdm.cw(broken, x, y, eps, step, 2, 2, g)).isnan().all()     # or they would count as robust
    ends = []
    monkeypatch.setattr(igdm, "pgd", lambda *given: ends.append(x + 1 + len(ends)) or ends[-1])
    broken.forward = lambda z: S(x) * (math.nan if torch.equal(z, x + 2) else 1)
    assert torch.equal(igdm.cw(broken, x, y, eps, step, 2, 3, g), ends[1])      # not what a later restart finds


# A training step

def test_passes_and_batch_norm():
    """Student passes in one batch, in another order, in eval mode or twice: other statistics at test time."""
    S, T, (x, _) = net(1, bn=True), net(2, bn=True).eval(), batch()
    twin = copy.deepcopy(S).train()
    o, _, s_seen, _ = step("rslad --igdm", S, T)
    for name, image in (("adv", s_seen[0]), ("clean", x), ("minus", 2 * x - s_seen[0])):
        close(vars(o)[f"s_{name}"], twin(image))
        assert not vars(o)[f"t_{name}"].requires_grad
        close(vars(o)[f"t_{name}"], T(image).detach())
    for ours, theirs in zip(S.buffers(), twin.buffers()):
        close(ours, theirs)
    assert S[1].num_batches_tracked == 3

CALLS = [       # flags, epoch, images in each of T's passes, passes of S, S(x) with gradient; the attack has 2 steps
    ("pgd-at", 1, [], 2, False), ("trades", 1, [], 2, True), ("ard", 1, [4], 2, False), ("iad", 3, [4], 2, False),
    ("ard --ard-a 0.5", 1, [4], 2, True), ("iad", 4, [4, 4], 2, True), ("akd", 1, [4], 2, False),
    ("rslad", 1, [4], 2, True), ("adaad", 1, [4, 4, 4], 2, False), ("adaad --inner student", 1, [4], 2, False),
    ("adaad --adaad-lambda 0.5", 1, [4, 4, 4, 4], 2, True), ("adaiad", 4, [4, 4, 4], 2, True),
    ("pgd-at --igdm", 1, [8], 3, False), ("iad --igdm", 4, [4, 8], 3, True), ("rslad --igdm", 1, [4, 8], 3, True),
    ("adaad --igdm", 1, [4, 4, 8], 3, False), ("pgd-at --match direct", 1, [4], 2, True),
    ("ard --match trades-reg", 1, [4], 2, True), ("ard --match trades-like", 1, [4], 3, False),
]

@pytest.mark.parametrize("flags, epoch, t_rows, s_passes, learns", CALLS)
def test_nothing_is_computed_in_vain(flags, epoch, t_rows, s_passes, learns):
    """Teacher passes that no loss reads or could share a batch; a student pass too many, too few or taped in vain."""
    o, _, s_seen, t_seen = step(f"{flags} --steps 2", net(1, bn=True), net(2, bn=True), epoch)
    assert [*map(len, t_seen)] == t_rows and [*map(len, s_seen)] == [4] * s_passes
    assert o.s_clean.requires_grad == learns and o.s_adv.requires_grad and (s_passes == 2 or o.s_minus.requires_grad)

def test_train_is_the_plain_loop(tmp_path, monkeypatch):
    """An optimizer, schedule, order, augmentation, start, radius, step or ramp in train that is not what the flags say; an
    attack on the weights of an earlier step; sums that run on over epochs; a loss that is logged, but not learnt from."""
    cfg = igdm.resolve(("--method rslad --igdm --alpha 20 --teacher pgd-at --dataset digits --student wrn-10-1 --epochs 3 "
                        "--drops 2 --batch 8 --lr 0.05 --weight-decay 0.01 --eps 12/255 --step-size 5/255 --steps 2 --seed 3 "
                        "--augment crop-flip --probe 0 --device cpu --out").split() + [str(tmp_path)])
    monkeypatch.setattr(igdm, "to_float", lambda x: x.double() / 255)
    data, (S, T) = noise_images(), (shaken("wrn-10-1", 3, channels=1).double() for _ in range(2))
    twin, T, speed = copy.deepcopy(S).train(), T.eval(), [0] * 99
    igdm.train(S, T, data, cfg, SimpleNamespace(signal=None))
    for epoch, lr in ((1, 0.05), (2, 0.05), (3, 0.005)):
        order, logged = torch.randperm(20, generator=igdm.generator("cpu", 3, epoch)), []
        for step in range(2):                                   # the last 4 of the 20 are dropped
            index, g = order[8 * step:8 * step + 8], igdm.generator("cpu", 3, epoch, step)
            x = igdm.augment(data.x_train[index], "crop-flip", g).double() / 255
            frozen, a = copy.deepcopy(twin).eval(), x + 0.001 * torch.empty_like(x).normal_(generator=g)
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
            for i, (w, d) in enumerate(zip(params, torch.autograd.grad(base + match, params))):
                speed[i] = 0.9 * speed[i] + d + 0.01 * w.detach()
                w.data -= lr * speed[i]
        row = igdm.read_own(tmp_path / "log.jsonl")[epoch - 1]
        assert [row["loss_base"], row["loss_match"]] == pytest.approx(np.mean(logged, 0).tolist(), rel=1e-6)
        assert row["lr"] == pytest.approx(lr)
    for name, value in S.state_dict().items():
        close(value, twin.state_dict()[name], 1e-6, 1e-9)

def test_batch_has_its_own_labels():
    """Labels of other images: rslad, adaad do not read them, and learn as before."""
    data, index = noise_images(), torch.tensor([5, 0, 10])
    cfg = igdm.resolve("--method pgd-at --dataset digits --augment none --device cpu".split())
    x, y, _ = igdm.make_batch(data, index, cfg, igdm.generator("cpu", 0))
    assert torch.equal(x, igdm.to_float(data.x_train[index])) and y.tolist() == data.y_train[index].tolist() == [2, 0, 1]

# Data

@pytest.mark.parametrize("kind", ["crop-flip", "crop", "none"])
@pytest.mark.parametrize("side, pad", [(8, 1), (32, 4), (64, 8)])
def test_augment(kind, side, pad):
    """An offset or flip that never occurs, or is one for the whole batch; against every crop, cut out one by one."""
    image, crops = np.arange(1, side * side * 2 + 1, dtype=np.int32).reshape(2, side, side), {}
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    for top, left in itertools.product(range(2 * pad + 1), repeat=2):
        crop = padded[:, top:top + side, left:left + side]
        crops |= {crop.tobytes(): (top, left, False), crop[:, :, ::-1].tobytes(): (top, left, True)}
    x = torch.from_numpy(np.stack([image] * 600))
    ours, again = (igdm.augment(x, kind, igdm.generator("cpu", 0)) for _ in range(2))
    drawn = [crops[one.tobytes()] for one in map(np.ascontiguousarray, ours.numpy())]
    tops, lefts, flips = zip(*drawn)
    assert torch.equal(ours, again) and {*tops} == {*lefts} == ({*range(2 * pad + 1)} if kind != "none" else {pad})
    assert 0.4 < np.mean(flips) < 0.6 if kind == "crop-flip" else not any(flips)
    assert len({*drawn}) > (100 if pad > 1 else 17) or kind != "crop-flip"      # row, column and flip each on their own
    each = torch.arange(1, 6).view(5, 1, 1, 1).expand(5, 1, side, side)         # no image in the place of another
    assert igdm.augment(each, kind, igdm.generator("cpu", 1)).amax((1, 2, 3)).tolist() == [1, 2, 3, 4, 5]

def test_augment_keeps_its_proportions():
    """A padding by the height on both sides: narrow images that are mostly black."""
    x = igdm.augment(torch.ones(500, 1, 80, 8), "crop-flip", igdm.generator("cpu", 0))
    assert (x.sum((2, 3)).min(), x.sum((2, 3)).max()) == (70 * 7, 80 * 8) and x.shape == (500, 1, 80, 8)

def test_to_float():
    """Images in another range than [0, 1], or rounded on the way."""
    x = igdm.to_float(torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16))
    assert x.dtype == torch.float32 and x.flatten().tolist() == [np.float32(i) / np.float32(255) for i in range(256)]

@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_balanced_subset(order):
    """The first images of data that are sorted by class; a subset that changes; indices repeated or not ascending."""
    y = np.repeat(np.arange(4), (50, 60, 70, 5))
    y = y if order == "sorted" else np.random.default_rng(1).permutation(y)
    keep = igdm.balanced_subset(y, 18)
    assert (np.diff(keep) > 0).all() and sorted(np.bincount(y[keep])) == [4, 4, 5, 5] and np.ptp(keep[y[keep] == 2]) > 5
    assert np.bincount(y[igdm.balanced_subset(y, 50)]).tolist() == [15, 15, 15, 5]
    assert (keep == igdm.balanced_subset(y, 18)).all() and len(igdm.balanced_subset(y, 999)) == 185

def arrays(**other):
    """A data set of 3 classes, 24 images 8x8 to train and 12 to test; others in place of these, None leaves one out."""
    x, y = np.random.default_rng(0).integers(0, 256, (36, 8, 8), dtype=np.uint8), np.arange(36) % 3
    parts = dict(x_train=x[:24], y_train=y[:24], x_test=x[24:], y_test=y[24:]) | other
    return {name: value for name, value in parts.items() if value is not None}

def noise_images(n=20, channels=1, classes=3):
    """n images 8x8 of noise to train, the first 12 of them to test, as igdm.Data."""
    x = torch.randint(256, (n, channels, 8, 8), dtype=torch.uint8, generator=igdm.generator("cpu", 0))
    return igdm.Data(x, torch.arange(n) % classes, x[:12], torch.arange(12) % classes, classes)

@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_good_npz(tmp_path, channels):
    """A layout that is refused or misread: columns for rows, channels for rows; a class lost by --limit-train."""
    x = np.random.default_rng(0).integers(0, 256, (36, 8, 10, *channels), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", **arrays(x_train=x[:24], x_test=x[24:], y_train=np.arange(24, dtype=np.uint8) % 3))
    data = igdm.load_data(str(tmp_path / "d.npz"), tmp_path, limit_train=2)
    assert data.classes == 3 and len({*data.y_train.tolist()}) == 2 and data.y_test.tolist() == [0, 1, 2] * 4
    assert data.x_train.shape == (2, *(channels or (1,)), 8, 10) and data.y_train.dtype == torch.int64
    assert data.x_test.dtype == torch.uint8 and data.x_test[5, -1, 7, 2] == x[29, 7, 2].flat[-1]

def test_labels_from_1(tmp_path, capsys):
    """A class without images that nobody hears of."""
    for first, said in ((0, ""), (1, "no training image has label 0")):
        np.savez(tmp_path / "d.npz", **arrays(y_train=np.arange(24) % 3 + first))
        igdm.read_npz(tmp_path / "d.npz")
        told = capsys.readouterr().err
        assert said in told and bool(said) == bool(told)

IMAGES = arrays()["x_train"]
BAD_NPZ = {     # what is in the file, and what the message must name
    "objects": (dict(x_train=np.array([{}] * 24)), "allow_pickle"),
    "float images": (dict(x_train=IMAGES / 255), "x_train is float64"),
    "5-d": (dict(x_train=IMAGES[:, :, :, None, None]), "x_train is uint8 (24, 8, 8, 1, 1)"),
    "flat": (dict(x_train=IMAGES.reshape(24, 64)), "x_train is uint8 (24, 64)"),
    "channels first": (dict(x_train=np.zeros((24, 3, 32, 32), np.uint8)), "x_train is uint8 (24, 3, 32, 32)"),
    "4 channels": (dict(x_train=np.zeros((24, 8, 8, 4), np.uint8)), "x_train is uint8 (24, 8, 8, 4)"),
    "too small": (dict(x_train=IMAGES[:, :4, :4]), "x_train is uint8 (24, 4, 4)"),
    "empty": (dict(x_test=IMAGES[:0], y_test=np.arange(0)), "x_test is uint8 (0, 8, 8)"),
    "other size": (dict(x_test=np.zeros((12, 10, 10), np.uint8)), "x_test is uint8 (12, 10, 10)"),
    "label count": (dict(y_train=np.arange(23) % 3), "y_train is int64 (23,)"),
    "one-hot": (dict(y_train=np.eye(24, 3, dtype=int)), "y_train is int64 (24, 3)"),
    "float labels": (dict(y_train=np.arange(24) % 3 / 1), "y_train is float64"),
    "negative": (dict(y_train=np.arange(24) % 3 - 1), "y_train is int64"),
    "label only in test": (dict(y_test=np.arange(12) % 4), "y_test is int64"),
    "missing": (dict(y_test=None), "y_test"),
    "one class": (dict(y_train=np.zeros(24, int), y_test=np.zeros(12, int)), "only one class"),
    "truncated": ({}, "BadZipFile"), "no zip": ({}, "d.npz"), "no file": ({}, "No such file"),
}

@pytest.mark.parametrize("name", BAD_NPZ)
def test_bad_npz(tmp_path, name):
    """A broken data set that is trained on, or ends in a traceback; a pickle in it that is loaded."""
    path, (content, fragment) = tmp_path / "d.npz", BAD_NPZ[name]
    np.savez(path, **arrays(**content))
    if name in ("truncated", "no zip"):
        path.write_bytes(path.read_bytes()[:-300] if name == "truncated" else b"hello")
    if name == "no file":
        path.unlink()
    with pytest.raises(UserError) as error:
        igdm.read_npz(path)
    assert fragment in str(error.value) and "d.npz" in str(error.value) and "\n" not in str(error.value)

def test_digits_are_packed_once(tmp_path, monkeypatch):
    """A data set read anew from its source in every run; a split that loses images or a class; wrong grey levels."""
    first = igdm.load_data("digits", tmp_path / "new" / "data")
    monkeypatch.setattr(igdm, "read_original", None)
    second = igdm.load_data("digits", tmp_path / "new" / "data")
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4])) and first.classes == second.classes == 10
    assert [path.name for path in tmp_path.rglob("*.*")] == ["digits.npz"] and first.x_train.shape == (1437, 1, 8, 8)
    assert first.y_test.bincount().tolist() == pytest.approx([36] * 10, abs=2) and first.x_train.dtype == torch.uint8
    assert first.x_test.unique().tolist() == [round(level * 255 / 16) for level in range(17)]

def test_svhn_as_torchvision_reads_it(tmp_path, monkeypatch):
    """Images that are transposed, channels for rows; the test set in the place of the training set."""
    from torchvision import datasets
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    monkeypatch.setattr(datasets, "SVHN", lambda folder, split, download: SimpleNamespace(
        data=x if split == "train" else 255 - x, labels=np.arange(2) + (split == "test")))
    x_train, y_train, x_test, y_test = igdm.read_original("svhn", tmp_path)
    assert x_train[1, 5, 7].tolist() == x[1, :, 5, 7].tolist() and (x_test == 255 - x_train).all()
    assert y_train.tolist() == [0, 1] and y_test.tolist() == [1, 2]

def test_tiny_imagenet_as_it_is_zipped(tmp_path, monkeypatch):
    """Labels in the order of the archive; a grey image; the validation set with the labels of other images."""
    from PIL import Image
    colors = {"train/n02/images/n02_0.JPEG": 200, "train/n01/images/n01_0.JPEG": 100, "val/images/val_0.JPEG": 50,
              "val/images/val_1.JPEG": 150}
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        for name, level in colors.items():
            with archive.open(f"tiny-imagenet-200/{name}", "w") as file:
                Image.new("L" if level == 200 else "RGB", (64, 64), level if level == 200 else (level, 0, 0)).save(file, "JPEG")
        archive.writestr("tiny-imagenet-200/wnids.txt", "n02\nn01\n")
        archive.writestr("tiny-imagenet-200/val/val_annotations.txt",
                         "val_1.JPEG\tn01\t0\t0\t62\t62\nval_0.JPEG\tn02\t0\t0\t62\t62\n")
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *_, **__: None)
    x_train, y_train, x_test, y_test = igdm.read_original("tiny-imagenet", tmp_path)
    assert x_train.shape == x_test.shape == (2, 64, 64, 3) and y_train == [0, 1] and y_test == [0, 1]
    for images, levels in ((x_train, [100, 200]), (x_test, [150, 50])):
        assert images[:, 9, 9, 0].tolist() == pytest.approx(levels, abs=3)
    assert x_train[1, 9, 9].tolist() == [200] * 3

@pytest.mark.parametrize("name, url", [("cifar10", "cifar-10-python.tar.gz"), ("cifar100", "cifar-100-python.tar.gz"),
                                       ("svhn", "test_32x32.mat"), ("tiny-imagenet", "tiny-imagenet-200.zip")])
def test_download_failure(tmp_path, monkeypatch, name, url):
    """A user without network who is not told what to put where, nor how to go on without."""
    def fail(*_):
        raise RuntimeError("File not found\nor corrupted.")
    monkeypatch.setattr(igdm, "read_original", fail)
    with pytest.raises(UserError) as error:
        igdm.load_data(name, tmp_path / "d")
    assert all(word in str(error.value) for word in (name, url, str(tmp_path / "d"), "--dataset digits", "corrupted"))
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*.npz"))

def test_generator():
    """Two steps, epochs or seeds of the same noise, or noise that depends on what was drawn before."""
    keys = [*itertools.product(range(3), repeat=2), *itertools.product(range(3), repeat=3), (0, "aa"), (0, "cw"), (12,)]
    drawn = {key: torch.rand(3, generator=igdm.generator("cpu", *key)).tolist() for key in keys}
    torch.manual_seed(5)
    assert len({*map(tuple, drawn.values())}) == len(keys)
    assert drawn == {key: torch.rand(3, generator=igdm.generator("cpu", *key)).tolist() for key in reversed(keys)}


# Metrics

def test_gradient_alignment():
    """Another scalar than the cross-entropy with the true label, a mean over the batch, S and T exchanged."""
    (W, V), (x, y) = WEIGHTS, batch()
    S, T = linear(W), linear(V)
    s, t = ((p(model(x)) - torch.eye(3)[y]).detach() @ weight for model, weight in ((S, W), (T, V)))
    a, b = (s * s).sum(1).sqrt(), (t * t).sum(1).sqrt()
    expected = dict(gd=((s - t) ** 2).sum(1).sqrt(), gc=(s * t).sum(1) / a / b, gradient_student=a, gradient_teacher=b)
    with torch.no_grad():
        ours = igdm.gradient_alignment(S, T, x, y)
    for name in ours | expected:
        close(ours[name], expected[name])

def test_point_wise_distance():
    """Eq. 10 of logits instead of softmax outputs, or a mean instead of a norm."""
    S, T, (x, _) = net(1), net(2), batch()
    close(igdm.point_wise_distance(S, T, x), ((p(S(x)) - p(T(x))) ** 2).sum(1).sqrt())

def test_remainder():
    """J e left out or taken elsewhere; a remainder that is not 0 for a linear model; a wrong denominator."""
    f, (x, _), eps = net(1), batch(), 0.1
    e = torch.empty_like(x).uniform_(-eps, eps, generator=igdm.generator("cpu", 7))
    with torch.no_grad():
        ours = igdm.remainder(f, x, eps, igdm.generator("cpu", 7))
        je = (f(x + 1e-6 * e) - f(x - 1e-6 * e)) / 2e-6
        close(ours, ((f(x + e) - f(x) - je) ** 2).sum(1).sqrt() / (f(x + e) ** 2).sum(1).sqrt(), rtol=1e-5)
        assert ours.min() > 1e-5 and igdm.remainder(linear(WEIGHTS[0]), x, eps, None).max() < 1e-12

def test_transformers_can_be_measured(folder, monkeypatch):
    """Attention that is fused: it has no forward-mode differentiation, and a run would end at its first probe."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    torch.backends.mha.set_fastpath_enabled(True)
    argv = f"{D} --student toy_networks:vit --method pgd-at --epochs 1 --steps 1 --attacks clean --probe 8 --out".split()
    with tempfile.TemporaryDirectory() as out:
        assert igdm.main([*argv, out]) == 0 and "remainder" in (Path(out) / "log.jsonl").read_text()

def test_teachers_need_only_be_called(folder, monkeypatch):
    """A teacher that is refused for what is asked of a student alone: forward mode, or copies of what it keeps of a pass."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    argv = f"{D} --method ard --epochs 1 --steps 1 --attacks clean --probe 8 --teacher keeps.pt --teacher-arch".split()
    with tempfile.TemporaryDirectory() as out:
        assert igdm.main([*argv, "toy_networks:keeps", "--out", out]) == 0

EVALUATED = ("--method adaad --inner student --teacher pgd-at --dataset digits --student wrn-10-1 --eps 16/255 "
             "--step-size 3/255 --steps 2 --attacks clean,fgsm,pgd,cw --device cpu --out").split()

def test_evaluation_is_what_the_table_says(tmp_path, monkeypatch):
    """FGSM with a start or PGD's step, PGD of 10 steps, C&W's steps and restarts exchanged; the attack, noise or model of
    GD, point-wise distance or remainder that is another's."""
    cfg, data = igdm.resolve([*EVALUATED, str(tmp_path)]), noise_images(300)
    data = data._replace(x_test=data.x_train, y_test=data.y_train)              # 3 batches
    S, T = (nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)) for _ in range(2))
    calls, pgd = [], igdm.pgd

    def seen(model, x, objective, eps=8 / 255, step=2 / 255, steps=10, start="uniform", g=None):
        calls.append((round(255 * eps), round(255 * step), steps, start, objective.__qualname__.split(".")[0]))
        return pgd(model, x, objective, eps, step, min(steps, 2), start, g)
    monkeypatch.setattr(igdm, "pgd", seen)
    metrics = igdm.evaluate(S, {"t": T}, data, cfg)["metrics"]
    assert {call: calls.count(call) for call in calls} == {     # three batches; the point-wise distance's PGD is as table 2's
        (16, 16, 1, None, "attack_ce"): 3, (16, 3, 20, "uniform", "attack_ce"): 6, (16, 3, 50, "uniform", "cw"): 6}
    rows = {name: [] for name in ("gd", "gradient_student", "gradient_teacher", "point_uniform", "point_adv", "remainder")}
    for i, index in enumerate(torch.arange(300).split(128)):
        x, y, eps = igdm.to_float(data.x_test[index]), data.y_test[index], 16 / 255
        s, t = (igdm.input_gradient(model, x, y).flatten(1) for model in (S, T))
        g = igdm.generator("cpu", 0, "point_adv", i)
        a = pgd(S, x, igdm.attack_ce(S, T, x, y, None), eps, 3 / 255, 2, "uniform", g)
        u = x + torch.empty_like(x).uniform_(-eps, eps, generator=g)
        for name, value in (("gd", (s - t).norm(dim=1)), ("gradient_student", s.norm(dim=1)),
                            ("gradient_teacher", t.norm(dim=1)), ("point_uniform", (p(S(u)) - p(T(u))).norm(dim=1)),
                            ("point_adv", (p(S(a)) - p(T(a))).norm(dim=1)),
                            ("remainder", igdm.remainder(S, x, eps, igdm.generator("cpu", 0, "remainder", i)))):
            rows[name].append(value.detach())
    for name, values in rows.items():
        ours, expected = metrics[name + "@t" * (name != "remainder")]["value"], torch.cat(values).mean().item()
        assert ours == pytest.approx(expected, rel=1e-5)
    drawn, few = np.load(tmp_path / "gradients.npz"), igdm.pick_test(data, 8)
    for name, model in (("student", S), ("teacher@t", T)):
        gradient = igdm.input_gradient(model, igdm.to_float(data.x_test[few]), data.y_test[few])
        close(torch.from_numpy(drawn[name]).permute(0, 3, 1, 2), gradient, 1e-3, 1e-7)

def test_whatever_changes_is_measured_anew(tmp_path, monkeypatch):
    """A number of other weights, labels, radius, step, teacher or attack that is taken for this one's."""
    cfg, data, calls = igdm.resolve([*EVALUATED, str(tmp_path), "--attacks", "pgd"]), noise_images(), []
    monkeypatch.setattr(igdm, "pgd", lambda model, x, objective, *more: calls.append(model) or x)
    S, T = (shaken("wrn-10-1", 3, channels=1).eval() for _ in range(2))
    for change in (lambda: None, lambda: setattr(cfg, "eps", 9 / 255), lambda: setattr(cfg, "step_size", 1 / 255),
                   lambda: data.y_test.fill_(1), lambda: data.x_test.fill_(1), lambda: nn.init.ones_(S.fc.bias),
                   lambda: nn.init.ones_(T.fc.bias), lambda: setattr(cfg, "inner", "teacher"),
                   lambda: setattr(cfg, "method", "ard"), lambda: setattr(cfg, "seed", 1)):
        change()
        for new in (True, False):
            calls.clear()
            igdm.evaluate(S, {"t": T}, data, cfg)
            assert bool(calls) == new

def test_probe_is_what_it_says(monkeypatch):
    """A probe of training images, of the clean accuracy twice, of 20 steps, or of the teacher's remainder."""
    data = noise_images()
    data = data._replace(x_test=data.x_train.flip(0), y_test=data.y_train.flip(0))
    torch.manual_seed(0)
    S, T = (nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)).eval() for _ in range(2))
    data = data._replace(y_test=S(igdm.to_float(data.x_test)).argmax(1))       # all right, until they are attacked
    pgd, steps = igdm.pgd, []
    monkeypatch.setattr(igdm, "pgd", lambda *given: steps.append(given[5:7]) or pgd(*given))
    row = igdm.probe(S, T, data, SimpleNamespace(probe=20, seed=0, eps=0.3, step_size=0.05))
    x, y, g = igdm.to_float(data.x_test), data.y_test, igdm.generator("cpu", 0, "probe", 0)
    assert steps == [(10, "uniform")] and row["clean"] == 100 > row["pgd10"]
    a = pgd(S, x, lambda a: F.cross_entropy(S(a), y), 0.3, 0.05, 10, "uniform", g)
    gd, gc, *_ = igdm.gradient_alignment(S, T, x, y).values()
    expected = dict(clean=100 * (S(x).argmax(1) == y).float(), pgd10=100 * (S(a).argmax(1) == y).float(), gd=gd, gc=gc,
                    remainder=igdm.remainder(S, x, 0.3, g))
    assert {name: row[name] for name in expected} == pytest.approx(
        {name: value.mean().item() for name, value in expected.items()}, rel=1e-3)

def test_autoattack_is_asked_for_as_the_paper_does(tmp_path, monkeypatch):
    """AutoAttack of another radius, norm, version or seed, of one class's images, or in bf16 after a training in it."""
    seen, mixed = [], []
    monkeypatch.setattr(igdm, "autoattack", lambda model, x, y, classes, eps, seed: seen.append(
        (y.bincount().tolist(), classes, eps, seed)) or y >= 0)
    monkeypatch.setattr(models.Mixed, "forward", lambda self, x: mixed.append(1) or self.network(x).float())
    cfg = igdm.resolve([*EVALUATED, str(tmp_path), *"--attacks clean,aa --aa-n 6 --seed 5 --precision bf16".split()])
    data = noise_images()
    data = data._replace(x_test=data.x_train, y_test=data.y_train.sort()[0])
    igdm.evaluate(shaken("wrn-10-1", 3, channels=1).eval(), {}, data, cfg)
    assert seen == [([2, 2, 2], 3, 16 / 255, 5)] and not mixed

# What a user can get wrong

class Hostile:
    def __reduce__(self):
        return os.mkdir, ("owned",)

@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a good data set, d.npz, and files that are not what they should be."""
    here = tmp_path_factory.mktemp("cli")
    np.savez(here / "d.npz", **arrays())
    np.savez(here / "floats.npz", **arrays(x_train=IMAGES / 255))
    np.savez(here / "many.npz", **arrays(y_train=np.full(24, 2**64 - 1, np.uint64)))
    np.savez(here / "one.npz", **arrays(y_train=np.zeros(24, int), y_test=np.zeros(len(arrays()["y_test"]), int)))
    (here / "foreign").mkdir()
    (here / "foreign/config.json").write_text('["not", "ours"]')
    torch.save(igdm.models.build("wrn-10-1", 7, 1).state_dict(), here / "foreign/a.pt")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).state_dict(), here / "wide.pt")
    (here / "torn.npz").write_bytes((here / "d.npz").read_bytes()[:-300])
    (here / "html.pt").write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    (here / "empty.pt").write_bytes(b"")
    (here / "raw.pt").write_bytes(pickle.dumps(Hostile(), 2))
    torch.save({"state_dict": Hostile()}, here / "hostile.pt")
    torch.save(igdm.models.build("wrn-10-1", 7, 1).state_dict(), here / "seven.pt")
    (here / "toy_networks.py").write_text(
        "import torch\nimport torch.nn as nn\n"
        "def wide(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes + 2))\n"
        "def number(num_classes): return num_classes\n"
        "class Pair(nn.Module):\n    def forward(self, x): return x, x\n"
        "def pair(num_classes): return Pair()\n"
        "def lenet(num_classes):\n"
        "    class Net(nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.conv, self.drop, self.fc = nn.Conv2d(1, 4, 3), nn.Dropout(), nn.Linear(144, num_classes)\n"
        "        def forward(self, x):\n"
        "            x = self.conv(x).relu()\n"
        "            return self.fc(self.drop(x.view(x.size(0), -1)))\n"
        "    return Net()\n"
        "def fails(num_classes): raise ValueError('out of\\nideas')\n"
        "class Moves(nn.Sequential):\n    def forward(self, x):\n        x -= 0.5\n        return super().forward(x)\n"
        "def moves(num_classes): return Moves(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "class Keeps(nn.Sequential):\n    def forward(self, x):\n        self.kept = super().forward(x)\n"
        "        return self.kept\n"
        "def keeps(num_classes): return Keeps(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "class Same(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x): return x.clone()\n"
        "    @staticmethod\n    def backward(ctx, gradient): return gradient\n"
        "class Rigid(nn.Sequential):\n    def forward(self, x): return Same.apply(super().forward(x))\n"
        "def rigid(num_classes): return Rigid(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "def vit(num_classes):\n"
        "    layer = nn.TransformerEncoderLayer(16, 4, 16, batch_first=True)\n"
        "    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 16), layer, nn.Flatten(), nn.Linear(16, num_classes))\n")
    linear = nn.Linear(64, 3)
    torch.save({"1.weight": linear.weight, "1.bias": linear.bias}, here / "keeps.pt")
    return here

D = "--dataset d.npz --student wrn-10-1 --batch 8"
T = "--method ard --teacher-arch wrn-10-1 --teacher"
SHORT = "--method pgd-at --epochs 1 --attacks clean"
BAD = [     # the command, and what the message must hold
    ("--method rlsad", "rslad"), ("--match idgm", "trades-like"), ("--igdm --surrogate l3", "l2"), ("--inner both", "--inner"),
    ("--augment flip", "crop-flip"), ("--epochs ten", "--epochs: ten is not a whole number"), ("--epochs 0", "0 is not"),
    ("--epochs 1.5", "1.5 is not"), ("--epochs 10/2", "10/2 is not"), ("--epochs", "--epochs"), ("--nonsense 3", "--nonsense"), ("--batch 1", "1 is not"),
    ("--lr 0", "0 is not"), ("--lr 1/0", "1/0 is not"), ("--lr nan", "nan is not"), ("--lr inf", "inf is not"),
    ("--lr 1e999", "1e999 is not"), ("--lr 1e39", "1e39 is not"), ("--dataset many.npz", "at most 65535"), ("--lr one", "--lr: one is not"), ("--eps 8", "--eps: 8 is not"), ("--eps=-1/255", "-1/255 is not"),
    ("--step-size 0", "--step-size: 0"), ("--steps=-1", "--steps: -1"), ("--seed=-1", "--seed: -1"), ("--seed 0.5", "0.5 is not"),
    ("--weight-decay=-5e-4", "--weight-decay: -5e-4"), ("--igdm --alpha=-1", "--alpha: -1"), ("--rslad-scale x", "--rslad-scale: x"),
    ("--limit-train 0", "--limit-train: 0"), ("--limit-test no", "--limit-test: no"), ("--aa-n 0", "--aa-n: 0"),
    ("--probe=-1", "--probe: -1"), ("--threads 0", "--threads: 0"), ("--teacher-epochs 0", "--teacher-epochs: 0"),
    ("--dataset cifar1000", "cifar100, svhn"), ("--attacks clean,fsgm", "fgsm"), ("--surrogate l1", "--igdm"),
    ("--match direct --surrogate l1", "--igdm"), ("--alpha 1", "--igdm"), ("--ramp-epochs 5", "--igdm"),
    ("--method ard --inner student", "ard"), ("--ard-t 3", "--ard-t does not belong to --method rslad"),
    ("--adaad-lambda 1 --method adaiad", "--adaad-lambda"), ("--drops 100;150", "100;150"), ("--drops 1.5", "1.5"), ("--drops 5,,7", "--drops"),
    ("--device tpu", "--device tpu"), ("--device cuda:x", "--device cuda:x"), ("--dataset tiny-imagenet --igdm --method pgd-at", "--teacher"),
    ("--dataset svhn --teacher bdm", "pgd-at"), ("--teacher ltd2", "bdm, ikl, ltd, pgd-at"), ("--teacher bdm,ltd", "learns from one"),
    ("--teacher nowhere.pt", "nowhere.pt"), ("--teacher bdm --teacher-arch rn18", "--teacher-arch"),
    ("--teacher bdm --teacher-epochs 3", "--teacher-epochs"), ("--dataset nowhere.npz", "nowhere.npz"),
    ("--dataset floats.npz", "x_train is float64"), ("--dataset torn.npz", "torn.npz"), ("--dataset d.npz", "24 training images"),
    ("--dataset digits --batch 2000", "1437 training images"), (f"{D} --student resnet", "rn18, mnv2"), (f"{D} --student wrn-11-1", "wrn-11-1"),
    (f"{D} --student no.where:f", "no.where:f"), (f"{D} --student toy_networks:gone", "gone"), (f"{D} --student toy_networks:number", "int"),
    (f"{D} --student toy_networks:fails", "ideas"), (f"{D} --student toy_networks:wide", "--student toy_networks:wide: 2 images give (2, 5), where (2, 3)"),
    (f"{D} {T} hostile.pt", "execute code"), (f"{D} {T} raw.pt", "execute code"), (f"{D} {T} html.pt", "web page"),
    (f"{D} {T} empty.pt", "is empty"), (f"{D} {T} d.npz", "d.npz"), (f"{D} {T} seven.pt", "7 classes, the data 3"),
    (f"{D} --method ard --teacher seven.pt", "--teacher-arch"), (f"{D} {T} seven.pt --teacher-arch vgg", "vgg"),
    (f"{D} {T} seven.pt --teacher-arch wrn-16-1", "seven.pt"), (f"{D} {T} seven.pt,html.pt", "learns from one"),
    (f"{D} --eval-only nowhere.pt", "nowhere.pt"), (f"{D} --eval-only html.pt", "web page"), (f"{D} --method pgd-at --out d.npz", "d.npz"),
    ("--dataset d.npz --eval-only seven.pt", "--student"), ("--eval-only bmd", "bmd: no such file"),
    ("--method iad --iad-begin 60", "60 is not a number from 0 to 1"), ("--method ard --ard-t 0", "--ard-t: 0"),
    ("--method akd --akd-lambda 5", "--akd-lambda: 5"), ("--seed 99999999999999999999", "--seed"), ("--threads 1000000", "1000000"),
    ("--match direct --igdm", "not allowed with argument"), ("--dataset one.npz", "only one class"),
    (f"{D} --student toy_networks:pair", "toy_networks:pair"), (f"{D} {T} wide.pt --teacher-arch toy_networks:wide", "wide.pt as toy_networks:wide: 2 images give (2, 5)"),
    (f"{D} {SHORT} --student toy_networks:moves", "in-place"), (f"{D} {SHORT} --student toy_networks:keeps", "deepcopy"),
    (f"{D} {SHORT} --student toy_networks:rigid", "jvp"),
    (f"{D} --student models.resnet:net", "models.py is this repository's"),
    ("--dataset d.npz --eval-only foreign/a.pt", "--student"), ("--match direct --compile", "second derivatives"),
    ("--eval-only bdm --benchmark 3", "without --eval-only"), ("--precision tf32 --device cpu", "Ampere"),
]

def check(code, err, fragment, before, folder):
    lines = err.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("igdm.py: error: ") and fragment in lines[0]
    assert len(lines[0]) < 500 and {*folder.rglob("*")} - before <= {folder / "data" / name for name in ("", "digits.npz", ".fetching")}

@pytest.mark.parametrize("command, fragment", BAD)
def test_bad_command(folder, monkeypatch, capsys, command, fragment):
    """A traceback, a long run that fails at its end, or a mistake that nobody hears of; code in a checkpoint that runs."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {*folder.rglob("*")}
    code = igdm.main(command.split())
    check(code, capsys.readouterr().err, fragment, before, folder)

@pytest.mark.parametrize("command, fragment", [BAD[0], ("--dataset floats.npz", "uint8"), (f"{D} {T} hostile.pt", "execute code")])
def test_bad_command_as_a_process(folder, command, fragment):
    """Warnings or a traceback beside the message; another exit code than main's."""
    before = {*folder.rglob("*")}
    done = subprocess.run([sys.executable, HERE / "igdm.py", *command.split()], cwd=folder, capture_output=True, text=True)
    check(done.returncode, done.stderr, fragment, before, folder)


SMALL = ("rn18", "mnv2", "parn18", "wrn-10-1", "wrn-16-2", "wrn-16-2-silu")
ADVICE = "check the path, or delete the file and get it again"


def shaken(arch, classes=10, **size):
    """A model whose batch norms are far from the identity, so that a forgotten or misplaced one shows."""
    model = models.build(arch, classes, **size)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor, low, high in ((m.weight, .5, 1.5), (m.bias, -.2, .2), (m.running_mean, -.2, .2), (m.running_var, .5, 2)):
                nn.init.uniform_(tensor, low, high)
    return model


@pytest.mark.parametrize("arch, classes, count", [("rn18", 100, 11220132), ("mnv2", 100, 2412212), ("mnv2", 10, 2296922),
                                                  ("wrn-28-10", 100, 36536884), ("wrn-28-10-silu", 100, 36536884)])
def test_parameter_counts(arch, classes, count):
    """Would catch a wrong width, depth or stage; the counts are those of the published networks."""
    with torch.device("meta"):
        assert sum(p.numel() for p in models.build(arch, classes).parameters()) == count


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("side, channels", [(8, 1), (32, 3), (64, 3)])
def test_shapes(arch, side, channels):
    """Would catch a pooling of fixed size, and three channels taken for granted."""
    model = models.build(arch, 7, channels).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, side, side)).shape == (2, 7)


def plain(arch, s, x):
    """The networks once more, as functions of their published state_dict."""
    def bn(name, x):
        return F.batch_norm(x, *(s[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))
    def conv(name, x, stride=1):
        w = s[name + ".weight"]
        if arch.endswith("silu") and stride == 2 and len(w[0, 0]) == 3:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), w, None, 2)
        return F.conv2d(x, w, None, stride, w.shape[2] // 2, groups=x.shape[1] // w.shape[1])
    def head(name, x):
        return x.mean((2, 3)) @ s[name + ".weight"].T + s[name + ".bias"]
    act = F.silu if arch.endswith("silu") else F.relu
    if arch in ("rn18", "mnv2"):
        x = act(bn("bn1", conv("conv1", x)))
    if arch == "rn18":
        for i, j in itertools.product(range(1, 5), range(2)):
            q, stride = f"layer{i}.{j}.", 2 if i > 1 and j == 0 else 1
            short = bn(q + "shortcut.1", conv(q + "shortcut.0", x, stride)) if q + "shortcut.0.weight" in s else x
            x = act(bn(q + "bn2", conv(q + "conv2", act(bn(q + "bn1", conv(q + "conv1", x, stride))))) + short)
        return head("linear", x)
    if arch == "mnv2":
        for i in range(17):
            q, stride = f"layers.{i}.", 2 if i in (3, 6, 13) else 1
            out = act(bn(q + "bn2", conv(q + "conv2", act(bn(q + "bn1", conv(q + "conv1", x))), stride)))
            out = bn(q + "bn3", conv(q + "conv3", out))
            short = bn(q + "shortcut.1", conv(q + "shortcut.0", x)) if q + "shortcut.0.weight" in s else x
            x = out + short if stride == 1 else out
        return head("linear", act(bn("bn2", conv("conv2", x))))
    stem, block, names, last = {
        "parn18": ("conv1", "layer%d.%d.", "bn1 conv1 bn2 conv2 shortcut.0", "bn linear"),
        "wrn-16-2": ("conv1", "block%d.layer.%d.", "bn1 conv1 bn2 conv2 convShortcut", "bn1 fc"),
        "wrn-16-2-silu": ("init_conv", "layer.%d.block.%d.", "batchnorm_0 conv_0 batchnorm_1 conv_1 shortcut",
                          "batchnorm logits")}[arch]
    x = conv(stem, (x - 0.5) / 0.25 if arch.endswith("silu") else x)
    for i, j in itertools.product(range(1, 5 if arch == "parn18" else 4), range(2)):
        q, stride = block % (i - arch.endswith("silu"), j), 2 if i > 1 and j == 0 else 1
        n1, c1, n2, c2, shortcut = (q + name for name in names.split())
        out = act(bn(n1, x))
        x = conv(c2, act(bn(n2, conv(c1, out, stride)))) + (conv(shortcut, out, stride) if shortcut + ".weight" in s else x)
    return head(last.split()[1], act(bn(last.split()[0], x)))

@pytest.mark.parametrize("arch", ("rn18", "mnv2", "parn18", "wrn-16-2", "wrn-16-2-silu"))
def test_networks_are_the_published_ones(arch):
    """An activation, stride, residual or pooling that no count of parameters shows: published weights would load, and err."""
    model, x = shaken(arch).double().eval(), torch.rand(2, 3, 16, 16, dtype=torch.double)
    close(model(x), plain(arch, model.state_dict(), x))

def test_initial_weights_of_trades():
    """A WideResNet that starts from PyTorch's defaults, or from fan_in."""
    model = models.build("wrn-10-4", 10)
    layer = model.block2.layer[0].conv1
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 9 / layer.out_channels), rel=0.05)
    assert not model.fc.bias.any()


def robustbench_keys(silu, classes=10, extra=False):
    """Names and shapes of RobustBench's WRN-16-2, written down from its own checkpoints, independent of models.py."""
    def bn(name, n):
        return {f"{name}.{k}": [n] for k in ("weight", "bias", "running_mean", "running_var")} | {f"{name}.num_batches_tracked": []}

    keys, stages = {}, [(1, 16, 32), (2, 32, 64), (3, 64, 128)] + [("sub", 16, 32)] * extra
    keys["init_conv.weight" if silu else "conv1.weight"] = [16, 3, 3, 3]
    for stage, n, m in stages:
        for i, n_in in enumerate((n, m)):
            p = f"layer.{stage - 1}.block.{i}." if silu else "sub_block1.layer.%d." % i if stage == "sub" else f"block{stage}.layer.{i}."
            norms, convs, short = ("batchnorm_0 batchnorm_1", "conv_0 conv_1", "shortcut") if silu else ("bn1 bn2", "conv1 conv2", "convShortcut")
            keys |= bn(p + norms.split()[0], n_in) | bn(p + norms.split()[1], m)
            keys |= {f"{p}{convs.split()[0]}.weight": [m, n_in, 3, 3], f"{p}{convs.split()[1]}.weight": [m, m, 3, 3]}
            keys |= {f"{p}{short}.weight": [m, n_in, 1, 1]} if i == 0 else {}
    keys |= bn("batchnorm" if silu else "bn1", 128)
    head = "logits" if silu else "fc"
    return keys | {f"{head}.weight": [classes, 128], f"{head}.bias": [classes]}


@pytest.mark.parametrize("arch, extra", [("wrn-16-2", False), ("wrn-16-2", True), ("wrn-16-2-silu", False)])
def test_robustbench_checkpoint_loads(arch, extra, tmp_path):
    """Would catch a renamed parameter, LTD's unused sub_block1 refused, and stored mean and std refused."""
    silu = arch.endswith("silu")
    state = {k: torch.rand(shape) if shape else torch.tensor(0) for k, shape in robustbench_keys(silu, extra=extra).items()}
    model = models.build(arch, 10)
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == robustbench_keys(silu)
    torch.save(state | ({"mean": torch.zeros(3), "std": torch.ones(3)} if silu else {}), tmp_path / "c.pt")
    models.load_state(model, tmp_path / "c.pt", arch)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_mean_and_std_of_a_checkpoint_count(tmp_path):
    """A network that sees its images by the normalisation of another data set."""
    a, b = (models.build("wrn-10-1-silu", 10, mean=[mean] * 3, std=[std] * 3).eval() for mean, std in ((.1, .9), (.5, .25)))
    torch.save(a.state_dict() | {"mean": a.mean[None], "std": a.std[None]}, tmp_path / "c.pt")      # as RobustBench has them
    models.load_state(b, tmp_path / "c.pt", "wrn-10-1-silu")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(a(x), b(x))


def test_mean_refused_by_model_that_does_not_normalise(tmp_path):
    """Would catch a normalisation that is dropped in silence: the network would then see other inputs."""
    model = models.build("wrn-10-1", 10)
    torch.save(model.state_dict() | {"mean": torch.zeros(3)}, tmp_path / "c.pt")
    with pytest.raises(UserError, match='Unexpected.*"mean"'):
        models.load_state(model, tmp_path / "c.pt", "wrn-10-1")


@pytest.mark.parametrize("wrapper", ("", *models.WRAPPERS))
@pytest.mark.parametrize("prefix", ("", "module.", "model.", "_orig_mod.", "module._orig_mod.model."))
def test_wrappers_and_prefixes(wrapper, prefix, tmp_path):
    """Would catch checkpoints of DataParallel, torch.compile and other people's scripts turned away."""
    weights = {"conv1.weight": torch.ones(2), "model_a.module.b": torch.ones(1)}
    stored = {prefix + k: v for k, v in weights.items()}
    torch.save({"epoch": 3, wrapper: stored} if wrapper else stored, tmp_path / "c.pt")
    assert list(models.read_state_dict(tmp_path / "c.pt")) == list(weights)


def test_model_that_is_a_wrapper(tmp_path):
    """Would catch the loss of the prefix where it is the network's own."""
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 3)
    a, b = Own(), Own()
    torch.save(a.state_dict(), tmp_path / "c.pt")
    models.load_state(b, tmp_path / "c.pt", "own")
    assert torch.equal(a.model.weight, b.model.weight)


def test_no_num_batches_tracked(tmp_path):
    """Would catch checkpoints older than PyTorch 0.4.1 turned away."""
    model = shaken("wrn-10-1")
    torch.save({k: v for k, v in model.state_dict().items() if not k.endswith("tracked")}, tmp_path / "c.pt")
    models.load_state(models.build("wrn-10-1", 10), tmp_path / "c.pt", "wrn-10-1")


def test_silu_padding_at_stride_2():
    """Would catch PyTorch's symmetric padding, with which published weights lose accuracy without any error."""
    conv = models.build("wrn-10-1-silu", 10).layer[1].block[0].conv_0
    x, w = torch.rand(1, 16, 8, 8), conv.weight
    padded = torch.zeros(1, 16, 9, 9)
    padded[:, :, :8, :8] = x
    expected = torch.stack([torch.stack([(padded[0, :, i:i + 3, j:j + 3] * w).sum((1, 2, 3)) for j in (0, 2, 4, 6)], 1)
                            for i in (0, 2, 4, 6)], 1)[None]
    assert torch.allclose(conv(x), expected, atol=1e-5)


def test_silu_normalises():
    """Would catch mean and std swapped, or ignored."""
    torch.manual_seed(0)
    a = models.build("wrn-10-1-silu", 10, mean=(.1, .2, .3), std=(.4, .5, .6)).eval()
    b = models.build("wrn-10-1-silu", 10, mean=(0., 0., 0.), std=(1., 1., 1.)).eval()
    b.load_state_dict(a.state_dict())
    x = torch.rand(2, 3, 8, 8)
    channels = [(x[:, c] - m) / s for c, (m, s) in enumerate(((.1, .4), (.2, .5), (.3, .6)))]
    assert torch.allclose(a(x), b(torch.stack(channels, 1)), atol=1e-5)


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def bad_file(kind, folder):
    path, model = folder / f"{kind}.pt", models.build("wrn-10-1", 10)
    state = model.state_dict()
    if kind == "web page":
        path.write_text("\ufeff\n <!DOCTYPE html><html>Too many users</html>")
    elif kind in ("empty", "text", "binary", "foreign pickle"):
        path.write_bytes({"empty": b"", "text": b"hello\n", "binary": bytes(range(128, 256)),
                          "foreign pickle": pickle.dumps(Payload(folder / "ran"))}[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        state["fc.bias"][0] = {"nan": float("nan"), "infinity": float("inf")}.get(kind, 0)
        contents = {"hostile": {"state_dict": state, "x": Payload(folder / "ran")}, "whole model": model, "list": [torch.ones(1)],
                    "no tensors": {"epoch": 1}, "nothing": {}}
        torch.save(contents.get(kind, state), path, _use_new_zipfile_serialization=kind != "old cut")
        data = bytearray(path.read_bytes())
        if kind in ("flipped", "marked"):
            with zipfile.ZipFile(path) as archive:
                biggest = max(archive.infolist(), key=lambda i: i.file_size)
        if kind == "marked":    # as a folder, in the archive's directory: an entry's attributes end 4 bytes before its name
            data[data.rfind(biggest.filename.encode()) - 8] ^= 0x10
        if kind == "flipped":
            data[biggest.header_offset + 200 + biggest.file_size // 2] ^= 1
        path.write_bytes(data[:len(data) // 2] if kind in ("cut", "old cut") else data)
    return path


@pytest.mark.parametrize("kind, said, remedy", [
    ("missing", "No such file", ADVICE), ("folder", "cannot be read", ADVICE), ("empty", "is empty", ADVICE),
    ("web page", "is a web page", ADVICE), ("text", "neither a zip archive nor a pickle", ADVICE),
    ("binary", "neither a zip archive nor a pickle", ADVICE), ("foreign pickle", "that torch.save wrote", ADVICE),
    ("flipped", "is damaged (flipped/data/", ADVICE), ("marked", "is damaged (marked/data/", ADVICE), ("cut", "cannot be read", ADVICE), ("old cut", "is damaged", ADVICE),
    ("hostile", "mkdir, and unpickling that could execute code", "weights_only=False"),
    ("whole model", "models.Net, and unpickling that could execute code", "weights_only=False"),
    ("no tensors", "holds no weights", "save model.state_dict()"), ("nothing", "holds no weights", "save model.state_dict()"),
    ("list", "holds no weights", "save model.state_dict()"),
    ("nan", "NaN or infinity in fc.bias", "earlier checkpoint"), ("infinity", "NaN or infinity in fc.bias", "earlier checkpoint")])
def test_bad_files(kind, said, remedy, tmp_path):
    """Would catch code in a file run, damage loaded in silence, and a traceback in place of one line with a remedy."""
    path = bad_file(kind, tmp_path)
    with pytest.raises(UserError) as caught:
        models.read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and said in message and remedy in message and "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_checkpoint_zipped_anew(tmp_path):
    """Would catch a whole checkpoint taken for damaged since its archive has entries for folders, as zip -r makes them."""
    torch.save({"a": torch.ones(3)}, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as old, zipfile.ZipFile(tmp_path / "new.pt", "w") as new:
        new.mkdir("c")
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert models.read_file(tmp_path / "new.pt")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("arch, classes, change, said", [
    ("wrn-10-1", 100, {}, ["it has 10 classes, the data 100", "use a checkpoint trained on this data"]),
    ("wrn-10-2", 10, {}, ["does not fit wrn-10-2", "size mismatch for block1.layer.0.conv1.weight", "another architecture"]),
    ("rn18", 10, {}, ["does not fit rn18", 'Missing key(s) in state_dict: "layer1.0.conv1.weight"', 'Unexpected key(s) in state_dict: "block1']),
    ("wrn-10-1", 10, {"more": torch.ones(1)}, ['Unexpected key(s) in state_dict: "more"']),
    ("wrn-10-1", 10, {"fc.bias": None}, ['Missing key(s) in state_dict: "fc.bias"'])])
def test_checkpoint_of_another_model(arch, classes, change, said, tmp_path):
    """Would catch a lax load, after which part of the network is random."""
    state = models.build("wrn-10-1", 10).state_dict() | change
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "c.pt")
    with pytest.raises(UserError) as caught:
        models.load_state(models.build(arch, classes), tmp_path / "c.pt", arch)
    assert all(s in str(caught.value) for s in (str(tmp_path / "c.pt"), *said)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("arch, said", [(a, "unknown architecture") for a in ("foo", "wrn-11-1", "wrn-4-1", "wrn-10-0", "wrn-28")] + [
    ("no_such.module:f", "No module named"), ("own_net:nix", "no attribute 'nix'"), ("own_net:number", "gave int"), (":f", "failed")])
def test_bad_architectures(arch, said, tmp_path, monkeypatch):
    """Would catch a traceback for a typo."""
    (tmp_path / "own_net.py").write_text("import torch\ndef number(num_classes): return 1\n"
                                         "def net(num_classes): return torch.nn.Linear(2, num_classes)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    assert models.build("own_net:net", 5).out_features == 5
    with pytest.raises(UserError, match=said) as caught:
        models.build(arch, 10)
    assert arch in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("sent, said", [(b"", "is empty"), (b"<html>", "web page"), (b"PK\3\4cut", "cannot be read"), (None, "No such file"),
                                        (b"\x80\x02\x8a\nl", "is damaged"), (OSError("quota\nexceeded"), "quota exceeded"), (ImportError("no gdown"), "no gdown")])
def test_failed_download_leaves_nothing(sent, said, tmp_path, monkeypatch):
    """Would catch half a download taken for the teacher the next time."""
    def download(url, output):
        if isinstance(sent, Exception):
            open(output, "wb").write(b"half")
            raise sent
        if sent is not None:
            open(output, "wb").write(sent)
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))
    with pytest.raises(UserError) as caught:
        models.fetch("ID", tmp_path / "new" / "t.pt")
    for part in (said, "https://drive.google.com/uc?id=ID", str(tmp_path / "new" / "t.pt"), "--teacher pgd-at"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and not os.listdir(tmp_path / "new")


def test_robustbench_finds_autoattack(tmp_path, monkeypatch):
    """RobustBench, which imports AutoAttack by its former name, failing on the package that its own wheel asks for."""
    (tmp_path / "robustbench").mkdir()
    (tmp_path / "robustbench/__init__.py").write_text("from autoattack import AutoAttack\nfrom autoattack.state import EvaluationState\n")
    (tmp_path / "robustbench/utils.py").write_text(
        "import torch\ndef load_model(**settings):\n"
        "    assert (settings['threat_model'], settings['dataset']) == ('Linf', 'cifar100')\n"
        "    return torch.nn.Linear(2, 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("autoattack", "autoattack.state", "robustbench", "robustbench.utils"):
        monkeypatch.setitem(sys.modules, name, None)            # restores what was there
        del sys.modules[name]
    assert isinstance(models.from_robustbench("X", "cifar100", tmp_path), nn.Linear)


def test_download(tmp_path, monkeypatch):
    """Would catch a second download of what is there."""
    calls = []
    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(
        download=lambda url, output: (calls.append(url), torch.save({"a": torch.ones(1)}, output))))
    for _ in range(2):
        assert list(models.read_state_dict(models.fetch("ID", tmp_path / "t.pt"))) == ["a"]
    assert len(calls) == 1 and os.listdir(tmp_path) == ["t.pt"]


@pytest.mark.parametrize("arch, left", [("rn18", 0), ("mnv2", 0), ("wrn-10-1", 4), ("wrn-16-2-silu", 7), ("parn18", 9)])
def test_fold_equals_eval_mode(arch, left):
    """Would catch a batch norm folded into the wrong convolution or forgotten; in double, as ReLU's kink magnifies rounding."""
    model = shaken(arch).double().to(memory_format=torch.channels_last).train()
    before = copy.deepcopy(model.state_dict())
    folded = models.fold(model)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m.training for m in folded.modules()) and not any(p.requires_grad for p in folded.parameters())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in folded.modules()) == left
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in folded.parameters() if p.ndim == 4)
    x, y = torch.rand(2, 3, 16, 16, dtype=torch.double, requires_grad=True), torch.tensor([1, 2])
    values = [(out, *torch.autograd.grad(F.cross_entropy(out, y), x)) for out in (model.eval()(x), folded(x))]
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(*values))


@pytest.mark.parametrize("make", [nn.Module.train, nn.Module.eval, models.fold], ids=["train", "eval", "fold"])
@pytest.mark.parametrize("arch", SMALL)
def test_blocks_leave_their_input_alone(arch, make):
    """Would catch an activation or a sum in place where the residual, or what another branch reads, still needs the old values."""
    model, before, changed = make(shaken(arch)), {}, []
    for name, m in model.named_modules():
        if isinstance(m, (models.Block, models.PreActBlock, models.InvertedResidual)):
            m.register_forward_pre_hook(lambda m, x, name=name: before.update({name: x[0].clone()}))
            m.register_forward_hook(lambda m, x, out, name=name: changed.append(not torch.equal(x[0], before[name])))
    model(torch.rand(2, 3, 16, 16, requires_grad=True))
    assert len(changed) > 2 and not any(changed)


def own_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize("make", [lambda: shaken("rn18"), lambda: shaken("mnv2"), lambda: shaken("wrn-10-1-silu"), own_net])
def test_refreshed_fold_equals_fresh_one(make):
    """Would catch attacks on the weights or statistics of an earlier step."""
    torch.manual_seed(0)
    model, x = make().train(), torch.rand(4, 3, 16, 16)
    model(x)
    copied = models.fold(model)
    parts = {k: id(v) for k, v in copied.named_parameters()}
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    F.cross_entropy(model(x), torch.arange(4)).backward()
    sgd.step()
    fresh = models.fold(model)
    assert not torch.equal(copied(x), fresh(x))
    assert models.fold(model, copied) is copied and parts == {k: id(v) for k, v in copied.named_parameters()}
    assert all(torch.equal(v, fresh.state_dict()[k]) for k, v in copied.state_dict().items())
    assert torch.equal(copied(x), fresh(x))


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_published_networks_normalise_by_the_data_set(dataset):
    """Mean and std exchanged, or of the other data set: a teacher of a percent or two less."""
    cfg = igdm.resolve(f"--method pgd-at --dataset {dataset} --device cpu".split())
    model = igdm.build_network("x", "wrn-10-1-silu", noise_images(channels=3), cfg)
    expected = {"cifar10": (.4914, .4822, .4465, .2471, .2435, .2616), "cifar100": (.5071, .4865, .4409, .2673, .2564, .2762)}
    assert [*model.mean.flatten().tolist(), *model.std.flatten().tolist()] == pytest.approx(expected[dataset])


@pytest.mark.parametrize("clean, warned", [(0.0, True), (72.58, False)])
def test_wrong_checkpoint_is_said(monkeypatch, capsys, tmp_path, clean, warned):
    """A teacher that fits, but is not the one of table 1, in silence; or a warning at the right one."""
    data, model = noise_images(600, 3, 100), nn.Module()
    right = torch.rand(600, generator=igdm.generator("cpu", 0)) < clean / 100
    data = data._replace(x_test=data.x_train, y_test=data.y_train)
    answers = torch.where(right, data.y_test, (data.y_test + 1) % 100)[igdm.pick_test(data, 500)]
    model.forward = lambda x: F.one_hot(answers[:len(x)], 100).float()
    monkeypatch.setattr(igdm, "build_network", lambda *_: model)
    monkeypatch.setattr(models, "fetch", lambda *_: None)
    monkeypatch.setattr(models, "load_state", lambda *_: None)
    igdm.load_network("bdm", None, data, igdm.resolve(["--method", "pgd-at", "--data-dir", str(tmp_path), "--device", "cpu"]))
    assert ("right checkpoint" in capsys.readouterr().err) == warned


# ----------------------------------------------------------------------------------------------------------------------
# Whole runs, small: a teacher, a student, the evaluation; stopping, going on, refusing

TINY = ("--dataset digits --student wrn-10-1 --teacher-arch wrn-10-1 --teacher-epochs 1 --limit-train 128 --limit-test 40 "
         "--batch 32 --steps 2 --epochs 2 --probe 20 --attacks clean,pgd").split()


def weights(path):
    return torch.load(path, weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_timing(path):
    """A run's log and result but for what is timed."""
    rows = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    result = json.loads((path / "result.json").read_text())
    return [{k: v for k, v in row.items() if k != "timing"} for row in rows], {k: v for k, v in result.items() if k != "timing"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder in which one small run of rslad + igdm, its teacher first, went through."""
    folder = tmp_path_factory.mktemp("whole")
    before = os.getcwd()
    os.chdir(folder)
    assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--out", "runs/a"]) == 0
    os.chdir(before)
    return folder


def test_whole_run(whole):
    """A run that forgets a file, a metric, an n or the outcome per image, or whose student is not a usable teacher."""
    out, teacher = whole / "runs/a", whole / "runs/teacher-digits-wrn-10-1-epochs1-limit-train128-batch32"
    assert {p.name for p in out.iterdir()} == {".lock", "config.json", "log.jsonl", "last.pt", "previous.pt", "student.pt",
                                               "result.json", "outcomes.npz", "gradients.npz"}
    result, config = (json.loads((out / name).read_text()) for name in ("result.json", "config.json"))
    names = ["clean", "pgd", "remainder"] + [f"{k}@pgd-at" for k in (
        "gd", "gc", "gradient_student", "gradient_teacher", "point_uniform", "point_adv")]
    assert sorted(result["metrics"]) == sorted(names) and all(m["n"] == 40 for m in result["metrics"].values())
    outcomes = np.load(out / "outcomes.npz")
    assert 100 * outcomes["pgd"].mean() == pytest.approx(result["metrics"]["pgd"]["value"])
    assert config["training"]["method"] == "rslad" and config["settings"]["teacher"] == "pgd-at"
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2] and [row["weight"] for row in log] == [0.5, 1.0]
    assert all(row["loss_match"] > 0 and row["loss"] == row["loss_base"] + row["loss_match"] for row in log)
    assert {"clean", "pgd10", "gd", "gc", "remainder"} <= log[0].keys()
    assert json.loads((teacher / "config.json").read_text())["training"]["method"] == "pgd-at"
    models.load_state(models.build("wrn-10-1", 10, 1), out / "student.pt", "wrn-10-1")


@pytest.mark.parametrize("method", igdm.METHODS)
@pytest.mark.parametrize("match", (None, "igdm"))
def test_every_method_runs(whole, method, match, monkeypatch):
    """A method whose table row, passes or teacher handling break the common loop."""
    monkeypatch.chdir(whole)
    argv = [*TINY, "--method", method, "--attacks", "clean", "--epochs", "1", "--steps", "1", "--limit-train", "64",
            "--limit-test", "10", "--probe", "0", "--teacher", str(whole / "runs/a/student.pt"), "--out",
            f"runs/{method}-{match}"]
    argv = [a for i, a in enumerate(argv) if a not in ("--teacher-arch", "--teacher-epochs")
            and argv[i - 1] not in ("--teacher-arch", "--teacher-epochs")] + (["--igdm"] if match else [])
    assert igdm.main(argv) == 0
    row = json.loads((whole / f"runs/{method}-{match}/log.jsonl").read_text())
    assert np.isfinite(row["loss"]) and (row["loss_match"] > 0) == bool(match)


def test_in_a_code_base_with_models_of_its_own(tmp_path):
    """igdm that cannot be imported beside a package called models, or takes its place; a network that needs that package."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/__init__.py").write_text("import torch.nn as nn\ndef ResNet(num_classes):\n"
                                                 "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n")
    (tmp_path / "mine.py").write_text("from models import ResNet as net\n")
    (tmp_path / "use.py").write_text("import sys\nfrom igdm import igdm_loss, main, pgd\nimport models\nmodels.ResNet(3)\n"
                                     "sys.exit(main(sys.argv[1:]))\n")
    argv = [*SHORT.split(), "--dataset", "digits", "--limit-train", "64", "--limit-test", "10", "--student", "mine:net", "--data-dir"]
    for paths in ([str(HERE)], [str(HERE), str(tmp_path)]):
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1")
        done = subprocess.run([sys.executable, "use.py", *argv, "data", "--fresh"], cwd=tmp_path, env=env, stderr=-1, text=True)
        assert done.returncode == 0, done.stderr


def test_a_method_of_ones_own(whole, monkeypatch, capsys):
    """A row of METHODS that needs more than its two functions: flags, --igdm or an alpha that only the paper's methods have."""
    monkeypatch.chdir(whole)
    monkeypatch.setitem(igdm.METHODS, "mine", igdm.Method(
        igdm.attack_ce, "uniform", lambda o, y, beta: beta * igdm.kl(o.s_adv, o.t_clean), dict(beta=2.0)))
    argv = [*TINY, "--method", "mine", "--igdm", "--mine-beta", "3", "--attacks", "clean", "--epochs", "1", "--out", "runs/mine"]
    assert igdm.main(argv) == 2 and "no alpha for mine: give --alpha" in capsys.readouterr().err
    assert igdm.main([*argv, "--alpha", "1"]) == 0
    assert json.loads(Path("runs/mine/config.json").read_text())["training"]["constants"] == dict(beta=3.0)
    monkeypatch.setitem(igdm.METHODS, "yours", igdm.Method(igdm.attack_adaad, "gaussian", lambda o, y: F.cross_entropy(o.s_adv, y), {}))
    monkeypatch.setitem(igdm.METHODS, "theirs", igdm.Method(
        lambda S, T, x, y, o: lambda x_adv: igdm.kl(S(x_adv), T(x_adv)), "gaussian", lambda o, y: F.cross_entropy(o.s_adv, y), {}))
    monkeypatch.setitem(igdm.METHODS, "hers", igdm.Method(
        igdm.attack_rslad, "gaussian", lambda o, y, lam, steps, kind: F.cross_entropy(o.s_adv, y), dict(lam=-5.0, steps=2, kind="a")))
    for name in ("yours", "theirs", "hers"):        # a teacher that only the attack sees still is part of the run
        assert igdm.resolve(["--method", name]).teacher == "bdm"
        assert igdm.resolve(["--method", name, "--inner", "student"]).teacher is None
    constants = ["--hers-lambda", "-6", "--hers-steps", "3", "--hers-kind", "b"]
    argv = [*TINY, "--method", "hers", *constants, "--attacks", "clean", "--epochs", "1", "--out"]
    assert igdm.main([*argv, "runs/hers"]) == 0      # T(x) for the attack alone
    assert json.loads(Path("runs/hers/config.json").read_text())["training"]["constants"] == dict(lam=-6.0, steps=3, kind="b")
    assert igdm.main([*argv[:-1], "--hers-steps", "3.5"]) == 2
    monkeypatch.setitem(igdm.METHODS, "alone", igdm.Method(
        lambda S, T, x, y, o: lambda x_adv: S(F.pad(x_adv, (1, 1, 1, 1), "reflect")[..., 1:-1, 1:-1]).to(next(S.parameters())).topk(5)[0].sum(),
        None, lambda o, y, off: F.cross_entropy(o.s_adv, y), dict(off=False)))
    assert igdm.resolve(["--method", "alone"]).teacher is None
    monkeypatch.setitem(igdm.METHODS, "weighted", igdm.Method(
        igdm.attack_ce, "uniform", lambda o, y: F.cross_entropy(o.s_adv, y, torch.ones(10)), {}))
    capsys.readouterr()
    assert igdm.main(["--method", "weighted"]) == 2 and "with logits (2, 192)" in capsys.readouterr().err


@pytest.mark.parametrize("match", ("direct", "trades-reg", "trades-like"))
def test_every_ablation_runs(whole, match, monkeypatch):
    """An ablation that the common loop does not serve."""
    monkeypatch.chdir(whole)
    assert igdm.main([*TINY, "--method", "ard", "--match", match, "--epochs", "1", "--attacks", "clean",
                      "--out", f"runs/{match}"]) == 0


def test_same_again_and_another_seed(whole, monkeypatch):
    """Anything random that does not come from the seed, or a seed that is ignored."""
    monkeypatch.chdir(whole)
    for name, seed in (("b", "0"), ("c", "1")):
        assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--out", f"runs/{name}", "--seed", seed]) == 0
    a, b, c = (weights(whole / f"runs/{name}/student.pt") for name in "abc")
    assert same(a, b) and not same(a, c)
    assert without_timing(whole / "runs/a") == without_timing(whole / "runs/b") != without_timing(whole / "runs/c")


def test_probe_does_not_disturb(whole, monkeypatch):
    """A probe that moves batch-norm statistics or draws from the training's randomness."""
    monkeypatch.chdir(whole)
    assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--out", "runs/no-probe", "--probe", "0"]) == 0
    assert same(weights(whole / "runs/a/student.pt"), weights(whole / "runs/no-probe/student.pt"))


@pytest.mark.parametrize("clean, said", ((10.0, ["epoch 2, near chance"]), (25.0, [])))
def test_near_chance_is_said(whole, clean, said, monkeypatch, capsys):
    """A student that learns nothing for hours, in silence; a warning where it learns, or at any but a tenth of the epochs."""
    monkeypatch.chdir(whole)
    monkeypatch.setattr(igdm, "probe", lambda S, T, data, cfg: dict(clean=clean))
    assert igdm.main([*TINY, "--method", "ard", "--attacks", "clean", "--epochs", "11", "--out", f"runs/chance{clean:g}"]) == 0
    assert [line.split(" in ")[1] for line in capsys.readouterr().err.splitlines() if "near" in line] == said


@pytest.mark.parametrize("at", (1, 3, 4, 5, 7))
def test_interrupted_run_goes_on_exactly(whole, at, monkeypatch, capsys):
    """Momentum, order, statistics, sums or log lost between a stop after any step (of 4 an epoch) and going on."""
    monkeypatch.chdir(whole)
    calls, forward = [0], igdm.forward

    def counted(*args):
        calls[0] += 1
        if calls[0] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(*args)
    argv = [*TINY, "--method", "rslad", "--igdm", "--out", f"runs/stopped{at}"]
    monkeypatch.setattr(igdm, "forward", counted)
    assert igdm.main(argv) == 143 and not (whole / f"runs/stopped{at}/student.pt").exists()
    monkeypatch.setattr(igdm, "forward", forward)
    assert igdm.main(argv) == 0
    assert same(weights(whole / "runs/a/student.pt"), weights(whole / f"runs/stopped{at}/student.pt"))
    assert without_timing(whole / "runs/a") == without_timing(whole / f"runs/stopped{at}")
    timing = json.loads((whole / f"runs/stopped{at}/log.jsonl").read_text().splitlines()[(at - 1) // 4])["timing"]
    left = 4 * math.ceil(at / 4) - at                           # steps of that epoch after the stop
    assert timing["images_per_second"] * timing["seconds"] == pytest.approx(32 * left)


def test_own_network_goes_on_exactly(whole, folder, monkeypatch):
    """A user's network that flattens with view, or whose dropout draws anew after a stop."""
    monkeypatch.chdir(whole)
    monkeypatch.syspath_prepend(folder)
    forward, calls = igdm.forward, [0]

    def stops(*args):
        calls[0] += 1
        if calls[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(*args)
    argv = [*TINY, "--student", "toy_networks:lenet", "--method", "rslad", "--igdm", "--attacks", "clean", "--out"]
    assert igdm.main([*argv, "runs/own"]) == 0
    monkeypatch.setattr(igdm, "forward", stops)
    assert igdm.main([*argv, "runs/own-stopped"]) == 130
    assert igdm.main([*argv, "runs/own-stopped"]) == 0
    assert same(weights(whole / "runs/own/student.pt"), weights(whole / "runs/own-stopped/student.pt"))


def test_signal_in_the_last_probe_counts(whole, monkeypatch):
    """A signal after the last step that is forgotten, so that hours of evaluation follow it."""
    monkeypatch.chdir(whole)
    probe = igdm.probe
    monkeypatch.setattr(igdm, "probe", lambda *args: os.kill(os.getpid(), signal.SIGTERM) or probe(*args))
    argv = [*TINY, "--method", "rslad", "--igdm", "--epochs", "1", "--out", "runs/late"]
    assert igdm.main(argv) == 143 and not (whole / "runs/late/result.json").exists()


def test_teacher_of_other_data_is_not_taken(whole, monkeypatch, capsys):
    """--teacher pgd-at that takes a teacher of the same name, but trained on other images."""
    monkeypatch.chdir(whole)
    argv = ["--dataset", "a.npz", "--method", "ard", "--student", "wrn-10-1", "--teacher-arch", "wrn-10-1", "--batch", "8",
            "--epochs", "1", "--teacher-epochs", "1", "--steps", "1", "--attacks", "clean", "--probe", "0", "--out"]
    for seed, code in ((0, 0), (1, 2)):
        x = np.random.default_rng(seed).integers(0, 256, (24, 8, 8), dtype=np.uint8)
        np.savez("a.npz", x_train=x, y_train=np.arange(24) % 4, x_test=x, y_test=np.arange(24) % 4)
        assert igdm.main([*argv, f"runs/of{seed}"]) == code
    assert "holds another run (images was" in capsys.readouterr().err


def test_teacher_is_trained_as_the_student_is(monkeypatch, tmp_path):
    """--teacher pgd-at of another radius, augmentation, batch, subset or device than was asked for."""
    cfg, seen = igdm.resolve(("--method ard --dataset digits --teacher pgd-at --teacher-epochs 3 --eps 12/255 --augment none "
                              "--batch 32 --limit-train 99 --limit-test 50 --device cpu --data-dir e --out").split()
                             + [str(tmp_path / "x")]), []
    monkeypatch.setattr(igdm, "run", lambda argv, stop, wait: seen.append(igdm.resolve(argv)) or seen.append(argv))
    path = igdm.pgd_at_teacher(cfg, "images", None)
    for name in "eps augment batch limit_train limit_test device data_dir dataset".split():
        assert getattr(seen[0], name) == getattr(cfg, name)
    assert (seen[0].epochs, seen[0].student, seen[0].method, seen[0].out) == (3, "wrn-10-2", "pgd-at", Path(path).parent)
    assert "--device" in seen[1]                                # without it a GPU, where there is one


def test_other_labels_are_another_run(tmp_path):
    """Images relabelled, and taken for those of before."""
    argv = "--method pgd-at --batch 8 --student wrn-10-1 --epochs 1 --steps 1 --probe 0 --attacks clean --dataset".split()
    for labels, code in ((np.arange(24) % 3, 0), (np.arange(24)[::-1] % 3, 2)):
        np.savez(tmp_path / "d.npz", **arrays(y_train=labels))
        assert igdm.main([*argv, str(tmp_path / "d.npz"), "--out", str(tmp_path / "out")]) == code


def test_finished_run_keeps_its_record(tmp_path):
    """A config.json that says fp32 of what was trained in bf16, once it has been measured again without that flag."""
    argv = ("--method pgd-at --dataset digits --limit-train 24 --limit-test 20 --batch 8 --student wrn-10-1 --epochs 1 --steps 1 "
            "--probe 0 --attacks clean --out").split()
    assert igdm.main([*argv, str(tmp_path), "--precision", "bf16"]) == 0
    record = (tmp_path / "config.json").read_text()
    assert igdm.main([*argv, str(tmp_path), "--attacks", "clean,fgsm"]) == 0
    assert (tmp_path / "config.json").read_text() == record and '"bf16"' in record
    assert "fgsm" in json.loads((tmp_path / "result.json").read_text())["metrics"]
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).unlink(missing_ok=True)
    assert igdm.main([*argv, str(tmp_path)]) == 0               # trained anew
    assert json.loads((tmp_path / "config.json").read_text())["training"]["precision"] == "fp32"


def test_other_images_are_measured_anew(whole, monkeypatch):
    """--eval-only that answers with what it measured on other images, or with another seed."""
    monkeypatch.chdir(whole)
    argv = ["--dataset", "digits", "--eval-only", "runs/a/student.pt", "--attacks", "clean,pgd", "--limit-test", "40", "--out", "runs/f"]
    asked = []
    for more in ((), ("--limit-test", "50"), ("--seed", "1"), ("--eps", "8/255"), ("--eps", "8/255")):
        assert igdm.main([*argv, *more]) == 0
        asked.append(json.loads((whole / "runs/f/result.json").read_text()))
    assert asked[1]["metrics"]["clean"]["n"] == 50 and asked[2]["seed"] == 1
    assert asked[0]["metrics"]["pgd"] != asked[3]["metrics"]["pgd"] and asked[3] == asked[4]
    aside = [json.loads((whole / f"runs/f.{i}/result.json").read_text()) for i in (1, 2, 3)]
    assert aside == asked[:3] and (whole / "runs/f.1/outcomes.npz").exists() and not (whole / "runs/f.4").exists()


def test_probe_in_pieces(monkeypatch):
    """A probe that takes all its images at once, too many for the memory, or counts some twice."""
    data = igdm.Data(*(torch.zeros(300, *size, dtype=kind) for size, kind in ((((1, 8, 8)), torch.uint8), ((), torch.int64)) * 2), 3)
    sizes, model = [], models.build("wrn-10-1", 3, 1)
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    row = igdm.probe(model, model.eval(), data, SimpleNamespace(probe=300, seed=0, eps=0.1, step_size=0.05))
    assert max(sizes) == 128 and row["gd"] < 1e-3 and row["clean"] in (0, 100) and igdm.probe(
        model, None, data, SimpleNamespace(probe=0)) == {}


def test_damaged_checkpoint_falls_back(whole, monkeypatch, capsys):
    """A flipped byte in last.pt that is loaded, or that makes the run start anew."""
    monkeypatch.chdir(whole)
    shutil.copytree("runs/a", "runs/torn")
    for name in ("student.pt", "result.json"):
        os.remove(f"runs/torn/{name}")
    data = bytearray(Path("runs/torn/last.pt").read_bytes())
    with zipfile.ZipFile("runs/torn/last.pt") as archive:       # in a tensor, not in the padding between two
        tensor = archive.read(max(archive.infolist(), key=lambda record: record.file_size))
    data[data.find(tensor) + len(tensor) // 2] ^= 1
    Path("runs/torn/last.pt").write_bytes(data)
    assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--out", "runs/torn"]) == 0
    assert "damaged" in capsys.readouterr().err and igdm.read_checkpoint(Path("runs/torn")) is not None
    models.read_file("runs/torn/previous.pt")                   # the good one, not the damaged
    assert same(weights(whole / "runs/a/student.pt"), weights(whole / "runs/torn/student.pt"))


def test_damage_is_said(whole, monkeypatch, capsys):
    """A traceback for a torn result; a run begun anew, in silence, at the second try after both checkpoints were damaged."""
    monkeypatch.chdir(whole)
    shutil.copytree("runs/a", "runs/hurt")
    argv = [*TINY, "--method", "rslad", "--igdm", "--out", "runs/hurt"]
    for name in ("result.json", "outcomes.npz", "config.json"):
        good = Path("runs/hurt", name).read_bytes()
        Path("runs/hurt", name).write_bytes(good[:50])
        assert igdm.main(argv) == 2 and f"hurt/{name} cannot be read" in capsys.readouterr().err
        Path("runs/hurt", name).write_bytes(good)
    Path("runs/hurt/config.json").write_text('{"training": "of another program"}')
    assert igdm.main(argv) == 2 and "not of a run" in capsys.readouterr().err
    Path("runs/hurt/config.json").write_bytes(good)
    for name in ("outcomes.npz", "log.jsonl"):          # deleted, as the message says
        os.remove(f"runs/hurt/{name}")
    assert igdm.main(argv) == 0 and [*np.load("runs/hurt/outcomes.npz")] == ["clean", "pgd"]
    assert without_timing(whole / "runs/hurt") == without_timing(whole / "runs/a")
    for name in ("last.pt", "previous.pt"):
        Path("runs/hurt", name).write_bytes(b"PK")
    for _ in range(2):
        assert igdm.main(argv) == 2 and "no checkpoint in runs/hurt is whole" in capsys.readouterr().err


def test_refused_before_a_teacher_is_trained(whole, monkeypatch, capsys):
    """Hours of a teacher's training before the words that the student's folder is another run's, busy, or none."""
    monkeypatch.chdir(whole)
    argv = [*TINY, "--method", "rslad", "--igdm", "--lr", "0.05", "--teacher-arch", "wrn-10-2", "--out"]
    Path("a-file").touch()
    with igdm.locked(Path("runs/taken")):
        assert [igdm.main([*argv, out]) for out in ("runs/a", "a-file", "runs/taken")] == [2, 2, 75]
    said = capsys.readouterr()
    assert "lr was 0.1, is 0.05" in said.err and "a teacher first" not in said.out and not [*Path("runs").glob("teacher*wrn-10-2*")]


def test_moved_files_are_the_same_run(whole, monkeypatch, capsys):
    """A run that is refused since its data or its teacher lies elsewhere now."""
    monkeypatch.chdir(whole)
    x, y = np.random.default_rng(0).integers(0, 256, (64, 8, 8), dtype=np.uint8), np.arange(64) % 4
    for name in ("one.npz", "two.npz"):
        np.savez(name, x_train=x, y_train=y, x_test=x, y_test=y)
    argv = ("--student wrn-10-1 --batch 32 --epochs 1 --steps 1 --attacks clean --out runs/moved --method pgd-at --dataset").split()
    assert igdm.main([*argv, "one.npz"]) == igdm.main([*argv, "two.npz"]) == 0
    shutil.copytree("runs/a", "runs/b-teacher")
    argv = ("--dataset digits --student wrn-10-1 --limit-train 128 --limit-test 40 --batch 32 --steps 2 --epochs 1 --attacks clean "
            "--method ard --out runs/moved2 --teacher").split()
    assert igdm.main([*argv, "runs/a/student.pt"]) == igdm.main([*argv, "runs/b-teacher/student.pt"]) == 0
    assert igdm.main([*argv, "runs/moved2/student.pt"]) == 2 and "teacher_weights was" in capsys.readouterr().err


def test_fills_in_what_is_lacking(whole, monkeypatch, capsys):
    """An evaluation that starts over, or does not add, when more attacks are asked for; AutoAttack of another n kept."""
    monkeypatch.chdir(whole)
    argv = [*TINY, "--method", "rslad", "--igdm", "--out", "runs/a"]
    before = json.loads((whole / "runs/a/result.json").read_text())
    assert igdm.main([*argv, "--attacks", "clean,pgd,fgsm"]) == 0
    after = json.loads((whole / "runs/a/result.json").read_text())
    assert after["metrics"].pop("fgsm")["n"] == 40 and after["metrics"] == before["metrics"]
    assert after["timing"]["pgd"] == before["timing"]["pgd"] and "epoch" not in capsys.readouterr().out


def test_other_settings_are_refused_and_fresh_keeps_the_old(whole, monkeypatch, capsys):
    """Another run silently continued or overwritten; what is measured taken for part of the identity."""
    monkeypatch.chdir(whole)
    shutil.copytree("runs/a", "runs/d")
    argv = [*TINY, "--method", "rslad", "--igdm", "--out", "runs/d"]
    assert igdm.main([*argv, "--lr", "0.05"]) == 2
    assert "lr was 0.1, is 0.05" in capsys.readouterr().err
    shutil.copytree("runs/d", "runs/lean")
    for path in Path("runs/lean").glob("*.pt"):                 # for want of space
        path.unlink()
    assert igdm.main([*argv, "--lr", "0.05", "--out", "runs/lean"]) == 2 and "lr was" in capsys.readouterr().err
    os.rename("runs/d/config.json", "config.json")
    assert igdm.main([*argv, "--lr", "0.05"]) == 2 and "no config.json" in capsys.readouterr().err
    os.rename("config.json", "runs/d/config.json")
    assert igdm.main([*argv, "--lr", "0.05", "--epochs", "1", "--fresh"]) == 0
    assert same(weights(whole / "runs/d.1/student.pt"), weights(whole / "runs/a/student.pt"))
    assert not same(weights(whole / "runs/d/student.pt"), weights(whole / "runs/a/student.pt"))


@pytest.mark.parametrize("flag", [
    "--alpha 2", "--surrogate l1", "--ramp-epochs 3", "--augment none", "--drops 1", "--batch 16", "--weight-decay 1e-3",
    "--eps 8/255", "--step-size 1/255", "--steps 3", "--seed 1", "--rslad-scale 1", "--limit-train 64", "--inner student",
    "--epochs 3", "--student wrn-10-2", "--method adaad", "--match direct"])
def test_another_training_is_refused(whole, monkeypatch, capsys, flag):
    """A setting that TRAINING lacks: its run would pass for the one that is there."""
    monkeypatch.chdir(whole)
    argv = [*TINY, "--method", "rslad", "--out", "runs/a", *([] if "match" in flag else ["--igdm"]), *flag.split()]
    key = flag[2:].split()[0].replace("-", "_").replace("rslad_scale", "constants")
    assert igdm.main(argv) == 2 and f"{key} was" in capsys.readouterr().err


@pytest.mark.parametrize("key, value", [("world", 2), ("threads", 99), ("precision", "bf16"), ("compile", True)])
def test_unfinished_run_goes_on_as_it_was(whole, monkeypatch, capsys, key, value):
    """An interrupted run that goes on in another precision, or with the statistics of half batches; a finished one that cannot
    be measured."""
    monkeypatch.chdir(whole)
    shutil.copytree("runs/a", f"runs/as-{key}")
    config = json.loads(Path(f"runs/as-{key}/config.json").read_text())
    config["training"][key] = value
    igdm.write_json(Path(f"runs/as-{key}/config.json"), config)
    argv = [*TINY, "--method", "rslad", "--igdm", "--out", f"runs/as-{key}"]
    assert igdm.main(argv) == 0
    os.remove(f"runs/as-{key}/student.pt")
    assert igdm.main(argv) == 2 and f"{key} was" in capsys.readouterr().err
    if key == "threads":                                        # trained on a GPU up to here: threads do not count there
        config["training"][key] = None
        igdm.write_json(Path(f"runs/as-{key}/config.json"), config)
        assert igdm.main(argv) == 0


def test_busy_folder(whole, monkeypatch, capsys):
    """Two runs into one folder."""
    monkeypatch.chdir(whole)
    with igdm.locked(Path("runs/busy")):
        assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--out", "runs/busy"]) == 75
    assert "another process works in" in capsys.readouterr().err


def test_waiting_for_a_busy_folder(tmp_path):
    """A teacher that is trained by two runs at once."""
    entered = threading.Event()

    def wait():
        with igdm.locked(tmp_path, wait=True):
            entered.set()
    with igdm.locked(tmp_path):
        other = threading.Thread(target=wait, daemon=True)
        other.start()
        assert not entered.wait(0.5)
    assert entered.wait(10)


def test_one_process_fetches(tmp_path, monkeypatch, capsys):
    """Workers on a new machine that download into the same files at once; a lock that a read-only folder cannot hold."""
    locked = []

    def look(folder=tmp_path):
        with open(folder / ".fetching", "w") as file:
            try:
                locked.append(fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                locked.append(True)
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    monkeypatch.setattr(igdm, "read_original", lambda *given: look() or (x, y, x, y))
    monkeypatch.setattr(igdm.models, "fetch", lambda *given: look() or igdm.refuse(True, "fetched"))
    argv = ["--batch", "4", "--student", "wrn-10-1", "--benchmark", "1", "--data-dir"]
    assert igdm.main([*argv, str(tmp_path)]) == 2 and "fetched" in capsys.readouterr().err and locked == [True, True]
    linf = tmp_path / "cifar100/Linf"
    linf.mkdir(parents=True)
    (linf / "X.pt").touch()                             # another's download: it has begun
    monkeypatch.setattr(igdm.models, "from_robustbench", lambda *given: look(linf) or igdm.refuse(True, "loaded"))
    assert igdm.main([*argv, str(tmp_path), "--teacher", "robustbench:X"]) == 2 and locked.pop() and len(locked) == 2
    monkeypatch.setattr(igdm, "locked", lambda *given, **more: look())
    with igdm.fetching(tmp_path / "cifar100.npz"):      # it is there: no waiting for those who fetch something else
        assert len(locked) == 2
    monkeypatch.undo()
    (tmp_path / "file").touch()
    assert igdm.main([*argv, str(tmp_path / "file/data"), "--dataset", "digits", "--method", "pgd-at"]) == 0


@pytest.mark.parametrize("where, name, error", ((np, "load", MemoryError("Unable to allocate 3 TiB")),
                                                (igdm, "to_float", torch.OutOfMemoryError("CUDA out of memory")),
                                                (igdm, "train", torch._dynamo.exc.TorchDynamoException("CUDA out of memory")),
                                                (torch, "load", RuntimeError("DefaultCPUAllocator: can't allocate memory"))))
def test_out_of_memory(tmp_path, monkeypatch, capsys, where, name, error):
    """A traceback; or a file, or the network tried on its first images, blamed for what the memory lacks."""
    def fails(*given, **more):
        raise error
    np.savez(tmp_path / "d.npz", **arrays())
    torch.save({}, tmp_path / "last.pt")
    monkeypatch.setattr(igdm, "identity", lambda *_: {})
    monkeypatch.setattr(where, name, fails)
    argv = ["--method", "pgd-at", "--dataset", str(tmp_path / "d.npz"), "--batch", "8", "--student", "wrn-10-1", "--out", str(tmp_path)]
    assert igdm.main(argv) == 1 and "--batch" in capsys.readouterr().err and not (tmp_path / "damaged.pt").exists()

def test_memory_in_the_words_of_a_library(tmp_path, monkeypatch, capsys):
    """A traceback, as for lack of memory, where a library cannot be loaded and says so in such words."""
    def fails(*given):
        raise ImportError("libgomp.so.1: cannot allocate memory in static TLS block")
    monkeypatch.setattr(igdm, "read_original", fails)
    assert igdm.main(["--dataset", "digits", "--data-dir", str(tmp_path)]) == 2 and "pip install" in capsys.readouterr().err

def test_failed_compilation(tmp_path, monkeypatch, capsys):
    """A traceback, where --no-compile is all that it takes."""
    def fails(*given):
        raise torch._dynamo.exc.TorchDynamoException("no Triton")
    monkeypatch.setattr(igdm, "train", fails)
    argv = "--method pgd-at --dataset digits --batch 8 --limit-train 64 --student wrn-10-1 --out".split()
    assert igdm.main([*argv, str(tmp_path)]) == 2 and "--no-compile" in capsys.readouterr().err


def test_memory_is_trainings(whole, monkeypatch):
    """Table 6's memory with that of the probe in it, which holds a whole teacher's activations."""
    monkeypatch.chdir(whole)
    probe, held = igdm.probe, [1]
    monkeypatch.setattr(igdm, "peak_memory", lambda device, reset=False: held[-1])
    monkeypatch.setattr(igdm, "probe", lambda *given: held.append(held[-1] + 1) or probe(*given))
    assert igdm.main([*TINY, "--method", "ard", "--attacks", "clean", "--out", "runs/memory"]) == 0
    rows = [json.loads(row) for row in (whole / "runs/memory/log.jsonl").read_text().splitlines()]
    assert [row["timing"]["memory_mib"] for row in rows] == [1, 2]


def test_memory_in_mib(monkeypatch):
    """Kibibytes for mebibytes, or macOS's bytes for kibibytes."""
    usage = SimpleNamespace(ru_maxrss=3 * 2**20)
    monkeypatch.setattr(igdm.resource, "getrusage", lambda who: usage)
    for system, mib in (("linux", 3 * 2**10), ("darwin", 3)):
        monkeypatch.setattr(sys, "platform", system)
        assert igdm.peak_memory(torch.device("cpu")) == mib


def test_diverged(whole, monkeypatch, capsys):
    """Hours spent on, or a good checkpoint overwritten by, a loss that is not finite."""
    monkeypatch.chdir(whole)
    monkeypatch.setitem(igdm.MATCH, "igdm", lambda o, s: (o.s_adv.sum() - o.s_minus.sum() + o.t_adv.sum() - o.t_minus.sum()) * math.nan)
    assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--out", "runs/nan"]) == 3
    assert "not finite in epoch 1" in capsys.readouterr().err and not (whole / "runs/nan/last.pt").exists()
    monkeypatch.setitem(igdm.MATCH, "igdm", lambda o, s: o.s_adv.sum() * 0 + (o.s_minus + o.t_adv + o.t_minus).sum() * 0)
    assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--lr", "0.01", "--out", "runs/nan"]) == 0      # as it advises
    state = {name: value * 1e20 if value.is_floating_point() else value for name, value in weights("runs/a/student.pt").items()}
    torch.save(state, "overflows.pt")
    argv = [*TINY[:2], "--eval-only", "overflows.pt", "--student", "wrn-10-1", "--out", "runs/over", "--attacks", "clean,pgd"]
    assert igdm.main(argv) == 3 and "clean of wrn-10-1 is not finite" in capsys.readouterr().err
    assert not (whole / "runs/over/result.json").exists()


def test_eval_only(whole, monkeypatch, capsys):
    """--eval-only that trains, needs what config.json beside the checkpoint says, or knows one teacher only."""
    monkeypatch.chdir(whole)
    shutil.copytree("runs/a", "runs/copy")
    teachers = "runs/teacher-digits-wrn-10-1-epochs1-limit-train128-batch32/student.pt", "runs/copy/student.pt"
    assert igdm.main(["--limit-test", "40", "--attacks", "clean", "--eval-only", "runs/a/student.pt",
                      "--teacher", ",".join(teachers), "--out", "runs/e"]) == 0
    metrics = json.loads((whole / "runs/e/result.json").read_text())["metrics"]
    before = json.loads((whole / "runs/a/result.json").read_text())["metrics"]
    assert metrics["clean"] == before["clean"] and metrics[f"gd@{teachers[0]}"] == before["gd@pgd-at"]
    assert metrics[f"gd@{teachers[1]}"]["value"] == pytest.approx(0, abs=1e-4)
    assert metrics[f"point_adv@{teachers[0]}"]["value"] == before["point_adv@pgd-at"]["value"]
    assert not (whole / "runs/e/last.pt").exists() and "torch" in json.loads((whole / "runs/e/config.json").read_text())["environment"]
    assert igdm.main(["--eval-only", "runs/a/student.pt", "--out", "runs/copy"]) == 2       # of another run
    assert "runs/copy holds a training run" in capsys.readouterr().err
    assert igdm.main([*TINY, "--out", "runs/e"]) == 2 and "runs/e holds an evaluation" in capsys.readouterr().err
    anew = ["--limit-test", "40", "--attacks", "clean", "--fresh", "--eval-only", "runs/a/student.pt", "--out"]
    shutil.copytree("runs/a", "runs/anew")
    for folder in ("runs/e", "runs/copy"):
        assert igdm.main([*anew, folder]) == ("copy" in folder) * 2
    assert {*os.listdir("runs/e.1")} == {"config.json", "result.json", "outcomes.npz", "gradients.npz"}
    assert igdm.main([*anew[:-2], "runs/anew/student.pt", "--out", "runs/anew"]) == 0      # its checkpoints and log stay
    assert {*os.listdir("runs/anew.1")} == {"result.json", "outcomes.npz", "gradients.npz"}
    os.rename("runs/copy/student.pt", "elsewhere.pt")
    os.symlink("../../elsewhere.pt", "runs/copy/student.pt")
    assert igdm.main(["--eval-only", "runs/copy/student.pt", "--out", "runs/copy", "--attacks", "clean"]) == 0
    config = json.loads((whole / "runs/copy/config.json").read_text())
    config["training"].update(method="adaad", inner="student")          # a run whose own attack is not its method's
    (whole / "runs/copy/config.json").write_text(json.dumps(config))
    restored = igdm.resolve(["--eval-only", "runs/copy/student.pt"])
    assert (restored.method, restored.inner) == ("adaad", "student")
    assert igdm.resolve(["--eval-only", "runs/copy/student.pt", "--method", "adaad"]).inner == "student"
    assert igdm.resolve(["--eval-only", "runs/copy/student.pt", "--method", "ard"]).inner is None


@pytest.mark.parametrize("classes, attacks", ((4, ["apgd-ce", "apgd-t", "fab-t", "square"]), (2, ["apgd-ce", "fab-t", "square"])))
def test_autoattack(whole, classes, attacks, monkeypatch, capsys):
    """One of the standard version's attacks left out, its images miscounted, or failing where classes are few."""
    x = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
    y = x.mean((1, 2)).argsort().argsort() * classes // 24
    np.savez(whole / f"{classes}.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.chdir(whole)
    monkeypatch.setattr("pyautoattack.square.SquareAttack.perturb", lambda self, x, y=None: x)      # 5,000 queries: long
    assert igdm.main(["--dataset", f"{classes}.npz", "--method", "trades", "--student", "wrn-10-1", "--epochs", "1",
                      "--batch", "8", "--steps", "1", "--attacks", "clean,aa", "--aa-n", "8", "--eps", "1/25500",
                      "--probe", "0", "--out", f"runs/{classes}"]) == 0
    metrics, said = json.loads((whole / f"runs/{classes}/result.json").read_text())["metrics"], capsys.readouterr().err.lower()
    assert metrics["aa"]["n"] == 8 and 0 < metrics["aa"]["value"] <= 100
    assert [name for name in ("apgd-ce", "apgd-t", "fab-t", "square") if f"after {name}" in said] == attacks


@pytest.mark.parametrize("side, batch", ((8, 250), (32, 250), (64, 62)))
def test_autoattack_batch(side, batch, monkeypatch):
    """Images of 64x64 in batches meant for 32x32: out of memory after hours of training."""
    seen = []
    monkeypatch.setattr("pyautoattack.AutoAttack.run_standard_evaluation", lambda self, x, y, batch_size: (seen.append(batch_size), (x, y))[1])
    igdm.autoattack(nn.Identity(), torch.rand(2, 3, side, side), torch.tensor([0, 1]), 4, 0.1, 0)
    assert seen == [batch]


def test_no_git(whole, monkeypatch):
    """A run that fails where git is not installed."""
    monkeypatch.chdir(whole)
    monkeypatch.setenv("PATH", str(whole / "empty"))
    assert igdm.main([*TINY, "--method", "rslad", "--igdm", "--epochs", "1", "--attacks", "clean", "--out", "runs/no-git"]) == 0
    assert json.loads((whole / "runs/no-git/config.json").read_text())["environment"]["commit"] == ""


def test_two_commands_as_processes(whole):
    """What works in process only: imports, exit codes, output that needs a terminal."""
    done = subprocess.run([sys.executable, str(HERE / "igdm.py"), *TINY, "--method", "rslad", "--igdm", "--out", "runs/a"],
                          cwd=whole, capture_output=True, text=True)
    assert done.returncode == 0 and "clean" in done.stdout and "\r" not in done.stderr
    assert subprocess.run([sys.executable, "-c", "from igdm import igdm_loss, pgd"], cwd=HERE, capture_output=True).stdout == b""


def kill_and_go_on(folder, kills, seed):
    """Run one command in processes killed with SIGKILL at random moments, kills times, then to its end; returns the tally."""
    command = ("import sys, igdm; igdm.SAVE_EVERY = 0.0; sys.exit(igdm.main())", *TINY, "--method", "rslad", "--igdm",
               "--epochs", str(max(8, kills // 2)), "--out", "runs/killed")
    whole_command = [a if a != "runs/killed" else "runs/never-killed" for a in command]
    env = dict(os.environ, PYTHONPATH=str(HERE))
    assert subprocess.run([sys.executable, "-c", *whole_command], cwd=folder, env=env, capture_output=True).returncode == 0
    wait, tally = np.random.default_rng(seed), dict(killed=0, finished=0)
    last = folder / "runs/killed/last.pt"
    while tally["killed"] < kills:
        process = subprocess.Popen([sys.executable, "-c", *command], cwd=folder, env=env, stdout=-3, stderr=-3)
        before, give_up = last.stat().st_mtime_ns if last.exists() else 0, time.monotonic() + 60
        while process.poll() is None and time.monotonic() < give_up and (last.stat().st_mtime_ns if last.exists() else 0) == before:
            time.sleep(0.005)                       # until it has moved on by a checkpoint, so that the whole comes to an end
        time.sleep(wait.uniform(0, 0.15))           # some steps, an epoch's end, a checkpoint half written
        tally["killed" if process.poll() is None else "finished"] += 1
        process.kill()
        process.wait()
        if tally["finished"]:
            break
    assert subprocess.run([sys.executable, "-c", *command], cwd=folder, env=env, capture_output=True).returncode == 0
    return tally


def test_killed_at_random_moments(whole):
    """Anything that a SIGKILL at a bad moment loses, doubles or tears; exact is bitwise."""
    tally = kill_and_go_on(whole, 10, seed=0)
    assert tally["killed"] >= 10, tally
    a, b = whole / "runs/killed", whole / "runs/never-killed"
    assert same(weights(a / "student.pt"), weights(b / "student.pt")) and without_timing(a) == without_timing(b)


# ----------------------------------------------------------------------------------------------------------------------
# Fast, with the same numbers: bf16, torch.compile, CUDA graphs, several processes, --benchmark

def one_step(flags, arch="wrn-10-1", device="cpu"):
    """Loss and gradients of one training step at a fixed x_adv (an attack of no steps from a uniform start)."""
    cfg = igdm.resolve(f"--dataset cifar10 --teacher bdm --method rslad --igdm --alpha 3 --batch 8 --steps 0 --device {device} {flags}".split())
    torch.manual_seed(0)
    S, T = models.build(arch, 10).to(device).train(), models.build("wrn-10-1-silu", 10).to(device).eval().requires_grad_(False)
    x = torch.rand(8, 3, 16, 16, generator=igdm.generator("cpu", 0)).to(device)
    start = igdm.start_noise("uniform", x, cfg.eps, igdm.generator(device, 1))
    loss, sums = igdm.objective(cfg, cfg.epochs), torch.zeros(2, dtype=torch.float64, device=device)
    igdm.training_step(S, T, cfg)[1](loss, igdm.outputs_read(loss), sums, x, torch.arange(8, device=device), start)
    return sums.cpu(), {name: value.grad.cpu() for name, value in S.named_parameters()}, S


def test_compiled_is_eager():
    """A compiled step that loses a pass, a batch statistic or the gradient of one of the three."""
    arch = "wrn-10-1-silu"                      # smooth: rounding can move a ReLU across its kink, and with it a gradient
    (a, grads, S), (b, others, other) = (one_step(f"--precision fp32 {flag}", arch) for flag in ("--no-compile", "--compile"))
    close(a, b, 1e-4, 1e-6)
    for name in grads:
        close(grads[name], others[name], 1e-3, 1e-3 * grads[name].abs().max().item())
    for name, value in S.state_dict().items():
        close(value, other.state_dict()[name], 1e-3, 1e-5)


@pytest.mark.parametrize("arch", ("rn18", "wrn-10-1"))
def test_bf16(arch):
    """bf16 that reaches logits, losses, gradients or weights; that is not in use; or that loses f(x+delta) - f(x-delta)."""
    (a, _, S), (b, others, _) = one_step("--precision fp32", arch), one_step("--precision bf16", arch)
    assert not torch.equal(a, b) and all(value.dtype == torch.float32 for value in others.values())
    close(a[:1], b[:1], 0.05, 0)
    close(a[1:], b[1:], 0.25, 0)
    for i in range(10):                         # statistics of more than one batch
        S(torch.rand(16, 3, 32, 32, generator=igdm.generator("cpu", i)))
    frozen = models.fold(S, precision="bf16")
    x = torch.rand(64, 3, 32, 32, generator=igdm.generator("cpu", 0))
    d = igdm.start_noise("uniform", x, 8 / 255, igdm.generator("cpu", 1)).sign() * 8 / 255
    with torch.no_grad():
        fast, slow = models.mixed(frozen, "bf16"), models.fold(S)
        exact, rough = slow(x + d) - slow(x - d), fast(x + d) - fast(x - d)
    assert rough.dtype == torch.float32 and (exact - rough).norm() < 0.25 * exact.norm()
    assert any(p.dtype == torch.bfloat16 for p in frozen.parameters())
    assert all(p.dtype == torch.float32 for p in [*S.parameters(), *list(frozen.children())[-1].parameters()])


def test_last_layer_is_float32():
    """A last layer in bf16 under autocast: its logits have 8 bits then, whatever float() comes after."""
    head, x = models.Head(8, 4), torch.rand(2, 8, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(x)
    assert torch.equal(inside, head(x)) and not torch.equal(inside, inside.bfloat16().float())


def test_benchmark(whole, monkeypatch, capsys):
    """FLOPs of a pass left out, doubled or of a grouped convolution overcounted; shares that do not add up; a run begun."""
    monkeypatch.chdir(whole)
    argv = [*TINY, "--method", "rslad", "--igdm", "--student", "mnv2", "--batch", "8", "--limit-train", "64", "--out", "runs/none"]
    argv = [a for i, a in enumerate(argv) if not {"--teacher-arch", "--teacher-epochs"} & {a, argv[i - 1]}]
    assert igdm.main([*argv, "--teacher", "runs/a/student.pt", "--benchmark", "2"]) == 0
    said = json.loads("{" + capsys.readouterr().out.split("{", 1)[1])
    macs = []
    for arch in ("mnv2", "wrn-10-1"):
        model, count = models.build(arch, 10, 1), []
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(lambda m, _, out, count=count: count.append(out.numel() * m.weight[0].numel()))
        model.eval()(torch.rand(1, 1, 8, 8))
        macs.append(sum(count))
    first = 64 * 32 * 9                         # in training nobody asks for the gradient of the image
    assert said["tflop_per_step"] == pytest.approx(2 * 8 * ((2 * 2 + 3 * 3) * macs[0] - 3 * first + 3 * macs[1]) / 1e12, rel=1e-9)
    assert sum(said["share"].values()) == pytest.approx(1) and 0 < said["fraction_of_peak"] < 1
    assert said["images_per_second"] == pytest.approx(8 / said["step_ms"] * 1e3) and said["precision"] == "fp32"
    assert not (whole / "runs/none").exists()


def test_benchmark_with_a_teacher_to_train(whole, monkeypatch, capsys):
    """The teacher's epochs before the JSON, so that no program can read it."""
    monkeypatch.chdir(whole)
    argv = [*TINY, "--method", "ard", "--student", "wrn-10-1", "--benchmark", "1", "--out", "runs/bench/x", "--teacher-epochs", "1"]
    assert igdm.main(argv) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["steps"] == 1 and "a teacher first" in told.err and "epoch 1/1" in told.err


def test_evaluation_in_bf16(whole, monkeypatch):
    """--eval-only --precision bf16 that measures in float32, or takes what was measured in another precision for its own."""
    monkeypatch.chdir(whole)
    argv = ["--eval-only", "runs/a/student.pt", "--attacks", "pgd", "--limit-test", "40", "--out", "runs/in-bf16", "--precision"]
    seen, forward = [], models.Mixed.forward
    monkeypatch.setattr(models.Mixed, "forward", lambda self, x: seen.append(x) or forward(self, x))
    for precision in ("fp32", "bf16", "fp32"):
        seen.clear()
        assert igdm.main([*argv, precision]) == 0
        assert json.loads((whole / "runs/in-bf16/result.json").read_text())["precision"] == precision
        assert bool(seen) == (precision == "bf16")


def torchrun(folder, *argv):
    """Two processes on this machine; dump.py writes what each rank's student came to."""
    (folder / "dump.py").write_text("import sys\nimport igdm, torch\nfinish = igdm.train\n"
        "def train(S, *rest):\n    finish(S, *rest)\n    torch.save(S.state_dict(), f'rank{igdm.RANK}.pt')\n"
        "igdm.train = train\nsys.exit(igdm.main())\n")
    (folder / "plain_network.py").write_text("import torch.nn as nn\ndef net(num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, num_classes))\n")
    env = dict(os.environ, PYTHONPATH=str(HERE), OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "dump.py", *argv]
    return subprocess.run(command, cwd=folder, env=env, stdout=-1, stderr=-1, text=True, timeout=120)


def test_two_ranks(whole):
    """Ranks that drift apart in weights or statistics, or both write; a teacher trained by each."""
    shutil.rmtree(whole / "two", ignore_errors=True)
    (whole / "two").mkdir()
    done = torchrun(whole / "two", *TINY, "--method", "rslad", "--igdm", "--out", "runs/two")
    assert done.returncode == 0, done.stderr[-2000:]
    assert same(*(weights(whole / f"two/rank{rank}.pt") for rank in (0, 1)))
    assert same(weights(whole / "two/rank0.pt"), weights(whole / "two/runs/two/student.pt"))
    assert not same(weights(whole / "two/rank0.pt"), weights(whole / "runs/a/student.pt"))     # half batches: other statistics
    assert json.loads((whole / "two/runs/two/result.json").read_text())["metrics"]["pgd"]["n"] == 40
    assert done.stdout.count("epoch 2/2") == 1
    done = torchrun(whole / "two", *TINY, "--method", "rslad", "--igdm", "--out", "runs/two", "--lr", "1")
    assert "lr was 0.1, is 1.0" in done.stderr and "igdm.py\", line" not in done.stderr        # nobody's traceback


def test_processes_without_torchrun(monkeypatch, capsys):
    """A cluster's WORLD_SIZE without RANK that splits every batch; a traceback where the others cannot be found."""
    for rank, world, expected in (("1", "4", (1, 4)), (None, "4", (0, 1)), ("1", None, (0, 1))):
        for name, value in (("WORLD_SIZE", world), ("RANK", rank)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
        spec = importlib.util.spec_from_file_location("again", igdm.__file__)
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
        assert (again.RANK, again.WORLD) == expected
    monkeypatch.setattr(igdm, "WORLD", 2)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert igdm.main("--dataset digits --method pgd-at --batch 32".split()) == 2 and "torchrun" in capsys.readouterr().err


def test_share_of_a_batch(monkeypatch):
    """An odd batch of two processes: one has more images than the other, and counts as much."""
    monkeypatch.setattr(igdm, "WORLD", 2)
    with pytest.raises(UserError, match="multiple of the 2"):
        igdm.resolve("--method pgd-at --batch 33".split())


def test_two_ranks_are_one(whole, monkeypatch):
    """Gradients summed instead of averaged, a share of the batch seen twice or never: without batch norm 2 ranks are 1."""
    argv = [*TINY, "--student", "plain_network:net", "--method", "ard", "--igdm", "--teacher", str(whole / "runs/a/student.pt"),
            "--attacks", "clean", "--threads", "1", "--out"]
    argv = [a for i, a in enumerate(argv) if not {"--teacher-arch", "--teacher-epochs"} & {a, argv[i - 1]}]
    (whole / "plain").mkdir()
    assert torchrun(whole / "plain", *argv, "runs/two").returncode == 0
    monkeypatch.chdir(whole / "plain")
    monkeypatch.syspath_prepend(whole / "plain")
    assert igdm.main([*argv, "runs/one"]) == 0
    one, two = (weights(whole / f"plain/runs/{name}/student.pt") for name in ("one", "two"))
    for name in one:
        close(one[name], two[name], 1e-3, 1e-5)


if GPU:
    def on_gpu(folder, *command):
        env = dict(os.environ, CUDA_VISIBLE_DEVICES=GPU, PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    @pytest.mark.parametrize("flags", ("", "--student rn18", "--no-compile --precision fp32", "--match direct", "--inner student"))
    def test_on_a_gpu(whole, flags):
        """On the machines that have one: what waits for the CPU inside a graph, or lies on the other device."""
        out = whole / f"runs/gpu{flags.replace(' ', '')}"
        argv = [a for i, a in enumerate(TINY) if not {"--teacher-arch", "--teacher-epochs"} & {a, TINY[i - 1]}]
        argv += ["--method", "rslad", "--teacher", "runs/a/student.pt", "--out", out, *flags.split()]
        on_gpu(whole, HERE / "igdm.py", *argv, *([] if "match" in flags else ["--igdm"]), "--device", "cuda")
        rows = [json.loads(row) for row in (out / "log.jsonl").read_text().splitlines()]
        assert len(rows) == 2 and all(math.isfinite(row["loss"]) and row["loss_match"] > 0 for row in rows)
        done = json.loads((out / "config.json").read_text())["environment"]
        assert done["gpu"] and done["cuda_graphs"] == (not {"--no-compile", "--match"} & {*flags.split()})
        assert all(value.device.type == "cpu" for value in weights(out / "student.pt").values())

    def test_graph_on_a_gpu_is_the_step(tmp_path):
        """A graph that replays old images, noise or labels, leaves out the optimizer, or keeps the attacked copy."""
        (tmp_path / "compare.py").write_text(GRAPH)
        eager, compiled = json.loads(on_gpu(tmp_path, "compare.py", "cuda").splitlines()[-1])
        for again, graph, stale in (eager, compiled):
            assert max(again, graph) < 0.1 < stale, (eager, compiled)


GRAPH = """
import functools, json, pathlib, sys
import torch
import igdm
from igdm import models

device = sys.argv[1]
cfg = igdm.resolve(("--method ard --igdm --dataset digits --student wrn-10-1 --precision fp32 --device " + device).split())
data = igdm.load_data("digits", pathlib.Path("data"), 256, 64, device)
torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
if device == "cuda":
    torch.cuda.set_stream(torch.cuda.Stream())

def change(mode):
    torch.manual_seed(0)
    S, T = (models.build("wrn-10-1", data.classes, 1).to(device) for _ in range(2))
    loss, sums = igdm.objective(cfg, 2), torch.zeros(2, dtype=torch.float64, device=device)
    one = igdm.training_step(S.train(), T.eval().requires_grad_(False), cfg)[1]
    take = functools.partial(one, loss, igdm.outputs_read(loss), sums)
    for i in range(4):
        inputs = igdm.make_batch(data, torch.arange(32, device=device) + 32 * i, cfg, igdm.generator(device, i))
        if i == 2:                                              # not taken: only what the graph is recorded with
            other, take = inputs, igdm.captured(take, *inputs) if mode == "graph" else take
            continue
        values = [value.clone() for value in S.parameters()]
        take(*(other if mode == "stale" and i == 3 else inputs))
    return torch.cat([(after - value).detach().flatten() for value, after in zip(values, S.parameters())])

found = []
for cfg.compile, cfg.precision in (False, "fp32"), (True, "bf16"):
    right = change("again")
    found.append([((change(mode) - right).norm() / right.norm()).item() for mode in ("again", "graph", "stale")])
print(json.dumps(found))
"""


# ----------------------------------------------------------------------------------------------------------------------
# The paper's tables: run_all.sh, and the report

def test_rows_of_the_paper():
    """A printed value or a run of the paper left out, doubled or misread; a row whose command igdm.py would refuse."""
    rows = igdm.read_rows()
    assert sum(map(len, rows.values())) == 1550 and {key[0] for row in rows.values() for key in row} == {
        *map(str, range(1, 19)), "7h"}
    said = subprocess.run(["bash", HERE / "run_all.sh", "--list"], capture_output=True, text=True)
    assert said.returncode == 0 and "247 training runs with printed values" in said.stdout
    env = {**{k: v for k, v in os.environ.items() if k != "RIFT"}, "PYTHON": sys.executable}
    checked = subprocess.run(["bash", HERE / "run_all.sh", "--dry-run"], capture_output=True, text=True, env=env)
    assert checked.returncode == 0 and checked.stdout.count("--method") >= 247, checked.stderr[-500:]


def test_no_locks(tmp_path):
    """Rows taken for other workers', and success, on a file system that has no locks."""
    (tmp_path / "flock").write_text("#!/bin/sh\nexit 71\n")
    (tmp_path / "flock").chmod(0o755)
    shutil.copy(HERE / "run_all.sh", tmp_path)
    (tmp_path / "igdm.py").write_text("")
    env = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHON=sys.executable)
    done = subprocess.run(["bash", tmp_path / "run_all.sh", "cifar100-rn18-pgd-at"], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and "cannot lock a file" in done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("extra, code", [("--out x", 2), ("--threads 1 --seed=3", 2), ("--igdm", 2), ("--threads 1 --data-dir d", 0)])
def test_extra_flags(extra, code):
    """All rows in one folder, or another run under a row's name."""
    env = dict(os.environ, EXTRA=extra, PYTHON=sys.executable)
    done = subprocess.run(["bash", HERE / "run_all.sh", "--list", "cifar100-rn18-pgd-at"], capture_output=True, text=True, env=env)
    assert done.returncode == code and ("EXTRA: not --" in done.stderr) == bool(code)


def test_run_by_another_shell():
    """Error after error from a shell that is not bash."""
    done = subprocess.run(["sh", HERE / "run_all.sh", "--list"], capture_output=True, text=True)
    assert done.returncode == 0 or done.stderr == "run_all.sh: this is a script for bash\n"       # sh may be bash


def test_report(tmp_path, capsys):
    """A mean, difference, column or pair taken from the wrong run or table; tables in an order that changes with the hash seed."""
    def result(name, **metrics):
        (tmp_path / name).mkdir()
        n = 40 if "pgd-at" in name else 10000
        igdm.write_json(tmp_path / name / "result.json", dict(metrics={k: dict(value=v, n=n) for k, v in metrics.items()}))
    for seed, aa in enumerate((20.0, 22.0)):
        result(f"cifar100-rn18-bdm-ard-s{seed}", aa=aa, **{"gd@bdm": 0.2 + seed / 100, "point_adv@bdm": 0.2})
    result("cifar100-rn18-bdm-ard+igdm-s0", aa=25.0, **{"point_adv@bdm": 0.3})
    result("cifar100-rn18-pgd-at-s0", aa=18.0, **{"gd@bdm": 0.5, "gd@ltd": 0.4, "gd@ikl": 0.3})
    result("mine", clean=61.5, **{"gd@t.pt": 0.25})
    for name, row in (("foreign", {"loss": 1.0}), ("mine", {"epoch": 1})):      # the first is another program's
        (tmp_path / name).mkdir(exist_ok=True)
        igdm.write_json(tmp_path / name / "result.json", {"metrics": {"accuracy": 1.0}}) if name == "foreign" else None
        (tmp_path / name / "log.jsonl").write_text(json.dumps(row | dict(timing=dict(seconds=6, memory_mib=1))) + "\n")
    assert igdm.main(["--report", str(tmp_path)]) == 0 and "3 of 288 rows of run_all.sh, 1 other run" in capsys.readouterr().out
    text, others = (tmp_path / "report.md").read_text().split("## Other runs")
    assert "\n\nOn fewer than 10,000 test images: cifar100-rn18-pgd-at-s0 (40).\n" in text
    assert "| run | clean |" in others and "| mine (n at least 10000) | 61.5 |  |  |  |  | 0.25 |  |  |" in others
    rows, printed = {}, igdm.read_rows()
    for part in text.split("## Table ")[1:]:
        lines = part.splitlines()
        head = [cell.strip() for cell in lines[2].split("|")[1:-1]]
        rows[lines[0]] = {line.split("|")[1].strip(): dict(zip(head, (c.strip() for c in line.split("|")[1:-1])))
                          for line in lines[4:] if line.startswith("|")}
    assert list(rows) == sorted(rows, key=lambda table: (int(table.strip("h")), table)) and {"7", "7h"} <= rows.keys()
    paper = printed["cifar100-rn18-bdm-ard"]["4", "", "aa"]
    assert rows["4"]["cifar100-rn18-bdm-ard"]["aa"] == f"21 ± 1.4 / {paper:g} ({21 - paper:+.3g})"
    assert rows["4"]["cifar100-rn18-bdm-ard"]["gd"].startswith("0.205 ± 0.0071 / ")
    assert rows["12"]["cifar100-rn18-pgd-at"]["gd"].startswith("0.3 / ") if "cifar100-rn18-pgd-at" in rows["12"] else (
        rows["12"]["cifar100-rn18-pgd-at @ikl"]["gd"].startswith("0.3 / "))
    four, five = text.split("## Table 4")[1].split("## Table 6")[0].split("## Table 5")
    assert "Here, +IGDM has the better aa in 1 of 1 pairs." in four and "better gd" not in four
    assert "Here, +IGDM has the better point_adv in 0 of 1 pairs, not in cifar100-rn18-bdm-ard+igdm." in five
    (tmp_path / "cifar100-rn18-pgd-at-s0/result.json").write_text('{"metrics": {')
    assert igdm.main(["--report", str(tmp_path)]) == 2 and "pgd-at-s0/result.json cannot be read" in capsys.readouterr().err
    assert igdm.without_igdm("cifar10-mnv2-ltd-trades+igdm") == "cifar10-mnv2-trades @ltd"


# ----------------------------------------------------------------------------------------------------------------------
# Figures

def left_behind(folder, log=(), dataset="cifar100", **metrics):
    """A run's folder, as training and evaluation leave it: config.json, and log.jsonl and result.json if given."""
    folder.mkdir(parents=True, exist_ok=True)
    if metrics:
        igdm.write_json(folder / "result.json", dict(metrics={k: dict(value=v, n=10000) for k, v in metrics.items()}))
    if log:
        usual = dict(lr=0.1, loss=2.0, loss_base=1.5, loss_match=0.5, timing=dict(seconds=60, memory_mib=1))
        rows = [{**usual, "epoch": i + 1, **row} for i, row in enumerate(log)]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    igdm.write_json(folder / "config.json", dict(training=dict(dataset=dataset)))

def test_measured(tmp_path):
    """Table 6's minutes in seconds, or its memory that of the first epoch; OOD's numbers left out."""
    left_behind(tmp_path / "a", [dict(timing=dict(seconds=s, memory_mib=m)) for s, m in ((600, 1), (120, 2), (60, 3))], aa=1.0)
    igdm.write_json(tmp_path / "a/ood.json", dict(clean_ood_d=5.0, model="x"))
    assert igdm.measured(tmp_path / "a") == {"n": 10000, "aa": 1.0, "aa@": 1.0, "min_per_epoch": 2, "memory_mib": 3, "clean_ood_d": 5.0}

def gradients_file(folder, channels=3, n=2, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shape = n, 8, 8, channels
    np.savez(folder / "gradients.npz", **{"images": rng.random(shape), "labels": np.arange(n),
                                          "student": rng.normal(size=shape), "teacher@bdm": rng.normal(size=shape), **arrays})

def pictures(root, monkeypatch):
    """{name: (title, panels that have curves)} of what --report draws through picture, which is not called."""
    drawn = {}
    monkeypatch.setattr(igdm, "picture", lambda path, title, *panels: drawn.update(
        {str(path.relative_to(root)): (title, panels)} if any(curves for curves, _ in panels) else {}))
    assert igdm.main(["--report", str(root)]) == 0
    monkeypatch.undo()
    return {name: (title, [panel for panel in panels if panel[0]]) for name, (title, panels) in drawn.items()}

RN18 = "cifar100-rn18-bdm-"
PROBED = dict(clean=50.0, pgd10=0.0, remainder=0.01, gd=0.2, gc=0.5)
FIGURES = {   # what a run must have left, for which picture
    "figure2.png": [("cifar100-ltd-s0", dict(remainder=0.01)), (RN18 + "ard-e100-s0", dict(log=[PROBED]))],
    "figure3.png": [(RN18 + "iad+igdm-s0", {"aa": 25.0, "gd@bdm": 0.1, "gc@bdm": 0.5})],
    "figure4.png": [("cifar100-rn18-Chen2020Efficient-rslad-s0", dict(aa=25.0))],
    "figure5.png": [(RN18 + "ard+igdm-s1", dict(log=[PROBED])), (RN18 + "ard-direct-a30-s0", dict(log=[PROBED] * 30))]}

@pytest.mark.parametrize("figure, name, left", [(figure, *run) for figure, runs in FIGURES.items() for run in runs])
def test_figures_where_there_are_data(tmp_path, figure, name, left):
    """A figure that is lacking, of the wrong rows, or drawn out of nothing; a panel that fails on few epochs."""
    left_behind(tmp_path / name, **left)
    left_behind(tmp_path / "cifar100-rn18-pgd-at-s0", clean=50.0)               # of no figure
    assert igdm.main(["--report", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.glob("*.png")] == [figure] and (tmp_path / figure).read_bytes()[1:4] == b"PNG"
    assert (tmp_path / name / "curves.png").exists() == ("log" in left)
    assert f"]({figure})" in (tmp_path / "report.md").read_text()

def test_no_figure_without_data(tmp_path):
    """An empty picture; a point with half of its coordinates; a crash on a run that has only begun."""
    left_behind(tmp_path / f"{RN18}ard-s0", aa=25.0, **{"gd@bdm": 0.1})         # no GC: no point in its panel
    left_behind(tmp_path / f"{RN18}ard+igdm-s0", log=[dict(epoch=1)])           # --probe 0
    (tmp_path / f"{RN18}iad-s0").mkdir()
    (tmp_path / f"{RN18}iad-s0" / "log.jsonl").touch()
    assert igdm.main(["--report", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["figure3.png", "figure4.png", "figure5.png"]
    assert not (tmp_path / f"{RN18}iad-s0" / "curves.png").exists()

def test_correlation(tmp_path, monkeypatch):
    """Pearson's r of the wrong axes, runs or teachers; a point in the wrong panel; +IGDM not marked."""
    runs = {"bdm-ard": (0.1, 0.40, 24.0), "bdm-ard+igdm": (0.2, 0.55, 29.0), "bdm-iad": (0.15, 0.45, 25.0),
            "bdm-adaad": (0.3, 0.50, 27.0), "ltd-ard": (0.1, 0.70, 20.0), "ltd-iad": (0.2, 0.60, 22.0),
            "ltd-akd": (0.3, 0.65, 23.0)}
    for name, (gd, gc, aa) in runs.items():
        left_behind(tmp_path / f"cifar100-rn18-{name}-s0", **{"aa": aa, "gd@x": gd, "gc@x": gc})
    left_behind(tmp_path / "cifar10-rn18-ltd-ard-s0", **{"aa": 90.0, "gd@x": 9.0, "gc@x": 9.0})    # not in table 4
    title, (gc, gd) = pictures(tmp_path, monkeypatch)["figure3.png"]

    def pearson(x, y):
        x, y = np.subtract(x, np.mean(x)), np.subtract(y, np.mean(y))
        return (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    for (curves, axes), i in ((gc, 1), (gd, 0)):
        assert {(x[0], y[0]) for x, y, _ in curves} == {(run[i], run[2]) for run in runs.values()}
        r = pearson([run[i] for run in runs.values()], [run[2] for run in runs.values()])
        assert axes["title"] == f"Pearson's r = {r:.2f} (n = 7)"
        assert [(y[0], style["label"]) for _, y, style in curves if style["marker"] == "*"] == [(29.0, "bdm + IGDM")]

def test_figures_show_their_runs(tmp_path, monkeypatch):
    """A curve of another run, metric or epoch; a folder that --fresh put aside, or another row's, among a row's runs."""
    for i, name in enumerate(("ard", "ard+igdm", "ard-direct-a1", "ard-e100", "ard-s0.1")):
        loss = 3.0 + i
        left_behind(tmp_path / (RN18 + name + "-s0" * ("-s0" not in name)), [
            dict(PROBED, loss=loss + epoch, loss_base=loss, gd=i / 10, remainder=i / 100) for epoch in range(2)])
    drawn = pictures(tmp_path, monkeypatch)
    labels = [RN18 + name for name in ("ard-direct-a1", "ard", "ard+igdm")]
    gd, loss, base = [{style["label"]: (x, y) for x, y, style in curves} for curves, _ in drawn["figure5.png"][1]]
    assert list(loss) == labels and len(drawn["figure5.png"][1][0][0]) == 3
    assert [loss[label] for label in labels] == [([1, 2], [5.0, 6.0]), ([1, 2], [3.0, 4.0]), ([1, 2], [4.0, 5.0])]
    assert [gd[label][1] for label in labels] == [[0.2] * 2, [0.0] * 2, [0.1] * 2] and base[labels[2]][1] == [4.0] * 2
    (curves, _), = drawn["figure2.png"][1]
    assert [(x, y, style["label"]) for x, y, style in curves] == [([1, 2], [0.03] * 2, RN18 + "ard-e100")]
    panels = drawn[f"{RN18}ard-s0/curves.png"][1]
    assert [[style["label"] for *_, style in curves] for curves, _ in panels] == [
        ["loss", "loss_base", "loss_match", "lr"], ["clean", "pgd10"], ["gc"]]

def test_report_takes_a_rows_own_runs(tmp_path):
    """adaad's mean over adaad-student-inner too, or over what --fresh put aside."""
    for name, aa in (("adaad-s0", 20.0), ("adaad-s10", 22.0), ("adaad-student-inner-s0", 90.0), ("adaad-s0.1", 80.0)):
        left_behind(tmp_path / (RN18 + name), aa=aa)
    assert igdm.main(["--report", str(tmp_path)]) == 0
    rows = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith(f"| {RN18}adaad |")]
    assert len(rows) == 6 and sum("| 21 ± 1.4 / " in row for row in rows) == sum("±" in row for row in rows) == 4

def test_smoke_is_marked(tmp_path, monkeypatch):
    """A miniature taken for the paper's, or the paper's for a miniature; GD of a smoke run not found, as its teacher has
    another name."""
    from matplotlib.figure import Figure
    real, smoke, titles = tmp_path / "real", tmp_path / "smoke", []
    monkeypatch.setattr(Figure, "suptitle", lambda self, title, **_: titles.append(title))
    for root, dataset, teacher in ((real, "cifar100", "bdm"), (smoke, "digits", "pgd-at")):
        for name in (RN18 + "ard", RN18 + "ard+igdm", "cifar100-rn18-pgd-at"):
            left_behind(root / f"{name}-s0", [PROBED], dataset, **{"aa": 25.0, f"gd@{teacher}": 0.123, f"gc@{teacher}": 0.5})
            gradients_file(root / f"{name}-s0")
    left_behind(real / "digits-mnv2-pgd-at-rslad-s0", [PROBED], "digits", aa=9.0)      # no row of run_all.sh
    for root in (real, smoke):
        titles.clear()
        assert igdm.main(["--report", str(root)]) == 0
        text = (root / "report.md").read_text()
        drawn = list(root.rglob("*.png"))
        assert {"gradients.png", "curves.png", "figure3.png", "figure4.png", "figure5.png"} == {path.name for path in drawn}
        assert len(titles) == len(drawn)
        assert all(title.startswith("SMOKE") == (root == smoke) for title in [*titles, text.removeprefix("# ")])
        assert "| 0.123 / 0.452 (" in text                      # table 17, column BDM
        assert ("| 0.123 / 0.46 (" in text) == (root == smoke)  # table 12, column IKL, against which real did not measure

def test_gradients_picture(tmp_path, monkeypatch):
    """Another pair or teacher than said; 0 that is not grey; an outlier that hides the rest; columns or rows exchanged."""
    from matplotlib.axes import Axes
    shown = []
    monkeypatch.setattr(Axes, "imshow", lambda ax, image, **_: shown.append(
        (ax.get_title(), ax.get_xlabel(), ax.get_ylabel(), image)))
    g = np.zeros((2, 16, 16, 1))
    g[:, 0, 0], g[:, 1], g[0, 2] = 1000, 1, -1
    images = np.linspace(0, 1, 512).reshape(2, 16, 16, 1)
    gradients_file(tmp_path / f"{RN18}iad-s0", 1, images=images, student=-g, **{"teacher@bdm": g})
    gradients_file(tmp_path / f"{RN18}iad+igdm-s0", 1, images=images, student=g, **{"teacher@bdm": g})
    gradients_file(tmp_path / f"{RN18}ard+igdm-s1", 1)          # no partner: its base has another seed
    gradients_file(tmp_path / f"{RN18}ard-s0", 1)
    for name in ("iad", "iad+igdm", "ard"):
        left_behind(tmp_path / f"{RN18}{name}-s0", clean=1.0)
    assert igdm.main(["--report", str(tmp_path)]) == 0 and (tmp_path / "gradients.png").exists()
    assert [one[0] for one in shown] == ["test image", "teacher bdm", f"{RN18}iad-s0", f"{RN18}iad+igdm-s0", *[""] * 4]
    assert [one[1] for one in shown] == ["", "", "cos -1.00", "cos 1.00"] * 2
    assert [one[2] for one in shown] == ["label 0", "", "", "", "label 1", "", "", ""]
    assert np.array_equal(shown[0][3], images[0, ..., 0]) and np.array_equal(shown[4][3], images[1, ..., 0])
    teacher, base = shown[1][3], shown[2][3]
    assert [teacher[i, 0] for i in range(4)] == [1, 1, 0, 0.5] and teacher.shape == (16, 16) and np.allclose(teacher + base, 1)

def test_curves_are_drawn_once(tmp_path):
    """A picture a run, 250 of them, drawn anew at every report; or not drawn anew when training has gone on."""
    left_behind(tmp_path / "mine", [PROBED])
    picture, log = tmp_path / "mine" / "curves.png", tmp_path / "mine" / "log.jsonl"
    times = []
    for age in (100, 100, -100):                                # seconds by which the log is the older
        if picture.exists():
            os.utime(log, (picture.stat().st_mtime - age,) * 2)
        assert igdm.main(["--report", str(tmp_path)]) == 0
        times.append(picture.stat().st_mtime_ns)
    assert times[0] == times[1] < times[2]
