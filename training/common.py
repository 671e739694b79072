"""What the training scripts share: paths, device set-up, running averages, checkpoints that survive a kill."""

import os
import time

import torch


def setup(device, threads=2):
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    return torch.device(device)


def save(path, state):
    """Writes a checkpoint beside `path` and moves it there, so that a kill leaves the old one whole."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=False) if os.path.exists(path) else None


class Ema:
    """An exponential average of a model's parameters, in f32; the decay grows with the steps taken."""

    def __init__(self, params, decay):
        self.decay, self.steps = decay, 0
        self.avg = [p.detach().float().clone() for p in params]

    @torch.no_grad()
    def update(self, params):
        self.steps += 1
        d = min(self.decay, (1 + self.steps) / (20 + self.steps))
        torch._foreach_lerp_(self.avg, [p.detach().float() for p in params], 1 - d)

    @torch.no_grad()
    def copy_to(self, params):
        for p, a in zip(params, self.avg):
            p.copy_(a)


class Clock:
    def __init__(self, seconds):
        self.start, self.seconds = time.time(), seconds

    def spent(self):
        return time.time() - self.start

    def share(self):
        return self.spent() / self.seconds


def feed(make, count, ahead=4):
    """An endless supply of make(k)(), k = 0 .. count - 1 naming the process that makes it; with count 0 it is made here.
    Start it before the device is touched: the processes are forked."""
    if count == 0:
        one = make(0)
        while True:
            yield one()
    ctx = torch.multiprocessing.get_context("fork")
    queue = ctx.Queue(ahead * count)

    def go(k):
        torch.set_num_threads(1)
        one = make(k)
        while True:
            queue.put(one())

    for k in range(count):
        ctx.Process(target=go, args=(k,), daemon=True).start()
    while True:
        yield queue.get()


class Mixer:
    """Lets several one-thread workers train one model on a shared CPU without waiting for one another: now and then a
    worker moves the shared parameters half-way to its own, under a lock, and goes on from there. With one worker it
    does nothing. (Two threads in one process lose most of their time at barriers when other programs run.)"""

    def __init__(self, params, shared, lock, every=8):
        self.params, self.shared, self.lock, self.every = params, shared, lock, every

    @staticmethod
    def buffer(numel):
        return torch.full((numel + 1,), float("nan")).share_memory_()

    @torch.no_grad()
    def mix(self, step):
        if self.shared is None or step % self.every:
            return
        flat = torch.cat([p.detach().float().reshape(-1) for p in self.params])
        with self.lock:
            body = self.shared[1:]
            body.copy_(flat) if torch.isnan(self.shared[0]) else body.lerp_(flat, 0.5)
            self.shared[0] = 0
            flat.copy_(body)
        i = 0
        for p in self.params:
            p.copy_(flat[i:i + p.numel()].view_as(p))
            i += p.numel()


def run_workers(worker, args, numel, count):
    """Runs worker(rank, args, shared, lock) in `count` processes; with one, in this one."""
    if count == 1:
        worker(0, args, None, None)
        return
    ctx = torch.multiprocessing.get_context("fork")
    shared, lock = Mixer.buffer(numel), ctx.Lock()

    def own_session(rank):
        if rank:
            os.setsid()  # the scheduler shares the CPU between sessions first
        worker(rank, args, shared, lock)

    procs = [ctx.Process(target=own_session, args=(r,)) for r in range(count)]
    for p in procs:
        p.start()
    for p in procs:
        p.join()


def orthogonal(g, steps=5):
    """The nearest half-orthogonal matrix to each of g [..., R, C], by a quintic Newton-Schulz iteration (Muon)."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        a = x @ x.mT
        b = -4.7750 * a + 2.0315 * (a @ a)
        x = 3.4445 * x + b @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum whose update is made orthogonal, for matrices and convolutions; the step has the
    size that Adam's would have at the same rate."""

    def __init__(self, params, momentum=0.95):
        self.params, self.momentum = params, momentum
        self.buf = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, lr):
        for p, b in zip(self.params, self.buf):
            b.lerp_(p.grad, 1 - self.momentum)
            g = p.grad.lerp(b, self.momentum).flatten(1)
            p.add_(orthogonal(g).view_as(p), alpha=-lr * 0.2 * max(g.shape) ** 0.5)
