# %% [markdown]
# # SimCLR
#
# Labels are expensive, images are not. Can a network learn what images have in common when nobody says what they show? SimCLR shows it
# two altered copies of every image and asks one question, over and over: which two belong together?
#
# **After this lecture you can** say which images should be close, and who decides that; write the loss NT-Xent as a classification with
# $2N - 1$ classes; derive what the temperature does to hard negatives; say what a batch size, a projection head and a colour jitter are
# good for; recognise collapse in a loss, in two numbers and in a spectrum; and judge features without fooling yourself.
#
# **You need** [lecture 01](01_convolution_arithmetic.ipynb), gradients, and the cross entropy of a classifier. **Time:** about 90
# minutes.
#
# **Sources**
#
# - Chen, Kornblith, Norouzi and Hinton, [A simple framework for contrastive learning of visual
#   representations](https://arxiv.org/abs/2002.05709) (SimCLR), ICML 2020: section 2, algorithm 1; sections 3 to 5 for the ablations.
# - Sohn, [Improved deep metric learning with multi-class N-pair loss
#   objective](https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective), NIPS 2016.
# - Wu, Xiong, Yu and Lin, [Unsupervised feature learning via non-parametric instance
#   discrimination](https://arxiv.org/abs/1805.01978), CVPR 2018.
# - van den Oord, Li and Vinyals, [Representation learning with contrastive predictive coding](https://arxiv.org/abs/1807.03748) (CPC),
#   2018: the loss InfoNCE.
# - Wang and Isola, [Understanding contrastive representation learning through alignment and uniformity on the
#   hypersphere](https://arxiv.org/abs/2005.10242), ICML 2020.
# - Wang and Liu, [Understanding the behaviour of contrastive loss](https://arxiv.org/abs/2012.09740), CVPR 2021: the temperature.
# - Jing, Vincent, LeCun and Tian, [Understanding dimensional collapse in contrastive self-supervised
#   learning](https://arxiv.org/abs/2110.09348), ICLR 2022.
# - Khosla et al., [Supervised contrastive learning](https://arxiv.org/abs/2004.11362), NeurIPS 2020.
# - Yeh et al., [Decoupled contrastive learning](https://arxiv.org/abs/2110.06848) (DCL), ECCV 2022.

# %% tags=["setup"]
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from course_lib import datasets, measurements, plots, repro, scenes

# %%
full = repro.profile() == "full"  # COURSE_PROFILE=full: more scenes and draws; the long trainings are in the lab
NUM_SCENES = 400 if full else 60
NUM_DRAWS = 200 if full else 20  # of random batches
torch.set_num_threads(1)  # for tensors as small as these, two threads wait for each other longer than they work

# %% [markdown]
# ## Which images should be close?
#
# A useful network turns images into vectors, its **features**, so that images of the same thing are close. Pixels are vectors too. How
# good are they? Take a handwritten digit and move it by one pixel to the right. Any person says: the same digit. Compare its distance to
# its own moved copy with its distance to the nearest image of **another** digit.
#
# **Predict first.** For how many of the 1,797 digits is some other digit nearer than the digit's own copy?

# %%
# NBVAL_CHECK_OUTPUT
digits, labels = datasets.digits()
moved = F.pad(digits, (1, 0))[:, :, :, :-1]  # one pixel to the right
to_copy = (digits - moved).flatten(1).norm(dim=1)  # (1797,)
to_others = torch.cdist(digits.flatten(1), digits.flatten(1))
to_others[labels[:, None] == labels] = math.inf
print(f"another digit is nearer than the own copy: {(to_others.amin(1) < to_copy).float().mean():.1%}")

# %%
worst = (to_copy - to_others.amin(1)).argsort(descending=True)[[0, 2, 5]]
pictures, titles = [], []
for i in worst.tolist():
    j = to_others[i].argmin().item()
    pictures += [digits[i], moved[i], digits[j]]
    titles += [f"a {labels[i]}", f"moved: {to_copy[i]:.1f}", f"a {labels[j]}: {to_others[i, j]:.1f}"]
fig = plots.image_row(pictures, titles, height=1.0)
fig.suptitle("In pixels, other digits are nearer than the same digit one step aside", x=0.01, ha="left", fontsize=10)
plots.show(fig, alt="Three triples: a digit, its copy moved by one pixel, and another digit that is nearer to it in pixels.")

# %% [markdown]
# For practically every digit. Pixels know nothing of what stays the same. Who could tell a network that moving does not matter, without
# labels? We can: by making the moved copy ourselves. An alteration that keeps the meaning is called an **augmentation**, an altered copy
# is a **view**, and two views of one image are a **positive pair**. All other images are **negatives**. That is the whole supervision:
# what the augmentations change, the features should forget; what tells images apart in spite of them, the features should keep.
#
# So the choice of augmentations is a choice of meaning. Moving a 6 is harmless, turning it by 180° makes a 9. SimCLR's two most important
# ones are a random crop, brought back to the full size, and a random change of the colours. You will build both in the lab. Here we use
# simpler ones: a window of fixed size, and one random factor for each colour channel.


# %%
def window(images, side, generator):
    """A random square of side x side pixels of each image, (N, C, side, side)."""
    height, width = images.shape[2:]
    tops = torch.randint(height - side + 1, (len(images),), generator=generator).tolist()
    lefts = torch.randint(width - side + 1, (len(images),), generator=generator).tolist()
    return torch.stack([image[:, top : top + side, left : left + side] for image, top, left in zip(images, tops, lefts)])


def tinted(images, strength, generator):
    """Each colour channel of each image times a factor of its own, from 1 - strength to 1 + strength, cut off at 1."""
    factors = 1 + strength * (2 * torch.rand(len(images), 3, 1, 1, generator=generator) - 1)
    return (images * factors).clamp(max=1)


generator = torch.Generator().manual_seed(0)
photographs = [datasets.photograph(name)[None] for name in ("astronaut", "cat", "coffee", "flower")]
pairs = [tinted(window(photo, 230, generator), 0.5, generator)[0] for photo in photographs for _ in range(2)]
fig = plots.image_row(pairs, ["a", "a", "b", "b", "c", "c", "d", "d"], height=1.1)
fig.suptitle("Two views of a photograph: other parts, other colours, one thing", x=0.01, ha="left", fontsize=10)
plots.show(fig, alt="Eight square windows, two each of a portrait, a cat, a cup and a flower; parts and tints differ within each pair.")

# %% [markdown]
# ## One question, 2N − 1 answers
#
# Draw $N$ images and make two views of each. An **encoder** turns the $2N$ views into features, a small **projection head** turns
# features into embeddings $z_1, \ldots, z_{2N}$. Only their directions count. With $p(i)$ the other view of the same image, the question
# for number $i$ is: *which of the $2N - 1$ others is $p(i)$?* The score of candidate $k$ is the cosine of the angle between $z_i$ and
# $z_k$, divided by a **temperature** $\tau$. A softmax over the candidates and the cross entropy of the right answer give the loss of
# SimCLR,
#
# $$\ell_i = -\log \frac{e^{s_{i,p(i)}}}{\sum_{k \ne i} e^{s_{ik}}}, \qquad s_{ik} = \frac{\cos(z_i, z_k)}{\tau}, \qquad
# L = \frac{1}{2N} \sum_{i=1}^{2N} \ell_i .$$
#
# It is called **NT-Xent**: normalised, temperature-scaled cross entropy. "Classification" is not a manner of speaking. We check it on a
# smaller sibling, embeddings in two dimensions: then each one is an angle on a ring, and the cosine is that of a difference of angles.
# Once we follow the formula term by term, and once we hand a list of $2N - 1$ scores and the place of the right one to PyTorch's cross
# entropy.

# %%
# NBVAL_CHECK_OUTPUT
def formula(angles, partner, temperature):
    """NT-Xent of embeddings on a ring, term by term."""
    total = 0.0
    for i, j in enumerate(partner):
        scores = [math.cos(angles[i] - angles[k]) / temperature for k in range(len(angles))]
        total -= math.log(math.exp(scores[j]) / sum(math.exp(s) for k, s in enumerate(scores) if k != i))
    return total / len(angles)


def classification(angles, partner, temperature):
    """The same as 2N questions with 2N - 1 possible answers each."""
    losses = []
    for i, j in enumerate(partner):
        candidates = [k for k in range(len(angles)) if k != i]
        logits = torch.tensor([math.cos(angles[i] - angles[k]) for k in candidates], dtype=torch.float64) / temperature
        losses.append(F.cross_entropy(logits, torch.tensor(candidates.index(j))))
    return torch.stack(losses).mean().item()


angles, partner = [0.1, 2.0, 3.9, 0.4, 1.8, 5.5], [3, 4, 5, 0, 1, 2]  # three images; first views 0 to 2, second views 3 to 5
for temperature in (1.0, 0.5, 0.1):
    a, b = formula(angles, partner, temperature), classification(angles, partner, temperature)
    print(f"temperature {temperature}: loss {a:.6f}, the same as a classification to 1e-12: {abs(a - b) <= 1e-12 * a}")

# %% [markdown]
# The idea is older than SimCLR. Sohn's **N-pair loss** (2016) has one positive and $N - 1$ negatives for each anchor. Wu et al. (2018)
# make every image a class of its own and keep the features of all images in a memory. CPC (2018) calls the loss **InfoNCE** and shows
# that $\log N$ minus the loss, with $N$ candidates, is a lower bound on the mutual information of the two views. SimCLR takes the
# negatives from the batch, and from both views.
#
# ### What the loss says when nothing is learned
#
# **Predict first.** All embeddings are the same vector. What is the loss of a batch of 4 images? Of 4,096? Does the temperature matter?

# %%
# NBVAL_CHECK_OUTPUT
for num_images in (4, 16, 64):
    alike, partners = [0.7] * (2 * num_images), [(i + num_images) % (2 * num_images) for i in range(2 * num_images)]
    values = [formula(alike, partners, temperature) for temperature in (1.0, 0.1)]
    print(f"N = {num_images:2d}: loss {values[0]:.4f} and {values[1]:.4f}, log(2N - 1) = {math.log(2 * num_images - 1):.4f}")
print(f"N = 4096: log(2N - 1) = {math.log(8191):.4f}")

# %% [markdown]
# All candidates have equal scores, so each gets the share $1 / (2N - 1)$: the loss is $\log (2N - 1)$ at every temperature. This number
# is the first thing to look at in a training log. A loss that stays there means **collapse**: the network answers the same for
# everything. A loss above it is worse than that: the network is sure of wrong partners. Losses of different batch sizes cannot be
# compared without it.
#
# ## Temperature: who is pushed away?
#
# What does a step do with candidate $k$? Let $P_{ik} = e^{s_{ik}} / \sum_{m \ne i} e^{s_{im}}$ be its share in the softmax. The loss is
# $\ell_i = -s_{i,p(i)} + \log \sum_{k \ne i} e^{s_{ik}}$, and its derivative by a cosine $c_{ik} = \tau s_{ik}$ is
#
# $$\frac{\partial \ell_i}{\partial c_{i,p(i)}} = -\frac{1}{\tau} \left(1 - P_{i,p(i)}\right), \qquad
# \frac{\partial \ell_i}{\partial c_{ik}} = \frac{1}{\tau} P_{ik} \quad \text{for a negative } k .$$
#
# So the pull on the positive is as strong as the push on all negatives together, and each negative gets a part in proportion to
# $e^{c_{ik} / \tau}$. A negative with a large cosine is a **hard** one. Wang and Liu call the loss *hardness-aware*; the temperature says
# how much.
#
# **Predict first.** One negative has a cosine of 0.9, another one of 0.5. How many times as strong is the first one pushed at $\tau = 1$?
# And at $\tau = 0.1$?

# %%
# NBVAL_CHECK_OUTPUT
cosines = torch.tensor([0.8, 0.9, 0.5, 0.0, -0.5, -0.9], dtype=torch.float64, requires_grad=True)  # the positive first, then five negatives
for temperature in (1.0, 0.5, 0.1, 0.02):
    (slope,) = torch.autograd.grad(F.cross_entropy(cosines[None] / temperature, torch.tensor([0])), cosines)
    shares = (cosines / temperature).softmax(0).detach()
    expected = shares / temperature - F.one_hot(torch.tensor(0), 6) / temperature
    push = slope[1:] / slope[1:].sum()
    print(f"temperature {temperature}: parts of the push {[round(p, 3) for p in push.tolist()]}, 0.9 over 0.5: {slope[1] / slope[2]:.3g}, "
          f"as derived: {torch.allclose(slope, expected, rtol=1e-12)}")

# %% [markdown]
# At $\tau = 1$ the hardest negative is pushed 1.5 times as strongly as one at 0.5, at $\tau = 0.1$ 55 times, and at 0.02 it gets
# everything: the loss becomes a triplet loss with the nearest negative. That looks like a virtue, as easy negatives teach nothing. But
# who is the nearest negative? Often another image of the same thing. Wang and Liu call this the *uniformity-tolerance dilemma*. We look
# for it among the digits, in pixels: how often is the nearest other image of the same class?

# %%
# NBVAL_CHECK_OUTPUT
unit = F.normalize((digits - digits.mean(0)).flatten(1).double(), dim=1)
cosines = (unit @ unit.T).fill_diagonal_(-math.inf)  # (1797, 1797)
same = labels[:, None] == labels
print(f"of all negatives, {(same.sum() - len(digits)) / (len(digits) * (len(digits) - 1)):.1%} have the same class")
for temperature in (1.0, 0.5, 0.1, 0.02):
    push = (cosines / temperature).softmax(1)
    print(f"temperature {temperature}: they get {(push * same).sum(1).mean():.1%} of the push")

# %% [markdown]
# In a data set of ten classes one negative in ten is a **false negative**: another image of the same class. In these features they get
# 22 % of the push at $\tau = 0.5$ and 83 % at 0.1, because they are the near ones. A low temperature tears classes apart into single
# images; a high one hardly looks at what is difficult. The best value lies between, and depends on the data. (With labels one would take
# them out of the denominator, or make them positives, as Khosla et al. do; you will do the first in the lab.)
#
# Play with it. The anchor sits at 0° of a ring, the positive and seven negatives around it. Arrows show where a step of descent pushes.
#
# **Predict first**, then try:
#
# 1. Draw the temperature from 1 down to 0.05. Which arrows vanish first?
# 2. Move the one free negative onto the positive. What is the loss then at a low temperature?
# 3. Put the positive at 0°. At which temperature does the anchor still feel its negatives?

# %%
from course_lib import explore

explore.contrastive.show()

# %% [markdown]
# The explorer needs a running kernel. These three frames stand for it where there is none.

# %%
plots.show(explore.contrastive.strip(), alt="""A ring with an anchor, its positive and seven negatives, and bars of their shares, three
    times: at temperature 1 all negatives are pushed, at 0.3 the near ones, at 0.1 almost only the nearest.""")

# %% [markdown]
# ## Batch size: how many candidates?
#
# A larger batch makes the question harder. Is a network that names the partner among 7 others as good as one that names it among 511? We
# leave the network out and use pixels: two windows of 7 × 7 pixels of each digit, as they are, are the embeddings.
#
# **Predict first.** How often is the partner the nearest candidate, for $N = 4$ and for $N = 256$? And how does the loss minus
# $\log (2N - 1)$ change?

# %%
def questions(num_images, temperature, generator):
    """A random batch of digits: how often the partner is the nearest, the loss, and the largest cosine of a negative."""
    batch = digits[torch.randperm(len(digits), generator=generator)[:num_images]]
    views = torch.cat([window(batch, 7, generator) for _ in range(2)]).flatten(1)
    views = F.normalize(views - views.mean(0), dim=1)
    gap = torch.eye(2 * num_images).bool()  # nobody is a candidate for itself
    cosines = (views @ views.T)[~gap].view(2 * num_images, -1)  # (2N, 2N - 1): row i has lost its own column i
    first, second = torch.arange(num_images) + num_images - 1, torch.arange(num_images)
    target = torch.cat([first, second])  # the partner's column, counted without the gap
    hardest = cosines.scatter(1, target[:, None], -1.0).amax(1).mean()
    found = (cosines.argmax(1) == target).float().mean()
    return torch.stack([found, F.cross_entropy(cosines / temperature, target), hardest])


sizes = [4, 16, 64, 256]
results = torch.stack([torch.stack([questions(n, 0.2, torch.Generator().manual_seed(seed)) for n in sizes]) for seed in range(NUM_DRAWS)])
for n, mean, spread in zip(sizes, results.mean(0), results.std(0)):
    print(f"N = {n:3d}: partner found {mean[0]:.2f} ± {spread[0]:.2f}, loss {mean[1]:.2f} ± {spread[1]:.2f}, "
          f"minus log(2N - 1) {mean[1] - math.log(2 * n - 1):.2f}, hardest negative {mean[2]:.2f}")
assert results.mean(0)[0, 0] > results.mean(0)[-1, 0]

# %% [markdown]
# With more candidates the partner is found less often, with the same embeddings: 0.51 against 0.26. The nearest negative comes nearer,
# from a cosine of 0.16 to one of 0.80, so a large batch is a supply of hard negatives. The loss grows about as $\log (2N - 1)$: the
# difference settles near $-1$. Wang and Isola prove that it has a limit for many negatives, which splits into a term for the partners and
# one for the spread of all; we meet both below.
#
# SimCLR compares batches of 256 to 8,192 and takes 4,096. Large ones are ahead in short trainings, less so in long ones. Whether it shows
# in small networks is a question for the measurement below. Yeh et al. trace a part of the effect to the positive in the denominator;
# that is a row of the variant card.
#
# ## A shortcut: the colour histogram
#
# The network answers the question by whatever is easiest. Two windows of one photograph have nearly the same colours, two photographs do
# not. So here is a contestant that sees no shapes at all: its embedding is the histogram of each colour channel, 8 bins each. It plays
# the game with $2N - 1$ candidates on rendered scenes, with tints of growing strength.
#
# **Predict first.** With 60 scenes there are 119 candidates, and guessing is right in 1 case of 119. How often does the histogram find
# the partner without any tint? And with factors from 0.2 to 1.8?

# %%
def histograms(images, bins=8):
    """(N, 3 * bins): the share of each channel's values in each bin."""
    which = (images * bins).long().clamp(max=bins - 1)  # (N, 3, H, W)
    return F.one_hot(which, bins).float().mean((2, 3)).flatten(1)


def partner_found(embeddings):
    """How often the nearest other embedding is the partner, for first views above second views."""
    distances = torch.cdist(embeddings, embeddings, p=1).fill_diagonal_(math.inf)
    partners = torch.arange(len(embeddings)).roll(len(embeddings) // 2)
    return (distances.argmin(1) == partners).float().mean().item()


pictures = scenes.render(scenes.sample(NUM_SCENES, seed=5, num_objects=(1, 1), clutter=0.0), 32).images
strengths, found = [0.0, 0.2, 0.4, 0.6, 0.8], []
for strength in strengths:
    draws = []
    for seed in range(NUM_DRAWS):
        generator = torch.Generator().manual_seed(seed)
        views = torch.cat([tinted(window(pictures, 20, generator), strength, generator) for _ in range(2)])
        draws.append(partner_found(histograms(views)))
    found.append(torch.tensor(draws))
    print(f"tint {strength}: partner found {found[-1].mean():.1%} ± {found[-1].std():.1%}")
assert found[0].mean() > 5 * found[-1].mean()

# %%
fig, ax = plt.subplots(figsize=(5.4, 3.2))
plots.mean_curve(ax, strengths, torch.stack(found, 1), label="colour histogram")
ax.axhline(1 / (2 * NUM_SCENES - 1), color="0.4", linestyle="--", label="guessing")
ax.set(title="Without a tint, colours alone give the answer away", xlabel="strength of the tint", ylabel="partner found", ylim=(0, 1))
ax.legend()
plots.show(fig, alt="The share of partners that a colour histogram finds falls steeply with the strength of the tint, towards guessing.")

# %% [markdown]
# Without a tint the histogram finds 79 % of the partners: there is nothing left to learn about shapes. A tint of 0.2 takes it to 18 %,
# one of 0.8 to 2 %, near guessing. Chen et al. found this in their histograms too, and their table of pairs of augmentations says the
# same: crop and colour distortion together are far ahead of either alone. A shortcut is not a fault of the network. It solves the task
# that was set.
#
# ## Does it learn? The curve
#
# Now the real thing: crops and colours drawn for each image, an encoder of three convolutions (8, 16 and 32 channels), a head, NT-Xent at
# $\tau = 0.2$ with batches of 64 images. All this is the lab's code, and the numbers were measured there with five seeds: on digits of
# 8 × 8 pixels and on scenes of 16 × 16 pixels, each with one sphere, box, cylinder, cone or figure. Training images have no labels. After
# the training the encoder is frozen and judged by two **probes** that may use labels: *kNN*, the majority of the five nearest training
# images, and *linear*, a logistic regression on the features.
#
# The contestants: the same encoder untrained (step 0), the raw pixels, and the same encoder trained *with* all labels on the same views
# for as many steps, the supervised bound.
#
# **Predict first.** How good are random features? And who wins on digits, the trained features or the pixels?

# %%
records = measurements.load("23_simclr", "curve")


def measured(what):
    """(seeds,) stored numbers of the curve."""
    return torch.tensor([record[what] for record in records], dtype=torch.float64)


steps = sorted(int(key.split(", ")[-1]) for key in records[0] if key.startswith("digits, seconds"))
for name in ("digits", "scenes"):
    print(f"{name}, test accuracy, {len(records)} seeds, {measured(f'{name}, seconds, {steps[-1]}').mean():.1f} seconds of one core")
    for what in ("kNN", "linear", "linear, 10 labels"):
        line = [f"{measured(f'{name}, {what}, {step}').mean():.3f} ± {measured(f'{name}, {what}, {step}').std():.3f}" for step in steps]
        print(f"  {what:26s} after {', '.join(map(str, steps))} steps: {', '.join(line)}")
    for what in ("pixels, kNN", "pixels, linear", "pixels, linear, 10 labels", "supervised", "supervised, 10 labels"):
        print(f"  {what:26s} {measured(f'{name}, {what}').mean():.3f} ± {measured(f'{name}, {what}').std():.3f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.4))
for ax, name in zip(axes, ("digits", "scenes")):
    for what, color in [("linear", plots.OURS), ("kNN", plots.REFERENCE)]:
        runs = torch.stack([measured(f"{name}, {what}, {step}") for step in steps], 1)  # (5 seeds, steps)
        plots.mean_curve(ax, steps, runs, label=what, color=color)
        ax.axhline(measured(f"{name}, pixels, {what}").mean(), color=color, linestyle=":", label=f"{what} on pixels")
    ax.axhline(measured(f"{name}, supervised").mean(), color="black", linestyle="--", label="supervised")
    ax.set(title=name, xlabel="steps without labels", ylabel="test accuracy")
axes[1].legend(fontsize=8)
fig.suptitle("Ahead of the pixels on scenes, not on digits, and behind all labels on both", x=0.01, ha="left")
plots.show(fig, alt="""Test accuracy of two probes against steps without labels: on scenes both pass the pixels, on digits kNN stays
    under them; a supervised network is ahead on scenes.""")

# %% [markdown]
# **It works, within limits.** On scenes the linear probe goes from 0.473 (random features) to 0.683: past the pixels (0.570), and two
# thirds of the way to the network that was trained on all labels (0.790). With ten labels a class it is better still in comparison:
# 0.621 against 0.466 on pixels and 0.606 for the same network trained on the ten labels, which is about the same.
#
# On digits the pixels are hard to beat. The linear probe ends at 0.969, pixels have 0.964, and the difference is within the spread. kNN
# on pixels has 0.989: more than the features, and more than the supervised network in this budget. With ten labels a class the features
# have 0.801, pixels 0.766, the supervised network 0.797. All images of digits are centred and of one size, so there is little for the
# augmentations to teach.
#
# By the middle of the run, which takes some 5 seconds, nearly all of the gain is there. Chen et al. train for up to 1,000 epochs on
# ImageNet, and longer training still helps there. The probes here see 359 and 500 test images, so a single accuracy is uncertain by one
# to two points, whatever the spread of the seeds says.
#
# ## Alignment and uniformity
#
# What changes inside? Wang and Isola split the aim of the loss into two numbers, both of unit vectors:
#
# $$\text{alignment} = \mathbb{E}_{\text{pairs}} \lVert z - z^+ \rVert^2, \qquad
# \text{uniformity} = \log \mathbb{E}_{i \ne j}\, e^{-2 \lVert z_i - z_j \rVert^2} .$$
#
# Alignment is 0 when the views of each image agree. Uniformity is 0 when all embeddings are one, and falls as they spread over the
# sphere. Each is easy alone: a constant is perfectly aligned, noise is uniform. On a ring we can see how low uniformity gets, as $\lVert
# a - b \rVert^2 = 2 - 2 \cos(\alpha - \beta)$.
#
# **Predict first.** In which order will the training improve them: partners together first, or everything apart first?

# %%
# NBVAL_CHECK_OUTPUT
for name, share in [("all alike", 0.0), ("half a ring", 0.5), ("a whole ring", 1.0)]:
    pairs = torch.combinations(share * 2 * math.pi * torch.arange(200, dtype=torch.float64) / 200)  # (19900, 2) angles
    squared = 2 - 2 * torch.cos(pairs[:, 0] - pairs[:, 1])
    print(f"{name:12s} uniformity {torch.exp(-2 * squared).mean().log():.3f}")
anywhere = F.normalize(torch.randn(1000, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1)
squared = F.pdist(anywhere).square()
print(f"random directions in 32 dimensions: uniformity {torch.exp(-2 * squared).mean().log():.2f}")

# %%
fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.3))
for ax, name in zip(axes, ("digits", "scenes")):
    both = [[measured(f"{name}, {what}, {step}") for step in steps] for what in ("alignment", "uniformity")]
    path = torch.stack([torch.stack(values) for values in both])  # (2, steps, seeds)
    for seed in range(path.shape[2]):
        ax.plot(*path[:, :, seed], color="0.7", linewidth=1)
    ax.plot(*path.mean(2), "o-", color=plots.OURS)
    for step, (x, y) in zip(steps, path.mean(2).T.tolist()):
        ax.annotate(f" {step}", (x, y), fontsize=9)
    ax.set(title=name, xlabel="alignment (0: partners agree)", ylabel="uniformity (low: spread)")
fig.suptitle("First the partners come together, then all move apart, then both at once", x=0.01, ha="left")
plots.show(fig, alt="""Paths of five trainings in the plane of alignment and uniformity: first to the left, then down, then slowly to
    the lower left.""")
for name in ("digits", "scenes"):
    for what in ("alignment", "uniformity", "loss"):
        line = [f"{step}: {measured(f'{name}, {what}, {step}').mean():.3f}" for step in steps]
        print(f"{name}, {what:10s} {', '.join(line)}")

# %% [markdown]
# The order is the same on both data sets. In the first 20 steps the partners come together, while the spread hardly changes; on scenes
# it even shrinks. Moving everything to one side is the quickest way to agree. Then the negatives win: everything moves apart, and the
# partners of scenes move apart a little as well. From step 80 on both numbers improve together. After 640 steps uniformity is $-3.2$,
# not far from the $-3.75$ of random directions in 32 dimensions, and the loss has gone from about $\log 127 = 4.84$ to 2.2 and 2.4.
# These two numbers need no labels. But they say nothing about the task: of the four runs compared below, the one without augmentation
# has the best uniformity.
#
# ## One change at a time
#
# Which parts matter? The same encoder on scenes, judged on validation images: no colour jitter, no crop, other temperatures, a quarter
# and four times the batch (with four times and a quarter of the steps, so that every row sees as many images), and no head at all.
# *Dimensions* is the effective number of dimensions that the features use: $e$ to the entropy of their spectrum. We come to it in a
# moment.
#
# **Predict first.** Which single change costs most? And is a batch four times as large better?

# %%
ablations = measurements.load("23_simclr", "ablations")


def row_of(row, what):
    """(seeds,) stored numbers of one row of the table."""
    return torch.tensor([record[f"{row}, {what}"] for record in ablations], dtype=torch.float64)


rows = [key.removesuffix(", kNN") for key in ablations[0] if key.endswith(", kNN")]
print(f"{'':17s} {'kNN':>14s} {'linear':>14s} {'against as it is':>17s}  seeds worse  dimensions")
for row in rows:
    knn, linear = row_of(row, "kNN"), row_of(row, "linear")
    change = linear - row_of("as it is", "linear")
    print(f"{row:17s}  {knn.mean():.3f} ± {knn.std():.3f}  {linear.mean():.3f} ± {linear.std():.3f}  {change.mean():+.3f} ± "
          f"{change.std():.3f}     {(change < 0).sum():2d} of {len(change)}   {row_of(row, 'dimensions').mean():6.1f}")

# %% [markdown]
# **The crop is nearly everything.** Without it the probe falls by 0.156, to the level of an untrained network. Without the jitter it
# loses 0.022, and kNN 0.056, with all five seeds: the scenes' colours are a shortcut, though not a complete one. In the paper both
# matter more, and only together do they work well.
#
# **Temperature.** Among 0.1, 0.2, 0.5 and 1 the linear probe prefers the low ones, but 0.1 and 0.2 differ by less than their spread.
# The features use fewer dimensions the higher the temperature is, 7.6 to 4.7: a weak push spreads less.
#
# **Batch size: not as in the paper.** A batch four times as large is *worse* by 0.041 here, with all seeds. All rows see 10,240 images,
# and a large batch takes 40 steps for them where a small one takes 640. In so short a run steps are worth more than negatives. (A
# quarter of the batch gains 0.021 ± 0.037: not more than the spread.) Do not carry this over to long trainings, and do not quote the
# paper's 4,096 for short ones.
#
# ### Why is the head thrown away?
#
# The last layers before the loss have to forget whatever the augmentations change: colour, position, size. If the features themselves
# were compared, they would have to forget it too, and a later task may need it. So SimCLR puts a small network between, the head, and
# uses what comes **before** it. On ImageNet the features before a non-linear head are more than 10 % better than those after it (Chen et
# al., section 4.2).
#
# Here we see half of that. Training without a head costs 0.023 ± 0.021, with four of five seeds. But after the head the linear probe is
# only 0.013 worse than before it, and kNN is even better, 0.565 against 0.544. The likely reason: our classes are shapes, and
# everything that the views change (colour, brightness, place) is noise for them. What the head forgets, this task does not need. A task
# such as "which colour?" would tell.
#
# ## Three ways to fail
#
# We break the training on purpose. *Without negatives*: the loss is only minus the cosine of partners. *Without augmentation*: both views
# are the image itself. And with the *strongest views*: crops from 2 % of the area on, colours at full strength. All are judged with the
# usual views of validation images, in batches of 64, so that the loss of a collapsed network is $\log 127 = 4.844$.
#
# **Predict first.** Which of the three will show a loss at its minimum during training, and which one near $\log 127$ afterwards?

# %%
broken = measurements.load("23_simclr", "collapse")


def of_way(way, what):
    """(seeds,) stored numbers of one way to train."""
    return torch.tensor([record[f"{way}, {what}"] for record in broken], dtype=torch.float64)


ways = [key.removesuffix(", alignment") for key in broken[0] if key.endswith(", alignment")]
for what in ("training loss", "loss", "alignment", "uniformity", "variance", "dimensions", "kNN", "linear"):
    print(f"{what:14s}", "   ".join(f"{way}: {of_way(way, what).mean():6.3f} ± {of_way(way, what).std():.3f}" for way in ways))
print(f"log(2N - 1) for N = 64: {math.log(127):.3f}")

# %%
fig, ax = plt.subplots(figsize=(6.4, 3.6))
axis_numbers = range(1, 1 + sum(key.startswith("NT-Xent, axis") for key in broken[0]))
for way, color in zip(ways, ("C0", "C3", "C2", "C1")):
    spectra = torch.stack([of_way(way, f"axis {k - 1}") for k in axis_numbers], 1)  # (5 seeds, 32)
    plots.mean_curve(ax, axis_numbers, (spectra + 1e-9).log10(), label=way, color=color)
ax.set(title="Strong views leave a handful of dimensions, no augmentation nearly all", ylim=(-7, 0))
ax.set(xlabel="principal axis of the embeddings", ylabel="log10 of the share of variance")
ax.legend(fontsize=8)
plots.show(fig, alt="Spectra of embeddings: nearly flat without augmentation, falling for NT-Xent, steepest for the strongest views.")

# %% [markdown]
# - **No negatives.** The training loss is $-4.99$, all but the smallest possible value of $-1 / 0.2 = -5$: the training "works".
#   NT-Xent of the result is 4.842, at $\log 127$ to three digits. Alignment 0.002, uniformity $-0.006$, total variance 0.001: one
#   point. (What is left of it has 13 dimensions, of nothing: look at the variance first, at the spectrum afterwards.) The linear probe
#   is at the level of an untrained network, 0.482 against 0.475.
# - **No augmentation.** The training loss is 0.85, far below that of real training: the partner is the image itself, so its cosine is 1
#   for any network, and only spreading remains. The embeddings use 25 of 32 dimensions and the uniformity is excellent. The features
#   are worthless, 0.484. Collapse is not the opposite of learning something useful.
# - **Strongest views.** The task is hardly solvable, the loss stays high (4.59), and the embeddings fall into 4.3 dimensions, as little
#   survives such views. The probe on the features before the head still has 0.562.
#
# ### Dimensional collapse, in the simplest network
#
# Negatives keep embeddings from falling into one point. They do not keep them from falling into a **subspace**. Jing et al. show this
# for a network that is one matrix $W$. Let $X_0$ be the covariance of differences between images and $X_1$ that of differences between
# views, both weighted by the softmax. Gradient descent moves $W$ by $W (X_0 - X_1)$: in directions where the views differ more than the
# images do, the weights shrink.
#
# We try it with six independent numbers as an "image", each of variance 1, and views that add noise of standard deviation $\sigma$ from
# 0.1 to 2. The loss is InfoNCE with minus half the squared distance as the score. A small calculation says where it should end. The
# best score is the logarithm of $p(b \mid a) / p(b)$ for the two views $a, b$ of a number; for Gaussians its term in $a b$ has the
# factor $1 / (\sigma^2 (2 + \sigma^2))$, and ours has the squared weight. So weights should settle near $1 / (\sigma \sqrt{2 +
# \sigma^2})$.
#
# **Predict first.** All rows of weights begin with length 0.6. Which will grow, and which will shrink?

# %%
noise = torch.tensor([0.1, 0.3, 0.6, 1.0, 1.4, 2.0])
generator = torch.Generator().manual_seed(0)
weights = (0.6 * torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q).requires_grad_(True)  # all rows begin with length 0.6
history = []
for step in range(601):
    images = torch.randn(128, 6, generator=generator)
    first, second = (images + noise * torch.randn(128, 6, generator=generator) for _ in range(2))
    scores = -torch.cdist(first @ weights, second @ weights).square() / 2  # (128, 128): one direction, N candidates
    (slope,) = torch.autograd.grad(F.cross_entropy(scores, torch.arange(128)), weights)
    with torch.no_grad():
        weights -= 0.1 * slope
    history.append(torch.cat([weights.detach().norm(dim=1), torch.linalg.svdvals(weights.detach())]))
history = torch.stack(history)  # (601, 12): lengths of the six rows, then six singular values

fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.2), sharey=True)
for k in range(6):
    axes[0].semilogy(history[:, k], color=plt.cm.viridis(k / 6), label=f"noise {noise[k]:.1f}")
    axes[1].semilogy(history[:, 6 + k], color="0.3")
axes[0].set(title="weights of each input", xlabel="step", ylabel="length", ylim=(0.006, 12))
axes[1].set(title="singular values of the matrix", xlabel="step")
axes[0].legend(fontsize=8, ncols=2, loc="lower left")
fig.suptitle("The more the views change an input, the less weight it gets", x=0.01, ha="left")
plots.show(fig, alt="""Lengths of six rows of weights against steps: with little noise they grow, with much they shrink; the singular
    values do the same.""")
variances = history[-1, 6:] ** 2 / (history[-1, 6:] ** 2).sum()
print("lengths at the end:", [round(v, 2) for v in history[-100:, :6].mean(0).tolist()])
print("by the calculation:", [round(v, 2) for v in (1 / (noise * (2 + noise**2).sqrt())).tolist()])
print("share of each singular value, squared:", [f"{v:.2%}" for v in variances.tolist()])
assert history[-1, 0] > 10 * history[-1, 5]

# %% [markdown]
# Inputs with little noise gain weight, the noisy ones lose it, and all end close to the calculation but the first, which is still
# rising. Nothing falls to zero here, as push and pull balance before. But the first two directions have 97 % of the squared weights,
# and the last three less than 1 %. That is **dimensional collapse**: the loss is low, the embeddings are spread, and most of their
# dimensions say hardly anything. You see it in the spectrum only. It is no defect by itself, as forgetting what the views change is the
# aim. It hurts when the views are stronger than the task allows, as in the third run above.
#
# ## Probing without fooling yourself
#
# A probe is a small training of its own, and all its choices (the temperature above, $k$, the strength of the penalty, the step to stop
# at) can leak the test set into the result. Suppose 20 settings that are in truth equally good, right in 90 % of the cases. They are
# judged on the same kind of test set as our digits, 359 images, and the best one is reported.
#
# **Predict first.** What accuracy will be reported? And with 100 settings?

# %%
generator = torch.Generator().manual_seed(0)
for settings in (1, 20, 100):
    right = torch.rand(200, settings, 359, generator=generator) < 0.9  # 200 repetitions of the whole search
    best = right.float().mean(2).amax(1)
    print(f"best of {settings:3d} equal settings on 359 images: {best.mean():.3f} ± {best.std():.3f}")
    assert settings == 1 or best.mean() > 0.92

# %% [markdown]
# Three points out of nothing. So images come in three parts: training images for the encoder and the probe, validation images for every
# choice, and test images for one number at the end. In this lecture the ablations are validation numbers, the curve is a test number at
# settings that were not chosen on test images, and the repeated runs vary the seed, not the settings. Two more rules. Compare with the
# untrained encoder and with the pixels: "90 %" says nothing when random features have 89. And give the supervised contestant the same
# augmentations: they carry knowledge about the task, whoever uses them.
#
# ## Variant card: NT-Xent and its relatives
#
# Papers and libraries write nearly the same fraction. What stands in the denominator differs, and so do the numbers.
#
# | name | candidates of one anchor | anchors | where |
# | --- | --- | --- | --- |
# | NT-Xent | all others, both views: $2N - 1$ | all $2N$, mean | SimCLR, this course |
# | with itself | all, also the anchor itself: $2N$ | all $2N$, mean | a common mistake |
# | without the positive | the $2N - 2$ negatives | all $2N$, mean | DCL |
# | one direction | the $N$ second views | the $N$ first views, mean | N-pair loss, InfoNCE of CPC |
# | two directions | the $N$ embeddings of the other view | all $2N$, mean | CLIP |
# | sum | $2N - 1$ | all $2N$, sum | some code |
#
# **Predict first.** Which of them can be negative? Which have the same gradient up to a factor? And at collapse, which values do the rows
# have for $N = 8$?

# %%
# NBVAL_CHECK_OUTPUT
N = 8
ring = torch.linspace(0, 2 * math.pi, N + 1, dtype=torch.float64)[:-1]
both = torch.cat([ring, ring + 0.25])  # the second views are a little further on
right = (torch.arange(2 * N) + N) % (2 * N)
itself, other_view = torch.eye(2 * N).bool(), (torch.arange(2 * N) < N)[:, None] != (torch.arange(2 * N) < N)
positive = torch.zeros(2 * N, 2 * N).bool().scatter(1, right[:, None], True)
anchors = torch.arange(2 * N)


def fraction(angles, candidates, anchors, temperature=0.5):
    """-log(partner / candidates) of each anchor; candidates is a mask (2N, 2N)."""
    exponentials = torch.exp(torch.cos(angles[:, None] - angles) / temperature)
    return -torch.log(exponentials[anchors, right[anchors]] / (exponentials * candidates).sum(1)[anchors])


variants = {
    "NT-Xent": lambda a: fraction(a, ~itself, anchors).mean(),
    "with itself": lambda a: fraction(a, torch.ones_like(itself), anchors).mean(),
    "without the positive": lambda a: fraction(a, ~itself & ~positive, anchors).mean(),
    "one direction": lambda a: fraction(a, other_view, anchors[:N]).mean(),
    "two directions": lambda a: fraction(a, other_view, anchors).mean(),
    "sum": lambda a: fraction(a, ~itself, anchors).sum(),
}
jittered = both + 0.3 * torch.sin(7.0 * torch.arange(2 * N, dtype=torch.float64))
jittered.requires_grad_(True)
slopes = {name: torch.autograd.grad(loss(jittered), jittered)[0] for name, loss in variants.items()}
for name, loss in variants.items():
    agreement = F.cosine_similarity(slopes[name], slopes["NT-Xent"], dim=0)
    length = slopes[name].norm() / slopes["NT-Xent"].norm()
    print(f"{name:20s} on the ring {loss(both):7.4f}, collapsed {loss(0 * both):7.4f}, "
          f"gradient {length:6.3f} times as long, cosine {agreement:.4f}")

# %% [markdown]
# The collapsed values are the logarithms of the number of candidates, 15, 16, 14 and 8: they tell you which variant a library computes.
# Only the loss without the positive can be negative, as its fraction can be larger than 1; its gradient is longer, because a partner
# found well does not dampen it (Yeh et al. call the damping *negative-positive coupling*). Counting the anchor itself adds a constant
# $e^{1/\tau}$ to each denominator, which matters more the lower the temperature is. One and two directions leave out the candidates of
# the own view; on the symmetric ring they have one value, but not one gradient. The sum has the same direction as the mean, $2N$ times
# as long: the learning rate then depends on the batch size.
#
# ## What to take along
#
# Contrastive learning asks which two of many views belong together, and what we do to the views decides what the features forget. The
# loss is a plain cross entropy over $2N - 1$ candidates; the temperature shares the push among the negatives, hard ones first, false ones
# included. $\log (2N - 1)$, alignment, uniformity and the spectrum of the embeddings tell whether and how a training has collapsed. What
# the features are worth is said by a probe beside random features, pixels and supervision, with nothing chosen on the test images.
#
# **Now the lab:** [simclr.ipynb](../labs/23_simclr/simclr.ipynb). There you build crops, colours, loss, head, probes and the training for
# real images.
#
# **Open questions**
#
# 1. *Show* that NT-Xent cannot be below $\log\left(1 + (2N - 2) e^{-2 / \tau}\right)$, and that it gets there for $N = 2$ images, but
#    not for more.
# 2. *Predict, then compute:* three images of two classes on a ring, two of them of one class. Where do their embeddings go at $\tau = 1$,
# and where at 0.05? 3. *Change and explain:* take the mean of the three channels before the histogram. How much of the shortcut is left,
# with and without a tint? Which augmentation would close it? 4. *Change and explain:* in the smallest network, make the noise of the
# first two inputs equal for both views of an image. Do they keep their weight?
