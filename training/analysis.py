"""The linear analysis that the autoencoder's encoder performs, in numpy, and the encoder's weights that perform it.

A picture in [-1, 1] becomes luma and two colour differences; of each 8 x 8 block the 20 lowest cosine coefficients of
luma are kept and, of the colour differences at half resolution, the 6 lowest each: 32 latent channels. Training on this
needs no encoder network at all. `build_encoder` writes the same map into the weights of diffusers' encoder: the residual
branches are silent, the strided convolutions gather pixels, and the last group normalisation is kept at a fixed scale by
constant channels, so that the result differs from the exact map by less than one percent.
"""

import numpy as np

LUMA, CHROMA = 20, 6
CHANNELS = LUMA + 2 * CHROMA
# Rows: luma, blue difference, red difference, of (r, g, b).
_YCC = np.array([[0.30, 0.55, 0.15], [-0.25, -0.45, 0.70], [0.70, -0.55, -0.15]], np.float64)


def _order(n):
    """Coefficients (u, v) of an n x n cosine transform, lowest first."""
    return sorted(((u, v) for u in range(n) for v in range(n)), key=lambda p: (p[0] ** 2 + p[1] ** 2, p[0]))


def _basis(n, count):
    """[count, n, n]: orthonormal cosine basis, times n so that a flat block of ones gives n / n = 1 for the first."""
    x = (np.arange(n) + 0.5) / n
    c = np.stack([np.cos(np.pi * u * x) * (1 if u == 0 else np.sqrt(2)) for u in range(n)])
    return np.stack([np.outer(c[u], c[v]) for u, v in _order(n)[:count]]) / (n * n)


def matrix():
    """The map of one block: [32, 8, 8, 3]."""
    out = np.zeros((CHANNELS, 8, 8, 3))
    out[:LUMA] = _basis(8, LUMA)[..., None] * _YCC[0]
    half = np.repeat(np.repeat(_basis(4, CHROMA), 2, 1), 2, 2) / 4
    for k in (0, 1):
        at = LUMA + k * CHROMA
        out[at:at + CHROMA] = half[..., None] * _YCC[1 + k]
    return out


_M = matrix().reshape(CHANNELS, 192).T.astype(np.float32)


def analyse(u8):
    """uint8 [B, H, W, 3] -> latents float32 [B, 32, H / 8, W / 8]."""
    b, h, w, _ = u8.shape
    x = u8.astype(np.float32) / 127.5 - 1
    x = x.reshape(b, h // 8, 8, w // 8, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192)
    return (x @ _M).reshape(b, h // 8, w // 8, CHANNELS).transpose(0, 3, 1, 2)


def patchify(z):
    """[B, 32, h, w] -> [B, 128, h / 2, w / 2], channel c * 4 + row * 2 + column."""
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)


def unpatchify(p):
    """The other way round: [B, 128, h, w] -> [B, 32, 2 h, 2 w]."""
    b, c, h, w = p.shape
    return p.reshape(b, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)


def emphasis():
    """How much less than unit variance each latent channel is given after normalisation, [32] in (0, 1]: the higher
    the frequency, the less of it, so that form and colour come before sharpness."""
    f8 = np.array([np.hypot(u, v) for u, v in _order(8)[:LUMA]])
    f4 = np.array([np.hypot(u, v) for u, v in _order(4)[:CHROMA]])
    return np.concatenate([1 / (1 + 0.25 * f8), 1 / (1 + 0.25 * f4), 1 / (1 + 0.25 * f4)])


def statistics(pictures):
    """Batch-norm running mean and variance, [128] each, from uint8 pictures [B, H, W, 3]."""
    p = patchify(analyse(pictures)).astype(np.float64)
    mean, var = p.mean((0, 2, 3)), p.var((0, 2, 3))
    # The four positions of a block share their statistics.
    mean = np.repeat(mean.reshape(CHANNELS, 4).mean(1), 4)
    var = np.repeat(var.reshape(CHANNELS, 4).mean(1) / emphasis() ** 2, 4)
    return mean, var


def build_encoder(vae):
    """Writes the map into `vae.encoder` and `vae.quant_conv` (AutoencoderKLFlux2 of widths 16, 32, 64, 128, one layer a
    block, 8 normalisation groups)."""
    import torch

    enc = vae.encoder
    k_const = 40.0
    with torch.no_grad():
        for name, p in list(enc.named_parameters()):
            if "norm" in name and name.endswith("weight"):
                p.fill_(1.0)
            elif name.endswith("bias") or "conv2" in name or "to_out" in name or "shortcut" in name:
                p.zero_()
        # Full resolution: channels 0..2 are luma and the differences.
        enc.conv_in.weight.zero_()
        for k in range(3):
            for c in range(3):
                enc.conv_in.weight[k, c, 1, 1] = _YCC[k, c]
        d = enc.down_blocks
        # The strided convolution sees taps (0..2, 0..2) from the top left pixel of each 2 x 2 group.
        w = d[0].downsamplers[0].conv.weight
        w.zero_()
        for i in range(2):
            for j in range(2):
                w[i * 2 + j, 0, i, j] = 1  # luma gathered: 4 channels
                w[4, 1, i, j] = w[5, 2, i, j] = 0.25  # differences averaged
        s = d[1].resnets[0].conv_shortcut.weight  # 16 -> 32
        for k in range(6):
            s[k, k, 0, 0] = 1
        w = d[1].downsamplers[0].conv.weight  # gathers 4 x 4 luma (16) and 2 x 2 differences (4 + 4)
        w.zero_()
        for i in range(2):
            for j in range(2):
                for q in range(4):  # luma at row 2 i + q / 2, column 2 j + q % 2
                    w[(2 * i + q // 2) * 4 + 2 * j + q % 2, q, i, j] = 1
                w[16 + i * 2 + j, 4, i, j] = 1
                w[20 + i * 2 + j, 5, i, j] = 1
        s = d[2].resnets[0].conv_shortcut.weight  # 32 -> 64
        for k in range(24):
            s[k, k, 0, 0] = 1
        w = d[2].downsamplers[0].conv.weight  # the cosine transform of 8 x 8 luma and 4 x 4 differences
        w.zero_()
        b8, b4 = _basis(8, LUMA), _basis(4, CHROMA)
        for i in range(2):
            for j in range(2):
                for r in range(4):
                    for c in range(4):
                        for k in range(LUMA):
                            w[k, r * 4 + c, i, j] = b8[k, 4 * i + r, 4 * j + c]
                for r in range(2):
                    for c in range(2):
                        for k in range(CHROMA):
                            w[LUMA + k, 16 + r * 2 + c, i, j] = b4[k, 2 * i + r, 2 * j + c]
                            w[LUMA + CHROMA + k, 20 + r * 2 + c, i, j] = b4[k, 2 * i + r, 2 * j + c]
        # 64 -> 128: each of 8 groups of 16 holds 4 latents, their negatives, and 8 constants of both signs.
        sc = d[3].resnets[0].conv_shortcut
        for g in range(8):
            for q in range(4):
                sc.weight[g * 16 + q, g * 4 + q, 0, 0] = 1
                sc.weight[g * 16 + 4 + q, g * 4 + q, 0, 0] = -1
            sc.bias[g * 16 + 8:g * 16 + 12] = k_const
            sc.bias[g * 16 + 12:g * 16 + 16] = -k_const
        enc.conv_norm_out.weight.fill_(k_const * np.sqrt(0.5))
        enc.conv_norm_out.bias.zero_()
        enc.conv_out.weight.zero_()
        for g in range(8):
            for q in range(4):
                enc.conv_out.weight[g * 4 + q, g * 16 + q, 1, 1] = 1
                enc.conv_out.weight[g * 4 + q, g * 16 + 4 + q, 1, 1] = -1
        enc.conv_out.bias.zero_()
        enc.conv_out.bias[CHANNELS:] = -10.0  # log variance: the mean is what counts
        vae.quant_conv.weight.copy_(torch.eye(64)[..., None, None])
        vae.quant_conv.bias.zero_()
        # Silent branches hold nothing.
        for name, p in enc.named_parameters():
            if ("conv1" in name or "to_q" in name or "to_k" in name or "to_v" in name) and p.dim() > 1:
                p.zero_()
