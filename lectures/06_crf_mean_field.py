# %% [markdown]
# # Dense CRF by mean field
#
# A network for segmentation answers once for each block of pixels, so its labels fray at the edges. The photograph knows where the edges
# are. How can every pixel talk to every other pixel about its label, when there are billions of pairs?
#
# **After this lecture you can** write down the energy of a labeling and turn it into probabilities; name the five parameters of a fully
# connected CRF and say what each does to a picture; derive the mean field update from the Kullback-Leibler divergence, step by step; say
# when the update is safe, when it oscillates and how its answer differs from the exact one; and explain why it runs in a fraction of a
# second on a photograph.
#
# **You need** Python, tensors, and the meaning of a probability; [lecture 01](01_convolution_arithmetic.ipynb) for filters. **Time:**
# about 100 minutes.
#
# **Sources**
#
# - Krähenbühl and Koltun, [Efficient inference in fully connected CRFs with Gaussian edge potentials](https://arxiv.org/abs/1210.5644),
#   NIPS 2011: sections 2 and 3.
# - Krähenbühl and Koltun, [Parameter learning and convergent inference for dense random
#   fields](https://proceedings.mlr.press/v28/kraehenbuehl13.html), ICML 2013.
# - Koller and Friedman, *Probabilistic graphical models*, MIT Press 2009: section 11.5.1 (mean field).
# - Wainwright and Jordan, [Graphical models, exponential families, and variational inference](https://doi.org/10.1561/2200000001),
#   Foundations and Trends in Machine Learning 2008: chapter 5.
# - Adams, Baek and Davis, [Fast high-dimensional filtering using the permutohedral
#   lattice](https://graphics.stanford.edu/papers/permutohedral/), Eurographics 2010.
# - Chen et al., [Semantic image segmentation with deep convolutional nets and fully connected CRFs](https://arxiv.org/abs/1412.7062),
#   ICLR 2015 (DeepLab).
# - Zheng et al., [Conditional random fields as recurrent neural networks](https://arxiv.org/abs/1502.03240), ICCV 2015.

# %% tags=["setup"]
import itertools
import math
import time

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from course_lib import datasets, measurements, plots, repro, scenes

# %%
full = repro.profile() == "full"  # COURSE_PROFILE=full: larger, on a GPU
SCENE_SIZE = 128 if full else 64  # pixels
TRAINING_SCENES, TEST_SCENES = (2000, 500) if full else (300, 60)
CELL = 8  # pixels a side: the stride of the coarse network
device = repro.pick_device() if full else torch.device("cpu")
torch.set_num_threads(1)  # for tensors as small as these, two threads wait for each other longer than they work

# %% [markdown]
# ## Labels that fray
#
# We let a small network find the objects in rendered scenes: spheres, boxes, cylinders, cones and people on a floor. It says one number
# for each cell of 8 × 8 pixels: how likely a pixel of this cell belongs to an object. It looks at the colours of the cell and of the
# eight cells around it, sends them through 300 random neurons, and learns the weights of the last layer. With the first layer fixed this
# is a logistic regression, which Newton's method solves in a second. Its training scenes are used for nothing else.

# %%
def draw(first, count):
    """Images (N, 3, H, W) of scenes first, first + 1, ... and masks (N, H, W), true where an object is."""
    picture = scenes.render(scenes.sample(range(first, first + count)), SCENE_SIZE, antialias=1, device=device)
    return picture.images, picture.semantic > 1  # classes 0 and 1 are sky and floor


def describe(images):
    """What the network sees of every cell: mean and spread of the colours in 3 x 3 cells, and its place. (N * rows * columns, 58)"""
    mean = F.avg_pool2d(images, CELL)
    spread = (F.avg_pool2d(images**2, CELL) - mean**2).clamp(min=0).sqrt()
    around = F.unfold(F.pad(torch.cat([mean, spread], 1), (1, 1, 1, 1), mode="replicate"), 3)  # (N, 6 * 9, cells)
    rows, columns = mean.shape[2:]
    place = torch.cartesian_prod(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns)).T.to(images)  # (2, cells)
    place = torch.cat([place, place**2]).expand(len(images), -1, -1)
    return torch.cat([around, place], 1).movedim(1, 2).flatten(0, 1)


# %%
def train_coarse(images, masks, seed):
    """A function from images (N, 3, H, W) to scores (N, H, W): the log odds that a pixel belongs to an object."""
    inputs, targets = describe(images), F.avg_pool2d(masks[:, None].float(), CELL).flatten()
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-3
    generator = torch.Generator().manual_seed(seed)
    first = (1.5 * torch.randn(inputs.shape[1], 300, generator=generator) / inputs.shape[1] ** 0.5).to(images)
    bias = torch.randn(300, generator=generator).to(images)

    def neurons(inputs):
        z = (inputs - mean) / deviation
        return torch.cat([F.relu(z @ first + bias), z, torch.ones_like(z[:, :1])], 1)

    x = neurons(inputs)
    last, ridge = x.new_zeros(x.shape[1]), 10 * torch.eye(x.shape[1], device=x.device)
    for _ in range(8):  # Newton's method on the cross entropy, with a little weight decay
        p = (x @ last).sigmoid()
        hessian = (x * (p * (1 - p)).clamp(min=1e-4)[:, None]).T @ x + ridge
        last = last - torch.linalg.solve(hessian, x.T @ (p - targets) + ridge @ last)

    def scores(images):
        cells = (neurons(describe(images)) @ last).view(len(images), 1, images.shape[2] // CELL, images.shape[3] // CELL)
        return F.interpolate(cells, scale_factor=CELL, mode="bilinear")[:, 0]

    return scores


coarse = train_coarse(*draw(0, TRAINING_SCENES), seed=0)
images, masks = draw(10_000, TEST_SCENES)
scores = coarse(images)

# %% [markdown]
# The answer is a **score** for every pixel, the log odds: 0 means undecided, and $\sigma(\text{score}) = 1 / (1 + e^{-\text{score}})$ is
# the probability of the label "object". Between the centres of cells the scores are interpolated.
#
# **Predict first.** Where will the wrong pixels be?

# %%
def errors(predicted, mask):
    """A picture (3, H, W): white and black where right, orange where an object is missed, blue where one is invented."""
    colours = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.45, 0.7], [0.9, 0.4, 0.0], [1.0, 1.0, 1.0]])
    return colours[(2 * mask.long() + predicted.long()).cpu()].movedim(-1, 0)


example = 4
fig = plots.image_row([images[example], masks[example].float(), scores[example].sigmoid(), errors(scores[example] > 0, masks[example])],
                      ["scene", "truth", "probability", "labels"], height=2.3)
fig.suptitle("The network finds the objects and loses their outline", x=0.01, ha="left")
plots.show(fig, alt="A scene, its mask, a blurred map of probabilities, and the labels, with missed and invented rims around objects.")

# %% [markdown]
# Orange pixels are missed, blue ones invented. Most of them lie along the outlines. We count over all test scenes how often a pixel is
# wrong, by its distance to the nearest edge of the true mask.

# %%
def within(masks, distance):
    """Pixels (N, H, W) with both labels in the square of `distance` pixels around them."""
    m = masks[:, None].float()
    size = 2 * distance + 1
    return (F.max_pool2d(m, size, 1, distance) != -F.max_pool2d(-m, size, 1, distance))[:, 0]


wrong = (scores > 0) != masks
for near, far in [(0, 1), (1, 2), (2, 4), (4, 8), (8, 64)]:
    ring = within(masks, far) & ~within(masks, near)
    share, of_them = ring.float().mean(), wrong[ring].float().mean()
    print(f"{near} to {far:2d} pixels from an edge: {share:5.1%} of all pixels, {of_them:5.1%} of them wrong")

# %% [markdown]
# A pixel at an edge is wrong nearly every second time, while far from all edges hardly any is. The network is not stupid, it is coarse.
#
# We also want photographs. The course has no network for them, so we take the best that a network with cells of 16 × 16 pixels could say:
# the true share of the object in every cell, never closer to certainty than 2 %, interpolated. The masks were drawn by hand for this
# lecture, corner by corner. Only the drawing of a horse is its own mask.

# %%
CORNERS = {  # x, y in pixels of the photograph
    "coffee": [
        "285 18 320 22 355 36 385 58 398 72 412 67 423 74 424 84 417 107 435 120 455 145 470 172 478 200 480 225 476 255 465 285 "
        "448 312 425 336 395 357 360 374 325 385 285 390 245 386 205 375 170 358 140 335 112 305 93 272 82 240 77 210 80 180 92 150 "
        "110 122 135 98 160 82 180 73 187 62 210 42 240 26 262 20",
    ],
    "flower": [
        "315 85 330 92 345 92 358 100 375 101 388 108 395 113 405 117 412 134 422 138 428 150 429 158 433 170 432 182 438 190 444 "
        "205 446 222 445 240 440 255 432 268 430 282 425 293 419 300 412 312 407 322 398 332 385 334 375 340 362 348 350 351 340 "
        "356 325 359 310 356 297 360 285 357 275 352 265 348 252 352 240 345 230 337 218 327 205 317 198 303 189 292 183 282 181 "
        "272 174 265 171 250 172 240 170 225 170 210 175 197 182 194 176 185 178 174 183 170 190 170 188 160 190 148 197 139 206 "
        "135 208 125 217 116 230 114 240 105 252 98 267 95 275 97 288 91 300 90 305 87",
        "289 427 289 410 296 400 306 394 320 392 330 393 325 388 330 386 336 386 343 378 350 375 360 381 370 388 380 381 394 379 "
        "404 385 415 381 428 381 438 393 441 405 440 420 455 421 470 427",
    ],
    "astronaut": [
        "235 15 260 22 280 35 293 50 300 75 300 95 295 115 283 130 272 137 268 155 258 172 275 185 293 205 303 225 306 240 320 248 "
        "338 262 348 285 356 310 362 335 364 350 385 345 400 344 425 350 450 365 470 385 485 410 494 435 500 455 508 465 512 480 "
        "512 512 40 512 30 480 22 430 22 395 25 360 30 330 38 300 45 275 60 255 78 235 98 220 113 208 116 190 125 175 135 160 150 "
        "152 170 148 183 150 183 133 172 128 160 115 153 95 154 75 162 55 175 42 190 35 200 25 215 18",
    ],
    "cat": [
        "160 0 400 0 385 20 378 40 372 55 362 70 357 82 357 100 363 122 365 132 362 145 360 165 355 180 346 190 336 205 325 220 318 "
        "240 160 240",
    ],
    "horse": [],
}
CROPS = {"coffee": (0, 400, 0, 600, 4), "flower": (67, 427, 110, 530, 3), "astronaut": (0, 512, 0, 512, 4),
         "cat": (0, 240, 160, 448, 2), "horse": (0, 328, 0, 400, 3)}  # top, bottom, left, right, and how many times smaller


def photograph_and_mask(name):
    """A part of a photograph (3, H, W), made smaller, and the mask of its object (H, W)."""
    photo = datasets.photograph(name)
    mask = photo[:1] < 0.5 if name == "horse" else torch.zeros_like(photo[:1], dtype=torch.bool)
    centres = torch.cartesian_prod(torch.arange(photo.shape[1]) + 0.5, torch.arange(photo.shape[2]) + 0.5).flip(1)  # x, y
    for polygon in CORNERS[name]:
        corners = torch.tensor([float(number) for number in polygon.split()]).view(-1, 2)
        inside = plt.matplotlib.path.Path(corners.numpy()).contains_points(centres.numpy())
        mask |= torch.from_numpy(inside).view_as(mask)
    top, bottom, left, right, factor = CROPS[name]
    small = F.avg_pool2d(torch.cat([photo, mask.float()])[:, top:bottom, left:right], factor)
    return small[:-1].expand(3, -1, -1).contiguous().to(device), (small[-1] > 0.5).to(device)


def coarse_scores(mask, cell=16, shift=(0, 0), noise=0.0, generator=None, floor=0.02):
    """Log odds (H, W) of a network that sees the true share of the object in every cell; `shift` moves the cells, `noise` errs by cell."""
    height, width = mask.shape
    padding = (shift[1], -(width + shift[1]) % cell, shift[0], -(height + shift[0]) % cell)  # whole cells
    share = F.avg_pool2d(F.pad(mask[None, None].float(), padding, mode="replicate"), cell).clamp(floor, 1 - floor)
    odds = torch.logit(share)
    if noise:
        odds = odds + noise * torch.randn(odds.shape, generator=generator).to(odds)
    large = F.interpolate(odds, scale_factor=cell, mode="bilinear")[0, 0]
    return large[shift[0] : shift[0] + height, shift[1] : shift[1] + width]


photos = {name: photograph_and_mask(name) for name in CROPS}
photo, mask = photos["astronaut"]
fig = plots.image_row([photo, mask.float(), coarse_scores(mask).sigmoid(), errors(coarse_scores(mask) > 0, mask)],
                      ["photograph", "truth", "probability", "labels"], height=1.75)
fig.suptitle("Even the best answer a cell can give frays at the edge", x=0.01, ha="left")
plots.show(fig, alt="A portrait, its mask, a blurred map of probabilities, and labels that cut corners and spill over the shoulders.")

# %% [markdown]
# Whoever looks at the photograph sees where the outline runs: the suit is orange, the wall is not. The scores know roughly *what* is
# there, the colours know precisely *where* it ends. We need a way to combine them.
#
# ## An energy for labelings
#
# Give every whole labeling a number that says how bad it is, its **energy**. Pixel $i$ has the label $x_i$, here 0 or 1. There are two
# kinds of terms:
#
# $$E(x) = \sum_i \text{unary}_i(x_i) + \sum_{i < j} \text{pairwise}_{ij}\; \mu(x_i, x_j) .$$
#
# The **unary** term is the network's opinion, $-\log$ of its probability: a label it thinks unlikely is expensive. The pairwise term is a
# price for two pixels: `pairwise`, how much $i$ and $j$ care about each other, times the **compatibility** $\mu$ of their labels. In the
# **Potts model** $\mu$ is 1 for different labels and 0 for equal ones. Each pair counts once.
#
# **Predict first.** Three pixels in a row. The network gives the object 90 %, 40 % and 80 %; neighbours pay 1 for being different. Which
# of the eight labelings is the cheapest?

# %%
# NBVAL_CHECK_OUTPUT
def energy(labels, unary, pairwise):
    """One label a pixel, 0 or 1; unary[i][label]; pairwise[i][j] = pairwise[j][i]. Potts compatibility."""
    pixels = range(len(labels))
    alone = sum(unary[i][labels[i]] for i in pixels)
    together = sum(pairwise[i][j] * (labels[i] != labels[j]) for i in pixels for j in pixels if i < j)
    return alone + together


network = [0.9, 0.4, 0.8]  # probability of label 1
unary = [(-math.log(1 - p), -math.log(p)) for p in network]
chain = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
labelings = list(itertools.product((0, 1), repeat=3))
for labels in labelings:
    print(*labels, f"energy {energy(labels, unary, chain):.2f}")

# %% [markdown]
# The cheapest is 1 1 1 with 1.24. The middle pixel alone would have chosen 0, but then it pays for two neighbours.
#
# Energies become probabilities by the **Gibbs distribution**: low energy, high probability, and a constant $Z$ that makes them add up to
# 1:
#
# $$P(x) = \frac{1}{Z}\, e^{-E(x)}, \qquad Z = \sum_{x} e^{-E(x)} .$$
#
# The distribution depends on the image, through `unary` and `pairwise`: it is **conditional**, and because only the energy of pixels and
# of pairs enters, a *conditional random field*, **CRF**. What we want from it is the **marginal** of each pixel: the probability that
# this pixel is 1, whatever the others are.
#
# **Predict first.** Without the pairwise term, what are the three marginals? And does the middle one pass 50 % with it?

# %%
# NBVAL_CHECK_OUTPUT
def exact(unary, pairwise):
    """Marginals P(x_i = 1) and log Z, by going through all labelings."""
    marginals, z = [0.0] * len(unary), 0.0
    for labels in itertools.product((0, 1), repeat=len(unary)):
        weight = math.exp(-energy(labels, unary, pairwise))
        z += weight
        marginals = [total + weight * label for total, label in zip(marginals, labels)]
    return [total / z for total in marginals], math.log(z)


for strength in (0, 1, 2):
    marginals, log_z = exact(unary, [[strength * k for k in row] for row in chain])
    print(f"strength {strength}: marginals", " ".join(f"{p:.3f}" for p in marginals), f" log Z {log_z:.3f}")

# %% [markdown]
# Without pairs the network's own probabilities come back, and $Z = 1$. With them the middle pixel goes to 72 % and to 88 %, and its
# neighbours become a little surer as well: now everybody agrees.
#
# ## Everybody talks to everybody
#
# In a classical CRF a pixel pays for its four neighbours only. Then any outline is priced by its length, and thin or winding shapes are
# shaved off. Krähenbühl and Koltun connect **every** pair of pixels, and let two Gaussian kernels decide how much they care:
#
# $$\text{pairwise}_{ij} = w_b \exp\!\left(-\frac{|p_i - p_j|^2}{2\theta_\alpha^2} - \frac{|I_i - I_j|^2}{2\theta_\beta^2}\right)
# + w_s \exp\!\left(-\frac{|p_i - p_j|^2}{2\theta_\gamma^2}\right), \qquad i \ne j .$$
#
# Here $p_i$ is the place of a pixel and $I_i$ its colour, three numbers from 0 to 1. The first kernel is called **bilateral** (in the
# paper: appearance): pixels that are near *and* of similar colour should agree. The second is **spatial** (smoothness): very near pixels
# should agree whatever their colour, which removes single stray pixels.
#
# | parameter | in the code | says | unit |
# | --- | --- | --- | --- |
# | $\theta_\alpha$ | `theta_alpha` | how far the bilateral kernel reaches | pixels |
# | $\theta_\beta$ | `theta_beta` | how different colours may be | colour, 0 to 1 |
# | $\theta_\gamma$ | `theta_gamma` | how far the spatial kernel reaches | pixels |
# | $w_b$, $w_s$ | `w_bilateral`, `w_spatial` | how much each kernel counts | energy |
#
# **Predict first.** A pixel on the orange suit: which pixels of the photograph care for its label? And one on the grey wall?

# %%
def row_of_kernel(photo, y, x, theta_alpha, theta_beta):
    """How much the pixel at row y and column x and each other pixel care about each other: (H, W), 0 to 1."""
    rows, columns = torch.meshgrid(torch.arange(photo.shape[1]), torch.arange(photo.shape[2]), indexing="ij")
    place = ((rows - y) ** 2 + (columns - x) ** 2).to(photo) / (2 * theta_alpha**2)
    colour = (photo - photo[:, y : y + 1, x : x + 1]).square().sum(0) / (2 * theta_beta**2)
    return torch.exp(-place - colour)


fig, axes = plt.subplots(1, 4, figsize=(7, 2.1))
axes[0].imshow(F.avg_pool2d(photo, 2).permute(1, 2, 0).cpu(), extent=(0, photo.shape[2], photo.shape[1], 0))
for ax, (y, x, theta_alpha, theta_beta) in zip(axes[1:], [(80, 40, 30, 0.1), (30, 90, 30, 0.1), (30, 90, 30, 0.02)]):
    ax.imshow(row_of_kernel(photo, y, x, theta_alpha, theta_beta).cpu(), cmap="magma", vmin=0, vmax=1)
    ax.plot(x, y, "+", color="deepskyblue", markersize=10)
    ax.set_title(rf"$\theta_\alpha$ {theta_alpha}, $\theta_\beta$ {theta_beta}", fontsize=10)
    axes[0].plot(x, y, "+", color="deepskyblue", markersize=10)
for ax in axes:
    ax.set_axis_off()
fig.suptitle("A pixel listens to pixels of its own colour, up to the outline", x=0.01, ha="left")
plots.show(fig, alt="A portrait and three maps of the bilateral kernel: bright on the suit, on the wall, on few pixels of the wall.")

# %% [markdown]
# The map is bright on the same surface and stops at the outline, as it should. With a small $\theta_\beta$ the wall pixel has hardly
# anybody left to listen to, since even a plain wall changes its shade.
#
# ## Too many labelings
#
# For exact marginals we went through all labelings: $K^N$ of them for $K$ labels and $N$ pixels.
#
# **Predict first.** Say a computer manages $10^9$ labelings a second. How large may an image with two labels be, if we give it a day?

# %%
# NBVAL_CHECK_OUTPUT
print(f"pixels for one day: {math.log2(1e9 * 24 * 3600):.0f}")
print(f"8 x 8 pixels: {2**64 / 1e9 / (365 * 24 * 3600):.0f} years;  64 x 64 pixels: 10^{64 * 64 * math.log10(2):.0f} labelings")

# %% [markdown]
# 46 pixels, not even 7 × 7. On a chain one can be clever and go from left to right, but here every pixel is connected to every other one,
# and no order helps. We have to approximate.
#
# ## A simpler distribution, as close as possible
#
# The trouble with $P$ is that its pixels depend on each other. So we look for a distribution $Q$ whose pixels do not, a product:
#
# $$Q(x) = \prod_i Q_i(x_i) .$$
#
# For two labels one number a pixel says all, $q_i = Q_i(1)$. This is the **mean field** approximation. Of all products we want the one
# that is closest to $P$, measured by the **Kullback-Leibler divergence**
#
# $$\operatorname{KL}(Q \,\|\, P) = \sum_x Q(x) \log \frac{Q(x)}{P(x)} ,$$
#
# which is 0 for $Q = P$ and positive otherwise. Can we compute it without going through all labelings? Put in
# $\log P(x) = -E(x) - \log Z$:
#
# $$\operatorname{KL}(Q \,\|\, P) = \underbrace{\sum_x Q(x)\, E(x) + \sum_x Q(x) \log Q(x)}_{F(Q),\ \text{the free energy}} + \log Z .$$
#
# $\log Z$ does not depend on $Q$. So the closest $Q$ is the one with the smallest **free energy** $F$: a low mean energy, and a high
# entropy (spread), which is the second sum with a minus sign.
#
# Now the product pays off. The mean of a term that looks at one or two pixels needs the probabilities of those pixels only, and the
# entropies of independent pixels add up:
#
# $$F = \sum_{i,\, l} Q_i(l)\, \text{unary}_i(l) + \sum_{i < j} \text{pairwise}_{ij} \sum_{l,\, l'} Q_i(l)\, Q_j(l')\, \mu(l, l')
# + \sum_{i,\, l} Q_i(l) \log Q_i(l) .$$
#
# For two labels and Potts the inner sum is the probability of being different, $q_i (1 - q_j) + (1 - q_i)\, q_j$.
#
# **Predict first.** We compute $F$ of some $Q$ in both ways, over labelings and over pixels, and add $\log Z$. Which sign has the result?

# %%
# NBVAL_CHECK_OUTPUT
def free_energy(q, unary, pairwise):
    """F of a product of independent pixels, q[i] = Q_i(1), strictly between 0 and 1."""
    total = 0.0
    for i in range(len(q)):
        total += (1 - q[i]) * (unary[i][0] + math.log(1 - q[i])) + q[i] * (unary[i][1] + math.log(q[i]))
        total += sum(pairwise[i][j] * (q[i] * (1 - q[j]) + (1 - q[i]) * q[j]) for j in range(i))
    return total


def free_energy_over_labelings(q, unary, pairwise):
    total = 0.0
    for labels in itertools.product((0, 1), repeat=len(q)):
        product = math.prod(p if label else 1 - p for p, label in zip(q, labels))
        total += product * (energy(labels, unary, pairwise) + math.log(product))
    return total


marginals, log_z = exact(unary, chain)
for name, q in [("one half", [0.5] * 3), ("network", network), ("exact marginals", marginals)]:
    f = free_energy(q, unary, chain)
    print(f"{name:15s} F over labelings {free_energy_over_labelings(q, unary, chain):.4f}, over pixels {f:.4f}, KL {f + log_z:.4f}")

# %% [markdown]
# Both ways agree, with 8 terms or with 3 pixels and 3 pairs, and the divergence is positive. Even the product of the *exact* marginals is
# not $P$: the pixels of $P$ depend on each other. Is it at least the closest product? We will see that it is not.
#
# ## One pixel at a time
#
# Hold all pixels but $i$ fixed and look at $F$ as a function of $q_i$ alone. The mean energy is a straight line in $q_i$, because every
# term contains $q_i$ or $1 - q_i$ once:
#
# $$F = q_i \Big(\text{unary}_i(1) + \sum_{j \ne i} \text{pairwise}_{ij} (1 - q_j)\Big)
# + (1 - q_i) \Big(\text{unary}_i(0) + \sum_{j \ne i} \text{pairwise}_{ij}\, q_j\Big)
# + q_i \log q_i + (1 - q_i) \log (1 - q_i) + \text{rest} .$$
#
# At the minimum the slope is zero. The derivative of the entropy part is $\log \frac{q_i}{1 - q_i}$, so
#
# $$\log \frac{q_i}{1 - q_i} = \underbrace{\text{unary}_i(0) - \text{unary}_i(1)}_{\text{score}_i}
# + \sum_{j \ne i} \text{pairwise}_{ij}\, (2 q_j - 1) .$$
#
# The right side does not contain $q_i$: it is the answer. We call it the **pull** on pixel $i$, and $q_i = \sigma(\text{pull})$. Every
# other pixel pulls with a force between $-1$ and $1$ times `pairwise`: surely 1 pulls up, surely 0 pulls down, an undecided pixel does
# not pull.
#
# **Predict first.** In our chain the network says 0.9, 0.4, 0.8. Compute the pull on the middle pixel. Where is the minimum of $F$?

# %%
# NBVAL_CHECK_OUTPUT
def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def pull(i, q, unary, pairwise):
    score = unary[i][0] - unary[i][1]
    return score + sum(pairwise[i][j] * (2 * q[j] - 1) for j in range(len(q)) if j != i)


middle = sigmoid(pull(1, network, unary, chain))
print(f"score {unary[1][0] - unary[1][1]:.3f}, pull {pull(1, network, unary, chain):.3f}, new q {middle:.3f}")

# %%
grid = [k / 200 for k in range(1, 200)]
fig, ax = plt.subplots(figsize=(5.4, 3.2))
for strength, colour in [(0, "C0"), (1, "C1"), (2, "C2")]:
    pairwise = [[strength * k for k in row] for row in chain]
    ax.plot(grid, [free_energy([0.9, p, 0.8], unary, pairwise) for p in grid], color=colour, label=f"strength {strength}")
    best = sigmoid(pull(1, network, unary, pairwise))
    ax.plot(best, free_energy([0.9, best, 0.8], unary, pairwise), "o", color=colour)
ax.set(title="The update jumps to the lowest point", xlabel="$q$ of the middle pixel", ylabel="free energy $F$")
ax.legend()
plots.show(fig, alt="Three bowls, F against q of the middle pixel; a dot marks the lowest point of each, further right with strength.")

# %% [markdown]
# The curve is a bowl (the entropy part is convex, the rest is a line), so there is one lowest point, and the update hits it exactly.
#
# **More labels, same steps.** With $K$ labels the slopes with respect to all $Q_i(l)$ must be equal, because they have to add up to 1.
# That gives
#
# $$Q_i(l) = \frac{1}{Z_i} \exp\Big(-\text{unary}_i(l) - \sum_{l'} \mu(l, l') \sum_{j \ne i} \text{pairwise}_{ij}\, Q_j(l')\Big) ,$$
#
# equation 4 of Krähenbühl and Koltun. Read it from the inside to the outside: **filter** (add up the neighbours' probabilities, weighted
# by the kernel), **compatibility** (what does each label pay for that?), **normalise** (exponentiate, divide by the sum). Once by hand,
# for the middle pixel with two labels:

# %%
# NBVAL_CHECK_OUTPUT
filtered = [sum(chain[1][j] * (q if label else 1 - q) for j, q in enumerate(network)) for label in (0, 1)]
paid = [filtered[1], filtered[0]]  # Potts: each label pays for the other one
weights = [math.exp(-unary[1][label] - paid[label]) for label in (0, 1)]
print("filter:       ", [round(v, 3) for v in filtered])
print("compatibility:", [round(v, 3) for v in paid])
print("normalise:    ", [round(v / sum(weights), 3) for v in weights], f" by the pull: {middle:.3f}")

# %% [markdown]
# The same number twice: the sigmoid is what is left of the exponentials when there are two labels.
#
# Updating the middle pixel has changed the pull on its neighbours, so we go on, pixel after pixel, and around again.
#
# **Predict first.** Can $F$ ever rise on the way? And where it ends, is $F$ lower than for the product of the exact marginals?

# %%
# NBVAL_CHECK_OUTPUT
q = list(network)
path = [free_energy(q, unary, chain)]
for sweep in range(10):
    for i in range(3):
        q[i] = sigmoid(pull(i, q, unary, chain))
        path.append(free_energy(q, unary, chain))
print("F, update by update:", " ".join(f"{f:.3f}" for f in path[:8]), "...", f"{path[-1]:.4f}")
print("mean field", " ".join(f"{p:.3f}" for p in q), f" F {free_energy(q, unary, chain):.4f}")
print("exact     ", " ".join(f"{p:.3f}" for p in marginals), f" F {free_energy(marginals, unary, chain):.4f}")

# %% [markdown]
# It never rises: each update goes to the lowest point that this pixel can reach. It ends below the exact marginals. So the closest
# product, measured by $\operatorname{KL}(Q \,\|\, P)$, does *not* have the right marginals: 0.772 against 0.719 in the middle. We come
# back to that.
#
# Does it hold in general, also for pixels that want to be different (`pairwise` below 0)? A test on 300 random grids of 3 × 3 pixels, all
# pairs connected:

# %%
# NBVAL_CHECK_OUTPUT
def random_grid(generator, size=3, spread=2.0, signs=True):
    """Unary energies and a symmetric pairwise matrix with zero diagonal for size * size pixels, as lists."""
    n = size * size
    unary = (spread * torch.randn(n, 2, generator=generator, dtype=torch.float64)).tolist()
    pairwise = torch.randn(n, n, generator=generator, dtype=torch.float64).triu(1)
    pairwise = pairwise if signs else pairwise.abs()
    return unary, (pairwise + pairwise.T).tolist()


generator = torch.Generator().manual_seed(0)
largest_rise, updates = -math.inf, 0
for _ in range(300):
    u, k = random_grid(generator)
    q = [sigmoid(u0 - u1) for u0, u1 in u]
    before = free_energy(q, u, k)
    for i in [*range(9), *range(9)]:
        q[i] = sigmoid(pull(i, q, u, k))
        after = free_energy(q, u, k)
        largest_rise, before, updates = max(largest_rise, after - before), after, updates + 1
print(f"{updates} sequential updates, rises of F above rounding: {int(largest_rise > 1e-9)}")

# %% [markdown]
# ## All pixels at once
#
# On a photograph, one pixel after the other means a hundred thousand sums over all pixels, each waiting for the one before. Everybody
# therefore updates **in parallel**: all pulls from the old $q$, then all $q$ at once. But now each pixel finds the best answer to
# neighbours that move at the same moment.
#
# **Predict first.** Two pixels, one that leans to 1 and one that leans to 0, and a strong wish to be equal. Each adopts the opinion of
# the other. What happens next?

# %%
# NBVAL_CHECK_OUTPUT
u, k = [(1.0, -1.0), (-1.0, 1.0)], [[0, 6.0], [6.0, 0]]  # scores 2 and -2
q = [sigmoid(u0 - u1) for u0, u1 in u]
for step in range(6):
    print(f"parallel step {step}: q {q[0]:.2f} {q[1]:.2f}  F {free_energy(q, u, k):6.2f}")
    q = [sigmoid(pull(i, q, u, k)) for i in range(2)]
for i in [0, 1, 0, 1]:
    q[i] = sigmoid(pull(i, q, u, k))
print(f"sequential, from there: q {q[0]:.2f} {q[1]:.2f}  F {free_energy(q, u, k):6.2f}")

# %% [markdown]
# They swap for ever, and $F$ stays above where it began. If one of the two waits, both agree at once. On an image it looks like this: 16
# × 16 pixels with random scores, each connected to its four neighbours with strength 1.

# %%
def neighbours(values):
    """Sum over the four neighbours, on a map (H, W)."""
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=values.dtype)
    return F.conv2d(values[None, None], cross[None, None], padding=1)[0, 0]


def free_energy_of_map(q, score, filter_):
    """F up to a constant, for scores instead of unary energies; filter_(values) is the sum over all pixels j of pairwise_ij values_j."""
    return (torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q) - score * q + q * filter_(1 - q)).sum().item()


def parallel(score, filter_, num_iterations):
    path = [score.sigmoid()]
    for _ in range(num_iterations):
        path.append((score + filter_(2 * path[-1] - 1)).sigmoid())
    return path


score = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
together = parallel(score, neighbours, 30)
q, one_by_one = score.sigmoid(), [score.sigmoid()]
for sweep in range(30):
    for y, x in itertools.product(range(16), range(16)):
        q[y, x] = (score + neighbours(2 * q - 1))[y, x].sigmoid()
    one_by_one.append(q.clone())
with_self = parallel(score, lambda values: neighbours(values) + 4 * values, 30)

# %% [markdown]
# The last line is a cure, explained below the picture.

# %%
fig, axes = plt.subplots(1, 5, figsize=(8.6, 2.3), width_ratios=[1, 1, 1, 1, 1.6])
for ax, q, title in zip(axes, [together[28], together[29], together[30], one_by_one[30]],
                        ["parallel, step 28", "step 29", "step 30", "one by one, 30"]):
    ax.imshow(q, cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
for path, filter_, label in [(together, neighbours, "parallel"), (one_by_one, neighbours, "one by one")]:
    axes[4].plot([free_energy_of_map(q, score, filter_) for q in path], label=label)
axes[4].set(title="free energy", xlabel="step or sweep", ylim=(-30, 90))
axes[4].title.set_fontsize(10)
axes[4].legend(fontsize=8)
fig.suptitle("Updated all at once, pixels flicker like a chessboard and the free energy rises", x=0.01, ha="left")
plots.show(fig, alt="Three maps with patches of chessboard that invert at every step, a clean map, and F rising against F falling.")

# %%
# NBVAL_CHECK_OUTPUT
for name, path, filter_ in [("parallel", together, neighbours), ("one by one", one_by_one, neighbours),
                            ("parallel, with itself", with_self, lambda values: neighbours(values) + 4 * values)]:
    values = [free_energy_of_map(q, score, filter_) for q in path]
    rises = sum(after > before + 1e-9 for before, after in zip(values, values[1:]))
    moving = ((path[-1] - path[-2]).abs() > 0.1).sum().item()
    print(f"{name:22s} rises of F: {rises:2d} of 30, pixels still moving: {moving:3d} of 256")

# %% [markdown]
# The chessboard is no accident. White fields hear black fields only and the other way round, so two worlds run side by side and meet in
# every step.
#
# **The cure** is to let each pixel also hear itself, that is, its own last value. The quadratic part of $F$ is
# $-\sum_{ij} \text{pairwise}_{ij}\, q_i q_j$. If the matrix `pairwise`, diagonal included, has no negative eigenvalue, this part is
# concave: every tangent lies above it. A parallel update minimises the tangent plus the entropy part, hence it cannot raise $F$.
# Krähenbühl and Koltun showed this in 2013 (for compatibilities like Potts). With a self term of 4 our grid has no negative eigenvalue
# any more. A Gaussian kernel has none by itself, *if* its diagonal stays. But keep in mind: with the self term it is another $F$, in
# which pixels believe themselves, and the answers become bolder.
#
# Photographs have many weak connections instead of four strong ones. Whether pixels still flicker there, we will count below.

# %% [markdown]
# ## How far from exact?
#
# On 3 × 3 pixels we can afford the truth: 512 labelings. We draw random scores, connect all pairs with random positive strengths of about
# 0.1, 0.3 or 1, and compare the marginals that mean field finds (one by one, 50 sweeps) with the exact ones.
#
# **Predict first.** If the two differ, on which side is mean field: closer to one half, or further away?

# %%
def settle(unary, pairwise, num_sweeps=50):
    """Mean field, one pixel after the other, from the network's probabilities."""
    q = [sigmoid(u0 - u1) for u0, u1 in unary]
    for _ in range(num_sweeps):
        for i in range(len(q)):
            q[i] = sigmoid(pull(i, q, unary, pairwise))
    return q


found = {}
generator = torch.Generator().manual_seed(1)
for strength in (0.1, 0.3, 1.0):
    true, approximate = [], []
    for _ in range(40):
        u, k = random_grid(generator, spread=1.0, signs=False)
        k = [[strength * value for value in row] for row in k]
        true += exact(u, k)[0]
        approximate += settle(u, k)
    found[strength] = torch.tensor(true), torch.tensor(approximate)

# %%
fig, axes = plt.subplots(1, 3, figsize=(8, 3), sharey=True)
for ax, (strength, (true, approximate)) in zip(axes, found.items()):
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    ax.plot(true, approximate, ".", markersize=4)
    ax.set(title=f"strength {strength}", xlabel="exact marginal", aspect="equal")
axes[0].set_ylabel("mean field")
fig.suptitle("Weakly coupled they agree; strongly coupled, mean field is far too sure", x=0.01, ha="left")
plots.show(fig, alt="Mean field against exact marginals: on the diagonal when weakly coupled, then an S about it, then nearly a step.")

# %%
# NBVAL_CHECK_OUTPUT
for strength, (true, approximate) in found.items():
    apart, bolder = (approximate - true).abs(), (approximate - 0.5).abs() > (true - 0.5).abs()
    labels = ((approximate > 0.5) == (true > 0.5)).double().mean()
    print(f"strength {strength}: mean difference {apart.mean():.3f}, largest {apart.max():.2f}, "
          f"surer than exact {bolder.double().mean():4.0%}, same label {labels:4.0%}")

# %% [markdown]
# Weakly coupled, the two agree within a hundredth. Otherwise mean field is **overconfident**: nearly always it stands further from one
# half than the truth, and at strength 1 one label in ten is wrong as well. So do not take its 99 % for a frequency.
#
# Why does it exaggerate? An extreme case shows it best. Two pixels, no opinion at all (score 0), strength $k$. By symmetry both exact
# marginals are one half. Mean field repeats $q \leftarrow \sigma(k (2q - 1))$ for both; one half is a fixed point.
#
# **Predict first.** The slope of $\sigma$ at 0 is a quarter. For which $k$ does a tiny deviation from one half grow?

# %%
def tie(k, q1, q2):
    """Free energy of two pixels without an opinion, up to a constant."""
    h = sum(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q) for q in (q1, q2))
    return h + k * (q1 * (1 - q2) + (1 - q1) * q2)


line = torch.linspace(0.001, 0.999, 200)
fig, axes = plt.subplots(1, 3, figsize=(8.6, 3))
for ax, k in zip(axes, (1, 4)):
    ax.contourf(line, line, tie(k, line[None], line[:, None]), levels=20, cmap="viridis")
    ax.set(title=f"$F$ for $k = {k}$", xlabel="$q_1$", ylabel="$q_2$", aspect="equal")
strengths = torch.linspace(0, 6, 121)
for start, colour in [(0.501, "C1"), (0.499, "C0")]:
    q = torch.full_like(strengths, start)
    for _ in range(500):
        q = (strengths * (2 * q - 1)).sigmoid()
    axes[2].plot(strengths, q, color=colour, label=f"from {start}")
axes[2].axhline(0.5, color="0.6", linestyle="--", label="exact")
axes[2].set(title="where mean field ends", xlabel="strength $k$", ylabel="$q$", ylim=(0, 1))
axes[2].legend(fontsize=8, loc="upper left")
fig.suptitle("Above strength 2 one valley becomes two, and mean field has to choose", x=0.01, ha="left")
plots.show(fig, alt="F has one valley at one half for k = 1, two valleys in opposite corners for k = 4; the result forks at strength 2.")

# %%
# NBVAL_CHECK_OUTPUT
k = 4.0
q = 0.6
for _ in range(200):
    q = sigmoid(k * (2 * q - 1))
u, pairs = [(0.0, 0.0)] * 2, [[0, k], [k, 0]]
marginals, log_z = exact(u, pairs)
p = [math.exp(-energy(labels, u, pairs) - log_z) for labels in itertools.product((0, 1), repeat=2)]
for name, value in [("one half", 0.5), ("committed", q)]:
    product = [(1 - value) ** 2, value * (1 - value), value * (1 - value), value**2]
    reverse = sum(b * math.log(b / a) for a, b in zip(p, product))
    forward = sum(a * math.log(a / b) for a, b in zip(p, product))
    print(f"{name:9s} q {value:.3f}: KL(Q || P) {reverse:.3f}, KL(P || Q) {forward:.3f}")
print("P of 00, 01, 10, 11:", " ".join(f"{value:.3f}" for value in p))

# %% [markdown]
# From $k = 2$ on: the slope of $\sigma(k(2q - 1))$ at one half is $k / 2$. Beyond it there are two answers, both pixels nearly 0 or both
# nearly 1, and the start decides.
#
# $P$ itself has two modes, 00 and 11. A product cannot have both without also giving 01 and 10 a quarter each, labelings that $P$ calls
# very unlikely. $\operatorname{KL}(Q \,\|\, P)$ is a mean over $Q$: it punishes $Q$ for being where $P$ is not, and forgives it for
# leaving out a mode. This **reverse** KL commits to one mode, which is what overconfidence is. The **forward** divergence
# $\operatorname{KL}(P \,\|\, Q)$ prefers one half, and of all products it is lowest for the exact marginals; but it is a mean over $P$,
# which nobody can compute on a photograph.
#
# For a segmentation committing is no bad habit: we want *one* labeling, not the mean of two.

# %% [markdown]
# ## A message is a filter
#
# One parallel step needs the sum $\sum_j \text{pairwise}_{ij} (2 q_j - 1)$ for every pixel $i$.
#
# **Predict first.** How many terms are these for a photograph of 500 × 400 pixels, and how much memory does the matrix `pairwise` take in
# float32?

# %%
# NBVAL_CHECK_OUTPUT
for height, width in [(64, 64), (128, 128), (400, 500)]:
    n = height * width
    print(f"{width} x {height}: {n * (n - 1) // 2:>14,} pairs, matrix {4 * n**2 / 1e9:6.2f} GB")

# %% [markdown]
# 160 gigabytes, to be read in every iteration. But the sum is familiar: a weighted mean of values with Gaussian weights is a **Gaussian
# filter**, only that distance is measured in five dimensions. Put $\text{feature}_i = (p_i / \theta_\alpha,\ I_i / \theta_\beta)$; then
# the bilateral kernel is $\exp(-|\text{feature}_i - \text{feature}_j|^2 / 2)$. A filtered signal is smooth, and a smooth signal is known
# from few samples. So, in the words of Adams, Baek and Davis:
#
# 1. **splat** each value onto the nearest vertices of a coarse grid in feature space,
# 2. **blur** the grid with a tiny filter, (1, 2, 1) / 4,
# 3. **slice**: read each pixel's answer off the grid, by interpolation.
#
# Pixels meet on the grid only. The cost grows with $N$, not with $N^2$.
#
# In one dimension it is a few lines. Splatting to two neighbours has a variance of 1/6 of a step squared (a tent), slicing another 1/6,
# the blur 1/2. Together 5/6 of a step squared should be the variance of our Gaussian, 1. That fixes the step.

# %%
# NBVAL_CHECK_OUTPUT
def filter_line(features, values):
    """Splat, blur, slice: about sum_j exp(-(features_i - features_j)^2 / 2) values_j, for features and values (N,)."""
    step = math.sqrt(6 / 5)
    place = (features - features.min()) / step + 1
    left = place.long()
    share = place - left  # of the vertex at the right
    table = torch.zeros(int(left.max()) + 3)
    table.index_add_(0, left, (1 - share) * values)
    table.index_add_(0, left + 1, share * values)
    table[1:-1] = (table[:-2] + 2 * table[1:-1] + table[2:]) / 4
    return math.sqrt(2 * math.pi) / step * ((1 - share) * table[left] + share * table[left + 1])  # a Gaussian of height 1


row = datasets.photograph("camera")[0, 200] / 0.1  # (512,) brightness of one row, theta 0.1
values = torch.rand(512, generator=torch.Generator().manual_seed(0))
direct = torch.exp(-((row[:, None] - row) ** 2) / 2) @ values
print("vertices:", len(torch.unique((row / math.sqrt(6 / 5)).floor())) + 1, "for 512 pixels")
print(f"mean relative difference from the direct sum: {((filter_line(row, values) - direct) / direct).abs().mean():.1%}")

# %% [markdown]
# In five dimensions a cell of a square grid has $2^5 = 32$ corners, and the grid easily has more vertices than the photograph has pixels.
# Adams, Baek and Davis take a grid of simplices instead, which in two dimensions are triangles: a simplex has only $d + 1 = 6$ corners.
# And they store only vertices that are touched.
#
# Which simplex is a point in? Take the integer grid and sort the fractional parts of the coordinates. Start at the corner where all are
# rounded down, go one step along the axis with the largest fraction, then along the next, until all are rounded up: these are the $d + 1$
# corners. The weights are the gaps between the sorted fractions. This cuts each cube along its diagonal $(1, \ldots, 1)$.
#
# The simplices become regular if we skew space so that the $d + 1$ steps $e_1, \ldots, e_d$ and $(-1, \ldots, -1)$, which add up to zero,
# get the same length and equal angles. That is the **permutohedral lattice**. A matrix $M$ from features to coordinates does it when
# $M M^\top \propto I + \mathbf{1}\mathbf{1}^\top$; a Cholesky factor is such a matrix.

# %%
# NBVAL_CHECK_OUTPUT
d = 5
to_lattice = torch.linalg.cholesky(torch.eye(d, dtype=torch.float64) + 1)
steps = torch.linalg.solve(to_lattice, torch.cat([torch.eye(d, dtype=torch.float64), -torch.ones(d, 1, dtype=torch.float64)], 1))  # (5, 6)
print("lengths:", [round(v, 3) for v in steps.norm(dim=0).tolist()])
cosines = F.normalize(steps, dim=0).T @ F.normalize(steps, dim=0)
print("cosine of the angle between two steps:", sorted({round(v, 3) for v in cosines.flatten().tolist()}))

# %% [markdown]
# All six steps are equally long, and any two of them have the same angle. The blur goes along each of them once. In the units of the
# matrix above the six steps together have the covariance $I$, so with 1/2 for the blur and 1/12 each for splatting and slicing (along
# each direction) we get 2/3. The scale $\sqrt{2/3}$ makes it 1.
#
# A vertex gets a whole number as its name: its integer coordinates in a mixed radix, as hours, minutes and seconds make one number of
# seconds. Then `torch.unique` collects the vertices, and the neighbour in a direction has the name plus a constant.

# %%
class Lattice:
    """Gaussian filter with standard deviation 1 between points given by features (N, d), by splatting, blurring and slicing.

    Source: Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", Eurographics 2010, section 3.
    """

    def __init__(self, features):
        d = features.shape[1]
        to_lattice = math.sqrt(2 / 3) * torch.linalg.cholesky(torch.eye(d) + 1).to(features)
        x = features @ to_lattice.T
        fraction, order = (x - x.floor()).sort(dim=1, descending=True)
        walk = F.pad(F.one_hot(order, d).cumsum(1), (0, 0, 1, 0))  # (N, d + 1, d): from all rounded down to all rounded up
        corners = x.floor().long()[:, None] + walk
        self.weights = -torch.diff(F.pad(fraction, (1, 0), value=1.0), append=fraction.new_zeros(len(x), 1))  # (N, d + 1)
        low, high = corners.amin((0, 1)) - 1, corners.amax((0, 1)) + 1  # one spare on each side, for neighbours
        place = F.pad((high - low + 1).cumprod(0)[:-1], (1, 0), value=1)  # the value of a digit
        names, self.index = torch.unique(((corners - low) * place).sum(2), return_inverse=True)  # (V,) and (N, d + 1)
        self.vertices = names[:, None] // place % (high - low + 1) + low  # (V, d)
        self.neighbours = []
        for step in [*place, place.sum()]:
            found = [torch.searchsorted(names, names + way).clamp(max=len(names) - 1) for way in (step, -step)]
            self.neighbours.append([torch.where(names[f] == names + way, f, len(names)) for f, way in zip(found, (step, -step))])
        self.height = (2 * math.pi) ** (d / 2) * torch.linalg.det(to_lattice.cpu()).item()  # a Gaussian of height 1, not of volume 1

    def splat(self, values):
        table = values.new_zeros(len(self.vertices) + 1)  # the last row stays zero: vertices that are not there
        return table.index_add_(0, self.index.flatten(), (self.weights * values[:, None]).flatten())

    def blur(self, table):
        for ahead, behind in self.neighbours:
            table = F.pad(table[:-1] / 2 + (table[ahead] + table[behind]) / 4, (0, 1))
        return table

    def slice(self, table):
        return self.height * (self.weights * table[self.index]).sum(1)

    def __call__(self, values):
        """Values (N,) -> (N,), about sum_j exp(-|feature_i - feature_j|^2 / 2) values_j, the pixel itself included."""
        return self.slice(self.blur(self.splat(values)))

# %% [markdown]
# In two dimensions we can watch it. One pixel has the value 1, all others 0.

# %%
plane = torch.cartesian_prod(torch.arange(-4, 4.01, 0.08), torch.arange(-4, 4.01, 0.08))  # (101 * 101, 2) features
lattice = Lattice(plane)
one = torch.zeros(len(plane))
one[(plane - torch.tensor([0.4, 0.2])).norm(dim=1).argmin()] = 1
positions = lattice.vertices.float() @ torch.linalg.inv(math.sqrt(2 / 3) * torch.linalg.cholesky(torch.eye(2) + 1)).T  # back to features
splatted = lattice.splat(one)
fig, axes = plt.subplots(1, 4, figsize=(8.6, 2.5))
for ax, table, title in zip(axes, [splatted, lattice.blur(splatted)], ["splat: 3 vertices", "blur"]):
    ax.scatter(*positions.T, s=3, color="0.8")
    ax.scatter(*positions.T, s=500 * table[:-1], color="C0")
    ax.set_title(title, fontsize=10)
gauss = torch.exp(-(plane - plane[one.argmax()]).square().sum(1) / 2)
for ax, values, title in zip(axes[2:], [lattice(one), gauss], ["slice", "Gaussian"]):
    ax.imshow(values.view(101, 101).T, extent=(-4, 4, -4, 4), origin="lower", cmap="magma", vmin=0, vmax=1)
    ax.set_title(title, fontsize=10)
for ax in axes:
    ax.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
fig.suptitle("A value goes to three corners, spreads to their neighbours, and comes out as nearly a Gaussian", x=0.01, ha="left")
plots.show(fig, alt="A triangular grid with three large dots, then a blob of dots, then a slightly angular bright spot beside a round one.")

# %% [markdown]
# A little angular, but of the right size. In five dimensions some vertices that the blur would pass through do not exist, and what goes
# there is lost. So the filter has a bias, and we had better compare *normalised* sums. Krähenbühl and Koltun divide the kernel,
# symmetrically, by the root of its row sums, $\text{pairwise}_{ij} / \sqrt{D_i D_j}$ with $D_i = \sum_j \text{pairwise}_{ij}$. It has a
# second advantage: $w_b$ and $w_s$ then mean the same on large and on small pictures. We do that for each kernel before its weight.
#
# Three functions remain: the direct sum over all pairs, the lattice, and the spatial kernel, which is separable: two filters of one
# dimension, exact and nearly free.

# %%
def features(photo, theta_alpha, theta_beta):
    """(H * W, 5): place and colour in units of the two thetas."""
    rows, columns = torch.meshgrid(torch.arange(photo.shape[1]), torch.arange(photo.shape[2]), indexing="ij")
    place = torch.stack([columns, rows]).to(photo) / theta_alpha
    return torch.cat([place, photo / theta_beta]).flatten(1).T.contiguous()


def bilateral_all_pairs(photo, theta_alpha, theta_beta):
    """A function (H, W) -> (H, W), the bilateral kernel without the pixel itself, from the matrix of all pairs."""
    f = features(photo, theta_alpha, theta_beta)
    matrix = torch.cdist(f, f).square_().mul_(-0.5).exp_().fill_diagonal_(0)  # (N, N), in place
    return lambda values: (matrix @ values.flatten()).view_as(values)


def bilateral_lattice(photo, theta_alpha, theta_beta):
    """The same by the lattice, the pixel itself included."""
    lattice = Lattice(features(photo, theta_alpha, theta_beta))
    return lambda values: lattice(values.flatten()).view_as(values)


def spatial(theta_gamma):
    """A function (H, W) -> (H, W), the spatial kernel without the pixel itself."""
    reach = math.ceil(4 * theta_gamma)
    line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * theta_gamma**2))

    def filter_(values):
        rows = F.conv2d(values[None, None], line.to(values)[None, None, None], padding=(0, reach))
        return F.conv2d(rows, line.to(values)[None, None, :, None], padding=(reach, 0))[0, 0] - values

    return filter_


def normalised(filter_, like):
    """A filter with its kernel divided by the roots of its row sums; rows of zeros stay zero."""
    sums = filter_(torch.ones_like(like))
    scale = torch.where(sums > 0, sums.clamp(min=1e-30).rsqrt(), 0)
    return lambda values: scale * filter_(scale * values)


# %% [markdown]
# The lattice keeps the pixel itself in its sum, as the authors' own program does: it cannot tell a pixel's own share from that of its
# neighbours, and among hundreds of similar pixels one voice does not count. With these pieces the fully connected CRF for two labels is
# three lines.

# %%
def mean_field_of_map(scores, messages, num_iterations):
    """Parallel mean field for two labels. messages: pairs (weight, filter). All maps between, (num_iterations + 1, H, W)."""
    path = [scores.sigmoid()]
    for _ in range(num_iterations):
        path.append((scores + sum(weight * filter_(2 * path[-1] - 1) for weight, filter_ in messages)).sigmoid())
    return torch.stack(path)


def sharpen(photo, scores, theta_alpha=15.0, theta_beta=0.06, theta_gamma=1.5, w_bilateral=4.0, w_spatial=1.0,
            num_iterations=10, bilateral=bilateral_lattice):
    """Probabilities (H, W) of label 1 after the CRF, for a photograph (3, H, W) and scores (H, W)."""
    messages = [(w_bilateral, normalised(bilateral(photo, theta_alpha, theta_beta), scores)),
                (w_spatial, normalised(spatial(theta_gamma), scores))]
    return mean_field_of_map(scores, messages, num_iterations)[-1]

# %% [markdown]
# **Does the short cut change the answer?** We take the five pictures at about 9,600 pixels each, so that the matrix of all pairs has 0.37
# GB, and compare the labels. The seed moves the cells of the coarse network and adds errors to its answers.
#
# **Predict first.** On which share of the pixels will the labels be equal? And how far apart can the probability of a single pixel be?

# %%
def resized(name, num_pixels):
    """Photograph and mask with about so many pixels."""
    photo, mask = photos[name]
    height = round(math.sqrt(num_pixels * photo.shape[1] / photo.shape[2]))
    both = torch.cat([photo, mask[None].float()])[None]
    both = F.interpolate(both, size=(height, round(num_pixels / height)), mode="bilinear", antialias=True)[0]
    return both[:3], both[3] > 0.5


def noisy_scores(mask, seed, cell=16, noise=1.0):
    """coarse_scores with cells moved at random, and an error of standard deviation `noise` in the score of every cell."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(cell, (2,), generator=generator).tolist()
    return coarse_scores(mask, cell, shift, noise, generator)


# %% measure="agreement" seeds=5
def agreement(seed):
    """Lattice against all pairs on five pictures of about 9,600 pixels, and which kinds of pixels differ."""
    found = {}
    for name in CROPS:
        photo, mask = resized(name, 9_600)
        scores = noisy_scores(mask, seed)
        slow, fast = (sharpen(photo, scores, bilateral=kind).double() for kind in (bilateral_all_pairs, bilateral_lattice))
        apart, flipped = (slow - fast).abs(), (slow > 0.5) != (fast > 0.5)
        found[f"{name}, same label"] = 1 - flipped.double().mean()
        found[f"{name}, mean difference"], found[f"{name}, largest difference"] = apart.mean(), apart.max()
        lonely = bilateral_all_pairs(photo, 15.0, 0.06)(torch.ones_like(scores)) < 10
        undecided = ((slow - 0.5).abs() < 0.4) | (scores.abs() < 1)
        for kind, group in [("lonely", lonely), ("undecided", undecided & ~lonely), ("other", ~undecided & ~lonely)]:
            found[f"{name}, {kind}"], found[f"{name}, {kind}, flipped"] = group.sum(), flipped[group].sum()
            found[f"{name}, {kind}, difference"] = apart[group].sum()
    return found

# %%
small, small_mask = resized("astronaut", 9_600)
scores_of_photo = noisy_scores(small_mask, 0)
slow = sharpen(small, scores_of_photo, bilateral=bilateral_all_pairs)
fast = sharpen(small, scores_of_photo)
same = ((slow > 0.5) == (fast > 0.5)).double().mean().item()
assert same > 0.98
print(f"astronaut, seed 0, now: {same:.2%} equal labels, largest difference of a probability {(slow - fast).abs().max():.2f}")
later = sharpen(small, scores_of_photo, bilateral=bilateral_all_pairs, num_iterations=11)
print(f"pixels that move by more than 0.1 in an eleventh step: {((later - slow).abs() > 0.1).sum()} of {later.numel()}")
records = measurements.load("06_crf_mean_field", "agreement")
for name in CROPS:
    values = {what: torch.tensor([record[f"{name}, {what}"] for record in records]) for what in
              ("same label", "mean difference", "largest difference")}
    print(f"{name:9s} equal labels {values['same label'].mean():.2%} (worst seed {values['same label'].min():.2%}), difference: "
          f"mean {values['mean difference'].mean():.4f}, largest {values['largest difference'].max():.2f}")

# %%
fig = plots.image_row([slow, fast, 4 * (slow - fast).abs()], ["all pairs", "lattice", "difference × 4"], height=1.9)
fig.suptitle("The same picture from all pairs and from the lattice", x=0.01, ha="left")
plots.show(fig, alt="Two maps of probabilities that look alike, and a nearly black difference with grey dots along outlines.")

# %% [markdown]
# Nothing flickers: the weak connections of a photograph do no harm, although the kernel has no diagonal. And more than 99 % of the labels
# agree in every picture and with every seed, although a single probability may be off by 0.9. What kind of pixel is that? We count two
# suspects: **lonely** pixels, with hardly any pixel of their colour near (row sum $D_i$ below 10), and **undecided** ones (a score of the
# network between $-1$ and 1, or a final probability between 0.1 and 0.9).

# %%
total = {}
for record, name, kind in itertools.product(records, CROPS, ("lonely", "undecided", "other")):
    new = torch.tensor([record[f"{name}, {kind}"], record[f"{name}, {kind}, flipped"], record[f"{name}, {kind}, difference"]])
    total[kind] = total.get(kind, 0) + new.double()
pixels = sum(values[0] for values in total.values())
for kind, (count, flipped, difference) in total.items():
    print(f"{kind:10s} {count / pixels:5.1%} of the pixels, mean difference {difference / count:.4f}, "
          f"other label {int(flipped):3d} of {int(count)}")

# %% [markdown]
# Every label that differs belongs to a lonely or an undecided pixel; of the other 200,000 not one does. A lonely pixel hears few voices,
# so an error in each of them counts, and dividing by its small row sum makes it larger. An undecided pixel sits where the sigmoid is
# steep, and every iteration feeds its change back to neighbours in the same position, until a whole patch tips over. So it is with any
# two programs for dense CRFs: compare their labels and their means, never the largest difference.
#
# **And the time?** Process time on one core for everything: building the kernel and ten iterations, on the coffee cup in up to nine
# sizes. All pairs stop at 10,800 pixels, where the matrix takes 0.47 GB.
#
# **Predict first.** Nine times as many pixels: how many times the seconds, for all pairs and for the lattice?

# %% measure="scaling" seeds=5
def scaling(seed):
    """Seconds of process time for ten iterations, lattice and all pairs, by number of pixels. The seed only repeats."""
    found = {}
    for num_pixels in (1_200, 2_700, 4_800, 7_500, 10_800, 19_200, 43_200, 76_800, 172_800):
        photo, mask = resized("coffee", num_pixels)
        scores = noisy_scores(mask, seed)
        for name, bilateral in [("lattice", bilateral_lattice), ("all pairs", bilateral_all_pairs)]:
            if name == "lattice" or num_pixels <= 10_800:
                start = time.process_time()
                sharpen(photo, scores, bilateral=bilateral)
                found[f"{name}, {num_pixels}"] = time.process_time() - start
    return found

# %%
records = measurements.load("06_crf_mean_field", "scaling")
seconds = {name: {int(key.split(", ")[1]): torch.tensor([record[key] for record in records]) for key in records[0] if key.startswith(name)}
           for name in ("lattice", "all pairs")}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.4))
for name, marker in [("lattice", "o"), ("all pairs", "s")]:
    pixels = torch.tensor(list(seconds[name]), dtype=torch.float64)
    values = torch.stack(list(seconds[name].values()))  # (sizes, 5)
    axes[0].loglog(pixels, values.median(1).values, marker=marker, label=name)
ratio = {n: (seconds["all pairs"][n] / seconds["lattice"][n]) for n in seconds["all pairs"]}
axes[1].plot(list(ratio), [values.median() for values in ratio.values()], marker="o")
for n, values in ratio.items():
    axes[1].plot([n] * len(values), values, ".", color="C0", markersize=3)
axes[0].set(title="seconds for ten iterations", xlabel="pixels", ylabel="s (process time, one core)")
axes[0].legend()
axes[1].set(title="all pairs / lattice", xlabel="pixels", ylim=(0, None))
fig.suptitle("The more pixels, the more the lattice saves", x=0.01, ha="left")
plots.show(fig, alt="Seconds against pixels, logarithmic: all pairs rise far more steeply than the lattice; their ratio grows steadily.")
for n, values in ratio.items():
    print(f"{n:6d} pixels: all pairs / lattice {values.median():5.1f} (from {values.min():.1f} to {values.max():.1f})")
for name, few, many in [("all pairs", 1_200, 10_800), ("lattice", 1_200, 10_800), ("lattice", 19_200, 172_800)]:
    times = (seconds[name][many] / seconds[name][few]).median()
    print(f"{name:9s} from {few:6,} to {many:7,} pixels, 9 times as many: {times:5.1f} times the seconds")
print(f"lattice at 172,800 pixels: {seconds['lattice'][172_800].median():.2f} s, on {measurements.machine('06_crf_mean_field', 'scaling')}")

# %% [markdown]
# For nine times the pixels all pairs should take $9^2 = 81$ times the seconds; it is 100, as the small matrix fits into the processor's
# cache and the large one does not. The lattice takes 3 times as long among small pictures, where fixed costs count, and 12 times among
# large ones. This is what lets DeepLab run a fully connected CRF as the last step on every photograph.
#
# ## Five knobs
#
# To see what each parameter does we give the CRF little to go by: cells of 32 × 32 pixels, weak scores, and noise in each pixel.
# Everything fine in the answer then comes from the photograph. One parameter is changed at a time, from the same base setting.
#
# **Predict first.** Which parameter, made too large, paints the black background as part of the helmet? Which one makes the outline round
# and smooth? Which one, made too small, leaves holes?

# %%
weak = 0.6 * coarse_scores(mask, cell=32) + 1.5 * torch.randn(mask.shape, generator=torch.Generator().manual_seed(0)).to(photo)
base = {"theta_alpha": 15.0, "theta_beta": 0.06, "theta_gamma": 1.0, "w_bilateral": 4.0, "w_spatial": 3.0}
knobs = {"theta_alpha": (2.0, 60.0), "theta_beta": (0.01, 0.3), "theta_gamma": (0.3, 6.0), "w_bilateral": (0.0, 30.0),
         "w_spatial": (0.0, 15.0)}
fig, axes = plt.subplots(2, 6, figsize=(7.4, 3.0))
for ax, values, title in [(axes[0, 0], weak.sigmoid(), "network"), (axes[1, 0], sharpen(photo, weak, **base), "base setting")]:
    ax.imshow(values.cpu(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=8)
for column, (name, values) in zip(axes.T[1:], knobs.items()):
    for ax, value in zip(column, values):
        ax.imshow(sharpen(photo, weak, **(base | {name: value})).cpu(), cmap="gray", vmin=0, vmax=1)
        ax.set_title(f"{name} {value:g}", fontsize=8)
for ax in axes.flat:
    ax.set_axis_off()
fig.suptitle("Too little above, too much below: reach, colour, smoothness and the two weights", x=0.01, ha="left")
plots.show(fig, alt="Probability maps of the portrait for a low and a high value of each parameter, beside the noisy input.")

# %% [markdown]
# From left to right. A short `theta_alpha` cannot carry knowledge from the middle to the outline, which stays ragged; a long one takes
# parts of the flag and all of the black background along, because they look like suit and helmet, and loses the face. A small
# `theta_beta` leaves pixels alone, hence the holes; a large one makes all colours equal, and the outline is blurred. `theta_gamma`
# changes little here: it says how large the specks are that the spatial kernel removes. Without `w_bilateral` nothing follows the
# picture; too much of it makes every surface agree, right or wrong. `w_spatial` removes specks, and in the end rounds off the head.
#
# ## Play with it
#
# Here are all five on sliders, with a dahlia of 40 × 48 pixels. The network's answer comes in blocks of 8 × 8, and the block in the upper
# right corner is plainly wrong. The third picture shows to which pixels the marked one listens. Both kernels are normalised as above,
# by the roots of both sums.
#
# **Predict first**, then try:
#
# 1. Draw `θβ` from its smallest to its largest value. When does the wrong block vanish, and when does the outline blur?
# 2. Set the bilateral weight to 0 and raise the spatial one. Which of the two mistakes of the network can that mend?
# 3. Put everything back and count the iterations up from 0. How many does it take?

# %%
from course_lib import explore

explore.crf.show()

# %% [markdown]
# The explorer needs a running kernel. These three frames stand for it where there is none.

# %%
plots.show(explore.crf.strip(), alt="""A dahlia, a blocky answer, the kernel of one pixel and the refined answer, three times: a clean
    outline at theta beta 0.14, a blurred one at 1, and specks with a wrong block left over at 0.02.""")

# %% [markdown]
# With $\theta_\beta = 0.14$ the pixel listens to 316 others, all of them flower, and the IoU goes from 0.79 to 0.96. With 1 colour does
# not count any more, and the outline blurs. With 0.02 it listens to 19, and the wrong block survives as a speck.

# %% [markdown]
# ## Does it help?
#
# Now the claim: a CRF on top of a coarse network finds more of the objects. We measure with the **IoU** of the object: pixels that
# prediction and truth share, divided by the pixels of either, all test pictures together.
#
# The parameters must not be chosen on the pictures that we report. For the scenes we try 54 settings on other scenes, 40 for each of five
# seeds; the seed also draws the network's random neurons. For photographs, which have larger objects, we choose on the coffee cup and the
# flower and report the astronaut, the cat and the horse. Among settings that are equally good we take the smallest weights.

# %%
def iou(predicted, truth):
    return ((predicted & truth).sum() / (predicted | truth).sum()).item()


def sharpened(images, scores, **parameters):
    """Labels (N, H, W) after the CRF."""
    return torch.stack([sharpen(image, score, **parameters) > 0.5 for image, score in zip(images, scores)])


def settings(reaches):
    """Settings to choose from: reach, colour and weights; theta_gamma stays 1 pixel."""
    for theta_alpha, theta_beta, w_bilateral, w_spatial in itertools.product(reaches, (0.02, 0.04, 0.08), (4.0, 8.0, 16.0), (0.0, 2.0)):
        yield {"theta_alpha": theta_alpha, "theta_beta": theta_beta, "theta_gamma": 1.0, "w_bilateral": w_bilateral, "w_spatial": w_spatial}


def name_of(setting):
    return " ".join(f"{value:g}" for value in setting.values())


# %% measure="choice" seeds=5
def choice(seed):
    """IoU for every setting: on 40 scenes that are neither trained on nor reported, and on two photographs."""
    network = train_coarse(*draw(0, TRAINING_SCENES), seed)
    images, masks = draw(5_000 + 40 * seed, 40)
    scores = network(images)
    found = {f"scenes, {name_of(s)}": iou(sharpened(images, scores, **s), masks) for s in settings((5.0, 10.0, 20.0))}
    for s in settings((7.0, 15.0, 30.0)):
        pairs = [photos[name] for name in ("coffee", "flower")]
        values = [iou(sharpen(photo, noisy_scores(mask, seed), **s) > 0.5, mask) for photo, mask in pairs]
        found[f"photographs, {name_of(s)}"] = sum(values) / len(values)
    return found

# %%
# NBVAL_CHECK_OUTPUT
def chosen(kind, reaches):
    """Of all settings within 0.001 of the best mean IoU, the one with the smallest weights."""
    records = measurements.load("06_crf_mean_field", "choice")
    means = [(sum(record[f"{kind}, {name_of(s)}"] for record in records) / len(records), s) for s in settings(reaches)]
    best, worst = max(mean for mean, _ in means), min(mean for mean, _ in means)
    mean, setting = min((pair for pair in means if pair[0] > best - 0.001), key=lambda pair: pair[1]["w_bilateral"] + pair[1]["w_spatial"])
    print(f"{kind}: IoU {mean:.3f} (best {best:.4f}, worst {worst:.3f}) with", ", ".join(f"{k} {v:g}" for k, v in setting.items()))
    return setting


BEST_FOR_SCENES = {"theta_alpha": 10.0, "theta_beta": 0.04, "theta_gamma": 1.0, "w_bilateral": 8.0, "w_spatial": 0.0}
BEST_FOR_PHOTOGRAPHS = {"theta_alpha": 7.0, "theta_beta": 0.08, "theta_gamma": 1.0, "w_bilateral": 8.0, "w_spatial": 0.0}
assert chosen("scenes", (5.0, 10.0, 20.0)) == BEST_FOR_SCENES
assert chosen("photographs", (7.0, 15.0, 30.0)) == BEST_FOR_PHOTOGRAPHS

# %%
def thin(masks):
    """Pixels of objects (N, H, W) that no square of 5 x 5 pixels inside the object covers: limbs, tips, slivers."""
    m = masks[:, None].float()
    core = -F.max_pool2d(-m, 5, 1, 2)  # pixels whose whole square is inside
    return masks & (F.max_pool2d(core, 5, 1, 2)[:, 0] == 0)


def recall(predicted, masks, where):
    return predicted[masks & where].float().mean().item()


# %% measure="gain" seeds=5
def gain(seed):
    """IoU before and after the CRF on 60 test scenes and three photographs, with parts left out, and where the CRF is led astray."""
    network = train_coarse(*draw(0, TRAINING_SCENES), seed)
    images, masks = draw(10_000 + 1_000 * seed, TEST_SCENES)
    scores, few = network(images), thin(masks)
    before, after = scores > 0, sharpened(images, scores, **BEST_FOR_SCENES)
    found = {"coarse": iou(before, masks), "crf": iou(after, masks)}
    found["spatial kernel only"] = iou(sharpened(images, scores, **(BEST_FOR_SCENES | {"w_bilateral": 0.0, "w_spatial": 4.0})), masks)
    for n in (1, 2, 5):
        found[f"crf, iterations {n}"] = iou(sharpened(images, scores, **BEST_FOR_SCENES, num_iterations=n), masks)
    true_cells = torch.stack([coarse_scores(mask, CELL) for mask in masks])
    found["true cells, coarse"] = iou(true_cells > 0, masks)
    found["true cells, crf"] = iou(sharpened(images, true_cells, **BEST_FOR_SCENES), masks)
    found["scenes that gain"] = sum(iou(a, m) > iou(b, m) for a, b, m in zip(after, before, masks)) / len(masks)
    for name, predicted in [("coarse", before), ("crf", after)]:
        found[f"{name}, thin found"], found[f"{name}, thick found"] = recall(predicted, masks, few), recall(predicted, masks, ~few)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images.shape, generator=generator).to(images)
    for level in (0.02, 0.05, 0.1, 0.2):
        found[f"noise {level}"] = iou(sharpened(images + level * noise, scores, **BEST_FOR_SCENES), masks)
    for contrast in (0.5, 0.25, 0.1, 0.05):
        found[f"contrast {contrast}"] = iou(sharpened(0.5 + contrast * (images - 0.5), scores, **BEST_FOR_SCENES), masks)
    for name in ("astronaut", "cat", "horse"):
        photo, mask = photos[name]
        scores = noisy_scores(mask, seed)
        found[f"{name}, coarse"] = iou(scores > 0, mask)
        found[f"{name}, crf"] = iou(sharpen(photo, scores, **BEST_FOR_PHOTOGRAPHS) > 0.5, mask)
    return found

# %% [markdown]
# The spatial kernel has been voted out, and more weight would not help. Now the test: five networks, each on 60 scenes that nobody has
# seen, and three photographs with five sets of errors each.
#
# **Predict first.** Where does the CRF gain most: on the astronaut, the cat or the horse? And does it save thin parts, such as arms and
# legs, or shave them off?

# %%
records = measurements.load("06_crf_mean_field", "gain")


def measured(what):
    return torch.tensor([record[what] for record in records])


live = iou(sharpened(images, scores, **BEST_FOR_SCENES), masks)
assert live > iou(scores > 0, masks)
print(f"seed 0, now: coarse {iou(scores > 0, masks):.3f}, CRF {live:.3f}")
for what in ("coarse", "spatial kernel only", "crf, iterations 1", "crf, iterations 2", "crf, iterations 5", "crf"):
    print(f"{what:20s} IoU {measured(what).mean():.3f} ± {measured(what).std():.3f}, "
          f"gain {(measured(what) - measured('coarse')).mean():+.3f} ± {(measured(what) - measured('coarse')).std():.3f}")
print(f"scenes that gain: {measured('scenes that gain').mean():.0%} ± {measured('scenes that gain').std():.0%}")
for part in ("thin", "thick"):
    print(f"{part:5s} parts found: coarse {measured(f'coarse, {part} found').mean():.0%}, CRF {measured(f'crf, {part} found').mean():.0%}")
for name in ("true cells", "astronaut", "cat", "horse"):
    before, after = measured(f"{name}, coarse"), measured(f"{name}, crf")
    print(f"{name:10s} IoU {before.mean():.3f} ± {before.std():.3f} -> {after.mean():.3f} ± {after.std():.3f}, "
          f"better with {(after > before).sum()} of 5 seeds")
for what in ("noise 0.02", "noise 0.05", "noise 0.1", "noise 0.2", "contrast 0.5", "contrast 0.25", "contrast 0.1", "contrast 0.05"):
    print(f"{what:13s} gain {(measured(what) - measured('coarse')).mean():+.3f} ± {(measured(what) - measured('coarse')).std():.3f}")

# %%
fig, axes = plt.subplots(1, 3, figsize=(8.4, 3.1))
for x, prefix in enumerate(("", "astronaut, ", "cat, ", "horse, ")):
    both = torch.stack([measured(f"{prefix}coarse"), measured(f"{prefix}crf")])  # (2, 5 seeds)
    axes[0].plot([x - 0.15, x + 0.15], both, color="C0", marker="o", markersize=3, linewidth=1)
axes[0].set_xticks(range(4), ["scenes", "astronaut", "cat", "horse"], fontsize=8)
axes[0].set(title="before → after", ylabel="IoU of the object", ylim=(0.4, 1))
for ax, what, levels, label in [(axes[1], "noise", (0.02, 0.05, 0.1, 0.2), "noise in the picture (deviation)"),
                                (axes[2], "contrast", (0.5, 0.25, 0.1, 0.05), "contrast of the picture")]:
    values = torch.stack([measured("crf")] + [measured(f"{what} {level}") for level in levels])  # (5 levels, 5 seeds)
    gains = values - measured("coarse")
    x = [0 if what == "noise" else 1, *levels]
    plots.mean_curve(ax, x, gains.T, label="gain of the CRF")
    ax.axhline(0, color="0.6", linestyle="--")
    ax.set(title=f"{what}", xlabel=label)
axes[1].set_ylabel("IoU, CRF minus coarse")
axes[2].invert_xaxis()
fig.suptitle("Gains where colours tell objects apart, damage where they do not", x=0.01, ha="left")
plots.show(fig, alt="Lines rise on scenes, astronaut and horse, not on the cat; gains fall to zero with noise, below with low contrast.")

# %% [markdown]
# On scenes the IoU rises from 0.486 to 0.581, a gain of 0.095 ± 0.024, and three scenes in four gain. Colours do it: the spatial kernel
# alone loses 0.019. Three quarters of the gain come with the very first iteration, which is little more than one bilateral filter, and
# after five hardly anything moves. If the network told the true share of every cell, the CRF would go from 0.749 to 0.888: a better
# opinion gains more.
#
# The thin parts surprise. More of them are found with the CRF than without, 35 % against 25 %, so it does not shave them off. But most
# are still missed: what the network has not seen at all, no CRF can find.
#
# The horse, black on white, gains most. The astronaut gains with four seeds and loses with one. The cat was nearly perfect before, its
# fur and the blurred room have similar colours, and the difference is within the spread.
#
# The middle and the right panel show what the CRF depends on. Noise of 0.1 in the picture takes three quarters of the gain, 0.2 all of
# it: no two pixels are alike any more. Low contrast is worse. At a tenth of the contrast all colours are alike for this $\theta_\beta$,
# the CRF paints the background over the objects, and the IoU falls by 0.32. Which scenes suffer without such tricks?

# %%
before, after = scores > 0, sharpened(images, scores, **BEST_FOR_SCENES)
change = torch.tensor([iou(a, m) - iou(b, m) for a, b, m in zip(after, before, masks)])
order = change.argsort()
cases = [(images[i], scores[i], masks[i], BEST_FOR_SCENES) for i in (order[-1], order[0], order[1])]
grainy = images[order[-1]] + 0.15 * torch.randn(images[0].shape, generator=torch.Generator().manual_seed(0)).to(images)
cases.append((grainy.clamp(0, 1), scores[order[-1]], masks[order[-1]], BEST_FOR_SCENES))
cases += [(*(photos[name][0], noisy_scores(photos[name][1], 0), photos[name][1]), BEST_FOR_PHOTOGRAPHS) for name in ("horse", "coffee")]
fig, axes = plt.subplots(3, 6, figsize=(6.9, 3.9))
titles = ["largest gain", "largest loss", "second loss", "noise 0.15", "horse", "coffee"]
for column, title, (picture, score, mask_, parameters) in zip(axes.T, titles, cases):
    labels = sharpen(picture, score, **parameters) > 0.5
    for ax, shown in zip(column, (picture.cpu(), errors(score > 0, mask_), errors(labels, mask_))):
        ax.imshow(shown.permute(1, 2, 0).clamp(0, 1))
        ax.set_axis_off()
    column[0].set_title(title, fontsize=8)
    column[1].set_title(f"network {iou(score > 0, mask_):.2f}", fontsize=8)
    column[2].set_title(f"CRF {iou(labels, mask_):.2f}", fontsize=8)
fig.suptitle("A surface takes the label that most of it had, right or wrong", x=0.01, ha="left")
plots.show(fig, alt="Six columns of picture, network and CRF: two cones repaired, objects that vanish, a speckled scene, a horse, a cup.")

# %% [markdown]
# In the best case two cones in a blob come apart and get their outlines back. In the worst cases the network was sure of a small part of
# an object only. Most of the surface was labelled background, so the CRF wipes out the rest: it makes surfaces agree, and does not ask
# which side was right. With noise the pixels are left to themselves. The horse gets its legs back, but for the hooves, and keeps some
# background near the tail. On the coffee cup the shadow goes with the dark rim of the saucer.
#
# DeepLab put this CRF in the same place in 2015: on top of a coarse map, with ten iterations and parameters chosen by cross-validation.
# As networks learned to draw outlines themselves, it was dropped: [DeepLabv3](https://arxiv.org/abs/1706.05587) of 2017 goes without.
# Where masks are coarse or drawn by hand it is still in use, and the step from here to a network that *learns* its CRF is short (topic
# 07).
#
# ### Variant card: four conventions
#
# | question | this lecture | elsewhere |
# | --- | --- | --- |
# | how is each kernel normalised? | $1 / \sqrt{D_i D_j}$, as [pydensecrf][pydense] does | not ([paper][kk11]); $1 / D_i$ ([CRF-RNN][rnn]) |
# | does a pixel hear itself? | not in the exact sums, but in the lattice | no (paper: $j \ne i$); yes (pydensecrf, CRF-RNN) |
# | Potts: price or reward? | a price of 1 for different labels | a reward of 1 for equal ones (CRF-RNN starts there) |
# | smallest probability | 0.02 | $10^{-5}$ (pydensecrf's `unary_from_softmax`); no floor (CRF-RNN) |
#
# [kk11]: https://arxiv.org/abs/1210.5644
# [rnn]: https://github.com/sadeepj/crfasrnn_keras
# [pydense]: https://github.com/lucasb-eyer/pydensecrf
#
# All of these are called "dense CRF"; pydensecrf wraps the authors' own later program. We change one thing at a time on the astronaut at
# 9,600 pixels, with cells of 32 × 32 and all pairs.
#
# **Predict first.** Which of the choices changes nothing at all? And would you notice a wrong sign in front of the pairwise term?

# %%
small, small_mask = resized("astronaut", 9_600)
kernel = bilateral_all_pairs(small, BEST_FOR_PHOTOGRAPHS["theta_alpha"], BEST_FOR_PHOTOGRAPHS["theta_beta"])
sums = kernel(torch.ones_like(small[0]))
w = BEST_FOR_PHOTOGRAPHS["w_bilateral"]


def variant(filter_, floor=0.02, sign=1, num_iterations=10):
    return mean_field_of_map(coarse_scores(small_mask, 32, floor=floor), [(sign * w, filter_)], num_iterations)[-1]


def by_reward(filter_):
    """Two labels written out, and a reward for equal ones instead of a price for different ones."""
    score = coarse_scores(small_mask, 32)
    q = score.sigmoid()
    for _ in range(10):
        q = torch.stack([w * filter_(1 - q), score + w * filter_(q)]).softmax(0)[1]
    return q


reference = variant(normalised(kernel, sums))
others = {
    "normalised after the filter": variant(lambda v: kernel(v) / sums.clamp(min=1e-20)),
    "divided by the mean of D": variant(lambda v: kernel(v) / sums.mean()),
    "not normalised": variant(kernel),
    "not normalised, weight / 100": variant(lambda v: kernel(v) / 100),
    "hears itself": variant(normalised(lambda v: kernel(v) + v, sums)),
    "lattice": variant(normalised(bilateral_lattice(small, BEST_FOR_PHOTOGRAPHS["theta_alpha"], BEST_FOR_PHOTOGRAPHS["theta_beta"]), sums)),
    "reward instead of price": by_reward(normalised(kernel, sums)),
    "wrong sign, 9 iterations": variant(normalised(kernel, sums), sign=-1, num_iterations=9),
    "wrong sign, 10 iterations": variant(normalised(kernel, sums), sign=-1),
    "floor 1e-5": variant(normalised(kernel, sums), floor=1e-5),
    "floor 0.2": variant(normalised(kernel, sums), floor=0.2),
}
print(f"{'coarse':28s} IoU {iou(coarse_scores(small_mask, 32) > 0, small_mask):.3f}")
print(f"{'reference':28s} IoU {iou(reference > 0.5, small_mask):.3f}")
for name, q in others.items():
    equal, apart = ((q > 0.5) == (reference > 0.5)).float().mean(), (q - reference).abs()
    print(f"{name:28s} IoU {iou(q > 0.5, small_mask):.3f}, equal labels {equal:6.1%}, "
          f"difference: mean {apart.mean():.3f}, largest {apart.max():.2f}")

# %% [markdown]
# Price or reward is the same: the two differ by a constant for all labels, which the normalisation removes. Hearing itself changes next
# to nothing here, and neither does the lattice. The ways to normalise differ in up to three labels of a hundred, and what they need is
# another weight: the plain kernel, divided by 100, is too weak where few pixels are alike, and its IoU falls below the coarse one. A
# floor of $10^{-5}$ instead of 0.02 does little, a floor of 0.2 most of all: now the network is never sure and the picture may overrule
# it everywhere, which happens to help. Whatever we change, single probabilities differ by nearly 1 in most rows, labels and means do not.
#
# And the wrong sign is a trap. Each iteration turns the answer upside down, so after ten iterations it looks nearly right, and after nine
# everything is inverted. Look at one iteration before you look at ten. Another one: who wants to watch $F$ should compute it.
# `klDivergence` in pydensecrf, as we read it, leaves out $\log Z$, so it can be negative, and counts every pair from both ends.
#
# ## What to take along
#
# A CRF gives every labeling an energy, from the network's opinion of each pixel and a price for each pair, and in a fully connected one
# two Gaussian kernels of place and colour decide how much each pair counts. Mean field looks for the closest product of independent
# pixels in the sense of $\operatorname{KL}(Q \,\|\, P)$: filter, compatibility, normalise, which never raises the free energy one pixel
# at a time and may oscillate all at once. It commits to one mode and is overconfident, but its labels are useful, and with splatting,
# blurring and slicing their cost grows with the pixels and not with the pairs. The result follows the colours: outlines where colours
# tell objects apart, damage where they do not.
#
# **Now the lab:** [crf_mean_field.ipynb](../labs/06_crf_mean_field/crf_mean_field.ipynb). There you build energy, kernels, mean field and
# the refinement of a photograph for any number of labels.
#
# **Open questions**
#
# 1. *Show* that adding the same constant to all entries of the compatibility $\mu$ changes no update, for any number of labels.
# 2. *Predict, then compute:* three pixels in a ring that all want to be different (`pairwise` $-3$, no scores). Which marginals does
#    `exact` find, which does `settle` find, and from where?
# 3. *Change and explain:* in `parallel`, take the mean of the old and the new $q$. Does the chessboard still flicker? Does $F$ still
#    rise?
# 4. *Show* with the eigenvalues of `neighbours` on the grid of 16 × 16 that a self term of 4 is enough for the guarantee. Would 2 be?
